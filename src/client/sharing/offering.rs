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
//! The contact never hears a unique name of our bus, nor what the bus itself says when a call fails, which
//! may hold names, paths and processes. Whether the service is there it hears as a
//! `NameOwnerChanged` of the shared name, with [`SERVICE`] for whoever owns it; the first one comes before
//! any other signal.
//!
//! # The program behind the name
//! A bus delivers to programs: whoever may call one of a program's names reaches the objects of all of them.
//! So where the filter names no objects, whoever has the name is looked at first, and may have no other,
//! then or later: that ends it all.
//!
//! ```text
//!             somebody has it                   no other names
//!    nobody ───────────────────► looked at ──────────────────────► there: calls go on
//!      │ ▲                          │ others: the end                  │ gone
//!      │ └──────────────────────────┴─────────────────────────────────┘
//!      └── a call: it is kept, the bus is asked to start the service
//! ```
//!
//! Calls that want no answer go to the service as calls that do, so that they can be counted, and the answers
//! are thrown away. [Limits](super#limits).

use std::num::NonZeroU32;

use actors::runtime::Time;
use zbus::{
    Message,
    message::{Flags, Header, Type},
};

use super::{
    calls::{Caller, Calls, MAX_CALLS},
    envelope::{Envelope, rewrap},
    filter::{Filter, PEER},
    looking::{Looking, ask, has_others},
    words::{BUS, BUS_PATH, ERRORS, Out, Refusal, SERVICE, wants_answer},
};
use crate::client::error::{Error, Result};

/// Most bytes of the contact's calls that wait for an answer; the bus keeps them for a service that does not
/// read.
pub const MAX_CALL_BYTES: usize = 32 * 1024 * 1024;

const AWAY: Refusal = ("ServiceUnknown", "the service is not there");

/// What is shared, and what is under way.
#[derive(Debug)]
pub struct Offering {
    filter: Filter,
    /// What the contact hears as the id of this machine, which its real one is not.
    machine: String,
    calls: Calls<()>,
    /// The owner of the name, none being nobody; unknown before the bus has answered.
    owner: Option<String>,
    /// What the contact was told last of whether the service is there.
    told: Option<bool>,
    /// While whoever has the name is looked at.
    looking: Option<Looking>,
    /// Calls that wait until somebody may have them, by the number that they go on under.
    held: Vec<(NonZeroU32, Message)>,
    /// Our questions to the bus.
    asked_owner: Option<NonZeroU32>,
    asked_start: Option<NonZeroU32>,
    asked_rules: Vec<NonZeroU32>,
}

impl Offering {
    /// Nothing under way. `machine` is answered to who asks for the id of this machine.
    pub fn new(filter: Filter, machine: &str) -> Self {
        Offering {
            filter,
            machine: machine.to_owned(),
            calls: Calls::new(MAX_CALLS).of_bytes(MAX_CALL_BYTES),
            owner: None,
            told: None,
            looking: None,
            held: Vec::new(),
            asked_owner: None,
            asked_start: None,
            asked_rules: Vec::new(),
        }
    }

    /// What the bus is asked first: for signals, then who owns the name.
    ///
    /// # Errors
    /// When a message cannot be built.
    pub fn begin(&mut self) -> Result<Vec<Out>> {
        let name = self.filter.name();
        let changes =
            format!("type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged'");
        let rules = [
            format!("type='signal',sender='{name}'"),
            // Otherwise what its owner is called besides matters as well.
            match self.filter.names_objects() {
                true => format!("{changes},arg0='{name}'"),
                false => changes,
            },
        ];
        let mut out = Vec::new();
        for rule in rules {
            let (asked, rule) = ask("AddMatch", &rule)?;
            self.asked_rules.push(asked);
            out.push(rule);
        }
        let (asked, owner) = ask("GetNameOwner", &name)?;
        self.asked_owner = Some(asked);
        out.push(owner);
        Ok(out)
    }

    /// Whether it is known who has the name, and that he may be shared.
    pub fn is_settled(&self) -> bool {
        self.owner.is_some() && self.looking.is_none()
    }

    /// What follows from a message of the contact.
    pub fn hear_contact(&mut self, message: &Message, now: Time) -> Vec<Out> {
        if message.message_type() != Type::MethodCall {
            // We call nothing over there and listen to nothing.
            return vec![];
        }
        let header = message.header();
        let caller = Caller::of(&header, ());
        if let Err(why) = self.filter.check_call(message) {
            return refuse(&caller, ("AccessDenied", why));
        }
        if asks_for_machine(&header) {
            let machine = Message::method_return(&header).build(&self.machine);
            return machine.map_or(vec![], |machine| answer(&caller, &machine));
        }
        let envelope = Envelope {
            answered: true,
            // A program that the bus starts for a call would have it before it is looked at.
            starts_nothing: self.filter.is_read_only() || !self.filter.names_objects(),
            ..Envelope::to(self.filter.name())
        };
        let call = match self.calls.pass_on(message, &envelope, &caller, now) {
            Ok(call) => call,
            Err(why) => return refuse(&caller, why),
        };
        let nobody = self.owner.as_deref() == Some("");
        let starts =
            !self.filter.is_read_only() && !header.primary().flags().contains(Flags::NO_AUTO_START);
        if !self.filter.names_objects() && nobody && !starts {
            // The next one that has the name is not looked at yet.
            self.calls.answered(envelope.serial);
            return refuse(&caller, AWAY);
        }
        if self.filter.names_objects() || (self.is_settled() && !nobody) {
            return vec![Out::Bus(call)];
        }
        self.held.push((envelope.serial, call));
        if !nobody || self.asked_start.is_some() {
            return vec![];
        }
        match ask("StartServiceByName", &(self.filter.name(), 0u32)) {
            Ok((asked, start)) => {
                self.asked_start = Some(asked);
                vec![start]
            }
            Err(_) => self.refuse_held(AWAY),
        }
    }

    /// What follows from a message of our bus.
    ///
    /// # Errors
    /// When the bus does not let us see the service, and when the program behind its name has others,
    /// with a filter that names no objects.
    pub fn hear_bus(&mut self, message: &Message) -> Result<Vec<Out>> {
        let header = message.header();
        match message.message_type() {
            Type::MethodReturn | Type::Error => self.answer(message, &header),
            Type::Signal => self.signal(message, &header),
            Type::MethodCall => Ok(refuse_call(&header).into_iter().collect()),
        }
    }

    /// Answers the calls that waited too long.
    pub fn expire(&mut self, now: Time) -> Vec<Out> {
        let late = self.calls.expire(now).into_iter();
        self.held.retain(|(serial, _)| self.calls.waits(*serial));
        late.flat_map(|caller| refuse(&caller, ("NoReply", "the service does not answer")))
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
            // The bus sends owner changes before this answer, so those skipped below are already in it.
            let body = message.body();
            let owner = body.deserialize::<&str>().ok().filter(|_| !failed);
            return self.owned_by(owner.unwrap_or_default());
        }
        if self.asked_start == Some(serial) {
            self.asked_start = None;
            // Whoever was started has the name by now, and is being looked at.
            let away = self.owner.as_deref() == Some("");
            return Ok(if away { self.refuse_held(AWAY) } else { vec![] });
        }
        let looked = self
            .looking
            .as_mut()
            .and_then(|looking| looking.answered(serial, message));
        if let Some(more) = looked {
            let mut out = more?;
            out.extend(self.looked()?);
            return Ok(out);
        }
        let Some(caller) = self.calls.answered(serial) else {
            return Ok(vec![]);
        };
        if header.unix_fds().is_some_and(|count| count > 0) {
            let why = "the answer has descriptors, which cannot be passed on";
            return Ok(refuse(&caller, ("NotSupported", why)));
        }
        if failed && header.sender().is_some_and(|sender| *sender == BUS) {
            let name = header.error_name().map_or("", |name| name.as_str());
            let name = name.strip_prefix(ERRORS).unwrap_or("Failed");
            let why = "the bus of the service did not get an answer from it";
            return Ok(refuse(&caller, (name, why)));
        }
        Ok(answer(&caller, message))
    }

    fn signal(&mut self, message: &Message, header: &Header<'_>) -> Result<Vec<Out>> {
        let sender = header.sender().map_or("", |sender| sender.as_str());
        if sender == BUS {
            let body = message.body();
            let changed = header
                .member()
                .is_some_and(|member| *member == "NameOwnerChanged");
            return match body.deserialize::<(&str, &str, &str)>() {
                // Before the bus has answered who owns it, its answer counts.
                Ok((name, _, new)) if changed && self.asked_owner.is_none() => {
                    self.changed(name, new)
                }
                _ => Ok(vec![]),
            };
        }
        let of_owner = !sender.is_empty() && self.owner.as_deref() == Some(sender);
        if !of_owner || self.looking.is_some() || !self.filter.lets_signal_through(message) {
            return Ok(vec![]);
        }
        Ok(rewrap(message, &Envelope::fresh())
            .map(Out::Contact)
            .into_iter()
            .collect())
    }

    /// Somebody has a name now, or nobody.
    fn changed(&mut self, name: &str, new: &str) -> Result<Vec<Out>> {
        if name == self.filter.name() {
            return self.owned_by(new);
        }
        let of_owner = !new.is_empty() && self.owner.as_deref() == Some(new);
        if of_owner && !name.starts_with(':') && !self.filter.names_objects() {
            return Err(has_others(self.filter.name(), &[name.to_owned()]));
        }
        Ok(vec![])
    }

    /// Somebody has the shared name now, or nobody.
    fn owned_by(&mut self, new: &str) -> Result<Vec<Out>> {
        let mut out = Vec::new();
        self.owner = Some(new.to_owned());
        self.looking = None;
        // What the other side remembers of one owner says nothing of the next. Who was only looked at it was
        // not told of; of nobody it is told at the beginning.
        if self.told == Some(true) || (self.told.is_none() && new.is_empty()) {
            out.extend(self.presence(false));
        }
        if new.is_empty() {
            if self.asked_start.is_none() {
                out.extend(self.refuse_held(AWAY));
            }
            return Ok(out);
        }
        if self.filter.names_objects() {
            out.extend(self.presence(true));
            return Ok(out);
        }
        let (looking, question) = Looking::begin(self.filter.name(), new)?;
        self.looking = Some(looking);
        out.push(question);
        Ok(out)
    }

    /// Goes on once everything is known of the name's owner.
    fn looked(&mut self) -> Result<Vec<Out>> {
        let Some(looking) = self.looking.take_if(|looking| looking.is_done()) else {
            return Ok(vec![]);
        };
        if !looking.others().is_empty() {
            return Err(has_others(self.filter.name(), looking.others()));
        }
        let mut out: Vec<Out> = self.presence(true).into_iter().collect();
        let held = std::mem::take(&mut self.held).into_iter();
        out.extend(held.map(|(_, call)| Out::Bus(call)));
        Ok(out)
    }

    fn refuse_held(&mut self, why: (&str, &str)) -> Vec<Out> {
        let held = std::mem::take(&mut self.held).into_iter();
        held.filter_map(|(serial, _)| self.calls.answered(serial))
            .flat_map(|caller| refuse(&caller, why))
            .collect()
    }

    /// Whether the service is there, for the contact.
    fn presence(&mut self, there: bool) -> Option<Out> {
        self.told = Some(there);
        let (old, new) = if there { ("", SERVICE) } else { (SERVICE, "") };
        let told = Message::signal(BUS_PATH, BUS, "NameOwnerChanged")
            .build(&(self.filter.name(), old, new))
            .ok()?;
        Some(Out::Contact(told))
    }
}

/// An answer for the contact, if it waits for one.
fn answer(caller: &Caller<()>, message: &Message) -> Vec<Out> {
    let answer = caller.answer(message, Envelope::fresh());
    answer.map(Out::Contact).into_iter().collect()
}

/// The same, an error.
fn refuse(caller: &Caller<()>, why: (&str, &str)) -> Vec<Out> {
    let error = caller.refuse(why, Envelope::fresh());
    error.map(Out::Contact).into_iter().collect()
}

/// `GetMachineId`, which services answer with what is nobody else's business: machine-id(5) has it
/// confidential.
fn asks_for_machine(header: &Header<'_>) -> bool {
    header
        .member()
        .is_some_and(|member| *member == "GetMachineId")
        && header
            .interface()
            .is_none_or(|interface| *interface == PEER)
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

#[cfg(test)]
#[path = "offering_tests.rs"]
mod tests;
