//! Several streamhosts side by side: the first that proves to be the peer wins, and both ends take the same.

use async_net::{TcpListener, TcpStream};
use futures_lite::future::zip;

use super::*;
use crate::xmpp::payload::bytestreams::Streamhost;

/// Puts streamhosts at these ports before Romeo's own, or behind it.
fn with_hosts(pair: &Pair, ports: Vec<u16>, before: bool) {
    *pair.romeo.tamper.lock().unwrap() = Some(Box::new(move |payload| {
        if let Ok(mut hosts) = Streamhosts::parse(payload) {
            let more = ports.iter().map(|&port| Streamhost {
                jid: "x".into(),
                host: "127.0.0.1".into(),
                port,
            });
            let at = if before { 0 } else { hosts.hosts.len() };
            hosts.hosts.splice(at..at, more);
            *payload = hosts.to_element();
        }
    }));
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn one_that_says_nothing_costs_a_moment() {
    run(async {
        let pair = Pair::new();
        let (silent, port) = listener().await;
        let (_silent_too, second) = listener().await;
        with_hosts(&pair, vec![port, second], true);
        let stagger = Config::default().stagger;
        let (mut romeo, mut juliet) = pair.stepping(stagger, pair.connected()).await;
        assert!(pair.clock.now() <= stagger * 4, "{:?}", pair.clock.now());
        assert_same_bytes(&mut romeo, &mut juliet, 1000).await;
        // Nothing is left of those that were tried: what was connected is closed.
        let (mut tried, _) = silent.accept().await.unwrap();
        tried.read_to_end(&mut Vec::new()).await.unwrap();
        drop(tried);
        drop(silent);
        assert_eq!(sockets_at(port), 0);
        pair.assert_idle();
    });
}

#[test]
fn one_that_is_not_there_costs_no_time() {
    run(async {
        let pair = Pair::new();
        let (gone, port) = listener().await;
        drop(gone);
        with_hosts(&pair, vec![port], true);
        let (mut romeo, mut juliet) = pair.connected().await;
        assert_eq!(pair.clock.now(), Duration::ZERO);
        assert_same_bytes(&mut romeo, &mut juliet, 1000).await;
    });
}

/// Passes on what comes to `listener` to where Romeo listens, without a word of its own.
async fn relayed(listener: &TcpListener, real: &Mutex<Option<SocketAddr>>) {
    let (near, _) = listener.accept().await.unwrap();
    let far = real.lock().unwrap().unwrap();
    let far = TcpStream::connect(far).await.unwrap();
    let copy = |from: TcpStream, to: TcpStream| async move {
        futures_lite::io::copy(from, to).await.ok();
    };
    zip(copy(near.clone(), far.clone()), copy(far, near)).await;
}

#[test]
fn two_that_prove_themselves_at_once_are_not_taken_for_two() {
    // Whichever wins, both ends have the same one.
    let mut relays = 0;
    for _ in 0..30 {
        run(async {
            let pair = Pair::with(Setup {
                config: Config {
                    methods: SOCKS5,
                    stagger: Duration::ZERO,
                    ..Config::default()
                },
                ..Setup::default()
            });
            let (between, port) = listener().await;
            let real = Arc::new(Mutex::new(None));
            let here = real.clone();
            *pair.romeo.tamper.lock().unwrap() = Some(Box::new(move |payload| {
                if let Ok(mut hosts) = Streamhosts::parse(payload) {
                    let own = hosts.hosts[0].clone();
                    let ip: IpAddr = own.host.parse().unwrap();
                    *here.lock().unwrap() = Some(SocketAddr::new(ip, own.port));
                    hosts.hosts.insert(
                        0,
                        Streamhost {
                            port,
                            jid: "relay".into(),
                            ..own
                        },
                    );
                    *payload = hosts.to_element();
                }
            }));
            let relay = async {
                relayed(&between, &real).await;
                std::future::pending().await
            };
            let victims = async {
                let (mut romeo, mut juliet) = pair.connected().await;
                assert_same_bytes(&mut romeo, &mut juliet, 10_000).await;
                assert_same_bytes(&mut juliet, &mut romeo, 10_000).await;
                romeo.close().await.unwrap();
                assert_eq!(juliet.read(&mut [0; 1]).await.unwrap(), 0);
            };
            victims.or(relay).await;
            relays += 1;
            pair.assert_idle();
        });
    }
    assert_eq!(relays, 30);
}

#[test]
fn one_with_another_key_is_passed_over() {
    run(async {
        let pair = Pair::new();
        let (false_one, port) = listener().await;
        with_hosts(&pair, vec![port], true);
        let identity = Identity::generate().unwrap();
        let plays = async {
            let (stream, _) = false_one.accept().await.unwrap();
            let mut stream = stream;
            // It takes any name.
            let mut said = [0; 3];
            stream.read_exact(&mut said).await.unwrap();
            stream.write_all(&[5, 0]).await.unwrap();
            let mut asked = [0; 47];
            stream.read_exact(&mut asked).await.unwrap();
            asked[1] = 0;
            stream.write_all(&asked).await.unwrap();
            let config = crate::session::tls::client_config(&identity, None, None).unwrap();
            let tls = futures_rustls::TlsConnector::from(config)
                .connect(crate::session::tls::any_name(), stream);
            if let Ok(mut tls) = tls.await {
                assert!(!matches!(tls.read(&mut [0; 1]).await, Ok(1..)));
            }
            std::future::pending().await
        };
        let (mut romeo, mut juliet) = pair.connected().or(plays).await;
        assert_same_bytes(&mut romeo, &mut juliet, 1000).await;
        pair.assert_idle();
    });
}

#[test]
fn giving_up_leaves_none_of_them_behind() {
    run(async {
        for polls in 0..40 {
            let pair = Pair::new();
            let (one, port) = listener().await;
            let (two, second) = listener().await;
            with_hosts(&pair, vec![port, second], true);
            {
                let mut both = pin!(pair.both());
                for _ in 0..polls {
                    if futures_lite::future::poll_once(&mut both).await.is_some() {
                        break;
                    }
                    pair.clock.advance(Config::default().stagger);
                    futures_lite::future::yield_now().await;
                }
            }
            drop(pair.juliet.offers.try_recv());
            pair.assert_idle();
            drop((one, two));
            assert_eq!(
                sockets_at(port) + sockets_at(second),
                0,
                "after {polls} polls"
            );
        }
    });
}
