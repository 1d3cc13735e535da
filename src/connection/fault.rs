//! Places where a test kills the actors of this floor; see [`actors::runtime::Faults`]. Nothing at all
//! in what we ship.

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The manager waits.
    ManagerWaiting,
    /// The manager has a message in hand.
    ManagerDecide,
    /// The manager has decided, and has not said how many connections there are.
    ManagerDecided,
    /// A connection waits.
    ConnectionWaiting,
    /// A connection has an event in hand.
    ConnectionDecide,
    /// A connection has decided, and has published nothing.
    ConnectionDecided,
    /// A connection's announcer waits for a signal.
    AnnouncerWaiting,
    /// The announcer has a signal in hand.
    AnnouncerTake,
    /// The announcer emits it.
    AnnouncerEmitting,
    /// The announcer has emitted it.
    AnnouncerEmitted,
}
