//! XML streams between two honest sides: on demand, one at a time, closed when idle.

use std::{
    net::IpAddr,
    ops::ControlFlow::{Break, Continue},
    time::Duration,
};

use actors::model::{Error, ServiceName, TubeParameters};
use futures_lite::future;

use super::{
    lan::{Lan, Person, Trouble},
    support::peer,
};
use crate::session::{
    ContactId, Presence, SessionEvent, Show, Trust, TubeId, link_local::discovery::DiscoveryEvent,
    trust::Identity,
};

fn offer(lan: &Lan, from: &Person, to: &Person, tube: u32) {
    let ports = from.side.session.tube(&peer(&to.id), TubeId(tube));
    let service = ServiceName::new("rfb").unwrap();
    lan.sim
        .run(ports.signalling.offer(&service, &TubeParameters::default()))
        .unwrap();
    expect_offer(lan, to, tube);
}

fn expect_offer(lan: &Lan, at: &Person, wanted: u32) {
    lan.sim.run(at.side.find(|event| match event {
        SessionEvent::TubeOffered { tube, .. } if tube == TubeId(wanted) => Break(()),
        other => Continue(other),
    }));
}

#[test]
fn both_learn_what_the_other_can_do_over_one_stream() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    juliet.discovers(&lan, &romeo.id);
    lan.advance(10);
    // One connection has two ends.
    assert_eq!(lan.open.open(), 2);
}

#[test]
fn two_streams_opened_at_once_become_one_and_nothing_is_lost() {
    for round in 0..8 {
        let lan = Lan::new();
        let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
        // Before either has opened a stream to ask for features.
        let service = ServiceName::new("rfb").unwrap();
        let parameters = TubeParameters::default();
        let there = romeo.side.session.tube(&peer(&juliet.id), TubeId(1));
        let back = juliet.side.session.tube(&peer(&romeo.id), TubeId(2));
        // Until each has seen the other there is nobody to offer to.
        romeo.sees(&lan, &juliet.id, |_| true);
        juliet.sees(&lan, &romeo.id, |_| true);
        let (one, other) = lan.sim.run(future::zip(
            there.signalling.offer(&service, &parameters),
            back.signalling.offer(&service, &parameters),
        ));
        one.unwrap();
        other.unwrap();
        expect_offer(&lan, &juliet, 1);
        expect_offer(&lan, &romeo, 2);
        lan.advance(20);
        assert_eq!(lan.open.open(), 2, "round {round}");
    }
}

#[test]
fn an_idle_stream_is_closed_and_opened_again_when_there_is_something_to_say() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    juliet.discovers(&lan, &romeo.id);
    lan.advance(150);
    assert_eq!(lan.open.open(), 0);
    romeo.happened(&lan);
    juliet.happened(&lan);
    offer(&lan, &romeo, &juliet, 7);
    assert_eq!(lan.open.open(), 2);
    lan.advance(150);
    assert_eq!(lan.open.open(), 0);
    // Nobody is offline, lost or disconnected for that.
    for person in [&romeo, &juliet] {
        for event in person.happened(&lan) {
            assert!(matches!(&event, SessionEvent::Contact(contact)
                    if contact.presence.show == Show::Available));
        }
    }
}

#[test]
fn going_offline_is_seen_and_leaves_no_task_and_no_connection() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    lan.sim.run(juliet.side.session.disconnect());
    // Nobody pinned her: she is forgotten after the grace period.
    lan.sim.run(romeo.side.find(|event| match event {
        SessionEvent::ContactRemoved(id) if id == juliet.id => Break(()),
        other => Continue(other),
    }));
    lan.sim.run(romeo.side.session.disconnect());
    lan.advance(60);
    drop((romeo, juliet));
    lan.advance(60);
    assert_eq!((lan.open.open(), lan.sim.spawner.running()), (0, 0));
}

#[test]
fn a_session_that_is_dropped_ends_by_itself() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    drop(romeo);
    drop(juliet);
    lan.advance(120);
    assert_eq!((lan.open.open(), lan.sim.spawner.running()), (0, 0));
}

#[test]
fn pinning_proves_the_key_first_and_the_pinned_stay_when_they_leave() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.sees(&lan, &juliet.id, |contact| contact.trust == Trust::Unpinned);
    lan.sim
        .run(romeo.side.session.pin(&juliet.id, None))
        .unwrap();
    let pinned = romeo.sees(&lan, &juliet.id, |c| {
        matches!(c.trust, Trust::Pinned { .. })
    });
    assert_eq!(pinned.key, Some(juliet.key));
    lan.sim.run(juliet.side.session.disconnect());
    romeo.sees(&lan, &juliet.id, |c| c.presence.show == Show::Offline);
    lan.sim.run(romeo.side.find(|event| match event {
        SessionEvent::ContactLost(id) if id == juliet.id => Break(()),
        other => Continue(other),
    }));
    lan.advance(3600);
    assert!(
        !romeo
            .happened(&lan)
            .iter()
            .any(|event| matches!(event, SessionEvent::ContactRemoved(_)))
    );
}

#[test]
fn a_stream_that_breaks_is_opened_again_and_nobody_is_disconnected() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    juliet.discovers(&lan, &romeo.id);
    for round in 1..20 {
        lan.break_all();
        offer(&lan, &romeo, &juliet, round);
        lan.break_all();
        offer(&lan, &juliet, &romeo, round);
    }
    lan.advance(30);
    assert_eq!(lan.open.open(), 2);
    for person in [&romeo, &juliet] {
        assert!(!person.happened(&lan).iter().any(|event| matches!(
            event,
            SessionEvent::Disconnected(_) | SessionEvent::ContactLost(_)
        )));
    }
}

#[test]
fn presence_and_alias_are_seen_by_others() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    let busy = Presence {
        show: Show::Busy,
        message: "at the balcony".into(),
    };
    let session = &juliet.side.session;
    lan.sim.run(session.set_presence(busy.clone())).unwrap();
    lan.sim.run(session.set_alias("Jule".into())).unwrap();
    let seen = romeo.sees(&lan, &juliet.id, |contact| contact.alias == "Jule");
    assert_eq!(seen.presence, busy);
    let offline = Presence {
        show: Show::Offline,
        message: String::new(),
    };
    assert!(lan.sim.run(session.set_presence(offline)).is_err());
}

#[test]
fn an_offer_into_a_stream_that_died_in_silence_arrives_over_another() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    juliet.discovers(&lan, &romeo.id);
    for round in 1..6 {
        // Nobody has said anything for a while, as people do.
        lan.advance(30);
        lan.silence_all();
        let before = lan.sim.now();
        offer(&lan, &romeo, &juliet, round);
        let taken = lan.sim.now() - before;
        assert!(taken < Duration::from_secs(15), "{taken:?}");
    }
}

#[test]
fn who_comes_back_is_answered_though_its_old_stream_never_ended() {
    for round in 0..6 {
        let lan = Lan::new();
        let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
        romeo.discovers(&lan, &juliet.id);
        juliet.discovers(&lan, &romeo.id);
        lan.advance(30);
        lan.silence_all();
        // She notices that it is dead and opens another; he has nothing to say for a while.
        offer(&lan, &juliet, &romeo, 1);
        lan.advance(15);
        let before = lan.sim.now();
        offer(&lan, &romeo, &juliet, 2);
        let taken = lan.sim.now() - before;
        assert!(taken < Duration::from_secs(1), "round {round}: {taken:?}");
        // Nobody keeps the dead one.
        assert_eq!(lan.open.open(), 2, "round {round}");
    }
}

#[test]
fn a_program_that_was_started_anew_is_taken_for_another_run() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    juliet.discovers(&lan, &romeo.id);
    offer(&lan, &romeo, &juliet, 1);
    // A stream that broke is not the end of a run.
    lan.break_all();
    offer(&lan, &juliet, &romeo, 2);
    assert!(!romeo.lost(&lan, &juliet.id) && !juliet.lost(&lan, &romeo.id));
    let again = lan.restarted(&juliet);
    assert_eq!((again.key, &again.id), (juliet.key, &juliet.id));
    // Her old tubes have gone before her new ones come, once, and he does not wait for the grace.
    let before = lan.sim.now();
    again.sees(&lan, &romeo.id, |_| true);
    offer(&lan, &again, &romeo, 3);
    let seen: Vec<SessionEvent> = romeo.happened(&lan);
    let lost = |event: &SessionEvent| matches!(event, SessionEvent::ContactLost(_));
    assert_eq!(seen.iter().filter(|event| lost(event)).count(), 1);
    assert!(lan.sim.now() - before < Duration::from_secs(5));
    offer(&lan, &romeo, &again, 4);
    lan.advance(60);
    assert!(!romeo.lost(&lan, &juliet.id) && !again.lost(&lan, &romeo.id));
}

#[test]
fn the_end_of_a_run_is_told_before_what_the_next_one_says() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    let again = lan.restarted(&juliet);
    again.sees(&lan, &romeo.id, |_| true);
    let ports = again.side.session.tube(&peer(&romeo.id), TubeId(3));
    let service = ServiceName::new("rfb").unwrap();
    let offered = ports.signalling.offer(&service, &TubeParameters::default());
    lan.sim.run(offered).unwrap();
    let told: Vec<&str> = romeo
        .happened(&lan)
        .iter()
        .filter_map(|event| match event {
            SessionEvent::ContactLost(_) => Some("lost"),
            SessionEvent::TubeOffered { .. } => Some("offered"),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["lost", "offered"]);
}

#[test]
fn a_connection_is_opened_though_the_stream_died_in_silence() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    juliet.discovers(&lan, &romeo.id);
    lan.advance(30);
    lan.silence_all();
    let before = lan.sim.now();
    connect(&lan, &romeo, &juliet);
    let taken = lan.sim.now() - before;
    assert!(taken < Duration::from_secs(20), "{taken:?}");
}

#[test]
fn a_connection_whose_stream_ended_before_it_was_accepted_holds_nothing() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    juliet.discovers(&lan, &romeo.id);
    let ports = romeo.side.session.tube(&peer(&juliet.id), TubeId(9));
    let id = actors::model::BytestreamId::random().unwrap();
    let asked = async {
        let asked = juliet.side.find(|event| match event {
            SessionEvent::StreamOffered { stream, .. } => Break(stream),
            other => Continue(other),
        });
        Some(asked.await)
    };
    let opening = async {
        drop(ports.connector.connect(id).await);
        None
    };
    let offered = lan.sim.run(future::or(asked, opening)).unwrap();
    // Her service is slow to answer, and the stream breaks meanwhile.
    lan.break_all();
    lan.advance(2);
    let before = lan.sim.now();
    let accepted = lan.sim.run(offered.accept());
    assert!(matches!(accepted, Err(Error::Offline(_))));
    assert_eq!(lan.sim.now(), before);
}

#[test]
fn who_was_seen_again_in_time_is_not_lost_after_a_sleep() {
    let lan = Lan::new();
    let romeo = lan.person("romeo");
    let (nurse, host) = (ContactId("nurse@x".into()), lan.host());
    let key = Identity::generate().unwrap().id();
    host.announce(&nurse.0, Some(key));
    romeo.sees(&lan, &nurse, |_| true);
    lan.forge(&romeo, DiscoveryEvent::Gone(nurse.0.clone()));
    lan.sim.settle();
    // Nothing of ours runs while the machine sleeps. When it wakes up, her record is there.
    lan.sim.clock.advance(Duration::from_secs(3600));
    host.announce(&nurse.0, Some(key));
    assert!(!romeo.lost(&lan, &nurse));
}

#[test]
fn a_key_that_cannot_be_stored_is_not_pinned() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    for trouble in [Trouble::Full, Trouble::Panic] {
        *romeo.store.trouble.lock().unwrap() = trouble;
        // Not the second time either, when it might be taken for pinned already.
        for _ in 0..2 {
            let pinned = lan.sim.run(romeo.side.session.pin(&juliet.id, None));
            assert!(matches!(pinned, Err(Error::Confused(_))), "{pinned:?}");
            lan.advance(1);
        }
        let seen = romeo.happened(&lan).into_iter().rev();
        let trust = seen.filter_map(|event| match event {
            SessionEvent::Contact(contact) => Some(contact.trust),
            _ => None,
        });
        assert_eq!(trust.take(1).collect::<Vec<_>>(), [Trust::Unpinned]);
    }
    *romeo.store.trouble.lock().unwrap() = Trouble::Nothing;
    lan.sim
        .run(romeo.side.session.pin(&juliet.id, None))
        .unwrap();
    romeo.sees(&lan, &juliet.id, |contact| {
        matches!(contact.trust, Trust::Pinned { .. })
    });
    assert_eq!(romeo.store.table.lock().unwrap().rows().len(), 1);
    // What was stored before stays.
    *romeo.store.trouble.lock().unwrap() = Trouble::Full;
    let forgotten = lan.sim.run(romeo.side.session.forget(&juliet.id));
    assert!(matches!(forgotten, Err(Error::Confused(_))));
    lan.sim
        .run(romeo.side.session.pin(&juliet.id, None))
        .unwrap();
}

#[test]
fn a_connection_is_opened_though_the_streams_own_address_is_gone() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    // An address this machine had then and has no more: nobody can listen there.
    lan.own_address(Some(IpAddr::from([192, 0, 2, 1])));
    romeo.discovers(&lan, &juliet.id);
    juliet.discovers(&lan, &romeo.id);
    lan.own_address(None);
    connect(&lan, &romeo, &juliet);
    lan.advance(30);
    // The useless one is not kept.
    assert!(lan.open.open() <= 2);
}

/// Somebody opens a connection through a tube that the other does not have; she is asked.
fn connect(lan: &Lan, from: &Person, to: &Person) {
    let ports = from.side.session.tube(&peer(&to.id), TubeId(9));
    let id = actors::model::BytestreamId::random().unwrap();
    let opening = ports.connector.connect(id);
    let asked = to.side.find(|event| match event {
        SessionEvent::StreamOffered { stream, .. } => {
            drop(stream);
            Break(())
        }
        other => Continue(other),
    });
    let (answer, ()) = lan.sim.run(future::zip(opening, asked));
    assert!(
        matches!(answer, Err(Error::ConnectionRefused(_))),
        "{answer:?}"
    );
}
