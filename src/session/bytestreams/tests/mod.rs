//! Bytestreams between two fakes of XML streams, over real sockets on loopback.
//!
//! Time is virtual where a limit is tested; every test as a whole has a real deadline.

mod attacks;
mod bounds;
mod flow;
mod in_band;
mod in_band_attacks;
mod plain;
mod several;

use std::{
    future::{Future, poll_fn},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, OnceLock, Weak},
    task::Context,
    time::Duration,
};

use actors::{
    model::{BytestreamId, Error},
    ports::{Bytestream, Duplex, IncomingBytestream as _},
    runtime::{BoxFuture, Clock as _, Reply, SystemClock},
    testing::VirtualClock,
};
use async_channel::{Receiver, Sender};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};
use minidom::Element;

use super::{Bytestreams, Config, Methods, SiOffer, group::Group};
use crate::{
    session::{
        lane::Lane,
        link::{IncomingRequest, Link, LinkSecurity, RequestError},
        trust::Identity,
    },
    xmpp::{
        ns,
        payload::{bytestreams::Streamhosts, tube},
    },
};

/// Runs a test with a deadline of real time, which the longest one needs a third of on a machine that
/// others crowd.
fn run(test: impl Future<Output = ()>) {
    let done = async_io::block_on(
        async {
            test.await;
            true
        }
        .or(async {
            SystemClock::new().sleep(Duration::from_secs(60)).await;
            false
        }),
    );
    assert!(done, "the test did not end in time");
}

type Tamper = Box<dyn FnMut(&mut Element) + Send>;

/// One end of an XML stream that always works, and what is on top of it.
struct Side {
    us: String,
    them: String,
    local: SocketAddr,
    peer: SocketAddr,
    security: Option<LinkSecurity>,
    streams: Arc<Bytestreams>,
    /// The other end.
    other: OnceLock<Weak<Side>>,
    /// Offers that came to this end.
    offers: Receiver<SiOffer>,
    offers_in: Sender<SiOffer>,
    /// Changes what this end sends.
    tamper: Mutex<Option<Tamper>>,
    /// Everything this end sent.
    sent: Mutex<Vec<Element>>,
    sent_event: Sender<()>,
    was_sent: Receiver<()>,
    lane: Arc<Lane>,
    /// What was sent by turns and is not answered.
    unanswered: Mutex<Group<(), ()>>,
}

impl Side {
    fn link(self: &Arc<Self>) -> Arc<dyn Link> {
        self.clone()
    }

    fn open(self: &Arc<Self>) -> BoxFuture<'static, Result<Bytestream, Error>> {
        self.streams
            .open(self.link(), ID, ns::TUBES, tube::stream(49))
    }

    /// A second XML stream to the same peer.
    fn another_stream(self: &Arc<Self>) -> Arc<Side> {
        let (offers_in, offers) = async_channel::bounded(100);
        let (sent_event, was_sent) = async_channel::bounded(1000);
        Arc::new(Side {
            us: self.us.clone(),
            them: self.them.clone(),
            local: SocketAddr::new(self.local.ip(), 40003),
            peer: self.peer,
            security: self.security.clone(),
            streams: self.streams.clone(),
            other: self.other.clone(),
            offers,
            offers_in,
            tamper: Mutex::default(),
            sent: Mutex::default(),
            sent_event,
            was_sent,
            lane: Arc::default(),
            unanswered: Mutex::new(Group::new()),
        })
    }

    /// Sends what is sent by turns, as an XML stream does.
    async fn pump(&self) {
        // Kept when nobody pumps for a while.
        let next_answer = |context: &mut Context<'_>| {
            let mut unanswered = self.unanswered.lock().unwrap();
            pin!(unanswered.next()).poll(context)
        };
        loop {
            let turn = async { Some(poll_fn(|context| self.lane.poll_turn(context)).await) };
            let answered = async {
                poll_fn(next_answer).await;
                None
            };
            let Some(Some(source)) = turn.or(answered).await else {
                continue;
            };
            let Some((payload, ticket)) = source.clone().next() else {
                continue;
            };
            let asked = self.request(payload, None);
            let answered: BoxFuture<'static, ()> = Box::pin(async move {
                source.answered(ticket, asked.await.map(drop));
            });
            self.unanswered.lock().unwrap().push((), answered);
            futures_lite::future::yield_now().await;
        }
    }

    async fn offer(&self) -> SiOffer {
        self.offers.recv().await.unwrap()
    }

    /// Waits until this end has sent its streamhosts, and gives them.
    async fn streamhosts(&self) -> Streamhosts {
        loop {
            self.was_sent.recv().await.unwrap();
            let sent = self.sent.lock().unwrap();
            if let Some(Ok(hosts)) = sent.last().map(Streamhosts::parse) {
                return hosts;
            }
        }
    }

    fn deliver(self: &Arc<Self>, request: IncomingRequest) {
        if let Some(offer) = self.streams.on_request(&self.link(), request) {
            self.offers_in.try_send(offer).unwrap();
        }
    }

    /// Sends a request of the test's own making, at once.
    fn say(&self, payload: Element) -> BoxFuture<'static, Result<Option<Element>, RequestError>> {
        self.request(payload, None)
    }
}

impl Link for Side {
    fn us(&self) -> &str {
        &self.us
    }

    fn them(&self) -> &str {
        &self.them
    }

    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn security(&self) -> Option<LinkSecurity> {
        self.security.clone()
    }

    fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    fn request(
        &self,
        mut payload: Element,
        _id: Option<String>,
    ) -> BoxFuture<'static, Result<Option<Element>, RequestError>> {
        if let Some(tamper) = &mut *self.tamper.lock().unwrap() {
            tamper(&mut payload);
        }
        // Blocks are too many to be kept.
        if !payload.is("data", ns::IBB) {
            self.sent.lock().unwrap().push(payload.clone());
            self.sent_event.try_send(()).unwrap();
        }
        let (answer, pending) = Reply::new();
        match self.other.get().and_then(Weak::upgrade) {
            Some(other) => other.deliver(IncomingRequest { payload, answer }),
            None => return Box::pin(async { Err(RequestError::Gone) }),
        }
        Box::pin(async move {
            match pending.wait().await {
                Ok(Ok(result)) => Ok(result),
                Ok(Err(error)) => Err(RequestError::Refused {
                    condition: error.condition.as_str().into(),
                    text: error.text,
                }),
                Err(_) => Err(RequestError::Refused {
                    condition: "internal-server-error".into(),
                    text: None,
                }),
            }
        })
    }

    fn ask(
        &self,
        payload: Element,
        id: String,
        written: Reply<Result<(), RequestError>>,
    ) -> BoxFuture<'static, Result<Option<Element>, RequestError>> {
        written.answer(Ok(()));
        self.request(payload, Some(id))
    }

    fn message(&self, _payloads: Vec<Element>) -> BoxFuture<'static, Result<(), RequestError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Two people and one XML stream between them.
struct Pair {
    clock: Arc<VirtualClock>,
    romeo: Arc<Side>,
    juliet: Arc<Side>,
}

struct Setup {
    ip: IpAddr,
    secured: bool,
    pneuma: bool,
    config: Config,
    /// Juliet's, where it is another one.
    juliets: Option<Config>,
    /// The key that is in Romeo's hands is not the one his XML stream proved.
    impostor: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            ip: Ipv4Addr::LOCALHOST.into(),
            secured: true,
            pneuma: true,
            // In-band bytestreams have their own tests.
            config: Config {
                methods: SOCKS5,
                ..Config::default()
            },
            juliets: None,
            impostor: false,
        }
    }
}

const SOCKS5: Methods = Methods {
    socks5: true,
    in_band: false,
};
const IN_BAND: Methods = Methods {
    socks5: false,
    in_band: true,
};

const ID: BytestreamId = BytestreamId([7; 16]);

impl Pair {
    fn new() -> Pair {
        Pair::with(Setup::default())
    }

    fn with(setup: Setup) -> Pair {
        let identity = || Arc::new(Identity::generate().unwrap());
        let keys = [identity(), identity()];
        let clock = VirtualClock::new();
        let names = ["romeo@forza #2", "juliet@pronto"];
        let ends = [
            SocketAddr::new(setup.ip, 40001),
            SocketAddr::new(setup.ip, 40002),
        ];
        let side = |here: usize| {
            let there = 1 - here;
            let key = if here == 0 && setup.impostor {
                identity()
            } else {
                keys[here].clone()
            };
            let juliets = setup.juliets.clone().filter(|_| here == 1);
            let config = juliets.unwrap_or_else(|| setup.config.clone());
            let (offers_in, offers) = async_channel::bounded(100);
            let (sent_event, was_sent) = async_channel::bounded(1000);
            Arc::new(Side {
                us: names[here].into(),
                them: names[there].into(),
                local: ends[here],
                peer: ends[there],
                security: setup.secured.then(|| LinkSecurity {
                    own: keys[here].id(),
                    peer: keys[there].id(),
                    exporter: [9; 32],
                    pneuma: setup.pneuma,
                }),
                streams: Bytestreams::new(clock.clone(), key, config),
                other: OnceLock::new(),
                offers,
                offers_in,
                tamper: Mutex::default(),
                sent: Mutex::default(),
                sent_event,
                was_sent,
                lane: Arc::default(),
                unanswered: Mutex::new(Group::new()),
            })
        };
        let (romeo, juliet) = (side(0), side(1));
        romeo.other.set(Arc::downgrade(&juliet)).unwrap();
        juliet.other.set(Arc::downgrade(&romeo)).unwrap();
        Pair {
            clock,
            romeo,
            juliet,
        }
    }

    /// Romeo opens, Juliet accepts; what each has.
    async fn both(&self) -> (Result<Bytestream, Error>, Result<Bytestream, Error>) {
        futures_lite::future::zip(self.romeo.open(), async {
            self.juliet.offer().await.incoming.accept().await
        })
        .await
    }

    /// The same where it must work.
    async fn connected(&self) -> (Box<dyn Duplex>, Box<dyn Duplex>) {
        let (romeo, juliet) = self.both().await;
        let (romeo, juliet) = (romeo.unwrap(), juliet.unwrap());
        assert_eq!(romeo.encrypted, juliet.encrypted);
        (romeo.io, juliet.io)
    }

    /// Runs a future while time passes in steps whenever nothing else happens for a while.
    async fn while_time_passes<T>(&self, future: impl Future<Output = T>) -> T {
        self.stepping(Duration::from_secs(1), future).await
    }

    /// The same in steps of another length.
    async fn stepping<T>(&self, length: Duration, future: impl Future<Output = T>) -> T {
        let real = SystemClock::new();
        let mut future = pin!(future);
        loop {
            let step = async {
                real.sleep(Duration::from_millis(20)).await;
                None
            };
            match async { Some((&mut future).await) }.or(step).await {
                Some(output) => return output,
                None => self.clock.advance(length),
            }
        }
    }

    /// Runs a future while both ends send by turns what is sent so.
    async fn pumped<T>(&self, future: impl Future<Output = T>) -> T {
        let pumps = async {
            futures_lite::future::zip(self.romeo.pump(), self.juliet.pump()).await;
            unreachable!("pumps do not end");
        };
        future.or(pumps).await
    }

    /// Runs the pumps until no in-band bytestream is left.
    async fn all_over(&self) {
        self.pumped(async {
            for side in [&self.romeo, &self.juliet] {
                while side.streams.in_band_open() > 0 || side.streams.shelf.len() > 0 {
                    futures_lite::future::yield_now().await;
                }
                assert_eq!(side.lane.users(), 0);
            }
        })
        .await;
        self.assert_idle();
    }

    fn assert_idle(&self) {
        assert_eq!(self.romeo.streams.pending(), 0);
        assert_eq!(self.juliet.streams.pending(), 0);
        assert!(self.juliet.streams.waiting().is_empty());
        assert!(self.romeo.streams.waiting().is_empty());
    }
}

/// Sockets of this machine, not yet let go by their process, that end at this port on either side.
fn sockets_at(port: u16) -> usize {
    let port = format!(":{port:04X}");
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .map(|table| std::fs::read_to_string(table).unwrap_or_default())
        .map(|table| {
            table
                .lines()
                .skip(1)
                .filter(|line| {
                    let fields: Vec<&str> = line.split_whitespace().collect();
                    let at = |field: usize| fields.get(field).is_some_and(|f| f.ends_with(&port));
                    // Without an inode no process has it.
                    (at(1) || at(2)) && fields.get(9).is_some_and(|inode| *inode != "0")
                })
                .count()
        })
        .sum()
}

async fn assert_same_bytes(from: &mut Box<dyn Duplex>, to: &mut Box<dyn Duplex>, count: usize) {
    let sent: Vec<u8> = (0..count).map(|n| (n % 251) as u8).collect();
    let mut came = vec![0; count];
    let (written, read) = futures_lite::future::zip(
        async {
            from.write_all(&sent).await?;
            from.flush().await
        },
        to.read_exact(&mut came),
    )
    .await;
    written.unwrap();
    read.unwrap();
    assert!(sent == came);
}
