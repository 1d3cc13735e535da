//! The side that accepts, without a bus of its own: the service under a name on a bus that is there.
//! Pure: messages in, messages out.
//!
//! ```text
//!             the contact: it is there            the bus: yours
//!    Away ──────────────────────────────► Asked ────────────────► Here
//!      ▲                                    │ somebody else has it  ▲
//!      │                                    ▼                       │ NameAcquired
//!      │                                 Waiting ───────────────────┘
//!      └── the contact: it is gone, from any of them; the name is released
//! ```
//!
//! The name is on the bus while the service is there, so that programs see it come and go as they would
//! a service of their own. A call finds it only then; that a call starts the service, as it does on the
//! small bus, cannot be had with a name that is not owned.
//!
//! Whoever has the name at first keeps it, and that is an error. Once it was ours, somebody who took it
//! while the service was away is waited for: the name is ours again when they leave. The bus gives it to
//! nobody while we have it, since we never allow that; if it does all the same, that is an error.
//!
//! The contact's signals go to everybody on the bus who listens to signals of anybody, as any program's
//! do; none passes for the bus's own, or for another service's to whoever looks at the sender. Which objects
//! and interfaces they may be of, a [`Filter`] says. Programs that call the name are known to the contact by
//! what they say only.
//!
//! A name that the bus can start a service for is nobody's to take: its programs would be asked for by that.
//!
//! Of what the contact says of the service within one [`FLICKER`] the last word counts. A call counts until it
//! is answered, though its caller has gone: the contact knows nothing of that, and counts it too.
//! [Limits](super#limits).

use std::{num::NonZeroU32, time::Duration};

use actors::runtime::Time;
use zbus::{
    Message,
    message::{Header, Type},
};

use super::{
    calls::{Caller, Calls, MAX_CALLS, MAX_CLIENT_CALLS},
    envelope::{Envelope, rewrap},
    filter::{Filter, check_name},
    looking::ask,
    said::Said,
    words::{BUS, Out},
};
use crate::client::error::{Error, Kind, Result};

/// `RequestName`: fail rather than wait.
const DO_NOT_QUEUE: u32 = 4;
/// What it answers.
const PRIMARY_OWNER: u32 = 1;
const IN_QUEUE: u32 = 2;
const ALREADY_OWNER: u32 = 4;

/// How often the name comes or goes.
pub const FLICKER: Duration = Duration::from_secs(1);
/// Longest signal of the contact that is put on the bus, in bytes.
pub const MAX_SIGNAL: usize = 256 * 1024;

/// How it is with the name on our bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The service is not there, and nobody has the name from us.
    Away,
    /// The service is there, but another program has the name.
    Waiting,
    /// The service is there under the name.
    Here,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Away,
    /// Under this number.
    Asked(NonZeroU32),
    Waiting,
    Here,
}

/// A service of a contact's, and its name on our bus.
#[derive(Debug)]
pub struct Owning {
    /// What the contact calls it, and which of its signals go to the bus.
    filter: Filter,
    /// What we call it.
    name: String,
    state: State,
    /// Whether the name was ours before.
    had: bool,
    calls: Calls<String>,
    /// What the contact said last of whether the service is there, while it is not acted on.
    word: Option<bool>,
    /// When the name may come or go again.
    steady: Time,
    /// Signals that were too long.
    left_out: u64,
    /// Our questions to the bus at the beginning.
    asked_taken: Option<NonZeroU32>,
    asked_startable: Option<NonZeroU32>,
    asked_rule: Option<NonZeroU32>,
}

impl Owning {
    /// The contact's service that the filter is of, not there yet, that is to be called `name` here. The filter
    /// says which of its signals go to the bus; reading only says nothing here.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when that is no name of a service.
    pub fn new(filter: Filter, name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Owning {
            filter,
            name: name.to_owned(),
            state: State::Away,
            had: false,
            calls: Calls::new(MAX_CALLS).of_each(MAX_CLIENT_CALLS),
            word: None,
            steady: Time::ZERO,
            left_out: 0,
            asked_taken: None,
            asked_startable: None,
            asked_rule: None,
        })
    }

    /// How it is with the name. While the bus is asked for it, that is not known, and as it was.
    pub fn standing(&self) -> Standing {
        match self.state {
            State::Away | State::Asked(_) => Standing::Away,
            State::Waiting => Standing::Waiting,
            State::Here => Standing::Here,
        }
    }

    /// What the bus is asked first: to say who leaves, then whether somebody has the name, or it can start
    /// somebody who has.
    ///
    /// # Errors
    /// When a message cannot be built.
    pub fn begin(&mut self) -> Result<Vec<Out>> {
        let rule = format!(
            "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg2=''"
        );
        let (asked, rule) = ask("AddMatch", &rule)?;
        self.asked_rule = Some(asked);
        let (asked, taken) = ask("NameHasOwner", &self.name)?;
        self.asked_taken = Some(asked);
        let (asked, startable) = ask("ListActivatableNames", &())?;
        self.asked_startable = Some(asked);
        Ok(vec![rule, taken, startable])
    }

    /// What follows from a message of our bus.
    ///
    /// # Errors
    /// [`Kind::NotAvailable`] when the name is somebody else's, and what the bus answers if we may not
    /// have it.
    pub fn hear_bus(&mut self, message: &Message, now: Time) -> Result<Vec<Out>> {
        let header = message.header();
        match message.message_type() {
            Type::MethodCall => Ok(self.call(message, &header, now).into_iter().collect()),
            Type::MethodReturn | Type::Error => {
                self.answered(message, &header)?;
                Ok(self.act_on_word(now))
            }
            Type::Signal => self.told(message, &header).map(|()| vec![]),
        }
    }

    /// What follows from a message of the contact.
    pub fn hear_contact(&mut self, message: &Message, now: Time) -> Vec<Out> {
        match Said::by(message, self.filter.name()) {
            Said::Answer(serial) => self.answer(serial, message).into_iter().collect(),
            Said::There(there) => {
                self.word = Some(there);
                self.act_on_word(now)
            }
            Said::Signal if matches!(self.state, State::Asked(_) | State::Here) => {
                self.signal(message)
            }
            // Under a name that is somebody else's, or nobody's.
            Said::Signal => vec![],
            Said::Refused(answer) => answer.map(Out::Contact).into_iter().collect(),
        }
    }

    /// Answers the calls that waited too long, and does what waited until now.
    pub fn expire(&mut self, now: Time) -> Vec<Out> {
        let late = self.calls.expire(now).into_iter();
        let mut out: Vec<Out> = late
            .flat_map(|caller| refuse(&caller, ("NoReply", "the contact does not answer")))
            .collect();
        out.extend(self.act_on_word(now));
        out
    }

    fn answer(&mut self, serial: NonZeroU32, message: &Message) -> Option<Out> {
        let caller = self.calls.answered(serial)?;
        let answer = caller.answer(message, Envelope::to(&caller.who));
        answer.map(Out::Bus)
    }

    fn signal(&mut self, message: &Message) -> Vec<Out> {
        if !self.filter.lets_signal_through(message) {
            return vec![];
        }
        if message.data().len() > MAX_SIGNAL {
            self.left_out += 1;
            if self.left_out.is_power_of_two() {
                let (name, left_out) = (&self.name, self.left_out);
                tracing::warn!(
                    name,
                    left_out,
                    "signals of the contact are too long and left out"
                );
            }
            return vec![];
        }
        rewrap(message, &Envelope::fresh())
            .map(Out::Bus)
            .into_iter()
            .collect()
    }

    /// Answers all calls that wait: the contact is gone.
    pub fn end(&mut self) -> Vec<Out> {
        let left = self.calls.end().into_iter();
        left.flat_map(|caller| refuse(&caller, ("NoReply", "the contact has gone")))
            .collect()
    }

    fn call(&mut self, message: &Message, header: &Header<'_>, now: Time) -> Option<Out> {
        let caller = Caller::of(header, header.sender()?.to_string());
        let passed = if self.state == State::Away {
            Err(("ServiceUnknown", "the contact's service is not there"))
        } else {
            let envelope = Envelope::to(self.filter.name());
            self.calls.pass_on(message, &envelope, &caller, now)
        };
        match passed {
            Ok(call) => Some(Out::Contact(call)),
            Err(why) => refuse(&caller, why),
        }
    }

    /// An answer of the bus itself.
    fn answered(&mut self, message: &Message, header: &Header<'_>) -> Result<()> {
        let Some(serial) = header.reply_serial() else {
            return Ok(());
        };
        let of_name = self.state == State::Asked(serial);
        let of_taken = self.asked_taken == Some(serial);
        let of_startable = self.asked_startable == Some(serial);
        if !of_name && !of_taken && !of_startable && self.asked_rule != Some(serial) {
            return Ok(());
        }
        if message.message_type() == Type::Error {
            let text = message.body();
            let why = text.deserialize::<&str>().unwrap_or_default();
            let name = header.error_name().map_or("", |name| name.as_str());
            let kind = Error::from_reply(name, why).kind;
            return Err(Error::new(
                kind,
                format!("the session bus does not let us have {}: {why}", self.name),
            ));
        }
        if of_taken {
            self.asked_taken = None;
            if message.body().deserialize::<bool>()? {
                return Err(self.taken());
            }
        } else if of_startable {
            self.asked_startable = None;
            let body = message.body();
            if body.deserialize::<Vec<&str>>()?.contains(&&*self.name) {
                return Err(startable(&self.name));
            }
        } else if of_name {
            self.state = match message.body().deserialize::<u32>()? {
                PRIMARY_OWNER | ALREADY_OWNER => State::Here,
                IN_QUEUE => State::Waiting,
                _ => return Err(self.taken()),
            };
            self.had |= self.state == State::Here;
        }
        Ok(())
    }

    /// A signal on our bus.
    fn told(&mut self, message: &Message, header: &Header<'_>) -> Result<()> {
        let from_bus = header.sender().is_some_and(|sender| *sender == BUS);
        let member = header.member().map_or("", |member| member.as_str());
        let body = message.body();
        match member {
            _ if !from_bus => {}
            "NameOwnerChanged" => {
                if let Ok((name, _, "")) = body.deserialize::<(&str, &str, &str)>() {
                    self.calls.gone(name);
                }
            }
            "NameAcquired" | "NameLost" if body.deserialize::<&str>().ok() != Some(&self.name) => {}
            "NameAcquired" if self.state == State::Waiting => {
                self.state = State::Here;
                self.had = true;
            }
            // Of what we release ourselves we hear it as well, and then are not here any more.
            "NameLost" if self.state == State::Here => {
                self.state = State::Away;
                return Err(Error::new(
                    Kind::NotAvailable,
                    format!("the session bus gave {} to another program", self.name),
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// Does what the contact's last word asks for, if it is time, and if the name may be ours.
    fn act_on_word(&mut self, now: Time) -> Vec<Out> {
        let known = self.asked_taken.is_none() && self.asked_startable.is_none();
        if now < self.steady || !known {
            return vec![];
        }
        let out = match self.word.take() {
            Some(there) => self.found(there),
            None => vec![],
        };
        if !out.is_empty() {
            self.steady = now.saturating_add(FLICKER);
        }
        out
    }

    /// The service is there now, or not.
    fn found(&mut self, there: bool) -> Vec<Out> {
        let asked = match (self.state, there) {
            (State::Away, true) => {
                let flags = if self.had { 0 } else { DO_NOT_QUEUE };
                ask("RequestName", &(&self.name, flags))
                    .map(|(serial, out)| (State::Asked(serial), out))
            }
            (State::Away, false) => return vec![],
            (_, false) => ask("ReleaseName", &self.name).map(|(_, out)| (State::Away, out)),
            (_, true) => return vec![],
        };
        // A name that was looked at makes a message.
        let Ok((state, out)) = asked else {
            return vec![];
        };
        self.state = state;
        vec![out]
    }

    fn taken(&self) -> Error {
        Error::new(
            Kind::NotAvailable,
            format!(
                "{} is taken on your session bus: another program has it; end that, or choose another name",
                self.name
            ),
        )
    }
}

/// Why nobody has a name.
pub fn startable(name: &str) -> Error {
    Error::new(
        Kind::NotAvailable,
        format!(
            "{name} is the name of a service that your session bus can start; choose another name"
        ),
    )
}

fn refuse(caller: &Caller<String>, why: (&str, &str)) -> Option<Out> {
    caller.refuse(why, Envelope::to(&caller.who)).map(Out::Bus)
}

#[cfg(test)]
#[path = "owning_tests.rs"]
mod tests;
