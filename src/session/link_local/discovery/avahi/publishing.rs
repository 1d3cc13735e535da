//! What the daemon announces for us: one entry group, one service in it. Pure.
//!
//! ```text
//!  nothing ── EntryGroupNew ──▶ empty ── AddService ──▶ added ── Commit ──▶ committed ⟲ UpdateServiceTxt
//!                                 ▲                        another name, or stale        │
//!                                 └────────────────────────── Reset ◀────────────────────┘
//! ```
//!
//! One call at a time: what changes meanwhile is seen when it is answered. What the daemon refuses for
//! another reason than the name is tried again after [`PAUSE`].

use std::time::Duration;

use actors::runtime::Time;

use super::wire::{Answer, Call, Txt};

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
    /// Must be taken out and added anew.
    stale: bool,
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
        self.retry_at
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
            Some(entry) if entry.service.txt != txt => Some(Call::Update {
                group,
                interface,
                name,
                txt,
            }),
            Some(_) => None,
        };
        self.busy.clone()
    }

    /// The daemon answered one of these calls.
    pub fn answered(&mut self, call: &Call, answer: Answer, now: Time) -> Option<Outcome> {
        if self.busy.take_if(|busy| busy == call).is_none() {
            return None;
        }
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
            GROUP_ESTABLISHED => Some(Outcome::Announced(name)),
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
