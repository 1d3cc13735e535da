//! Places where a test may kill the actors of this protocol, with an error or a panic; see
//! [`actors::runtime::Faults`]. Nothing at all in what we ship.

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The greeting is done, the session has not been asked.
    Greeted,
    /// The session believes the peer; the stream does not run yet.
    Admitted,
    /// A stream has an event in hand, nothing is decided.
    Decide,
    /// A stream has decided, and is about to wait again.
    Decided,
    /// The session waits.
    SessionWaiting,
    /// The session has an event in hand.
    SessionDecide,
    /// The session has decided, and is about to wait again.
    SessionDecided,
    /// The session goes online.
    SessionStarting,
    /// The session says goodbye.
    SessionGoodbye,
    /// The session stores whom it trusts.
    SessionSaving,
    /// The discovery driver waits.
    DiscoveryWaiting,
    /// The discovery driver has an event in hand.
    DiscoveryDecide,
}

/// What a test has planned; nothing otherwise. Cheap to clone.
pub type Faults = actors::runtime::Faults<Point>;
