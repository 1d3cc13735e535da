//! D-Bus tubes from one session to another: offered, agreed to, declined, taken back; what happens to
//! offers that wait when their stream does not go on.

use std::{
    collections::BTreeMap,
    ops::ControlFlow::{self, Break, Continue},
};

use actors::{
    model::{Error, ParameterValue, ServiceName, TubeParameters},
    ports::{Bytestream, IncomingDBusTube, Opening},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use super::{
    files::now,
    in_band,
    lan::{Lan, Person, gone, lan_in_band, two},
    support::{Side, in_time, mdns_port, peer, run},
};
use crate::session::{PeerId, SessionEvent, TubeId};

const TUBE: TubeId = TubeId(491_048_017);

fn service() -> ServiceName {
    ServiceName::of_bus("com.example.Chess").unwrap()
}

fn parameters() -> TubeParameters {
    let colour = ("colour".to_owned(), ParameterValue::Text("white".into()));
    TubeParameters::new(BTreeMap::from([colour])).unwrap()
}

/// A D-Bus tube as it was offered by [`offer`].
fn a_tube(event: SessionEvent) -> ControlFlow<(PeerId, Box<dyn IncomingDBusTube>), SessionEvent> {
    match event {
        SessionEvent::DBusTubeOffered {
            from,
            tube,
            service: offered,
            parameters: said,
            incoming,
        } => {
            assert_eq!((tube, offered, said), (TUBE, service(), parameters()));
            Break((from, incoming))
        }
        other => Continue(other),
    }
}

async fn offer(from: &Side, to: &PeerId) -> Result<Opening, Error> {
    let offering = from.session.dbus_tube(to, TUBE);
    offering.offer(&service(), &parameters()).await
}

/// Bytes both ways, and the end.
async fn carry(one: Bytestream, other: Bytestream) {
    let (mut one, mut other) = (one.io, other.io);
    in_band::carry(&mut one, &mut other, 300_000).await;
    in_band::carry(&mut other, &mut one, 300_000).await;
    one.close().await.unwrap();
    assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
}

#[test]
fn two_meet_and_speak_through_a_tube() {
    run(async |spawner| {
        let port = mdns_port();
        let ((romeo, _), (juliet, juliet_id)) = future::zip(
            Side::online(spawner, "romeo", port),
            Side::online(spawner, "juliet", port),
        )
        .await;
        romeo.discovers(&juliet_id).await;
        let offerer = async { offer(&romeo, &peer(&juliet_id)).await?.await };
        let target = async {
            let (_, incoming) = juliet.find(a_tube).await;
            incoming.accept().await
        };
        let (one, other) = in_time("the tube", future::zip(offerer, target)).await;
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(one.encrypted && other.encrypted);
        in_time("the bytes", carry(one, other)).await;
        future::zip(romeo.session.disconnect(), juliet.session.disconnect()).await;
    });
}

/// One has offered a tube, which is written, and the other has it before it.
fn offered(lan: &Lan, from: &Person, to: &Person) -> (Opening, Box<dyn IncomingDBusTube>) {
    let opening = lan.sim.run(offer(&from.side, &peer(&to.id))).unwrap();
    // Nobody has asked yet what comes of it: what is written is written.
    let (who, incoming) = lan.sim.run(to.side.find(a_tube));
    assert_eq!(who, peer(&from.id));
    (opening, incoming)
}

#[test]
fn a_person_may_think_about_a_tube_for_a_day() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let (mut opening, incoming) = offered(&lan, &romeo, &juliet);
    let mut withdrawn = incoming.withdrawn();
    lan.advance(24 * 3600);
    assert!(now(&lan, &mut opening).is_none());
    assert!(now(&lan, &mut withdrawn).is_none());
    let (one, other) = lan.sim.run(future::zip(opening, incoming.accept()));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one.encrypted && other.encrypted);
    lan.sim.run(carry(one, other));
    // Nothing keeps the stream any more.
    lan.advance(240);
    assert_eq!(lan.open.open(), 0);
    gone(&lan, [romeo, juliet]);
}

#[test]
fn who_declines_a_tube_says_so() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let (opening, incoming) = offered(&lan, &romeo, &juliet);
    drop(incoming);
    let declined = lan.sim.run(opening);
    assert!(matches!(declined, Err(Error::Rejected(_))), "{declined:?}");
    lan.advance(240);
    assert_eq!(lan.open.open(), 0);
    gone(&lan, [romeo, juliet]);
}

#[test]
fn a_tube_that_is_taken_back_is_withdrawn() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let (opening, incoming) = offered(&lan, &romeo, &juliet);
    let mut withdrawn = incoming.withdrawn();
    assert!(now(&lan, &mut withdrawn).is_none());
    drop(opening);
    lan.sim.run(withdrawn);
    let accepted = lan.sim.run(incoming.accept());
    assert!(accepted.is_err(), "{accepted:?}");
    // And once more after it was agreed to.
    let (opening, incoming) = offered(&lan, &romeo, &juliet);
    let mut accepting = incoming.accept();
    assert!(now(&lan, &mut accepting).is_none());
    drop(opening);
    let accepted = lan.sim.run(accepting);
    assert!(matches!(accepted, Err(Error::Rejected(_))), "{accepted:?}");
    lan.advance(240);
    assert_eq!(lan.open.open(), 0);
    gone(&lan, [romeo, juliet]);
}

#[test]
fn the_end_of_the_stream_is_the_end_of_the_tubes_that_wait() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let (opening, incoming) = offered(&lan, &romeo, &juliet);
    let withdrawn = incoming.withdrawn();
    lan.break_all();
    lan.sim.run(withdrawn);
    let over = lan.sim.run(opening);
    assert!(matches!(over, Err(Error::Offline(_))), "{over:?}");
    let accepted = lan.sim.run(incoming.accept());
    assert!(matches!(accepted, Err(Error::Offline(_))), "{accepted:?}");
    gone(&lan, [romeo, juliet]);
}

#[test]
fn no_more_tubes_wait_than_may() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let to = peer(&juliet.id);
    let mut openings: Vec<_> = (0..32)
        .map(|_| lan.sim.run(offer(&romeo.side, &to)).unwrap())
        .collect();
    let more = lan.sim.run(offer(&romeo.side, &to)).err();
    assert!(
        matches!(more, Some(Error::ResourceUnavailable(_))),
        "{more:?}"
    );
    openings.pop();
    lan.sim.settle();
    let once_more = lan.sim.run(offer(&romeo.side, &to));
    assert!(once_more.is_ok());
    drop((openings, once_more));
    lan.advance(240);
    assert_eq!(lan.open.open(), 0);
    gone(&lan, [romeo, juliet]);
}
