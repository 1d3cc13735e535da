//! The actor that accepts connections for one channel.
//!
//! ```text
//!          ┌────────────────────── delivered, or refused ◄──────────────────┐
//!          ▼                                                                │
//!   ┌─ Reserving ──slot──► Waiting ──accept──► Checking ──admitted──► Delivering
//!   │                        │  ▲                 ▲ │                     ▲
//!   │                 error  ▼  │ later           │ └──► lobby ───byte────┘
//!   │                       Pausing               │      (with Credentials)
//!   └── something in hand already ────────────────┘ a predecessor's connection
//! ```
//!
//! From `accept` until it is delivered a connection lies in the [`Listening`], which outlives this
//! actor; a successor finds it there and goes on with the check, the byte or the delivery. So no
//! accepted connection dies with a listener, wherever the listener dies. Nothing a client does or fails
//! to do delays another: all waits are for the kernel, a free slot or the tube, and those who have a
//! byte to say are waited for side by side, while others are accepted (see [`super::lobby`]).

use std::{
    future::{Future, poll_fn},
    io,
    sync::Arc,
    time::Duration,
};

use async_channel::Sender;
use futures_lite::{FutureExt as _, future::yield_now};
use rustix::io::Errno;

use super::{
    Listening, LocalStream, Slot, Slots,
    access_control::{Checked, Refusal, SockDiag},
    listening::{InHand, Serving},
    lobby::{FIRST_WORD_WITHIN, PATIENCE},
};
use crate::{
    ports::Duplex as _,
    runtime::{Clock, Exit, Failure, FaultPoint, Faults, Stop, Time},
};

/// The first pause after an error that will pass; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that may come in, with the permit it occupies.
#[derive(Debug)]
pub struct Accepted {
    /// The connection; nothing of its stream has been read.
    pub stream: LocalStream,
    /// Held for as long as the connection is open.
    pub slot: Slot,
}

/// Accepts connections until `stop`, or until `deliver` says (with `false`) that nobody takes them
/// any more. Each connection has a slot before it is accepted and is delivered once the access
/// control has let it in; others are reset.
///
/// Errors that pass (no descriptors left, a client that gave up) are waited out on the clock, with
/// growing pauses, for as long as they last. A dead socket, and a second listener on the same one,
/// end in [`Exit::Failed`].
///
/// A listener that is stopped, dropped or panics leaves a connection in hand, and a delivery that
/// waits, in `listening`; they go when that goes.
pub async fn listen<D, F>(
    listening: Arc<Listening>,
    slots: Slots,
    clock: Arc<dyn Clock>,
    deliver: D,
    stop: &Stop,
) -> Exit
where
    D: FnMut(Accepted) -> F + Send,
    F: Future<Output = bool> + Send + 'static,
{
    let (vanished, faults) = (None, Faults::default());
    listen_until(listening, slots, clock, deliver, vanished, stop, &faults).await
}

/// The same, until a test kills it. `vanished` hears of a client that was gone before it could be let in;
/// of several, while one is unheard, only once.
pub(crate) async fn listen_until<D, F>(
    listening: Arc<Listening>,
    slots: Slots,
    clock: Arc<dyn Clock>,
    deliver: D,
    vanished: Option<Sender<()>>,
    stop: &Stop,
    faults: &Faults,
) -> Exit
where
    D: FnMut(Accepted) -> F + Send,
    F: Future<Output = bool> + Send + 'static,
{
    let Some(serving) = listening.serve() else {
        return failed("this socket has a listener already");
    };
    let stopped = async {
        stop.stopped().await;
        Exit::Stopped
    };
    let listener = Listener {
        listening: &listening,
        serving,
        slots,
        clock: &*clock,
        kernel: None,
        pause: FIRST_PAUSE,
        resume: None,
        vanished,
        faults,
    };
    let run = async { listener.run(deliver).await.unwrap_or_else(Exit::Failed) };
    stopped.or(run).await
}

struct Listener<'a> {
    listening: &'a Listening,
    serving: Serving<'a>,
    slots: Slots,
    clock: &'a dyn Clock,
    /// Opened at the first TCP connection and kept.
    kernel: Option<SockDiag>,
    pause: Duration,
    /// Before this no client is accepted.
    resume: Option<Time>,
    vanished: Option<Sender<()>>,
    faults: &'a Faults,
}

/// What is to be done next.
enum Next {
    /// Wait for whoever comes or speaks first.
    Wait,
    /// Find out who the connection in hand is.
    Check { checked: Checked, is_tcp: bool },
    /// Begin to hand it over.
    HandOver,
    /// Wait until it is handed over.
    Deliver,
}

/// What a listener waits for while it has nothing in hand.
enum Arrival {
    /// A client is in hand, or could not be had.
    Client(io::Result<()>),
    /// One in the lobby has said its byte and is in hand, or is refused.
    Word(Result<(), (Accepted, Refusal)>),
    /// The one that has been in the lobby longest has been silent for too long.
    Silence,
}

impl Listener<'_> {
    async fn run<D, F>(mut self, mut deliver: D) -> Result<Exit, Failure>
    where
        D: FnMut(Accepted) -> F + Send,
        F: Future<Output = bool> + Send + 'static,
    {
        let faults = self.faults;
        loop {
            match self.next() {
                Next::Wait => match self.arrival().await? {
                    Arrival::Client(Ok(())) => {
                        self.pause = FIRST_PAUSE;
                        faults.hit(FaultPoint::ListenerAccepted)?;
                    }
                    Arrival::Client(Err(error)) if passes(&error) => {
                        // Those in the lobby need not wait for that.
                        self.resume =
                            Some(self.clock.now().saturating_add(self.next_pause(&error)));
                    }
                    Arrival::Client(Err(error)) => {
                        return Ok(failed(&format!("cannot accept: {error}")));
                    }
                    Arrival::Word(Ok(())) => faults.hit(FaultPoint::ListenerHeard)?,
                    Arrival::Word(Err((accepted, why))) => {
                        self.refuse(accepted, &why);
                        yield_now().await;
                    }
                    Arrival::Silence => {
                        let oldest = self.serving.lobby().take_oldest();
                        if let Some(accepted) = oldest {
                            self.refuse(accepted, &Refusal::Silent);
                        }
                    }
                },
                Next::Check { checked, is_tcp } => {
                    if let Err(error) = self.open_kernel(is_tcp) {
                        let pause = self.next_pause(&error);
                        self.clock.sleep(pause).await;
                        continue;
                    }
                    let admission = *self.listening.admission();
                    let kernel = self.kernel.as_mut();
                    let checking = admission.check(checked, kernel, self.clock);
                    let verdict = faults
                        .survive(FaultPoint::ListenerChecking, checking)
                        .await?;
                    faults.hit(FaultPoint::ListenerChecked)?;
                    if verdict.is_ok() && admission.wants_a_byte() {
                        self.serving.send_to_lobby(self.clock.now());
                        continue;
                    }
                    let InHand::Accepted(accepted) = self.serving.take_in_hand() else {
                        continue;
                    };
                    match verdict {
                        Ok(()) => *self.serving.in_hand() = InHand::Admitted(accepted),
                        Err(why) => {
                            self.refuse(accepted, &why);
                            // Another user who connects faster than we refuse must not have
                            // this thread for itself.
                            yield_now().await;
                        }
                    }
                }
                Next::HandOver => {
                    if let InHand::Admitted(accepted) = self.serving.take_in_hand() {
                        let delivery = Box::pin(deliver(accepted));
                        *self.serving.in_hand() = InHand::Delivering(delivery);
                    }
                }
                Next::Deliver => {
                    let delivering = poll_fn(|context| self.serving.poll_delivery(context));
                    let delivering = faults.survive(FaultPoint::ListenerDelivering, delivering);
                    if !delivering.await? {
                        return Ok(Exit::Finished);
                    }
                }
            }
        }
    }

    fn next(&self) -> Next {
        match &*self.serving.in_hand() {
            InHand::Nothing => Next::Wait,
            InHand::Accepted(accepted) => Next::Check {
                checked: Checked::of(&accepted.stream),
                is_tcp: matches!(accepted.stream, LocalStream::Tcp(_)),
            },
            InHand::Admitted(_) => Next::HandOver,
            InHand::Delivering(_) => Next::Deliver,
        }
    }

    /// Waits for a client, or for what those in the lobby do or fail to do. Whatever loses the race
    /// has taken nothing from anybody.
    async fn arrival(&self) -> Result<Arrival, Failure> {
        let (faults, serving) = (self.faults, &self.serving);
        let (oldest, full) = {
            let lobby = serving.lobby();
            (lobby.oldest(), lobby.is_full())
        };
        let word = async {
            if oldest.is_none() {
                std::future::pending::<()>().await;
            }
            let hearing = poll_fn(|context| serving.poll_word(context));
            let hearing = faults.survive(FaultPoint::ListenerHearing, hearing);
            Ok(Arrival::Word(hearing.await?))
        };
        let silence = async {
            match oldest {
                Some(since) => {
                    self.clock
                        .sleep_until(since.saturating_add(FIRST_WORD_WITHIN))
                        .await
                }
                None => std::future::pending().await,
            }
            Ok(Arrival::Silence)
        };
        let client = async {
            if let Some(resume) = self.resume {
                self.clock.sleep_until(resume).await;
            }
            let reserving = self.room(oldest, full);
            let reserved = faults.survive(FaultPoint::ListenerReserving, reserving);
            let Some(slot) = reserved.await? else {
                return Ok(Arrival::Silence);
            };
            let accepting = serving.accept(slot);
            let accepting = faults.survive(FaultPoint::ListenerAccepting, accepting);
            Ok(Arrival::Client(accepting.await?))
        };
        word.or(silence).or(client).await
    }

    /// A slot for the next client. `None` when there is none, or no place in the lobby, although
    /// somebody waits, and the `oldest` in the lobby has been silent for long enough.
    async fn room(&self, oldest: Option<Time>, full: bool) -> Option<Slot> {
        let free = async {
            if full {
                std::future::pending::<()>().await;
            }
            Some(self.slots.reserve().await)
        };
        let taken = async {
            let Some(since) = oldest else {
                return std::future::pending().await;
            };
            self.clock.sleep_until(since.saturating_add(PATIENCE)).await;
            self.serving.somebody_waits().await;
            None
        };
        free.or(taken).await
    }

    /// Sees to it that the kernel can be asked. Fails only if that may work later; where it never
    /// will, the check finds nobody to ask and refuses.
    fn open_kernel(&mut self, is_tcp: bool) -> io::Result<()> {
        if is_tcp && self.kernel.is_none() && self.listening.admission().asks_the_kernel() {
            match SockDiag::open() {
                Ok(kernel) => self.kernel = Some(kernel),
                Err(error) if passes(&error) => return Err(error),
                Err(error) => tracing::error!(%error, "cannot ask whose connections these are"),
            }
        }
        Ok(())
    }

    fn refuse(&self, mut accepted: Accepted, why: &Refusal) {
        if self.listening.count_refusal() {
            let (address, refused) = (self.listening.address(), self.listening.refused());
            tracing::warn!(%address, %why, refused, "refused a local connection");
        }
        accepted.stream.reset();
        if let Some(vanished) = self.vanished.as_ref().filter(|_| why.has_vanished()) {
            // One that is unheard says it all.
            vanished.try_send(()).ok();
        }
    }

    /// How long to do nothing about clients after this error.
    fn next_pause(&mut self, error: &io::Error) -> Duration {
        let (address, pause) = (self.listening.address(), self.pause);
        tracing::warn!(%address, %error, ?pause, "cannot accept for now");
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

fn failed(why: &str) -> Exit {
    Exit::Failed(Failure::Failed(why.to_owned()))
}

/// Whether accepting may work again by itself. `accept` also reports what had happened to the one
/// connection it would have returned; that is no reason to give up either.
fn passes(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            // Too little of something.
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC
                // The client, or the network, gave up.
                | Errno::CONNABORTED | Errno::CONNRESET | Errno::PROTO | Errno::NOPROTOOPT
                | Errno::HOSTDOWN | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::NETUNREACH
                | Errno::NONET | Errno::TIMEDOUT | Errno::PERM
                | Errno::INTR | Errno::AGAIN
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_waited_out_and_a_dead_socket_is_not() {
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::CONNABORTED,
            Errno::PROTO,
            Errno::HOSTUNREACH,
            Errno::PERM,
            Errno::AGAIN,
        ] {
            assert!(passes(&errno.into()), "{errno}");
        }
        for errno in [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP] {
            assert!(!passes(&errno.into()), "{errno}");
        }
        assert!(!passes(&io::ErrorKind::Other.into()));
    }
}
