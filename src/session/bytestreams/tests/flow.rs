//! What works: bytes, ends, refusals, giving up half way.

use std::{io::ErrorKind, net::Ipv6Addr};

use super::*;

#[test]
fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    run(async {
        let pair = Pair::new();
        let (mut romeo, mut juliet) = pair.connected().await;
        assert_same_bytes(&mut romeo, &mut juliet, 300_000).await;
        assert_same_bytes(&mut juliet, &mut romeo, 1).await;
        romeo.close().await.unwrap();
        assert_eq!(juliet.read(&mut [0; 10]).await.unwrap(), 0);
        assert_same_bytes(&mut juliet, &mut romeo, 100_000).await;
        juliet.close().await.unwrap();
        assert_eq!(romeo.read(&mut [0; 10]).await.unwrap(), 0);
        pair.assert_idle();
    });
}

#[test]
fn it_is_secured_between_pneumas() {
    run(async {
        let (romeo, juliet) = Pair::new().both().await;
        assert!(romeo.unwrap().encrypted && juliet.unwrap().encrypted);
    });
}

#[test]
fn ipv6_carries_it_too() {
    run(async {
        let pair = Pair::with(Setup {
            ip: Ipv6Addr::LOCALHOST.into(),
            ..Setup::default()
        });
        let (mut romeo, mut juliet) = pair.connected().await;
        assert_same_bytes(&mut romeo, &mut juliet, 10).await;
    });
}

#[test]
fn the_offer_says_what_it_is_for_and_by_which_id() {
    run(async {
        let pair = Pair::new();
        let opening = pair.romeo.open();
        let check = async {
            let offer = pair.juliet.offer().await;
            assert_eq!(offer.profile, ns::TUBES);
            assert_eq!(offer.elements, [tube::stream(49)]);
            assert_eq!(offer.incoming.id(), ID);
        };
        let (opened, ()) = futures_lite::future::zip(opening, check).await;
        assert!(matches!(opened, Err(Error::ConnectionRefused(_))));
    });
}

#[test]
fn a_refusal_is_a_refusal_for_whoever_opens() {
    for why in [
        None,
        Some(Error::ConnectionRefused("nobody there".into())),
        Some(Error::ResourceUnavailable("too many".into())),
    ] {
        run(async {
            let pair = Pair::new();
            let (opened, ()) = futures_lite::future::zip(pair.romeo.open(), async {
                let incoming = pair.juliet.offer().await.incoming;
                match why.clone() {
                    Some(why) => incoming.refuse(why),
                    None => drop(incoming),
                }
            })
            .await;
            let Err(Error::ConnectionRefused(text)) = opened else {
                panic!("{opened:?}");
            };
            assert!(!text.contains("nobody there"), "{text}");
            let expected = match why {
                Some(Error::ResourceUnavailable(_)) => "resource-constraint",
                _ => "forbidden",
            };
            assert!(text.contains(expected), "{text}");
            pair.assert_idle();
        });
    }
}

#[test]
fn what_the_peer_does_not_know_is_told_from_a_refusal() {
    run(async {
        let pair = Pair::new();
        let (opened, ()) = futures_lite::future::zip(pair.romeo.open(), async {
            let incoming = pair.juliet.offer().await.incoming;
            incoming.refuse(Error::NotAvailable("there is no such tube".into()));
        })
        .await;
        assert!(matches!(opened, Err(Error::NotAvailable(_))), "{opened:?}");
        pair.assert_idle();
    });
}

#[test]
fn an_end_without_close_is_no_end_of_file() {
    run(async {
        let (romeo, mut juliet) = Pair::new().connected().await;
        drop(romeo);
        for _ in 0..2 {
            let error = juliet.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
        // The other role as well.
        let (mut romeo, juliet) = Pair::new().connected().await;
        drop(juliet);
        for _ in 0..2 {
            let error = romeo.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
    });
}

#[test]
fn a_reset_reads_as_a_reset() {
    run(async {
        let (mut romeo, mut juliet) = Pair::new().connected().await;
        assert_same_bytes(&mut romeo, &mut juliet, 10).await;
        romeo.reset();
        drop(romeo);
        let error = juliet.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn both_sides_may_close_at_once() {
    run(async {
        let (mut romeo, mut juliet) = Pair::new().connected().await;
        let (one, two) = futures_lite::future::zip(romeo.close(), juliet.close()).await;
        one.unwrap();
        two.unwrap();
        assert_eq!(romeo.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(juliet.read(&mut [0; 1]).await.unwrap(), 0);
    });
}

#[test]
fn giving_up_at_any_moment_leaves_nothing_behind() {
    run(async {
        // Polls both ends a growing number of times, then drops them.
        let mut seen = 0;
        for polls in 0..60 {
            let pair = Pair::new();
            let port = {
                let mut both = pin!(pair.both());
                for _ in 0..polls {
                    if futures_lite::future::poll_once(&mut both).await.is_some() {
                        break;
                    }
                    futures_lite::future::yield_now().await;
                }
                let sent = pair.romeo.sent.lock().unwrap();
                let port = sent
                    .last()
                    .and_then(|payload| Streamhosts::parse(payload).ok())
                    .and_then(|hosts| hosts.hosts.first().map(|host| host.port));
                seen += port.map_or(0, sockets_at);
                port
            };
            drop(pair.juliet.offers.try_recv());
            pair.assert_idle();
            if let Some(port) = port {
                assert_eq!(sockets_at(port), 0, "after {polls} polls");
            }
        }
        assert!(seen > 0, "the sockets cannot be seen");
    });
}

#[test]
fn either_end_learns_that_the_other_gave_up() {
    run(async {
        // Juliet accepts and then gives up while Romeo listens.
        let pair = Pair::new();
        let (opened, ()) = futures_lite::future::zip(pair.romeo.open(), async {
            let mut accepting = pair.juliet.offer().await.incoming.accept();
            assert!(
                futures_lite::future::poll_once(&mut accepting)
                    .await
                    .is_none()
            );
            drop(accepting);
        })
        .await;
        assert!(
            matches!(opened, Err(Error::ConnectionFailed(_))),
            "{opened:?}"
        );
        pair.assert_idle();

        // Romeo gives up while Juliet dials: there is nobody at his address.
        let pair = Pair::new();
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
        futures_lite::future::or(
            async {
                let _ended = (&mut opening).await;
            },
            async {
                pair.romeo.streamhosts().await;
            },
        )
        .await;
        drop(opening);
        assert!(matches!(accepting.await, Err(Error::ConnectionFailed(_))));
        pair.assert_idle();
    });
}

#[test]
fn the_xml_stream_may_end_before_the_answer() {
    run(async {
        let pair = Pair::new();
        let romeo = pair.romeo.clone();
        drop(pair);
        assert!(matches!(romeo.open().await, Err(Error::Offline(_))));
    });
}

#[test]
fn many_at_once_do_not_meet_each_other() {
    run(async {
        let pair = Pair::new();
        let mut group = Group::new();
        for _ in 0..20 {
            let romeo = pair.romeo.clone();
            group.push(
                (),
                Box::pin(async move { romeo.open().await.map(|s| (0, s)) }) as BoxFuture<'_, _>,
            );
        }
        for _ in 0..20 {
            let juliet = pair.juliet.clone();
            group.push(
                (),
                Box::pin(async move {
                    let incoming = juliet.offer().await.incoming;
                    incoming.accept().await.map(|s| (1, s))
                }),
            );
        }
        let mut open = Vec::new();
        for _ in 0..40 {
            open.push(group.next().await.unwrap());
        }
        assert_eq!(open.iter().filter(|(side, _)| *side == 0).count(), 20);
        pair.assert_idle();
    });
}

#[test]
fn who_cannot_listen_asks_nobody() {
    run(async {
        // Not an address of this machine.
        let pair = Pair::with(Setup {
            ip: std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
            ..Setup::default()
        });
        let asked = async {
            pair.juliet.offer().await;
            panic!("the peer was asked");
        };
        let opened = futures_lite::future::or(pair.romeo.open(), asked).await;
        assert!(matches!(opened, Err(Error::Offline(_))), "{opened:?}");
        pair.assert_idle();
    });
}
