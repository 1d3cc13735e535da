//! Strangers on the network, doing what they should not.

use std::ops::ControlFlow::{Break, Continue};

use actors::{
    model::{Error, ServiceName, TubeParameters},
    testing::FakeStream,
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    lan::{Host, Lan, Person},
    support::peer,
};
use crate::{
    session::{
        ContactId, SessionEvent, Show, Trust, TubeId,
        link_local::{discovery::DiscoveryEvent, network::MAX_STRANGERS_EACH},
        tls,
        trust::{ComparisonCode, Identity},
    },
    xmpp::ns,
};

pub(super) fn pinned(lan: &Lan) -> (Person, Person) {
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(lan, &juliet.id);
    juliet.discovers(lan, &romeo.id);
    lan.sim
        .run(romeo.side.session.pin(&juliet.id, None))
        .unwrap();
    romeo.sees(lan, &juliet.id, |c| matches!(c.trust, Trust::Pinned { .. }));
    (romeo, juliet)
}

pub(super) fn header(from: &str, to: &str) -> String {
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
         xmlns:stream='http://etherx.jabber.org/streams' from='{from}' to='{to}' version='1.0'>"
    )
}

/// Reads until the text so far holds `end`, or the other side has nothing more to say.
pub(super) async fn read_until(
    stream: &mut (impl futures_lite::AsyncRead + Unpin),
    end: &str,
) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&text).contains(end) {
        match stream.read(&mut byte).await {
            Ok(1) => text.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

pub(super) type Tls = futures_rustls::client::TlsStream<FakeStream>;

/// Opens a stream as far as `victim` lets `from` with this key.
pub(super) async fn greet(
    mut stream: FakeStream,
    victim: &Person,
    from: &str,
    identity: &Identity,
) -> Tls {
    let header = header(from, &victim.id.0);
    stream.write_all(header.as_bytes()).await.unwrap();
    read_until(&mut stream, "features").await;
    let starttls = format!("<starttls xmlns='{}'/>", ns::TLS);
    stream.write_all(starttls.as_bytes()).await.unwrap();
    read_until(&mut stream, "proceed").await;
    read_until(&mut stream, ">").await;
    let config = tls::client_config(identity, Some(victim.key), None).unwrap();
    let connector = futures_rustls::TlsConnector::from(config);
    let mut stream = connector.connect(tls::any_name(), stream).await.unwrap();
    stream.write_all(header.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    read_until(&mut stream, "features").await;
    stream
}

/// Offers a tube as `from`, and gives what the victim said until the end.
pub(super) async fn intrude(
    stream: FakeStream,
    victim: &Person,
    from: &str,
    identity: &Identity,
) -> String {
    let mut stream = greet(stream, victim, from, identity).await;
    let offer = format!(
        "<message from='{from}'><tube xmlns='{}' type='stream' service='rfb' id='5'/></message>",
        ns::TUBES
    );
    stream.write_all(offer.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    read_until(&mut stream, "</stream:stream>").await
}

pub(super) fn offered(events: &[SessionEvent]) -> Option<&ContactId> {
    events.iter().find_map(|event| match event {
        SessionEvent::TubeOffered { from, .. } => Some(&from.contact),
        _ => None,
    })
}

#[test]
fn a_forged_goodbye_ends_nothing_with_a_live_stream_or_without() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    // With a live stream.
    lan.forge(&romeo, DiscoveryEvent::Gone(juliet.id.0.clone()));
    lan.advance(100);
    assert!(!romeo.lost(&lan, &juliet.id));
    // And once the stream is idle: whoever is still there answers.
    lan.advance(1000);
    assert!(!romeo.lost(&lan, &juliet.id));
    let ports = romeo.side.session.tube(&peer(&juliet.id), TubeId(3));
    let service = ServiceName::new("rfb").unwrap();
    let offer = ports.signalling.offer(&service, &TubeParameters::default());
    lan.sim.run(offer).unwrap();
}

#[test]
fn who_is_really_gone_is_lost_after_the_grace_period_and_not_before() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    lan.advance(300);
    lan.unplug(&juliet);
    lan.forge(&romeo, DiscoveryEvent::Gone(juliet.id.0.clone()));
    romeo.sees(&lan, &juliet.id, |c| c.presence.show == Show::Offline);
    lan.advance(25);
    assert!(!romeo.lost(&lan, &juliet.id));
    lan.advance(10);
    assert!(romeo.lost(&lan, &juliet.id));
}

#[test]
fn a_pinned_name_with_another_key_is_a_second_contact_and_blocked() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    let mallory = Identity::generate().unwrap();
    lan.host().announce(&juliet.id.0, Some(mallory.id()));
    let second = ContactId(format!("{} ({})", juliet.id, mallory.id().short()));
    let contact = romeo.sees(&lan, &second, |_| true);
    assert_eq!(contact.trust, Trust::Blocked { pinned: juliet.key });
    assert_eq!(contact.key, Some(mallory.id()));
    let service = ServiceName::new("rfb").unwrap();
    let ports = romeo.side.session.tube(&peer(&second), TubeId(1));
    let offer = ports.signalling.offer(&service, &TubeParameters::default());
    let refused = lan.sim.run(offer).unwrap_err();
    let Error::CertFingerprintMismatch(text) = refused else {
        panic!("{refused}");
    };
    assert!(text.contains(&juliet.key.to_string()) && text.contains(&mallory.id().to_string()));
    assert!(matches!(
        lan.sim.run(romeo.side.session.pin(&second, None)),
        Err(Error::CertFingerprintMismatch(_))
    ));
    // Juliet herself is as she was, though nothing announces her any more.
    lan.advance(500);
    assert!(!romeo.lost(&lan, &juliet.id));
    let ports = romeo.side.session.tube(&peer(&juliet.id), TubeId(2));
    let offer = ports.signalling.offer(&service, &TubeParameters::default());
    lan.sim.run(offer).unwrap();

    // Only our user changes it, with the right code.
    let code = ComparisonCode::of(romeo.key, mallory.id()).to_string();
    let verify = |replace| {
        lan.sim
            .run(romeo.side.session.verify(&second, &code, replace))
    };
    assert!(matches!(
        verify(false),
        Err(Error::CertFingerprintMismatch(_))
    ));
    verify(true).unwrap();
    let replaced = romeo.sees(&lan, &juliet.id, |c| c.key == Some(mallory.id()));
    assert!(matches!(replaced.trust, Trust::Verified { .. }));
}

#[test]
fn what_our_user_was_shown_is_what_is_pinned() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    let mallory = Identity::generate().unwrap().id();
    let refused = lan
        .sim
        .run(romeo.side.session.pin(&juliet.id, Some(mallory)));
    assert!(matches!(refused, Err(Error::CertFingerprintMismatch(_))));
    let pinned = |c: &crate::session::Contact| matches!(c.trust, Trust::Pinned { .. });
    let told = romeo.happened(&lan);
    assert!(
        !told
            .iter()
            .any(|event| matches!(event, SessionEvent::Contact(c) if pinned(c)))
    );
    lan.sim
        .run(romeo.side.session.pin(&juliet.id, Some(juliet.key)))
        .unwrap();
    romeo.sees(&lan, &juliet.id, pinned);
}

#[test]
fn a_pinned_key_under_a_new_name_is_the_same_contact() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    romeo.happened(&lan);
    juliet.host.announce("juliet@elsewhere", Some(juliet.key));
    lan.forge(&romeo, DiscoveryEvent::Gone(juliet.id.0.clone()));
    let seen = romeo.sees(&lan, &juliet.id, |_| true);
    assert_eq!(seen.key, Some(juliet.key));
    for event in romeo.happened(&lan) {
        assert!(matches!(event, SessionEvent::Contact(contact) if contact.id == juliet.id));
    }
}

#[test]
fn a_stripped_starttls_is_an_error_and_nothing_but_the_header_is_said() {
    let lan = Lan::new();
    let romeo = lan.person("romeo");
    let between = lan.host();
    let connections = between.accept_all();
    let juliet = Identity::generate().unwrap();
    between.announce("juliet@x", Some(juliet.id()));
    let heard = lan.sim.spawner.spawn("man in the middle", async move {
        let mut heard = String::new();
        let mut connection = connections.recv().await.unwrap();
        heard += &read_until(&mut connection.carrier, "1.0'>").await;
        let answer = format!("{}<stream:features/>", header("juliet@x", ""));
        let answer = answer.replace(" to=''", "");
        connection
            .carrier
            .write_all(answer.as_bytes())
            .await
            .unwrap();
        heard += &read_until(&mut connection.carrier, "</stream:stream>").await;
        heard
    });
    let id = ContactId("juliet@x".into());
    romeo.sees(&lan, &id, |_| true);
    let refused = lan.sim.run(romeo.side.session.pin(&id, None)).unwrap_err();
    assert!(
        matches!(refused, Error::EncryptionNotAvailable(_)),
        "{refused}"
    );
    let heard = lan.sim.run(heard).unwrap();
    assert!(
        !heard.contains("<iq") && !heard.contains("<message"),
        "{heard}"
    );
}

#[test]
fn a_stranger_with_another_key_than_the_record_says_is_not_believed() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    let mallory = Identity::generate().unwrap();
    let stream = lan.host().connect(&romeo).unwrap();
    let end = lan.sim.run(intrude(stream, &romeo, &juliet.id.0, &mallory));
    assert!(end.contains("not-authorized"), "{end}");
    assert_eq!(offered(&romeo.happened(&lan)), None);
}

#[test]
fn a_stranger_without_a_record_is_not_believed() {
    let lan = Lan::new();
    let romeo = lan.person("romeo");
    let mallory = Identity::generate().unwrap();
    let stream = lan.host().connect(&romeo).unwrap();
    let end = lan.sim.run(intrude(stream, &romeo, "mallory@x", &mallory));
    assert!(end.contains("not-authorized"), "{end}");
    assert_eq!(offered(&romeo.happened(&lan)), None);
    assert_eq!(lan.open.open(), 0);
}

#[test]
fn a_record_that_comes_late_vouches_for_a_stream_that_waits() {
    let lan = Lan::new();
    let romeo = lan.person("romeo");
    let nurse = Identity::generate().unwrap();
    let host = lan.host();
    let stream = host.connect(&romeo).unwrap();
    let key = nurse.id();
    let clock = lan.sim.clock.clone();
    let announcing = async {
        actors::runtime::Clock::sleep(&*clock, std::time::Duration::from_secs(3)).await;
        host.announce("nurse@x", Some(key));
        romeo
            .side
            .find(|event| match event {
                SessionEvent::TubeOffered { from, .. } => Break(from.contact),
                other => Continue(other),
            })
            .await
    };
    let both = futures_lite::future::or(
        async {
            intrude(stream, &romeo, "nurse@x", &nurse).await;
            std::future::pending().await
        },
        announcing,
    );
    assert_eq!(lan.sim.run(both), ContactId("nurse@x".into()));
    let contact = romeo.sees(&lan, &ContactId("nurse@x".into()), |_| true);
    assert_eq!(contact.trust, Trust::Unpinned, "a stream never pins");
}

fn silent(host: &Host, victim: &Person, count: usize) -> Vec<FakeStream> {
    (0..count)
        .filter_map(|_| host.connect(victim).ok())
        .collect()
}

#[test]
fn those_who_say_nothing_are_few_and_not_for_long() {
    let lan = Lan::new();
    let romeo = lan.person("romeo");
    let host = lan.host();
    let mut streams = silent(&host, &romeo, 500);
    lan.sim.settle();
    assert_eq!(lan.open.open() - streams.len(), MAX_STRANGERS_EACH);
    lan.advance(20);
    assert_eq!(lan.open.open(), streams.len());
    streams.clear();
    // Others get in again.
    let juliet = lan.person("juliet");
    juliet.discovers(&lan, &romeo.id);
}

#[test]
fn rubbish_of_every_kind_ends_its_stream_and_nothing_else() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    let open = lan.open.open();
    let deep = format!("{}{}", header("x@y", &romeo.id.0), "<a>".repeat(100_000));
    let endless = format!(
        "{}<message>{}",
        header("x@y", &romeo.id.0),
        "x".repeat(1 << 20)
    );
    let rubbish: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\x00\x01",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>",
        b"<stream:stream",
        deep.as_bytes(),
        endless.as_bytes(),
        b"\x16\x03\x01\x00\x05hello",
    ];
    for _ in 0..20 {
        for bytes in rubbish {
            let mut stream = lan.host().connect(&romeo).unwrap();
            let bytes = bytes.to_vec();
            lan.sim
                .spawner
                .spawn("rubbish", async move {
                    // It is cut off in the middle; that is the point.
                    drop(stream.write_all(&bytes).await);
                    drop(stream.close().await);
                })
                .detach();
        }
        lan.advance(1);
    }
    lan.advance(20);
    assert_eq!(lan.open.open(), open);
    let ports = romeo.side.session.tube(&peer(&juliet.id), TubeId(3));
    let service = ServiceName::new("rfb").unwrap();
    let offer = ports.signalling.offer(&service, &TubeParameters::default());
    lan.sim.run(offer).unwrap();
}

#[test]
fn a_flood_of_records_is_bounded_and_the_pinned_stay() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    romeo.happened(&lan);
    let crowd: Vec<Host> = (0..100).map(|_| lan.host()).collect();
    for n in 0..5000 {
        let host = &crowd[n % crowd.len()];
        host.announce(&format!("stranger {n}@x"), None);
        if n % 200 == 0 {
            lan.sim.settle();
            drop(romeo.side.drain());
        }
    }
    lan.advance(5);
    let ports = romeo.side.session.tube(&peer(&juliet.id), TubeId(3));
    let service = ServiceName::new("rfb").unwrap();
    let offer = ports.signalling.offer(&service, &TubeParameters::default());
    let offering = async {
        futures_lite::future::or(offer, async {
            loop {
                drop(romeo.side.events.recv().await);
            }
        })
        .await
    };
    lan.sim.run(offering).unwrap();
}

/// A peer that knows no encryption and asks what we can do; gives what it was answered.
async fn plain(mut stream: FakeStream, victim: &Person, from: &str) -> String {
    let header = header(from, &victim.id.0).replace(" version='1.0'>", ">");
    stream.write_all(header.as_bytes()).await.unwrap();
    let ask = "<iq type='get' id='1'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>";
    // Where we are not listened to, that is an answer too.
    drop(stream.write_all(ask.as_bytes()).await);
    read_until(&mut stream, "<feature ").await
}

#[test]
fn plaintext_is_for_those_without_a_key_and_only_where_it_is_allowed() {
    for (allowed, key, answered) in [
        (false, None, false),
        (true, None, true),
        (true, Some(Identity::generate().unwrap().id()), false),
    ] {
        let lan = Lan::new();
        let romeo = lan.person_with("romeo", !allowed);
        let host = lan.host();
        host.announce("pidgin@x", key);
        romeo.sees(&lan, &ContactId("pidgin@x".into()), |_| true);
        let stream = host.connect(&romeo).unwrap();
        let heard = lan.sim.run(plain(stream, &romeo, "pidgin@x"));
        assert_eq!(
            heard.contains("<feature"),
            answered,
            "{allowed} {key:?}: {heard}"
        );
        // From somewhere else it is somebody else.
        let stream = lan.host().connect(&romeo).unwrap();
        let heard = lan.sim.run(plain(stream, &romeo, "pidgin@x"));
        assert!(!heard.contains("<feature"), "{heard}");
    }
}

#[test]
fn a_peer_with_plaintext_allowed_still_encrypts_with_who_can() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person_with("romeo", false), lan.person("juliet"));
    let contact = romeo.discovers(&lan, &juliet.id);
    assert_eq!(contact.trust, Trust::Unpinned);
    lan.sim
        .run(romeo.side.session.pin(&juliet.id, None))
        .unwrap();
    assert_eq!(
        romeo
            .sees(&lan, &juliet.id, |c| matches!(
                c.trust,
                Trust::Pinned { .. }
            ))
            .key,
        Some(juliet.key)
    );
}

#[test]
fn salut_s_way_to_offer_a_tube_is_answered_with_an_error() {
    let lan = Lan::new();
    let romeo = lan.person_with("romeo", false);
    let host = lan.host();
    host.announce("salut@x", None);
    romeo.sees(&lan, &ContactId("salut@x".into()), |_| true);
    let stream = host.connect(&romeo).unwrap();
    let heard = lan.sim.run(async {
        let mut stream = stream;
        let header = header("salut@x", &romeo.id.0).replace(" version='1.0'>", ">");
        stream.write_all(header.as_bytes()).await.unwrap();
        let offer = format!(
            "<iq type='set' id='7'><tube xmlns='{}' type='stream' service='rfb' id='5'>\
             <transport port='47246'/></tube></iq>",
            ns::TUBES
        );
        stream.write_all(offer.as_bytes()).await.unwrap();
        read_until(&mut stream, "<not-acceptable").await
    });
    assert!(heard.contains("<not-acceptable"), "{heard}");
    assert_eq!(offered(&romeo.happened(&lan)), None);
}

#[test]
fn a_peer_that_asks_and_never_reads_stops_itself_only() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    let mallory = Identity::generate().unwrap();
    let host = lan.host();
    host.announce("mallory@x", Some(mallory.id()));
    let stream = host.connect(&romeo).unwrap();
    let open = lan.open.open();
    let greeting = greet(stream, &romeo, "mallory@x", &mallory);
    let mut stream = lan.sim.run(greeting);
    let asking = lan.sim.spawner.spawn("asking", async move {
        let ask = "<iq type='get' id='1'>\
                   <query xmlns='http://jabber.org/protocol/disco#info'/></iq>";
        let mut asked = 0_u64;
        while stream.write_all(ask.as_bytes()).await.is_ok() && stream.flush().await.is_ok() {
            asked += 1;
        }
        asked
    });
    lan.sim.settle();
    // While it waits for us, others are served.
    let service = ServiceName::new("rfb").unwrap();
    let ports = romeo.side.session.tube(&peer(&juliet.id), TubeId(3));
    let offer = ports.signalling.offer(&service, &TubeParameters::default());
    lan.sim.run(offer).unwrap();
    assert!(!asking.is_finished());
    lan.advance(90);
    let asked = lan.sim.run(asking).unwrap();
    assert!(asked < 50_000, "{asked} questions were taken");
    lan.advance(5);
    assert!(lan.open.open() < open);
}

#[test]
fn stanzas_in_another_s_name_end_the_stream() {
    let lan = Lan::new();
    let (romeo, juliet) = pinned(&lan);
    let mallory = Identity::generate().unwrap();
    let host = lan.host();
    host.announce("mallory@x", Some(mallory.id()));
    let stream = host.connect(&romeo).unwrap();
    let end = lan.sim.run(async {
        let mut stream = greet(stream, &romeo, "mallory@x", &mallory).await;
        let forged = format!(
            "<message from='{}'><tube xmlns='{}' type='stream' service='rfb' id='5'/></message>",
            juliet.id,
            ns::TUBES
        );
        stream.write_all(forged.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        read_until(&mut stream, "</stream:stream>").await
    });
    assert!(end.contains("invalid-from"), "{end}");
    assert_eq!(offered(&romeo.happened(&lan)), None);
}
