//! Kills every actor of a D-Bus tube at every point it comes by, with an error and with a panic, and looks
//! at what becomes of the tube.
//!
//! | who dies | what becomes of the tube |
//! | --- | --- |
//! | tube, listener, announcer | it goes on, by a successor; no message is missing or twice |
//! | flow | it closes, with an error; once it is over, nothing |
//! | channel supervisor | it closes, with an error |

use std::{collections::BTreeSet, time::Duration};

use actors::{
    dbus_tube::DBusTubeMessage,
    model::{AccessControl, TubeState},
    ports::{DBusTubeObject, DBusTubeSignal::TubeStateChanged},
    runtime::{ActorKind, Clock as _},
    testing::{FakeStream, Fault, FaultPoint},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, future::zip};

use crate::support::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Ours,
    Theirs,
}

/// How often a point is passed at most before the one that kills.
const LAST: usize = 8;

/// Asks as a stubborn client does: one that is answered with an error looks and asks again.
async fn address(world: &World, channel: &DBusTubeObject, way: Way) -> Option<String> {
    for _ in 0..5 {
        let access = AccessControl::Credentials;
        let answered = match way {
            Way::Ours => offer(channel, access).await,
            Way::Theirs => accept(channel, access).await,
        };
        let seen = channel.view.get().address.clone();
        if let Some(address) = answered.ok().or(seen) {
            return Some(address);
        }
        world.sleep(1).await;
    }
    None
}

/// Both write and read the same messages.
async fn talk(application: &mut FakeStream, contact: &mut FakeStream) -> Option<()> {
    async fn say(stream: &mut FakeStream) -> Option<()> {
        let all = all();
        let (mut heard, mut written) = (vec![0; all.len()], 0);
        // In turns: neither side may hold the other up.
        while written < all.len() {
            let end = all.len().min(written + 500);
            stream.write_all(&all[written..end]).await.ok()?;
            stream.flush().await.ok()?;
            stream.read_exact(&mut heard[written..end]).await.ok()?;
            written = end;
        }
        assert!(heard == all, "a message is missing, or twice");
        Some(())
    }
    let (one, other) = zip(say(application), say(contact)).await;
    one.and(other)
}

fn all() -> Vec<u8> {
    (0..6).flat_map(|n| message(&[n; 84])).collect()
}

/// The whole life of a tube. `None` if it broke off.
async fn live(world: &World, channel: &DBusTubeObject, way: Way, held: &mut Held) -> Option<()> {
    let address = address(world, channel, way).await?;
    let answering = match held {
        Held::Ours(offered) => offered.recv().await.ok()?.2,
        Held::Theirs(offer) => offer.accepted().await?,
    };
    let mut contact = answering.open(&world.counter);
    for _ in 0..2 {
        let mut application = world.sockets.connect(&socket_of(&address)).ok()?;
        let hello = b"\0AUTH EXTERNAL 31303030\r\nBEGIN\r\n";
        application.write_all(hello).await.ok()?;
        application.read_exact(&mut [0; 37]).await.ok()?;
        talk(&mut application, &mut contact).await?;
    }
    wait_state(channel, TubeState::Open).await;
    match way {
        Way::Ours => drop(zip(close_stubbornly(world, channel), hear_out(contact)).await),
        Way::Theirs => {
            contact.close().await.ok()?;
            hear_out(contact).await;
        }
    }
    Some(())
}

async fn close_stubbornly(world: &World, channel: &DBusTubeObject) {
    for _ in 0..5 {
        let ask = |reply| DBusTubeMessage::Close { reply };
        if channel.address.ask_first(ask).await.is_ok() {
            return;
        }
        world.sleep(1).await;
    }
}

enum Held {
    Ours(actors::testing::Offered),
    Theirs(actors::testing::FakeDBusOffer),
}

/// Whether somebody was killed.
fn kill(way: Way, point: FaultPoint, fault: Fault, skip: usize) -> bool {
    let what = format!("{way:?}, {fault:?} at {point:?} after {skip}");
    let world = World::new();
    world.faults.arm(point, fault, skip, 1);
    world.sim.run(async {
        let (channel, mut held) = match way {
            Way::Ours => {
                let (channel, _, offered) = world.ours().await;
                (channel, Held::Ours(offered))
            }
            Way::Theirs => {
                let (channel, offer) = world.theirs().await;
                (channel, Held::Theirs(offer))
            }
        };
        let late = async {
            world.sim.clock.sleep(Duration::from_secs(120)).await;
            None
        };
        let lived = live(&world, &channel, way, &mut held).or(late).await;
        drop(held);
        let withdrawn = async {
            world.tree.wait_withdrawn(channel.id).await;
            true
        };
        let late = async {
            world.sleep(60).await;
            false
        };
        assert!(withdrawn.or(late).await, "{what}: it is still there");
        let restarts = matches!(
            point.actor(),
            ActorKind::Tube | ActorKind::Listener | ActorKind::Announcer
        );
        if restarts || world.faults.fired() == 0 {
            assert!(lived.is_some(), "{what}: it does not go on");
            let states = [TubeState::RemotePending, TubeState::Open].map(TubeStateChanged);
            let states = match way {
                Way::Ours => &states[..],
                Way::Theirs => &states[1..],
            };
            let mut said = world.tree.dbus_signals(channel.id);
            // Twice rather than not at all, if the one who says it dies.
            said.dedup();
            assert_eq!(said, states, "{what}");
        }
        let error = channel.view.get().error.clone();
        assert!(
            lived.is_some() || error.is_some(),
            "{what}: nobody says why"
        );
    });
    let killed = world.faults.fired() > 0;
    world.finish();
    killed
}

#[test]
fn whoever_dies_the_tube_goes_on_or_closes() {
    let mut killed = BTreeSet::new();
    for way in [Way::Ours, Way::Theirs] {
        for point in FaultPoint::ALL.iter().copied() {
            if point.actor() == ActorKind::Root {
                continue;
            }
            for fault in [Fault::Error, Fault::Panic] {
                for skip in 0..LAST {
                    if !kill(way, point, fault, skip) {
                        break;
                    }
                    killed.insert(point);
                }
            }
        }
    }
    // Those that lie on a tube's way are really reached.
    for point in FaultPoint::ALL {
        let of_a_tube = match point.actor() {
            ActorKind::Tube | ActorKind::Announcer | ActorKind::Channel => true,
            ActorKind::Listener => true,
            ActorKind::Flow => !matches!(
                point,
                // Of a file.
                FaultPoint::FlowProviding | FaultPoint::FlowClose
            ),
            _ => false,
        };
        assert_eq!(killed.contains(point), of_a_tube, "{point:?}");
    }
}
