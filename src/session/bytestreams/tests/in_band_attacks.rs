//! People who can change what goes through the XML stream, and peers that break the rules of in-band
//! bytestreams.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_lite::future::{poll_once, yield_now, zip};

use super::{in_band::pair_with, *};
use crate::xmpp::payload::{
    builder,
    ibb::{self, Open},
    pneuma, si,
};

fn pair() -> Pair {
    pair_with(Config {
        methods: IN_BAND,
        ..Config::default()
    })
}

/// The names of the bytestreams that Romeo has opened so far.
fn sids(pair: &Pair) -> Vec<String> {
    let sent = pair.romeo.sent.lock().unwrap();
    sent.iter()
        .filter_map(|payload| Open::parse(payload).ok())
        .map(|open| open.sid)
        .collect()
}

async fn condition(side: &Side, payload: Element) -> String {
    match side.say(payload).await {
        Err(RequestError::Refused { condition, .. }) => condition,
        Ok(_) => "none".into(),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_key_is_refused_by_every_way() {
    for methods in [IN_BAND, Methods::ALL] {
        run(async {
            let pair = Pair::with(Setup {
                impostor: true,
                config: Config {
                    methods,
                    ..Config::default()
                },
                ..Setup::default()
            });
            let (romeo, juliet) = pair.pumped(pair.both()).await;
            assert_eq!(sids(&pair).len(), 1);
            for result in [romeo, juliet] {
                assert!(
                    matches!(result, Err(Error::ConnectionFailed(_))),
                    "{result:?}"
                );
            }
            pair.all_over().await;
        });
    }
}

/// Two bytestreams of one pair, and somebody who gives what belongs to each to the other.
#[test]
fn swapped_carriers_are_noticed() {
    run(async {
        let pair = pair();
        let names = Arc::new(Mutex::new(Vec::<String>::new()));
        let swapped = Arc::new(AtomicUsize::new(0));
        for side in [&pair.romeo, &pair.juliet] {
            let (names, swapped) = (names.clone(), swapped.clone());
            *side.tamper.lock().unwrap() = Some(Box::new(move |payload| {
                let mut names = names.lock().unwrap();
                let Ok(sid) = ibb::sid(payload).map(str::to_owned) else {
                    return;
                };
                if payload.is("open", ns::IBB) {
                    names.push(sid);
                } else if let [one, two] = &names[..] {
                    let other = if sid == *one { two } else { one };
                    *payload = match ibb::Data::parse(payload) {
                        Ok(data) => ibb::data(other, data.seq, &data.bytes),
                        Err(_) => ibb::close(other, ibb::is_reset(payload)),
                    };
                    swapped.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        // She agrees to both at once, so that both are open before the first block.
        let juliets = async {
            let (one, two) = (pair.juliet.offer().await, pair.juliet.offer().await);
            zip(one.incoming.accept(), two.incoming.accept()).await
        };
        let victims = zip(zip(pair.romeo.open(), pair.romeo.open()), juliets);
        let ((one, two), (three, four)) = pair.pumped(victims).await;
        // Both handshakes were whole: only the binding tells them apart.
        assert!(swapped.load(Ordering::Relaxed) >= 6);
        for result in [one, two, three, four] {
            assert!(
                matches!(result, Err(Error::ConnectionFailed(_))),
                "{result:?}"
            );
        }
        pair.all_over().await;
    });
}

#[test]
fn what_is_changed_or_cut_on_the_way_is_never_an_end_of_file() {
    for cut in [true, false] {
        run(async {
            let pair = pair();
            pair.pumped(async {
                let (mut romeo, mut juliet) = pair.connected().await;
                assert_same_bytes(&mut romeo, &mut juliet, 100).await;
                *pair.romeo.tamper.lock().unwrap() = Some(Box::new(move |payload| {
                    if let Ok(mut data) = ibb::Data::parse(payload) {
                        let sid = ibb::sid(payload).unwrap().to_owned();
                        *payload = if cut {
                            ibb::close(&sid, false)
                        } else {
                            *data.bytes.last_mut().unwrap() ^= 1;
                            ibb::data(&sid, data.seq, &data.bytes)
                        };
                    }
                }));
                romeo.write_all(b"hello").await.unwrap();
                // It may learn of it before it has closed.
                romeo.close().await.ok();
                for _ in 0..2 {
                    assert!(juliet.read(&mut [0; 5]).await.is_err());
                }
            })
            .await;
        });
    }
}

#[test]
fn what_breaks_a_rule_is_answered_and_ends_that_bytestream_only() {
    type Block = fn(&str) -> Element;
    let number: Block = |sid: &str| ibb::data(sid, 7, b"x");
    let base64: Block = |sid: &str| {
        builder("data", ns::IBB)
            .attr("sid", sid)
            .attr("seq", "3")
            .text("=x=")
            .build()
    };
    let sequence: Block = |sid: &str| {
        builder("data", ns::IBB)
            .attr("sid", sid)
            .attr("seq", "65536")
            .text("eA==")
            .build()
    };
    // The number is right, for it is asked for below.
    let large: Block = |sid: &str| ibb::data(sid, 0, &vec![0; 16 * 1024 + 1]);
    let cases: [(Block, &str); 4] = [
        (number, "unexpected-request"),
        (base64, "bad-request"),
        (sequence, "bad-request"),
        (large, "bad-request"),
    ];
    for (payload, expected) in cases {
        run(async {
            let pair = pair();
            pair.pumped(async {
                let (mut other, mut others) = pair.connected().await;
                let (mut romeo, mut juliet) = pair.connected().await;
                let sid = sids(&pair)[1].clone();
                let mut payload = payload(&sid);
                if payload.text().len() > 100 {
                    // The next number, whatever the handshake needed.
                    let next = next_number(&pair, &sid, &mut romeo, &mut juliet).await;
                    payload = ibb::data(&sid, next, &vec![0; 16 * 1024 + 1]);
                }
                assert_eq!(condition(&pair.romeo, payload).await, expected);
                assert!(juliet.read(&mut [0; 1]).await.is_err());
                assert!(romeo.read(&mut [0; 1]).await.is_err());
                assert_same_bytes(&mut other, &mut others, 100_000).await;
                assert_same_bytes(&mut others, &mut other, 100_000).await;
                drop((romeo, juliet, other, others));
            })
            .await;
            pair.all_over().await;
        });
    }
}

/// The number of the next block from Romeo.
async fn next_number(
    pair: &Pair,
    sid: &str,
    romeo: &mut Box<dyn Duplex>,
    juliet: &mut Box<dyn Duplex>,
) -> u16 {
    let seen = Arc::new(Mutex::new(None));
    let (here, name) = (seen.clone(), sid.to_owned());
    *pair.romeo.tamper.lock().unwrap() = Some(Box::new(move |payload| {
        if ibb::sid(payload) == Ok(&name)
            && let Ok(data) = ibb::Data::parse(payload)
        {
            *here.lock().unwrap() = Some(data.seq);
        }
    }));
    assert_same_bytes(romeo, juliet, 1).await;
    *pair.romeo.tamper.lock().unwrap() = None;
    let last = seen.lock().unwrap().unwrap();
    last + 1
}

#[test]
fn who_does_not_wait_for_results_loses_that_bytestream_only() {
    run(async {
        let pair = pair();
        pair.pumped(async {
            let (mut other, mut others) = pair.connected().await;
            let (mut romeo, mut juliet) = pair.connected().await;
            let sid = sids(&pair)[1].clone();
            let next = next_number(&pair, &sid, &mut romeo, &mut juliet).await;
            let mut said = Vec::new();
            let mut refused = None;
            for number in 0..200 {
                let mut one = pair.romeo.say(ibb::data(&sid, next + number, &[0; 8192]));
                match poll_once(&mut one).await {
                    None => said.push(one),
                    Some(Ok(_)) => assert!(said.is_empty()),
                    Some(Err(RequestError::Refused { condition, .. })) => {
                        refused = Some((number, condition));
                        break;
                    }
                    Some(Err(other)) => panic!("{other:?}"),
                }
            }
            let (number, condition) = refused.unwrap();
            assert_eq!(condition, "resource-constraint");
            assert!((20..=33).contains(&number), "{number}");
            // Those that waited are answered, for nobody waits any more.
            for one in said {
                one.await.unwrap();
            }
            assert!(juliet.read(&mut [0; 1]).await.is_err());
            assert_same_bytes(&mut other, &mut others, 100_000).await;
            drop((romeo, juliet, other, others));
        })
        .await;
        pair.all_over().await;
    });
}

#[test]
fn what_is_about_no_bytestream_is_answered() {
    run(async {
        let pair = pair();
        let open = |sid: &str, answered| Open {
            sid: sid.into(),
            block_size: 4096,
            answered,
        };
        let romeo = &*pair.romeo;
        assert_eq!(
            condition(romeo, ibb::data("1", 0, b"x")).await,
            "item-not-found"
        );
        assert_eq!(
            condition(romeo, ibb::close("1", false)).await,
            "item-not-found"
        );
        let unasked = open("1", true).to_element();
        assert_eq!(condition(romeo, unasked).await, "not-acceptable");
        for name in ["open", "data", "close", "other"] {
            let nameless = builder(name, ns::IBB).build();
            assert_eq!(condition(romeo, nameless).await, "bad-request");
        }
        let other = builder("other", ns::IBB).attr("sid", "1").build();
        assert_eq!(condition(romeo, other).await, "bad-request");

        // An offer that was accepted waits for a good opening.
        let offer = si::Offer {
            id: "1".into(),
            profile: ns::TUBES.into(),
            mime_type: None,
            methods: vec![ns::IBB.into()],
            multiple: false,
            extra: vec![pneuma::secured(ID), tube::stream(1)],
        };
        let said = romeo.say(offer.to_element());
        let mut accepting = pair.juliet.offer().await.incoming.accept();
        assert!(poll_once(&mut accepting).await.is_none());
        said.await.unwrap();
        let bad = builder("open", ns::IBB).attr("sid", "1").build();
        assert_eq!(condition(romeo, bad).await, "bad-request");
        let messages = open("1", false).to_element();
        assert_eq!(condition(romeo, messages).await, "feature-not-implemented");
        let mut large = open("1", true);
        large.block_size = 65535;
        assert_eq!(
            condition(romeo, large.to_element()).await,
            "resource-constraint"
        );
        // Streamhosts were not agreed on.
        let hosts = Streamhosts {
            sid: "1".into(),
            hosts: vec![],
        };
        assert_eq!(condition(romeo, hosts.to_element()).await, "not-acceptable");
        assert_eq!(condition(romeo, open("1", true).to_element()).await, "none");
        assert_eq!(
            condition(romeo, open("1", true).to_element()).await,
            "not-acceptable"
        );
        // Nothing comes of it without TLS: no byte is taken for the application's.
        assert_eq!(
            condition(romeo, ibb::data("1", 0, b"GET / HTTP/1.0\r\n\r\n")).await,
            "none"
        );
        assert!(matches!(
            pair.pumped(accepting).await,
            Err(Error::ConnectionFailed(_))
        ));
        pair.all_over().await;
    });
}

#[test]
fn another_xml_streams_blocks_are_not_this_ones() {
    run(async {
        let pair = pair();
        pair.pumped(async {
            let (mut romeo, mut juliet) = pair.connected().await;
            let sid = sids(&pair)[0].clone();
            let next = next_number(&pair, &sid, &mut romeo, &mut juliet).await;
            let (answer, pending) = Reply::new();
            let stranger = pair.juliet.another_stream().link();
            let payload = ibb::data(&sid, next, b"x");
            let request = IncomingRequest { payload, answer };
            pair.juliet.streams.on_request(&stranger, request);
            let refused = pending.wait().await.unwrap().unwrap_err();
            assert_eq!(refused.condition.as_str(), "item-not-found");
            assert_same_bytes(&mut romeo, &mut juliet, 1000).await;
        })
        .await;
    });
}

#[test]
fn a_peer_that_agrees_and_never_opens_or_never_goes_on_is_given_up() {
    run(async {
        for opens in [false, true] {
            let pair = pair();
            let offer = si::Offer {
                id: "1".into(),
                profile: ns::TUBES.into(),
                mime_type: None,
                methods: vec![ns::IBB.into()],
                multiple: false,
                extra: vec![pneuma::secured(ID), tube::stream(1)],
            };
            let said = pair.romeo.say(offer.to_element());
            let mut accepting = pair.juliet.offer().await.incoming.accept();
            assert!(poll_once(&mut accepting).await.is_none());
            said.await.unwrap();
            if opens {
                let open = Open {
                    sid: "1".into(),
                    block_size: 4096,
                    answered: true,
                };
                pair.romeo.say(open.to_element()).await.unwrap();
                yield_now().await;
            }
            let accepted = pair.pumped(pair.while_time_passes(accepting)).await;
            assert!(
                matches!(accepted, Err(Error::ConnectionFailed(_))),
                "{accepted:?}"
            );
            let most = if opens {
                Config::default().handshake
            } else {
                Config::default().negotiation
            };
            assert!(pair.clock.now() <= most + Duration::from_secs(1));
            pair.all_over().await;
        }
    });
}
