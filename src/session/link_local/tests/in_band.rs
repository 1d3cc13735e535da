//! In-band bytestreams through real XML streams, in memory and on virtual time: they share a stream with what
//! else is said, keep it open, and end with it.

use std::{
    io::ErrorKind,
    ops::ControlFlow::{Break, Continue},
    time::Duration,
};

use actors::{
    model::{BytestreamId, Error, ServiceName, TubeParameters},
    ports::{Bytestream, Duplex, IncomingBytestream},
    runtime::Clock as _,
    testing::Fault,
};
use futures_lite::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, future, io::split};
use minidom::Element;

use super::{
    hostile::header,
    lan::{Lan, Person, gone, lan_in_band, two},
    support::peer,
};
use crate::{
    session::{ContactId, SessionEvent, TubeId, link_local::fault::Point},
    xmpp::{
        ns,
        payload::{ibb, si, tube},
    },
};

async fn offered(person: &Person, id: BytestreamId) -> Box<dyn IncomingBytestream> {
    person
        .side
        .find(|event| match event {
            SessionEvent::StreamOffered { stream, .. } if stream.id() == id => Break(stream),
            other => Continue(other),
        })
        .await
}

async fn both(
    from: &Person,
    to: &Person,
    tube: u32,
) -> (Result<Bytestream, Error>, Result<Bytestream, Error>) {
    let ports = from.side.session.tube(&peer(&to.id), TubeId(tube));
    let id = BytestreamId([u8::try_from(tube).unwrap(); 16]);
    future::zip(ports.connector.connect(id), async {
        offered(to, id).await.accept().await
    })
    .await
}

fn connected(lan: &Lan, from: &Person, to: &Person, tube: u32) -> [Box<dyn Duplex>; 2] {
    let (one, two) = lan.sim.run(both(from, to, tube));
    [one.unwrap().io, two.unwrap().io]
}

/// Writes until nothing more goes for a minute of virtual time; how much went.
fn fill(lan: &Lan, from: &mut Box<dyn Duplex>) -> usize {
    let block = vec![1; 16 * 1024];
    let mut written = 0;
    loop {
        let wrote = lan.sim.run(async {
            let mut count = None;
            for _ in 0..2000 {
                count = future::poll_once(from.write(&block)).await;
                if count.is_some() {
                    break;
                }
                future::yield_now().await;
            }
            count
        });
        match wrote {
            Some(count) => written += count.unwrap(),
            None => return written,
        }
    }
}

pub(super) async fn carry(from: &mut Box<dyn Duplex>, to: &mut Box<dyn Duplex>, count: usize) {
    let sent: Vec<u8> = (0..count).map(|n| (n % 251) as u8).collect();
    let mut came = vec![0; count];
    let write = async {
        from.write_all(&sent).await?;
        from.flush().await
    };
    let (wrote, read) = future::zip(write, to.read_exact(&mut came)).await;
    wrote.unwrap();
    read.unwrap();
    assert!(sent == came);
}

#[test]
fn it_keeps_its_stream_open_and_lets_it_go() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let [mut one, mut two] = connected(&lan, &romeo, &juliet, 1);
    // Nothing is said for an hour.
    lan.advance(3600);
    lan.sim.run(carry(&mut one, &mut two, 100_000));
    lan.sim.run(carry(&mut two, &mut one, 100_000));
    assert!(lan.open.open() > 0);
    lan.sim.run(async {
        one.close().await.unwrap();
        assert_eq!(two.read(&mut [0; 1]).await.unwrap(), 0);
        two.close().await.unwrap();
        assert_eq!(one.read(&mut [0; 1]).await.unwrap(), 0);
    });
    drop((one, two));
    lan.advance(240);
    assert_eq!(lan.open.open(), 0, "a stream that nobody uses stays");
    gone(&lan, [romeo, juliet]);
}

#[test]
fn readers_that_stall_for_an_hour_keep_nobody_waiting() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let mut stalled = Vec::new();
    for tube in 1..=10 {
        let [mut one, two] = connected(&lan, &romeo, &juliet, tube);
        let written = fill(&lan, &mut one);
        assert!((128 * 1024..400 * 1024).contains(&written), "{written}");
        stalled.push((one, two, written));
    }
    lan.advance(3600);
    // Another one, and a tube is offered.
    let [mut one, mut two] = connected(&lan, &romeo, &juliet, 11);
    lan.sim.run(carry(&mut one, &mut two, 1_000_000));
    lan.sim.run(carry(&mut two, &mut one, 1_000_000));
    let ports = romeo.side.session.tube(&peer(&juliet.id), TubeId(12));
    let service = ServiceName::new("rfb").unwrap();
    let offer = ports.signalling.offer(&service, &TubeParameters::default());
    lan.sim.run(offer).unwrap();
    // They go on where they were.
    for (mut one, mut two, written) in stalled {
        let came = lan.sim.run(async {
            let mut came = vec![0; written];
            let close = async { one.close().await };
            let (closed, read) = future::zip(close, two.read_exact(&mut came)).await;
            closed.unwrap();
            read.unwrap();
            assert_eq!(two.read(&mut [0; 1]).await.unwrap(), 0);
            came
        });
        assert!(came.iter().all(|byte| *byte == 1));
    }
    drop((one, two));
    gone(&lan, [romeo, juliet]);
}

#[test]
fn what_else_is_said_does_not_wait_for_bulk() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let mut pairs: Vec<_> = (1..=8)
        .map(|tube| connected(&lan, &romeo, &juliet, tube))
        .collect();
    let service = ServiceName::new("rfb").unwrap();
    let ports = romeo.side.session.tube(&peer(&juliet.id), TubeId(99));
    let mut counts = vec![0_usize; pairs.len()];
    lan.sim.run(async {
        // All of them have always something to send and somebody who reads.
        let mut flows: Vec<_> = pairs
            .iter_mut()
            .zip(&mut counts)
            .map(|([one, two], count)| {
                Box::pin(async move {
                    let block = vec![0; 16 * 1024];
                    let write = async {
                        loop {
                            one.write_all(&block).await.unwrap();
                        }
                    };
                    let read = async {
                        let mut came = vec![0; 16 * 1024];
                        loop {
                            *count += two.read(&mut came).await.unwrap();
                        }
                    };
                    future::zip(write, read).await;
                })
            })
            .collect();
        let all = future::poll_fn(|context| {
            for flow in &mut flows {
                assert!(flow.as_mut().poll(context).is_pending());
            }
            std::task::Poll::<()>::Pending
        });
        let offers = async {
            for _ in 0..20 {
                let offer = ports.signalling.offer(&service, &TubeParameters::default());
                offer.await.unwrap();
            }
        };
        future::or(offers, all).await;
    });
    // Twenty offers took no longer than a few blocks of each.
    let most = counts.iter().max().unwrap();
    let least = counts.iter().min().unwrap();
    assert!(*most < 20 * 8 * 16 * 1024, "{counts:?}");
    assert!(*most - *least <= 256 * 1024, "{counts:?}");
    drop(pairs);
    gone(&lan, [romeo, juliet]);
}

#[test]
fn the_loss_of_the_stream_is_the_loss_of_the_connection() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let [mut one, mut two] = connected(&lan, &romeo, &juliet, 1);
    lan.sim.run(carry(&mut one, &mut two, 1000));
    lan.break_all();
    for end in [&mut one, &mut two] {
        let error = lan.sim.run(end.read(&mut [0; 1])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
    // The next one has another stream.
    let [mut three, mut four] = connected(&lan, &romeo, &juliet, 2);
    lan.sim.run(carry(&mut three, &mut four, 1000));
    drop((one, two, three, four));
    gone(&lan, [romeo, juliet]);
}

#[test]
fn a_peer_that_is_gone_without_a_word_is_noticed_though_nothing_is_said() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let [mut one, _two] = connected(&lan, &romeo, &juliet, 1);
    lan.silence_all();
    let mut read = Box::pin(async move { one.read(&mut [0; 1]).await });
    lan.advance(50);
    assert!(lan.sim.run(future::poll_once(&mut read)).is_none());
    lan.advance(30);
    let error = lan
        .sim
        .run(future::poll_once(&mut read))
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

async fn ask(writer: &mut (impl AsyncWrite + Unpin), id: &str, payload: &Element) {
    let iq = format!("<iq type='set' id='{id}'>{}</iq>", String::from(payload));
    writer.write_all(iq.as_bytes()).await.unwrap();
}

/// Opens one to a person, who agrees.
async fn intruding(
    writer: &mut (impl AsyncWrite + Unpin),
    to: &Person,
    sid: &str,
) -> Box<dyn Duplex> {
    let offer = si::Offer {
        id: sid.into(),
        profile: ns::TUBES.into(),
        mime_type: None,
        methods: vec![ns::IBB.into()],
        multiple: false,
        extra: vec![tube::stream(1)],
    };
    ask(writer, "offer", &offer.to_element()).await;
    let incoming = to.side.find(|event| match event {
        SessionEvent::StreamOffered { stream, .. } => Break(stream),
        other => Continue(other),
    });
    let mut accepting = incoming.await.accept();
    assert!(future::poll_once(&mut accepting).await.is_none());
    let open = ibb::Open {
        sid: sid.into(),
        block_size: 4096,
        answered: true,
    };
    ask(writer, "open", &open.to_element()).await;
    accepting.await.unwrap().io
}

#[test]
fn blocks_that_are_never_answered_are_forgotten_with_their_bytestream() {
    let lan = lan_in_band();
    let romeo = lan.person_with("romeo", false);
    let host = lan.host();
    host.announce("mallory@x", None);
    romeo.sees(&lan, &ContactId("mallory@x".into()), |_| true);
    let (mut reader, mut writer) = split(host.connect(&romeo).unwrap());
    // Takes everything and answers nothing.
    let listening = lan.sim.spawner.spawn("mallory listens", async move {
        let (mut end, mut bytes) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = reader.read(&mut bytes).await {
            end.extend(&bytes[..count]);
            end.drain(..end.len().saturating_sub(100));
        }
        String::from_utf8_lossy(&end).into_owned()
    });
    lan.sim.run(async {
        let header = header("mallory@x", &romeo.id.0).replace(" version='1.0'>", ">");
        writer.write_all(header.as_bytes()).await.unwrap();
        // More blocks than may wait for their answers at one time.
        for number in 0..150 {
            let sid = number.to_string();
            let mut io = intruding(&mut writer, &romeo, &sid).await;
            io.write_all(&[7; 16 * 4096]).await.unwrap();
            io.flush().await.unwrap();
            ask(&mut writer, "close", &ibb::close(&sid, false)).await;
            assert_eq!(io.read(&mut [0; 1]).await.unwrap(), 0);
        }
        // Answers that come after that are nobody's.
        for number in 1..2000 {
            let late = format!("<iq type='result' id='p{number}'/>");
            writer.write_all(late.as_bytes()).await.unwrap();
        }
        let mut io = intruding(&mut writer, &romeo, "last").await;
        ask(&mut writer, "data", &ibb::data("last", 0, b"hello")).await;
        let mut came = [0; 5];
        io.read_exact(&mut came).await.unwrap();
        assert_eq!(&came, b"hello");
        io.write_all(b"hello").await.unwrap();
        io.flush().await.unwrap();
        ask(&mut writer, "close", &ibb::close("last", false)).await;
        assert_eq!(io.read(&mut [0; 1]).await.unwrap(), 0);
    });
    // Nothing is awaited, so the stream is idle.
    lan.advance(140);
    // Mallory does not close her end.
    lan.advance(20);
    assert!(listening.is_finished(), "a stream that nobody uses stays");
    let end = lan.sim.run(listening).unwrap();
    assert!(end.ends_with("</stream:stream>"), "{end}");
}

#[test]
fn a_stream_may_die_anywhere_under_them() {
    let mut deaths = 0;
    for point in [Point::Decide, Point::Decided] {
        for fault in [Fault::Error, Fault::Panic] {
            for passes in 0..24 {
                for victim in 0..2 {
                    let lan = lan_in_band();
                    let people = two(&lan);
                    people[victim].faults.arm(point, fault, passes, 1);
                    let [romeo, juliet] = &people;
                    let seen = format!("{point:?} {passes} {fault:?} {victim}");
                    let tried = lan.sim.run(tried(&lan, romeo, juliet));
                    if let Some((mut one, mut two)) = tried {
                        let (wrote, read) = lan.sim.run(future::zip(
                            async {
                                one.write_all(&vec![5; 200_000]).await?;
                                one.flush().await
                            },
                            async { two.read_exact(&mut vec![0; 200_000]).await },
                        ));
                        if people[victim].faults.fired() == 0 {
                            assert!(wrote.is_ok() && read.is_ok(), "{seen}");
                        }
                    }
                    deaths += people[victim].faults.fired();
                    // The next one works, and nothing of the first is left.
                    let [mut one, mut two] = connected(&lan, romeo, juliet, 2);
                    lan.sim.run(carry(&mut one, &mut two, 1000));
                    drop((one, two));
                    lan.advance(240);
                    assert_eq!(lan.open.open(), 0, "{seen}");
                    gone(&lan, people);
                }
            }
        }
    }
    assert!(deaths > 60, "{deaths}");
}

/// One connection, if it comes to be. It may be offered again on another stream.
async fn tried(
    lan: &Lan,
    from: &Person,
    to: &Person,
) -> Option<(Box<dyn Duplex>, Box<dyn Duplex>)> {
    let id = BytestreamId([1; 16]);
    let ports = from.side.session.tube(&peer(&to.id), TubeId(1));
    let accepted = async {
        loop {
            if let Ok(bytestream) = offered(to, id).await.accept().await {
                return Ok(bytestream);
            }
        }
    };
    let late = async {
        lan.sim.clock.sleep(Duration::from_secs(200)).await;
        None
    };
    let both = async {
        let both = future::try_zip(ports.connector.connect(id), accepted).await;
        both.ok().map(|(one, two)| (one.io, two.io))
    };
    future::or(both, late).await
}
