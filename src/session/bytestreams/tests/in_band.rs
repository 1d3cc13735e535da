//! In-band bytestreams: what works, how they end, what they hold.

use std::io::ErrorKind;

use async_net::TcpListener;
use futures_lite::future::{poll_once, yield_now, zip};

use super::*;
use crate::{
    session::bytestreams::ibb::{Limits, MOST, OUT, ROOM, WINDOW_BYTES},
    xmpp::payload::{
        bytestreams::Streamhost,
        ibb::{Data, Open},
        pneuma, si,
    },
};

pub(super) fn pair_with(config: Config) -> Pair {
    Pair::with(Setup {
        config,
        ..Setup::default()
    })
}

fn in_band(limits: Limits) -> Pair {
    pair_with(Config {
        methods: IN_BAND,
        in_band: limits,
        ..Config::default()
    })
}

fn plain() -> Pair {
    Pair::with(Setup {
        secured: false,
        pneuma: false,
        config: Config {
            methods: IN_BAND,
            allow_plaintext: true,
            ..Config::default()
        },
        ..Setup::default()
    })
}

/// Nobody can be reached at the addresses that are offered.
fn nowhere(pair: &Pair, port: u16) {
    *pair.romeo.tamper.lock().unwrap() = Some(Box::new(move |payload| {
        if let Ok(mut hosts) = Streamhosts::parse(payload) {
            hosts.hosts = vec![Streamhost {
                jid: "x".into(),
                host: "127.0.0.1".into(),
                port,
            }];
            *payload = hosts.to_element();
        }
    }));
}

fn opened(pair: &Pair) -> Vec<u16> {
    let sent = pair.romeo.sent.lock().unwrap();
    sent.iter()
        .filter_map(|payload| Open::parse(payload).ok())
        .map(|open| open.block_size)
        .collect()
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    run(async {
        let pair = in_band(Limits::default());
        pair.pumped(async {
            let (mut romeo, mut juliet) = pair.connected().await;
            assert_same_bytes(&mut romeo, &mut juliet, 1_000_000).await;
            assert_same_bytes(&mut juliet, &mut romeo, 1).await;
            romeo.close().await.unwrap();
            assert_eq!(juliet.read(&mut [0; 10]).await.unwrap(), 0);
            assert_same_bytes(&mut juliet, &mut romeo, 300_000).await;
            juliet.close().await.unwrap();
            assert_eq!(romeo.read(&mut [0; 10]).await.unwrap(), 0);
        })
        .await;
        pair.all_over().await;
    });
}

#[test]
fn it_takes_the_place_of_streamhosts_that_cannot_be_reached() {
    run(async {
        // One at whose address nobody is, and one who takes the connection and says nothing.
        let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let ports = [gone, silent].map(|listener| {
            let port = listener.local_addr().unwrap().port();
            (port, Some(listener))
        });
        let [(gone, listener), (silent, _listening)] = ports;
        drop(listener);
        for port in [gone, silent] {
            let pair = pair_with(Config::default());
            nowhere(&pair, port);
            let (mut romeo, mut juliet) =
                pair.pumped(pair.while_time_passes(pair.connected())).await;
            // A second of virtual time may pass more than is needed.
            assert!(pair.clock.now() <= Config::default().reach + Duration::from_secs(1));
            assert_eq!(opened(&pair), [16 * 1024]);
            pair.pumped(assert_same_bytes(&mut romeo, &mut juliet, 100_000))
                .await;
            assert!(sockets_at(port) <= usize::from(port == silent));
            drop((romeo, juliet));
            pair.all_over().await;
        }
    });
}

#[test]
fn a_connection_of_its_own_is_preferred() {
    run(async {
        let pair = pair_with(Config::default());
        let (mut romeo, mut juliet) = pair.connected().await;
        assert_same_bytes(&mut romeo, &mut juliet, 1000).await;
        assert!(opened(&pair).is_empty());
        assert_eq!(pair.juliet.streams.in_band_open(), 0);
        pair.assert_idle();
    });
}

#[test]
fn a_peer_that_takes_one_method_only_chooses_it_from_the_form() {
    // What is offered, whether several may be answered, what Juliet allows, what she answers.
    let both = [ns::BYTESTREAMS, ns::IBB];
    let (ibb, socks5) = (&[ns::IBB][..], &[ns::BYTESTREAMS][..]);
    for (offered, multiple, allowed, answered) in [
        (&both[..], true, Methods::ALL, &both[..]),
        (&both[..], false, Methods::ALL, socks5),
        (&both[..], true, IN_BAND, ibb),
        (&both[..], false, IN_BAND, ibb),
        (&["x", ns::IBB][..], false, Methods::ALL, ibb),
        (&[ns::IBB, ns::BYTESTREAMS][..], false, Methods::ALL, ibb),
    ] {
        run(async {
            let pair = pair_with(Config {
                methods: allowed,
                ..Config::default()
            });
            let offer = si::Offer {
                id: "1".into(),
                profile: ns::TUBES.into(),
                mime_type: None,
                methods: offered.iter().map(|&m| m.to_owned()).collect(),
                multiple,
                extra: vec![pneuma::secured(ID), tube::stream(1)],
            };
            let said = pair.romeo.say(offer.to_element());
            let mut accepting = pair.juliet.offer().await.incoming.accept();
            assert!(poll_once(&mut accepting).await.is_none());
            let answer = si::Answer::parse(&said.await.unwrap().unwrap()).unwrap();
            assert_eq!(answer.methods, answered);
            assert_eq!(answer.multiple, answered.len() > 1);
        });
    }
}

#[test]
fn an_old_peer_that_knows_streamhosts_only_gets_them() {
    run(async {
        let pair = pair_with(Config::default());
        // What Juliet, who is as old, is offered and what she answers has no word of several.
        *pair.romeo.tamper.lock().unwrap() = Some(Box::new(|payload| {
            payload.remove_child("si-multiple", ns::SI_MULTIPLE);
        }));
        let (mut romeo, mut juliet) = pair.connected().await;
        assert_same_bytes(&mut romeo, &mut juliet, 1000).await;
        assert!(opened(&pair).is_empty());
    });
}

#[test]
fn blocks_become_as_small_as_the_peer_wants_them() {
    for (most, asked) in [
        (1000, &[16384, 8192, 4096, 2048, 1024, 512][..]),
        (255, &[16384, 8192, 4096, 2048, 1024, 512, 256]),
    ] {
        run(async {
            let config = |block| Config {
                methods: IN_BAND,
                in_band: Limits {
                    block,
                    ..Limits::default()
                },
                ..Config::default()
            };
            let pair = Pair::with(Setup {
                config: config(16 * 1024),
                juliets: Some(config(most)),
                ..Setup::default()
            });
            let largest = Arc::new(Mutex::new(0));
            for side in [&pair.romeo, &pair.juliet] {
                let largest = largest.clone();
                *side.tamper.lock().unwrap() = Some(Box::new(move |payload| {
                    if let Ok(data) = Data::parse(payload) {
                        let mut largest = largest.lock().unwrap();
                        *largest = data.bytes.len().max(*largest);
                    }
                }));
            }
            if most >= 256 {
                pair.pumped(async {
                    let (mut romeo, mut juliet) = pair.connected().await;
                    assert_same_bytes(&mut romeo, &mut juliet, 50_000).await;
                    assert_same_bytes(&mut juliet, &mut romeo, 50_000).await;
                })
                .await;
                assert_eq!(*largest.lock().unwrap(), 512);
            } else {
                let (romeo, juliet) = pair.pumped(pair.while_time_passes(pair.both())).await;
                assert!(
                    matches!(romeo, Err(Error::ConnectionFailed(_))),
                    "{romeo:?}"
                );
                assert!(juliet.is_err());
            }
            assert_eq!(opened(&pair), asked);
            pair.all_over().await;
        });
    }
}

#[test]
fn an_end_without_close_is_no_end_of_file_and_a_reset_is_a_reset() {
    for (reset, kind) in [
        (false, ErrorKind::UnexpectedEof),
        (true, ErrorKind::ConnectionReset),
    ] {
        for leaver in 0..2 {
            run(async {
                let pair = in_band(Limits::default());
                pair.pumped(async {
                    let (romeo, juliet) = pair.connected().await;
                    let mut ends = [romeo, juliet];
                    ends.swap(0, leaver);
                    let [mut leaver, mut stayer] = ends;
                    assert_same_bytes(&mut leaver, &mut stayer, 10).await;
                    if reset {
                        leaver.reset();
                    }
                    drop(leaver);
                    for _ in 0..2 {
                        let error = stayer.read(&mut [0; 10]).await.unwrap_err();
                        assert_eq!(error.kind(), kind);
                    }
                    assert!(stayer.write_all(b"x").await.is_err() || stayer.flush().await.is_err());
                })
                .await;
                pair.all_over().await;
            });
        }
    }
}

#[test]
fn both_sides_may_close_at_once() {
    for secured in [true, false] {
        run(async {
            let pair = if secured {
                in_band(Limits::default())
            } else {
                plain()
            };
            pair.pumped(async {
                let (mut romeo, mut juliet) = pair.connected().await;
                assert_same_bytes(&mut romeo, &mut juliet, 100_000).await;
                let (one, two) = zip(romeo.close(), juliet.close()).await;
                one.unwrap();
                two.unwrap();
                assert_eq!(romeo.read(&mut [0; 1]).await.unwrap(), 0);
                assert_eq!(juliet.read(&mut [0; 1]).await.unwrap(), 0);
            })
            .await;
            pair.all_over().await;
        });
    }
}

#[test]
fn in_plaintext_the_first_end_is_the_end() {
    run(async {
        let pair = plain();
        pair.pumped(async {
            let (mut romeo, mut juliet) = pair.connected().await;
            assert_eq!(opened(&pair), [4096]);
            assert_same_bytes(&mut romeo, &mut juliet, 100_000).await;
            juliet.write_all(b"late").await.unwrap();
            romeo.close().await.unwrap();
            let mut came = Vec::new();
            romeo.read_to_end(&mut came).await.unwrap();
            assert_eq!(came, b"late");
            assert_eq!(juliet.read(&mut [0; 10]).await.unwrap(), 0);
            let error = juliet.write(b"x").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        })
        .await;
        pair.all_over().await;
    });
}

#[test]
fn a_reader_that_stalls_stops_its_own_writer_only() {
    run(async {
        let pair = in_band(Limits::default());
        pair.pumped(async {
            let (mut romeo, mut stalled) = pair.connected().await;
            let (mut other, mut lively) = pair.connected().await;
            let block = vec![3; 64 * 1024];
            let mut written = 0;
            let mut idle = 0;
            while idle < 100 {
                match poll_once(romeo.write(&block)).await {
                    Some(count) => {
                        written += count.unwrap();
                        idle = 0;
                    }
                    None => idle += 1,
                }
                yield_now().await;
                assert!(
                    written <= ROOM + WINDOW_BYTES + OUT + 64 * 1024,
                    "{written}"
                );
            }
            assert!(
                written > WINDOW_BYTES && written < MOST + 2 * OUT,
                "{written}"
            );
            assert_same_bytes(&mut other, &mut lively, 1_000_000).await;
            assert_same_bytes(&mut lively, &mut other, 1_000_000).await;
            let finish = async {
                romeo.close().await.unwrap();
            };
            let drain = async {
                let mut came = Vec::new();
                stalled.read_to_end(&mut came).await.unwrap();
                came.len()
            };
            assert_eq!(zip(finish, drain).await.1, written);
        })
        .await;
        pair.all_over().await;
    });
}

#[test]
fn the_end_of_the_xml_stream_is_the_end_of_what_it_carries() {
    run(async {
        let pair = in_band(Limits::default());
        let (mut romeo, mut juliet) = pair.pumped(pair.connected()).await;
        pair.pumped(assert_same_bytes(&mut romeo, &mut juliet, 10))
            .await;
        pair.juliet.streams.link_ended(&*pair.romeo.link());
        assert_eq!(pair.juliet.streams.in_band_open(), 1);
        for (side, end) in [(&pair.romeo, &mut romeo), (&pair.juliet, &mut juliet)] {
            side.streams.link_ended(&*side.link());
            let error = end.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            assert_eq!(side.streams.in_band_open(), 0);
            assert_eq!(side.lane.users(), 0);
        }
    });
}

#[test]
fn giving_up_at_any_moment_leaves_nothing_behind() {
    run(async {
        let mut most = 0;
        for methods in [IN_BAND, Methods::ALL] {
            for polls in 0..80 {
                let pair = pair_with(Config {
                    methods,
                    ..Config::default()
                });
                nowhere(&pair, 1);
                {
                    let mut both = pin!(pair.pumped(pair.both()));
                    for _ in 0..polls {
                        if poll_once(&mut both).await.is_some() {
                            break;
                        }
                        yield_now().await;
                    }
                    most = most.max(pair.juliet.streams.in_band_open());
                }
                drop(pair.juliet.offers.try_recv());
                pair.all_over().await;
            }
        }
        assert!(most > 0, "nothing was ever opened");
    });
}

#[test]
fn one_peer_has_so_many_in_band_and_gives_them_back() {
    run(async {
        let pair = pair_with(Config {
            methods: IN_BAND,
            max_in_band_each: 2,
            ..Config::default()
        });
        pair.pumped(async {
            let first = pair.connected().await;
            let second = pair.connected().await;
            let (romeo, juliet) = zip(pair.romeo.open(), async {
                let accepting = pair.juliet.offer().await.incoming.accept();
                pair.while_time_passes(accepting).await
            })
            .await;
            assert!(
                matches!(romeo, Err(Error::ResourceUnavailable(_))),
                "{romeo:?}"
            );
            assert!(
                matches!(juliet, Err(Error::ConnectionFailed(_))),
                "{juliet:?}"
            );
            drop(first);
            while pair.romeo.streams.in_band_open() + pair.juliet.streams.in_band_open() > 2 {
                yield_now().await;
            }
            let mut third = pair.connected().await;
            assert_same_bytes(&mut third.0, &mut third.1, 10).await;
            drop((second, third));
        })
        .await;
        pair.all_over().await;
    });
}
