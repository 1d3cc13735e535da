//! Bytestreams without TLS, for peers that are no Pneuma: only where the account allows them.

use async_net::TcpStream;

use super::*;
use crate::{
    session::bytestreams::{Offered, socket::dial},
    xmpp::payload::bytestreams::{destination, streamhost_used},
};

fn pair(secured: bool, allow_plaintext: bool) -> Pair {
    Pair::with(Setup {
        secured,
        pneuma: false,
        config: Config {
            allow_plaintext,
            methods: SOCKS5,
            ..Config::default()
        },
        ..Setup::default()
    })
}

#[test]
fn plaintext_needs_a_plaintext_stream_and_leave() {
    run(async {
        for (secured, allowed) in [(false, false), (true, true), (true, false)] {
            let pair = pair(secured, allowed);
            let opened = pair.romeo.open().await;
            assert!(
                matches!(opened, Err(Error::EncryptionNotAvailable(_))),
                "{secured} {allowed}: {opened:?}"
            );
            assert!(pair.romeo.sent.lock().unwrap().is_empty());
        }
    });
}

#[test]
fn where_it_is_allowed_it_carries_bytes_and_ends() {
    run(async {
        let pair = pair(false, true);
        let (mut romeo, mut juliet) = pair.connected().await;
        assert_same_bytes(&mut romeo, &mut juliet, 100_000).await;
        romeo.close().await.unwrap();
        assert_eq!(juliet.read(&mut [0; 1]).await.unwrap(), 0);
        assert_same_bytes(&mut juliet, &mut romeo, 10).await;
        pair.assert_idle();
    });
}

#[test]
fn an_offer_in_plaintext_is_refused_where_it_is_not_allowed() {
    run(async {
        let lenient = pair(false, true);
        let strict = pair(false, false);
        lenient
            .romeo
            .open()
            .or(async { Err(Error::unanswered()) })
            .await
            .ok();
        let offer = lenient.romeo.sent.lock().unwrap()[0].clone();
        let said = strict.romeo.say(offer).await;
        assert!(
            matches!(said, Err(RequestError::Refused { condition, .. }) if condition == "not-acceptable")
        );
    });
}

#[test]
fn a_connection_counts_only_with_the_peers_word() {
    run(async {
        let pair = pair(false, true);
        let mut opening = pair.romeo.open();
        assert!(
            futures_lite::future::poll_once(&mut opening)
                .await
                .is_none()
        );
        let mut accepting = pair.juliet.offer().await.incoming.accept();
        assert!(
            futures_lite::future::poll_once(&mut accepting)
                .await
                .is_none()
        );
        // The streamhosts go to the test, which dials but does not answer yet.
        let (stolen, pending) = Reply::new();
        if let Some(waiting) = pair.juliet.streams.waiting().values_mut().next() {
            waiting.reply = stolen;
        }
        let dialled = async {
            let Offered::Streamhosts(hosts, answer) = pending.wait().await.unwrap() else {
                panic!("nothing else was agreed on");
            };
            let name = destination(&hosts.sid, &pair.romeo.us, &pair.juliet.us);
            let at = (Ipv4Addr::LOCALHOST, hosts.hosts[0].port);
            let stream: TcpStream = dial(at.into(), name).await.unwrap();
            (stream, hosts, answer)
        };
        let first = async { Err((&mut opening).await) }.or(async { Ok(dialled.await) });
        let (mut stream, hosts, answer) = first.await.unwrap();
        assert!(
            futures_lite::future::poll_once(&mut opening)
                .await
                .is_none()
        );
        let used = streamhost_used(&hosts.sid, &hosts.hosts[0].jid);
        answer.send(Ok(Some(used))).unwrap();
        let mut opened = opening.await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut came = [0; 5];
        opened.io.read_exact(&mut came).await.unwrap();
        assert_eq!(&came, b"hello");
    });
}

#[test]
fn who_knows_the_name_and_comes_from_elsewhere_is_not_let_in() {
    run(async {
        let pair = pair(false, true);
        // The name is in plaintext: somebody has it and is faster than Juliet.
        let mut opening = pair.romeo.open();
        assert!(
            futures_lite::future::poll_once(&mut opening)
                .await
                .is_none()
        );
        let mut accepting = pair.juliet.offer().await.incoming.accept();
        assert!(
            futures_lite::future::poll_once(&mut accepting)
                .await
                .is_none()
        );
        let stranger = async {
            let hosts = pair.romeo.streamhosts().await;
            let name = destination(&hosts.sid, &pair.romeo.us, &pair.juliet.us);
            let mut stream = from_elsewhere(hosts.hosts[0].port);
            let mut handshake = vec![5, 1, 0, 5, 1, 0, 3, 40];
            handshake.extend(name.bytes());
            handshake.extend([0, 0]);
            // What it is told, if anything, before it is shown out.
            stream.write_all(&handshake).await.ok();
            let mut told = Vec::new();
            stream.read_to_end(&mut told).await.ok();
            told
        };
        let first = async { Err((&mut opening).await) }.or(async { Ok(stranger.await) });
        assert_eq!(first.await.unwrap(), Vec::<u8>::new());
        let (romeo, juliet) = futures_lite::future::zip(opening, accepting).await;
        let (mut romeo, mut juliet) = (romeo.unwrap().io, juliet.unwrap().io);
        assert_same_bytes(&mut romeo, &mut juliet, 10).await;
    });
}

/// A connection to this port whose other end has an address that is nobody's here.
fn from_elsewhere(port: u16) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let descriptor = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&descriptor, &SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    connect(&descriptor, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    std::net::TcpStream::from(descriptor).try_into().unwrap()
}
