//! Files from one session to another: offered, agreed to with and without a beginning, declined, taken
//! back; what happens to offers that wait when their stream does not go on.

use std::{
    collections::BTreeSet,
    ops::ControlFlow::{self, Break, Continue},
};

use actors::{
    model::{BytestreamId, Error, FileOffer, Resume, Sha256Digest},
    ports::{AgreedFile, FileStream, IncomingFile},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use super::{
    lan::{Lan, Person, gone, lan_in_band},
    support::{Side, in_time, mdns_port, peer, run},
};
use crate::{
    session::{Contact, ContactId, PeerId, SessionEvent},
    xmpp::ns,
};

pub(super) type Offered = (PeerId, FileOffer, Box<dyn IncomingFile>);

pub(super) fn a_file(event: SessionEvent) -> ControlFlow<Offered, SessionEvent> {
    match event {
        SessionEvent::FileOffered {
            from,
            file,
            incoming,
        } => Break((from, file, incoming)),
        other => Continue(other),
    }
}

async fn take_files(side: &Side) {
    let features = BTreeSet::from([ns::SI_FILE_TRANSFER.to_owned()]);
    side.session.set_features(features).await;
}

fn takes_files(contact: &Contact) -> bool {
    let features = contact.features.as_ref();
    features.is_some_and(|features| features.contains(ns::SI_FILE_TRANSFER))
}

fn photo() -> FileOffer {
    FileOffer {
        id: Some(BytestreamId([5; 16])),
        description: "Verona".into(),
        ..FileOffer::new("photo.jpg", Some(100_000))
    }
}

fn stored(offset: u64) -> Resume {
    Resume {
        offset,
        stored: Some(Sha256Digest([9; 32])),
    }
}

/// One side offers, the other agrees; what each has.
async fn agreed(
    from: &Side,
    to: (&Side, &ContactId),
    file: FileOffer,
    resume: Resume,
) -> (
    Result<(Resume, FileStream), Error>,
    Result<FileStream, Error>,
) {
    let sending = from.session.file(&peer(to.1), file.clone());
    let sender = async {
        let agreed = sending.offer().await?;
        Ok((agreed.from, agreed.opening.await?))
    };
    let receiver = async {
        let (_, offered, incoming) = to.0.find(a_file).await;
        assert_eq!(offered, file);
        assert!(incoming.has_ranges());
        incoming.accept(resume).await
    };
    future::zip(sender, receiver).await
}

async fn carry(from: &mut FileStream, to: &mut FileStream, count: usize) {
    let bytes: Vec<u8> = (0..count).map(|n| (n % 251) as u8).collect();
    let (from, to) = (&mut from.bytestream.io, &mut to.bytestream.io);
    let mut came = Vec::new();
    let write = async {
        from.write_all(&bytes).await?;
        from.close().await
    };
    let (wrote, read) = future::zip(write, to.read_to_end(&mut came)).await;
    wrote.unwrap();
    read.unwrap();
    assert!(came == bytes);
}

#[test]
fn two_meet_and_a_file_goes_from_one_to_the_other() {
    run(async |spawner| {
        let port = mdns_port();
        let ((romeo, _), (juliet, juliet_id)) = future::zip(
            Side::online(spawner, "romeo", port),
            Side::online(spawner, "juliet", port),
        )
        .await;
        romeo.discovers(&juliet_id).await;
        let sending = romeo.session.file(&peer(&juliet_id), photo());
        let refused = sending.offer().await;
        assert!(matches!(refused, Err(Error::NotCapable(_))), "{refused:?}");
        take_files(&juliet).await;
        romeo.sees(&juliet_id, takes_files).await;
        for resume in [Resume::default(), stored(40_000)] {
            let both = agreed(&romeo, (&juliet, &juliet_id), photo(), resume.clone());
            let (sender, receiver) = in_time("the transfer", both).await;
            let ((from, mut sender), mut receiver) = (sender.unwrap(), receiver.unwrap());
            assert_eq!(from, resume);
            for end in [&sender, &receiver] {
                assert!(end.framed && end.bytestream.encrypted);
            }
            in_time("the bytes", carry(&mut sender, &mut receiver, 300_000)).await;
        }
        future::zip(romeo.session.disconnect(), juliet.session.disconnect()).await;
    });
}

/// Two who take files, on a network in memory.
fn two(lan: &Lan) -> [Person; 2] {
    let people = ["romeo", "juliet"].map(|name| lan.person(name));
    for person in &people {
        lan.sim.run(take_files(&person.side));
    }
    for (here, there) in [(0, 1), (1, 0)] {
        let id = people[there].id.clone();
        people[here].sees(lan, &id, takes_files);
    }
    people
}

type Offering = std::pin::Pin<Box<dyn Future<Output = Result<AgreedFile, Error>> + Send>>;

/// One offers a file, and the other has it before it.
fn offered(lan: &Lan, from: &Person, to: &Person) -> (Offering, Box<dyn IncomingFile>) {
    let mut offering = from.side.session.file(&peer(&to.id), photo()).offer();
    let answered = async { Err((&mut offering).await) };
    let came = async { Ok(to.side.find(a_file).await) };
    let (who, _, incoming) = lan.sim.run(future::or(answered, came)).unwrap();
    assert_eq!(who, peer(&from.id));
    (offering, incoming)
}

/// What has come of something by now.
pub(super) fn now<T>(lan: &Lan, future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    lan.sim.settle();
    lan.sim.run(future::poll_once(future))
}

#[test]
fn a_person_may_think_for_a_day() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let (mut offering, incoming) = offered(&lan, &romeo, &juliet);
    let mut withdrawn = incoming.withdrawn();
    lan.advance(24 * 3600);
    assert!(now(&lan, &mut offering).is_none());
    assert!(now(&lan, &mut withdrawn).is_none());
    let mut accepting = incoming.accept(stored(100_000));
    assert!(now(&lan, &mut accepting).is_none());
    let agreed = lan.sim.run(offering).unwrap();
    assert_eq!(agreed.from, stored(100_000));
    // He looks through what he has sent before, for an hour.
    lan.advance(3600);
    assert!(now(&lan, &mut accepting).is_none());
    let (sender, receiver) = lan.sim.run(future::zip(agreed.opening, accepting));
    let (mut sender, mut receiver) = (sender.unwrap(), receiver.unwrap());
    assert!(sender.framed && receiver.framed);
    lan.sim.run(carry(&mut sender, &mut receiver, 300_000));
    drop((sender, receiver));
    // Nothing keeps the stream any more.
    lan.advance(240);
    assert_eq!(lan.open.open(), 0);
    gone(&lan, [romeo, juliet]);
}

#[test]
fn who_declines_says_so_and_no_more() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let (offering, incoming) = offered(&lan, &romeo, &juliet);
    incoming.decline(Error::PermissionDenied("a rule".into()));
    let declined = lan.sim.run(offering);
    assert!(matches!(declined, Err(Error::Rejected(_))), "{declined:?}");
    let (offering, incoming) = offered(&lan, &romeo, &juliet);
    drop(incoming);
    let declined = lan.sim.run(offering);
    assert!(matches!(declined, Err(Error::Rejected(_))), "{declined:?}");
    lan.advance(240);
    assert_eq!(lan.open.open(), 0);
    gone(&lan, [romeo, juliet]);
}

#[test]
fn an_offer_that_is_taken_back_is_withdrawn() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let (offering, incoming) = offered(&lan, &romeo, &juliet);
    let mut withdrawn = incoming.withdrawn();
    assert!(now(&lan, &mut withdrawn).is_none());
    drop(offering);
    lan.sim.run(withdrawn);
    drop(incoming);
    // And once more after it was agreed to.
    let (offering, incoming) = offered(&lan, &romeo, &juliet);
    let mut accepting = incoming.accept(Resume::default());
    assert!(now(&lan, &mut accepting).is_none());
    drop(lan.sim.run(offering).unwrap());
    let accepted = lan.sim.run(accepting);
    assert!(matches!(accepted, Err(Error::Rejected(_))), "{accepted:?}");
    lan.advance(240);
    assert_eq!(lan.open.open(), 0);
    gone(&lan, [romeo, juliet]);
}

#[test]
fn the_end_of_the_stream_is_the_end_of_its_offers() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let (offering, incoming) = offered(&lan, &romeo, &juliet);
    let withdrawn = incoming.withdrawn();
    lan.break_all();
    lan.sim.run(withdrawn);
    let over = lan.sim.run(offering);
    assert!(matches!(over, Err(Error::Offline(_))), "{over:?}");
    let accepted = lan.sim.run(incoming.accept(Resume::default()));
    assert!(matches!(accepted, Err(Error::Offline(_))), "{accepted:?}");
    // Whoever goes offline in order does the same.
    let (offering, incoming) = offered(&lan, &romeo, &juliet);
    lan.sim.run(juliet.side.session.disconnect());
    let over = lan.sim.run(offering);
    assert!(matches!(over, Err(Error::Offline(_))), "{over:?}");
    lan.sim.run(incoming.withdrawn());
    drop(incoming);
    gone(&lan, [romeo, juliet]);
}

#[test]
fn offers_that_are_made_and_taken_back_leave_nothing() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    for _ in 0..500 {
        let (offering, incoming) = offered(&lan, &romeo, &juliet);
        let withdrawn = incoming.withdrawn();
        drop(offering);
        lan.sim.run(withdrawn);
    }
    // As many as may stand, and one more, which fails here.
    let file = |_| romeo.side.session.file(&peer(&juliet.id), photo()).offer();
    let mut offerings: Vec<_> = (0..32).map(file).collect();
    for _ in 0..3 {
        for offering in &mut offerings {
            assert!(now(&lan, offering).is_none());
        }
    }
    let more = lan.sim.run(file(32));
    assert!(
        matches!(more, Err(Error::ResourceUnavailable(_))),
        "{more:?}"
    );
    drop(offerings);
    lan.advance(240);
    assert_eq!(lan.open.open(), 0);
    gone(&lan, [romeo, juliet]);
}

#[test]
fn a_peer_that_vanishes_without_a_word_is_noticed_while_an_offer_stands() {
    let lan = lan_in_band();
    let [romeo, juliet] = two(&lan);
    let (mut offering, incoming) = offered(&lan, &romeo, &juliet);
    let mut withdrawn = incoming.withdrawn();
    lan.silence_all();
    assert!(now(&lan, &mut offering).is_none());
    lan.advance(80);
    let over = now(&lan, &mut offering);
    assert!(matches!(over, Some(Err(Error::Offline(_)))), "{over:?}");
    assert!(now(&lan, &mut withdrawn).is_some());
}
