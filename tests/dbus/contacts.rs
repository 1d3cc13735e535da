//! Contacts: how they appear, change and go, and everything that is known of them.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures_lite::{StreamExt as _, future::block_on};
use pneuma::session::{ContactId, Presence, SessionEvent, Show, Trust, trust::ComparisonCode};
use support::{CM_NAME, name};
use zbus::{Message, MessageStream, OwnedVariant, Variant};

use crate::{
    fake::{OWN_KEY, THEIR_KEY, capable, pinned, plain},
    world::{Map, World},
};

type Changes = HashMap<u32, (u32, u32, String)>;

#[test]
fn whoever_appears_is_told_of_once_and_in_order() {
    let world = World::new();
    let account = world.online(vec![]);
    let mut bob = capable("bob@there");
    bob.alias = "Bob".into();
    account.session.happens(SessionEvent::Contact(bob));
    world.until("all is told", || {
        world
            .signals()
            .contains(&"TrustChanged".into())
            .then_some(())
    });
    assert_eq!(
        world.signals(),
        [
            "ContactsChangedWithID",
            "ContactsChanged",
            "AliasesChanged",
            "PresencesChanged",
            "ContactCapabilitiesChanged",
            "TrustChanged",
        ]
    );
    let (changes, ids, removals) = world.wait("ContactsChangedWithID", |event| {
        event.arguments::<(Changes, HashMap<u32, String>, HashMap<u32, String>)>()
    });
    let bob = account.handle("bob@there");
    assert_eq!(changes[&bob], (4, 4, String::new()));
    assert_eq!(ids[&bob], "bob@there");
    assert!(removals.is_empty());
    world.events.clear();
    // Nothing new is not told again.
    let mut same = capable("bob@there");
    same.alias = "Bob".into();
    account.session.happens(SessionEvent::Contact(same.clone()));
    same.presence = Presence {
        show: Show::Busy,
        message: "no".into(),
    };
    account.session.happens(SessionEvent::Contact(same));
    let presence = world.wait("PresencesChanged", |event| {
        event.arguments::<(HashMap<u32, (u32, String, String)>,)>()
    });
    assert_eq!(presence.0[&bob], (6, "dnd".into(), "no".into()));
    assert!(world.signals().is_empty(), "{:?}", world.signals());
}

#[test]
fn whoever_goes_keeps_the_handle() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there"), plain("eve@there")]);
    let bob = account.handle("bob@there");
    account
        .session
        .happens(SessionEvent::ContactRemoved(ContactId("bob@there".into())));
    let removed = world.wait("ContactsChangedWithID", |event| {
        event.arguments::<(Changes, HashMap<u32, String>, HashMap<u32, String>)>()
    });
    assert_eq!(removed.2[&bob], "bob@there");
    let presence = world.wait("PresencesChanged", |event| {
        event.arguments::<(HashMap<u32, (u32, String, String)>,)>()
    });
    assert_eq!(presence.0[&bob].0, 1);
    assert_eq!(account.contacts().len(), 1);
    let again: Vec<u32> = account
        .call(
            name::CONNECTION,
            "RequestHandles",
            &(1_u32, vec!["bob@there"]),
        )
        .unwrap()
        .body()
        .deserialize()
        .unwrap();
    assert_eq!(again, [bob]);
    account
        .session
        .happens(SessionEvent::Contact(plain("bob@there")));
    world.until("bob is back", || {
        (account.contacts().get("bob@there") == Some(&bob)).then_some(())
    });
}

#[test]
fn a_crowd_is_a_few_signals() {
    let world = World::new();
    let account = world.online(vec![]);
    for number in 0..3000 {
        account
            .session
            .happens(SessionEvent::Contact(plain(&format!("n{number}@there"))));
    }
    world.until("all are there", || {
        (account.contacts().len() == 3000).then_some(())
    });
    let signals = world
        .signals()
        .iter()
        .filter(|signal| *signal == "ContactsChangedWithID")
        .count();
    assert!(signals < 1500, "{signals} signals for 3000 contacts");
}

#[test]
fn attributes_are_those_that_were_asked_for() {
    let world = World::new();
    let mut bob = capable("bob@there");
    bob.alias = "Bob".into();
    bob.trust = Trust::Verified {
        since: std::time::UNIX_EPOCH + Duration::from_secs(5),
        verified: std::time::UNIX_EPOCH + Duration::from_secs(7),
    };
    let account = world.online(vec![bob, plain("eve@there")]);
    let (bob, eve) = (account.handle("bob@there"), account.handle("eve@there"));
    let all: HashMap<u32, Map> = account
        .call(
            name::CONTACTS,
            "GetContactAttributes",
            &(
                vec![bob, eve, 4711],
                vec![
                    name::ALIASING,
                    name::SIMPLE_PRESENCE,
                    name::CONTACT_CAPABILITIES,
                    name::TRUST,
                    "org.example.Unknown",
                ],
                true,
            ),
        )
        .unwrap()
        .body()
        .deserialize()
        .unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[&bob].len(), 5);
    // Capabilities that are unknown are left out.
    assert_eq!(all[&eve].len(), 4);
    let alias = &all[&bob][&format!("{}/alias", name::ALIASING)];
    assert_eq!(alias.downcast_ref::<String>().unwrap(), "Bob");
    let trust: HashMap<String, OwnedVariant> = all[&bob][&format!("{}/trust", name::TRUST)]
        .try_clone()
        .unwrap()
        .try_into()
        .unwrap();
    assert_eq!(trust["trust"].downcast_ref::<String>().unwrap(), "verified");
    assert_eq!(trust["pinned-since"].downcast_ref::<i64>().unwrap(), 5);
    assert_eq!(trust["verified-since"].downcast_ref::<i64>().unwrap(), 7);
    assert_eq!(
        trust["fingerprint"].downcast_ref::<String>().unwrap(),
        THEIR_KEY.to_string()
    );
    let by_id: (u32, Map) = account
        .call(
            name::CONTACTS,
            "GetContactByID",
            &("bob@there", vec![name::CONTACT_LIST]),
        )
        .unwrap()
        .body()
        .deserialize()
        .unwrap();
    assert_eq!(by_id.0, bob);
    assert_eq!(by_id.1.len(), 3);
    let refused = account.refused(
        name::CONTACTS,
        "GetContactByID",
        &("nobody@there", Vec::<String>::new()),
    );
    assert_eq!(refused, "InvalidHandle");
}

#[test]
fn capabilities_have_exactly_the_classes_that_clients_look_for() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there"), plain("eve@there")]);
    let (bob, eve) = (account.handle("bob@there"), account.handle("eve@there"));
    let all: HashMap<u32, Vec<(Map, Vec<String>)>> = account
        .call(
            name::CONTACT_CAPABILITIES,
            "GetContactCapabilities",
            &(vec![bob, eve],),
        )
        .unwrap()
        .body()
        .deserialize()
        .unwrap();
    assert!(!all.contains_key(&eve));
    let mut sizes: Vec<usize> = all[&bob].iter().map(|class| class.0.len()).collect();
    sizes.sort_unstable();
    // Both types of tubes, and the stream tubes' service.
    assert_eq!(sizes, [2, 2, 3]);
    let kind = format!("{}.ChannelType", name::CHANNEL);
    for (fixed, allowed) in &all[&bob] {
        let kind: String = fixed[&kind].downcast_ref().unwrap();
        let service = match kind.as_str() {
            name::DBUS_TUBE => format!("{kind}.ServiceName"),
            _ => format!("{kind}.Service"),
        };
        assert_ne!(fixed.contains_key(&service), allowed.contains(&service));
    }
}

#[test]
fn what_our_handlers_wait_for_is_announced() {
    let world = World::new();
    let account = world.account("ada");
    let filter = |service: &'static str, requested: bool| {
        HashMap::from([
            (
                format!("{}.ChannelType", name::CHANNEL),
                Variant::new(name::STREAM_TUBE),
            ),
            (
                format!("{}.TargetHandleType", name::CHANNEL),
                Variant::new(1_u32),
            ),
            (
                format!("{}.Service", name::STREAM_TUBE),
                Variant::new(service),
            ),
            (
                format!("{}.Requested", name::CHANNEL),
                Variant::new(requested),
            ),
        ])
    };
    let update = |client: &str, filters: Vec<HashMap<String, Variant<'static>>>| {
        let none: Vec<String> = Vec::new();
        account
            .call(
                name::CONTACT_CAPABILITIES,
                "UpdateCapabilities",
                &(vec![(client.to_owned(), filters, none)],),
            )
            .unwrap();
    };
    // Before Connect, as Mission Control does.
    update("X", vec![filter("http", false), filter("mine", true)]);
    account.call(name::CONNECTION, "Connect", &()).unwrap();
    world.wait("ContactListStateChanged", |_| Some(()));
    assert_eq!(account.session.log(), ["features http", "connect"]);
    world.events.clear();
    update("Y", vec![filter("rfb", false)]);
    assert_eq!(account.session.log().last().unwrap(), "features http,rfb");
    let changed: HashMap<u32, Vec<(Map, Vec<String>)>> = world
        .wait("ContactCapabilitiesChanged", |event| {
            event.arguments::<(HashMap<u32, Vec<(Map, Vec<String>)>>,)>()
        })
        .0;
    let myself: u32 = account.property(name::CONNECTION, "SelfHandle");
    // With those of no service in particular, one for each type of tube.
    assert_eq!(changed[&myself].len(), 4);
    // The same again changes nothing, and so is not told.
    update("Y", vec![filter("rfb", false)]);
    update("X", vec![]);
    world.wait("ContactCapabilitiesChanged", |_| Some(()));
    assert!(world.signals().is_empty());
}

#[test]
fn presence_and_alias_are_ours_to_set() {
    let world = World::new();
    let account = world.online(vec![plain("bob@there")]);
    let myself: u32 = account.property(name::CONNECTION, "SelfHandle");
    let bob = account.handle("bob@there");
    account
        .call(
            name::SIMPLE_PRESENCE,
            "SetPresence",
            &("dnd", "x".repeat(5000)),
        )
        .unwrap();
    let told = world.wait("PresencesChanged", |event| {
        event.arguments::<(HashMap<u32, (u32, String, String)>,)>()
    });
    let most: u32 = account.property(name::SIMPLE_PRESENCE, "MaximumStatusMessageLength");
    assert_eq!(told.0[&myself].0, 6);
    assert_eq!(told.0[&myself].2.len(), most as usize);
    for wrong in ["offline", "unknown", "hidden", ""] {
        assert_eq!(
            account.refused(name::SIMPLE_PRESENCE, "SetPresence", &(wrong, "")),
            "InvalidArgument"
        );
    }
    account
        .call(
            name::ALIASING,
            "SetAliases",
            &(HashMap::from([(myself, "Ada")]),),
        )
        .unwrap();
    let told = world.wait("AliasesChanged", |event| {
        event.arguments::<(Vec<(u32, String)>,)>()
    });
    assert_eq!(told.0, [(myself, "Ada".to_owned())]);
    let aliases: Vec<String> = account
        .call(name::ALIASING, "RequestAliases", &(vec![bob, myself],))
        .unwrap()
        .body()
        .deserialize()
        .unwrap();
    assert_eq!(aliases, ["bob@there", "Ada"]);
    let other = (HashMap::from([(bob, "Robert")]),);
    assert_eq!(
        account.refused(name::ALIASING, "SetAliases", &other),
        "PermissionDenied"
    );
    let nobody = (HashMap::from([(4711_u32, "X")]),);
    assert_eq!(
        account.refused(name::ALIASING, "SetAliases", &nobody),
        "InvalidHandle"
    );
}

#[test]
fn there_are_no_groups_and_none_can_be_made() {
    let world = World::new();
    let account = world.online(vec![plain("bob@there")]);
    let bob = account.handle("bob@there");
    let none = Vec::<String>::new();
    assert_eq!(
        account.property::<Vec<String>>(name::CONTACT_GROUPS, "Groups"),
        none
    );
    // Contact_Metadata_Storage_Type_None
    assert_eq!(
        account.property::<u32>(name::CONTACT_GROUPS, "GroupStorage"),
        0
    );
    assert!(!account.property::<bool>(name::CONTACT_GROUPS, "DisjointGroups"));
    let all: HashMap<u32, HashMap<String, OwnedVariant>> = account
        .call(
            name::CONTACT_LIST,
            "GetContactListAttributes",
            &(vec![name::CONTACT_GROUPS], false),
        )
        .unwrap()
        .body()
        .deserialize()
        .unwrap();
    let groups = &all[&bob][&format!("{}/groups", name::CONTACT_GROUPS)];
    assert_eq!(Vec::<String>::try_from(groups.clone()).unwrap(), none);
    let refused = |method: &str, handle: u32| match method {
        "SetContactGroups" => {
            account.refused(name::CONTACT_GROUPS, method, &(handle, vec!["work"]))
        }
        _ => account.refused(name::CONTACT_GROUPS, method, &("work", vec![handle])),
    };
    for method in [
        "SetContactGroups",
        "SetGroupMembers",
        "AddToGroup",
        "RemoveFromGroup",
    ] {
        assert_eq!(refused(method, bob), "NotImplemented", "{method}");
        assert_eq!(refused(method, 4711), "InvalidHandle", "{method}");
    }
    let refused = account.refused(name::CONTACT_GROUPS, "RemoveGroup", &"work");
    assert_eq!(refused, "NotImplemented");
    let refused = account.refused(name::CONTACT_GROUPS, "RenameGroup", &("work", "home"));
    assert_eq!(refused, "NotImplemented");
}

#[test]
fn trust_is_shown_compared_and_changed() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there"), plain("eve@there")]);
    let (bob, eve) = (account.handle("bob@there"), account.handle("eve@there"));
    assert_eq!(
        account.property::<String>(name::TRUST, "OwnFingerprint"),
        OWN_KEY.to_string()
    );
    // A session without a choice says nothing.
    let responder = account.property::<String>(name::DISCOVERY, "Responder");
    assert_eq!(responder, "");
    let code: String = account
        .call(name::TRUST, "GetComparisonCode", &bob)
        .unwrap()
        .body()
        .deserialize()
        .unwrap();
    assert_eq!(code, ComparisonCode::of(OWN_KEY, THEIR_KEY).to_string());
    assert_eq!(
        account.refused(name::TRUST, "GetComparisonCode", &eve),
        "NotAvailable"
    );
    assert_eq!(
        account.refused(name::TRUST, "GetTrust", &4711_u32),
        "InvalidHandle"
    );
    let shown = THEIR_KEY.to_string();
    account.call(name::TRUST, "Pin", &(bob, &shown)).unwrap();
    assert_eq!(
        account.session.log().last().unwrap(),
        &format!("pin bob@there {shown}")
    );
    for (contact, key, error) in [
        (bob, "f00", "InvalidArgument"),
        (4711, &*shown, "InvalidHandle"),
    ] {
        let refused = account.refused(name::TRUST, "Pin", &(contact, key));
        assert_eq!(refused, error);
    }
    account
        .call(name::TRUST, "Verify", &(bob, &code, false))
        .unwrap();
    assert_eq!(
        account.session.log().last().unwrap(),
        "verify bob@there false"
    );
    assert_eq!(
        account.refused(name::TRUST, "Verify", &(bob, "00000", true)),
        "InvalidArgument"
    );
    assert_eq!(account.refused(name::TRUST, "Forget", &eve), "NotAvailable");
    let mut now = capable("bob@there");
    now.trust = pinned();
    account.session.happens(SessionEvent::Contact(now));
    let (told, trust) = world.wait("TrustChanged", |event| event.arguments::<(u32, Map)>());
    assert_eq!(told, bob);
    assert_eq!(trust["trust"].downcast_ref::<String>().unwrap(), "pinned");
}

#[test]
fn another_name_of_our_own_is_told() {
    let world = World::new();
    let account = world.online(vec![]);
    let before: u32 = account.property(name::CONNECTION, "SelfHandle");
    account
        .session
        .happens(SessionEvent::SelfIdChanged(ContactId("ada2@here".into())));
    let (handle, id) = world.wait("SelfContactChanged", |event| {
        event.arguments::<(u32, String)>()
    });
    assert_eq!(id, "ada2@here");
    assert_ne!(handle, before);
    assert_eq!(
        account.property::<u32>(name::CONNECTION, "SelfHandle"),
        handle
    );
}

#[test]
fn the_name_we_have_already_changes_nothing() {
    let world = World::new();
    let account = world.online(vec![]);
    let before: u32 = account.property(name::CONNECTION, "SelfHandle");
    let id: String = account.property(name::CONNECTION, "SelfID");
    for own in [&id, "ada2@here"] {
        let own = ContactId(own.into());
        account.session.happens(SessionEvent::SelfIdChanged(own));
    }
    let (handle, told) = world.wait("SelfContactChanged", |event| {
        event.arguments::<(u32, String)>()
    });
    assert_eq!(told, "ada2@here");
    assert_ne!(handle, before);
    assert_eq!(account.property::<String>(name::CONNECTION, "SelfID"), told);
}

#[test]
fn no_answer_lags_behind_the_signals() {
    let world = World::new();
    let account = world.online(vec![]);
    let connection = world.bus.connection();
    let mut stream = MessageStream::from(connection);
    // Contacts appear while somebody asks for the list again and again.
    let session = account.session.clone();
    let crowd = std::thread::spawn(move || {
        for number in 0..2000 {
            session.happens(SessionEvent::Contact(plain(&format!("n{number}@there"))));
        }
    });
    let ask = || {
        let call = Message::method_call(account.path.as_str(), "GetContactListAttributes")
            .destination(CM_NAME)
            .interface(name::CONTACT_LIST)
            .build(&(Vec::<String>::new(), false))
            .unwrap();
        block_on(connection.send(&call)).unwrap();
    };
    (0..8).for_each(|_| ask());
    let mut told = BTreeSet::new();
    let mut answers = 0;
    while told.len() < 2000 {
        let message = block_on(stream.next()).unwrap().unwrap();
        let header = message.header();
        if header
            .member()
            .is_some_and(|member| member == "ContactsChangedWithID")
        {
            let (changes, ..) = message
                .body()
                .deserialize::<(Changes, HashMap<u32, String>, HashMap<u32, String>)>()
                .unwrap();
            told.extend(changes.into_keys());
        } else if message.message_type() == zbus::message::Type::MethodReturn
            && let Ok(all) = message.body().deserialize::<HashMap<u32, Map>>()
        {
            let missing = told
                .iter()
                .filter(|handle| !all.contains_key(handle))
                .count();
            assert_eq!(
                missing, 0,
                "answer {answers} lacks contacts told of before it"
            );
            answers += 1;
            ask();
        }
    }
    assert!(answers > 0, "no answer came in between");
    crowd.join().unwrap();
}
