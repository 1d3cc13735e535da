//! What we know of the daemon, and what we have asked it. Pure: calls go out, answers and signals come
//! in, time is told.
//!
//! ```text
//!  Asking ── nobody owns the name ──▶ Absent ◀── the name has no owner any more ──┐
//!    │                                  │ somebody owns it                        │
//!    └── owner ──▶ Greeting ◀───────────┘                                         │
//!                     └── state told ──▶ Working: browser, resolvers, entry group ┘
//!  any of them ── a call unanswered for CALL ──▶ hung: whoever holds this begins anew
//! ```
//!
//! Only messages of the bus and of the daemon's own connection count: on the system bus everybody may send
//! us signals. A signal and the answer before it come in order, so nothing is confused with what was there
//! before.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use actors::runtime::Time;

use super::{
    super::{PresenceText, responder::Heard},
    neighbours::{Neighbours, News, Prepared},
    publishing::{Outcome, Publishing},
    wire::{Answer, Call, Incoming, Place, Signal, Txt},
};
use crate::session::trust::KeyId;

/// How long one call may take.
pub const CALL: Duration = Duration::from_secs(10);
/// How often a daemon that has nothing to say is asked whether it lives.
pub const CHECK: Duration = Duration::from_secs(20);
/// Most calls that are under way; others wait, in the order they were made.
pub const MAX_CALLS: usize = 64;

const BUS: &str = "org.freedesktop.DBus";
/// AVAHI_SERVER_RUNNING, and AVAHI_SERVER_FAILURE.
const RUNNING: i32 = 2;
const FAILURE: i32 = 4;
const TOO_MANY: &str = "org.freedesktop.Avahi.TooManyObjectsError";
const NO_OWNER: &str = "org.freedesktop.DBus.Error.NameHasNoOwner";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Asking,
    Absent,
    Greeting(String),
    Working(String),
}

/// How it is with the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Not known yet.
    Unknown,
    /// It answers.
    Working,
    /// Nobody owns its name.
    Absent,
    /// It does not answer, or refuses what has to be.
    Hung,
}

/// Decides whether a stranger's address is one we dial.
pub trait Links: Send {
    /// An address heard on an interface.
    fn dialled(&mut self, ip: IpAddr, port: u16, interface: i32, now: Time) -> Option<SocketAddr>;
}

/// See the module's head.
pub struct State {
    interface: i32,
    phase: Phase,
    hung: bool,
    /// Whether a daemon worked before, so that what it told may be outdated.
    again: bool,
    publishing: Publishing,
    neighbours: Neighbours,
    calls: VecDeque<Call>,
    waiting: BTreeMap<u32, (Call, Time)>,
    check_at: Option<Time>,
    links: Box<dyn Links>,
    /// What the driver is to be told.
    pub heard: VecDeque<Heard>,
}

impl State {
    /// To announce a listener on a port, on one interface or on all.
    pub fn new(interface: i32, port: u16, links: Box<dyn Links>) -> Self {
        let mut state = State {
            interface,
            phase: Phase::Asking,
            hung: false,
            again: false,
            publishing: Publishing::new(interface, port),
            neighbours: Neighbours::default(),
            calls: VecDeque::new(),
            waiting: BTreeMap::new(),
            check_at: None,
            links,
            heard: VecDeque::new(),
        };
        state.begin();
        state
    }

    /// On a new connection: nothing that was made on the old one is there.
    pub fn begin(&mut self) {
        self.lost();
        self.hung = false;
        self.phase = Phase::Asking;
        self.calls
            .extend([Call::WatchOwner, Call::WatchDaemon, Call::GetOwner]);
    }

    /// Forgets what a daemon had.
    fn lost(&mut self) {
        self.publishing.lost();
        self.neighbours.lost();
        self.calls.clear();
        self.waiting.clear();
        self.check_at = None;
    }

    /// How it is.
    pub fn condition(&self) -> Condition {
        match self.phase {
            _ if self.hung => Condition::Hung,
            Phase::Asking | Phase::Greeting(_) => Condition::Unknown,
            Phase::Absent => Condition::Absent,
            Phase::Working(_) => Condition::Working,
        }
    }

    /// The daemon's unique name, or nothing yet.
    pub fn daemon(&self) -> &str {
        match &self.phase {
            Phase::Greeting(owner) | Phase::Working(owner) => owner,
            Phase::Asking | Phase::Absent => "",
        }
    }

    /// Announces us.
    pub fn announce(&mut self, name: &str, txt: Txt) {
        self.publishing.want(name, txt);
    }

    /// Whose news come first.
    pub fn set_pinned(&mut self, pinned: BTreeMap<KeyId, String>) {
        self.neighbours.set_pinned(pinned);
    }

    /// Takes back what is announced: gives whether there is something to wait for.
    pub fn withdraw(&mut self) -> bool {
        let group = self.publishing.group().cloned();
        let Some(group) = group.filter(|_| !self.hung) else {
            return false;
        };
        self.publishing.lost();
        self.calls.push_front(Call::FreeGroup(group));
        true
    }

    /// Whether the answer to [`State::withdraw`] is still to come.
    pub fn is_withdrawing(&self) -> bool {
        let frees = |call: &Call| matches!(call, Call::FreeGroup(_));
        self.calls.iter().any(frees) || self.waiting.values().any(|(call, _)| frees(call))
    }

    /// The next call to be sent. [`State::sent`] follows.
    pub fn next_call(&mut self, now: Time) -> Option<Call> {
        if self.hung || self.waiting.len() >= MAX_CALLS {
            return None;
        }
        if matches!(self.phase, Phase::Working(_)) {
            if let Some(call) = self.publishing.next_call(now) {
                return Some(call);
            }
            if self.check_at.is_some_and(|at| at <= now) {
                self.check_at = Some(now + CHECK);
                return Some(Call::GetState);
            }
            if self.calls.is_empty() {
                self.neighbours.next_calls(now, &mut self.calls);
            }
        }
        self.calls.pop_front()
    }

    /// A call is on its way under that serial number. Its time begins.
    pub fn sent(&mut self, serial: u32, call: Call, now: Time) {
        self.waiting.insert(serial, (call, now + CALL));
    }

    /// When to look again. `free`: whether a call could be sent then.
    pub fn next_deadline(&self, free: bool) -> Option<Time> {
        if self.hung {
            return None;
        }
        let waiting = self.waiting.values().map(|(_, until)| *until);
        let working = matches!(self.phase, Phase::Working(_));
        let callable = free && working && self.waiting.len() < MAX_CALLS;
        let more = [
            self.check_at,
            self.publishing.next_deadline(),
            self.neighbours.next_deadline(),
        ];
        let more = more.into_iter().flatten().filter(|_| callable);
        waiting.chain(more).min()
    }

    /// Time has come: sees whether the daemon is too late.
    pub fn timers(&mut self, now: Time) {
        let late = self.waiting.values().find(|(_, until)| *until <= now);
        if let Some((call, _)) = late {
            tracing::warn!(?call, "Avahi does not answer");
            self.hung = true;
        }
    }

    /// A message came.
    pub fn incoming(&mut self, incoming: Incoming, now: Time) {
        match incoming {
            Incoming::Answer(serial, answer) => {
                // One to a call that was made of a daemon before is for nobody.
                if let Some((call, _)) = self.waiting.remove(&serial) {
                    self.answered(call, answer, now);
                }
            }
            Incoming::Signal(sender, Signal::Owner(owner)) if sender == BUS => self.owner(owner),
            Incoming::Signal(sender, signal) => {
                let ours = matches!(&self.phase, Phase::Working(owner) if *owner == sender);
                if ours {
                    self.signalled(signal, now);
                }
            }
        }
    }

    fn owner(&mut self, owner: Option<String>) {
        if owner.as_deref() == Some(self.daemon()) {
            return;
        }
        // Nothing of what was asked of the one before is answered; the bus still owes its own answers.
        let bus = std::mem::take(&mut self.waiting)
            .into_iter()
            .filter(|(_, (call, _))| matches!(call, Call::WatchOwner | Call::WatchDaemon))
            .collect();
        let unsent = self
            .calls
            .iter()
            .filter(|call| matches!(call, Call::WatchOwner | Call::WatchDaemon))
            .cloned()
            .collect();
        self.lost();
        self.waiting = bus;
        self.calls = unsent;
        self.phase = match owner {
            Some(owner) => {
                self.calls.push_back(Call::GetState);
                Phase::Greeting(owner)
            }
            None => {
                tracing::info!("Avahi is gone");
                Phase::Absent
            }
        };
    }

    fn answered(&mut self, call: Call, answer: Answer, now: Time) {
        match (&call, answer) {
            (
                Call::WatchOwner | Call::WatchDaemon | Call::GetOwner,
                Answer::Refused(error, text),
            ) if error != NO_OWNER => {
                tracing::warn!(error, text, "the system bus refuses what Avahi needs");
                self.hung = true;
            }
            (Call::GetOwner, Answer::Text(owner)) => self.owner(Some(owner)),
            (Call::GetOwner, _) if self.phase == Phase::Asking => self.phase = Phase::Absent,
            (Call::GetState, Answer::Number(state)) => self.server_state(state, now),
            (Call::PrepareBrowser(_), Answer::Text(path)) => {
                self.calls.push_back(Call::StartBrowser(path));
            }
            (
                Call::GetState | Call::PrepareBrowser(_) | Call::StartBrowser(_),
                Answer::Refused(error, text),
            ) => {
                tracing::warn!(error, text, ?call, "Avahi cannot be used");
                self.hung = true;
            }
            (Call::PrepareResolver(place), answer) => {
                let made = match answer {
                    Answer::Text(path) => Prepared::Made(path),
                    Answer::Refused(error, _) if error == TOO_MANY => Prepared::TooMany,
                    _ => Prepared::Refused,
                };
                self.neighbours.prepared(place, made, &mut self.calls);
            }
            (
                Call::NewGroup
                | Call::AddService { .. }
                | Call::Commit(_)
                | Call::Update { .. }
                | Call::Reset(_),
                answer,
            ) => {
                let outcome = self.publishing.answered(&call, answer, now);
                self.outcome(outcome);
            }
            // A resolver that cannot be started, or is gone, is one that finds nobody.
            (Call::StartResolver(path), Answer::Refused(..)) => {
                self.neighbours.not_found(path, &mut self.calls);
            }
            _ => {}
        }
    }

    fn server_state(&mut self, state: i32, now: Time) {
        if state == FAILURE {
            tracing::warn!("Avahi has failed");
            self.hung = true;
            return;
        }
        if let Phase::Greeting(owner) = &self.phase {
            self.phase = Phase::Working(owner.clone());
            self.check_at = Some(now + CHECK);
            self.calls.push_back(Call::PrepareBrowser(self.interface));
            if std::mem::replace(&mut self.again, true) {
                self.heard.push_back(Heard::Again);
            }
        }
        self.publishing.set_running(state == RUNNING);
    }

    fn signalled(&mut self, signal: Signal, now: Time) {
        match signal {
            Signal::Owner(_) => {}
            Signal::ServerState(state) => self.server_state(state, now),
            Signal::New(place) => self.neighbours.appeared(place),
            Signal::Removed(place) => self.removed(&place),
            Signal::BrowserFailed(reason) => {
                tracing::warn!(reason, "Avahi stopped browsing");
                self.hung = true;
            }
            Signal::Found {
                resolver,
                interface,
                address,
                port,
                txt,
            } => {
                let address = address.and_then(|ip| self.links.dialled(ip, port, interface, now));
                let text = PresenceText::read(txt.iter().filter_map(|pair| key_and_value(pair)));
                let news = self.neighbours.found(&resolver, address, text);
                self.news(news);
            }
            Signal::NotFound(resolver) => self.neighbours.not_found(&resolver, &mut self.calls),
            Signal::GroupState(group, state) => {
                let outcome = self.publishing.group_state(&group, state, now);
                self.outcome(outcome);
            }
        }
    }

    fn removed(&mut self, place: &Place) {
        let news = self.neighbours.removed(place, &mut self.calls);
        self.news(news);
    }

    fn news(&mut self, news: Option<News>) {
        self.heard.extend(news.map(|news| match news {
            News::Seen(sighting) => Heard::Seen(sighting),
            News::Gone(instance) => Heard::Gone(instance),
        }));
    }

    fn outcome(&mut self, outcome: Option<Outcome>) {
        self.heard.extend(outcome.map(|outcome| match outcome {
            Outcome::Announced(name) => Heard::Announced(name),
            Outcome::Conflict(name) => Heard::Conflict(name),
        }));
    }
}

/// `key=value`, or a key alone. What is not a key in ASCII is nothing.
fn key_and_value(pair: &[u8]) -> Option<(&str, Option<&[u8]>)> {
    let end = pair.iter().position(|byte| *byte == b'=');
    let key = std::str::from_utf8(&pair[..end.unwrap_or(pair.len())]).ok()?;
    Some((key, end.map(|end| &pair[end + 1..])))
}
