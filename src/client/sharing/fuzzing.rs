//! The fuzzing target of a shared service: what the contact sends to either side, and what a client sends
//! to the small bus. See [`crate::fuzzing`].
//!
//! What goes out is read once more, by a reader of its own that knows the marshalled format and nothing of
//! the bus library, and must be what the filter and the specification let through.

use std::num::NonZeroU32;

use actors::runtime::Time;
use zbus::{Message, message::Type};

use super::{
    Filter, Owning, SERVICE,
    envelope::{Envelope, parse, rewrap},
    filter::is_below,
    offering::Offering,
    small_bus::{Act, SmallBus},
    words::{BUS, BUS_PATH, Out},
};

const NAME: &str = "org.example.Player";
const OWN: &str = "org.example.BobsPlayer";
const OBJECT: &str = "/a";
const INTERFACE: &str = "org.example.I";
const MACHINE: &str = "0123456789abcdef";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// What a message says, as the second reader has it. Each field at most once.
#[derive(Debug, Default, PartialEq)]
struct Reading<'m> {
    kind: u8,
    flags: u8,
    serial: u32,
    path: Option<&'m str>,
    interface: Option<&'m str>,
    member: Option<&'m str>,
    error: Option<&'m str>,
    answers: Option<u32>,
    destination: Option<&'m str>,
    sender: Option<&'m str>,
    signature: Option<&'m str>,
    body: &'m [u8],
}

/// Bytes in a byte order.
#[derive(Clone, Copy)]
struct Bytes<'m> {
    bytes: &'m [u8],
    big: bool,
}

impl<'m> Bytes<'m> {
    fn number(self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if self.big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    /// A text with its length before it, and where it ends.
    fn text(self, at: usize) -> Option<(&'m str, usize)> {
        let end = at + 4 + self.number(at)? as usize;
        let text = std::str::from_utf8(self.bytes.get(at + 4..end)?).ok()?;
        (self.bytes.get(end) == Some(&0)).then_some((text, end + 1))
    }
}

/// Reads a message of ours. `None` when it is none that we may send.
fn read(bytes: &[u8]) -> Option<Reading<'_>> {
    let big = bytes.first()? == &b'B';
    let all = Bytes { bytes, big };
    let mut reading = Reading {
        kind: bytes[1],
        flags: bytes[2],
        serial: all.number(8)?,
        ..Reading::default()
    };
    let end = 16 + all.number(12)? as usize;
    let mut at = 16;
    while at < end {
        at = at.next_multiple_of(8);
        let (code, kind) = (bytes[at], &bytes[at + 1..at + 4]);
        let value = at + 4;
        let known = match (code, kind) {
            (5, [1, b'u', 0]) => {
                at = value + 4;
                reading.answers.replace(all.number(value)?).is_none()
            }
            (8, [1, b'g', 0]) => {
                let long = usize::from(bytes[value]);
                at = value + 1 + long + 1;
                let text = std::str::from_utf8(&bytes[value + 1..value + 1 + long]).ok()?;
                reading.signature.replace(text).is_none()
            }
            (1, [1, b'o', 0]) | (2 | 3 | 4 | 6 | 7, [1, b's', 0]) => {
                let (text, after) = all.text(value)?;
                at = after;
                let place = match code {
                    1 => &mut reading.path,
                    2 => &mut reading.interface,
                    3 => &mut reading.member,
                    4 => &mut reading.error,
                    6 => &mut reading.destination,
                    _ => &mut reading.sender,
                };
                place.replace(text).is_none()
            }
            _ => false,
        };
        if !known {
            return None;
        }
    }
    reading.body = &bytes[end.next_multiple_of(8)..];
    let whole = bytes[3] == 1 && at == end && reading.body.len() == all.number(4)? as usize;
    whole.then_some(reading)
}

/// What every message that we send is like.
fn sent(message: &Message) -> Reading<'_> {
    let bytes = message.data().bytes();
    let reading = read(bytes).expect("a message that everybody reads");
    assert!(reading.serial != 0);
    assert_eq!(reading.flags & !3, 0, "flags that tell a bus what to do");
    assert_ne!(reading.path, Some("/org/freedesktop/DBus/Local"));
    assert_ne!(reading.interface, Some("org.freedesktop.DBus.Local"));
    reading
}

/// A message that went on is what it was but for the envelope.
fn same(old: &Message, new: &Reading<'_>) {
    let header = old.header();
    assert_eq!(header.path().map(|path| path.as_str()), new.path);
    assert_eq!(header.interface().map(|name| name.as_str()), new.interface);
    assert_eq!(header.member().map(|name| name.as_str()), new.member);
    assert_eq!(header.error_name().map(|name| name.as_str()), new.error);
    assert_eq!(old.body().data().bytes(), new.body);
}

/// What may go on to the service, by the second reader.
fn allowed(call: &Reading<'_>, limited: bool, read_only: bool, big: bool) -> bool {
    let below = call.path.is_some_and(|path| is_below(path, OBJECT));
    let of = Bytes {
        bytes: call.body,
        big,
    };
    let first = || of.text(0).map(|(text, _)| text);
    let of_interface = match (call.interface, call.member, call.signature) {
        (Some("org.freedesktop.DBus.Introspectable"), Some("Introspect"), _)
        | (Some("org.freedesktop.DBus.Peer"), Some("Ping" | "GetMachineId"), _) => {
            call.body.is_empty()
        }
        (Some(PROPERTIES), Some("Get"), Some("ss"))
        | (Some(PROPERTIES), Some("GetAll"), Some("s")) => !limited || first() == Some(INTERFACE),
        (Some(PROPERTIES), Some("Set"), Some("ssv")) => {
            !read_only && (!limited || first() == Some(INTERFACE))
        }
        (Some(PROPERTIES), ..) => false,
        (Some(interface), ..) => !read_only && (!limited || interface == INTERFACE),
        (None, ..) => !read_only && !limited,
    };
    (!limited || below) && of_interface
}

fn to_offering(message: &Message, limited: bool, read_only: bool) {
    let mut filter = Filter::of(NAME).expect("a name").read_only(read_only);
    if limited {
        let object = filter.object(OBJECT).expect("a path");
        filter = object.interface(INTERFACE).expect("a name");
    } else {
        // All of them, so that nothing waits until the program is known.
        filter = filter.object("/").expect("a path");
    }
    let mut offering = Offering::new(filter.clone(), MACHINE);
    let out = offering.hear_contact(message, Time::ZERO);
    assert!(out.len() <= 1);
    for out in out {
        match out {
            Out::Bus(call) => {
                let big = call.data().bytes()[0] == b'B';
                let call = sent(&call);
                assert_eq!((call.kind, call.sender), (1, None));
                assert_eq!(call.destination, Some(NAME));
                assert_eq!(call.flags & 1, 0, "it is answered, and counted until then");
                assert!(call.flags & 2 != 0 || !read_only, "it starts a program");
                assert_ne!(call.member, Some("GetMachineId"));
                assert!(allowed(&call, limited, read_only, big), "{call:?}");
                same(message, &call);
            }
            Out::Contact(answer) => {
                let answer = sent(&answer);
                let asked = message.primary_header().serial_num().get();
                let machine = answer
                    .body
                    .windows(MACHINE.len())
                    .any(|part| part == MACHINE.as_bytes());
                assert_eq!(answer.answers, Some(asked));
                assert_eq!(answer.kind, if machine { 2 } else { 3 });
            }
        }
    }
    // The same as a signal or an answer of the bus.
    for out in offering.hear_bus(message).unwrap_or_default() {
        if let Out::Contact(message) = out {
            let told = sent(&message);
            assert_eq!((told.sender, told.destination), (None, None));
        }
    }
    let _ = filter.lets_signal_through(message);
}

fn bus_call<B>(member: &str, body: &B) -> Message
where
    B: serde::Serialize + zbus::DynamicType,
{
    Message::method_call(BUS_PATH, member)
        .build(body)
        .expect("a call of the bus")
}

fn to_small_bus(message: &Message) {
    let guid = "0123456789abcdef0123456789abcdef";
    let mut bus = SmallBus::new(NAME, guid, 1000);
    let id = bus.enter().expect("room");
    bus.hear_client(id, &bus_call("Hello", &()), Time::ZERO);
    bus.hear_client(id, &bus_call("AddMatch", &""), Time::ZERO);
    // As a client's.
    for act in bus.hear_client(id, message, Time::ZERO) {
        match act {
            Act::Contact(call) => {
                let call = sent(&call);
                assert_eq!((call.kind, call.sender), (1, None));
                assert_eq!(call.destination, Some(NAME));
                same(message, &call);
            }
            Act::Client(to, answer) => {
                let answer = sent(&answer);
                assert_eq!((to, answer.sender), (id, Some(BUS)));
            }
            Act::End(ended, _) => assert_eq!(ended, id),
        }
    }
    // As the contact's, before it has said that the service is there, and after.
    let there = Message::signal(BUS_PATH, BUS, "NameOwnerChanged").build(&(NAME, "", SERVICE));
    for _ in 0..2 {
        for act in bus.hear_contact(message) {
            match act {
                Act::Contact(answer) => assert_eq!(sent(&answer).kind, 3),
                Act::Client(to, told) => {
                    let told = sent(&told);
                    assert_eq!((to, told.kind), (id, 4));
                    if told.interface == Some(BUS) {
                        // In our own words.
                        assert_eq!(told.sender, Some(BUS));
                        assert_eq!(told.member, Some("NameOwnerChanged"));
                    } else {
                        assert_eq!(told.sender, Some(SERVICE));
                        same(message, &told);
                    }
                }
                Act::End(..) => panic!("a contact that can close a client"),
            }
        }
        bus.hear_contact(there.as_ref().expect("a signal"));
    }
}

fn to_owning(message: &Message) {
    let filter = Filter::of(NAME).expect("a name");
    let mut owning = Owning::new(filter, OWN).expect("names");
    let there = Message::signal(BUS_PATH, BUS, "NameOwnerChanged").build(&(NAME, "", SERVICE));
    owning.hear_contact(&there.expect("a signal"), Time::ZERO);
    // A local program waits for an answer, and this is it, if it is one.
    let asked = Message::method_call("/", "Do").sender(":1.7").build(&());
    let waiting = owning.hear_bus(&asked.expect("a call"), Time::ZERO);
    let answered = match &waiting.unwrap_or_default()[..] {
        [Out::Contact(call)] => answer_to(call.primary_header().serial_num(), message),
        other => panic!("the call goes on: {other:?}"),
    };
    for message in [Some(message), answered.as_ref()].into_iter().flatten() {
        for out in owning.hear_contact(message, Time::ZERO) {
            match out {
                Out::Contact(answer) => assert_eq!(sent(&answer).kind, 3),
                Out::Bus(told) => {
                    let told = sent(&told);
                    assert_eq!(told.sender, None);
                    match told.kind {
                        // Its own words to the bus.
                        1 => assert_eq!(told.destination, Some(BUS)),
                        4 => {
                            assert_eq!(told.destination, None);
                            assert_ne!(told.interface, Some(BUS));
                            same(message, &told);
                        }
                        _ => assert_eq!(told.destination, Some(":1.7")),
                    }
                }
            }
        }
    }
}

/// The same as an answer to this call.
fn answer_to(serial: NonZeroU32, message: &Message) -> Option<Message> {
    let answers = [Type::MethodReturn, Type::Error].contains(&message.message_type());
    let envelope = Envelope {
        reply_serial: Some(serial),
        ..Envelope::fresh()
    };
    answers.then(|| rewrap(message, &envelope).ok()).flatten()
}

/// The first byte chooses a filter; the rest is a message.
pub fn sharing(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else {
        return;
    };
    let Ok(message) = parse(bytes.to_vec()) else {
        return;
    };
    // As on the wire: a body that is not what its signature says is seen by nobody.
    if message.body().validate().is_err() {
        return;
    }
    to_offering(&message, how & 1 != 0, how & 2 != 0);
    to_small_bus(&message);
    to_owning(&message);
}
