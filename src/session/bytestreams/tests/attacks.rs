//! People between and beside the two.

use std::sync::atomic::{AtomicBool, Ordering};

use async_net::{TcpListener, TcpStream};

use super::*;
use crate::{
    session::{
        bytestreams::{
            carrier::TcpCarrier,
            secure::{self, Expected, SecureError},
            socket::{dial, welcome},
        },
        tls,
    },
    xmpp::payload::{
        builder,
        bytestreams::{Streamhost, destination},
        pneuma, si,
    },
};

fn romeos_name(pair: &Pair, sid: &str) -> String {
    destination(sid, &pair.romeo.us, &pair.juliet.us)
}

fn address(hosts: &Streamhosts) -> SocketAddr {
    SocketAddr::new(hosts.hosts[0].host.parse().unwrap(), hosts.hosts[0].port)
}

/// Romeo opens; what happens between his offer of streamhosts and Juliet's dialling is the test's.
async fn opened_while<T>(
    pair: &Pair,
    between: impl AsyncFnOnce(Streamhosts) -> T,
) -> (Result<Bytestream, Error>, Result<Bytestream, Error>, T) {
    let (held_in, held) = async_channel::bounded::<()>(1);
    let juliets = async {
        let incoming = pair.juliet.offer().await.incoming;
        let mut accepting = incoming.accept();
        // She agrees, and dials only when the test is done.
        assert!(
            futures_lite::future::poll_once(&mut accepting)
                .await
                .is_none()
        );
        assert!(held.recv().await.is_err());
        accepting.await
    };
    let test = async {
        let hosts = pair.romeo.streamhosts().await;
        let kept = between(hosts).await;
        drop(held_in);
        kept
    };
    let ((romeo, juliet), kept) =
        futures_lite::future::zip(futures_lite::future::zip(pair.romeo.open(), juliets), test)
            .await;
    (romeo, juliet, kept)
}

#[test]
fn who_sniffed_the_sid_and_comes_first_spoils_nothing() {
    run(async {
        let pair = Pair::new();
        let (romeo, juliet, _kept) = opened_while(&pair, async |hosts| {
            let name = romeos_name(&pair, &hosts.sid);
            // One stalls, one speaks nonsense, one goes away, one does TLS with another key.
            let stalls = dial(address(&hosts), name.clone()).await.unwrap();
            let mut nonsense = dial(address(&hosts), name.clone()).await.unwrap();
            nonsense
                .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
                .await
                .unwrap();
            drop(dial(address(&hosts), name.clone()).await.unwrap());
            let stranger = dial(address(&hosts), name).await.unwrap();
            let identity = Identity::generate().unwrap();
            let config = tls::server_config(&identity, None, None).unwrap();
            let tls = futures_rustls::TlsAcceptor::from(config).accept(stranger);
            assert!(tls.await.is_err());
            (stalls, nonsense)
        })
        .await;
        let (mut romeo, mut juliet) = (romeo.unwrap().io, juliet.unwrap().io);
        assert_same_bytes(&mut romeo, &mut juliet, 1000).await;
        pair.assert_idle();
    });
}

#[test]
fn a_crowd_at_the_door_does_not_keep_the_peer_out() {
    run(async {
        let pair = Pair::new();
        let (romeo, juliet, _crowd) = opened_while(&pair, async |hosts| {
            let name = romeos_name(&pair, &hosts.sid);
            let mut named = dial(address(&hosts), name).await.unwrap();
            let mut crowd = Vec::new();
            for _ in 0..100 {
                crowd.push(TcpStream::connect(address(&hosts)).await.unwrap());
            }
            // The first had to make room.
            let ended = crowd[0].read(&mut [0; 1]).await;
            assert!(!matches!(ended, Ok(1..)), "{ended:?}");
            // Who knew the name had not: after the beginning of TLS it is still waited for.
            assert!(matches!(named.read(&mut [0; 4096]).await, Ok(1..)));
            let mut byte = [0];
            let more = named.read(&mut byte);
            assert!(futures_lite::future::poll_once(more).await.is_none());
            (crowd, named)
        })
        .await;
        assert!(romeo.is_ok() && juliet.is_ok());
    });
}

#[test]
fn who_connects_and_stalls_is_shown_out() {
    run(async {
        let pair = Pair::new();
        let (romeo, juliet, ()) = opened_while(&pair, async |hosts| {
            let mut silent = TcpStream::connect(address(&hosts)).await.unwrap();
            let name = romeos_name(&pair, &hosts.sid);
            let mut named = dial(address(&hosts), name).await.unwrap();
            pair.while_time_passes(async {
                assert!(!matches!(silent.read(&mut [0; 1]).await, Ok(1..)));
                // The beginning of TLS comes, then nothing more.
                futures_lite::io::copy(&mut named, &mut futures_lite::io::sink())
                    .await
                    .ok();
            })
            .await;
            assert!(pair.clock.now() < Config::default().handshake * 2);
        })
        .await;
        assert!(romeo.is_ok() && juliet.is_ok());
    });
}

/// Two bytestreams of one pair, and somebody who joins the end of each to the beginning of the other.
#[test]
fn swapped_targets_are_noticed() {
    run(async {
        let pair = Pair::new();
        let between = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = between.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let seen_here = seen.clone();
        *pair.romeo.tamper.lock().unwrap() = Some(Box::new(move |payload| {
            if let Ok(mut hosts) = Streamhosts::parse(payload) {
                seen_here.lock().unwrap().push(hosts.clone());
                hosts.hosts[0].port = port;
                *payload = hosts.to_element();
            }
        }));
        let attack = async {
            let mut came = Vec::new();
            while came.len() < 2 {
                came.push(between.accept().await.unwrap().0);
            }
            let seen = seen.lock().unwrap().clone();
            let names: Vec<String> = seen.iter().map(|s| romeos_name(&pair, &s.sid)).collect();
            let mut group = Group::new();
            // Which connection asks for which is not known: each is told what it asked for by
            // trying; here both names are tried by peeking at the request.
            for stream in came {
                let (seen, names) = (seen.clone(), names.clone());
                group.push(
                    (),
                    Box::pin(async move {
                        let mut head = [0; 3];
                        let mut stream = stream;
                        stream.read_exact(&mut head).await?;
                        stream.write_all(&[5, 0]).await?;
                        let mut request = [0; 47];
                        stream.read_exact(&mut request).await?;
                        let asked = String::from_utf8_lossy(&request[5..45]).into_owned();
                        let other = usize::from(names[0] == asked);
                        let far = dial(address(&seen[other]), names[other].clone())
                            .await
                            .map_err(std::io::Error::other)?;
                        request[1] = 0;
                        stream.write_all(&request).await?;
                        let (mut near_read, mut near_write) = futures_lite::io::split(stream);
                        let (mut far_read, mut far_write) = futures_lite::io::split(far);
                        futures_lite::future::or(
                            futures_lite::io::copy(&mut near_read, &mut far_write),
                            futures_lite::io::copy(&mut far_read, &mut near_write),
                        )
                        .await
                    }) as BoxFuture<'static, std::io::Result<u64>>,
                );
            }
            group.next().await.ok();
            group.next().await.ok();
            std::future::pending::<()>().await;
        };
        let accept = async || pair.juliet.offer().await.incoming.accept().await;
        let victims = futures_lite::future::zip(
            futures_lite::future::zip(pair.romeo.open(), pair.romeo.open()),
            futures_lite::future::zip(accept(), accept()),
        );
        let results = async { Some(victims.await) }
            .or(async {
                attack.await;
                None
            })
            .await;
        let ((one, two), (three, four)) = results.unwrap();
        for result in [one, two, three, four] {
            assert!(
                matches!(result, Err(Error::ConnectionFailed(_))),
                "{result:?}"
            );
        }
        pair.assert_idle();
    });
}

/// What a man between does with what Romeo's end sends, block by block; `None`: he ends both.
type Meddle = Box<dyn FnMut(&mut Vec<u8>) -> Option<()>>;

/// Runs `victims` while somebody stands between Juliet and where Romeo listens.
async fn with_a_man_between<T>(
    pair: &Pair,
    mut meddle: Meddle,
    victims: impl Future<Output = T>,
) -> T {
    let between = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = between.local_addr().unwrap().port();
    let real = Arc::new(Mutex::new(None));
    let real_here = real.clone();
    *pair.romeo.tamper.lock().unwrap() = Some(Box::new(move |payload| {
        if let Ok(mut hosts) = Streamhosts::parse(payload) {
            *real_here.lock().unwrap() = Some(address(&hosts));
            hosts.hosts[0].port = port;
            *payload = hosts.to_element();
        }
    }));
    let relay = async {
        {
            let (near, _) = between.accept().await.unwrap();
            let target = real.lock().unwrap().unwrap();
            let far = TcpStream::connect(target).await.unwrap();
            let (mut near_read, mut near_write) = futures_lite::io::split(near);
            let (mut far_read, mut far_write) = futures_lite::io::split(far);
            let meddling = async {
                loop {
                    let mut block = vec![0; 4096];
                    let count = far_read.read(&mut block).await.unwrap_or(0);
                    block.truncate(count);
                    if count == 0 || meddle(&mut block).is_none() {
                        break;
                    }
                    near_write.write_all(&block).await.unwrap();
                }
            };
            futures_lite::future::or(meddling, async {
                futures_lite::io::copy(&mut near_read, &mut far_write)
                    .await
                    .ok();
            })
            .await;
        }
        std::future::pending().await
    };
    futures_lite::future::or(victims, relay).await
}

#[test]
fn a_man_between_who_only_looks_is_not_noticed() {
    // What the tests around this show depends on it: their men between can relay at all.
    run(async {
        let pair = Pair::new();
        let (romeo, juliet) = with_a_man_between(&pair, Box::new(|_| Some(())), pair.both()).await;
        assert!(romeo.is_ok() && juliet.is_ok());
    });
}

#[test]
fn what_is_changed_or_cut_on_the_way_is_never_an_end_of_file() {
    for cut in [true, false] {
        run(async {
            let pair = Pair::new();
            let armed = Arc::new(AtomicBool::new(false));
            let here = armed.clone();
            let meddle = Box::new(move |block: &mut Vec<u8>| {
                if here.load(Ordering::Relaxed) {
                    if cut {
                        return None;
                    }
                    if let Some(last) = block.last_mut() {
                        *last ^= 1;
                    }
                }
                Some(())
            });
            let victims = async {
                let (mut romeo, mut juliet) = pair.connected().await;
                assert_same_bytes(&mut romeo, &mut juliet, 100).await;
                armed.store(true, Ordering::Relaxed);
                romeo.write_all(b"hello").await.unwrap();
                romeo.close().await.unwrap();
                let mut came = [0; 5];
                for _ in 0..2 {
                    assert!(juliet.read(&mut came).await.is_err());
                }
            };
            with_a_man_between(&pair, meddle, victims).await;
        });
    }
}

#[test]
fn a_wrong_key_is_refused() {
    run(async {
        let pair = Pair::with(Setup {
            impostor: true,
            ..Setup::default()
        });
        let (romeo, juliet) = pair.both().await;
        assert!(
            matches!(romeo, Err(Error::ConnectionFailed(_))),
            "{romeo:?}"
        );
        assert!(
            matches!(juliet, Err(Error::ConnectionFailed(_))),
            "{juliet:?}"
        );
        pair.assert_idle();
    });
}

#[test]
fn the_right_key_speaking_another_protocol_is_a_stranger() {
    run(async {
        let (here, there) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (near, far) = futures_lite::future::try_zip(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept(),
        )
        .await
        .unwrap();
        let config = tls::server_config(&there, Some(here.id()), None).unwrap();
        let expected = Expected {
            sid: "1".into(),
            id: ID,
            link: LinkSecurity {
                own: here.id(),
                peer: there.id(),
                exporter: [9; 32],
                pneuma: true,
            },
        };
        let (client, server) = futures_lite::future::zip(
            secure::client(TcpCarrier::new(near), &here, &expected),
            futures_rustls::TlsAcceptor::from(config).accept(far.0),
        )
        .await;
        assert!(server.is_ok());
        assert!(matches!(client, Err(SecureError::Stranger)), "{client:?}");
    });
}

#[test]
fn third_parties_are_not_dialled() {
    run(async {
        let pair = Pair::new();
        *pair.romeo.tamper.lock().unwrap() = Some(Box::new(|payload| {
            if let Ok(mut hosts) = Streamhosts::parse(payload) {
                let host = |host: &str| Streamhost {
                    jid: "x".into(),
                    host: host.into(),
                    port: 9,
                };
                hosts.hosts = vec![host("192.0.2.1"), host("localhost"), host("0.0.0.0")];
                *payload = hosts.to_element();
            }
        }));
        // Nothing is tried, so nothing waits and no time passes.
        let (romeo, juliet) = pair.both().await;
        assert!(
            matches!(romeo, Err(Error::ConnectionFailed(_))),
            "{romeo:?}"
        );
        assert!(matches!(juliet, Err(Error::ConnectionFailed(_))));
    });
}

#[test]
fn an_offer_that_is_not_secured_is_refused_inside_a_secured_stream() {
    run(async {
        let pair = Pair::new();
        *pair.romeo.tamper.lock().unwrap() = Some(Box::new(|payload| {
            payload.remove_child("secured", ns::PNEUMA);
        }));
        let opened = pair.romeo.open().await;
        assert!(matches!(opened, Err(Error::ConnectionRefused(_))));
        assert!(pair.juliet.offers.is_empty());
        pair.assert_idle();
    });
}

#[test]
fn an_answer_that_is_not_secured_or_of_another_connection_is_not_taken() {
    for extra in [
        vec![],
        vec![pneuma::secured(BytestreamId([8; 16]))],
        vec![pneuma::secured(ID), pneuma::secured(ID)],
    ] {
        run(async {
            let pair = Pair::new();
            let other = pair.juliet.clone();
            // Juliet's end is played by the test.
            let answer = si::Answer {
                methods: vec![ns::BYTESTREAMS.into()],
                multiple: false,
                extra: extra.clone(),
            }
            .to_element();
            let link = Arc::new(Played {
                side: pair.romeo.clone(),
                answer,
            });
            let opened = other
                .streams
                .clone()
                .open(link, ID, ns::TUBES, tube::stream(1))
                .await;
            assert!(
                matches!(opened, Err(Error::EncryptionNotAvailable(_))),
                "{opened:?}"
            );
        });
    }
}

/// A link whose peer answers everything with the same.
struct Played {
    side: Arc<Side>,
    answer: Element,
}

impl Link for Played {
    fn us(&self) -> &str {
        self.side.us()
    }

    fn them(&self) -> &str {
        self.side.them()
    }

    fn local_address(&self) -> SocketAddr {
        self.side.local_address()
    }

    fn peer_address(&self) -> SocketAddr {
        self.side.peer_address()
    }

    fn has_ended(&self) -> bool {
        self.side.has_ended()
    }

    fn security(&self) -> Option<LinkSecurity> {
        self.side.security()
    }

    fn lane(&self) -> &Arc<Lane> {
        self.side.lane()
    }

    fn request(
        &self,
        _payload: Element,
        _id: Option<String>,
    ) -> BoxFuture<'static, Result<Option<Element>, RequestError>> {
        let answer = self.answer.clone();
        Box::pin(async move { Ok(Some(answer)) })
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

#[test]
fn malformed_requests_are_answered() {
    run(async {
        let pair = Pair::new();
        let condition = async |payload: Element| match pair.romeo.say(payload).await {
            Err(RequestError::Refused { condition, .. }) => condition,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            condition(builder("si", ns::SI).build()).await,
            "bad-request"
        );
        assert_eq!(
            condition(builder("query", ns::BYTESTREAMS).build()).await,
            "bad-request"
        );
        assert_eq!(
            condition(builder("other", "x").build()).await,
            "service-unavailable"
        );
        let unknown = Streamhosts {
            sid: "unknown".into(),
            hosts: vec![],
        };
        assert_eq!(condition(unknown.to_element()).await, "not-acceptable");
        let offer = |methods: &[&str], extra: Vec<Element>| {
            si::Offer {
                id: "1".into(),
                profile: ns::TUBES.into(),
                mime_type: None,
                methods: methods.iter().map(|m| (*m).to_owned()).collect(),
                multiple: false,
                extra,
            }
            .to_element()
        };
        let secured = || pneuma::secured(ID);
        assert_eq!(
            condition(offer(&[ns::IBB], vec![secured(), tube::stream(1)])).await,
            "bad-request"
        );
        assert_eq!(
            condition(offer(&[ns::BYTESTREAMS], vec![secured()])).await,
            "bad-request"
        );
        assert!(pair.juliet.offers.is_empty());
        pair.assert_idle();
    });
}

#[test]
fn a_listener_of_ours_lets_in_nobody_without_the_name() {
    run(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (right, wrong) = (destination("1", "a", "b"), destination("1", "b", "a"));
        let (dialled, welcomed) = futures_lite::future::zip(dial(address, wrong), async {
            welcome(listener.accept().await.unwrap().0, right).await
        })
        .await;
        assert!(dialled.is_err() && welcomed.is_err());
    });
}
