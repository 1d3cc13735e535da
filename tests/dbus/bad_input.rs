//! Wrong types, unknown handles, floods: an error each, and everything goes on.

use std::collections::HashMap;

use support::name;
use zbus::Variant;

use crate::{
    fake::{capable, plain},
    world::World,
};

#[test]
fn arguments_of_the_wrong_type_are_an_error_of_the_bus() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let (channel, _) = account.create(account.handle("bob@there"), "http").unwrap();
    let calls: &[(&str, &str)] = &[
        (name::CONNECTION, "RequestHandles"),
        (name::CONNECTION, "InspectHandles"),
        (name::CONNECTION, "HoldHandles"),
        (name::CONNECTION, "AddClientInterest"),
        (name::REQUESTS, "CreateChannel"),
        (name::REQUESTS, "EnsureChannel"),
        (name::CONTACTS, "GetContactAttributes"),
        (name::CONTACTS, "GetContactByID"),
        (name::CONTACT_LIST, "GetContactListAttributes"),
        (name::CONTACT_LIST, "RemoveContacts"),
        (name::SIMPLE_PRESENCE, "SetPresence"),
        (name::SIMPLE_PRESENCE, "GetPresences"),
        (name::ALIASING, "SetAliases"),
        (name::CONTACT_CAPABILITIES, "UpdateCapabilities"),
        (name::TRUST, "Pin"),
        (name::TRUST, "Verify"),
        (name::POLICY, "SetRule"),
        (name::POLICY, "RemoveRule"),
        (name::POLICY, "GetTerms"),
    ];
    for (interface, method) in calls {
        for refused in [
            account.refused(interface, method, &Variant::new(1.5)),
            account.refused(interface, method, &(-1_i64, "x")),
            account.refused(interface, method, &()),
        ] {
            assert_eq!(refused, "InvalidArgs", "{interface}.{method}");
        }
    }
    for (interface, method) in [(name::STREAM_TUBE, "Offer"), (name::STREAM_TUBE, "Accept")] {
        let refused = world.call(&channel, interface, method, &"x").unwrap_err();
        assert_eq!(refused.short(), "InvalidArgs");
    }
    let unknown = account.refused(name::CONNECTION, "Explode", &());
    assert_eq!(unknown, "UnknownMethod");
    let unknown = account.refused("org.example.Interface", "Explode", &());
    assert_eq!(unknown, "UnknownInterface");
    let set = account.refused(
        "org.freedesktop.DBus.Properties",
        "Set",
        &(name::CONNECTION, "Status", Variant::new(0_u32)),
    );
    assert!(
        ["PropertyReadOnly", "UnknownProperty"].contains(&&*set),
        "{set}"
    );
    assert_eq!(account.property::<u32>(name::CONNECTION, "Status"), 0);
}

#[test]
fn handles_that_are_nobodys_are_refused() {
    let world = World::new();
    let account = world.online(vec![plain("bob@there")]);
    let bob = account.handle("bob@there");
    let refused = |interface: &str, method: &str| {
        let calls = [vec![bob, 0], vec![bob, 4711], vec![u32::MAX]];
        for handles in calls {
            let error = account.refused(interface, method, &(handles,));
            assert_eq!(error, "InvalidHandle", "{interface}.{method}");
        }
    };
    refused(name::SIMPLE_PRESENCE, "GetPresences");
    refused(name::ALIASING, "GetAliases");
    refused(name::ALIASING, "RequestAliases");
    refused(name::CONTACT_CAPABILITIES, "GetContactCapabilities");
    refused(name::CONTACT_LIST, "RemoveContacts");
    let contact_list = |method: &str| account.refused(name::CONTACT_LIST, method, &(vec![bob],));
    for method in [
        "RemoveContacts",
        "Unsubscribe",
        "Unpublish",
        "AuthorizePublication",
    ] {
        assert_eq!(contact_list(method), "NotImplemented");
    }
    let inspect = |kind: u32, handles: Vec<u32>| {
        account.refused(name::CONNECTION, "InspectHandles", &(kind, handles))
    };
    assert_eq!(inspect(2, vec![bob]), "InvalidArgument");
    assert_eq!(inspect(1, vec![0]), "InvalidHandle");
    let request = |kind: u32, ids: Vec<&str>| {
        account.refused(name::CONNECTION, "RequestHandles", &(kind, ids))
    };
    assert_eq!(request(2, vec!["bob@there"]), "NotImplemented");
    assert_eq!(request(1, vec!["bob@there", ""]), "InvalidHandle");
    assert_eq!(request(1, vec!["nobody"]), "InvalidHandle");
}

#[test]
fn before_it_is_online_a_connection_says_so() {
    let world = World::new();
    let account = world.account("ada");
    let refused =
        |interface: &str, method: &str| account.refused(interface, method, &(vec![1_u32],));
    assert_eq!(
        refused(name::SIMPLE_PRESENCE, "GetPresences"),
        "Disconnected"
    );
    assert_eq!(refused(name::ALIASING, "GetAliases"), "Disconnected");
    assert_eq!(
        account.refused(name::CONNECTION, "GetSelfHandle", &()),
        "Disconnected"
    );
    assert_eq!(
        account.refused(name::TRUST, "GetTrust", &1_u32),
        "Disconnected"
    );
    let list = (Vec::<String>::new(), false);
    assert_eq!(
        account.refused(name::CONTACT_LIST, "GetContactListAttributes", &list),
        "NotYet"
    );
    assert_eq!(account.property::<u32>(name::CONNECTION, "SelfHandle"), 0);
    assert_eq!(account.property::<String>(name::CONNECTION, "SelfID"), "");
    assert_eq!(
        account.property::<u32>(name::CONTACT_LIST, "ContactListState"),
        0
    );
}

#[test]
fn floods_are_answered_and_forgotten() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    let bob = account.handle("bob@there");
    // Half a million handles, a megabyte of identifier, tens of thousands of parameters.
    let many = vec![bob; 500_000];
    assert_eq!(
        account.refused(name::CONNECTION, "InspectHandles", &(1_u32, &many)),
        "InvalidArgument"
    );
    let long = "x".repeat(1 << 20);
    let error = account
        .call(
            name::CONTACTS,
            "GetContactByID",
            &(&long, Vec::<String>::new()),
        )
        .unwrap_err();
    assert_eq!(error.short(), "InvalidHandle");
    assert!(error.message.len() < 300, "{} bytes", error.message.len());
    let parameters: HashMap<String, Variant<'_>> = (0..20_000)
        .map(|number| (format!("p{number}"), Variant::new("x")))
        .collect();
    let refused = world.manager("RequestConnection", &("local-xmpp", &parameters));
    assert_eq!(refused.unwrap_err().short(), "InvalidArgument");
    // Channels up to the bound, and not one more.
    let bound = 512;
    for number in 0..bound {
        account.create(bob, &format!("s{number}")).unwrap();
    }
    let refused = account.create(bob, "one-more").unwrap_err();
    assert_eq!(refused.short(), "ResourceUnavailable");
    assert_eq!(account.channels(), bound);
}
