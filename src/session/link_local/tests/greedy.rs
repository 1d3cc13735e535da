//! Strangers who take what they can get, and the tubes of those whose name they take.

use actors::model::{ServiceName, TubeParameters};
use futures_lite::{
    AsyncReadExt as _,
    future::{block_on, poll_once},
};

use super::{
    hostile::{greet, offered, pinned},
    lan::{Host, Lan},
    support::peer,
};
use crate::{
    session::{
        ContactId, SessionEvent, TubeId,
        link_local::{
            actor::{MAX_BACKGROUND, MAX_STREAMS_EACH, MAX_STREAMS_OF_STRANGERS},
            discovery::DiscoveryEvent,
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
