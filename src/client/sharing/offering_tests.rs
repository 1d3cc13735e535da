//! The sharing side between a bus and a contact that are played by the test.

use proptest::prelude::*;
use zbus::message::Flags;

use super::*;
use crate::client::sharing::PATIENCE;

const NAME: &str = "org.example.Player";
const OWNER: &str = ":1.7";

fn returned(to: NonZeroU32) -> Message {
    let call = Message::method_call("/", "Do").build(&()).unwrap();
    Message::method_return(&call.header())
        .reply_serial(Some(to))
        .sender(OWNER)
        .destination(":1.99")
        .build(&"done")
        .unwrap()
}

/// One that has begun, with the service there or not.
fn begun(owner: Option<&str>) -> Offering {
    let mut offering = Offering::new(Filter::of(NAME).unwrap());
    let asked = offering.begin().unwrap();
    assert_eq!(asked.len(), 3);
    for out in asked {
        let Out::Bus(ask) = out else {
            panic!("for the bus: {out:?}");
        };
        let header = ask.header();
        let answer = match (header.member().unwrap().as_str(), owner) {
            ("GetNameOwner", Some(owner)) => Message::method_return(&header).build(&owner).unwrap(),
            ("GetNameOwner", None) => {
                let name = "org.freedesktop.DBus.Error.NameHasNoOwner";
                Message::error(&header, name).build(&"nobody").unwrap()
            }
            _ => Message::method_return(&header).build(&()).unwrap(),
        };
        let told = offering.from_bus(&answer).unwrap();
        assert_eq!(
            told.len(),
            usize::from(*header.member().unwrap() == "GetNameOwner")
        );
    }
    offering
}

fn one(mut out: Vec<Out>) -> Out {
    assert_eq!(out.len(), 1, "{out:?}");
    out.remove(0)
}

fn to_contact(out: Vec<Out>) -> Message {
    match one(out) {
        Out::Contact(message) => message,
        Out::Bus(message) => panic!("went to the bus: {message:?}"),
    }
}

fn to_bus(out: Vec<Out>) -> Message {
    match one(out) {
        Out::Bus(message) => message,
        Out::Contact(message) => panic!("went to the contact: {message:?}"),
    }
}

fn call(destination: &str) -> Message {
    Message::method_call("/", "Do")
        .interface("org.example.I")
        .destination(destination)
        .sender(":9.9")
        .build(&5u32)
        .unwrap()
}

fn signal(sender: &str) -> Message {
    Message::signal("/", "org.example.I", "Did")
        .sender(sender)
        .build(&5u32)
        .unwrap()
}

fn changed(new: &str) -> Message {
    Message::signal(BUS_PATH, BUS, "NameOwnerChanged")
        .sender(BUS)
        .build(&(NAME, "", new))
        .unwrap()
}

#[test]
fn a_call_goes_on_and_its_answer_comes_back() {
    let mut offering = begun(Some(OWNER));
    let asked = call(NAME);
    let passed = to_bus(offering.from_contact(&asked, Time::ZERO));
    assert_eq!(passed.header().destination().unwrap().as_str(), NAME);
    assert_eq!(passed.header().sender(), None, "the bus says who we are");
    let serial = passed.primary_header().serial_num();
    assert_ne!(serial, asked.primary_header().serial_num());

    let answer = to_contact(offering.from_bus(&returned(serial)).unwrap());
    let header = answer.header();
    assert_eq!(
        header.reply_serial(),
        Some(asked.primary_header().serial_num())
    );
    assert_eq!((header.sender(), header.destination()), (None, None));
    assert_eq!(answer.body().deserialize::<&str>().unwrap(), "done");
    assert!(
        offering.from_bus(&returned(serial)).unwrap().is_empty(),
        "once"
    );
}

#[test]
fn what_is_refused_never_reaches_the_bus() {
    let mut offering = begun(Some(OWNER));
    for destination in [BUS, "org.example.Other", OWNER] {
        let asked = call(destination);
        let answer = to_contact(offering.from_contact(&asked, Time::ZERO));
        let header = answer.header();
        assert_eq!(
            header.error_name().unwrap().as_str(),
            "org.freedesktop.DBus.Error.AccessDenied"
        );
        assert_eq!(
            header.reply_serial(),
            Some(asked.primary_header().serial_num())
        );
    }
    for silent in [signal(OWNER), returned(NonZeroU32::MIN)] {
        assert!(offering.from_contact(&silent, Time::ZERO).is_empty());
    }
}

#[test]
fn only_the_owner_s_signals_go_on_and_without_its_name() {
    let mut offering = begun(Some(OWNER));
    let told = to_contact(offering.from_bus(&signal(OWNER)).unwrap());
    assert_eq!(told.header().sender(), None);
    assert!(offering.from_bus(&signal(":1.8")).unwrap().is_empty());

    let gone = to_contact(offering.from_bus(&changed("")).unwrap());
    assert_eq!(
        gone.body().deserialize::<(&str, &str, &str)>().unwrap(),
        (NAME, PRESENT, "")
    );
    assert!(offering.from_bus(&signal(OWNER)).unwrap().is_empty());
    let back = to_contact(offering.from_bus(&changed(":1.8")).unwrap());
    assert_eq!(
        back.body().deserialize::<(&str, &str, &str)>().unwrap(),
        (NAME, "", PRESENT)
    );
    assert!(offering.from_bus(&signal(OWNER)).unwrap().is_empty());
    to_contact(offering.from_bus(&signal(":1.8")).unwrap());

    // Handed over: gone and there again.
    let told = offering.from_bus(&changed(":1.9")).unwrap();
    let told = told.into_iter().map(|out| to_contact(vec![out]));
    let new: Vec<String> = told
        .map(|told| {
            let body = told.body();
            let (_, _, new) = body.deserialize::<(&str, &str, &str)>().unwrap();
            new.to_owned()
        })
        .collect();
    assert_eq!(new, ["", PRESENT]);
}

#[test]
fn a_service_that_is_not_there_can_be_called_all_the_same() {
    // The bus starts it.
    let mut offering = begun(None);
    to_bus(offering.from_contact(&call(NAME), Time::ZERO));
    assert!(offering.from_bus(&signal(OWNER)).unwrap().is_empty());
}

#[test]
fn calls_are_counted_and_end() {
    let mut offering = begun(Some(OWNER));
    for _ in 0..MAX_CALLS {
        to_bus(offering.from_contact(&call(NAME), Time::ZERO));
    }
    let refused = to_contact(offering.from_contact(&call(NAME), Time::ZERO));
    assert_eq!(
        refused.header().error_name().unwrap().as_str(),
        "org.freedesktop.DBus.Error.LimitsExceeded"
    );
    let late = offering.expire(PATIENCE);
    assert_eq!(late.len(), MAX_CALLS);
    to_bus(offering.from_contact(&call(NAME), PATIENCE));
}

#[test]
fn a_call_that_wants_no_answer_waits_for_none() {
    let mut offering = begun(Some(OWNER));
    let call = Message::method_call("/", "Do")
        .destination(NAME)
        .with_flags(Flags::NO_REPLY_EXPECTED)
        .build(&())
        .unwrap();
    for _ in 0..=MAX_CALLS {
        let passed = to_bus(offering.from_contact(&call, Time::ZERO));
        assert!(
            passed
                .primary_header()
                .flags()
                .contains(Flags::NO_REPLY_EXPECTED)
        );
    }
    let forbidden = Message::method_call("/", "Do")
        .destination(BUS)
        .with_flags(Flags::NO_REPLY_EXPECTED)
        .build(&())
        .unwrap();
    assert!(offering.from_contact(&forbidden, Time::ZERO).is_empty());
}

#[test]
fn a_bus_that_refuses_ends_it() {
    let mut offering = Offering::new(Filter::of(NAME).unwrap());
    let asked = to_bus(offering.begin().unwrap().into_iter().take(1).collect());
    let name = "org.freedesktop.DBus.Error.LimitsExceeded";
    let refused = Message::error(&asked.header(), name).build(&"no").unwrap();
    assert!(offering.from_bus(&refused).is_err());
}

proptest! {
    #[test]
    fn no_unique_name_of_our_bus_is_ever_told(steps in prop::collection::vec((0..5, 1u32..9), 0..60)) {
        let mut offering = begun(Some(OWNER));
        let mut sent = Vec::new();
        for (kind, number) in steps {
            let owner = format!(":1.{number}");
            let out = match kind {
                0 => offering.from_bus(&signal(&owner)).unwrap(),
                1 => offering.from_bus(&changed(&owner)).unwrap(),
                2 => offering.from_bus(&changed("")).unwrap(),
                3 => offering.from_contact(&call(NAME), Time::ZERO),
                _ => match sent.pop() {
                    Some(serial) => offering.from_bus(&returned(serial)).unwrap(),
                    None => vec![],
                },
            };
            for out in out {
                match out {
                    Out::Bus(message) => sent.push(message.primary_header().serial_num()),
                    Out::Contact(message) => {
                        let header = message.header();
                        prop_assert!(header.sender().is_none() && header.destination().is_none());
                    }
                }
            }
        }
    }
}
