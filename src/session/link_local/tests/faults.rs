//! Streams die at every point, by an error and by a panic; the session lives on and forgets nothing.
//! A session that dies is Disconnected, once, and nothing of it is left; what it does beside itself
//! (going online, saying goodbye, storing) may die and is answered.

use actors::{
    model::{ServiceName, TubeParameters},
    testing::Fault,
};

use super::{
    lan::{Lan, Person},
    support::peer,
};
use crate::session::{SessionEvent, TubeId, link_local::fault::Point};

/// Offers until it works. A stream that dies in the middle may fail one offer; never two.
fn offer(lan: &Lan, from: &Person, to: &Person, tube: u32) {
    let ports = from.side.session.tube(&peer(&to.id), TubeId(tube));
    let service = ServiceName::new("rfb").unwrap();
    let once = || {
        let offer = ports.signalling.offer(&service, &TubeParameters::default());
        lan.sim.run(offer)
    };
    once().or_else(|_| once()).unwrap();
}

#[test]
fn a_stream_may_die_anywhere() {
    let mut deaths = 0;
    for point in [
        Point::Greeted,
        Point::Admitted,
        Point::Decide,
        Point::Decided,
    ] {
        for fault in [Fault::Error, Fault::Panic] {
            for passes in 0..12 {
                for victim in 0..2 {
                    let lan = Lan::new();
                    let people = [lan.person("romeo"), lan.person("juliet")];
                    let [romeo, juliet] = &people;
                    people[victim].faults.arm(point, fault, passes, 1);
                    romeo.sees(&lan, &juliet.id, |_| true);
                    juliet.sees(&lan, &romeo.id, |_| true);
                    offer(&lan, romeo, juliet, 1);
                    offer(&lan, juliet, romeo, 2);
                    lan.sim
                        .run(romeo.side.session.pin(&juliet.id, None))
                        .or_else(|_| lan.sim.run(romeo.side.session.pin(&juliet.id, None)))
                        .unwrap();
                    deaths += u32::from(people[victim].faults.fired() == 1);
                    offer(&lan, romeo, juliet, 3);
                    lan.advance(60);
                    let seen = format!("{point:?} {passes} {fault:?} {victim}");
                    assert!(lan.open.open() <= 2, "{seen}");
                    for person in &people {
                        let events = person.happened(&lan);
                        let bad = |event: &SessionEvent| {
                            matches!(
                                event,
                                SessionEvent::Disconnected(_)
                                    | SessionEvent::ContactLost(_)
                                    | SessionEvent::ContactRemoved(_)
                            )
                        };
                        assert!(!events.iter().any(bad), "{seen}");
                    }
                    offer(&lan, juliet, romeo, 4);
                    for person in &people {
                        lan.sim.run(person.side.session.disconnect());
                    }
                    drop(people);
                    lan.advance(60);
                    assert_eq!(
                        (lan.open.open(), lan.sim.spawner.running()),
                        (0, 0),
                        "{seen}"
                    );
                }
            }
        }
    }
    // A stream greets once; the later passes are not always reached.
    assert!(deaths >= 80, "{deaths}");
}

fn disconnections(events: &[SessionEvent]) -> Vec<String> {
    let told = events.iter().filter_map(|event| match event {
        SessionEvent::Disconnected(why) => Some(why.to_string()),
        _ => None,
    });
    told.collect()
}

/// Everybody goes; nothing is left.
fn all_gone(lan: &Lan, people: Vec<Person>, seen: &str) {
    for person in &people {
        lan.sim.run(person.side.session.disconnect());
    }
    lan.advance(60);
    for person in &people {
        assert!(!lan.knows(person), "{seen}: still announced");
    }
    drop(people);
    lan.advance(60);
    assert_eq!(
        (lan.open.open(), lan.sim.spawner.running()),
        (0, 0),
        "{seen}"
    );
}

#[test]
fn a_session_that_dies_is_disconnected_and_leaves_nothing() {
    for point in [
        Point::SessionWaiting,
        Point::SessionDecide,
        Point::SessionDecided,
    ] {
        for fault in [Fault::Error, Fault::Panic] {
            let mut deaths = 0;
            for passes in 0..24 {
                let seen = format!("{point:?} {passes} {fault:?}");
                let lan = Lan::new();
                let romeo = lan.offline("romeo", true);
                let juliet = lan.person("juliet");
                romeo.faults.arm(point, fault, passes, 1);
                let service = ServiceName::new("rfb").unwrap();
                let parameters = TubeParameters::default();
                // Each is answered, whatever happens.
                let session = &romeo.side.session;
                lan.sim.run(session.connect()).ok();
                lan.advance(30);
                lan.sim.run(session.pin(&juliet.id, None)).ok();
                let ports = session.tube(&peer(&juliet.id), TubeId(1));
                lan.sim
                    .run(ports.signalling.offer(&service, &parameters))
                    .ok();
                lan.sim.run(session.set_alias("Montague".into())).ok();
                lan.advance(30);
                if romeo.faults.fired() == 1 {
                    deaths += 1;
                    let told = disconnections(&romeo.happened(&lan));
                    assert_eq!(told.len(), 1, "{seen}: {told:?}");
                    assert!(told[0].contains("fault at"), "{seen}: {told:?}");
                    assert!(!lan.knows(&romeo), "{seen}: still announced");
                    assert!(
                        lan.sim.run(session.pin(&juliet.id, None)).is_err(),
                        "{seen}"
                    );
                    assert!(lan.sim.run(session.connect()).is_err(), "{seen}");
                    lan.sim.run(ports.signalling.close());
                    assert_eq!(lan.open.open(), 0, "{seen}: a connection is left");
                }
                // The others do not suffer.
                assert!(disconnections(&juliet.happened(&lan)).is_empty(), "{seen}");
                drop(ports);
                all_gone(&lan, vec![romeo, juliet], &seen);
            }
            assert!(deaths >= 12, "{point:?} {fault:?}: {deaths}");
        }
    }
}

#[test]
fn going_online_may_die() {
    for fault in [Fault::Error, Fault::Panic] {
        let lan = Lan::new();
        let romeo = lan.offline("romeo", true);
        romeo.faults.arm(Point::SessionStarting, fault, 0, 1);
        assert!(lan.sim.run(romeo.side.session.connect()).is_err());
        assert!(lan.sim.now() < std::time::Duration::from_secs(1), "at once");
        lan.advance(10);
        assert_eq!(disconnections(&romeo.happened(&lan)).len(), 1);
        all_gone(&lan, vec![romeo], "starting");
    }
}

#[test]
fn a_goodbye_may_die() {
    for fault in [Fault::Error, Fault::Panic] {
        let lan = Lan::new();
        let romeo = lan.person("romeo");
        romeo.faults.arm(Point::SessionGoodbye, fault, 0, 1);
        lan.sim.run(romeo.side.session.disconnect());
        assert!(lan.sim.now() < std::time::Duration::from_secs(1), "at once");
        assert_eq!(romeo.faults.fired(), 1);
        assert_eq!(disconnections(&romeo.happened(&lan)).len(), 1);
        drop(romeo);
        lan.advance(60);
        assert_eq!((lan.open.open(), lan.sim.spawner.running()), (0, 0));
    }
}

#[test]
fn a_writing_of_the_trusted_keys_may_die_and_the_next_one_is_done() {
    for fault in [Fault::Error, Fault::Panic] {
        let lan = Lan::new();
        let [romeo, juliet] = [lan.person("romeo"), lan.person("juliet")];
        romeo.discovers(&lan, &juliet.id);
        romeo.faults.arm(Point::SessionSaving, fault, 0, 1);
        let session = &romeo.side.session;
        assert!(lan.sim.run(session.pin(&juliet.id, None)).is_err());
        assert_eq!(romeo.faults.fired(), 1);
        // What is not written has not happened.
        assert!(lan.sim.run(session.forget(&juliet.id)).is_err());
        lan.sim.run(session.pin(&juliet.id, None)).unwrap();
        all_gone(&lan, vec![romeo, juliet], "saving");
    }
}
