//! Multicast DNS by the Avahi daemon of this machine, over the system bus.
//!
//! ```text
//!  driver ◀── Heard ── Avahi ── Call ──▶ the daemon ── mDNS ──▶ the network
//!                      │    ◀─ Incoming ─┘
//!                      ├── wire        calls and signals as D-Bus messages
//!                      └── state       pure: what was asked, what is known
//!                           ├── publishing   the entry group
//!                           └── neighbours   browser and resolvers
//! ```
//!
//! A connection to the bus of our own, so that the daemon takes everything back that it has of us when we
//! are gone, however we go. One loop reads whatever comes and never waits for an answer: a daemon that is
//! slow, or stands still, holds up nobody. A call that is not answered within [`state::CALL`] means that it
//! hangs: the connection is closed (whereupon the daemon, should it wake, forgets us) and a new one tries
//! again. A daemon that is gone for [`PATIENCE`], by its name or by its silence, has ended for us.
//!
//! The daemon is the system's and believed as far as the system bus vouches for its name. What it passes on
//! is as much a stranger's as what we hear ourselves, and passes the same checks. Its own bounds are in
//! `avahi-daemon.conf`: a cache of 4,096 records an interface, beyond which it tells of nobody new.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use actors::{
    model::Error,
    runtime::{BoxFuture, Clock, Time, within},
};
use futures_lite::{FutureExt as _, StreamExt as _, future};
use zbus::{Connection, MessageStream, connection::Builder};

use super::{
    PresenceText,
    driver::Settings,
    responder::{Heard, Responder, interface_of, reachable},
    subnets::Subnets,
};
use crate::{runtime::OurRuntime, session::trust::KeyId};
use state::{Condition, Links, State};

mod neighbours;
mod publishing;
mod state;
#[cfg(test)]
mod tests;
mod wire;

/// What contacts announce, without the domain.
const SERVICE: &str = "_presence._tcp";
/// How long the daemon has to answer for the first time when we go online.
pub const FIRST: Duration = Duration::from_secs(3);
/// How long a daemon may be gone, or silent, before it counts as ended.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two connections to the bus while the daemon hangs.
const PAUSE: Duration = Duration::from_secs(2);

/// Connects to the bus the daemon is on.
pub type Open = Arc<dyn Fn() -> BoxFuture<'static, zbus::Result<Connection>> + Send + Sync>;

/// The system bus, where the environment says it is (`DBUS_SYSTEM_BUS_ADDRESS`), on our executor.
pub fn system_bus(runtime: OurRuntime) -> Open {
    Arc::new(move || Box::pin(Builder::system().runtime(runtime.clone()).build()))
}

/// Whether a daemon has its name on the bus; it is asked nothing. False too where the bus says nothing
/// within [`FIRST`].
pub async fn is_there(open: &Open, clock: &dyn Clock) -> bool {
    const BUS: &str = "org.freedesktop.DBus";
    let asked = async {
        let connection = open().await?;
        let path = "/org/freedesktop/DBus";
        let answer = connection
            .call_method(Some(BUS), path, Some(BUS), "NameHasOwner", &wire::AVAHI)
            .await?;
        answer.body().deserialize::<bool>()
    };
    matches!(within(clock, FIRST, asked).await, Some(Ok(true)))
}

/// A connection to the bus.
struct Link {
    connection: Connection,
    stream: MessageStream,
    sending: Option<BoxFuture<'static, zbus::Result<()>>>,
}

/// See the module's head.
pub struct Avahi {
    open: Open,
    clock: Arc<dyn Clock>,
    port: u16,
    state: State,
    link: Option<Link>,
    opening: Option<BoxFuture<'static, zbus::Result<Connection>>>,
    reopen_at: Option<Time>,
    /// Since when the daemon does not work.
    lost_at: Option<Time>,
}

enum Turn {
    Opened(zbus::Result<Connection>),
    Sent(zbus::Result<()>),
    Message(Option<zbus::Result<zbus::Message>>),
    Timer,
}

impl Avahi {
    /// Finds the daemon, to announce a listener on `port`.
    ///
    /// # Errors
    /// `NetworkError` when there is none, or none that answers within [`FIRST`].
    pub async fn begin(
        settings: &Settings,
        interface: Option<u32>,
        port: u16,
    ) -> Result<Self, Error> {
        let any = wire::ANY_INTERFACE;
        let interface = interface.map_or(any, |index| i32::try_from(index).unwrap_or(any));
        let links = OnOurLinks(Subnets::new(settings.interface.clone()));
        let mut avahi = Avahi {
            open: settings.bus.clone(),
            clock: settings.clock.clone(),
            port,
            state: State::new(interface, port, Box::new(links)),
            link: None,
            opening: Some((settings.bus)()),
            reopen_at: None,
            lost_at: Some(settings.clock.now()),
        };
        match within(&*settings.clock, FIRST, avahi.found()).await {
            Some(Ok(())) => Ok(avahi),
            Some(Err(error)) => Err(error),
            None => Err(Error::NetworkError(
                "the Avahi daemon does not answer".into(),
            )),
        }
    }

    /// Waits until the daemon answers, or it is clear that there is none.
    async fn found(&mut self) -> Result<(), Error> {
        loop {
            if self.link.is_none() && self.opening.is_none() {
                return Err(Error::NetworkError("there is no system bus".into()));
            }
            match self.state.condition() {
                Condition::Working => return Ok(()),
                Condition::Unknown => self.turn().await,
                Condition::Absent => {
                    return Err(Error::NetworkError("no Avahi daemon runs".into()));
                }
                Condition::Hung => {
                    return Err(Error::NetworkError(
                        "the Avahi daemon cannot be used".into(),
                    ));
                }
            }
        }
    }

    /// Waits for one event and does what follows from it. Cancel-safe: what is under way is kept.
    async fn turn(&mut self) {
        self.send();
        let deadline = self.next_deadline();
        let clock = self.clock.clone();
        let opened = async {
            match &mut self.opening {
                Some(opening) => Turn::Opened(opening.await),
                None => future::pending().await,
            }
        };
        let (stream, sending) = match &mut self.link {
            Some(link) => (Some(&mut link.stream), link.sending.as_mut()),
            None => (None, None),
        };
        let sent = async {
            match sending {
                Some(sending) => Turn::Sent(sending.await),
                None => future::pending().await,
            }
        };
        let message = async {
            match stream {
                Some(stream) => Turn::Message(stream.next().await),
                None => future::pending().await,
            }
        };
        let timer = async {
            match deadline {
                Some(deadline) => clock.sleep_until(deadline).await,
                None => future::pending().await,
            }
            Turn::Timer
        };
        let turn = opened.or(sent).or(message).or(timer).await;
        self.took(turn);
    }

    fn took(&mut self, turn: Turn) {
        let now = self.clock.now();
        match turn {
            Turn::Opened(Ok(connection)) => {
                self.opening = None;
                self.state.begin();
                self.link = Some(Link {
                    stream: MessageStream::from(&connection),
                    connection,
                    sending: None,
                });
            }
            Turn::Opened(Err(error)) => {
                tracing::debug!(%error, "no connection to the system bus");
                self.opening = None;
                self.reopen_at = Some(now + PAUSE);
            }
            Turn::Sent(Ok(())) => {
                if let Some(link) = &mut self.link {
                    link.sending = None;
                }
            }
            Turn::Message(Some(Ok(message))) => {
                if let Some(incoming) = wire::read(&message) {
                    self.state.incoming(incoming, now);
                }
            }
            Turn::Sent(Err(_)) | Turn::Message(Some(Err(_)) | None) => {
                tracing::warn!("the system bus is gone");
                self.hang_up(now);
            }
            Turn::Timer => {
                self.state.timers(now);
                if self.reopen_at.take_if(|at| *at <= now).is_some() {
                    self.opening = Some((self.open)());
                }
            }
        }
        if self.state.condition() == Condition::Hung && self.link.is_some() {
            self.hang_up(now);
        }
        if self.state.condition() == Condition::Working {
            self.lost_at = None;
        } else {
            self.lost_at.get_or_insert(now);
        }
    }

    /// Gives the connection up and tries another one later.
    fn hang_up(&mut self, now: Time) {
        self.link = None;
        self.state.begin();
        self.reopen_at = Some(now + PAUSE);
    }

    /// Puts the next call on its way, if none is.
    fn send(&mut self) {
        let now = self.clock.now();
        let Some(link) = &mut self.link else {
            return;
        };
        while link.sending.is_none()
            && let Some(call) = self.state.next_call(now)
        {
            match wire::message(&call, self.state.daemon()) {
                Ok(message) => {
                    let serial = message.primary_header().serial_num().get();
                    self.state.sent(serial, call, now);
                    let connection = link.connection.clone();
                    // Kept with the link, so that it survives when something else comes first.
                    link.sending = Some(Box::pin(async move { connection.send(&message).await }));
                }
                // Names were checked for all that DNS cannot carry, and D-Bus carries more.
                Err(error) => tracing::warn!(%error, ?call, "a call that D-Bus cannot carry"),
            }
        }
    }

    fn gives_up_at(&self) -> Option<Time> {
        self.lost_at.map(|at| at + PATIENCE)
    }

    fn next_deadline(&self) -> Option<Time> {
        let link = self.link.as_ref();
        let state = link.and_then(|link| self.state.next_deadline(link.sending.is_none()));
        [state, self.reopen_at, self.gives_up_at()]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Responder for Avahi {
    fn next(&mut self) -> BoxFuture<'_, Heard> {
        Box::pin(async move {
            loop {
                if let Some(heard) = self.state.heard.pop_front() {
                    return heard;
                }
                if self.gives_up_at().is_some_and(|at| at <= self.clock.now()) {
                    return Heard::Ended(Error::NetworkError(format!(
                        "the Avahi daemon has been gone for {} seconds",
                        PATIENCE.as_secs()
                    )));
                }
                self.turn().await;
            }
        })
    }

    fn announce(&mut self, name: &str, text: &PresenceText) -> Result<(), Error> {
        let pairs = text.pairs(self.port);
        let txt = pairs.iter().map(|(key, value)| format!("{key}={value}"));
        self.state
            .announce(name, txt.map(String::into_bytes).collect());
        Ok(())
    }

    fn set_pinned(&mut self, pinned: &BTreeMap<KeyId, String>) {
        self.state.set_pinned(pinned.clone());
    }

    fn goodbye(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.link.is_some() && self.state.withdraw() {
                while self.link.is_some() && self.state.is_withdrawing() {
                    self.turn().await;
                }
            }
            if let Some(link) = self.link.take()
                && let Err(error) = link.connection.close().await
            {
                tracing::debug!(%error, "the system bus was gone already");
            }
        })
    }
}

/// Addresses in the subnets of this machine's interfaces.
struct OnOurLinks(Subnets);

impl Links for OnOurLinks {
    fn dialled(&mut self, ip: IpAddr, port: u16, interface: i32, now: Time) -> Option<SocketAddr> {
        let heard_on = interface_of(u32::try_from(interface).ok()?)?;
        reachable(ip, port, heard_on, |ip| self.0.hold(ip, now))
    }
}
