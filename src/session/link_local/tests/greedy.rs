//! Strangers who take what they can get, and the tubes of those whose name they take.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use actors::model::{ServiceName, TubeParameters};
use futures_lite::{
    AsyncRead, AsyncReadExt as _, AsyncWrite,
    future::{block_on, poll_once, yield_now},
};

use super::{
    hostile::{greet, header, intrude, offered, pinned},
    lan::{Host, Lan},
    support::peer,
};
use crate::{
    session::{
        ContactId, SessionEvent, TubeId,
        link_local::{
            actor::{MAX_BACKGROUND, MAX_STREAMS_EACH, MAX_STREAMS_OF_STRANGERS, MAX_UNKNOWN_EACH},
            discovery::DiscoveryEvent,
            network::MAX_STRANGERS,
        },
        trust::{ComparisonCode, Identity, KeyId},
    },
    xmpp::ns,
};

#[test]
fn tubes_do_not_pass_to_whoever_takes_a_contact_s_place() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    let mallory = Identity::generate().unwrap();
    // Somebody our user never dealt with: the name has another key now.
    let stranger = ContactId("nurse@x".into());
    lan.host().announce(&stranger.0, Some(juliet.key));
    let nurse = Identity::generate().unwrap();
    lan.host().announce(&stranger.0, Some(nurse.id()));
    romeo.sees(&lan, &stranger, |c| c.key == Some(nurse.id()));
    lan.host().announce(&stranger.0, Some(mallory.id()));
    assert!(romeo.lost(&lan, &stranger));
    // And a pinned contact whose key our user replaces.
    lan.host().announce(&juliet.id.0, Some(mallory.id()));
    let second = ContactId(format!("{} ({})", juliet.id, mallory.id().short()));
    romeo.sees(&lan, &second, |_| true);
    assert!(!romeo.lost(&lan, &juliet.id));
    let code = ComparisonCode::of(romeo.key, mallory.id()).to_string();
    let verified = romeo.side.session.verify(&second, &code, true);
    lan.sim.run(verified).unwrap();
    assert!(romeo.lost(&lan, &juliet.id));
}

#[test]
fn strangers_who_come_and_go_do_not_make_us_open_connections_without_end() {
    let lan = Lan::new();
    let romeo = lan.person("romeo");
    let hosts: Vec<Host> = (0..100).map(|_| lan.host()).collect();
    let waiting: Vec<_> = hosts.iter().map(Host::accept_all).collect();
    let key = |n: usize| Some(KeyId([n as u8 + 1; 32]));
    for (n, host) in hosts.iter().enumerate() {
        host.announce(&format!("stranger {n}@x"), key(n));
    }
    lan.sim.settle();
    for n in 0..hosts.len() {
        let gone = DiscoveryEvent::Gone(format!("stranger {n}@x"));
        lan.forge(&romeo, gone);
    }
    lan.advance(3);
    let dialled: usize = waiting.iter().map(async_channel::Receiver::len).sum();
    assert!((1..=MAX_BACKGROUND).contains(&dialled), "{dialled}");
}

#[test]
fn strangers_who_never_answer_do_not_keep_us_from_the_pinned() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    lan.advance(300);
    romeo.happened(&lan);
    let hosts: Vec<Host> = (0..50).map(|_| lan.host()).collect();
    let waiting: Vec<_> = hosts.iter().map(Host::accept_all).collect();
    for (n, host) in hosts.iter().enumerate() {
        host.announce(&format!("aaa {n}@x"), Some(KeyId([n as u8 + 1; 32])));
    }
    lan.advance(3);
    let feature = format!("{}/stream#rfb", ns::TUBES);
    let features = [feature.clone()].into();
    lan.sim.run(juliet.side.session.set_features(features));
    lan.advance(3);
    let told = |event: &SessionEvent| {
        matches!(event, SessionEvent::Contact(contact) if contact.id == juliet.id
            && contact.features.as_ref().is_some_and(|all| all.contains(&feature)))
    };
    assert!(romeo.happened(&lan).iter().any(told));
    drop(waiting);
}

#[test]
fn strangers_with_streams_without_end_do_not_keep_the_pinned_out() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    lan.advance(300);
    romeo.happened(&lan);
    let hosts: Vec<Host> = (0..40).map(|_| lan.host()).collect();
    let mut open = Vec::new();
    for (n, host) in hosts.iter().enumerate() {
        let mallory = Identity::generate().unwrap();
        let name = format!("mallory {n}@x");
        host.announce(&name, Some(mallory.id()));
        for _ in 0..MAX_STREAMS_EACH {
            let stream = host.connect(&romeo).unwrap();
            open.push(lan.sim.run(greet(stream, &romeo, &name, &mallory)));
        }
    }
    lan.sim.settle();
    let refused = open.iter_mut().filter_map(|stream| {
        let mut text = Vec::new();
        let mut bytes = [0; 4096];
        while let Some(Ok(1..)) = block_on(poll_once(stream.read(&mut bytes))) {
            text.extend(bytes);
        }
        String::from_utf8_lossy(&text)
            .contains("not-authorized")
            .then_some(())
    });
    assert_eq!(
        refused.count(),
        hosts.len() * MAX_STREAMS_EACH - MAX_STREAMS_OF_STRANGERS
    );
    let ports = juliet.side.session.tube(&peer(&romeo.id), TubeId(9));
    let service = ServiceName::new("rfb").unwrap();
    let offer = ports.signalling.offer(&service, &TubeParameters::default());
    lan.sim.run(offer).unwrap();
    assert_eq!(offered(&romeo.happened(&lan)), Some(&juliet.id));
}

#[test]
fn strangers_who_say_nothing_do_not_keep_the_pinned_out() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    lan.advance(300);
    romeo.happened(&lan);
    let hosts: Vec<Host> = (0..2 * MAX_STRANGERS).map(|_| lan.host()).collect();
    let connect = |host: &Host| host.connect(&romeo).unwrap();
    let held: Vec<_> = hosts.iter().map(connect).collect();
    lan.sim.settle();
    let ports = juliet.side.session.tube(&peer(&romeo.id), TubeId(9));
    let service = ServiceName::new("rfb").unwrap();
    let offer = ports.signalling.offer(&service, &TubeParameters::default());
    lan.sim.run(offer).unwrap();
    assert_eq!(offered(&romeo.happened(&lan)), Some(&juliet.id));
    drop(held);
}

#[test]
fn of_those_at_one_address_who_wait_for_their_records_the_oldest_make_room() {
    let lan = Lan::new();
    let romeo = lan.person("romeo");
    let host = lan.host();
    let mallory = Identity::generate().unwrap();
    let names: Vec<String> = (0..MAX_UNKNOWN_EACH + 2)
        .map(|n| format!("mallory {n}@x"))
        .collect();
    let mut waiting = Vec::new();
    let mut refused = vec![false; names.len()];
    for name in &names {
        let stream = host.connect(&romeo).unwrap();
        waiting.push(Box::pin(intrude(stream, &romeo, name, &mallory)));
        for _ in 0..100 {
            lan.sim.settle();
            for (task, refused) in waiting.iter_mut().zip(&mut refused) {
                if !*refused && let Some(end) = block_on(poll_once(task)) {
                    assert!(end.contains("not-authorized"), "{end}");
                    *refused = true;
                }
            }
        }
    }
    let expected: Vec<bool> = (0..refused.len()).map(|n| n < 2).collect();
    assert_eq!(refused, expected);
}

/// Always has one more stanza, and takes whatever is written; ends after very many.
struct Talker {
    header: Option<String>,
    said: Arc<AtomicUsize>,
}

const MUCH: usize = 20_000;

impl AsyncRead for Talker {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let text = self
            .header
            .take()
            .unwrap_or_else(|| "<presence/>".to_owned());
        if self.said.fetch_add(1, Ordering::Relaxed) >= MUCH {
            return Poll::Ready(Ok(0));
        }
        out[..text.len()].copy_from_slice(text.as_bytes());
        Poll::Ready(Ok(text.len()))
    }
}

impl AsyncWrite for Talker {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_peer_that_never_stops_talking_leaves_the_thread_to_others() {
    let lan = Lan::new();
    let romeo = lan.person_with("romeo", false);
    let host = lan.host();
    host.announce("talker@x", None);
    romeo.sees(&lan, &ContactId("talker@x".into()), |_| true);
    let said = Arc::new(AtomicUsize::new(0));
    let header = header("talker@x", &romeo.id.0).replace(" version='1.0'>", ">");
    host.connect_with(
        &romeo,
        Talker {
            header: Some(header),
            said: said.clone(),
        },
    );
    let at_my_turn = lan.sim.spawner.spawn("somebody else", async move {
        loop {
            let said = said.load(Ordering::Relaxed);
            if said > 100 {
                return said;
            }
            yield_now().await;
        }
    });
    let at_my_turn = lan.sim.run(at_my_turn).unwrap();
    assert!(at_my_turn < 1000, "{at_my_turn} stanzas came first");
}
