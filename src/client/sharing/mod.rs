//! One service of the session bus, shared with a contact: a filter on one side, a bus with one service
//! on the other, and between them a D-Bus connection of two.
//!
//! ```text
//!   session bus ◄──► share ══════════ contact ══════════ Serving ◄──► busctl, gdbus, playerctl …
//!                      └─ Offering      (a tube)           └─ SmallBus
//!                           └─ Filter                           └─ rules, the bus's own methods
//!
//!                                          or ═══════ own() ◄──► the session bus over there
//!                                                       └─ Owning
//! ```
//!
//! [`share`] lets calls of one well-known name through, as far as its [`Filter`] allows, and gives back
//! answers and the service's signals; nothing else of the bus can be reached or heard of. [`Serving`] is a
//! bus at a private Unix socket that ordinary tools work with; [`own`] puts the service on a bus that is
//! there, under a name of its user's choice. What decides, [`Offering`], [`SmallBus`] and [`Owning`], is
//! pure and takes whatever the other side sends.
//!
//! # On the connection between them
//! Method calls go from the accepting side to the sharing side, with the shared name as destination;
//! answers and signals go back. None has a sender. Whether the service is there is told by
//! `org.freedesktop.DBus.NameOwnerChanged` of the shared name, once at the beginning and then on each change;
//! a service that another program took over is told as gone and there again.
//!
//! # Limits
//! Messages of [`MOST_BYTES`] (a longer call or answer of our own side's is answered with an error, a
//! longer signal is left out), [`MESSAGES_PER_SECOND`] from the contact in each direction (who sends more
//! is read later); no call waits longer than [`PATIENCE`] for its answer. No descriptors go through.
//!
//! | who | what |
//! | --- | --- |
//! | the side that shares | [`MAX_CALLS`] of the contact that wait for an answer, of [`MAX_CALL_BYTES`] together; a contact that does not read for [`READ_WITHIN`] is left |
//! | the side that accepts | [`MAX_CALLS`] that wait for an answer, [`MAX_CLIENT_CALLS`] of one program |
//! | the small bus | [`MAX_CLIENTS`]; signals are left out for who does not read, until [`serve`] closes it |
//! | under a name on a bus | [`SIGNALS_PER_SECOND`] of [`MAX_SIGNAL`]; the name comes or goes once in [`FLICKER`] |
//!
//! A match rule on the arguments of a message does not match one whose body is larger than 16 KiB, and
//! `argNpath` matches object paths that are the same only.

mod between;
mod calls;
mod envelope;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod looking;
mod offering;
mod own;
mod owning;
mod pace;
mod said;
mod serve;
mod share;
mod small_bus;
mod tube;
mod wire;

pub use between::{READ_WITHIN, SIGNALS_PER_SECOND};
pub use calls::PATIENCE;
pub use filter::{Filter, MOST_PARTS};
pub use offering::{MAX_CALL_BYTES, MAX_CALLS, Offering, Out, PRESENT};
pub use own::own;
pub use owning::{FLICKER, MAX_SIGNAL, Owning, Standing, startable};
pub use serve::Serving;
pub use share::{look, share};
pub use small_bus::{Act, ClientId, MAX_CLIENT_CALLS, MAX_CLIENTS, SmallBus};
pub use wire::{MESSAGES_PER_SECOND, MOST_BYTES, join};
