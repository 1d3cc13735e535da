//! A D-Bus tube by the client library, from the offer to what applications say.

use std::{collections::HashMap, future::Future, sync::Arc};

use actors::runtime::{Spawner, SystemClock};
use futures_lite::{FutureExt as _, StreamExt as _};
use pneuma::client::{
    Bus, Connection, Event, Events, Kind, Tube, TubeDescription, TubeKind, TubeState,
};
use smol::{Executor, Timer};
use support::{PATIENCE, Person};
use zbus::{MatchRule, MessageStream, Variant, object_server::SignalEmitter};

use crate::{BOARD, Board, alice_and_bob};

const SERVICE: &str = "com.example.Chess";
const INTERFACE: &str = "com.example.Chess.Board";

/// Runs what the library does for a program, on an executor as a program has one.
fn run<F: Future<Output = ()>>(work: impl FnOnce(Spawner) -> F) {
    let executor = Arc::new(Executor::new());
    let late = async {
        Timer::after(PATIENCE).await;
        panic!("it took too long");
    };
    let work = work(Spawner::new(executor.clone()));
    smol::block_on(executor.run(work.or(late)));
}

/// Somebody's connection, and all that happens on it from now on.
async fn by_library(person: &Person, spawner: &Spawner) -> (Connection, Events) {
    let bus = Bus::at(person.bus().address(), spawner.clone(), SystemClock::new());
    let bus = bus.await.expect("a bus");
    let connection = Connection::all(&bus).await.expect("connections").remove(0);
    let events = connection.events().await.expect("events");
    (connection, events)
}

async fn requested(connection: &Connection) -> Tube {
    let contacts = connection.contacts().await.expect("contacts");
    let contact = contacts.iter().find(|contact| contact.tubes);
    let handle = contact.expect("a contact that takes tubes").handle;
    connection
        .create_tube(handle, TubeKind::DBus, SERVICE)
        .await
        .expect("a tube")
}

async fn offered(events: &mut Events) -> TubeDescription {
    loop {
        if let Event::NewTubes(tubes) = events.next().await.expect("an event") {
            return tubes.into_iter().next().expect("a tube");
        }
    }
}

#[test]
fn a_tube_is_offered_with_parameters_and_accepted_and_spoken_through() {
    let (alice, bob) = alice_and_bob();
    run(async |spawner: Spawner| {
        let (hers, mut heard_by_alice) = by_library(&alice, &spawner).await;
        let (his, mut heard_by_bob) = by_library(&bob, &spawner).await;

        let ours = requested(&hers).await;
        assert!(ours.parameters().await.expect("parameters").is_empty());
        let parameters = HashMap::from([
            ("opening", Variant::from("Ruy Lopez")),
            ("minutes", Variant::from(90_u32)),
            ("rated", Variant::from(true)),
        ]);
        let here = ours.offer_dbus(&parameters).await.expect("an address");

        let description = offered(&mut heard_by_bob).await;
        assert_eq!(description.shown(), format!("dbus:{SERVICE}"));
        let theirs = his.tube(description);
        assert_eq!(theirs.state().await, Ok(TubeState::LocalPending));
        for tube in [&ours, &theirs] {
            let seen = tube.parameters().await.expect("parameters");
            assert_eq!(seen.len(), parameters.len());
            for (name, value) in &parameters {
                assert_eq!(&*seen[*name], value, "{name}");
            }
        }
        assert_eq!(theirs.is_share().await, Ok(false));
        let there = theirs.accept_dbus().await.expect("an address");
        ours.opened(&mut heard_by_alice).await.expect("Open");
        theirs.opened(&mut heard_by_bob).await.expect("Open");

        let board = Board { of: "alice" };
        let at_hers = ours.peer(&here).serve_at(BOARD, board).build();
        let at_hers = at_hers.await.expect("alice's application");
        let at_his = theirs.peer(&there).build().await;
        let at_his = at_his.expect("bob's application");
        let to = None::<&str>;
        let answer = at_his.call_method(to, BOARD, Some(INTERFACE), "Play", &"e4");
        let answer: (String, String) = answer.await.expect("Play").body().deserialize().unwrap();
        assert_eq!(answer, ("alice".to_owned(), "e4".to_owned()));

        let moved = MatchRule::builder().member("Moved").build().unwrap();
        let mut signals = MessageStream::for_match_rule(moved, &at_his, None)
            .await
            .unwrap();
        let emitter = SignalEmitter::new(&at_hers, BOARD).expect("a path");
        Board::moved(&emitter, "e5").await.expect("a signal");
        let signal = signals.next().await.expect("a signal").expect("a signal");
        assert_eq!(signal.body().deserialize::<String>().unwrap(), "e5");

        ours.close().await.expect("closed");
        let ended = theirs.opened(&mut heard_by_bob).await;
        assert_eq!(ended.expect_err("closed").kind, Kind::Cancelled);
    });
}

#[test]
fn what_cannot_be_a_parameter_is_refused_and_the_tube_stays() {
    let (alice, _bob) = alice_and_bob();
    run(async |spawner: Spawner| {
        let (hers, _events) = by_library(&alice, &spawner).await;
        let tube = requested(&hers).await;
        let wrong = HashMap::from([("hours", Variant::from(1.5))]);
        let refused = tube.offer_dbus(&wrong).await.expect_err("a double");
        assert_eq!(refused.kind, Kind::InvalidArgument, "{refused}");
        assert_eq!(tube.state().await, Ok(TubeState::NotOffered));
        tube.offer_dbus(&HashMap::new()).await.expect("an address");
        let again = tube.offer_dbus(&HashMap::new()).await;
        assert_eq!(again.expect_err("twice").kind, Kind::NotAvailable);
        let ours = tube.accept_dbus().await.expect_err("ours");
        assert_eq!(ours.kind, Kind::NotAvailable);
    });
}
