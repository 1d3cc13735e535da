//! Requests for channels, offers from contacts, and what a tube's object says.

use std::collections::HashMap;

use actors::{
    model::{Error, ServiceName},
    testing::{FakeIncoming, IncomingOutcome, Signalled, StreamCounter},
};
use futures_lite::{StreamExt as _, future::block_on};
use pneuma::session::{Presence, SessionEvent, Show, Trust, TubeId};
use support::{CM_NAME, name};
use zbus::{Message, MessageStream, OwnedObjectPath, OwnedVariant, Variant};

use crate::{
    fake::{OWN_KEY, capable, offer, peer, pinned, plain},
    world::{Account, Map, World, announced, get},
};

const CLAIM: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Claim1";

fn offer_at<'a>(
    address: &'a Variant<'a>,
    kind: u32,
) -> (u32, &'a Variant<'a>, u32, HashMap<&'a str, Variant<'a>>) {
    (kind, address, 0, HashMap::new())
}

#[test]
fn a_channel_is_returned_before_it_is_announced() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let bob = account.handle("bob@there");
    // Every message in the order the bus delivered it, the answers among them.
    let connection = world.bus.connection();
    for round in 0..20 {
        let request = account.tube_request(bob, &format!("s{round}"));
        let method = if round % 2 == 0 {
            "CreateChannel"
        } else {
            "EnsureChannel"
        };
        let call = Message::method_call(account.path.as_str(), method)
            .destination(CM_NAME)
            .interface(name::REQUESTS)
            .build(&(request,))
            .unwrap();
        let mut stream = MessageStream::from(connection);
        block_on(connection.send(&call)).unwrap();
        let serial = call.primary_header().serial_num();
        let mut answered = false;
        loop {
            let message = block_on(stream.next()).unwrap().unwrap();
            let header = message.header();
            if header.reply_serial() == Some(serial) {
                assert_eq!(message.message_type(), zbus::message::Type::MethodReturn);
                answered = true;
            }
            if header
                .member()
                .is_some_and(|member| member == "NewChannels")
            {
                assert!(answered, "round {round}: announced before the answer");
                break;
            }
        }
    }
}

#[test]
fn a_requested_channel_has_the_properties_of_the_specification() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let bob = account.handle("bob@there");
    let (path, properties) = account.create(bob, "http").unwrap();
    let channel = |property: &str| &properties[&format!("{}.{property}", name::CHANNEL)];
    let text = |value: &OwnedVariant| value.downcast_ref::<String>().unwrap();
    assert_eq!(text(channel("ChannelType")), name::STREAM_TUBE);
    assert_eq!(text(channel("TargetID")), "bob@there");
    assert_eq!(text(channel("InitiatorID")), "ada@here");
    assert_eq!(channel("TargetHandle").downcast_ref::<u32>().unwrap(), bob);
    assert!(channel("Requested").downcast_ref::<bool>().unwrap());
    assert!(!properties.contains_key(&format!("{}.Parameters", name::TUBE)));
    let (announced_path, announced_properties) = announced(&world);
    assert_eq!(announced_path, path);
    assert_eq!(announced_properties, properties);
    // Each of them is also where its interface says.
    for (full, value) in &properties {
        let (interface, property) = full.rsplit_once('.').unwrap();
        let got: OwnedVariant = get(&world, &path, interface, property);
        assert_eq!(got, *value, "{full}");
    }
    assert_eq!(get::<u32>(&world, &path, name::TUBE, "State"), 3);
    assert_eq!(account.channels(), 1);
}

#[test]
fn the_same_channel_is_there_for_whoever_ensures_it() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let request = account.tube_request(account.handle("bob@there"), "http");
    let ensure = || -> (bool, OwnedObjectPath, Map) {
        account
            .call(name::REQUESTS, "EnsureChannel", &(&request,))
            .unwrap()
            .body()
            .deserialize()
            .unwrap()
    };
    let first = ensure();
    let second = ensure();
    assert!(first.0);
    assert!(!second.0);
    assert_eq!(first.1, second.1);
    // Another one can still be created.
    let (third, _) = account.create(account.handle("bob@there"), "http").unwrap();
    assert_ne!(third, first.1.as_str());
    assert_eq!(account.channels(), 2);
}

#[test]
fn who_cannot_be_offered_a_tube_is_refused_with_the_right_error() {
    let world = World::new();
    let mut offline = capable("off@there");
    offline.presence = Presence {
        show: Show::Offline,
        message: String::new(),
    };
    offline.trust = pinned();
    let mut blocked = capable("eve@there");
    blocked.trust = Trust::Blocked { pinned: OWN_KEY };
    let mut other = capable("pidgin@there");
    other.features = Some(std::sync::Arc::default());
    let account = world.online(vec![offline, blocked, other, plain("new@there")]);
    let refused = |contact: u32| {
        account
            .create(contact, "http")
            .unwrap_err()
            .short()
            .to_owned()
    };
    assert_eq!(refused(account.handle("off@there")), "Offline");
    assert_eq!(refused(account.handle("eve@there")), "FingerprintMismatch");
    assert_eq!(refused(account.handle("pidgin@there")), "NotCapable");
    assert_eq!(refused(account.handle("new@there")), "NotCapable");
    assert_eq!(
        refused(account.property(name::CONNECTION, "SelfHandle")),
        "NotAvailable"
    );
    assert_eq!(refused(0), "InvalidHandle");
    assert_eq!(refused(4711), "InvalidHandle");
    assert_eq!(account.channels(), 0);
}

#[test]
fn requests_that_make_no_sense_are_refused_with_the_right_error() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let bob = account.handle("bob@there");
    let refused = |change: &str, value: Option<Variant<'static>>| {
        let mut request = account.tube_request(bob, "http");
        match value {
            Some(value) => request.insert(change.into(), value),
            None => request.remove(change),
        };
        account.refused(name::REQUESTS, "CreateChannel", &(request,))
    };
    let channel = |property: &str| format!("{}.{property}", name::CHANNEL);
    assert_eq!(refused(&channel("ChannelType"), None), "InvalidArgument");
    assert_eq!(
        refused(&channel("ChannelType"), Some(Variant::new("org.example.X"))),
        "NotImplemented"
    );
    assert_eq!(
        refused(&channel("TargetHandle"), Some(Variant::new("seven"))),
        "InvalidArgument"
    );
    assert_eq!(
        refused(&channel("TargetHandleType"), Some(Variant::new(2_u32))),
        "NotImplemented"
    );
    assert_eq!(
        refused("com.example.Colour", Some(Variant::new("red"))),
        "NotImplemented"
    );
    let service = format!("{}.Service", name::STREAM_TUBE);
    assert_eq!(refused(&service, None), "InvalidArgument");
    assert_eq!(
        refused(&service, Some(Variant::new(7_u32))),
        "InvalidArgument"
    );
    let mut by_id = account.tube_request(bob, "http");
    by_id.remove(&channel("TargetHandle"));
    by_id.insert(channel("TargetID"), Variant::new("nobody@there"));
    assert_eq!(
        account.refused(name::REQUESTS, "CreateChannel", &(&by_id,)),
        "InvalidHandle"
    );
    by_id.insert(channel("TargetID"), Variant::new("bob@there"));
    account
        .call(name::REQUESTS, "CreateChannel", &(by_id,))
        .unwrap();
    let offline = world.account("grace");
    let request = offline.tube_request(1, "http");
    assert_eq!(
        offline.refused(name::REQUESTS, "CreateChannel", &(request,)),
        "Disconnected"
    );
}

#[test]
fn an_offer_pins_the_contact_and_then_tells_it() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let (path, _) = account.create(account.handle("bob@there"), "http").unwrap();
    world.events.clear();
    let parameters = HashMap::from([
        ("s", Variant::new("text")),
        ("ay", Variant::new(vec![0_u8, 255])),
        ("i", Variant::new(-1_i32)),
        ("u", Variant::new(1_u32)),
        ("b", Variant::new(true)),
    ]);
    world
        .call(
            &path,
            name::STREAM_TUBE,
            "Offer",
            &(
                2_u32,
                Variant::new(("127.0.0.1", 1234_u16)),
                0_u32,
                &parameters,
            ),
        )
        .unwrap();
    assert_eq!(account.session.log().last().unwrap(), "pin bob@there");
    let state = world.wait("TubeChannelStateChanged", |event| {
        event.arguments::<(u32,)>()
    });
    assert_eq!(state, (1,));
    let tubes = account.session.tubes();
    assert_eq!(tubes.len(), 1);
    let [Signalled::Offered(service, told)] = &tubes[0].1.log()[..] else {
        panic!("{:?}", tubes[0].1.log());
    };
    assert_eq!(*service, ServiceName::new("http").unwrap());
    assert_eq!(told.values().len(), 5);
    let set: Map = world
        .call(
            &path,
            "org.freedesktop.DBus.Properties",
            "GetAll",
            &name::TUBE,
        )
        .unwrap()
        .body()
        .deserialize()
        .unwrap();
    let set: HashMap<String, OwnedVariant> =
        set["Parameters"].try_clone().unwrap().try_into().unwrap();
    assert_eq!(set.len(), 5);
    assert_eq!(
        set["ay"].try_clone().unwrap(),
        Variant::new(vec![0_u8, 255]).try_into_owned().unwrap()
    );
    // A second offer is not possible.
    let address = Variant::new(("127.0.0.1", 1234_u16));
    let again = world.call(&path, name::STREAM_TUBE, "Offer", &offer_at(&address, 2));
    assert_eq!(again.unwrap_err().short(), "NotAvailable");
    // The contact opens a connection; nobody listens on that port: refused.
    let (incoming, outcome) = FakeIncoming::request(7, &StreamCounter::default(), None);
    account.session.happens(SessionEvent::StreamOffered {
        from: peer("bob@there"),
        tube: TubeId(tubes[0].0.1),
        stream: incoming,
    });
    let outcome = block_on(outcome.wait()).unwrap();
    assert!(
        matches!(outcome, IncomingOutcome::Refused(_)),
        "{outcome:?}"
    );
}

#[test]
fn a_contact_that_may_not_be_pinned_is_offered_nothing() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let (path, _) = account.create(account.handle("bob@there"), "http").unwrap();
    *account.session.refuse_pin.lock().unwrap() =
        Some(Error::CertFingerprintMismatch("another key".into()));
    let address = Variant::new(("127.0.0.1", 1234_u16));
    let refused = world.call(&path, name::STREAM_TUBE, "Offer", &offer_at(&address, 2));
    assert_eq!(
        refused.unwrap_err().name,
        "org.freedesktop.Telepathy.Error.Cert.FingerprintMismatch"
    );
    assert_eq!(account.session.tubes()[0].1.log(), []);
    assert_eq!(get::<u32>(&world, &path, name::TUBE, "State"), 3);
}

#[test]
fn addresses_and_access_controls_that_make_no_sense_are_refused() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let (path, _) = account.create(account.handle("bob@there"), "http").unwrap();
    let none: HashMap<&str, Variant<'_>> = HashMap::new();
    let refused = |kind: u32, address: Variant<'_>, access: u32| {
        world
            .call(
                &path,
                name::STREAM_TUBE,
                "Offer",
                &(kind, address, access, &none),
            )
            .unwrap_err()
            .short()
            .to_owned()
    };
    let here = || Variant::new(("127.0.0.1", 80_u16));
    assert_eq!(
        refused(2, Variant::new("127.0.0.1:80"), 0),
        "InvalidArgument"
    );
    assert_eq!(
        refused(2, Variant::new(("localhost", 80_u16)), 0),
        "InvalidArgument"
    );
    assert_eq!(
        refused(2, Variant::new(("127.0.0.1", 0_u16)), 0),
        "InvalidArgument"
    );
    assert_eq!(refused(3, here(), 0), "InvalidArgument");
    assert_eq!(refused(0, Variant::new("/a/path"), 0), "InvalidArgument");
    let long = Variant::new(vec![b'x'; 4096]);
    assert_eq!(refused(0, long, 0), "InvalidArgument");
    assert_eq!(refused(9, here(), 0), "InvalidArgument");
    assert_eq!(refused(2, here(), 9), "InvalidArgument");
    assert_eq!(refused(2, here(), 2), "NotImplemented");
    assert_eq!(refused(2, here(), 3), "NotImplemented");
    for kind in [0, 1] {
        let name = Variant::new(b"/x".to_vec());
        assert_eq!(refused(kind, name, 1), "NotImplemented");
    }
    let wrong = HashMap::from([("x", Variant::new(1.5))]);
    let many = HashMap::from([("x", Variant::new("y".repeat(1 << 20)))]);
    for parameters in [wrong, many] {
        let refused = world.call(
            &path,
            name::STREAM_TUBE,
            "Offer",
            &(2_u32, here(), 0_u32, parameters),
        );
        assert_eq!(refused.unwrap_err().short(), "InvalidArgument");
    }
    let accept = world.call(
        &path,
        name::STREAM_TUBE,
        "Accept",
        &(2_u32, 0_u32, Variant::new(0_u32)),
    );
    assert_eq!(accept.unwrap_err().short(), "NotAvailable");
    // None of that pinned anybody.
    assert!(!account.session.has_pinned());
}

fn offered<'w>(world: &'w World) -> (Account<'w>, String) {
    let account = world.online(vec![capable("bob@there")]);
    account.session.happens(offer("bob@there", 49, "rfb"));
    let (path, properties) = announced(world);
    let requested = &properties[&format!("{}.Requested", name::CHANNEL)];
    assert!(!requested.downcast_ref::<bool>().unwrap());
    assert!(properties.contains_key(&format!("{}.Parameters", name::TUBE)));
    assert_eq!(get::<u32>(world, &path, name::TUBE, "State"), 0);
    (account, path)
}

#[test]
fn an_accepted_tube_gives_the_address_that_listens() {
    let world = World::new();
    let (account, path) = offered(&world);
    // What telepathy-glib, -qt and others put into the parameter of Localhost means nothing.
    let answer = world
        .call(
            &path,
            name::STREAM_TUBE,
            "Accept",
            &(2_u32, 0_u32, Variant::new(("0.0.0.0", 0_u16))),
        )
        .unwrap();
    let address: OwnedVariant = answer.body().deserialize().unwrap();
    assert_eq!(address.value_signature().to_string(), "(sq)");
    assert_eq!(account.session.log().last().unwrap(), "pin bob@there");
    let state = world.wait("TubeChannelStateChanged", |event| {
        event.arguments::<(u32,)>()
    });
    assert_eq!(state, (2,));
    let shown: String = get(&world, &path, name::STATISTICS, "Address");
    assert!(shown.starts_with("127.0.0.1:"), "{shown}");
    // The contact closes it.
    account.session.happens(SessionEvent::TubeClosed {
        from: peer("bob@there"),
        tube: TubeId(49),
    });
    world.wait("Closed", |event| (event.path == path).then_some(()));
    world.wait("ChannelClosed", |event| {
        event.arguments::<(OwnedObjectPath,)>()
    });
    world.until("the object is gone", || {
        (account.channels() == 0).then_some(())
    });
    assert!(world.introspect(&path).is_err());
}

#[test]
fn a_contact_that_is_lost_takes_its_tubes_along() {
    let world = World::new();
    let (account, path) = offered(&world);
    let bob = account.handle("bob@there");
    let (ours, _) = account.create(bob, "http").unwrap();
    let address = Variant::new(("127.0.0.1", 1234_u16));
    world
        .call(&ours, name::STREAM_TUBE, "Offer", &offer_at(&address, 2))
        .unwrap();
    // Nothing was agreed on about this one.
    let (not_offered, _) = account.create(bob, "later").unwrap();
    account
        .session
        .happens(SessionEvent::ContactLost(peer("bob@there").contact));
    for path in [path, ours] {
        world.wait("Closed", |event| (event.path == path).then_some(()));
    }
    world
        .call(&not_offered, name::CHANNEL, "Close", &())
        .unwrap();
}

#[test]
fn a_peer_that_offers_ten_thousand_tubes_gets_a_few() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there"), capable("eve@there")]);
    for tube in 0..10_000 {
        account.session.happens(offer("eve@there", tube, "rfb"));
    }
    // Somebody else still gets through.
    account.session.happens(offer("bob@there", 1, "http"));
    world.wait("NewChannels", |event| {
        let (channels,) = event.arguments::<(Vec<(OwnedObjectPath, Map)>,)>()?;
        let id = &channels[0].1[&format!("{}.TargetID", name::CHANNEL)];
        (id.downcast_ref::<String>().ok()? == "bob@there").then_some(())
    });
    assert_eq!(account.channels(), 17);
    // The same id again, and offers of strangers and of those who are blocked, are nothing new.
    account.session.happens(offer("bob@there", 1, "http"));
    account.session.happens(offer("nobody@there", 1, "http"));
    account.session.happens(offer("bob@there", 2, "last"));
    world.until("the last one is there", || {
        (account.channels() >= 18).then_some(())
    });
    assert_eq!(account.channels(), 18);
}

#[test]
fn a_claimed_channel_goes_with_whoever_claimed_it() {
    let world = World::new();
    let (_account, path) = offered(&world);
    let client = |interface: &'static str, member: &'static str, on: &zbus::Connection| {
        block_on(on.call_method(Some(CM_NAME), path.as_str(), Some(interface), member, &()))
            .map_err(support::CallError::from)
    };
    let connect =
        || block_on(zbus::connection::Builder::address(world.bus.address()).build()).unwrap();
    let (one, other) = (connect(), connect());
    client(CLAIM, "Claim", &one).unwrap();
    client(CLAIM, "Claim", &one).unwrap();
    assert_eq!(
        client(CLAIM, "Claim", &other).unwrap_err().short(),
        "NotYours"
    );
    assert_eq!(
        client(CLAIM, "Release", &other).unwrap_err().short(),
        "NotYours"
    );
    client(CLAIM, "Release", &one).unwrap();
    assert_eq!(
        client(CLAIM, "Release", &one).unwrap_err().short(),
        "NotAvailable"
    );
    client(CLAIM, "Claim", &other).unwrap();
    block_on(one.close()).unwrap();
    assert_eq!(get::<u32>(&world, &path, name::TUBE, "State"), 0);
    block_on(other.close()).unwrap();
    world.wait("Closed", |event| (event.path == path).then_some(()));
}

#[test]
fn closing_twice_is_fine() {
    let world = World::new();
    let (account, path) = offered(&world);
    world.call(&path, name::CHANNEL, "Close", &()).unwrap();
    world.wait("Closed", |event| (event.path == path).then_some(()));
    assert!(world.call(&path, name::CHANNEL, "Close", &()).is_err());
    world.until("it is gone", || (account.channels() == 0).then_some(()));
    let tubes = account.session.tubes();
    world.until("the contact was told", || {
        (tubes[0].1.log() == [Signalled::Closed]).then_some(())
    });
}

#[test]
fn a_client_that_leaves_before_its_answer_leaves_a_channel_like_any_other() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let bob = account.handle("bob@there");
    for round in 0..10 {
        let client =
            block_on(zbus::connection::Builder::address(world.bus.address()).build()).unwrap();
        let request = account.tube_request(bob, &format!("s{round}"));
        let call = Message::method_call(account.path.as_str(), "CreateChannel")
            .destination(CM_NAME)
            .interface(name::REQUESTS)
            .build(&(request,))
            .unwrap();
        block_on(client.send(&call)).unwrap();
        block_on(client.close()).unwrap();
        let (path, _) = announced(&world);
        world.call(&path, name::CHANNEL, "Close", &()).unwrap();
        world.wait("ChannelClosed", |event| {
            event.arguments::<(OwnedObjectPath,)>()
        });
    }
    assert_eq!(account.channels(), 0);
}

#[test]
fn two_tubes_to_one_contact_for_one_service_are_two() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let bob = account.handle("bob@there");
    let address = Variant::new(("127.0.0.1", 1234_u16));
    let paths: Vec<String> = (0..2)
        .map(|_| {
            let (path, _) = account.create(bob, "http").unwrap();
            world
                .call(&path, name::STREAM_TUBE, "Offer", &offer_at(&address, 2))
                .unwrap();
            path
        })
        .collect();
    let ids: std::collections::BTreeSet<u32> = account
        .session
        .tubes()
        .iter()
        .map(|tube| tube.0.1)
        .collect();
    assert_eq!(ids.len(), 2);
    assert!(!ids.contains(&0));
    // Closing one leaves the other.
    world.call(&paths[0], name::CHANNEL, "Close", &()).unwrap();
    assert_eq!(get::<u32>(&world, &paths[1], name::TUBE, "State"), 1);
}
