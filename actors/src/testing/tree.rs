//! A tree of objects that only writes down what it is told, and notices when it is told nonsense.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use event_listener::Event;

use super::lock;
use crate::{
    model::{ChannelId, Error},
    ports::{
        ChannelObject, ChannelSignal, DBusTubeSignal, FileTransferSignal, ObjectTree,
        StreamTubeSignal,
    },
    runtime::BoxFuture,
};

/// One thing the tree was told.
#[derive(Clone, Debug)]
pub enum TreeEvent {
    /// A channel appeared.
    Published(ChannelObject),
    /// It emitted a signal.
    Signal(ChannelId, ChannelSignal),
    /// It closed and is gone.
    Withdrawn(ChannelId),
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct FakeTree {
    inner: Mutex<Inner>,
    changed: Event,
}

#[derive(Debug, Default)]
struct Inner {
    log: Vec<TreeEvent>,
    present: Vec<ChannelId>,
    closed: Vec<ChannelId>,
    refusals: VecDeque<Error>,
    panics: usize,
    held: bool,
    nonsense: Vec<String>,
}

impl FakeTree {
    /// An empty tree.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Makes the next `publish` that has no refusal yet fail.
    pub fn refuse_next(&self, why: Error) {
        lock(&self.inner).refusals.push_back(why);
    }

    /// Makes the next `count` emissions panic.
    pub fn panic_next(&self, count: usize) {
        lock(&self.inner).panics = count;
    }

    /// Holds back everything (`true`), as a bus does that nobody reads, until it is let go.
    pub fn hold(&self, held: bool) {
        lock(&self.inner).held = held;
        self.changed.notify(usize::MAX);
    }

    /// Everything so far, in order.
    pub fn log(&self) -> Vec<TreeEvent> {
        lock(&self.inner).log.clone()
    }

    /// The signals of one stream tube so far, in order.
    pub fn signals(&self, channel: ChannelId) -> Vec<StreamTubeSignal> {
        self.signals_of(channel, |signal| match signal {
            ChannelSignal::StreamTube(signal) => Some(signal),
            _ => None,
        })
    }

    /// The signals of one file transfer so far, in order.
    pub fn file_signals(&self, channel: ChannelId) -> Vec<FileTransferSignal> {
        self.signals_of(channel, |signal| match signal {
            ChannelSignal::FileTransfer(signal) => Some(signal),
            _ => None,
        })
    }

    /// The signals of one D-Bus tube so far, in order.
    pub fn dbus_signals(&self, channel: ChannelId) -> Vec<DBusTubeSignal> {
        self.signals_of(channel, |signal| match signal {
            ChannelSignal::DBusTube(signal) => Some(signal),
            _ => None,
        })
    }

    fn signals_of<S>(
        &self,
        channel: ChannelId,
        pick: impl Fn(ChannelSignal) -> Option<S>,
    ) -> Vec<S> {
        let of_channel = |event: &TreeEvent| match event {
            TreeEvent::Signal(id, signal) if *id == channel => pick(signal.clone()),
            _ => None,
        };
        let inner = lock(&self.inner);
        inner.log.iter().filter_map(of_channel).collect()
    }

    /// The channels that are published now.
    pub fn present(&self) -> Vec<ChannelId> {
        lock(&self.inner).present.clone()
    }

    /// Waits until `wanted` holds of the log.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&[TreeEvent]) -> bool) {
        loop {
            let listener = self.changed.listen();
            if wanted(&lock(&self.inner).log) {
                return;
            }
            listener.await;
        }
    }

    /// Waits until one stream tube has emitted `count` signals, and gives all it emitted.
    pub async fn wait_for_signals(
        &self,
        channel: ChannelId,
        count: usize,
    ) -> Vec<StreamTubeSignal> {
        loop {
            let listener = self.changed.listen();
            let signals = self.signals(channel);
            if signals.len() >= count {
                return signals;
            }
            listener.await;
        }
    }

    /// Waits until a channel is withdrawn.
    pub async fn wait_withdrawn(&self, channel: ChannelId) {
        self.wait_for(|log| {
            log.iter()
                .any(|event| matches!(event, TreeEvent::Withdrawn(id) if *id == channel))
        })
        .await;
    }

    /// Breaches of the port's rules so far: a signal of a channel that is not there, a channel
    /// published or withdrawn twice.
    pub fn nonsense(&self) -> Vec<String> {
        lock(&self.inner).nonsense.clone()
    }

    async fn let_through(&self) {
        loop {
            let listener = self.changed.listen();
            if !lock(&self.inner).held {
                return;
            }
            listener.await;
        }
    }

    fn record(&self, event: TreeEvent) {
        let mut inner = lock(&self.inner);
        match &event {
            TreeEvent::Published(object) => {
                if inner.present.contains(&object.id()) || inner.closed.contains(&object.id()) {
                    inner.nonsense.push(format!("{:?} twice", object.id()));
                }
                inner.present.push(object.id());
            }
            TreeEvent::Signal(id, signal) => {
                if !inner.present.contains(id) {
                    inner
                        .nonsense
                        .push(format!("{signal:?} of {id:?}, which is not there"));
                }
            }
            TreeEvent::Withdrawn(id) => {
                if !inner.present.contains(id) {
                    inner
                        .nonsense
                        .push(format!("{id:?} withdrawn without being there"));
                }
                inner.present.retain(|present| present != id);
                inner.closed.push(*id);
            }
        }
        inner.log.push(event);
        drop(inner);
        self.changed.notify(usize::MAX);
    }
}

/// The port is implemented for the shared tree, so that tests keep a handle to it.
impl ObjectTree for Arc<FakeTree> {
    fn publish(&self, object: ChannelObject) -> BoxFuture<'static, Result<(), Error>> {
        let tree = self.clone();
        Box::pin(async move {
            tree.let_through().await;
            let refusal = lock(&tree.inner).refusals.pop_front();
            match refusal {
                Some(why) => Err(why),
                None => {
                    tree.record(TreeEvent::Published(object));
                    Ok(())
                }
            }
        })
    }

    fn emit(&self, channel: ChannelId, signal: ChannelSignal) -> BoxFuture<'static, ()> {
        let tree = self.clone();
        Box::pin(async move {
            tree.let_through().await;
            let panics = {
                let mut inner = lock(&tree.inner);
                let panics = inner.panics > 0;
                inner.panics = inner.panics.saturating_sub(1);
                panics
            };
            assert!(!panics, "the tree was told to panic");
            tree.record(TreeEvent::Signal(channel, signal));
        })
    }

    fn withdraw(&self, channel: ChannelId) -> BoxFuture<'static, ()> {
        let tree = self.clone();
        Box::pin(async move {
            tree.let_through().await;
            tree.record(TreeEvent::Withdrawn(channel));
        })
    }
}
