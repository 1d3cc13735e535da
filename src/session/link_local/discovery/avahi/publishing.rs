//! What the daemon announces for us: one entry group, one service in it. Pure.
//!
//! ```text
//!  nothing ── EntryGroupNew ──▶ empty ── AddService ──▶ added ── Commit ──▶ committed ⟲ UpdateServiceTxt
//!                                 ▲                        another name, or stale        │
//!                                 └────────────────────────── Reset ◀────────────────────┘
//! ```
//!
//! The record changes only once the name is ours, and [`PACE`] after it was announced: one that changes while
//! the daemon still probes for the name makes it take its own probe for somebody else's, and the name for
//! taken.
//!
//! One call at a time: what changes meanwhile is seen when it is answered. What the daemon refuses for
//! another reason than the name is tried again after [`PAUSE`].

use std::time::Duration;

use actors::runtime::Time;

use super::{
    super::responder::PACE,
    wire::{Answer, Call, Txt},
};

/// Between a refusal and the next attempt.
pub const PAUSE: Duration = Duration::from_secs(2);

const GROUP_ESTABLISHED: i32 = 2;
const GROUP_COLLISION: i32 = 3;
const GROUP_FAILURE: i32 = 4;
/// The name is one of the daemon's own already: another program of this machine has it.
const COLLISION: &str = "org.freedesktop.Avahi.CollisionError";

/// What comes of it for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The name is ours.
    Announced(String),
    /// It is somebody else's.
    Conflict(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    name: String,
    txt: Txt,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    service: Service,
    committed: bool,
    /// Since when it is announced like this, once the name is ours.
    announced_at: Option<Time>,
    /// Must be taken out and added anew.
    stale: bool,
}

impl Entry {
    /// When its record may be replaced by another one, if it has to be.
    fn changes_at(&self, wanted: &Service) -> Option<Time> {
        let at = self.announced_at? + PACE;
        (self.service.txt != wanted.txt).then_some(at)
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Publishing {
    interface: i32,
    port: u16,
    wanted: Option<Service>,
    /// Whether the daemon has its own name and can publish.
    running: bool,
    group: Option<String>,
    entry: Option<Entry>,
    busy: Option<Call>,
    retry_at: Option<Time>,
}

impl Publishing {
    /// Nothing is announced yet. On an interface, a listener on a port.
    pub fn new(interface: i32, port: u16) -> Self {
        Publishing {
            interface,
            port,
            wanted: None,
            running: false,
            group: None,
            entry: None,
            busy: None,
            retry_at: None,
        }
    }

    /// Replaces what is to be announced.
    pub fn want(&mut self, name: &str, txt: Txt) {
        self.wanted = Some(Service {
            name: name.to_owned(),
            txt,
        });
        self.retry_at = None;
    }

    /// Whether the daemon can publish. When it could not for a while, its own name may have changed,
    /// to which our record points.
    pub fn set_running(&mut self, running: bool) {
        if running
            && !self.running
            && let Some(entry) = &mut self.entry
        {
            entry.stale = true;
        }
        self.running = running;
    }

    /// The daemon is gone, and what it had with it.
    pub fn lost(&mut self) {
        *self = Publishing {
            wanted: self.wanted.take(),
            ..Publishing::new(self.interface, self.port)
        };
    }

    /// The group, to be freed at the end.
    pub fn group(&self) -> Option<&String> {
        self.group.as_ref()
    }

    /// When to look again.
    pub fn next_deadline(&self) -> Option<Time> {
        if !self.running || self.busy.is_some() {
            return None;
        }
        let changes = match (&self.entry, &self.wanted) {
            (Some(entry), Some(wanted)) => entry.changes_at(wanted),
            _ => None,
        };
        self.retry_at.or(changes)
    }

    /// The next call, if one is due. It is taken to be sent.
    pub fn next_call(&mut self, now: Time) -> Option<Call> {
        if self.busy.is_some() || !self.running || self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        self.retry_at = None;
        let wanted = self.wanted.as_ref()?;
        let Some(group) = self.group.clone() else {
            self.busy = Some(Call::NewGroup);
            return self.busy.clone();
        };
        let (interface, name, txt) = (self.interface, wanted.name.clone(), wanted.txt.clone());
        self.busy = match &self.entry {
            None => Some(Call::AddService {
                group,
                interface,
                name,
                port: self.port,
                txt,
            }),
            Some(entry) if entry.stale || entry.service.name != name => Some(Call::Reset(group)),
            Some(entry) if !entry.committed => Some(Call::Commit(group)),
            Some(entry) if entry.changes_at(wanted).is_some_and(|at| at <= now) => {
                Some(Call::Update {
                    group,
                    interface,
                    name,
                    txt,
                })
            }
            Some(_) => None,
        };
        self.busy.clone()
    }

    /// The daemon answered one of these calls.
    pub fn answered(&mut self, call: &Call, answer: Answer, now: Time) -> Option<Outcome> {
        self.busy.take_if(|busy| busy == call)?;
        if let Answer::Refused(error, text) = answer {
            return self.refused(call, &error, &text, now);
        }
        match (call, answer) {
            (Call::NewGroup, Answer::Text(path)) => self.group = Some(path),
            (Call::AddService { name, txt, .. }, _) => {
                self.entry = Some(Entry {
                    service: Service {
                        name: name.clone(),
                        txt: txt.clone(),
                    },
                    committed: false,
                    announced_at: None,
                    stale: false,
                });
            }
            (Call::Commit(_), _) => {
                if let Some(entry) = &mut self.entry {
                    entry.committed = true;
                }
            }
            (Call::Update { txt, .. }, _) => {
                if let Some(entry) = &mut self.entry {
                    entry.service.txt = txt.clone();
                    entry.announced_at = Some(now);
                }
            }
            (Call::Reset(_), _) => self.entry = None,
            _ => self.retry_at = Some(now + PAUSE),
        }
        None
    }

    fn refused(&mut self, call: &Call, error: &str, text: &str, now: Time) -> Option<Outcome> {
        if let Call::AddService { name, .. } = call
            && error == COLLISION
        {
            return self.conflict(name.clone());
        }
        tracing::warn!(
            error,
            text,
            ?call,
            "Avahi does not announce us; trying again"
        );
        self.retry_at = Some(now + PAUSE);
        match (call, &mut self.entry) {
            // The group may be as good as gone.
            (Call::Reset(_), _) => {
                self.group = None;
                self.entry = None;
            }
            (_, Some(entry)) => entry.stale = true,
            (_, None) => {}
        }
        None
    }

    /// Nothing is tried before another name is wanted.
    fn conflict(&mut self, name: String) -> Option<Outcome> {
        self.wanted.take_if(|wanted| wanted.name == name)?;
        Some(Outcome::Conflict(name))
    }

    /// The group changed its state.
    pub fn group_state(&mut self, group: &str, state: i32, now: Time) -> Option<Outcome> {
        if self.group.as_deref() != Some(group) || matches!(self.busy, Some(Call::Reset(_))) {
            return None;
        }
        let entry = self.entry.as_mut()?;
        let name = entry.service.name.clone();
        match state {
            GROUP_ESTABLISHED => {
                entry.announced_at = Some(now);
                Some(Outcome::Announced(name))
            }
            GROUP_COLLISION => {
                entry.stale = true;
                self.conflict(name)
            }
            GROUP_FAILURE => {
                tracing::warn!("Avahi failed to announce us; trying again");
                entry.stale = true;
                self.retry_at = Some(now + PAUSE);
                None
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(100);

    fn txt(text: &str) -> Txt {
        vec![text.as_bytes().to_vec()]
    }

    fn running() -> Publishing {
        let mut publishing = Publishing::new(-1, 5298);
        publishing.set_running(true);
        publishing
    }

    /// Answers calls with success until there are none; gives their names.
    fn settle(publishing: &mut Publishing, now: Time) -> Vec<String> {
        let mut calls = Vec::new();
        while let Some(call) = publishing.next_call(now) {
            let answer = match call {
                Call::NewGroup => Answer::Text("/group".into()),
                _ => Answer::Done,
            };
            assert_eq!(publishing.next_call(now), None, "one call at a time");
            assert_eq!(publishing.answered(&call, answer, now), None);
            let shown = format!("{call:?}");
            let name = shown.split([' ', '(']).next().unwrap().to_owned();
            calls.push(name);
        }
        calls
    }

    fn refuse(publishing: &mut Publishing, call: &Call, error: &str) -> Option<Outcome> {
        publishing.answered(call, Answer::Refused(error.into(), String::new()), NOW)
    }

    #[test]
    fn the_record_changes_once_the_name_is_ours_and_not_too_often() {
        let mut publishing = running();
        assert_eq!(settle(&mut publishing, NOW).len(), 0, "nothing is wanted");
        publishing.want("ada", txt("a"));
        let first = settle(&mut publishing, NOW);
        assert_eq!(first, ["NewGroup", "AddService", "Commit"]);
        publishing.want("ada", txt("b"));
        assert_eq!(
            settle(&mut publishing, NOW + PACE).len(),
            0,
            "still probing"
        );
        assert_eq!(publishing.next_deadline(), None);
        let ours = publishing.group_state("/group", GROUP_ESTABLISHED, NOW);
        assert_eq!(ours, Some(Outcome::Announced("ada".into())));
        assert_eq!(settle(&mut publishing, NOW).len(), 0);
        assert_eq!(publishing.next_deadline(), Some(NOW + PACE));
        publishing.want("ada", txt("c"));
        assert_eq!(settle(&mut publishing, NOW + PACE), ["Update"]);
        publishing.want("ada", txt("d"));
        assert_eq!(publishing.next_deadline(), Some(NOW + 2 * PACE));
        publishing.want("ada", txt("c"));
        assert_eq!(publishing.next_deadline(), None, "it is as it was");
    }

    #[test]
    fn another_name_takes_the_place_of_one_in_conflict() {
        let mut publishing = running();
        publishing.want("ada", txt("a"));
        settle(&mut publishing, NOW);
        assert_eq!(publishing.group_state("/else", GROUP_COLLISION, NOW), None);
        let conflict = publishing.group_state("/group", GROUP_COLLISION, NOW);
        assert_eq!(conflict, Some(Outcome::Conflict("ada".into())));
        assert_eq!(
            settle(&mut publishing, NOW).len(),
            0,
            "it is the driver's turn"
        );
        publishing.want("ada #2", txt("a"));
        let reset = publishing.next_call(NOW).unwrap();
        assert_eq!(reset, Call::Reset("/group".into()));
        // What is said meanwhile is about what is being taken out.
        assert_eq!(
            publishing.group_state("/group", GROUP_ESTABLISHED, NOW),
            None
        );
        publishing.answered(&reset, Answer::Done, NOW);
        assert_eq!(settle(&mut publishing, NOW), ["AddService", "Commit"]);
    }

    #[test]
    fn the_daemons_own_other_service_of_that_name_is_a_conflict_too() {
        let mut publishing = running();
        publishing.want("ada", txt("a"));
        let group = publishing.next_call(NOW).unwrap();
        publishing.answered(&group, Answer::Text("/group".into()), NOW);
        let add = publishing.next_call(NOW).unwrap();
        let conflict = refuse(&mut publishing, &add, COLLISION);
        assert_eq!(conflict, Some(Outcome::Conflict("ada".into())));
    }

    #[test]
    fn what_is_refused_is_tried_again_later() {
        for refused in 0..3 {
            let mut publishing = running();
            publishing.want("ada", txt("a"));
            for step in 0..=refused {
                let call = publishing.next_call(NOW).unwrap();
                if step == refused {
                    assert_eq!(refuse(&mut publishing, &call, "org.example.No"), None);
                } else {
                    let answer = Answer::Text("/group".into());
                    publishing.answered(&call, answer, NOW);
                }
            }
            assert_eq!(settle(&mut publishing, NOW).len(), 0);
            assert_eq!(publishing.next_deadline(), Some(NOW + PAUSE));
            let calls = settle(&mut publishing, NOW + PAUSE);
            assert!(
                calls.ends_with(&["AddService".into(), "Commit".into()]),
                "{calls:?}"
            );
        }
    }

    #[test]
    fn a_daemon_that_changed_its_own_name_is_told_anew() {
        let mut publishing = running();
        publishing.want("ada", txt("a"));
        settle(&mut publishing, NOW);
        publishing.set_running(false);
        publishing.want("ada", txt("b"));
        assert_eq!(settle(&mut publishing, NOW + PACE).len(), 0);
        publishing.set_running(true);
        let anew = settle(&mut publishing, NOW + PACE);
        assert_eq!(anew, ["Reset", "AddService", "Commit"]);
        publishing.lost();
        assert_eq!(settle(&mut publishing, NOW).len(), 0);
        publishing.set_running(true);
        assert_eq!(
            settle(&mut publishing, NOW).len(),
            3,
            "a new daemon has nothing"
        );
    }
}
