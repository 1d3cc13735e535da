//! Streams die at every point, by an error and by a panic; the session lives on and forgets nothing.

use actors::model::{ServiceName, TubeParameters};

use super::{
    lan::{Lan, Person},
    support::peer,
};
use crate::session::{SessionEvent, TubeId, link_local::stream::Point};

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
        for panic in [false, true] {
            for passes in 0..12 {
                for victim in 0..2 {
                    let lan = Lan::new();
                    let people = [lan.person("romeo"), lan.person("juliet")];
                    let [romeo, juliet] = &people;
                    people[victim].faults.plan(point, passes, panic);
                    romeo.sees(&lan, &juliet.id, |_| true);
                    juliet.sees(&lan, &romeo.id, |_| true);
                    offer(&lan, romeo, juliet, 1);
                    offer(&lan, juliet, romeo, 2);
                    lan.sim
                        .run(romeo.side.session.pin(&juliet.id))
                        .or_else(|_| lan.sim.run(romeo.side.session.pin(&juliet.id)))
                        .unwrap();
                    deaths += u32::from(people[victim].faults.is_over());
                    offer(&lan, romeo, juliet, 3);
                    lan.advance(60);
                    let seen = format!("{point:?} {passes} {panic} {victim}");
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
