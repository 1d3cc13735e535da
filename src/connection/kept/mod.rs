//! Kept tubes: what our user left to the service for good (`--detach`). They outlive the command, the
//! contact's absence, and the service itself: they are written down in the profile and made anew when
//! the service comes back, until the user closes them.
//!
//! ```text
//!  dbus/ ── KeptHandle ──▶ keeper (actor) ──┬── record (pure), store (one write or read at a time)
//!                            │              ├── tend (a task for each tube: makes it again and again)
//!                            │              └── a task for each account that has to be online for them
//!                            └── published: what is kept, and how each fares
//! ```
//!
//! Only what our user did is written down, with the key that the contact had: a tube is made with that
//! key and no other, and only while it is pinned. The account goes online by itself when the service
//! starts and when its connection failed; one that somebody took offline stays so until somebody
//! brings it online. A client that asks for a connection of its own for a profile whose connection is
//! ours gets it: ours makes way, and the tubes move, unless others have tubes there, too. A profile
//! that another service of our user's has is that one's to keep: we only look again now and then, and
//! do not stay for it.
//!
//! Bounds: [`record::MAX_TUBES`] for each profile.

use std::collections::{BTreeMap, BTreeSet};

use actors::{
    model::{ChannelId, Result},
    runtime::Reply,
};

use super::message::ConnectionHandle;

mod handle;
mod keeper;
pub(crate) mod record;
mod store;
pub(super) mod tend;
#[cfg(test)]
mod tests;

pub use handle::KeptHandle;

use record::{KeptTube, Record};
use tend::Begun;

/// How a kept tube fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Not there, and why: a sentence without its full stop.
    Waiting(String),
    /// There, as this channel.
    Running(ChannelId),
}

/// A kept tube as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The number under which its user knows it.
    pub number: u32,
    /// What is kept.
    pub tube: KeptTube,
    /// How it fares.
    pub condition: Condition,
}

/// What the keeper publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    profiles: BTreeMap<String, Vec<Kept>>,
    /// Profiles whose account is being brought online; not those that another service has.
    going_online: BTreeSet<String>,
}

/// What the keeper is told and asked.
enum Message {
    /// A profile has a connection; `ours` if we asked for it. `known` hears when it is known what the
    /// profile keeps.
    Gained {
        connection: ConnectionHandle,
        ours: bool,
        known: Option<Reply<()>>,
    },
    /// A connection is gone; `asked` if somebody wanted that.
    Lost {
        connection: ConnectionHandle,
        asked: bool,
    },
    /// The connection of a profile, if it is ours alone: somebody wants another.
    Ours {
        profile: String,
        reply: Reply<Option<ConnectionHandle>>,
    },
    /// A connection of ours made way for nobody: what somebody wanted in its place could not be had.
    InVain(ConnectionHandle),
    /// A profile's account could not be brought online, because another service has the profile.
    Elsewhere(String),
    /// Nobody but us uses a connection of ours, which keeps nothing any more, perhaps.
    Idle(ConnectionHandle),
    Change(Change),
    Done(Outcome),
    Condition {
        profile: String,
        number: u32,
        condition: Condition,
    },
}

/// What is done with the disk, one after the other.
enum Change {
    Load(String, Option<Reply<()>>),
    Keep(Box<Keep>),
    /// Whether a profile's account is offline because somebody wants it so.
    Offline(String, bool),
    Drop {
        profile: String,
        number: u32,
        reply: Reply<Result<()>>,
    },
}

/// A tube that is there, and that its user wants to be there for good.
struct Keep {
    connection: ConnectionHandle,
    tube: KeptTube,
    begun: Begun,
    reply: Reply<Result<u32>>,
}

/// What came of it.
enum Outcome {
    Loaded(Result<Option<Record>>),
    Saved(Result<Record>),
}
