//! Files offered by and to those who are no Pneuma: as Pidgin does it, and as nobody should.

use std::{ops::ControlFlow::Continue, sync::Arc};

use actors::{
    model::{Error, FileOffer, Resume},
    ports::{AgreedFile, FileSending, IncomingFile},
};
use futures_lite::{AsyncWriteExt as _, future};

use super::{
    files::{a_file, now},
    hostile::{header, read_until},
    lan::{Host, Lan, Person},
    support::peer,
};
use crate::{
    session::{ContactId, SessionEvent, link_local::stream::Carrier},
    xmpp::ns,
};

const FINCH: &str = "finch@x";

/// Somebody without a key, and a person who allows that.
fn two(lan: &Lan) -> (Person, Host) {
    let romeo = lan.person_with("romeo", false);
    let host = lan.host();
    host.announce(FINCH, None);
    romeo.sees(lan, &ContactId(FINCH.into()), |_| true);
    (romeo, host)
}

/// The stranger's end of an XML stream, opened by either side without a version.
struct Finch {
    io: Box<dyn Carrier>,
    us: String,
}

impl Finch {
    async fn opens(host: &Host, romeo: &Person) -> Finch {
        let io = Box::new(host.connect(romeo).unwrap());
        Finch::greeting(io, romeo).await
    }

    async fn greeting(mut io: Box<dyn Carrier>, romeo: &Person) -> Finch {
        let header = header(FINCH, &romeo.id.0).replace(" version='1.0'>", ">");
        io.write_all(header.as_bytes()).await.unwrap();
        Finch {
            io,
            us: FINCH.into(),
        }
    }

    async fn says(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).await.unwrap();
        self.io.flush().await.unwrap();
    }

    async fn hears(&mut self, end: &str) -> String {
        let heard = read_until(&mut self.io, end).await;
        assert!(heard.contains(end), "{}: {heard}", self.us);
        heard
    }

    /// Offers a file as Pidgin does, and more.
    async fn offers(&mut self, sid: &str, attributes: &str) {
        let offer = format!(
            "<iq type='set' id='{sid}' from='{FINCH}'><si xmlns='{}' profile='{}' id='{sid}'>\
             <file xmlns='{}' {attributes}/><feature xmlns='{}'><x xmlns='jabber:x:data' type='form'>\
             <field var='stream-method' type='list-single'><option><value>{}</value></option></field>\
             </x></feature></si></iq>",
            ns::SI,
            ns::SI_FILE_TRANSFER,
            ns::SI_FILE_TRANSFER,
            ns::FEATURE_NEG,
            ns::IBB,
        );
        self.says(&offer).await;
    }

    /// What comes of an offer of ours: it is answered with this, where `SID` stands for its id.
    async fn answers(&mut self, answer: &str) {
        let heard = self.hears("</si></iq>").await;
        let after = |text: &str, word: &str| {
            let start = text.rfind(word).unwrap() + word.len();
            text[start..].split('\'').next().unwrap().to_owned()
        };
        let (iq, si) = heard.split_once("<si ").unwrap();
        let (iq, sid) = (after(iq, " id='"), after(si, " id='"));
        let si = si.split(" mime-type").next().unwrap();
        let sid = if si.contains(" id='") {
            after(si, " id='")
        } else {
            sid
        };
        assert_eq!(iq, sid, "Pidgin declines by the sid");
        self.says(&answer.replace("SID", &sid)).await;
    }
}

/// What was offered and nobody has looked at.
fn offered(lan: &Lan, romeo: &Person) -> Vec<(FileOffer, Box<dyn IncomingFile>)> {
    let files = romeo.happened(lan).into_iter().filter_map(|event| {
        let SessionEvent::FileOffered { file, incoming, .. } = event else {
            return None;
        };
        Some((file, incoming))
    });
    files.collect()
}

#[test]
fn a_thousand_offers_of_one_peer_leave_most_of_them_refused() {
    let lan = Lan::new();
    let (romeo, host) = two(&lan);
    let mut finch = lan.sim.run(Finch::opens(&host, &romeo));
    let mut refused = 0;
    let mut stand = Vec::new();
    for number in 0..1000 {
        lan.sim
            .run(finch.offers(&number.to_string(), "name='a' size='1'"));
        stand.extend(offered(&lan, &romeo));
        if stand.len() == 32 && number > 31 {
            let heard = lan.sim.run(finch.hears("</error>"));
            assert!(heard.contains("resource-constraint"), "{heard}");
            refused += 1;
        }
    }
    assert_eq!((stand.len(), refused), (32, 968));
    // Other requests have their places still.
    let query = format!(
        "<iq type='set' id='q' from='{FINCH}'><query xmlns='{}' sid='none'/></iq>",
        ns::BYTESTREAMS
    );
    lan.sim.run(finch.says(&query));
    let heard = lan.sim.run(finch.hears("</error>"));
    assert!(heard.contains("not-acceptable"), "{heard}");
    // One that is decided on makes room for one.
    stand.remove(7).1.decline(Error::Cancelled("no".into()));
    let heard = lan.sim.run(finch.hears("</error>"));
    assert!(
        heard.contains("id='7'") && heard.contains("forbidden"),
        "{heard}"
    );
    lan.sim.run(finch.offers("more", "name='a' size='1'"));
    assert_eq!(offered(&lan, &romeo).len(), 1);
    // All are withdrawn with their stream.
    let mut withdrawn: Vec<_> = stand.iter().map(|(_, file)| file.withdrawn()).collect();
    assert!(withdrawn.iter_mut().all(|end| now(&lan, end).is_none()));
    drop(finch);
    for end in withdrawn {
        lan.sim.run(end);
    }
}

#[test]
fn two_offers_with_one_id_are_one_and_what_is_no_file_is_none() {
    let lan = Lan::new();
    let (romeo, host) = two(&lan);
    let mut finch = lan.sim.run(Finch::opens(&host, &romeo));
    lan.sim.run(finch.offers("0", "name='a' size='1'"));
    let [(file, incoming)] = offered(&lan, &romeo).try_into().ok().unwrap();
    assert_eq!(file, FileOffer::new("a", Some(1)));
    assert!(!incoming.has_ranges());
    lan.sim.run(finch.offers("0", "name='b' size='2'"));
    let heard = lan.sim.run(finch.hears("</error>"));
    assert!(heard.contains("<conflict"), "{heard}");
    for attributes in [
        "name='a'",
        "size='1'",
        "name='a' size='-1'",
        "name='a' size='18446744073709551615'",
    ] {
        lan.sim.run(finch.offers("1", attributes));
        let heard = lan.sim.run(finch.hears("</error>"));
        assert!(heard.contains("<bad-request"), "{attributes}: {heard}");
    }
    assert!(offered(&lan, &romeo).is_empty());
    // The first one stands, and cannot begin anywhere but at its beginning.
    let mut withdrawn = incoming.withdrawn();
    assert!(now(&lan, &mut withdrawn).is_none());
    let elsewhere = Resume {
        offset: 1,
        stored: None,
    };
    let refused = lan.sim.run(incoming.accept(elsewhere));
    assert!(
        matches!(refused, Err(Error::InvalidArgument(_))),
        "{refused:?}"
    );
    let heard = lan.sim.run(finch.hears("</error>"));
    assert!(heard.contains("<forbidden"), "{heard}");
    // Its id can be used again, and the old offer's end takes nothing from the new one.
    lan.sim.run(finch.offers("0", "name='c' size='3'"));
    let [(file, incoming)] = offered(&lan, &romeo).try_into().ok().unwrap();
    assert_eq!(file.size, Some(3));
    let cancel = format!(
        "<message from='{FINCH}'><transfer-cancel xmlns='{}' sid='0'/></message>",
        ns::PNEUMA
    );
    let first = incoming.withdrawn();
    lan.sim.run(finch.says(&cancel));
    lan.sim.run(first);
    lan.sim.run(finch.offers("0", "name='d' size='4'"));
    let [(_, second)] = offered(&lan, &romeo).try_into().ok().unwrap();
    drop(incoming);
    let mut withdrawn = second.withdrawn();
    assert!(now(&lan, &mut withdrawn).is_none());
    lan.sim.run(finch.says(&cancel));
    lan.sim.run(withdrawn);
}

#[test]
fn who_accepts_from_a_peer_that_goes_no_further_is_told_after_a_minute() {
    let lan = Lan::new();
    let (romeo, host) = two(&lan);
    let mut finch = lan.sim.run(Finch::opens(&host, &romeo));
    lan.sim.run(finch.offers("0", "name='a' size='1'"));
    let [(_, incoming)] = offered(&lan, &romeo).try_into().ok().unwrap();
    let mut accepting = incoming.accept(Resume::default());
    assert!(now(&lan, &mut accepting).is_none());
    let heard = lan.sim.run(finch.hears("</si></iq>"));
    assert!(!heard.contains("<transfer "), "{heard}");
    lan.advance(61);
    let failed = now(&lan, &mut accepting);
    assert!(
        matches!(failed, Some(Err(Error::ConnectionFailed(_)))),
        "{failed:?}"
    );
}

/// A file that romeo sends to somebody without a key.
fn sending(romeo: &Person, file: FileOffer) -> Arc<dyn FileSending> {
    let finch = ContactId(FINCH.into());
    romeo.side.session.file(&peer(&finch), file)
}

/// What comes of an offer that is answered so.
fn answered(lan: &Lan, answer: &str) -> Result<AgreedFile, Error> {
    let (romeo, host) = two(lan);
    let connections = host.accept_all();
    let offering = sending(&romeo, FileOffer::new("a", Some(1000))).offer();
    let finch = async {
        let connection = connections.recv().await.unwrap();
        let mut finch = Finch::greeting(connection.carrier, &romeo).await;
        finch.answers(answer).await;
        finch
    };
    let (outcome, _finch) = lan.sim.run(future::zip(offering, finch));
    outcome
}

fn chosen(more: &str) -> String {
    format!(
        "<iq type='result' id='SID' from='{FINCH}'><si xmlns='{}'><feature xmlns='{}'>\
         <x xmlns='jabber:x:data' type='submit'><field var='stream-method'><value>{}</value></field></x>\
         </feature>{more}</si></iq>",
        ns::SI,
        ns::FEATURE_NEG,
        ns::IBB,
    )
}

fn refused(condition: &str) -> String {
    format!(
        "<iq type='error' id='SID' from='{FINCH}'><error code='403' type='cancel'>\
         <{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
    )
}

#[test]
fn an_answer_as_pidgin_writes_it_is_understood() {
    let agreed = answered(&Lan::new(), &chosen("")).unwrap();
    assert_eq!(agreed.from, Resume::default());
    let declined = answered(&Lan::new(), &refused("forbidden"));
    assert!(matches!(declined, Err(Error::Rejected(_))), "{declined:?}");
    for condition in [
        "service-unavailable",
        "feature-not-implemented",
        "bad-request",
    ] {
        let unable = answered(&Lan::new(), &refused(condition));
        assert!(matches!(unable, Err(Error::NotCapable(_))), "{unable:?}");
    }
    let full = answered(&Lan::new(), &refused("resource-constraint"));
    assert!(
        matches!(full, Err(Error::ResourceUnavailable(_))),
        "{full:?}"
    );
}

#[test]
fn an_answer_that_makes_no_sense_is_a_failure() {
    let range = |range: &str| {
        chosen(&format!(
            "<file xmlns='{}'><range {range}/></file>",
            ns::SI_FILE_TRANSFER
        ))
    };
    let whole = answered(&Lan::new(), &range("offset='400' length='600'")).unwrap();
    assert_eq!(whole.from.offset, 400);
    let end = answered(&Lan::new(), &range("offset='1000'")).unwrap();
    assert_eq!(end.from.offset, 1000);
    let ours = format!(
        "<file xmlns='{}'/><transfer xmlns='{}' offset='5'/>",
        ns::SI_FILE_TRANSFER,
        ns::PNEUMA
    );
    for answer in [
        range("offset='1001'"),
        range("offset='9223372036854775807'"),
        range("offset='-1'"),
        range("offset='400' length='5'"),
        range("length='1001'"),
        chosen(&ours),
        chosen("").replace(ns::IBB, "carrier-pigeon"),
        format!("<iq type='result' id='SID' from='{FINCH}'/>"),
        format!(
            "<iq type='result' id='SID' from='{FINCH}'><si xmlns='{}'/></iq>",
            ns::SI
        ),
    ] {
        let failed = answered(&Lan::new(), &answer);
        assert!(
            matches!(failed, Err(Error::ConnectionFailed(_))),
            "{answer}: {failed:?}"
        );
    }
}

#[test]
fn what_a_plain_client_cannot_take_is_not_offered() {
    let lan = Lan::new();
    let (romeo, host) = two(&lan);
    let connections = host.accept_all();
    let mut finches = Vec::new();
    for size in [None, Some(1 << 31), Some(u64::MAX)] {
        let offering = sending(&romeo, FileOffer::new("a", size)).offer();
        let greeted = async {
            loop {
                let connection = connections.recv().await.unwrap();
                finches.push(Finch::greeting(connection.carrier, &romeo).await);
            }
        };
        let outcome = lan.sim.run(future::or(offering, greeted));
        assert!(matches!(outcome, Err(Error::NotCapable(_))), "{outcome:?}");
    }
    let mut bad = FileOffer::new("a", Some(1));
    bad.metadata.insert("FORM_TYPE".into(), vec!["x".into()]);
    for bad in [bad, FileOffer::new("", Some(1))] {
        let outcome = lan.sim.run(sending(&romeo, bad).offer());
        assert!(
            matches!(outcome, Err(Error::InvalidArgument(_))),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_client_that_answers_no_discovery_is_offered_a_file_at_once() {
    let lan = Lan::new();
    let (romeo, host) = two(&lan);
    let connections = host.accept_all();
    let before = lan.sim.now();
    let offering = sending(&romeo, FileOffer::new("a", Some((1 << 31) - 1))).offer();
    let finch = async {
        let connection = connections.recv().await.unwrap();
        let mut finch = Finch::greeting(connection.carrier, &romeo).await;
        let heard = finch.hears("</si></iq>").await;
        assert!(!heard.contains("<transfer "), "{heard}");
        finch
    };
    let first = async { Err(offering.await) };
    let came = async { Ok(finch.await) };
    let finch = lan.sim.run(future::or(first, came));
    assert!(finch.is_ok());
    assert_eq!(lan.sim.now(), before);
    // It is never asked for anything else but a file.
    let nothing = romeo.side.find(|event| match a_file(event) {
        Continue(event) => Continue::<(), _>(event),
        std::ops::ControlFlow::Break(_) => panic!("nobody offered one"),
    });
    assert!(lan.sim.run(future::poll_once(Box::pin(nothing))).is_none());
}

#[test]
fn offers_that_are_never_answered_are_forgotten_when_nobody_waits() {
    let lan = Lan::new();
    let (romeo, host) = two(&lan);
    let connections = host.accept_all();
    // More than may wait for their answers at one time.
    let offers = async {
        let mut finch: Option<Finch> = None;
        for _ in 0..400 {
            let offering = sending(&romeo, FileOffer::new("a", Some(1))).offer();
            let heard = async {
                if finch.is_none() {
                    let connection = connections.recv().await.unwrap();
                    finch = Some(Finch::greeting(connection.carrier, &romeo).await);
                }
                finch.as_mut().unwrap().hears("</si></iq>").await;
            };
            let answered = async { Some(offering.await) };
            let heard = async {
                heard.await;
                None
            };
            let outcome = future::or(answered, heard).await;
            assert!(outcome.is_none(), "{outcome:?}");
        }
        finch
    };
    let _finch = lan.sim.run(offers);
}

#[test]
fn a_stream_that_is_closing_is_replaced_before_the_offer() {
    let lan = Lan::new();
    let (romeo, host) = two(&lan);
    let connections = host.accept_all();
    let greeted = async {
        let connection = connections.recv().await.unwrap();
        Finch::greeting(connection.carrier, &romeo).await
    };
    let first = sending(&romeo, FileOffer::new("a", Some(1)));
    let mut offering = first.offer();
    let finch = async {
        let mut finch = greeted.await;
        finch.hears("</si></iq>").await;
        finch
    };
    let answered = async { Err((&mut offering).await) };
    let came = async { Ok(finch.await) };
    let mut old = lan.sim.run(future::or(answered, came)).ok().unwrap();
    drop(offering);
    // It is idle, and closes; finch does not close its end.
    lan.advance(121);
    lan.sim.run(old.hears("</stream:stream>"));
    let again = async {
        let connection = connections.recv().await.unwrap();
        let mut finch = Finch::greeting(connection.carrier, &romeo).await;
        finch.answers(&refused("forbidden")).await;
        finch
    };
    let (declined, _new) = lan.sim.run(future::zip(first.offer(), again));
    assert!(matches!(declined, Err(Error::Rejected(_))), "{declined:?}");
}
