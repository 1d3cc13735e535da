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
//! do; none passes for the bus's own, or for another service's to whoever looks at the sender. Programs
//! that call the name are known to the contact by what they say only.
//!
//! # Bounds
//! [`MAX_CALLS`] that wait for an answer, [`MAX_CLIENT_CALLS`] of one caller, no longer than
//! [`PATIENCE`](super::PATIENCE). A call counts until then though its caller has gone: the contact knows
//! nothing of that, and counts it too.

use std::num::NonZeroU32;

use actors::runtime::Time;
use zbus::{
    Message,
    message::{Header, Type},
};

use super::{
    calls::Calls,
    envelope::{Envelope, rewrap},
    filter::check_name,
    offering::{BUS, BUS_PATH, MAX_CALLS, Out, error},
    said::{Said, wants_answer},
    small_bus::MAX_CLIENT_CALLS,
};
use crate::client::error::{Error, Kind, Result};

/// `RequestName`: fail rather than wait.
const DO_NOT_QUEUE: u32 = 4;
/// What it answers.
const PRIMARY_OWNER: u32 = 1;
const IN_QUEUE: u32 = 2;
const ALREADY_OWNER: u32 = 4;

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
    /// What the contact calls it.
    shared: String,
    /// What we call it.
    name: String,
    state: State,
    /// Whether the name was ours before.
    had: bool,
    calls: Calls<Caller>,
    /// Our questions to the bus at the beginning.
    asked_taken: Option<NonZeroU32>,
    asked_rule: Option<NonZeroU32>,
}

/// Who waits for an answer, and under which number.
#[derive(Debug)]
struct Caller {
    name: String,
    serial: NonZeroU32,
    /// It has left the bus.
    gone: bool,
}

impl Owning {
    /// The contact's service `shared`, not there yet, that is to be called `name` here.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when either is no name of a service.
    pub fn new(shared: &str, name: &str) -> Result<Self> {
        check_name(shared)?;
        check_name(name)?;
        Ok(Owning {
            shared: shared.to_owned(),
            name: name.to_owned(),
            state: State::Away,
            had: false,
            calls: Calls::new(MAX_CALLS),
            asked_taken: None,
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

    /// What the bus is asked first: to say who leaves, then whether somebody has the name.
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
        Ok(vec![rule, taken])
    }

    /// What follows from a message of our bus.
    ///
    /// # Errors
    /// [`Kind::NotAvailable`] when the name is somebody else's, and what the bus answers if we may not
    /// have it.
    pub fn from_bus(&mut self, message: &Message, now: Time) -> Result<Vec<Out>> {
        let header = message.header();
        match message.message_type() {
            Type::MethodCall => Ok(self.call(message, &header, now)),
            Type::MethodReturn | Type::Error => self.answered(message, &header).map(|()| vec![]),
            Type::Signal => self.told(message, &header).map(|()| vec![]),
        }
    }

    /// What follows from a message of the contact.
    pub fn from_contact(&mut self, message: &Message) -> Vec<Out> {
        match Said::by(message, &self.shared) {
            Said::Answer(serial) => match self.calls.answered(serial) {
                Some(caller) => answer(&caller, message),
                None => vec![],
            },
            Said::There(there) => self.found(there),
            Said::Signal if matches!(self.state, State::Asked(_) | State::Here) => {
                rewrap(message, &Envelope::fresh())
                    .map(Out::Bus)
                    .into_iter()
                    .collect()
            }
            // Under a name that is somebody else's, or nobody's.
            Said::Signal => vec![],
            Said::Refused(answer) => answer.map(Out::Contact).into_iter().collect(),
        }
    }

    /// Answers the calls that waited too long.
    pub fn expire(&mut self, now: Time) -> Vec<Out> {
        let late = self.calls.expire(now).into_iter();
        late.flat_map(|caller| refuse(&caller, "NoReply", "the contact does not answer"))
            .collect()
    }

    /// Answers all calls that wait: the contact is gone.
    pub fn end(&mut self) -> Vec<Out> {
        let left = self.calls.end().into_iter();
        left.flat_map(|caller| refuse(&caller, "NoReply", "the contact has gone"))
            .collect()
    }

    fn call(&mut self, message: &Message, header: &Header<'_>, now: Time) -> Vec<Out> {
        let Some(sender) = header.sender() else {
            return vec![];
        };
        let caller = Caller {
            name: sender.as_str().to_owned(),
            serial: header.primary().serial_num(),
            gone: false,
        };
        let wanted = wants_answer(header);
        let refuse = |name, why| match wanted {
            true => refuse(&caller, name, why),
            false => vec![],
        };
        if self.state == State::Away {
            let why = "the contact's service is not there";
            return refuse("ServiceUnknown", why);
        }
        let envelope = Envelope {
            destination: Some(&self.shared),
            ..Envelope::fresh()
        };
        let Ok(call) = rewrap(message, &envelope) else {
            return refuse("InvalidArgs", "the call cannot be passed on");
        };
        if wanted {
            let own = self.calls.count(|other| other.name == caller.name);
            if own >= MAX_CLIENT_CALLS || !self.calls.has_room() {
                return refuse("LimitsExceeded", "too many calls wait for their answer");
            }
            self.calls.insert(envelope.serial, caller, now);
        }
        vec![Out::Contact(call)]
    }

    /// An answer of the bus itself.
    fn answered(&mut self, message: &Message, header: &Header<'_>) -> Result<()> {
        let Some(serial) = header.reply_serial() else {
            return Ok(());
        };
        let of_name = self.state == State::Asked(serial);
        let of_taken = self.asked_taken == Some(serial);
        if !of_name && !of_taken && self.asked_rule != Some(serial) {
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
                    for caller in self.calls.each().filter(|caller| caller.name == name) {
                        caller.gone = true;
                    }
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

/// A call of the bus, and its number.
fn ask<B>(member: &str, body: &B) -> Result<(NonZeroU32, Out)>
where
    B: serde::Serialize + zbus::DynamicType,
{
    let call = Message::method_call(BUS_PATH, member)
        .interface(BUS)
        .destination(BUS)
        .build(body)?;
    Ok((call.primary_header().serial_num(), Out::Bus(call)))
}

fn answer(caller: &Caller, message: &Message) -> Vec<Out> {
    if caller.gone {
        return vec![];
    }
    let envelope = Envelope {
        reply_serial: Some(caller.serial),
        destination: Some(&caller.name),
        ..Envelope::fresh()
    };
    match rewrap(message, &envelope) {
        Ok(answer) => vec![Out::Bus(answer)],
        Err(_) => refuse(caller, "Failed", "the answer cannot be passed on"),
    }
}

fn refuse(caller: &Caller, name: &str, why: &str) -> Vec<Out> {
    if caller.gone {
        return vec![];
    }
    let envelope = Envelope {
        reply_serial: Some(caller.serial),
        destination: Some(&caller.name),
        ..Envelope::fresh()
    };
    error(caller.serial, name, why)
        .and_then(|error| rewrap(&error, &envelope).ok())
        .map(Out::Bus)
        .into_iter()
        .collect()
}

#[cfg(test)]
#[path = "owning_tests.rs"]
mod tests;
