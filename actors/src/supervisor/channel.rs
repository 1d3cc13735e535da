//! The supervisor of one channel.

use super::{
    ChannelObject, StreamTubeRequest,
    root::{RootMessage, World},
};
use crate::{
    model::{ChannelId, Error, Result, TubeState},
    ports::StreamTubeView,
    runtime::{Address, Mailbox, Reply, Snapshot, Stop},
    stream_tube::StreamTubeMessage,
};
use futures_lite::FutureExt as _;

/// Starts a channel: publishes its object, answers, and runs it to its end.
pub(super) fn start(
    world: World,
    id: ChannelId,
    request: StreamTubeRequest,
    stop: Stop,
    reply: Reply<Result<ChannelObject>>,
    root: Address<RootMessage>,
) {
    let spawner = world.spawner.clone();
    spawner
        .spawn("channel", async move {
            run(&world, id, request, stop, reply).await;
            root.tell_first(RootMessage::Ended(id)).await.ok();
        })
        .detach();
}

async fn run(
    world: &World,
    id: ChannelId,
    request: StreamTubeRequest,
    stop: Stop,
    reply: Reply<Result<ChannelObject>>,
) {
    let (mut mailbox, address) = Mailbox::new(world.config.mailbox);
    let state = if request.description.requested {
        TubeState::NotOffered
    } else {
        TubeState::LocalPending
    };
    let (_writer, view) = Snapshot::new(StreamTubeView {
        state,
        parameters: request.description.parameters.clone(),
        address: None,
        connections: 0,
        bytes_sent: 0,
        bytes_received: 0,
    });
    let object = ChannelObject {
        id,
        owner: request.owner,
        description: request.description,
        address,
        view,
    };
    if let Err(why) = world.tree.publish(object.clone()).await {
        super::config::count(&world.counters.channels);
        reply.answer(Err(why));
        return;
    }
    if reply.send(Ok(object)).is_err() {
        world.tree.withdraw(id).await;
        return;
    }
    let mut closers = Vec::new();
    loop {
        let stopped = async {
            stop.stopped().await;
            None
        };
        let later = || Error::NotAvailable("tubes are not connected yet".into());
        match stopped.or(mailbox.next()).await {
            None | Some(StreamTubeMessage::RemoteClosed | StreamTubeMessage::ContactGone) => break,
            Some(StreamTubeMessage::Close { reply }) => {
                closers.push(reply);
                break;
            }
            Some(StreamTubeMessage::Offer { reply, .. }) => reply.answer(Err(later())),
            Some(StreamTubeMessage::Accept { reply, .. }) => reply.answer(Err(later())),
            Some(StreamTubeMessage::Incoming(incoming)) => incoming.refuse(later()),
        }
    }
    let limit = world.clock.sleep(world.config.farewell_limit);
    request.signalling.close().or(limit).await;
    world.tree.withdraw(id).await;
    for reply in closers {
        reply.answer(());
    }
}
