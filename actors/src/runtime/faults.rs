//! Fault points: places where a test may kill an actor, with an error or a panic.
//!
//! There are two kinds. A *passing* point lies at an effect: the actor that comes by dies there. A
//! *waiting* point lies around an await: the actor dies in it, wherever in its own waiting it stands,
//! when the test says so. Without the feature `testing` a point is nothing at all: [`Faults`] has no
//! size and its functions return what they were given.
//!
//! [`Faults`] is generic over what names the places: [`FaultPoint`] for the actors of this crate; a
//! program with actors of its own brings its own names.

use super::Failure;

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $actor:ident, $kind:ident;)*) => {
        /// Where an actor may be killed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FaultPoint {
            $($(#[$doc])* $name,)*
        }

        impl FaultPoint {
            /// Every point there is.
            pub const ALL: &[FaultPoint] = &[$(FaultPoint::$name),*];

            /// Which actor dies there.
            pub fn actor(self) -> ActorKind {
                match self {
                    $(FaultPoint::$name => ActorKind::$actor,)*
                }
            }

            /// Whether it lies around an await.
            pub fn is_waiting(self) -> bool {
                match self {
                    $(FaultPoint::$name => matches!(PointKind::$kind, PointKind::Waiting),)*
                }
            }
        }
    };
}

/// The kinds of actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActorKind {
    /// Decides for one channel.
    Tube,
    /// Decides for one file transfer.
    Transfer,
    /// Carries a file, and makes the contact agree before.
    Flow,
    /// Accepts local applications.
    Listener,
    /// Dials the offered service.
    Dialler,
    /// Joins two streams.
    Relay,
    /// Emits signals.
    Announcer,
    /// Supervises one channel.
    Channel,
    /// Supervises the channels.
    Root,
}

enum PointKind {
    Passing,
    Waiting,
}

points! {
    /// In `select`.
    TubeWaiting = Tube, Waiting;
    /// An event is there, nothing is decided.
    TubeDecide = Tube, Passing;
    /// Decided and not committed.
    TubeCommit = Tube, Passing;
    /// Committed, and about to wait again.
    TubeCommitted = Tube, Passing;
    /// In `select`.
    TransferWaiting = Transfer, Waiting;
    /// An event is there, nothing is decided.
    TransferDecide = Transfer, Passing;
    /// Decided and not committed.
    TransferCommit = Transfer, Passing;
    /// Committed, and about to wait again.
    TransferCommitted = Transfer, Passing;
    /// Before the offer.
    FlowStart = Flow, Passing;
    /// For whoever has to agree: the contact, or our user.
    FlowAgreeing = Flow, Waiting;
    /// There is an agreement.
    FlowAgreed = Flow, Passing;
    /// For the application to provide what the contact wants.
    FlowProviding = Flow, Waiting;
    /// The bytestream is opening.
    FlowOpening = Flow, Waiting;
    /// The bytestream is open.
    FlowOpened = Flow, Passing;
    /// Bytes flow or wait.
    FlowFlowing = Flow, Waiting;
    /// About to read.
    FlowRead = Flow, Passing;
    /// About to write.
    FlowWrite = Flow, Passing;
    /// All was read or written, and nothing is closed.
    FlowClose = Flow, Passing;
    /// It is over, and nobody knows.
    FlowEnded = Flow, Passing;
    /// The contact is told the last word.
    FlowParting = Flow, Waiting;
    /// Before the first accept.
    ListenerStart = Listener, Passing;
    /// For a slot, a client, the kernel's answer about it.
    ListenerWaiting = Listener, Waiting;
    /// A client was delivered.
    ListenerDelivered = Listener, Passing;
    /// For a slot.
    ListenerReserving = Listener, Waiting;
    /// A slot is there, for a client.
    ListenerAccepting = Listener, Waiting;
    /// A client is in hand.
    ListenerAccepted = Listener, Passing;
    /// For the word about the client.
    ListenerChecking = Listener, Waiting;
    /// The client may come in, or not.
    ListenerChecked = Listener, Passing;
    /// For the byte of one of those who must say one.
    ListenerHearing = Listener, Waiting;
    /// One has said it and is in hand.
    ListenerHeard = Listener, Passing;
    /// For whoever takes the client.
    ListenerDelivering = Listener, Waiting;
    /// For the next request.
    DiallerWaiting = Dialler, Waiting;
    /// A request is in hand.
    DiallerDial = Dialler, Passing;
    /// The service is being dialled.
    DiallerDialling = Dialler, Waiting;
    /// The same, within the dial: what fails there refuses the request.
    DiallerConnecting = Dialler, Waiting;
    /// The service is being told our byte, within the dial.
    DiallerSaying = Dialler, Waiting;
    /// The service took the connection, within the dial.
    DiallerConnected = Dialler, Passing;
    /// The service took the connection.
    DiallerDialled = Dialler, Passing;
    /// A relay begins.
    RelayStart = Relay, Passing;
    /// The bytestream is opening.
    RelayOpening = Relay, Waiting;
    /// The bytestream is open.
    RelayOpened = Relay, Passing;
    /// Bytes flow or wait.
    RelayFlowing = Relay, Waiting;
    /// About to read.
    RelayRead = Relay, Passing;
    /// About to write.
    RelayWrite = Relay, Passing;
    /// About to flush.
    RelayFlush = Relay, Passing;
    /// About to pass an end of file on.
    RelayClose = Relay, Passing;
    /// Both sides have ended.
    RelayEnded = Relay, Passing;
    /// For the next signal.
    AnnouncerWaiting = Announcer, Waiting;
    /// A signal is in hand.
    AnnouncerTake = Announcer, Passing;
    /// The signal is being emitted.
    AnnouncerEmitting = Announcer, Waiting;
    /// The signal was emitted.
    AnnouncerEmitted = Announcer, Passing;
    /// For its children.
    ChannelWaiting = Channel, Waiting;
    /// A decision of the tube is in hand.
    ChannelCommit = Channel, Passing;
    /// The decision was carried out.
    ChannelCommitted = Channel, Passing;
    /// A child's word is in hand.
    ChannelNote = Channel, Passing;
    /// For requests, and for channels that end.
    RootWaiting = Root, Waiting;
    /// One is there, nothing is decided.
    RootDecide = Root, Passing;
    /// Decided, and those who wait are not answered.
    RootDecided = Root, Passing;
}

/// Which points kill. Cheap to clone; a plan is shared by its clones.
pub struct Faults<P = FaultPoint> {
    #[cfg(feature = "testing")]
    plan: Option<std::sync::Arc<plan::Plan<P>>>,
    #[cfg(not(feature = "testing"))]
    points: std::marker::PhantomData<fn(P)>,
}

// By hand, because none of these asks anything of the names.
impl<P> Clone for Faults<P> {
    fn clone(&self) -> Self {
        Faults {
            #[cfg(feature = "testing")]
            plan: self.plan.clone(),
            #[cfg(not(feature = "testing"))]
            points: std::marker::PhantomData,
        }
    }
}

impl<P> Default for Faults<P> {
    fn default() -> Self {
        Faults {
            #[cfg(feature = "testing")]
            plan: None,
            #[cfg(not(feature = "testing"))]
            points: std::marker::PhantomData,
        }
    }
}

impl<P> std::fmt::Debug for Faults<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

#[cfg(not(feature = "testing"))]
impl<P> Faults<P> {
    /// Passes by a point.
    ///
    /// # Errors
    /// The planned failure; never in what we ship.
    #[inline(always)]
    pub fn hit(&self, _: P) -> Result<(), Failure> {
        Ok(())
    }

    /// Waits at a point.
    ///
    /// # Errors
    /// The planned failure; never in what we ship.
    #[inline(always)]
    pub async fn survive<T>(&self, _: P, future: impl Future<Output = T>) -> Result<T, Failure> {
        Ok(future.await)
    }
}

#[cfg(feature = "testing")]
mod plan {
    use std::{
        collections::BTreeMap,
        fmt::Debug,
        sync::{Arc, Mutex, MutexGuard, PoisonError},
    };

    use event_listener::Event;
    use futures_lite::FutureExt as _;

    use super::{Failure, Faults};

    /// How an actor dies.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Fault {
        /// It gives up with an error.
        Error,
        /// It panics.
        Panic,
    }

    pub(super) struct Plan<P> {
        state: Mutex<State<P>>,
        changed: Event,
    }

    struct State<P> {
        hits: BTreeMap<P, usize>,
        armed: BTreeMap<P, Armed>,
        fired: usize,
    }

    #[derive(Clone, Copy, Debug)]
    struct Armed {
        fault: Fault,
        /// So many come by unharmed.
        skip: usize,
        /// So many die.
        times: usize,
    }

    impl<P: Copy + Ord> Plan<P> {
        fn lock(&self) -> MutexGuard<'_, State<P>> {
            // Counters only: valid whatever panicked.
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn draw(&self, point: P) -> Option<Fault> {
            let mut state = self.lock();
            let armed = state.armed.get_mut(&point)?;
            if armed.skip > 0 {
                armed.skip -= 1;
                return None;
            }
            let fault = armed.fault;
            armed.times -= 1;
            if armed.times == 0 {
                state.armed.remove(&point);
            }
            state.fired += 1;
            Some(fault)
        }
    }

    fn die(point: impl Debug, fault: Fault) -> Failure {
        match fault {
            Fault::Error => Failure::Failed(format!("fault at {point:?}")),
            Fault::Panic => panic!("fault at {point:?}"),
        }
    }

    impl<P: Copy + Ord + Debug> Faults<P> {
        /// A plan that counts who comes by, and kills nobody yet.
        pub fn counting() -> Self {
            Faults {
                plan: Some(Arc::new(Plan {
                    state: Mutex::new(State {
                        hits: BTreeMap::new(),
                        armed: BTreeMap::new(),
                        fired: 0,
                    }),
                    changed: Event::new(),
                })),
            }
        }

        /// Kills at `point`: `skip` come by unharmed, the next `times` die. At a waiting point the
        /// actors that wait there now count as coming by now.
        pub fn arm(&self, point: P, fault: Fault, skip: usize, times: usize) {
            if let Some(plan) = &self.plan
                && times > 0
            {
                plan.lock()
                    .armed
                    .insert(point, Armed { fault, skip, times });
                plan.changed.notify(usize::MAX);
            }
        }

        /// How many have come by a point.
        pub fn hits(&self, point: P) -> usize {
            self.plan
                .as_ref()
                .and_then(|plan| plan.lock().hits.get(&point).copied())
                .unwrap_or(0)
        }

        /// How many died.
        pub fn fired(&self) -> usize {
            self.plan.as_ref().map_or(0, |plan| plan.lock().fired)
        }

        /// Passes by a point, and dies there if that is planned.
        ///
        /// # Errors
        /// The planned failure.
        ///
        /// # Panics
        /// When that is planned.
        pub fn hit(&self, point: P) -> Result<(), Failure> {
            let Some(plan) = &self.plan else {
                return Ok(());
            };
            *plan.lock().hits.entry(point).or_default() += 1;
            match plan.draw(point) {
                Some(fault) => Err(die(point, fault)),
                None => Ok(()),
            }
        }

        /// Waits at a point, and dies there if that is planned.
        ///
        /// # Errors
        /// The planned failure.
        ///
        /// # Panics
        /// When that is planned.
        pub async fn survive<T>(
            &self,
            point: P,
            future: impl Future<Output = T>,
        ) -> Result<T, Failure> {
            let Some(plan) = &self.plan else {
                return Ok(future.await);
            };
            *plan.lock().hits.entry(point).or_default() += 1;
            let killed = async {
                loop {
                    let changed = plan.changed.listen();
                    if let Some(fault) = plan.draw(point) {
                        return Err(die(point, fault));
                    }
                    changed.await;
                }
            };
            killed.or(async { Ok(future.await) }).await
        }
    }
}

#[cfg(feature = "testing")]
pub use plan::Fault;
