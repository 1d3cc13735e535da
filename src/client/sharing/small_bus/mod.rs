//! The side that accepts: a bus with one service on it, which is the contact's. Pure: messages in,
//! messages out.
//!
//! ```text
//!   client :2.1 ──┐  Hello, AddMatch, GetNameOwner …   answered here (module daemon)
//!   client :2.2 ──┼─ call of NAME or :1.1 ──► under our own number ──► contact
//!   client :2.3 ──┘◄─ answer, signals that a rule asks for ◄──────────┘
//! ```
//!
//! There are the bus itself, its clients, and the shared service, while the contact says it is there.
//! Nobody else can have a name, and clients cannot call one another: it is no bus to meet on.
//!
//! A call of the service goes to the contact also while it is not there, since the contact's bus may
//! start it.
//!
//! A call counts until it is answered, though its client has gone: the contact knows nothing of that, and
//! counts it too. [Limits](super#limits).

mod daemon;
mod rules;

use std::{collections::BTreeMap, num::NonZeroU32};

use actors::runtime::Time;
use zbus::{
    Message,
    message::{Builder, Header, Type},
};

use super::{
    calls::{Caller, Calls, MAX_CALLS, MAX_CLIENT_CALLS},
    envelope::{Envelope, rewrap},
    said::Said,
    words::{BUS, BUS_PATH, ERRORS, Refusal, SERVICE, wants_answer},
};
use rules::{Rules, Signal};

/// Most clients at once; one more waits until one of them leaves.
pub const MAX_CLIENTS: usize = 64;

/// Tells clients apart.
pub type ClientId = u64;

/// What follows from a message.
#[derive(Clone, Debug)]
pub enum Act {
    /// Send to a client.
    Client(ClientId, Message),
    /// Send to the contact.
    Contact(Message),
    /// Close a client, which did what none may do.
    End(ClientId, &'static str),
}

/// Who is there and what is under way.
#[derive(Debug)]
pub struct SmallBus {
    /// The service's well-known name.
    name: String,
    /// The bus's own id, 32 hexadecimal digits.
    guid: String,
    /// The user whose clients are let in.
    uid: u32,
    /// Whether the contact says that the service is there, once it has said anything of that.
    there: Option<bool>,
    clients: BTreeMap<ClientId, Client>,
    last: ClientId,
    calls: Calls<ClientId>,
}

#[derive(Debug)]
struct Client {
    name: String,
    greeted: bool,
    rules: Rules,
}

impl SmallBus {
    /// Nobody there yet, the service neither. `guid` is 32 hexadecimal digits.
    pub fn new(name: &str, guid: &str, uid: u32) -> Self {
        SmallBus {
            name: name.to_owned(),
            guid: guid.to_owned(),
            uid,
            there: None,
            clients: BTreeMap::new(),
            last: 0,
            calls: Calls::new(MAX_CALLS).of_each(MAX_CLIENT_CALLS),
        }
    }

    /// Whether the contact says that the service is there.
    fn is_there(&self) -> bool {
        self.there == Some(true)
    }

    /// Whether the contact has said if the service is there.
    pub fn is_told(&self) -> bool {
        self.there.is_some()
    }

    /// A client has connected; `None` when there is no room.
    pub fn enter(&mut self) -> Option<ClientId> {
        if self.clients.len() >= MAX_CLIENTS {
            return None;
        }
        self.last += 1;
        let client = Client {
            name: format!(":2.{}", self.last),
            greeted: false,
            rules: Rules::default(),
        };
        self.clients.insert(self.last, client);
        Some(self.last)
    }

    /// A client is gone.
    pub fn leave(&mut self, id: ClientId) -> Vec<Act> {
        // What it asked stays until it is answered: the contact knows nothing of this, and counts it.
        match self.clients.remove(&id) {
            Some(client) if client.greeted => self.owner_changed(&client.name, &client.name, ""),
            _ => vec![],
        }
    }

    /// Whether a client's message is for somebody else than the bus itself, and so may go to the contact.
    pub fn is_for_service(message: &Message) -> bool {
        let header = message.header();
        header.destination().is_some_and(|name| *name != BUS)
    }

    /// What follows from a client's message: no more than one thing for the contact.
    pub fn hear_client(&mut self, id: ClientId, message: &Message, now: Time) -> Vec<Act> {
        let Some(client) = self.clients.get(&id) else {
            return vec![];
        };
        if message.message_type() != Type::MethodCall {
            // Nobody calls a client, and there is nobody to hear its signals.
            return vec![];
        }
        let header = message.header();
        let destination = header.destination().map(|name| name.as_str());
        let for_bus = !SmallBus::is_for_service(message);
        let is_hello = for_bus && header.member().is_some_and(|member| *member == "Hello");
        if client.greeted == is_hello {
            return vec![Act::End(id, "a client says Hello first, and once")];
        }
        if for_bus {
            return self.ask_daemon(id, message);
        }
        if destination != Some(&self.name) && destination != Some(SERVICE) {
            let why = (
                "ServiceUnknown",
                "nobody but the shared service is on this bus",
            );
            return self.refuse(id, &header, why);
        }
        self.call_service(id, message, now)
    }

    fn call_service(&mut self, id: ClientId, message: &Message, now: Time) -> Vec<Act> {
        let header = message.header();
        let caller = Caller::of(&header, id);
        let envelope = Envelope::to(&self.name);
        match self.calls.pass_on(message, &envelope, &caller, now) {
            Ok(call) => vec![Act::Contact(call)],
            Err(why) => self.refuse(id, &header, why),
        }
    }

    /// What follows from a message of the contact.
    pub fn hear_contact(&mut self, message: &Message) -> Vec<Act> {
        match Said::by(message, &self.name) {
            Said::Answer(serial) => self.answer(serial, message).into_iter().collect(),
            Said::There(there) => self.found(there),
            Said::Signal => self.signal(message),
            Said::Refused(answer) => answer.map(Act::Contact).into_iter().collect(),
        }
    }

    /// Answers the calls that waited too long.
    pub fn expire(&mut self, now: Time) -> Vec<Act> {
        let why = ("NoReply", "the contact does not answer");
        let late = self.calls.expire(now).into_iter();
        late.filter_map(|caller| {
            let error = caller.refuse(why, self.envelope(&caller)?)?;
            Some(Act::Client(caller.who, error))
        })
        .collect()
    }

    /// For a client that is still there.
    fn envelope(&self, caller: &Caller<ClientId>) -> Option<Envelope<'_>> {
        let client = self.clients.get(&caller.who)?;
        Some(Envelope {
            sender: Some(SERVICE),
            ..Envelope::to(&client.name)
        })
    }

    fn answer(&mut self, serial: NonZeroU32, message: &Message) -> Option<Act> {
        let caller = self.calls.answered(serial)?;
        let answer = caller.answer(message, self.envelope(&caller)?)?;
        Some(Act::Client(caller.who, answer))
    }

    fn signal(&self, message: &Message) -> Vec<Act> {
        if !self.is_there() {
            return vec![];
        }
        let envelope = Envelope {
            sender: Some(SERVICE),
            ..Envelope::fresh()
        };
        match rewrap(message, &envelope) {
            Ok(signal) => self.tell(&signal, &[SERVICE, &self.name]),
            Err(_) => vec![],
        }
    }

    /// The service is there now, or not.
    fn found(&mut self, there: bool) -> Vec<Act> {
        let changed = self.is_there() != there;
        self.there = Some(there);
        if !changed {
            return vec![];
        }
        let name = self.name.clone();
        if there {
            let mut acts = self.owner_changed(SERVICE, "", SERVICE);
            acts.extend(self.owner_changed(&name, "", SERVICE));
            acts
        } else {
            let mut acts = self.owner_changed(&name, SERVICE, "");
            acts.extend(self.owner_changed(SERVICE, SERVICE, ""));
            acts
        }
    }

    fn owner_changed(&self, name: &str, old: &str, new: &str) -> Vec<Act> {
        let told = Message::signal(BUS_PATH, BUS, "NameOwnerChanged")
            .sender(BUS)
            .build(&(name, old, new));
        told.map_or(vec![], |told| self.tell(&told, &[BUS]))
    }

    /// To all that asked for it.
    fn tell(&self, message: &Message, senders: &[&str]) -> Vec<Act> {
        let signal = Signal::new(message, senders);
        self.clients
            .iter()
            .filter(|(_, client)| client.greeted && client.rules.match_signal(&signal))
            .map(|(id, _)| Act::Client(*id, message.clone()))
            .collect()
    }

    /// The bus's own answer to a call.
    fn refuse(&self, id: ClientId, header: &Header<'_>, (name, why): Refusal) -> Vec<Act> {
        let error = Message::error(header, format!("{ERRORS}{name}"));
        self.say(id, header, error, &why)
    }

    fn say<B>(&self, id: ClientId, header: &Header<'_>, answer: Builder<'_>, body: &B) -> Vec<Act>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let Some(client) = self.clients.get(&id).filter(|_| wants_answer(header)) else {
            return vec![];
        };
        let answer = answer
            .sender(BUS)
            .destination(client.name.as_str())
            .build(body);
        answer
            .map(|answer| Act::Client(id, answer))
            .into_iter()
            .collect()
    }
}

#[cfg(test)]
mod tests;
