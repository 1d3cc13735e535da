//! How fast a bytestream is: SOCKS5, TLS 1.3 and binding over loopback, beside a plain TCP connection
//! on the same machine, in one run. Prints MB/s and the ratio; `cargo bench --bench bytestream`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock, Weak},
};

use actors::{
    model::BytestreamId,
    ports::Duplex,
    runtime::{BoxFuture, Clock, Reply, SystemClock},
};
use async_net::{TcpListener, TcpStream};
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future};
use minidom::Element;
use pneuma::{
    session::{
        bytestreams::{Bytestreams, Config, SiOffer},
        link::{IncomingRequest, Link, LinkSecurity, RequestError},
        trust::Identity,
    },
    xmpp::payload::tube,
};

/// How much goes one way.
const BYTES: usize = 1 << 30;
/// What the writer has in hand at a time, as the relay does.
const BLOCK: usize = 64 * 1024;

/// One end of an XML stream that is a function call.
struct End {
    names: [&'static str; 2],
    security: LinkSecurity,
    streams: Arc<Bytestreams>,
    other: OnceLock<Weak<End>>,
    offers: async_channel::Sender<SiOffer>,
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

async fn write(mut to: impl AsyncWrite + Unpin) {
    let block = vec![7; BLOCK];
    let mut left = BYTES;
    while left > 0 {
        let count = to.write(&block[..BLOCK.min(left)]).await.expect("a write");
        left -= count;
    }
    to.close().await.expect("a close");
}

async fn read(mut from: impl AsyncRead + Unpin) {
    let mut block = vec![0; BLOCK];
    let mut came = 0;
    loop {
        match from.read(&mut block).await.expect("a read") {
            0 => break,
            count => came += count,
        }
    }
    assert_eq!(came, BYTES);
}

/// MB/s from one thread to another.
fn measure(
    clock: &Arc<SystemClock>,
    from: impl AsyncWrite + Unpin + Send + 'static,
    to: impl AsyncRead + Unpin + Send + 'static,
) -> f64 {
    let start = clock.now();
    let writer = std::thread::spawn(move || future::block_on(write(from)));
    future::block_on(read(to));
    let seconds = (clock.now() - start).as_secs_f64();
    writer.join().expect("the writer");
    BYTES as f64 / 1e6 / seconds
}

fn main() {
    // `cargo test --benches` passes no --bench: then there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let clock = SystemClock::new();
    for _ in 0..3 {
        let [one, two] = async_io::block_on(tcp());
        let plain = measure(&clock, one, two);
        let [one, two] = async_io::block_on(bytestream(clock.clone()));
        let opened = measure(&clock, one, two);
        let [one, two] = async_io::block_on(bytestream(clock.clone()));
        let answered = measure(&clock, two, one);
        println!(
            "TCP {plain:6.0} MB/s   bytestream {opened:6.0} MB/s out, {answered:6.0} MB/s in   \
             ratio {:.2}",
            opened.min(answered) / plain
        );
    }
}
