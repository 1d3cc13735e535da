//! How fast a bytestream is: SOCKS5, TLS 1.3 and binding over loopback, beside a plain TCP connection
//! on the same machine, and one inside an XML stream with TLS of its own, windowed beside one block a
//! round trip; all in one run. Prints MB/s and the ratios; `cargo bench --bench bytestream`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock, Weak},
};

use actors::{
    model::BytestreamId,
    ports::{Duplex, IncomingBytestream as _},
    runtime::{BoxFuture, Clock, Mailbox, Reply, Snapshot, Spawner, SystemClock},
};
use async_net::{TcpListener, TcpStream};
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future};
use minidom::Element;
use pneuma::{
    session::{
        ContactId,
        bytestreams::{Bytestreams, Config, Methods, SiOffer, ibb},
        lane::Lane,
        link::{IncomingRequest, Link, LinkSecurity, RequestError},
        link_local::stream::{
            self, Admitted, StreamContext, StreamEvent, StreamId, StreamLink, StreamRequest,
        },
        trust::Identity,
    },
    xmpp::{
        payload::{disco, tube},
        stream::Role,
    },
};
use smol::Executor;

/// How much goes one way.
const BYTES: usize = 1 << 30;
/// The same inside an XML stream.
const IN_BAND_BYTES: usize = 1 << 26;
/// What the writer has in hand at a time, as the relay does.
const BLOCK: usize = 64 * 1024;

/// One end of an XML stream that is a function call.
struct End {
    names: [&'static str; 2],
    security: LinkSecurity,
    streams: Arc<Bytestreams>,
    other: OnceLock<Weak<End>>,
    offers: async_channel::Sender<SiOffer>,
    lane: Arc<Lane>,
}

impl Link for End {
    fn us(&self) -> &str {
        self.names[0]
    }

    fn them(&self) -> &str {
        self.names[1]
    }

    fn local_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 1).into()
    }

    fn peer_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 2).into()
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn security(&self) -> Option<LinkSecurity> {
        Some(self.security.clone())
    }

    fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    fn request(
        &self,
        payload: Element,
        _id: Option<String>,
    ) -> BoxFuture<'static, Result<Option<Element>, RequestError>> {
        let (answer, pending) = Reply::new();
        let other = self.other.get().and_then(Weak::upgrade);
        Box::pin(async move {
            let other = other.ok_or(RequestError::Gone)?;
            let link: Arc<dyn Link> = other.clone();
            let request = IncomingRequest { payload, answer };
            if let Some(offer) = other.streams.on_request(&link, request) {
                other
                    .offers
                    .send(offer)
                    .await
                    .map_err(|_| RequestError::Gone)?;
            }
            match pending.wait().await {
                Ok(Ok(result)) => Ok(result),
                _ => Err(RequestError::Gone),
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

async fn bytestream(clock: Arc<dyn Clock>) -> [Box<dyn Duplex>; 2] {
    let keys = [(); 2].map(|()| Arc::new(Identity::generate().expect("a key")));
    let (offers, offered) = async_channel::bounded(1);
    let end = |here: usize| {
        let names = ["romeo@forza", "juliet@pronto"];
        Arc::new(End {
            names: [names[here], names[1 - here]],
            security: LinkSecurity {
                own: keys[here].id(),
                peer: keys[1 - here].id(),
                exporter: [1; 32],
                pneuma: true,
            },
            streams: Bytestreams::new(clock.clone(), keys[here].clone(), Config::default()),
            other: OnceLock::new(),
            offers: offers.clone(),
            lane: Arc::default(),
        })
    };
    let (one, two) = (end(0), end(1));
    one.other.get_or_init(|| Arc::downgrade(&two));
    two.other.get_or_init(|| Arc::downgrade(&one));
    let opening = one
        .streams
        .open(one.clone(), BytestreamId([1; 16]), "p", tube::stream(1));
    let accepting = async {
        let offer: SiOffer = offered.recv().await.expect("an offer");
        offer.incoming.accept().await
    };
    let (opened, accepted) = future::zip(opening, accepting).await;
    [
        opened.expect("a bytestream").io,
        accepted.expect("a bytestream").io,
    ]
}

async fn tcp() -> [TcpStream; 2] {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a listener");
    let address = listener.local_addr().expect("its address");
    let (one, two) = future::try_zip(TcpStream::connect(address), listener.accept())
        .await
        .expect("a connection");
    [one, two.0]
}

const NAMES: [&str; 2] = ["romeo@forza", "juliet@pronto"];

/// One end of an XML stream as two programs have it; gives its link once stanzas may go.
async fn end(
    spawner: &Spawner,
    bytestreams: Arc<Bytestreams>,
    (identity, here): (Arc<Identity>, usize),
    carrier: TcpStream,
    accepted: async_channel::Sender<Box<dyn Duplex>>,
) -> Arc<StreamLink> {
    let (mut events, told) = Mailbox::new(16);
    let (_info, info) = Snapshot::new(disco::Info {
        node: None,
        identities: Default::default(),
        features: Default::default(),
    });
    let context = StreamContext {
        identity,
        info,
        bytestreams,
        clock: SystemClock::new(),
        spawner: spawner.clone(),
        events: told,
        faults: Default::default(),
    };
    let request = StreamRequest {
        id: StreamId(1),
        role: if here == 0 {
            Role::Initiator
        } else {
            Role::Recipient
        },
        us: NAMES[here].into(),
        them: (here == 0).then(|| NAMES[1].into()),
        expected: None,
        require_tls: true,
        local: carrier.local_addr().expect("an address"),
        peer: carrier.peer_addr().expect("an address"),
    };
    let (ready, is_ready) = async_channel::bounded(1);
    let answering = async move {
        while let Some((_, event)) = events.next().await {
            match event {
                StreamEvent::Admit(admission) => admission.reply.answer(Ok(Admitted {
                    contact: ContactId(admission.from),
                    pneuma: Some(true),
                    announced: Vec::new(),
                })),
                StreamEvent::Ready(link) => ready.send(link).await.expect("a listener"),
                StreamEvent::Connection(_, incoming) => {
                    let bytestream = incoming.accept().await.expect("a bytestream");
                    accepted.send(bytestream.io).await.expect("a listener");
                }
                _ => {}
            }
        }
    };
    spawner.spawn("events", answering).detach();
    let running = async move {
        let (mailbox, address) = stream::mailbox();
        let (_stopper, stop) = actors::runtime::Stopper::new();
        let established = stream::establish(context, request, Box::new(carrier)).await;
        let established = established.expect("an XML stream");
        established.run(mailbox, address, &stop).await
    };
    spawner.spawn("xml stream", running).detach();
    is_ready.recv().await.expect("a stream")
}

/// A bytestream inside an XML stream over loopback, with so many blocks on their way at once.
async fn in_band(spawner: &Spawner, window: usize) -> [Box<dyn Duplex>; 2] {
    let config = Config {
        methods: Methods {
            socks5: false,
            in_band: true,
        },
        in_band: ibb::Limits {
            window,
            ..ibb::Limits::default()
        },
        ..Config::default()
    };
    let keys = [(); 2].map(|()| Arc::new(Identity::generate().expect("a key")));
    let (accepted, accepts) = async_channel::bounded(1);
    let streams = keys
        .clone()
        .map(|key| Bytestreams::new(SystemClock::new(), key, config.clone()));
    let [one, two] = tcp().await;
    let [first, second] = keys;
    let (link, _other) = future::zip(
        end(
            spawner,
            streams[0].clone(),
            (first, 0),
            one,
            accepted.clone(),
        ),
        end(spawner, streams[1].clone(), (second, 1), two, accepted),
    )
    .await;
    let id = BytestreamId([1; 16]);
    let profile = pneuma::xmpp::ns::TUBES;
    let opened = streams[0].open(link, id, profile, tube::stream(1)).await;
    [
        opened.expect("a bytestream").io,
        accepts.recv().await.expect("a bytestream"),
    ]
}

async fn write(mut to: impl AsyncWrite + Unpin, bytes: usize) {
    let block = vec![7; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let count = to.write(&block[..BLOCK.min(left)]).await.expect("a write");
        left -= count;
    }
    to.close().await.expect("a close");
}

async fn read(mut from: impl AsyncRead + Unpin, bytes: usize) {
    let mut block = vec![0; BLOCK];
    let mut came = 0;
    loop {
        match from.read(&mut block).await.expect("a read") {
            0 => break,
            count => came += count,
        }
    }
    assert_eq!(came, bytes);
}

/// MB/s from one thread to another.
fn measure(
    clock: &Arc<SystemClock>,
    bytes: usize,
    from: impl AsyncWrite + Unpin + Send + 'static,
    to: impl AsyncRead + Unpin + Send + 'static,
) -> f64 {
    let start = clock.now();
    let writer = std::thread::spawn(move || future::block_on(write(from, bytes)));
    future::block_on(read(to, bytes));
    let seconds = (clock.now() - start).as_secs_f64();
    writer.join().expect("the writer");
    bytes as f64 / 1e6 / seconds
}

fn main() {
    // `cargo test --benches` passes no --bench: then there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let clock = SystemClock::new();
    for _ in 0..3 {
        let [one, two] = async_io::block_on(tcp());
        let plain = measure(&clock, BYTES, one, two);
        let [one, two] = async_io::block_on(bytestream(clock.clone()));
        let opened = measure(&clock, BYTES, one, two);
        let [one, two] = async_io::block_on(bytestream(clock.clone()));
        let answered = measure(&clock, BYTES, two, one);
        println!(
            "TCP {plain:6.0} MB/s   bytestream {opened:6.0} MB/s out, {answered:6.0} MB/s in   \
             ratio {:.2}",
            opened.min(answered) / plain
        );
    }
    // The XML streams' actors have threads of their own, as in the service.
    let executor = Arc::new(Executor::new());
    let spawner = Spawner::new(executor.clone());
    for _ in 0..2 {
        let executor = executor.clone();
        std::thread::spawn(move || async_io::block_on(executor.run(future::pending::<()>())));
    }
    for _ in 0..3 {
        let rate = |window| {
            let [one, two] = async_io::block_on(in_band(&spawner, window));
            measure(&clock, IN_BAND_BYTES, one, two)
        };
        let (windowed, single) = (rate(ibb::Limits::default().window), rate(1));
        println!(
            "in-band {windowed:6.0} MB/s   one block a round trip {single:6.0} MB/s   ratio {:.2}",
            windowed / single
        );
    }
}
