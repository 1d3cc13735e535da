//! Numbers and times.

use async_net::TcpListener;
use futures_lite::future::poll_once;

use super::*;
use crate::xmpp::payload::{bytestreams::Streamhost, pneuma, si};

#[test]
fn a_peer_that_never_dials_is_given_up() {
    run(async {
        let pair = Pair::new();
        let mut opening = pair.romeo.open();
        let hosts = async {
            assert!(poll_once(&mut opening).await.is_none());
            // She agrees and then nothing.
            let mut accepting = pair.juliet.offer().await.incoming.accept();
            assert!(poll_once(&mut accepting).await.is_none());
            let held = Arc::new(Mutex::new(None));
            let keep = held.clone();
            // Her answer to the streamhosts is held back for ever.
            pair.juliet
                .streams
                .waiting()
                .values_mut()
                .for_each(|waiting| {
                    let (stolen, pending) = Reply::new();
                    waiting.reply = stolen;
                    *keep.lock().unwrap() = Some(pending);
                });
            (held, accepting)
        }
        .await;
        let opened = pair.while_time_passes(opening).await;
        assert!(
            matches!(opened, Err(Error::ConnectionFailed(_))),
            "{opened:?}"
        );
        drop(hosts);
        pair.assert_idle();
    });
}

#[test]
fn a_peer_that_never_answers_or_never_goes_on_is_given_up() {
    run(async {
        let pair = Pair::new();
        let opened = pair.while_time_passes(pair.romeo.open()).await;
        assert!(matches!(opened, Err(Error::ConnectionFailed(_))));
        let accepted = pair
            .while_time_passes(pair.juliet.offer().await.incoming.accept())
            .await;
        assert!(accepted.is_err());

        let pair = Pair::new();
        let offer = si::Offer {
            id: "1".into(),
            profile: ns::TUBES.into(),
            mime_type: None,
            methods: vec![ns::BYTESTREAMS.into()],
            multiple: false,
            extra: vec![pneuma::secured(ID), tube::stream(1)],
        };
        let said = pair.romeo.say(offer.to_element());
        let accepted = pair
            .while_time_passes(pair.juliet.offer().await.incoming.accept())
            .await;
        assert!(matches!(accepted, Err(Error::ConnectionFailed(_))));
        assert!(said.await.is_ok());
        pair.assert_idle();
    });
}

#[test]
fn a_streamhost_that_says_nothing_is_given_up_for_the_next() {
    run(async {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let pair = Pair::new();
        *pair.romeo.tamper.lock().unwrap() = Some(Box::new(move |payload| {
            if let Ok(mut hosts) = Streamhosts::parse(payload) {
                let silent = Streamhost {
                    jid: "x".into(),
                    host: "127.0.0.1".into(),
                    port,
                };
                hosts.hosts.insert(0, silent);
                *payload = hosts.to_element();
            }
        }));
        let (romeo, juliet) = pair.while_time_passes(pair.both()).await;
        assert!(romeo.is_ok() && juliet.is_ok());
        pair.assert_idle();
    });
}

#[test]
fn bytestreams_that_are_being_opened_are_counted() {
    run(async {
        let pair = Pair::with(Setup {
            config: Config {
                max_pending_each: 2,
                methods: SOCKS5,
                ..Config::default()
            },
            ..Setup::default()
        });
        let mut opening = [pair.romeo.open(), pair.romeo.open(), pair.romeo.open()];
        for one in &mut opening[..2] {
            assert!(poll_once(one).await.is_none());
        }
        let third = poll_once(&mut opening[2]).await;
        assert!(matches!(third, Some(Err(Error::ResourceUnavailable(_)))));
        // Another XML stream to the same peer makes no more room.
        let mut another = pair.romeo.another_stream().open();
        let refused = poll_once(&mut another).await;
        assert!(matches!(refused, Some(Err(Error::ResourceUnavailable(_)))));
        drop(opening);
        assert_eq!(pair.romeo.streams.pending(), 0);

        // Juliet still holds two offers; a third is answered.
        assert_eq!(pair.juliet.streams.pending(), 2);
        let offer = pair.romeo.sent.lock().unwrap()[0].clone();
        let third = pair.romeo.say(offer).await;
        let Err(RequestError::Refused { condition, .. }) = third else {
            panic!("{third:?}");
        };
        assert_eq!(condition, "resource-constraint");
        drop((pair.juliet.offer().await, pair.juliet.offer().await));
        pair.assert_idle();
    });
}

#[test]
fn two_offers_by_one_sid_do_not_mix() {
    run(async {
        let pair = Pair::new();
        let offer = si::Offer {
            id: "1".into(),
            profile: ns::TUBES.into(),
            mime_type: None,
            methods: vec![ns::BYTESTREAMS.into()],
            multiple: false,
            extra: vec![pneuma::secured(ID), tube::stream(1)],
        };
        let (first, second) = (
            pair.romeo.say(offer.to_element()),
            pair.romeo.say(offer.to_element()),
        );
        let mut waiting = pair.juliet.offer().await.incoming.accept();
        assert!(poll_once(&mut waiting).await.is_none());
        assert!(pair.juliet.offer().await.incoming.accept().await.is_err());
        assert!(first.await.is_ok());
        assert!(second.await.is_err());
        assert!(poll_once(&mut waiting).await.is_none());
        drop(waiting);
        pair.assert_idle();
    });
}

#[test]
fn a_reader_that_stalls_stops_the_writer() {
    run(async {
        let (mut romeo, mut juliet) = Pair::new().connected().await;
        let block = vec![3; 64 * 1024];
        let mut written = 0_usize;
        let real = SystemClock::new();
        // Until nothing more goes for a while.
        loop {
            let stalled = async {
                real.sleep(Duration::from_millis(300)).await;
                None
            };
            match async { Some(romeo.write(&block).await) }.or(stalled).await {
                Some(count) => written += count.unwrap(),
                None => break,
            }
            // More than Linux ever gives two sockets' buffers by itself.
            assert!(written < 128 * 1024 * 1024, "nothing stops the writer");
        }
        let mut read = 0;
        let mut buffer = vec![0; 64 * 1024];
        let finish = async {
            romeo.flush().await.unwrap();
            romeo.close().await.unwrap();
        };
        let drain = async {
            loop {
                match juliet.read(&mut buffer).await.unwrap() {
                    0 => break,
                    count => read += count,
                }
            }
        };
        futures_lite::future::zip(finish, drain).await;
        assert_eq!(read, written);
    });
}

#[test]
fn the_end_of_the_xml_stream_ends_what_waits_for_it() {
    run(async {
        let pair = Pair::new();
        let mut opening = pair.romeo.open();
        assert!(poll_once(&mut opening).await.is_none());
        let mut accepting = pair.juliet.offer().await.incoming.accept();
        assert!(poll_once(&mut accepting).await.is_none());
        pair.juliet.streams.link_ended(&*pair.romeo.link());
        assert!(poll_once(&mut accepting).await.is_none());
        pair.juliet.streams.link_ended(&*pair.juliet.link());
        assert!(matches!(accepting.await, Err(Error::Offline(_))));
        drop(opening);
        pair.assert_idle();
    });
}
