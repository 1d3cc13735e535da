//! A name on a bus, of a contact that means no good.

use async_channel::Receiver;
use pneuma::client::sharing::{SIGNALS_PER_SECOND, Standing};
use zbus::MatchRule;

use super::*;

const OWN: &str = "org.example.Bobs";

/// A name on a bus, of a contact that means no good.
fn owned(ground: &Ground) -> (support::Bus, Hostile, Task<Result<()>>, Receiver<Standing>) {
    let bus = ground.bus("accepting");
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let (owned, told) = ground.own(&bus, NAME, joined(ground, here), OWN);
    let contact = Hostile::serve(there);
    contact.say(&presence(true));
    assert_eq!(soon(told.recv()), Ok(Standing::Here));
    (bus, contact, owned, told)
}

#[test]
fn what_is_no_message_frees_the_name() {
    for bytes in corrupt() {
        // Shown when it fails.
        println!("{:?}", &bytes[..16]);
        let ground = Ground::new();
        let (bus, contact, owned, _told) = owned(&ground);
        contact.say_bytes(&bytes);
        ends_well(owned);
        soon(bus.connection().request_name(OWN)).expect("the name is free");
    }
}

#[test]
fn what_is_said_before_anybody_listens_is_heard_behind_what_the_bus_is_asked() {
    let ground = Ground::new();
    let bus = ground.bus("accepting");
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let joining = joined(&ground, here);
    let ready = async move {
        let messages = joining.await?;
        // What came before the answer waits to be heard.
        let wire = zbus::Connection::from(&messages);
        wire.call_method(Some(NAME), PATH, Some(PEER), "Ping", &())
            .await?;
        Ok(messages)
    };
    let (owned, told) = ground.own(&bus, NAME, ready, OWN);
    let mut contact = Hostile::serve(there);
    contact.say(&presence(true));
    let ping = contact.hear().expect("a call");
    let answer = Message::method_return(&ping.header());
    contact.say(&answer.build(&()).expect("an answer"));
    assert_eq!(soon(told.recv()), Ok(Standing::Here));
    drop(contact);
    ends_well(owned);
}

#[test]
fn a_name_that_flickers_is_the_service_s_or_nobody_s() {
    let ground = Ground::new();
    let bus = ground.bus("accepting");
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let (owned, told) = ground.own(&bus, NAME, joined(&ground, here), OWN);
    let mut contact = Hostile::serve(there);
    let listening = std::thread::spawn(move || {
        let told = std::iter::from_fn(|| block_on(told.recv()).ok());
        told.last()
    });
    for _ in 0..200 {
        contact.say(&presence(true));
        contact.say(&answer_to(3));
        contact.say(&signal(":1.0"));
        contact.say(&presence(false));
    }
    contact.say(&presence(true));
    // When this is refused, all of that has been heard.
    let refused = call(OWN, PATH, PEER, "Ping");
    contact.say(&refused);
    assert_eq!(contact.answer(&refused).message_type(), Type::Error);
    let daemon = "org.freedesktop.DBus";
    let is_there = |_| {
        let answer = bus.call(
            daemon,
            "/org/freedesktop/DBus",
            daemon,
            "NameHasOwner",
            &OWN,
        );
        answer
            .expect("an answer")
            .body()
            .deserialize()
            .expect("yes or no")
    };
    assert!((0..10_000).any(is_there), "the name is nobody's at the end");
    let wire = bus.connection().clone();
    let called = std::thread::spawn(move || {
        block_on(wire.call_method(Some(OWN), PATH, Some(PLAYER), "Play", &()))
    });
    let call = contact.hear().expect("a call");
    let answer = Message::method_return(&call.header());
    contact.say(&answer.build(&()).expect("an answer"));
    called.join().expect("called").expect("an answer");
    drop(contact);
    ends_well(owned);
    assert_eq!(listening.join().expect("told"), Some(Standing::Away));
}

#[test]
fn a_flood_of_signals_goes_to_the_bus_at_a_pace() {
    let clock = VirtualClock::new();
    let ground = Ground::at(clock.clone());
    let (bus, contact, owned, _told) = owned(&ground);
    let rule = format!("type='signal',interface='{PLAYER}'");
    let rule = MatchRule::try_from(rule.as_str()).expect("a rule");
    let mut heard = soon(MessageStream::for_match_rule(rule, bus.connection(), None))
        .expect("signals are asked for");
    for _ in 0..SIGNALS_PER_SECOND + 50 {
        contact.say(&signal(":1.0"));
    }
    for _ in 0..SIGNALS_PER_SECOND {
        soon(heard.next()).expect("a signal").expect("whole");
    }
    // Who has put a second's signals there puts the next there later.
    let second = Duration::from_secs(1);
    let waits = async {
        while clock.next_deadline().is_none_or(|next| next >= second) {
            yield_now().await;
        }
    };
    soon(waits);
    assert!(block_on(smol::future::poll_once(heard.next())).is_none());
    clock.advance(second);
    for _ in 0..50 {
        soon(heard.next()).expect("a signal").expect("whole");
    }
    drop(contact);
    ends_well(owned);
}
