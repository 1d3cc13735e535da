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

/// The bus's answer to what it was asked.
fn bus_says<B>(offering: &mut Offering, asked: &Out, body: &B) -> Result<Vec<Out>>
where
    B: serde::Serialize + zbus::DynamicType,
{
    let Out::Bus(ask) = asked else {
        panic!("for the bus: {asked:?}");
    };
    let answer = Message::method_return(&ask.header()).sender(BUS);
    offering.hear_bus(&answer.build(body).unwrap())
}

/// The bus's error for what it was asked.
fn bus_fails(offering: &mut Offering, asked: &Out, name: &str) -> Result<Vec<Out>> {
    let Out::Bus(ask) = asked else {
        panic!("for the bus: {asked:?}");
    };
    let name = format!("{ERRORS}{name}");
    let error = Message::error(&ask.header(), name).sender(BUS);
    offering.hear_bus(&error.build(&"process 17 of :1.7, /home/bob").unwrap())
}

/// The bus answers that these are its names, of these owners.
fn looks(offering: &mut Offering, asked: Vec<Out>, names: &[(&str, &str)]) -> Result<Vec<Out>> {
    let listed: Vec<&str> = [BUS, OWNER, NAME]
        .into_iter()
        .chain(names.iter().map(|(name, _)| *name))
        .collect();
    let mut out = bus_says(offering, &one(asked), &listed)?;
    for (_, owner) in names {
        let asked = out.remove(0);
        assert_eq!(member(&asked), "GetNameOwner");
        out.extend(bus_says(offering, &asked, owner)?);
    }
    Ok(out)
}

fn member(out: &Out) -> String {
    let (Out::Bus(message) | Out::Contact(message)) = out;
    let header = message.header();
    header
        .member()
        .map_or(String::new(), |member| member.as_str().to_owned())
}

/// One that has begun, with the service there or not, and nothing known of its owner.
fn asked(filter: Filter, owner: Option<&str>) -> (Offering, Vec<Out>) {
    let mut offering = Offering::new(filter, "a machine");
    let asked = offering.begin().unwrap();
    assert_eq!(asked.len(), 3);
    let mut last = Vec::new();
    for ask in asked {
        last = match (member(&ask).as_str(), owner) {
            ("GetNameOwner", Some(owner)) => bus_says(&mut offering, &ask, &owner),
            ("GetNameOwner", None) => bus_fails(&mut offering, &ask, "NameHasNoOwner"),
            _ => bus_says(&mut offering, &ask, &()),
        }
        .unwrap();
    }
    (offering, last)
}

/// One that has begun, with the service there, which has one name, or not.
fn begun(owner: Option<&str>) -> Offering {
    let (mut offering, mut told) = asked(Filter::of(NAME).unwrap(), owner);
    if owner.is_some() {
        assert_eq!(member(&told[0]), "ListNames");
        told = looks(&mut offering, told, &[("org.example.Other", ":1.8")]).unwrap();
    }
    let told = to_contact(told);
    let body = told.body();
    let (_, _, new) = body.deserialize::<(&str, &str, &str)>().unwrap();
    assert_eq!(new.is_empty(), owner.is_none());
    assert!(offering.is_settled());
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

fn error_of(answer: &Message) -> String {
    let header = answer.header();
    let name = header.error_name().unwrap().as_str();
    name.strip_prefix(ERRORS).unwrap().to_owned()
}

/// Somebody else has the name now, and no other.
fn hand_over(offering: &mut Offering, owner: &str) -> Vec<Out> {
    let mut out = offering.hear_bus(&changed(owner)).unwrap();
    let asked = out.pop().unwrap();
    out.extend(looks(offering, vec![asked], &[]).unwrap());
    out
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
    let passed = to_bus(offering.hear_contact(&asked, Time::ZERO));
    assert_eq!(passed.header().destination().unwrap().as_str(), NAME);
    assert_eq!(passed.header().sender(), None, "the bus says who we are");
    let serial = passed.primary_header().serial_num();
    assert_ne!(serial, asked.primary_header().serial_num());

    let answer = to_contact(offering.hear_bus(&returned(serial)).unwrap());
    let header = answer.header();
    assert_eq!(
        header.reply_serial(),
        Some(asked.primary_header().serial_num())
    );
    assert_eq!((header.sender(), header.destination()), (None, None));
    assert_eq!(answer.body().deserialize::<&str>().unwrap(), "done");
    assert!(
        offering.hear_bus(&returned(serial)).unwrap().is_empty(),
        "once"
    );
}

#[test]
fn what_is_refused_never_reaches_the_bus() {
    let mut offering = begun(Some(OWNER));
    for destination in [BUS, "org.example.Other", OWNER] {
        let asked = call(destination);
        let answer = to_contact(offering.hear_contact(&asked, Time::ZERO));
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
        assert!(offering.hear_contact(&silent, Time::ZERO).is_empty());
    }
}

#[test]
fn only_the_owner_s_signals_go_on_and_without_its_name() {
    let mut offering = begun(Some(OWNER));
    let told = to_contact(offering.hear_bus(&signal(OWNER)).unwrap());
    assert_eq!(told.header().sender(), None);
    assert!(offering.hear_bus(&signal(":1.8")).unwrap().is_empty());

    let gone = to_contact(offering.hear_bus(&changed("")).unwrap());
    assert_eq!(
        gone.body().deserialize::<(&str, &str, &str)>().unwrap(),
        (NAME, SERVICE, "")
    );
    assert!(offering.hear_bus(&signal(OWNER)).unwrap().is_empty());
    let back = to_contact(hand_over(&mut offering, ":1.8"));
    assert_eq!(
        back.body().deserialize::<(&str, &str, &str)>().unwrap(),
        (NAME, "", SERVICE)
    );
    assert!(offering.hear_bus(&signal(OWNER)).unwrap().is_empty());
    to_contact(offering.hear_bus(&signal(":1.8")).unwrap());

    // Handed over: gone and there again.
    let told = hand_over(&mut offering, ":1.9");
    let told = told.into_iter().map(|out| to_contact(vec![out]));
    let new: Vec<String> = told
        .map(|told| {
            let body = told.body();
            let (_, _, new) = body.deserialize::<(&str, &str, &str)>().unwrap();
            new.to_owned()
        })
        .collect();
    assert_eq!(new, ["", SERVICE]);
}

#[test]
fn a_program_with_other_names_is_not_shared_as_a_whole() {
    let (mut offering, looking) = asked(Filter::of(NAME).unwrap(), Some(OWNER));
    // Nothing of it is told, and nothing reaches it, before it is known.
    assert!(!offering.is_settled());
    assert!(offering.hear_bus(&signal(OWNER)).unwrap().is_empty());
    assert!(offering.hear_contact(&call(NAME), Time::ZERO).is_empty());
    let names = [("org.example.Other", ":1.8"), ("org.example.Keys", OWNER)];
    let error = looks(&mut offering, looking, &names).unwrap_err();
    assert_eq!(error.kind, crate::client::Kind::NotAvailable);
    for part in [NAME, "org.example.Keys", "--object"] {
        assert!(error.message.contains(part), "{error}");
    }
    assert!(!error.message.contains("Other"), "{error}");

    // A name that it gets later, and one that another program gets.
    let mut offering = begun(Some(OWNER));
    let got = |name: &str, owner: &str| {
        Message::signal(BUS_PATH, BUS, "NameOwnerChanged")
            .sender(BUS)
            .build(&(name, "", owner))
            .unwrap()
    };
    let other = offering.hear_bus(&got("org.example.Other", ":1.8"));
    assert!(other.unwrap().is_empty());
    assert!(offering.hear_bus(&got("org.example.Keys", OWNER)).is_err());

    // The next one that has the shared name.
    let mut offering = begun(Some(OWNER));
    let mut told = offering.hear_bus(&changed(":1.9")).unwrap();
    let looking = told.split_off(1);
    to_contact(told);
    assert!(looks(&mut offering, looking, &[("org.example.Keys", ":1.9")]).is_err());
}

#[test]
fn with_objects_named_other_names_do_not_matter() {
    for object in ["/", "/a"] {
        let filter = Filter::of(NAME).unwrap().object(object).unwrap();
        let (mut offering, told) = asked(filter, Some(OWNER));
        to_contact(told);
        let got = Message::signal(BUS_PATH, BUS, "NameOwnerChanged")
            .sender(BUS)
            .build(&("org.example.Keys", "", OWNER))
            .unwrap();
        assert!(offering.hear_bus(&got).unwrap().is_empty());
    }
}

#[test]
fn calls_wait_until_the_program_is_known() {
    let (mut offering, looking) = asked(Filter::of(NAME).unwrap(), Some(OWNER));
    for _ in 0..2 {
        assert!(offering.hear_contact(&call(NAME), Time::ZERO).is_empty());
    }
    let out = looks(&mut offering, looking, &[]).unwrap();
    assert!(
        matches!(out[..], [Out::Contact(_), Out::Bus(_), Out::Bus(_)]),
        "{out:?}"
    );
    // It goes away while it is looked at.
    let (mut offering, _) = asked(Filter::of(NAME).unwrap(), Some(OWNER));
    assert!(offering.hear_contact(&call(NAME), Time::ZERO).is_empty());
    let told = offering.hear_bus(&changed("")).unwrap();
    assert!(
        matches!(told[..], [Out::Contact(_), Out::Contact(_)]),
        "{told:?}"
    );
    // What waited too long does not go on later.
    let (mut offering, looking) = asked(Filter::of(NAME).unwrap(), Some(OWNER));
    assert!(offering.hear_contact(&call(NAME), Time::ZERO).is_empty());
    assert_eq!(error_of(&to_contact(offering.expire(PATIENCE))), "NoReply");
    to_contact(looks(&mut offering, looking, &[]).unwrap());
}

#[test]
fn a_service_that_is_not_there_is_started_by_a_call_and_looked_at_first() {
    let mut offering = begun(None);
    assert!(offering.hear_bus(&signal(OWNER)).unwrap().is_empty());
    let start = one(offering.hear_contact(&call(NAME), Time::ZERO));
    assert_eq!(member(&start), "StartServiceByName");
    assert!(
        offering.hear_contact(&call(NAME), Time::ZERO).is_empty(),
        "once"
    );
    let looking = offering.hear_bus(&changed(OWNER)).unwrap();
    assert!(bus_says(&mut offering, &start, &1u32).unwrap().is_empty());
    let out = looks(&mut offering, looking, &[]).unwrap();
    assert!(
        matches!(out[..], [Out::Contact(_), Out::Bus(_), Out::Bus(_)]),
        "{out:?}"
    );

    let mut offering = begun(None);
    let start = one(offering.hear_contact(&call(NAME), Time::ZERO));
    let refused = bus_fails(&mut offering, &start, "ServiceUnknown").unwrap();
    assert_eq!(error_of(&to_contact(refused)), "ServiceUnknown");

    // With objects named, the bus does all that.
    let filter = Filter::of(NAME).unwrap().object("/").unwrap();
    let (mut offering, _) = asked(filter, None);
    let call = to_bus(offering.hear_contact(&call(NAME), Time::ZERO));
    assert!(!call.primary_header().flags().contains(Flags::NO_AUTO_START));
}

#[test]
fn a_call_that_is_passed_on_starts_nobody_who_was_not_looked_at() {
    let mut offering = begun(Some(OWNER));
    // He may be gone before it comes to him.
    let passed = to_bus(offering.hear_contact(&call(NAME), Time::ZERO));
    let flags = passed.primary_header().flags();
    assert!(flags.contains(Flags::NO_AUTO_START));
}

#[test]
fn what_is_shared_for_reading_starts_nothing() {
    let get = Message::method_call("/", "Introspect")
        .interface("org.freedesktop.DBus.Introspectable")
        .destination(NAME)
        .build(&())
        .unwrap();
    let filter = Filter::of(NAME).unwrap().read_only(true);
    let (mut offering, _) = asked(filter.clone(), None);
    let refused = to_contact(offering.hear_contact(&get, Time::ZERO));
    assert_eq!(error_of(&refused), "ServiceUnknown");
    let (mut offering, _) = asked(filter.object("/").unwrap(), None);
    let passed = to_bus(offering.hear_contact(&get, Time::ZERO));
    assert!(
        passed
            .primary_header()
            .flags()
            .contains(Flags::NO_AUTO_START)
    );
}

#[test]
fn calls_are_counted_and_end() {
    let mut offering = begun(Some(OWNER));
    for _ in 0..MAX_CALLS {
        to_bus(offering.hear_contact(&call(NAME), Time::ZERO));
    }
    let refused = to_contact(offering.hear_contact(&call(NAME), Time::ZERO));
    assert_eq!(error_of(&refused), "LimitsExceeded");
    let late = offering.expire(PATIENCE);
    assert_eq!(late.len(), MAX_CALLS);
    to_bus(offering.hear_contact(&call(NAME), PATIENCE));
}

#[test]
fn bytes_of_calls_are_counted_until_their_answers() {
    let mut offering = begun(Some(OWNER));
    let large = Message::method_call("/", "Do")
        .destination(NAME)
        .build(&vec![0u8; MAX_CALL_BYTES / 3])
        .unwrap();
    let first = to_bus(offering.hear_contact(&large, Time::ZERO));
    to_bus(offering.hear_contact(&large, Time::ZERO));
    let refused = to_contact(offering.hear_contact(&large, Time::ZERO));
    assert_eq!(error_of(&refused), "LimitsExceeded");
    to_bus(offering.hear_contact(&call(NAME), Time::ZERO));
    let serial = first.primary_header().serial_num();
    to_contact(offering.hear_bus(&returned(serial)).unwrap());
    to_bus(offering.hear_contact(&large, Time::ZERO));
}

#[test]
fn a_call_that_wants_no_answer_is_counted_and_hears_none() {
    let mut offering = begun(Some(OWNER));
    let silent = |destination: &'static str| {
        Message::method_call("/", "Do")
            .destination(destination)
            .with_flags(Flags::NO_REPLY_EXPECTED)
            .build(&())
            .unwrap()
    };
    let passed: Vec<Message> = (0..MAX_CALLS)
        .map(|_| to_bus(offering.hear_contact(&silent(NAME), Time::ZERO)))
        .collect();
    let flags = passed[0].primary_header().flags();
    assert!(!flags.contains(Flags::NO_REPLY_EXPECTED), "it is answered");
    assert!(offering.hear_contact(&silent(NAME), Time::ZERO).is_empty());
    let serial = passed[0].primary_header().serial_num();
    assert!(offering.hear_bus(&returned(serial)).unwrap().is_empty());
    to_bus(offering.hear_contact(&silent(NAME), Time::ZERO));
    assert!(offering.hear_contact(&silent(BUS), Time::ZERO).is_empty());
    assert!(offering.expire(PATIENCE).is_empty());
}

#[test]
fn the_machine_has_another_id_for_the_contact() {
    let mut offering = begun(Some(OWNER));
    for interface in [Some(PEER), None] {
        let call = Message::method_call("/", "GetMachineId").destination(NAME);
        let call = match interface {
            Some(interface) => call.interface(interface),
            None => call,
        };
        let call = call.build(&()).unwrap();
        let answer = to_contact(offering.hear_contact(&call, Time::ZERO));
        let header = answer.header();
        assert_eq!(
            header.reply_serial(),
            Some(call.primary_header().serial_num())
        );
        assert_eq!(answer.body().deserialize::<&str>().unwrap(), "a machine");
    }
}

#[test]
fn what_the_bus_says_of_a_failure_stays_here() {
    let mut offering = begun(Some(OWNER));
    let passed = one(offering.hear_contact(&call(NAME), Time::ZERO));
    let told = to_contact(bus_fails(&mut offering, &passed, "NoReply").unwrap());
    assert_eq!(error_of(&told), "NoReply");
    let text = told.body();
    let text: &str = text.deserialize().unwrap();
    assert!(!text.contains(":1.") && !text.contains("/home"), "{text}");
    // What the service itself says is for whoever asked.
    let passed = to_bus(offering.hear_contact(&call(NAME), Time::ZERO));
    let own = Message::error(&passed.header(), "org.example.No")
        .sender(OWNER)
        .build(&"no lamp at /home/bob")
        .unwrap();
    let told = to_contact(offering.hear_bus(&own).unwrap());
    assert_eq!(
        told.body().deserialize::<&str>().unwrap(),
        "no lamp at /home/bob"
    );
}

#[test]
fn a_bus_that_refuses_ends_it() {
    let mut offering = Offering::new(Filter::of(NAME).unwrap(), "");
    let asked = to_bus(offering.begin().unwrap().into_iter().take(1).collect());
    let name = "org.freedesktop.DBus.Error.LimitsExceeded";
    let refused = Message::error(&asked.header(), name).build(&"no").unwrap();
    assert!(offering.hear_bus(&refused).is_err());
}

proptest! {
    #[test]
    fn no_unique_name_of_our_bus_is_ever_told(steps in prop::collection::vec((0..5, 1u32..9), 0..60)) {
        let filter = Filter::of(NAME).unwrap().object("/").unwrap();
        let (mut offering, _) = asked(filter, Some(OWNER));
        let mut sent = Vec::new();
        for (kind, number) in steps {
            let owner = format!(":1.{number}");
            let out = match kind {
                0 => offering.hear_bus(&signal(&owner)).unwrap(),
                1 => offering.hear_bus(&changed(&owner)).unwrap(),
                2 => offering.hear_bus(&changed("")).unwrap(),
                3 => offering.hear_contact(&call(NAME), Time::ZERO),
                _ => match sent.pop() {
                    Some(serial) => offering.hear_bus(&returned(serial)).unwrap(),
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
