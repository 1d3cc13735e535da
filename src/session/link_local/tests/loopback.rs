//! Two real sessions over loopback: mDNS, TCP, TLS, all of it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    ops::ControlFlow::{Break, Continue},
    sync::{Arc, Mutex},
    time::Duration,
};

use actors::{
    model::{BytestreamId, ParameterValue, ServiceName, TubeParameters},
    runtime::SystemClock,
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, future};

use super::support::{Side, in_time, mdns_port, peer, run};
use crate::{
    session::{
        ContactId, SessionEvent, Show, Trust, TubeId,
        link_local::network::{MAX_STRANGERS_EACH, Network, Tcp},
        trust::ComparisonCode,
    },
    xmpp::ns,
};

#[test]
fn two_meet_offer_a_tube_and_bytes_flow_both_ways() {
    run(async |spawner| {
        let port = mdns_port();
        let ((romeo, romeo_id), (juliet, juliet_id)) = future::zip(
            Side::online(spawner, "romeo", port),
            Side::online(spawner, "juliet", port),
        )
        .await;
        let seen = romeo.discovers(&juliet_id).await;
        assert_eq!(seen.presence.show, Show::Available);
        assert_eq!(seen.alias, "JULIET");
        assert_eq!(seen.key, Some(juliet.session.self_key()));
        assert_eq!(seen.trust, Trust::Unpinned);
        assert!(seen.features.unwrap().contains(ns::PNEUMA));
        juliet.discovers(&romeo_id).await;

        // A service registered later is asked for again, for `ver` has changed.
        let service = format!("{}/stream#http", ns::TUBES);
        juliet
            .session
            .set_features(BTreeSet::from([service.clone()]))
            .await;
        romeo
            .sees(&juliet_id, |contact| {
                contact
                    .features
                    .as_ref()
                    .is_some_and(|f| f.contains(&service))
            })
            .await;

        romeo.session.pin(&juliet_id, None).await.unwrap();
        romeo
            .sees(&juliet_id, |c| matches!(c.trust, Trust::Pinned { .. }))
            .await;
        let code = ComparisonCode::of(romeo.session.self_key(), juliet.session.self_key());
        let wrong = ComparisonCode::of(romeo.session.self_key(), romeo.session.self_key());
        let verify =
            |code: ComparisonCode| romeo.session.verify(&juliet_id, &code.to_string(), false);
        assert!(verify(wrong).await.is_err());
        verify(code).await.unwrap();
        romeo
            .sees(&juliet_id, |c| matches!(c.trust, Trust::Verified { .. }))
            .await;

        let tube = TubeId(49);
        let offering = romeo.session.tube(&peer(&juliet_id), tube);
        let parameters =
            TubeParameters::new([("n".into(), ParameterValue::Uint(7))].into()).unwrap();
        let http = ServiceName::new("http").unwrap();
        offering.signalling.offer(&http, &parameters).await.unwrap();
        let offered = juliet
            .wait("the offer", |event| match event {
                SessionEvent::TubeOffered {
                    from,
                    tube,
                    service,
                    parameters,
                } => Break((from, tube, service, parameters)),
                other => Continue(other),
            })
            .await;
        assert_eq!(offered, (peer(&romeo_id), tube, http, parameters));

        let accepting = juliet.session.tube(&peer(&romeo_id), tube);
        let id = BytestreamId([7; 16]);
        let connecting = accepting.connector.connect(id);
        let serving = async {
            let stream = romeo
                .wait("the connection", |event| match event {
                    SessionEvent::StreamOffered {
                        from,
                        tube: TubeId(49),
                        stream,
                    } if from == peer(&juliet_id) => Break(stream),
                    other => Continue(other),
                })
                .await;
            assert_eq!(stream.id(), id);
            stream.accept().await.unwrap()
        };
        let (client, mut server) =
            in_time("the bytestream", future::zip(connecting, serving)).await;
        let mut client = client.unwrap();
        assert!(client.encrypted && server.encrypted);
        let exchange = async {
            client.io.write_all(b"GET /").await.unwrap();
            client.io.close().await.unwrap();
            let mut request = Vec::new();
            server.io.read_to_end(&mut request).await.unwrap();
            assert_eq!(request, b"GET /");
            server.io.write_all(b"hello").await.unwrap();
            server.io.close().await.unwrap();
            let mut answer = Vec::new();
            client.io.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"hello");
        };
        in_time("the exchange", exchange).await;

        accepting.signalling.close().await;
        romeo
            .wait("the tube's end", |event| match event {
                SessionEvent::TubeClosed { tube, .. } => Break(tube),
                other => Continue(other),
            })
            .await;

        in_time("juliet's leaving", juliet.session.disconnect()).await;
        // Pinned: it stays, offline, and after the grace period it is lost.
        romeo
            .sees(&juliet_id, |c| c.presence.show == Show::Offline)
            .await;
        in_time("romeo's leaving", romeo.session.disconnect()).await;
        romeo
            .wait("the end", |event| match event {
                SessionEvent::Disconnected(_) => Break(()),
                other => Continue(other),
            })
            .await;
    });
}

/// Descriptors of this process that are sockets bound to this port.
fn sockets_of(port: u16) -> usize {
    let wanted = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let inodes: BTreeSet<&str> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[1].ends_with(&wanted))
        .map(|fields| fields[9])
        .collect();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|link| {
            let link = link.to_string_lossy();
            link.strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|inode| inodes.contains(inode))
        })
        .count()
}

#[test]
fn ten_thousand_connects_from_one_peer_hold_few_descriptors() {
    run(async |spawner| {
        let clock = SystemClock::new();
        let tcp = Tcp::new(true, clock.clone(), spawner.clone());
        let listening = tcp.listen().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listening.port));
        let held = Arc::new(Mutex::new(Vec::new()));
        let holding = {
            let (held, accepted) = (held.clone(), listening.accepted.clone());
            spawner.spawn("holding", async move {
                while let Ok(connection) = accepted.recv().await {
                    held.lock().unwrap().push(connection);
                }
            })
        };
        let mut most = 0;
        let connecting = async {
            for n in 0..10_000 {
                let mut stream = async_net::TcpStream::connect(address).await.unwrap();
                if n % 1000 == 0 {
                    most = most.max(sockets_of(listening.port));
                }
                if n >= MAX_STRANGERS_EACH {
                    // Refused at once: the connection ends without a byte.
                    drop(stream.read(&mut [0]).await);
                }
            }
        };
        in_time("ten thousand connects", connecting).await;
        // Two listeners, eight strangers and the one that was being refused.
        assert!(most <= MAX_STRANGERS_EACH + 4, "{most}");
        assert_eq!(held.lock().unwrap().len(), MAX_STRANGERS_EACH);
        held.lock().unwrap().clear();
        let mut stream = async_net::TcpStream::connect(address).await.unwrap();
        let late = async {
            actors::runtime::Clock::sleep(&*clock, Duration::from_millis(300)).await;
            Ok(7)
        };
        assert_eq!(
            stream.read(&mut [0]).or(late).await.unwrap(),
            7,
            "there is room again"
        );
        held.lock().unwrap().clear();
        for task in listening.tasks {
            task.cancel().await;
        }
        holding.cancel().await;
    });
}

#[test]
fn two_of_one_name_on_one_machine_are_told_apart() {
    run(async |spawner| {
        let port = mdns_port();
        let (first, first_id) = Side::online(spawner, "nurse", port).await;
        let (second, second_id) = Side::online(spawner, "nurse", port).await;
        let second_id = if second_id == first_id {
            second
                .wait("another name", |event| match event {
                    SessionEvent::SelfIdChanged(id) => Break(id),
                    other => Continue(other),
                })
                .await
        } else {
            second_id
        };
        assert_eq!(second_id, ContactId(format!("{first_id} #2")));
        let seen = first.discovers(&second_id).await;
        assert_eq!(seen.key, Some(second.session.self_key()));
        future::zip(first.session.disconnect(), second.session.disconnect()).await;
    });
}
