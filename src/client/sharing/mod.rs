//! One service of the session bus, shared with a contact: a filter on one side, a bus with one service
//! on the other, and between them a D-Bus connection of two.

mod calls;
mod envelope;
mod filter;
mod offering;
mod pace;
mod small_bus;

pub use calls::{Calls, PATIENCE};
pub use envelope::{Envelope, fresh_serial, parse, rewrap};
pub use filter::{Filter, MOST_PARTS, is_below};
pub use offering::{MAX_CALLS, Offering, Out, PRESENT};
pub use pace::Pace;
pub use small_bus::{Act, ClientId, MAX_CLIENT_CALLS, MAX_CLIENTS, SmallBus};
