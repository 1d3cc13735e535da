//! Kills every kind of actor at every named point, with an error and with a panic, and compares
//! what happens with the table of restarts. The access control is Credentials, which has the most
//! points.

use std::{future::Future, time::Duration};

use actors::{
    model::{AccessControl, AccessRule, AddressType, SocketAddress},
    ports::{StreamTubeObject, StreamTubeSignal},
    runtime::{ActorKind, Clock as _},
    testing::{FakeService, FakeStream, Fault, FaultPoint, IncomingOutcome, Signalled},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};

use crate::support::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Offering,
    Accepting,
}

/// One end here, one at the contact's.
struct Pair {
    here: FakeStream,
    there: FakeStream,
}

/// An open tube and what connects through it.
struct Tube {
    channel: StreamTubeObject,
    /// What applications connect to, where we accepted.
    address: Option<SocketAddress>,
    /// What we dial, where we offered.
    service: Option<FakeService>,
    next_id: u8,
}

async fn within<T>(world: &World, time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let late = async {
        world.sim.clock.sleep(time).await;
        None
    };
    async { Some(future.await) }.or(late).await
}

fn service_path() -> SocketAddress {
    SocketAddress::Unix("/run/service".into())
}

const SOON: Duration = Duration::from_secs(20);

/// Whether bytes pass both ways.
async fn talk(world: &World, pair: &mut Pair, text: &str) -> bool {
    let mut buffer = vec![0; text.len()];
    let talking = async {
        pair.here.write_all(text.as_bytes()).await.ok()?;
        pair.there.read_exact(&mut buffer).await.ok()?;
        let forth = buffer == text.as_bytes();
        pair.there.write_all(text.as_bytes()).await.ok()?;
        pair.here.read_exact(&mut buffer).await.ok()?;
        Some(forth && buffer == text.as_bytes())
    };
    within(world, SOON, talking)
        .await
        .flatten()
        .unwrap_or(false)
}

impl Tube {
    /// Opens the tube as a stubborn client does: one that is answered with an error looks at the
    /// state and asks again. `None` when the channel closes meanwhile.
    async fn open(world: &World, side: Side) -> Option<Tube> {
        let offering = side == Side::Offering;
        let service = offering.then(|| world.sockets.serve(service_path()));
        let channel = world.open(offering).await;
        for _ in 0..5 {
            let asked = async {
                if offering {
                    let access = AccessControl::Credentials;
                    offer_at(&channel, service_path(), access).await.is_ok()
                } else {
                    let rule = AccessRule::Credentials;
                    accept_with(&channel, AddressType::Unix, rule).await.is_ok()
                }
            };
            let answered = within(world, SOON, asked).await;
            let answered = answered.expect("every request is answered");
            let view = channel.view.get();
            if answered || view.address.is_some() {
                return Some(Tube {
                    address: view.address.clone().filter(|_| !offering),
                    channel,
                    service,
                    next_id: 1,
                });
            }
            if channel.address.is_gone() {
                break;
            }
            world.sim.clock.sleep(Duration::from_secs(1)).await;
        }
        assert!(
            channel.address.is_gone(),
            "the tube neither opens nor closes"
        );
        None
    }

    /// A connection through the tube, if it comes to be.
    async fn connect(&mut self, world: &World) -> Option<Pair> {
        self.next_id += 1;
        let id = self.next_id;
        if let Some(address) = &self.address {
            let mut here = world.sockets.connect(address).ok()?;
            here.write_all(b"b").await.ok()?;
            let there = within(world, SOON, world.connector.opened()).await?;
            return Some(Pair { here, there });
        }
        let service = self.service.as_ref()?;
        let (incoming, outcome) = actors::testing::FakeIncoming::request(id, &world.counter, None);
        self.channel
            .address
            .tell(actors::stream_tube::StreamTubeMessage::Incoming(incoming))
            .await
            .ok()?;
        let Some(Ok(IncomingOutcome::Accepted(there))) = within(world, SOON, outcome.wait()).await
        else {
            return None;
        };
        // A connection whose relay died has left its socket in the service's queue before ours.
        let mut here = loop {
            let here = within(world, SOON, service.accept()).await?;
            if service.waiting() == 0 {
                break here;
            }
        };
        here.read_exact(&mut [0]).await.ok()?;
        Some(Pair { here, there })
    }
}

/// What one run shows.
struct Outcome {
    fired: bool,
}

fn run(side: Side, point: FaultPoint, fault: Fault, skip: usize, early: bool) -> Outcome {
    let world = World::new();
    let context = format!("{side:?} {point:?} {fault:?} after {skip}, early: {early}");
    let fired = world.sim.run(async {
        if early {
            world.faults.arm(point, fault, skip, 1);
        }
        let tube = Tube::open(&world, side).await;
        let died = early && point.actor() == ActorKind::Channel && world.faults.fired() == 1;
        let Some(mut tube) = tube else {
            assert!(died, "{context}");
            assert_eq!(world.tree.present(), [], "{context}");
            return true;
        };
        let old = tube.connect(&world).await;
        if world.faults.fired() == 1 && old.is_none() {
            return checked_early(&world, &mut tube, point, &context).await;
        }
        let mut old = old.expect(&context);
        assert!(
            talk(&world, &mut old, "before").await || world.faults.fired() == 1,
            "{context}"
        );
        if !early {
            world.faults.arm(point, fault, skip, 1);
        }
        // Gives every actor something to do.
        let new = tube.connect(&world).await;
        if let Some(mut new) = new {
            talk(&world, &mut new, "meanwhile").await;
            new.here.close().await.ok();
            new.there.close().await.ok();
        }
        let old_lives = talk(&world, &mut old, "after").await;
        // Restarts are over by now.
        world.sim.clock.sleep(SOON).await;
        let fired = world.faults.fired() == 1;
        world.faults.arm(point, fault, usize::MAX, 1);

        let restarts = world.supervisor.restarts();
        let lost = world
            .tree
            .signals(tube.channel.id)
            .iter()
            .filter(|signal| {
                matches!(signal, StreamTubeSignal::ConnectionClosed { why, .. } if name(why) == "ConnectionLost")
            })
            .count();
        // An error within a dial is a dial that failed, and refuses the request.
        let only_refused = fault == Fault::Error
            && matches!(
                point,
                FaultPoint::DiallerConnecting
                    | FaultPoint::DiallerSaying
                    | FaultPoint::DiallerConnected
            );
        let failures = u64::from(fired && !only_refused);
        let counted = match point.actor() {
            ActorKind::Tube => restarts.tubes,
            ActorKind::Listener => restarts.listeners,
            ActorKind::Dialler => restarts.diallers,
            ActorKind::Announcer => restarts.announcers,
            ActorKind::Relay => restarts.relays,
            ActorKind::Channel => restarts.channels,
            ActorKind::Root | ActorKind::Transfer | ActorKind::Flow => {
                unreachable!("see `kill_all`")
            }
        };
        assert_eq!(counted, failures, "{context}");
        let all = [
            restarts.tubes,
            restarts.listeners,
            restarts.diallers,
            restarts.announcers,
            restarts.relays,
            restarts.channels,
        ];
        assert_eq!(all.iter().sum::<u64>(), failures, "{context}: no sibling suffers");

        if fired && point.actor() == ActorKind::Channel {
            assert!(!talk(&world, &mut old, "gone").await, "{context}");
            assert_eq!(world.tree.present(), [], "{context}");
            assert!(lost >= 1, "{context}");
            assert_eq!(world.sockets.listeners(), 0, "{context}");
            assert!(world.signalling.log().contains(&Signalled::Closed), "{context}");
            assert!(tube.channel.address.is_gone(), "{context}");
            return fired;
        }
        assert_eq!(world.tree.present(), [tube.channel.id], "{context}");
        assert_eq!(channel_lost(point, fired), lost, "{context}");
        let old_is_victim = fired && point == FaultPoint::RelayFlowing && skip == 0
            || fired && point.actor() == ActorKind::Relay && !old_lives && lost == 1;
        assert!(old_lives || old_is_victim, "{context}: open relays live on");
        let mut newest = tube.connect(&world).await.expect(&context);
        assert!(talk(&world, &mut newest, "again").await, "{context}");
        close(&tube.channel).await;
        fired
    });
    world.finish();
    Outcome { fired }
}

/// The first connection already fell victim: the channel is gone, or the next connection works.
async fn checked_early(world: &World, tube: &mut Tube, point: FaultPoint, context: &str) -> bool {
    world.sim.clock.sleep(SOON).await;
    if point.actor() == ActorKind::Channel {
        assert_eq!(world.tree.present(), [], "{context}");
    } else {
        let mut next = tube.connect(world).await.expect(context);
        assert!(talk(world, &mut next, "again").await, "{context}");
    }
    true
}

fn channel_lost(point: FaultPoint, fired: bool) -> usize {
    usize::from(fired && point.actor() == ActorKind::Relay)
}

/// Every point on each side, the first and some later ones that come by. Each point must kill
/// somebody on one side at least, or it is not where it claims to be.
fn kill_all(fault: Fault) {
    let points = FaultPoint::ALL.iter().copied();
    // The root takes everything along; see `root`. A tube has neither of the others.
    let elsewhere = [ActorKind::Root, ActorKind::Transfer, ActorKind::Flow];
    for point in points.filter(|point| !elsewhere.contains(&point.actor())) {
        let mut fired = 0;
        for side in [Side::Offering, Side::Accepting] {
            for skip in 0..8 {
                for early in [true, false] {
                    fired += usize::from(run(side, point, fault, skip, early).fired);
                }
            }
        }
        assert!(fired > 0, "nobody ever comes by {point:?}");
    }
}

#[test]
fn errors() {
    kill_all(Fault::Error);
}

#[test]
fn panics() {
    kill_all(Fault::Panic);
}
