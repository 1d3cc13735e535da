//! The side that shares: decides what goes from the contact to the bus and back. Pure: messages in,
//! messages out.
//!
//! ```text
//!   contact ── call ──► filter ──► under our own number, to the service ──► bus
//!      ▲                  └── refused: AccessDenied                          │
//!      ├── answer, under the contact's number ◄──────────────────────────────┤
//!      └── signal that the filter lets through ◄── of the name's owner only ─┘
//! ```
//!
//! The contact never hears a unique name of our bus. Whether the service is there it hears as a
//! `NameOwnerChanged` of the shared name, with [`PRESENT`] for whoever owns it; the first one comes before
//! any other signal.

use std::num::NonZeroU32;

use actors::runtime::Time;
use zbus::{
    Message,
    message::{Header, Type},
};

use super::{
    calls::Calls,
    envelope::{Envelope, fresh_serial, rewrap},
    filter::Filter,
    said::wants_answer,
};
use crate::client::error::{Error, Result};

/// Most calls of the contact that wait for their answer; one more is answered `LimitsExceeded`.
pub const MAX_CALLS: usize = 1024;

/// What the other side hears in place of the unique name of the service's owner.
pub const PRESENT: &str = ":1.1";

pub(super) const BUS: &str = "org.freedesktop.DBus";
pub(super) const BUS_PATH: &str = "/org/freedesktop/DBus";

/// Where a message goes.
#[derive(Clone, Debug)]
pub enum Out {
    /// To our own bus.
    Bus(Message),
    /// To the contact.
    Contact(Message),
}

/// What is shared, and what is under way.
#[derive(Debug)]
pub struct Offering {
    filter: Filter,
    /// The contact's own number of each call, and whether it wants an answer.
    calls: Calls<NonZeroU32>,
    /// The owner of the name; unknown before the bus has answered.
    owner: Option<String>,
    /// Our questions to the bus at the beginning.
    asked_owner: Option<NonZeroU32>,
    asked_rules: Vec<NonZeroU32>,
}

impl Offering {
    /// Nothing under way.
    pub fn new(filter: Filter) -> Self {
        Offering {
            filter,
            calls: Calls::new(MAX_CALLS),
            owner: None,
            asked_owner: None,
            asked_rules: Vec::new(),
        }
    }

    /// What the bus is asked first: for signals, then who owns the name.
    ///
    /// # Errors
    /// When a message cannot be built.
    pub fn begin(&mut self) -> Result<Vec<Out>> {
        let name = self.filter.name();
        let rules = [
            format!("type='signal',sender='{name}'"),
            format!(
                "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{name}'"
            ),
        ];
        let mut out = Vec::new();
        for rule in rules {
            let ask = Message::method_call(BUS_PATH, "AddMatch")
                .interface(BUS)
                .destination(BUS)
                .build(&rule)?;
            self.asked_rules.push(ask.primary_header().serial_num());
            out.push(Out::Bus(ask));
        }
        let ask = Message::method_call(BUS_PATH, "GetNameOwner")
            .interface(BUS)
            .destination(BUS)
            .build(&name)?;
        self.asked_owner = Some(ask.primary_header().serial_num());
        out.push(Out::Bus(ask));
        Ok(out)
    }

    /// What follows from a message of the contact.
    pub fn from_contact(&mut self, message: &Message, now: Time) -> Vec<Out> {
        if message.message_type() != Type::MethodCall {
            // We call nothing over there and listen to nothing.
            return vec![];
        }
        let header = message.header();
        let serial = header.primary().serial_num();
        let wants_answer = wants_answer(&header);
        let refuse = |name, why: &str| match wants_answer {
            true => error(serial, name, why)
                .map(Out::Contact)
                .into_iter()
                .collect(),
            false => vec![],
        };
        if let Err(why) = self.filter.call(message) {
            return refuse("AccessDenied", why);
        }
        if wants_answer && !self.calls.has_room() {
            return refuse("LimitsExceeded", "too many calls wait for their answer");
        }
        let envelope = Envelope {
            destination: Some(self.filter.name()),
            ..Envelope::fresh()
        };
        let Ok(call) = rewrap(message, &envelope) else {
            return refuse("InvalidArgs", "the call cannot be passed on");
        };
        if wants_answer && !self.calls.insert(envelope.serial, serial, now) {
            return refuse("LimitsExceeded", "too many calls wait for their answer");
        }
        vec![Out::Bus(call)]
    }

    /// What follows from a message of our bus.
    ///
    /// # Errors
    /// When the bus does not let us see the service.
    pub fn from_bus(&mut self, message: &Message) -> Result<Vec<Out>> {
        let header = message.header();
        match message.message_type() {
            Type::MethodReturn | Type::Error => self.answer(message, &header),
            Type::Signal => Ok(self.signal(message, &header)),
            Type::MethodCall => Ok(refuse_call(&header).into_iter().collect()),
        }
    }

    /// Answers the calls that waited too long.
    pub fn expire(&mut self, now: Time) -> Vec<Out> {
        let late = self.calls.expire(now).into_iter();
        late.filter_map(|serial| error(serial, "NoReply", "the service does not answer"))
            .map(Out::Contact)
            .collect()
    }

    fn answer(&mut self, message: &Message, header: &Header<'_>) -> Result<Vec<Out>> {
        let Some(serial) = header.reply_serial() else {
            return Ok(vec![]);
        };
        let failed = message.message_type() == Type::Error;
        if self.asked_rules.contains(&serial) {
            self.asked_rules.retain(|asked| *asked != serial);
            if failed {
                return Err(Error::from_reply(
                    header.error_name().map_or("", |name| name.as_str()),
                    "the session bus does not let us hear the service",
                ));
            }
            return Ok(vec![]);
        }
        if self.asked_owner == Some(serial) {
            self.asked_owner = None;
            // A change that came meanwhile was said by the bus before this answer.
            let owner = message.body().deserialize::<&str>().map(str::to_owned);
            let owner = owner.ok().filter(|_| !failed).unwrap_or_default();
            let there = !owner.is_empty();
            self.owner = Some(owner);
            return Ok(self.presence(there).into_iter().collect());
        }
        let Some(caller) = self.calls.answered(serial) else {
            return Ok(vec![]);
        };
        if header.unix_fds().is_some_and(|count| count > 0) {
            let why = "the answer has descriptors, which cannot be passed on";
            return Ok(error(caller, "NotSupported", why)
                .map(Out::Contact)
                .into_iter()
                .collect());
        }
        let envelope = Envelope {
            reply_serial: Some(caller),
            ..Envelope::fresh()
        };
        // Whoever asked hears something, whatever the service answered.
        let answer = rewrap(message, &envelope)
            .ok()
            .or_else(|| error(caller, "Failed", "the answer cannot be passed on"));
        Ok(answer.map(Out::Contact).into_iter().collect())
    }

    fn signal(&mut self, message: &Message, header: &Header<'_>) -> Vec<Out> {
        let sender = header.sender().map_or("", |sender| sender.as_str());
        if sender == BUS {
            let body = message.body();
            let Ok((name, _, new)) = body.deserialize::<(&str, &str, &str)>() else {
                return vec![];
            };
            let of_name = header
                .member()
                .is_some_and(|member| *member == "NameOwnerChanged")
                && name == self.filter.name();
            // Before the bus has answered who owns it, its answer counts.
            if !of_name || self.asked_owner.is_some() {
                return vec![];
            }
            let before = self.owner.replace(new.to_owned()).unwrap_or_default();
            // What the other side remembers of one owner says nothing of the next.
            let handed_over = !before.is_empty() && !new.is_empty();
            let gone = handed_over.then(|| self.presence(false)).flatten();
            return gone
                .into_iter()
                .chain(self.presence(!new.is_empty()))
                .collect();
        }
        let of_owner = !sender.is_empty() && self.owner.as_deref() == Some(sender);
        if !of_owner || !self.filter.signal(message) {
            return vec![];
        }
        rewrap(message, &Envelope::fresh())
            .map(Out::Contact)
            .into_iter()
            .collect()
    }

    /// Whether the service is there, for the contact.
    fn presence(&self, there: bool) -> Option<Out> {
        let (old, new) = if there { ("", PRESENT) } else { (PRESENT, "") };
        let told = Message::signal(BUS_PATH, BUS, "NameOwnerChanged")
            .build(&(self.filter.name(), old, new))
            .ok()?;
        Some(Out::Contact(told))
    }
}

/// Somebody on our bus calls us, who have nothing to be called.
fn refuse_call(header: &Header<'_>) -> Option<Out> {
    if !wants_answer(header) {
        return None;
    }
    Message::error(header, "org.freedesktop.DBus.Error.UnknownObject")
        .build(&"there is no object here")
        .ok()
        .map(Out::Bus)
}

/// An error of D-Bus's own, without sender and destination.
pub(super) fn error(answers: NonZeroU32, name: &str, why: &str) -> Option<Message> {
    let question = Message::method_call("/", "Question").build(&()).ok()?;
    let name = format!("org.freedesktop.DBus.Error.{name}");
    Message::error(&question.header(), name)
        .serial(fresh_serial())
        .reply_serial(Some(answers))
        .build(&why)
        .ok()
}

#[cfg(test)]
#[path = "offering_tests.rs"]
mod tests;
