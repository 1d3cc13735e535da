//! Supervised actors on smol, and the actors behind Telepathy's tubes made of them.
//!
//! # An actor
//! [`runtime`] has what an actor is made of, a few hundred lines you can read in one sitting: a bounded
//! [`Mailbox`](runtime::Mailbox) with a priority inbox, an [`Address`](runtime::Address) to tell and to
//! ask, a [`Reply`](runtime::Reply) that is never forgotten (dropped unanswered it is an error, not a
//! hang), a tree of [`Stop`](runtime::Stop) tokens, a [`Clock`](runtime::Clock) and an executor
//! ([`Spawner`](runtime::Spawner)) that are handed in, and a [`Snapshot`](runtime::Snapshot) that others
//! read without asking. The shape is always the same: [`Actor::select`](runtime::Actor::select) waits for
//! one event and may be cancelled; [`Actor::apply`](runtime::Actor::apply) is synchronous, decides, and is
//! what unit tests call. The example `actor_from_scratch` builds one, with a supervisor that restarts it.
//!
//! # Floors
//! Import downward only.
//!
//! ```text
//!   supervisor    starts, restarts, carries out
//!   stream_tube · dbus_tube · file_transfer    decide
//!   bridge        an address of the user's choice, joined to another local socket
//!   endpoint · relay          sockets · bytes
//!   limits        how many connections, how many bytes a second
//!   ports         what is needed from above, as traits
//!   runtime       what an actor is made of
//!   model         the specification's words; no I/O
//! ```
//!
//! There is no D-Bus and no XML here. Whoever uses the crate implements the [`ports`]:
//! an [`ObjectTree`](ports::ObjectTree) that shows channels to people, and a session
//! ([`BytestreamConnector`](ports::BytestreamConnector), [`TubeSignalling`](ports::TubeSignalling),
//! [`IncomingBytestream`](ports::IncomingBytestream); [`FileSending`](ports::FileSending),
//! [`IncomingFile`](ports::IncomingFile); [`DBusTubeOffering`](ports::DBusTubeOffering),
//! [`IncomingDBusTube`](ports::IncomingDBusTube)) that reaches contacts.
//!
//! # The tree
//!
//! ```text
//!  supervisor (root) ── SupervisorHandle: open_stream_tube, open_dbus_tube,
//!   │                                               open_file_transfer, close_owner, shutdown …
//!   └─ channel supervisor, one for each channel
//!       │  owns: mailbox · recovery record · listening socket · sockets that wait · slots · signals
//!       ├─ tube        decides; each decision is one commit    ── restarted from its record
//!       ├─ listener    accepts applications                    ── restarted on the same descriptor
//!       ├─ dialler     dials the offered service, one by one   ── restarted; what it held is refused
//!       ├─ announcer   emits signals in order                  ── restarted at the signal in hand
//!       └─ relay …     one for each connection, both ways      ── ConnectionClosed(ConnectionLost)
//!
//!      of a file transfer:
//!       ├─ transfer    decides; each decision is one commit    ── restarted from its record
//!       ├─ listener    accepts the application                 ── restarted on the same descriptor
//!       ├─ announcer   emits signals in order                  ── restarted at the signal in hand
//!       └─ flow        offers or accepts, and carries the file ── Cancelled(LocalError), and it is said
//!
//!      of a D-Bus tube:
//!       ├─ tube, listener, announcer                           ── as above
//!       └─ flow        offers or accepts, lets applications in one by one,
//!                      and carries whole messages              ── the tube closes, with an error
//! ```
//!
//! The actors of a channel are siblings: a relay does not notice that its tube is restarted. Restarts
//! are limited in number per time, with a growing pause ([`RestartPolicy`](supervisor::RestartPolicy));
//! past the limit the failure moves up, the channel closes, every connection is said to be lost exactly
//! once (a file transfer to be cancelled), and nothing is left behind. A panic is a failure like any
//! other: the actor's state is thrown away with it, and what survives was committed before.
//!
//! A [`Bridge`](bridge::Bridge) stands outside of the tree: whoever makes one runs it, and stops it.
//! [`Limits`](limits::Limits) are no actor: the channels they hold for share them.
//!
//! # Tests
//! With the feature `testing` there are a fake of every port, a clock that moves only when told, and
//! fault points that kill any actor at any await and effect (`testing`). Hundreds of scenarios run in
//! seconds, without bus, network or sleep, and do the same steps each time.
//!
//! # What is global all the same
//! async-io's reactor thread. Everything else lives on the executor that was handed in and ends with
//! [`SupervisorHandle::shutdown`](supervisor::SupervisorHandle::shutdown).

pub mod bridge;
pub mod dbus_tube;
pub mod endpoint;
pub mod file_transfer;
pub mod limits;
pub mod model;
pub mod ports;
pub mod relay;
pub mod runtime;
pub mod stream_tube;
pub mod supervisor;
#[cfg(feature = "testing")]
pub mod testing;
