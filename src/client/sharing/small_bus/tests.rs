//! The small bus between clients and a contact that are played by the test.

use proptest::prelude::*;
use zbus::message::Flags;

use super::*;
use crate::client::sharing::PATIENCE;

const NAME: &str = "org.example.Player";
const GUID: &str = "0123456789abcdef0123456789abcdef";

fn bus_call(member: &str) -> Builder<'_> {
    Message::method_call(BUS_PATH, member)
        .interface(BUS)
        .destination(BUS)
}

fn small_bus() -> SmallBus {
    SmallBus::new(NAME, GUID, 1000)
}

fn greeted(bus: &mut SmallBus) -> ClientId {
    let id = bus.enter().unwrap();
    let hello = bus_call("Hello").build(&()).unwrap();
    let acts = bus.hear_client(id, &hello, Time::ZERO);
    assert!(
        matches!(&acts[..], [Act::Client(..), Act::Client(..)]),
        "{acts:?}"
    );
    id
}

fn present(bus: &mut SmallBus, there: bool) -> Vec<Act> {
    let (old, new) = if there { ("", SERVICE) } else { (SERVICE, "") };
    let told = Message::signal(BUS_PATH, BUS, "NameOwnerChanged")
        .build(&(NAME, old, new))
        .unwrap();
    bus.hear_contact(&told)
}

fn listen(bus: &mut SmallBus, id: ClientId, rule: &str) {
    let add = bus_call("AddMatch").build(&rule).unwrap();
    let (to, answer) = to_client(bus.hear_client(id, &add, Time::ZERO));
    assert_eq!(
        (to, answer.message_type()),
        (id, Type::MethodReturn),
        "{answer:?}"
    );
}

fn to_client(acts: Vec<Act>) -> (ClientId, Message) {
    let [Act::Client(id, message)] = &acts[..] else {
        panic!("not one for a client: {acts:?}");
    };
    (*id, message.clone())
}

fn to_contact(acts: Vec<Act>) -> Message {
    let [Act::Contact(message)] = &acts[..] else {
        panic!("not one for the contact: {acts:?}");
    };
    message.clone()
}

fn service_call(destination: &str) -> Message {
    Message::method_call("/", "Do")
        .interface("org.example.I")
        .destination(destination)
        .sender(":9.9")
        .build(&5u32)
        .unwrap()
}

fn error_of(answer: &Message) -> String {
    let header = answer.header();
    header.error_name().map_or(String::new(), |name| {
        name.as_str()
            .rsplit('.')
            .next()
            .unwrap_or_default()
            .to_owned()
    })
}

#[test]
fn calls_of_two_clients_find_back_to_whom_asked() {
    let mut bus = small_bus();
    let ids = [greeted(&mut bus), greeted(&mut bus)];
    // The same number of both.
    let asked = service_call(NAME);
    let passed = ids.map(|id| to_contact(bus.hear_client(id, &asked, Time::ZERO)));
    let serials = passed.map(|call| {
        let header = call.header();
        assert_eq!(header.destination().unwrap().as_str(), NAME);
        assert_eq!(header.sender(), None);
        header.primary().serial_num()
    });
    assert_ne!(serials[0], serials[1]);
    for (serial, id) in serials.into_iter().zip(ids).rev() {
        let answer = Message::method_return(&asked.header())
            .reply_serial(Some(serial))
            .build(&id)
            .unwrap();
        let (to, answer) = to_client(bus.hear_contact(&answer));
        let header = answer.header();
        assert_eq!(to, id);
        assert_eq!(header.sender().unwrap().as_str(), SERVICE);
        assert_eq!(header.destination().unwrap().as_str(), format!(":2.{id}"));
        assert_eq!(
            header.reply_serial(),
            Some(asked.primary_header().serial_num())
        );
        assert_eq!(answer.body().deserialize::<u64>().unwrap(), id);
    }
}

#[test]
fn the_service_is_there_when_the_contact_says_so() {
    let mut bus = small_bus();
    let id = greeted(&mut bus);
    let owner = bus_call("GetNameOwner").build(&NAME).unwrap();
    let (_, answer) = to_client(bus.hear_client(id, &owner, Time::ZERO));
    assert_eq!(error_of(&answer), "NameHasNoOwner");

    listen(
        &mut bus,
        id,
        "member='NameOwnerChanged',arg0='org.example.Player'",
    );
    let (_, told) = to_client(present(&mut bus, true));
    assert_eq!(told.header().sender().unwrap().as_str(), BUS);
    assert_eq!(
        told.body().deserialize::<(&str, &str, &str)>().unwrap(),
        (NAME, "", SERVICE)
    );
    assert!(present(&mut bus, true).is_empty(), "once");
    let (_, answer) = to_client(bus.hear_client(id, &owner, Time::ZERO));
    assert_eq!(answer.body().deserialize::<&str>().unwrap(), SERVICE);
    let names = bus_call("ListNames").build(&()).unwrap();
    let (_, answer) = to_client(bus.hear_client(id, &names, Time::ZERO));
    assert_eq!(
        answer.body().deserialize::<Vec<&str>>().unwrap(),
        [BUS, SERVICE, NAME, ":2.1"]
    );

    let (_, told) = to_client(present(&mut bus, false));
    assert_eq!(
        told.body().deserialize::<(&str, &str, &str)>().unwrap(),
        (NAME, SERVICE, "")
    );
    // It may be started by a call.
    to_contact(bus.hear_client(id, &service_call(NAME), Time::ZERO));
}

#[test]
fn signals_go_to_whom_asked_for_them() {
    let mut bus = small_bus();
    let (one, two) = (greeted(&mut bus), greeted(&mut bus));
    let signal = Message::signal("/", "org.example.I", "Did")
        .build(&())
        .unwrap();
    listen(&mut bus, one, "sender='org.example.Player'");
    listen(&mut bus, two, "sender='org.freedesktop.DBus'");
    assert!(
        bus.hear_contact(&signal).is_empty(),
        "of a service that is not there"
    );
    present(&mut bus, true);
    let (to, told) = to_client(bus.hear_contact(&signal));
    assert_eq!(
        (to, told.header().sender().unwrap().as_str()),
        (one, SERVICE)
    );
    // What the bus alone may say.
    let lie = Message::signal(BUS_PATH, BUS, "NameOwnerChanged")
        .build(&(":2.1", ":2.1", ""))
        .unwrap();
    assert!(bus.hear_contact(&lie).is_empty());
}

#[test]
fn nobody_else_is_on_this_bus() {
    let mut bus = small_bus();
    let id = greeted(&mut bus);
    greeted(&mut bus);
    for destination in [":2.2", "org.example.Other"] {
        let (_, answer) = to_client(bus.hear_client(id, &service_call(destination), Time::ZERO));
        assert_eq!(error_of(&answer), "ServiceUnknown");
        assert_eq!(answer.header().sender().unwrap().as_str(), BUS);
    }
    let request = bus_call("RequestName").build(&(NAME, 0u32)).unwrap();
    let (_, answer) = to_client(bus.hear_client(id, &request, Time::ZERO));
    assert_eq!(error_of(&answer), "AccessDenied");
    for (member, error) in [
        ("AddMatch", "InvalidArgs"),
        ("BecomeMonitor", "UnknownMethod"),
    ] {
        let call = bus_call(member).build(&()).unwrap();
        let (_, answer) = to_client(bus.hear_client(id, &call, Time::ZERO));
        assert_eq!(error_of(&answer), error);
    }
    let (serial, call) = (NonZeroU32::MIN, service_call(NAME));
    let refused = to_contact(bus.hear_contact(&call));
    assert_eq!(error_of(&refused), "AccessDenied");
    let stray = Message::method_return(&call.header())
        .reply_serial(Some(serial))
        .build(&())
        .unwrap();
    assert!(bus.hear_contact(&stray).is_empty());
}

#[test]
fn the_bus_s_properties_are_read_only_and_it_has_no_other_methods_for_them() {
    let mut bus = small_bus();
    let id = greeted(&mut bus);
    for (member, error) in [("Set", "PropertyReadOnly"), ("Reset", "UnknownMethod")] {
        let call = Message::method_call(BUS_PATH, member)
            .interface("org.freedesktop.DBus.Properties")
            .destination(BUS)
            .build(&(BUS, "Features", zbus::Variant::from("none")))
            .unwrap();
        let (_, answer) = to_client(bus.hear_client(id, &call, Time::ZERO));
        assert_eq!(error_of(&answer), error, "{member}");
    }
}

#[test]
fn a_client_says_hello_first_and_once() {
    let mut bus = small_bus();
    let id = bus.enter().unwrap();
    let acts = bus.hear_client(id, &service_call(NAME), Time::ZERO);
    assert!(matches!(&acts[..], [Act::End(1, _)]), "{acts:?}");
    let id = greeted(&mut bus);
    let hello = bus_call("Hello").build(&()).unwrap();
    let acts = bus.hear_client(id, &hello, Time::ZERO);
    assert!(matches!(&acts[..], [Act::End(2, _)]), "{acts:?}");
}

#[test]
fn clients_and_calls_are_bounded_and_end() {
    let mut bus = small_bus();
    let ids: Vec<ClientId> = (0..MAX_CLIENTS).map(|_| greeted(&mut bus)).collect();
    assert_eq!(bus.enter(), None);
    for _ in 0..MAX_CLIENT_CALLS {
        to_contact(bus.hear_client(ids[0], &service_call(NAME), Time::ZERO));
    }
    let (_, answer) = to_client(bus.hear_client(ids[0], &service_call(NAME), Time::ZERO));
    assert_eq!(error_of(&answer), "LimitsExceeded");
    to_contact(bus.hear_client(ids[1], &service_call(NAME), Time::ZERO));
    bus.leave(ids[0]);
    let (to, late) = to_client(bus.expire(PATIENCE));
    assert_eq!((to, error_of(&late).as_str()), (ids[1], "NoReply"));
    assert!(bus.enter().is_some());
}

#[test]
fn the_calls_of_all_clients_are_bounded_together() {
    let mut bus = small_bus();
    let mut passed = None;
    for _ in 0..MAX_CALLS / MAX_CLIENT_CALLS {
        let id = greeted(&mut bus);
        for _ in 0..MAX_CLIENT_CALLS {
            let call = to_contact(bus.hear_client(id, &service_call(NAME), Time::ZERO));
            passed.get_or_insert(call);
        }
    }
    let id = greeted(&mut bus);
    let (_, answer) = to_client(bus.hear_client(id, &service_call(NAME), Time::ZERO));
    assert_eq!(error_of(&answer), "LimitsExceeded");
    // What wants no answer waits for none.
    let silent = Message::method_call("/", "Do")
        .destination(NAME)
        .with_flags(Flags::NO_REPLY_EXPECTED)
        .build(&())
        .unwrap();
    to_contact(bus.hear_client(id, &silent, Time::ZERO));
    // What was asked by who has left is still to be answered by the contact.
    let first = bus.clients.keys().next().copied().unwrap();
    bus.leave(first);
    let (_, answer) = to_client(bus.hear_client(id, &service_call(NAME), Time::ZERO));
    assert_eq!(error_of(&answer), "LimitsExceeded");
    let answer = Message::method_return(&passed.unwrap().header())
        .build(&())
        .unwrap();
    assert!(bus.hear_contact(&answer).is_empty());
    to_contact(bus.hear_client(id, &service_call(NAME), Time::ZERO));
}

proptest! {
    #[test]
    fn every_answer_goes_to_whom_asked_or_to_nobody(
        steps in prop::collection::vec((0..5, 0usize..4, 0usize..16), 0..120)
    ) {
        let mut bus = small_bus();
        let mut clients: Vec<ClientId> = Vec::new();
        let mut waiting: Vec<(NonZeroU32, ClientId)> = Vec::new();
        for (kind, who, which) in steps {
            match kind {
                0 if clients.len() < 4 => clients.push(greeted(&mut bus)),
                1 if !clients.is_empty() => {
                    let gone = clients.swap_remove(who % clients.len());
                    bus.leave(gone);
                }
                2 if !clients.is_empty() => {
                    let id = clients[who % clients.len()];
                    let call = to_contact(bus.hear_client(id, &service_call(NAME), Time::ZERO));
                    waiting.push((call.primary_header().serial_num(), id));
                }
                3 if !waiting.is_empty() => {
                    let (serial, id) = waiting.swap_remove(which % waiting.len());
                    let call = service_call(NAME);
                    let answer = Message::method_return(&call.header())
                        .reply_serial(Some(serial)).build(&()).unwrap();
                    let acts = bus.hear_contact(&answer);
                    if clients.contains(&id) {
                        prop_assert_eq!(to_client(acts).0, id);
                    } else {
                        prop_assert!(acts.is_empty());
                    }
                    prop_assert!(bus.hear_contact(&answer).is_empty());
                }
                _ => { present(&mut bus, which % 2 == 0); }
            }
        }
    }
}
