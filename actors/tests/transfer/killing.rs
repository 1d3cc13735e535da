//! Kills every kind of actor at every named point, with an error and with a panic, while a file goes
//! either way, and compares what happens with the table of restarts.
//!
//! | who dies | what becomes of the transfer |
//! | --- | --- |
//! | transfer, listener, announcer | it goes on, by a successor, and completes |
//! | flow | it is cancelled: LocalError; the contact is told |
//! | flow, once the transfer is completed | nothing |
//! | channel supervisor | it is cancelled: LocalError; the channel closes |

use std::{future::Future, time::Duration};

use actors::{
    file_transfer::{
        FileTransferMessage,
        frames::{self, Word},
    },
    model::{AccessRule, AddressType, FileTransferReason, FileTransferState, Resume},
    ports::FileTransferObject,
    runtime::{ActorKind, Clock as _},
    testing::{FakeStream, Fault, FaultPoint, agreed, file_stream},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, future};

use crate::support::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Sending,
    Receiving,
    /// Receiving, by an application that says what it stores.
    Storing,
}

const SOON: Duration = Duration::from_secs(20);
const SIZE: usize = 20_000;

async fn within<T>(world: &World, future: impl Future<Output = T>) -> Option<T> {
    let late = async {
        world.sim.clock.sleep(SOON).await;
        None
    };
    async { Some(future.await) }.or(late).await
}

/// Asks for a socket as a stubborn client does: one that is answered with an error looks at the state
/// and asks again.
async fn ask_for_a_socket(
    world: &World,
    channel: &FileTransferObject,
    way: Way,
) -> Option<FakeStream> {
    for _ in 0..5 {
        let (address_type, access) = (AddressType::Unix, AccessRule::Credentials);
        let asked = channel.address.ask(|reply| match way {
            Way::Sending => FileTransferMessage::Provide {
                address_type,
                access,
                from: None,
                reply,
            },
            Way::Receiving | Way::Storing => FileTransferMessage::Accept {
                address_type,
                access,
                from: Resume::default(),
                stores: way == Way::Storing,
                reply,
            },
        });
        let answered = within(world, asked).await;
        answered.expect("every request is answered").ok();
        if let Some(address) = channel.view.get().address.clone() {
            let mut stream = world.sockets.connect(&address).ok()?;
            stream.write_all(b"b").await.ok()?;
            return Some(stream);
        }
        world.sim.clock.sleep(Duration::from_secs(1)).await;
    }
    None
}

/// The application's part; it breaks off when we do.
async fn apply(
    world: &World,
    channel: &FileTransferObject,
    mut stream: FakeStream,
    way: Way,
) -> bool {
    let bytes = content(SIZE);
    match way {
        Way::Sending => {
            let written = stream.write_all(&bytes).await.is_ok();
            let closed = stream.close().await.is_ok();
            stream.read(&mut [0]).await.ok();
            written && closed
        }
        Way::Receiving | Way::Storing => {
            let mut got = Vec::new();
            let taken = stream.read_to_end(&mut got).await.is_ok() && got == bytes;
            if taken && way == Way::Storing {
                // As stubbornly as before.
                for _ in 0..5 {
                    let said = within(world, stored(channel, SIZE as u64)).await;
                    if said.expect("every report is answered").is_ok() {
                        break;
                    }
                    world.sim.clock.sleep(Duration::from_secs(1)).await;
                }
            }
            taken
        }
    }
}

/// The contact's part: whether all is well as far as it sees.
async fn be_the_contact(mut contact: FakeStream, way: Way) -> bool {
    let bytes = content(SIZE);
    let mut heard = Vec::new();
    match way {
        Way::Sending => {
            let end = frames::end(sha256(&bytes));
            let mut buffer = vec![0; 4096];
            while !heard.ends_with(&end) {
                match contact.read(&mut buffer).await {
                    Ok(count) if count > 0 => heard.extend(&buffer[..count]),
                    _ => return false,
                }
            }
            let mut word = Vec::new();
            Word::Verified.write(&mut word);
            contact.write_all(&word).await.ok();
        }
        Way::Receiving | Way::Storing => {
            let mut all = frames::header(0).to_vec();
            all.extend(bytes.chunks(3000).flat_map(chunk));
            all.extend(end_of(&bytes));
            if contact.write_all(&all).await.is_err() {
                return false;
            }
        }
    }
    contact.close().await.ok();
    let mut rest = Vec::new();
    contact.read_to_end(&mut rest).await.ok();
    // After a word about what is stored, if that came through.
    way == Way::Sending || rest.last() == Some(&2)
}

fn run(way: Way, point: FaultPoint, fault: Fault, skip: usize) -> bool {
    let world = World::new();
    let context = format!("{way:?} {point:?} {fault:?} after {skip}");
    let fired = world.sim.run(async {
        world.faults.arm(point, fault, skip, 1);
        // One that nobody harms.
        let (bystander, standing) = world.offered(file(1)).await;
        let (channel, contact) = match way {
            Way::Sending => {
                let (channel, answers) = world.send(file(SIZE)).await;
                let (near, far) = file_stream(CAPACITY, true, &world.counter);
                let answer = agreed(Resume::default(), near);
                answers.send(Ok(answer)).await.ok();
                let contact = async move { Some((be_the_contact(far, way).await, None)) };
                (channel, contact.boxed())
            }
            Way::Receiving | Way::Storing => {
                let (channel, offer) = world.offered(file(SIZE)).await;
                let counter = world.counter.clone();
                let contact = async move {
                    let (_, reply) = offer.accepted().await?;
                    let (near, far) = file_stream(CAPACITY, true, &counter);
                    reply.answer(Ok(near));
                    Some((be_the_contact(far, way).await, Some(offer)))
                };
                (channel, contact.boxed())
            }
        };
        let application = async {
            let stream = ask_for_a_socket(&world, &channel, way).await?;
            Some(apply(&world, &channel, stream, way).await)
        };
        let both = future::zip(application, contact);
        let (application, contact) = within(&world, both).await.unwrap_or_default();
        // Restarts and partings are over by now.
        world.sim.clock.sleep(SOON).await;
        let fired = world.faults.fired() == 1;
        world.faults.arm(point, fault, usize::MAX, 1);
        let well = application == Some(true) && matches!(contact, Some((true, _)));

        let victim = [bystander.id, channel.id]
            .into_iter()
            .filter(|id| !world.tree.present().contains(id))
            .collect::<Vec<_>>();
        let restarts = world.supervisor.restarts();
        let counts = [
            (ActorKind::Transfer, restarts.transfers),
            (ActorKind::Listener, restarts.listeners),
            (ActorKind::Announcer, restarts.announcers),
            (ActorKind::Flow, restarts.flows),
            (ActorKind::Channel, restarts.channels),
        ];
        // A flow that dies while it parts has told how it ended before.
        let counted = fired && point != FaultPoint::FlowParting;
        for (actor, count) in counts {
            let expected = u64::from(counted && actor == point.actor());
            assert_eq!(count, expected, "{context}: {actor:?}");
        }
        let (bystander_state, state) = (bystander.view.get().state, channel.view.get().state);
        let cancelled = [bystander_state, state]
            .iter()
            .filter(|state| **state == FileTransferState::Cancelled)
            .count();
        match point.actor() {
            ActorKind::Channel if counted => {
                let [gone] = victim[..] else {
                    panic!("{context}: one suffers, not {victim:?}");
                };
                let one = [&channel, &bystander]
                    .into_iter()
                    .find(|one| one.id == gone);
                let view = one.expect("one of the two").view.get();
                // One that was over already only goes.
                if view.state != FileTransferState::Completed {
                    assert_eq!(cancelled, 1, "{context}");
                    assert_eq!(view.reason, FileTransferReason::LocalError, "{context}");
                }
            }
            ActorKind::Flow if counted => {
                assert_eq!(cancelled, 1, "{context}: one suffers");
                assert_eq!(victim, [], "{context}: it can be looked at");
                let one = match state {
                    FileTransferState::Cancelled => &channel,
                    _ => &bystander,
                };
                let view = one.view.get();
                assert_eq!(view.reason, FileTransferReason::LocalError, "{context}");
                assert!(view.error.is_some(), "{context}");
                // Nobody thinks that all is well, but where it was and only the word of it is lost.
                let late = point == FaultPoint::FlowEnded;
                assert!(!well || one.id != channel.id || late, "{context}");
            }
            _ => {
                assert_eq!(cancelled, 0, "{context}: nothing is lost");
                assert_eq!(victim, [], "{context}");
            }
        }
        if state != FileTransferState::Cancelled {
            // The last word may be lost with who had to see to it.
            let contact_knows = well || fired && point == FaultPoint::FlowParting;
            assert!(contact_knows && application == Some(true), "{context}");
            assert_eq!(state, FileTransferState::Completed, "{context}");
            assert_eq!(channel.view.get().transferred, SIZE as u64, "{context}");
        }
        // Nothing is left of either but the objects.
        assert_eq!(world.sockets.listeners(), 0, "{context}");
        drop(contact);
        assert_eq!(world.counter.open(), 0, "{context}");
        for object in [&channel, &bystander] {
            if !object.address.is_gone() {
                close(object).await;
            }
        }
        drop(standing);
        fired
    });
    world.finish();
    fired
}

/// Every point each way, the first and some later ones that come by. Each point must kill somebody, or
/// it is not where it claims to be.
fn kill_all(fault: Fault) {
    let points = FaultPoint::ALL.iter().copied();
    // The root takes everything along; see `root`. A transfer has none of the others.
    let elsewhere = [
        ActorKind::Root,
        ActorKind::Tube,
        ActorKind::Dialler,
        ActorKind::Relay,
    ];
    for point in points.filter(|point| !elsewhere.contains(&point.actor())) {
        let mut fired = 0;
        for way in [Way::Sending, Way::Receiving, Way::Storing] {
            for skip in 0..16 {
                fired += usize::from(run(way, point, fault, skip));
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
