//! The service under a name on a bus, between that bus and a contact that are played by the test.

use proptest::prelude::*;

use super::*;
use crate::client::sharing::{PATIENCE, SERVICE, words::BUS_PATH};

const SHARED: &str = "org.example.Player";
const NAME: &str = "org.example.BobsPlayer";

/// A moment at which the name may come or go, whenever it did last.
fn later() -> Time {
    static LAST: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    FLICKER * LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn presence(there: bool) -> Message {
    let (old, new) = if there { ("", SERVICE) } else { (SERVICE, "") };
    Message::signal(BUS_PATH, BUS, "NameOwnerChanged")
        .build(&(SHARED, old, new))
        .unwrap()
}

fn one(out: Vec<Out>) -> Message {
    match <[Out; 1]>::try_from(out) {
        Ok([Out::Bus(message) | Out::Contact(message)]) => message,
        Err(out) => panic!("not one: {out:?}"),
    }
}

fn member(message: &Message) -> String {
    let header = message.header();
    header
        .member()
        .map_or(String::new(), |member| member.as_str().to_owned())
}

/// The bus's answer.
fn says<B>(owning: &mut Owning, asked: &Message, body: &B) -> Result<()>
where
    B: serde::Serialize + zbus::DynamicType,
{
    let answer = Message::method_return(&asked.header()).build(body).unwrap();
    let out = owning.hear_bus(&answer, Time::ZERO)?;
    assert!(out.is_empty(), "{out:?}");
    Ok(())
}

/// The bus says something to us alone.
fn hears(owning: &mut Owning, member: &str) -> Result<()> {
    let told = Message::signal(BUS_PATH, BUS, member)
        .sender(BUS)
        .destination(":1.5")
        .build(&NAME)
        .unwrap();
    owning.hear_bus(&told, Time::ZERO).map(drop)
}

/// One that has begun, with nobody having the name.
fn begun() -> Owning {
    let mut owning = Owning::new(Filter::of(SHARED).unwrap(), NAME).unwrap();
    let mut asked = owning.begin().unwrap().into_iter();
    let mut next = || one(vec![asked.next().unwrap()]);
    let (rule, taken, startable) = (next(), next(), next());
    says(&mut owning, &rule, &()).unwrap();
    says(&mut owning, &taken, &false).unwrap();
    says(&mut owning, &startable, &vec![BUS]).unwrap();
    owning
}

/// One that has the name.
fn here() -> Owning {
    let mut owning = begun();
    let asked = one(owning.hear_contact(&presence(true), later()));
    says(&mut owning, &asked, &PRIMARY_OWNER).unwrap();
    assert_eq!(owning.standing(), Standing::Here);
    owning
}

fn call(sender: &str) -> Message {
    Message::method_call("/", "Do")
        .interface("org.example.I")
        .destination(NAME)
        .sender(sender)
        .build(&5u32)
        .unwrap()
}

fn error_of(out: Vec<Out>) -> String {
    let answer = one(out);
    let header = answer.header();
    header.error_name().unwrap().as_str().to_owned()
}

fn left(name: &str) -> Message {
    Message::signal(BUS_PATH, BUS, "NameOwnerChanged")
        .sender(BUS)
        .build(&(name, name, ""))
        .unwrap()
}

#[test]
fn the_name_comes_and_goes_with_the_service() {
    let mut owning = begun();
    assert!(owning.hear_contact(&presence(false), later()).is_empty());
    let asked = one(owning.hear_contact(&presence(true), later()));
    assert_eq!(member(&asked), "RequestName");
    let body = asked.body();
    let (name, flags) = body.deserialize::<(&str, u32)>().unwrap();
    assert_eq!((name, flags), (NAME, DO_NOT_QUEUE));
    assert_eq!(owning.standing(), Standing::Away, "not known yet");
    says(&mut owning, &asked, &PRIMARY_OWNER).unwrap();
    assert_eq!(owning.standing(), Standing::Here);
    assert!(
        owning.hear_contact(&presence(true), later()).is_empty(),
        "once"
    );

    let released = one(owning.hear_contact(&presence(false), later()));
    assert_eq!(member(&released), "ReleaseName");
    assert_eq!(owning.standing(), Standing::Away);
    // The bus says so too.
    hears(&mut owning, "NameLost").unwrap();
    assert_eq!(
        member(&one(owning.hear_contact(&presence(true), later()))),
        "RequestName"
    );
}

#[test]
fn a_name_that_is_taken_is_an_error() {
    let mut owning = Owning::new(Filter::of(SHARED).unwrap(), NAME).unwrap();
    let taken = owning.begin().unwrap().remove(1);
    let error = says(&mut owning, &one(vec![taken]), &true).unwrap_err();
    assert_eq!(error.kind, Kind::NotAvailable);
    assert!(error.message.contains(NAME), "{error}");

    // Between that answer and our wish.
    let mut owning = begun();
    let asked = one(owning.hear_contact(&presence(true), later()));
    let error = says(&mut owning, &asked, &3u32).unwrap_err();
    assert_eq!(error.kind, Kind::NotAvailable);

    let mut owning = begun();
    let asked = one(owning.hear_contact(&presence(true), later()));
    let refused = Message::error(&asked.header(), "org.freedesktop.DBus.Error.AccessDenied")
        .build(&"by policy")
        .unwrap();
    let error = owning.hear_bus(&refused, Time::ZERO).unwrap_err();
    assert_eq!(error.kind, Kind::PermissionDenied);

    for name in [
        "",
        ":1.5",
        "org",
        BUS,
        "org.freedesktop.Telepathy.Client.Pneuma",
    ] {
        assert!(
            Owning::new(Filter::of(SHARED).unwrap(), name).is_err(),
            "{name}"
        );
        assert!(Filter::of(name).is_err(), "{name}");
    }
}

#[test]
fn a_name_that_the_bus_can_start_somebody_for_is_taken() {
    let mut owning = Owning::new(Filter::of(SHARED).unwrap(), NAME).unwrap();
    let mut asked = owning.begin().unwrap();
    let (startable, taken) = (one(asked.split_off(2)), one(asked.split_off(1)));
    // Not a moment too early.
    assert!(owning.hear_contact(&presence(true), later()).is_empty());
    says(&mut owning, &taken, &false).unwrap();
    let error = says(&mut owning, &startable, &vec![BUS, NAME]).unwrap_err();
    assert_eq!(error.kind, Kind::NotAvailable);
    assert!(error.message.contains(NAME), "{error}");

    let mut owning = Owning::new(Filter::of(SHARED).unwrap(), NAME).unwrap();
    let mut asked = owning.begin().unwrap();
    let (startable, taken) = (one(asked.split_off(2)), one(asked.split_off(1)));
    assert!(owning.hear_contact(&presence(true), later()).is_empty());
    says(&mut owning, &taken, &false).unwrap();
    let answer = Message::method_return(&startable.header())
        .build(&vec![BUS])
        .unwrap();
    let asked = one(owning.hear_bus(&answer, later()).unwrap());
    assert_eq!(member(&asked), "RequestName");
}

#[test]
fn a_service_that_flickers_comes_and_goes_once_a_second() {
    let mut owning = begun();
    let begin = later();
    let asked = one(owning.hear_contact(&presence(true), begin));
    says(&mut owning, &asked, &PRIMARY_OWNER).unwrap();
    for _ in 0..100 {
        assert!(owning.hear_contact(&presence(false), begin).is_empty());
        assert!(owning.hear_contact(&presence(true), begin).is_empty());
    }
    // The last word is what holds already.
    assert!(owning.expire(begin + FLICKER).is_empty());
    assert!(owning.hear_contact(&presence(true), begin).is_empty());
    assert!(owning.hear_contact(&presence(false), begin).is_empty());
    assert!(owning.expire(begin + FLICKER / 2).is_empty());
    assert_eq!(owning.standing(), Standing::Here);
    let released = one(owning.expire(begin + FLICKER));
    assert_eq!(member(&released), "ReleaseName");
    assert!(
        owning
            .hear_contact(&presence(true), begin + FLICKER)
            .is_empty()
    );
    let asked = one(owning.expire(begin + FLICKER * 2));
    assert_eq!(member(&asked), "RequestName");
}

#[test]
fn signals_go_to_the_bus_as_far_as_they_may() {
    let changed = |of: &str| {
        Message::signal("/a", "org.freedesktop.DBus.Properties", "PropertiesChanged")
            .build(&(
                of,
                std::collections::HashMap::<&str, zbus::Variant<'_>>::new(),
                Vec::<&str>::new(),
            ))
            .unwrap()
    };
    let plain = |path: &'static str, interface: &'static str| {
        Message::signal(path, interface, "Did").build(&()).unwrap()
    };
    let filter = Filter::of(SHARED)
        .and_then(|filter| filter.object("/a"))
        .and_then(|filter| filter.interface("org.example.I"))
        .unwrap();
    let mut owning = here();
    assert_eq!(
        owning
            .hear_contact(&plain("/b", "org.example.J"), Time::ZERO)
            .len(),
        1
    );
    owning.filter = filter;
    for (signal, goes) in [
        (plain("/a", "org.example.I"), 1),
        (plain("/a/b", "org.example.I"), 1),
        (plain("/b", "org.example.I"), 0),
        (plain("/a", "org.example.J"), 0),
        (plain("/a", "org.freedesktop.portal.Request"), 0),
        (changed("org.example.I"), 1),
        (changed("org.example.J"), 0),
    ] {
        assert_eq!(
            owning.hear_contact(&signal, Time::ZERO).len(),
            goes,
            "{signal:?}"
        );
    }
}

#[test]
fn a_long_signal_is_left_out() {
    let mut owning = here();
    for (bytes, goes) in [(MAX_SIGNAL - 1024, 1), (MAX_SIGNAL, 0)] {
        let signal = Message::signal("/", "org.example.I", "Did")
            .build(&vec![0u8; bytes])
            .unwrap();
        assert_eq!(owning.hear_contact(&signal, Time::ZERO).len(), goes);
    }
}

#[test]
fn who_took_the_name_meanwhile_is_waited_for() {
    let mut owning = here();
    owning.hear_contact(&presence(false), later());
    let asked = one(owning.hear_contact(&presence(true), later()));
    assert_eq!(
        asked.body().deserialize::<(&str, u32)>().unwrap(),
        (NAME, 0)
    );
    says(&mut owning, &asked, &IN_QUEUE).unwrap();
    assert_eq!(owning.standing(), Standing::Waiting);
    let signal = Message::signal("/", "org.example.I", "Did")
        .build(&())
        .unwrap();
    assert!(
        owning.hear_contact(&signal, Time::ZERO).is_empty(),
        "not in their name"
    );
    hears(&mut owning, "NameAcquired").unwrap();
    assert_eq!(owning.standing(), Standing::Here);
    one(owning.hear_contact(&signal, Time::ZERO));
}

#[test]
fn a_name_that_the_bus_takes_away_is_an_error() {
    let mut owning = here();
    let error = hears(&mut owning, "NameLost").unwrap_err();
    assert_eq!(error.kind, Kind::NotAvailable);
    // Somebody else's word for it is none.
    let mut owning = here();
    let lie = Message::signal(BUS_PATH, BUS, "NameLost")
        .sender(":1.9")
        .build(&NAME)
        .unwrap();
    assert!(owning.hear_bus(&lie, Time::ZERO).unwrap().is_empty());
    assert_eq!(owning.standing(), Standing::Here);
}

#[test]
fn calls_go_on_and_answers_come_back_to_whom_asked() {
    let mut owning = here();
    let asked = call(":1.7");
    let passed = one(owning.hear_bus(&asked, Time::ZERO).unwrap());
    let header = passed.header();
    assert_eq!(header.destination().unwrap().as_str(), SHARED);
    assert_eq!(header.sender(), None, "the contact hears nobody's name");
    let answer = Message::method_return(&header).build(&"done").unwrap();
    let back = one(owning.hear_contact(&answer, Time::ZERO));
    let header = back.header();
    assert_eq!(header.destination().unwrap().as_str(), ":1.7");
    assert_eq!(
        header.reply_serial(),
        Some(asked.primary_header().serial_num())
    );
    assert_eq!(back.body().deserialize::<&str>().unwrap(), "done");
    assert!(owning.hear_contact(&answer, Time::ZERO).is_empty(), "once");

    owning.hear_contact(&presence(false), later());
    let refused = owning.hear_bus(&asked, Time::ZERO).unwrap();
    assert_eq!(
        error_of(refused),
        "org.freedesktop.DBus.Error.ServiceUnknown"
    );
}

#[test]
fn the_contact_may_neither_call_nor_speak_for_the_bus() {
    let mut owning = here();
    let refused = owning.hear_contact(&call(":1.7"), Time::ZERO);
    assert!(matches!(refused[..], [Out::Contact(_)]), "{refused:?}");
    assert_eq!(error_of(refused), "org.freedesktop.DBus.Error.AccessDenied");
    let lie = Message::signal(BUS_PATH, BUS, "NameOwnerChanged")
        .sender(BUS)
        .build(&(":1.7", ":1.7", ""))
        .unwrap();
    assert!(owning.hear_contact(&lie, Time::ZERO).is_empty());
    let stray = Message::method_return(&call(":1.7").header())
        .build(&())
        .unwrap();
    assert!(owning.hear_contact(&stray, Time::ZERO).is_empty());
    let signal = Message::signal("/", "org.example.I", "Did")
        .sender(":1.7")
        .destination(":1.8")
        .build(&())
        .unwrap();
    let told = one(owning.hear_contact(&signal, Time::ZERO));
    let header = told.header();
    assert_eq!((header.sender(), header.destination()), (None, None));
}

#[test]
fn calls_are_counted_until_they_are_answered() {
    let mut owning = here();
    let asked =
        (0..MAX_CLIENT_CALLS).map(|_| one(owning.hear_bus(&call(":1.7"), Time::ZERO).unwrap()));
    let last = asked.last().unwrap();
    let limit = "org.freedesktop.DBus.Error.LimitsExceeded";
    let refused = owning.hear_bus(&call(":1.7"), Time::ZERO).unwrap();
    assert_eq!(error_of(refused), limit);
    for number in 0..MAX_CALLS - MAX_CLIENT_CALLS {
        let caller = format!(":1.{}", 100 + number);
        let passed = owning.hear_bus(&call(&caller), Time::ZERO).unwrap();
        assert!(matches!(passed[..], [Out::Contact(_)]));
    }
    let refused = owning.hear_bus(&call(":1.8"), Time::ZERO).unwrap();
    assert_eq!(error_of(refused), limit);
    assert!(
        owning
            .hear_bus(&left(":1.7"), Time::ZERO)
            .unwrap()
            .is_empty()
    );
    // The contact still counts what was asked by whoever left.
    let refused = owning.hear_bus(&call(":1.8"), Time::ZERO).unwrap();
    assert_eq!(error_of(refused), limit);
    let answer = Message::method_return(&last.header()).build(&()).unwrap();
    assert!(
        owning.hear_contact(&answer, Time::ZERO).is_empty(),
        "nobody's"
    );
    let passed = owning.hear_bus(&call(":1.8"), Time::ZERO).unwrap();
    assert!(matches!(passed[..], [Out::Contact(_)]));
    let late = owning.expire(PATIENCE);
    assert_eq!(late.len(), MAX_CALLS - MAX_CLIENT_CALLS + 1);
    assert!(owning.expire(PATIENCE).is_empty());
}

#[test]
fn whoever_waits_at_the_end_has_an_answer() {
    let mut owning = here();
    for caller in [":1.7", ":1.8", ":1.9"] {
        one(owning.hear_bus(&call(caller), Time::ZERO).unwrap());
    }
    owning.hear_bus(&left(":1.8"), Time::ZERO).unwrap();
    let callers: Vec<_> = owning
        .end()
        .into_iter()
        .map(|out| {
            let answer = one(vec![out]);
            let header = answer.header();
            let name = header.error_name().unwrap().as_str();
            assert_eq!(name, "org.freedesktop.DBus.Error.NoReply");
            header.destination().unwrap().to_string()
        })
        .collect();
    assert_eq!(callers, [":1.7", ":1.9"]);
    assert!(owning.end().is_empty());
}

proptest! {
    /// Whatever the contact says and however late the bus answers: what is asked of the bus is one request and one
    /// release by turns, and at the end nothing is kept that should not be.
    #[test]
    fn requests_and_releases_take_turns(steps in prop::collection::vec(0..5, 0..60)) {
        let mut owning = begun();
        // What the bus has not answered, and whether it is a request.
        let mut asked: std::collections::VecDeque<Message> = Default::default();
        let (mut owned, mut wanted, mut requested) = (false, false, false);
        for step in steps {
            let out = match step {
                0 | 1 => {
                    wanted = step == 0;
                    owning.hear_contact(&presence(wanted), later())
                }
                2 => owning.hear_contact(&Message::signal("/", "a.b", "C").build(&()).unwrap(), Time::ZERO),
                _ => {
                    if let Some(question) = asked.pop_front() {
                        owned = member(&question) == "RequestName";
                        says(&mut owning, &question, &PRIMARY_OWNER).unwrap();
                        hears(&mut owning, if owned { "NameAcquired" } else { "NameLost" }).unwrap();
                    }
                    vec![]
                }
            };
            for out in out {
                let Out::Bus(message) = out else { panic!("for the bus") };
                match member(&message).as_str() {
                    "C" => {
                        prop_assert!(requested, "a signal of a service that is not there");
                        continue;
                    }
                    "RequestName" => prop_assert!(!requested),
                    _ => prop_assert!(requested),
                }
                requested = !requested;
                asked.push_back(message);
            }
            prop_assert_eq!(requested, wanted);
            if asked.is_empty() {
                prop_assert_eq!(owned, wanted);
                prop_assert_eq!(owning.standing() == Standing::Here, wanted);
            }
        }
    }
}
