//! What applications say to each other.

use futures_lite::{
    StreamExt as _,
    future::{block_on, poll_once},
};
use support::{CallError, Person, application, name};
use zbus::{MatchRule, MessageStream, object_server::SignalEmitter};

use crate::{BOARD, Board, alice_and_bob};

const SERVICE: &str = "com.example.Chess";
const INTERFACE: &str = "com.example.Chess.Board";

/// Calls the other end.
async fn call<B, A>(from: &zbus::Connection, method: &str, body: &B) -> zbus::Result<A>
where
    B: serde::Serialize + zbus::DynamicType,
    A: serde::de::DeserializeOwned + zbus::Type,
{
    let destination = None::<&str>;
    let answer = from.call_method(destination, BOARD, Some(INTERFACE), method, body);
    answer.await?.body().deserialize()
}

#[test]
fn both_call_each_other_and_hear_each_others_signals() {
    let (alice, bob) = alice_and_bob();
    let [(_, here), (_, there)] = alice.dbus_tube_to(&bob, SERVICE);
    let hers = application(&here, BOARD, Board { of: "alice" }).expect("alice's application");
    let his = application(&there, BOARD, Board { of: "bob" }).expect("bob's application");
    block_on(async {
        for (from, of) in [(&hers, "bob"), (&his, "alice")] {
            let answer: (String, String) = call(from, "Play", &"e4").await.expect("Play");
            assert_eq!(answer, (of.into(), "e4".into()));
            let refused = call::<_, ()>(from, "Cheat", &()).await;
            let refused = CallError::from(refused.expect_err("Cheat"));
            assert_eq!(refused.name, "org.freedesktop.DBus.Error.AccessDenied");
        }
        let rule = MatchRule::builder()
            .member("Moved")
            .build()
            .expect("a rule");
        let mut heard = MessageStream::for_match_rule(rule, &his, None)
            .await
            .expect("a stream of signals");
        let emitter = SignalEmitter::new(&hers, BOARD).expect("a path");
        for number in 0..200 {
            Board::moved(&emitter, &number.to_string())
                .await
                .expect("a signal");
        }
        for number in 0..200 {
            let signal = heard.next().await.expect("a signal").expect("a signal");
            let text: String = signal.body().deserialize().expect("a text");
            assert_eq!(text, number.to_string());
        }
    });
}

#[test]
fn what_is_large_arrives_whole_and_many_are_in_flight() {
    let (alice, bob) = alice_and_bob();
    let [(_, here), (_, there)] = alice.dbus_tube_to(&bob, SERVICE);
    let hers = application(&here, BOARD, Board { of: "alice" }).expect("alice's application");
    let _his = application(&there, BOARD, Board { of: "bob" }).expect("bob's application");
    let bytes: Vec<u8> = (0..2 << 20).map(|n| (n % 251) as u8).collect();
    block_on(async {
        let back: Vec<u8> = call(&hers, "Echo", &bytes).await.expect("Echo");
        assert!(back == bytes);
        let small = |number: u32| {
            let hers = hers.clone();
            async move {
                let bytes = number.to_le_bytes().to_vec();
                let back: Vec<u8> = call(&hers, "Echo", &bytes).await.expect("Echo");
                assert_eq!(back, bytes);
            }
        };
        let mut calls: Vec<_> = (0..300).map(|number| Box::pin(small(number))).collect();
        // All of them are under way before one is waited for.
        let mut under_way = Vec::new();
        for mut call in calls.drain(..) {
            if poll_once(call.as_mut()).await.is_none() {
                under_way.push(call);
            }
        }
        for call in under_way {
            call.await;
        }
    });
}

#[test]
fn what_went_through_is_counted() {
    let (alice, bob) = alice_and_bob();
    let [(ours, here), (theirs, there)] = alice.dbus_tube_to(&bob, SERVICE);
    let count = |person: &Person, tube: &str, property: &str| {
        let value = person.property(tube, name::STATISTICS, property);
        u64::try_from(value.expect("a property")).expect("a number of bytes")
    };
    let connections = |person: &Person, tube: &str| {
        let value = person.property(tube, name::STATISTICS, "Connections");
        u32::try_from(value.expect("a property")).expect("a number")
    };
    assert_eq!(connections(&alice, &ours), 0);
    let hers = application(&here, BOARD, Board { of: "alice" }).expect("alice's application");
    let his = application(&there, BOARD, Board { of: "bob" }).expect("bob's application");
    let sent = vec![7_u8; 100_000];
    let back: Vec<u8> = block_on(call(&hers, "Echo", &sent)).expect("Echo");
    assert_eq!(back.len(), sent.len());
    for (person, tube) in [(&alice, &ours), (&bob, &theirs)] {
        person.until("all of it is counted", || {
            let there = |property| count(person, tube, property) > 100_000;
            let all = there("BytesSent") && there("BytesReceived");
            (all && connections(person, tube) == 1).then_some(())
        });
    }
    let of = |person: &Person, tube: &str| {
        [
            count(person, tube, "BytesSent"),
            count(person, tube, "BytesReceived"),
        ]
    };
    let [sent, received] = of(&alice, &ours);
    assert_eq!(of(&bob, &theirs), [received, sent]);
    let address = alice.property(&ours, name::STATISTICS, "Address");
    assert_eq!(
        String::try_from(address.expect("Address")).expect("a text"),
        here
    );
    let encrypted = alice.property(&ours, name::STATISTICS, "Encrypted");
    assert_eq!(encrypted.expect("Encrypted").try_into(), Ok(true));
    drop((hers, his));
    alice.until("nobody is there", || {
        (connections(&alice, &ours) == 0).then_some(())
    });
}

#[test]
fn an_application_comes_late_goes_away_and_comes_back() {
    let (alice, bob) = alice_and_bob();
    let [(_, here), (_, there)] = alice.dbus_tube_to(&bob, SERVICE);
    let hers = application(&here, BOARD, Board { of: "alice" }).expect("alice's application");
    block_on(async {
        // Asked before anybody is there to answer.
        let mut early = Box::pin(call::<_, (String, String)>(&hers, "Play", &"d4"));
        assert!(poll_once(early.as_mut()).await.is_none());
        for round in 0..3 {
            let his = application(&there, BOARD, Board { of: "bob" }).expect("bob's application");
            if round == 0 {
                let answer = early.as_mut().await.expect("Play");
                assert_eq!(answer, ("bob".into(), "d4".into()));
            }
            let answer: (String, String) = call(&his, "Play", &"c5").await.expect("Play");
            assert_eq!(answer.0, "alice");
            his.close().await.expect("closed");
        }
    });
}
