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
//! there, under a name of its user's choice. What decides, `Offering`, `SmallBus` and `Owning`, is
//! pure and takes whatever the other side sends.
//!
//! # On the connection between them
//! Method calls go from the accepting side to the sharing side, with the shared name as destination;
//! answers and signals go back. None has a sender. Whether the service is there is told by
//! `org.freedesktop.DBus.NameOwnerChanged` of the shared name, once at the beginning and then on each change;
//! a service that another program took over is told as gone and there again.
//!
//! # Limits
//! For everybody; `docs/sharing.md` has them for users.
//!
//! | what | how much | at the limit |
//! | --- | --- | --- |
//! | a message | [`MOST_BYTES`] | a call or answer of our own side's is answered with an error, a signal is left out; the contact's ends it all |
//! | messages of the contact | [`MESSAGES_PER_SECOND`] | it is read later |
//! | messages that are read ahead, at every connection | `wire::READ_AHEAD` | they wait where they are |
//! | calls that wait for their answer, at either side | [`MAX_CALLS`], of one program [`MAX_CLIENT_CALLS`] | `LimitsExceeded` |
//! | the contact's calls together, where it is shared | [`MAX_CALL_BYTES`] | `LimitsExceeded` |
//! | how long a call waits | [`PATIENCE`] | `NoReply` |
//! | how long the contact may not read | [`READ_WITHIN`] and more for large messages | it ends |
//! | objects and interfaces of a [`Filter`] | [`MOST_PARTS`] of each | an error |
//! | names of a bus that are asked about | `looking::MOST_NAMES` | an error |
//! | signals for a bus, under a name there | [`SIGNALS_PER_SECOND`] of [`MAX_SIGNAL`] | the contact is read later; left out |
//! | how often that name comes or goes | once in [`FLICKER`] | acted on late |
//! | clients of the small bus | [`MAX_CLIENTS`] | the next one waits until one leaves |
//! | a client's match rules | `rules::MAX_RULES` of `rules::MAX_RULE` bytes | `LimitsExceeded` |
//! | a body that rules on arguments look into | `rules::MAX_LOOKED_INTO` | the rule does not match |
//! | what waits for a client | `serve::MAX_WAITING` of `serve::MAX_WAITING_BYTES` | signals are left out from half of it on; it is closed |
//!
//! No descriptors go through. `argNpath` of a match rule matches object paths that are the same only.

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
mod teller;
mod tube;
mod wire;
mod words;

pub use between::SIGNALS_PER_SECOND;
pub use calls::{MAX_CALLS, MAX_CLIENT_CALLS, PATIENCE};
pub use filter::{Filter, MOST_PARTS};
pub use offering::MAX_CALL_BYTES;
pub use own::own;
pub use owning::{FLICKER, MAX_SIGNAL, Standing};
pub(crate) use owning::{Owning, startable};
pub use serve::Serving;
pub use share::{look, share};
pub use small_bus::MAX_CLIENTS;
pub use teller::READ_WITHIN;
pub use wire::{MESSAGES_PER_SECOND, MOST_BYTES, join};
pub use words::SERVICE;
