//! Who is who, whatever comes in whatever order.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::session::link_local::discovery::PresenceText;

const OWN: KeyId = KeyId([0; 32]);
const ROMEO: KeyId = KeyId([1; 32]);
const MALLORY: KeyId = KeyId([2; 32]);
const NAME: &str = "romeo@forza";

fn id(name: &str) -> ContactId {
    ContactId(name.into())
}

fn at(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

fn sighting(name: &str, key: Option<KeyId>) -> Sighting {
    Sighting {
        instance: name.into(),
        addresses: vec![SocketAddr::from(([192, 0, 2, 1], 5298))],
        text: PresenceText {
            key,
            ver: "v1".into(),
            ..PresenceText::default()
        },
    }
}

fn table() -> Contacts {
    let mut contacts = Contacts::new(OWN, true, TrustTable::default());
    contacts.set_own_name("us@here", at(0));
    contacts
}

/// Romeo, pinned and seen.
fn pinned() -> Contacts {
    let mut contacts = table();
    contacts.seen(sighting(NAME, Some(ROMEO)), at(0));
    contacts
        .pin(&id(NAME), Some(ROMEO), None, SystemTime::UNIX_EPOCH, at(0))
        .unwrap();
    contacts
}

fn trust(contacts: &Contacts, name: &str) -> Trust {
    contacts.contact(&id(name)).unwrap().trust
}

fn show(contacts: &Contacts) -> Show {
    contacts.contact(&id(NAME)).unwrap().presence.show
}

#[test]
fn a_newcomer_is_told_of_and_asked_and_not_pinned() {
    let mut contacts = table();
    let changes = contacts.seen(sighting(NAME, Some(ROMEO)), at(0));
    assert_eq!(changes, [Change::Changed(id(NAME)), Change::Ask(id(NAME))]);
    assert_eq!(trust(&contacts, NAME), Trust::Unpinned);
    assert!(contacts.trust().rows().is_empty());
}

#[test]
fn only_the_key_that_our_user_was_shown_is_pinned() {
    let mut contacts = table();
    contacts.seen(sighting(NAME, Some(MALLORY)), at(0));
    // Mallory took the place of Romeo, whose key our user saw, and proves her own.
    assert!(matches!(
        contacts.needs_proof(&id(NAME), Some(ROMEO)),
        Err(Error::CertFingerprintMismatch(_))
    ));
    let when = SystemTime::UNIX_EPOCH;
    let pin = contacts.pin(&id(NAME), Some(MALLORY), Some(ROMEO), when, at(1));
    assert!(matches!(pin, Err(Error::CertFingerprintMismatch(_))));
    assert!(contacts.trust().rows().is_empty());
    assert_eq!(contacts.needs_proof(&id(NAME), Some(MALLORY)), Ok(true));
    contacts
        .pin(&id(NAME), Some(MALLORY), Some(MALLORY), when, at(1))
        .unwrap();
    assert_eq!(contacts.needs_proof(&id(NAME), Some(MALLORY)), Ok(false));
    let pinned = contacts.needs_proof(&id(NAME), Some(ROMEO));
    assert!(matches!(pinned, Err(Error::CertFingerprintMismatch(_))));
}

#[test]
fn a_contact_with_a_key_is_not_taken_for_pinned_in_plaintext() {
    let mut contacts = Contacts::new(OWN, false, TrustTable::default());
    contacts.seen(sighting(NAME, None), at(0));
    let when = SystemTime::UNIX_EPOCH;
    assert_eq!(
        contacts.pin(&id(NAME), None, None, when, at(1)),
        Ok(Vec::new())
    );
    contacts.seen(sighting(NAME, Some(ROMEO)), at(1));
    assert!(matches!(
        contacts.pin(&id(NAME), None, None, when, at(1)),
        Err(Error::EncryptionNotAvailable(_))
    ));
}

#[test]
fn the_same_ver_is_asked_once_and_another_again() {
    let mut contacts = table();
    let mut seen = sighting(NAME, Some(ROMEO));
    contacts.seen(seen.clone(), at(0));
    seen.text.message = "hello".into();
    assert_eq!(
        contacts.seen(seen.clone(), at(1)),
        [Change::Changed(id(NAME))]
    );
    contacts.answered(&id(NAME), BTreeSet::from(["x".into()]));
    assert!(contacts.known_features(&id(NAME)).is_some());
    seen.text.ver = "v2".into();
    assert!(contacts.seen(seen, at(2)).contains(&Change::Ask(id(NAME))));
    assert!(contacts.known_features(&id(NAME)).is_none());
}

#[test]
fn features_are_those_of_a_key_and_not_of_a_name() {
    let mut contacts = table();
    contacts.seen(sighting(NAME, Some(ROMEO)), at(0));
    contacts.answered(&id(NAME), BTreeSet::from(["x".into()]));
    contacts.seen(sighting(NAME, Some(MALLORY)), at(1));
    assert_eq!(contacts.contact(&id(NAME)).unwrap().features, None);
}

#[test]
fn we_do_not_see_ourselves_by_name_or_by_key() {
    let mut contacts = table();
    assert!(
        contacts
            .seen(sighting("us@here", Some(MALLORY)), at(0))
            .is_empty()
    );
    assert!(
        contacts
            .seen(sighting("else@here", Some(OWN)), at(0))
            .is_empty()
    );
    assert!(contacts.ids().is_empty());
}

#[test]
fn a_name_that_changes_its_key_loses_its_streams() {
    let mut contacts = table();
    contacts.seen(sighting(NAME, Some(ROMEO)), at(0));
    let changes = contacts.seen(sighting(NAME, Some(MALLORY)), at(1));
    assert!(changes.contains(&Change::Rekeyed(id(NAME))), "{changes:?}");
    assert!(!contacts.is_key_of(&id(NAME), Some(ROMEO)));
}

#[test]
fn a_pinned_name_with_another_key_or_none_is_blocked_beside_it() {
    for (key, second) in [
        (Some(MALLORY), "romeo@forza (02020202)"),
        (None, "romeo@forza (no key)"),
    ] {
        let mut contacts = pinned();
        contacts.seen(sighting(NAME, key), at(1));
        assert!(matches!(trust(&contacts, NAME), Trust::Pinned { .. }));
        assert_eq!(trust(&contacts, second), Trust::Blocked { pinned: ROMEO });
        assert!(matches!(
            contacts.route(&id(second)),
            Err(Error::CertFingerprintMismatch(_))
        ));
        assert!(matches!(
            contacts.claim(NAME, key, [192, 0, 2, 1].into()),
            Claim::Refused(_)
        ));
        assert!(!contacts.is_key_of(&id(second), key));
    }
}

#[test]
fn a_name_made_to_look_like_a_blocked_contact_takes_nobodys_place() {
    let mut contacts = pinned();
    let look_alike = "romeo@forza (02020202)";
    contacts.seen(sighting(look_alike, Some(KeyId([3; 32]))), at(1));
    contacts.seen(sighting(NAME, Some(MALLORY)), at(2));
    let blocked: Vec<_> = contacts
        .ids()
        .into_iter()
        .filter(|id| matches!(trust(&contacts, &id.0), Trust::Blocked { .. }))
        .collect();
    assert_eq!(blocked, [id(&format!("{NAME} ({MALLORY})"))]);
    assert_eq!(trust(&contacts, look_alike), Trust::Unpinned);
}

#[test]
fn only_a_record_with_the_same_key_vouches_for_a_stream() {
    let mut contacts = table();
    let from = |contacts: &Contacts, key| contacts.claim(NAME, Some(key), [192, 0, 2, 1].into());
    assert_eq!(from(&contacts, ROMEO), Claim::Unknown);
    contacts.seen(sighting(NAME, Some(ROMEO)), at(0));
    assert_eq!(from(&contacts, ROMEO), Claim::Is(id(NAME)));
    assert_eq!(from(&contacts, MALLORY), Claim::Unknown);
    assert!(matches!(from(&contacts, OWN), Claim::Refused(_)));
    // In plaintext, nobody while encryption is required.
    assert!(matches!(
        contacts.claim(NAME, None, [192, 0, 2, 1].into()),
        Claim::Refused(_)
    ));
}

#[test]
fn plaintext_is_believed_from_the_announced_address_without_a_key_only() {
    let mut contacts = Contacts::new(OWN, false, TrustTable::default());
    contacts.seen(sighting(NAME, None), at(0));
    let claim = |contacts: &Contacts, last| contacts.claim(NAME, None, [192, 0, 2, last].into());
    assert_eq!(claim(&contacts, 1), Claim::Is(id(NAME)));
    assert!(matches!(claim(&contacts, 2), Claim::Refused(_)));
    assert_eq!(contacts.route(&id(NAME)).unwrap().key, None);
    contacts.seen(sighting(NAME, Some(ROMEO)), at(1));
    assert!(matches!(claim(&contacts, 1), Claim::Refused(_)));
    assert_eq!(contacts.route(&id(NAME)).unwrap().key, Some(ROMEO));
}

#[test]
fn a_link_local_address_is_believed_in_plaintext_where_the_record_has_none() {
    let mut contacts = Contacts::new(OWN, false, TrustTable::default());
    let claim = |contacts: &Contacts, from: &str| contacts.claim(NAME, None, from.parse().unwrap());
    let mut seen = sighting(NAME, None);
    contacts.seen(seen.clone(), at(0));
    assert_eq!(claim(&contacts, "fe80::2"), Claim::Is(id(NAME)));
    assert!(matches!(claim(&contacts, "fd99::2"), Claim::Refused(_)));
    seen.addresses.push("[fe80::3]:5298".parse().unwrap());
    contacts.seen(seen, at(1));
    assert!(matches!(claim(&contacts, "fe80::2"), Claim::Refused(_)));
    assert_eq!(claim(&contacts, "fe80::3"), Claim::Is(id(NAME)));
}

#[test]
fn a_contact_without_a_key_is_out_of_reach_where_encryption_is_required() {
    let mut contacts = table();
    contacts.seen(sighting(NAME, None), at(0));
    assert!(matches!(
        contacts.route(&id(NAME)),
        Err(Error::EncryptionNotAvailable(_))
    ));
    assert!(matches!(
        contacts.needs_proof(&id(NAME), None),
        Err(Error::EncryptionNotAvailable(_))
    ));
}

#[test]
fn out_of_sight_means_offline_two_looks_and_then_lost() {
    let mut contacts = pinned();
    let changes = contacts.gone(NAME, at(100));
    assert!(changes.contains(&Change::Probe(id(NAME))));
    assert_eq!(show(&contacts), Show::Offline);
    assert_eq!(contacts.next_deadline(), Some(at(115)));
    assert_eq!(contacts.expire(at(115)), [Change::Probe(id(NAME))]);
    assert_eq!(contacts.expire(at(129)), []);
    assert_eq!(contacts.expire(at(130)), [Change::Lost(id(NAME))]);
    assert_eq!(contacts.next_deadline(), None);
    assert_eq!(contacts.expire(at(9999)), []);
    // Still known, still routed to where it was last.
    assert!(contacts.route(&id(NAME)).is_ok());
}

#[test]
fn a_live_stream_outweighs_a_goodbye_and_its_end_begins_the_grace_period() {
    let mut contacts = pinned();
    let address = SocketAddr::from(([192, 0, 2, 1], 5298));
    contacts.stream_up(&id(NAME), address, true, at(1));
    contacts.gone(NAME, at(2));
    assert_eq!(show(&contacts), Show::Available);
    assert_eq!(contacts.next_deadline(), None);
    contacts.stream_down(&id(NAME), at(50));
    assert_eq!(show(&contacts), Show::Offline);
    contacts.expire(at(65));
    // It answered the second look.
    contacts.stream_up(&id(NAME), address, true, at(66));
    assert_eq!(show(&contacts), Show::Available);
    assert_eq!(contacts.expire(at(500)), []);
    contacts.stream_down(&id(NAME), at(600));
    contacts.expire(at(615));
    assert_eq!(contacts.expire(at(630)), [Change::Lost(id(NAME))]);
}

#[test]
fn who_comes_back_in_time_is_not_lost() {
    let mut contacts = pinned();
    contacts.gone(NAME, at(100));
    contacts.seen(sighting(NAME, Some(ROMEO)), at(110));
    assert_eq!(contacts.expire(at(500)), []);
    assert_eq!(show(&contacts), Show::Available);
}

#[test]
fn the_forgotten_are_strangers_again() {
    let mut contacts = pinned();
    let changes = contacts.forget(&id(NAME), at(1)).unwrap();
    assert_eq!(changes.first(), Some(&Change::Lost(id(NAME))));
    assert_eq!(trust(&contacts, NAME), Trust::Unpinned);
    assert!(contacts.forget(&id(NAME), at(1)).is_err());
    contacts.gone(NAME, at(2));
    contacts.expire(at(17));
    let changes = contacts.expire(at(40));
    assert_eq!(changes, [Change::Lost(id(NAME)), Change::Removed(id(NAME))]);
}

#[test]
fn a_key_that_changed_since_it_was_proved_is_not_pinned() {
    let mut contacts = table();
    contacts.seen(sighting(NAME, Some(MALLORY)), at(0));
    let pin = contacts.pin(&id(NAME), Some(ROMEO), None, SystemTime::UNIX_EPOCH, at(1));
    assert!(matches!(pin, Err(Error::CertFingerprintMismatch(_))));
    assert!(contacts.trust().rows().is_empty());
}

#[test]
fn strangers_are_capped_at_one_address_and_in_all_and_the_pinned_get_in() {
    let mut contacts = pinned();
    contacts.gone(NAME, at(0));
    for n in 0..2 * MAX_PER_ADDRESS {
        contacts.seen(sighting(&format!("a{n}@x"), None), at(1));
    }
    assert_eq!(contacts.sightings.len(), MAX_PER_ADDRESS);
    for n in 0..2 * MAX_SIGHTINGS {
        let mut stranger = sighting(&format!("b{n}@x"), None);
        stranger.addresses = vec![SocketAddr::from((
            [198, 51, (n / 256) as u8, (n % 256) as u8],
            1,
        ))];
        contacts.seen(stranger, at(1));
    }
    assert_eq!(contacts.sightings.len(), MAX_SIGHTINGS);
    contacts.seen(sighting("romeo@elsewhere", Some(ROMEO)), at(2));
    assert_eq!(show(&contacts), Show::Available);
    for n in 0..100 {
        contacts.seen(sighting(&format!("c{n}@x"), Some(ROMEO)), at(3));
    }
    let claims = contacts.entries[&id(NAME)].instances.len();
    assert_eq!(claims, MAX_CLAIMS);
    assert_eq!(contacts.sightings.len(), MAX_SIGHTINGS);
}

#[derive(Clone, Debug)]
enum Step {
    Seen(u8, Option<u8>),
    Gone(u8),
    Up(u8),
    Down(u8),
    Pin(u8),
    Forget(u8),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8, proptest::option::of(1..4_u8)).prop_map(|(name, key)| Step::Seen(name, key)),
        (0..4_u8).prop_map(Step::Gone),
        (0..4_u8).prop_map(Step::Up),
        (0..4_u8).prop_map(Step::Down),
        (0..4_u8).prop_map(Step::Pin),
        (0..4_u8).prop_map(Step::Forget),
        (0..40_u16).prop_map(Step::Wait),
    ]
}

#[test]
fn a_pinned_name_in_other_letters_is_that_name() {
    let mut contacts = pinned();
    contacts.seen(sighting("Romeo@FORZA", Some(MALLORY)), at(1));
    let second = format!("Romeo@FORZA ({})", MALLORY.short());
    assert_eq!(trust(&contacts, &second), Trust::Blocked { pinned: ROMEO });
    let address = [192, 0, 2, 1].into();
    assert!(matches!(
        contacts.claim("Romeo@FORZA", Some(MALLORY), address),
        Claim::Refused(_)
    ));
    // The key itself may be written with any name.
    contacts.seen(sighting("ROMEO@forza", Some(ROMEO)), at(2));
    assert_eq!(
        contacts.claim("ROMEO@forza", Some(ROMEO), address),
        Claim::Is(id(NAME))
    );
}

#[test]
fn claims_of_a_pinned_key_do_not_keep_the_name_it_was_pinned_under_out() {
    let mut contacts = pinned();
    contacts.gone(NAME, at(1));
    for n in 0..2 * MAX_CLAIMS {
        contacts.seen(sighting(&format!("liar {n}"), Some(ROMEO)), at(2));
    }
    assert_eq!(contacts.sightings.len(), MAX_CLAIMS);
    contacts.seen(sighting(NAME, Some(ROMEO)), at(3));
    assert_eq!(contacts.sightings.len(), MAX_CLAIMS);
    let address = [192, 0, 2, 1].into();
    assert_eq!(
        contacts.claim(NAME, Some(ROMEO), address),
        Claim::Is(id(NAME))
    );
}

#[test]
fn claims_of_a_pinned_key_do_not_hide_the_way_to_who_has_it() {
    let mut contacts = pinned();
    let true_way = (SocketAddr::from(([192, 0, 2, 1], 5298)), NAME.to_owned());
    for n in 1..MAX_CLAIMS {
        let mut lie = sighting(&format!("liar {n}"), Some(ROMEO));
        lie.addresses = (0..MAX_ADDRESSES as u16)
            .map(|port| SocketAddr::from(([192, 0, 2, 66], port + 1)))
            .collect();
        contacts.seen(lie, at(1));
    }
    let route = contacts.route(&id(NAME)).unwrap();
    assert_eq!(route.ways.first(), Some(&true_way));
    assert_eq!(route.ways.len(), MAX_ROUTE);
    // Under a new name it still has its turn, and where it was last found it is tried first.
    let mut contacts = pinned();
    contacts.gone(NAME, at(1));
    contacts.seen(sighting("zoe@forza", Some(ROMEO)), at(1));
    let true_way = (true_way.0, "zoe@forza".to_owned());
    let mut lie = sighting("liar", Some(ROMEO));
    lie.addresses = (0..MAX_ADDRESSES as u16)
        .map(|port| SocketAddr::from(([192, 0, 2, 66], port + 1)))
        .collect();
    contacts.seen(lie, at(1));
    assert!(contacts.route(&id(NAME)).unwrap().ways.contains(&true_way));
    contacts.stream_up(&id(NAME), true_way.0, true, at(2));
    let route = contacts.route(&id(NAME)).unwrap();
    assert_eq!(route.ways.first(), Some(&true_way));
}

#[test]
fn names_that_come_and_go_do_not_pile_up() {
    let mut contacts = pinned();
    let mut lost = 0;
    for n in 0..3 * MAX_LOST {
        let name = format!("ghost {n}");
        contacts.seen(sighting(&name, Some(MALLORY)), at(1));
        let changes = contacts.gone(&name, at(1));
        let is_lost = |change: &&Change| matches!(change, Change::Lost(_));
        lost += changes.iter().filter(is_lost).count();
    }
    assert_eq!(contacts.ids().len(), MAX_LOST + 1);
    assert_eq!(lost, 2 * MAX_LOST);
    assert!(contacts.ids().contains(&id(NAME)));
}

proptest! {
    /// Whatever happens: a pinned contact never takes another key, a blocked one is never routed to,
    /// everybody who is told of exists, and nobody stays for ever who is not pinned.
    #[test]
    fn no_order_of_events_breaks_trust(steps in proptest::collection::vec(step(), 0..60)) {
        let mut contacts = table();
        let mut now = at(0);
        let name = |n: u8| format!("n{n}");
        let address = SocketAddr::from(([192, 0, 2, 1], 5298));
        for step in steps {
            let pinned: Vec<_> = contacts.trust().rows().to_vec();
            let changes = match step {
                Step::Seen(n, key) => {
                    contacts.seen(sighting(&name(n), key.map(|key| KeyId([key; 32]))), now)
                }
                Step::Gone(n) => contacts.gone(&name(n), now),
                Step::Up(n) => contacts.stream_up(&id(&name(n)), address, true, now),
                Step::Down(n) => contacts.stream_down(&id(&name(n)), now),
                Step::Pin(n) => {
                    let key = contacts.contact(&id(&name(n))).and_then(|contact| contact.key);
                    key.and_then(|key| {
                        contacts.pin(&id(&name(n)), Some(key), None, SystemTime::UNIX_EPOCH, now).ok()
                    }).unwrap_or_default()
                }
                Step::Forget(n) => contacts.forget(&id(&name(n)), now).unwrap_or_default(),
                Step::Wait(seconds) => {
                    now += at(seconds.into());
                    contacts.expire(now)
                }
            };
            for change in &changes {
                if let Change::Changed(id) = change {
                    prop_assert!(
                        contacts.contact(id).is_some()
                            || changes.contains(&Change::Removed(id.clone())),
                        "{id} was told of and does not exist"
                    );
                }
            }
            for row in contacts.trust().rows() {
                let contact = contacts.contact(&ContactId(row.contact.clone()));
                prop_assert_eq!(contact.and_then(|contact| contact.key), Some(row.key));
                let before = pinned.iter().find(|old| old.contact == row.contact);
                prop_assert!(before.is_none_or(|old| old.key == row.key));
            }
            for id in contacts.ids() {
                if matches!(trust(&contacts, &id.0), Trust::Blocked { .. }) {
                    prop_assert!(contacts.route(&id).is_err());
                }
            }
        }
        for n in 0..4 {
            contacts.gone(&name(n), now);
        }
        for id in contacts.ids() {
            contacts.stream_down(&id, now);
        }
        contacts.expire(now + GRACE);
        contacts.expire(now + 2 * GRACE);
        for id in contacts.ids() {
            prop_assert!(contacts.trust().by_contact(PROTOCOL, &id.0).is_some(), "{id} stays");
        }
    }
}
