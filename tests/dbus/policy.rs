//! What our user lets whom do, over D-Bus: shown, changed, told of, in force when the answer comes; and
//! what is no rule.

use std::collections::HashMap;

use pneuma::session::{SessionEvent, trust::MAX_RULES};
use support::name;
use zbus::{OwnedObjectPath, Variant};

use crate::{
    fake::{THEIR_KEY, capable, offer, pinned, plain},
    world::{Account, Map, World},
};

type Terms = HashMap<&'static str, Variant<'static>>;

fn deny() -> Terms {
    HashMap::from([("decision", Variant::from("deny"))])
}

fn rules(account: &Account<'_>) -> Vec<Map> {
    let answer = account.call(name::POLICY, "ListRules", &()).unwrap();
    answer.body().deserialize().unwrap()
}

fn text(map: &Map, key: &str) -> String {
    map[key].downcast_ref::<String>().unwrap()
}

#[test]
fn rules_are_shown_changed_and_told_of() {
    let world = World::new();
    let mut bob = capable("bob@there");
    bob.trust = pinned();
    let account = world.online(vec![bob]);
    let key = THEIR_KEY.to_string();
    assert!(rules(&account).is_empty());
    let full: Terms = HashMap::from([
        ("decision", Variant::from("allow")),
        ("max-connections", Variant::from(3_u32)),
        ("max-bytes-per-second", Variant::from(1_u64 << 21)),
    ]);
    let set = |who: &str, service: &str, terms: &Terms| {
        account.call(name::POLICY, "SetRule", &(who, service, terms))
    };
    set(&key, "http", &full).unwrap();
    let (told, gone) = world.wait("PolicyChanged", |event| {
        event.arguments::<(Vec<Map>, Vec<(String, String)>)>()
    });
    assert_eq!((told.len(), gone.len()), (1, 0));
    assert_eq!(text(&told[0], "who"), key);
    set("everybody", "", &deny()).unwrap();
    let now = rules(&account);
    assert_eq!(now.len(), 2);
    assert_eq!(
        (text(&now[0], "who"), text(&now[0], "service")),
        ("everybody".into(), String::new())
    );
    let of_bob = &now[1];
    assert_eq!(text(of_bob, "who"), key);
    assert_eq!(text(of_bob, "contact-id"), "bob@there");
    assert_eq!(text(of_bob, "service"), "http");
    assert_eq!(text(of_bob, "decision"), "allow");
    assert_eq!(of_bob["max-connections"].downcast_ref::<u32>(), Ok(3));
    assert_eq!(
        of_bob["max-bytes-per-second"].downcast_ref::<u64>(),
        Ok(1 << 21)
    );
    let terms = |who: &str, service: &str| -> Map {
        let answer = account.call(name::POLICY, "GetTerms", &(who, service));
        answer.unwrap().body().deserialize().unwrap()
    };
    assert_eq!(text(&terms(&key, "http"), "decision"), "allow");
    assert_eq!(text(&terms(&key, "rfb"), "decision"), "deny");
    assert_eq!(text(&terms("pinned", ""), "decision"), "deny");
    // A rule is replaced as a whole.
    set(&key, "http", &HashMap::new()).unwrap();
    let plain = terms(&key, "http");
    assert_eq!((plain.len(), text(&plain, "decision")), (1, "ask".into()));
    account
        .call(name::POLICY, "RemoveRule", &(&key, "http"))
        .unwrap();
    let (told, gone) = world.wait("PolicyChanged", |event| {
        let told = event.arguments::<(Vec<Map>, Vec<(String, String)>)>()?;
        (!told.1.is_empty()).then_some(told)
    });
    assert_eq!((told.len(), gone), (0, vec![(key.clone(), "http".into())]));
    let again = account.refused(name::POLICY, "RemoveRule", &(&key, "http"));
    assert_eq!(again, "NotAvailable");
}

#[test]
fn a_deny_is_in_force_when_it_is_answered() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let bob = account.handle("bob@there");
    let (channel, _) = account.create(bob, "http").unwrap();
    account.session.happens(offer("bob@there", 7, "rfb"));
    world.until("the offer is there", || {
        (account.channels() == 2).then_some(())
    });
    account
        .call(name::POLICY, "SetRule", &("everybody", "", deny()))
        .unwrap();
    // The channels close in order.
    world.until("all is closed", || (account.channels() == 0).then_some(()));
    let offered = (
        2_u32,
        Variant::from(("127.0.0.1", 80_u16)),
        0_u32,
        Map::new(),
    );
    assert!(
        world
            .call(&channel, name::STREAM_TUBE, "Offer", &offered)
            .is_err()
    );
    let (channel, _) = account.create(bob, "http").unwrap();
    let refused = world.call(&channel, name::STREAM_TUBE, "Offer", &offered);
    assert_eq!(refused.unwrap_err().short(), "PermissionDenied");
    assert!(!account.session.has_pinned());
    // That of the channel comes after the answer.
    world.until("the channel is told of", || {
        let told = world.events.waiting(|event| {
            let (new,) = event.arguments::<(Vec<(OwnedObjectPath, Map)>,)>()?;
            (event.member == "NewChannels" && new[0].0.as_str() == channel).then_some(())
        });
        told.first().copied()
    });
    world.events.clear();
    account.session.happens(offer("bob@there", 8, "rfb"));
    account
        .session
        .happens(SessionEvent::Contact(plain("eve@there")));
    world.wait("ContactsChangedWithID", |_| Some(()));
    assert!(!world.signals().contains(&"NewChannels".into()));
}

#[test]
fn what_is_no_rule_is_refused() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let key = THEIR_KEY.to_string();
    let long = "x".repeat(1 << 16);
    for (who, service) in [
        ("", ""),
        ("bob@there", "http"),
        ("Pinned", ""),
        (&key[1..], ""),
        ("pinned", "\u{1}"),
        ("pinned", &long),
        (&long, ""),
    ] {
        for (method, refused) in [
            (
                "SetRule",
                account.refused(name::POLICY, "SetRule", &(who, service, deny())),
            ),
            (
                "GetTerms",
                account.refused(name::POLICY, "GetTerms", &(who, service)),
            ),
            (
                "RemoveRule",
                account.refused(name::POLICY, "RemoveRule", &(who, service)),
            ),
        ] {
            assert_eq!(refused, "InvalidArgument", "{method}");
        }
    }
    for (key, value) in [
        ("decision", Variant::from("maybe")),
        ("decision", Variant::from(2_u32)),
        ("max-connections", Variant::from(0_u32)),
        ("max-connections", Variant::from(-1_i32)),
        ("max-connections", Variant::from("3")),
        ("max-bytes-per-second", Variant::from(0_u64)),
        ("max-bytes-per-second", Variant::from(100_u64)),
        ("max-bytes-per-second", Variant::from(u64::MAX)),
        ("max-bytes-per-second", Variant::from(vec![1_u64])),
        ("max-tubes", Variant::from(1_u32)),
    ] {
        let terms = HashMap::from([(key, value)]);
        let refused = account.refused(name::POLICY, "SetRule", &("pinned", "", &terms));
        assert_eq!(refused, "InvalidArgument", "{terms:?}");
    }
    let allow = HashMap::from([("decision", Variant::from("allow"))]);
    let everybody = account.refused(name::POLICY, "SetRule", &("everybody", "", &allow));
    assert_eq!(everybody, "InvalidArgument");
    assert!(rules(&account).is_empty());
    for number in 0..MAX_RULES {
        let rule = ("pinned", format!("x-{number}"), deny());
        account.call(name::POLICY, "SetRule", &rule).unwrap();
    }
    let one_more = account.refused(name::POLICY, "SetRule", &("pinned", "", deny()));
    assert_eq!(one_more, "ResourceUnavailable");
    assert_eq!(rules(&account).len(), MAX_RULES);
}

#[test]
fn before_it_is_online_rules_can_be_set_and_nobody_is_known() {
    let world = World::new();
    let account = world.account("ada");
    account
        .call(name::POLICY, "SetRule", &("pinned", "", deny()))
        .unwrap();
    assert_eq!(rules(&account).len(), 1);
    let refused = account.refused(name::POLICY, "GetTerms", &("pinned", ""));
    assert_eq!(refused, "Disconnected");
}
