//! From RequestConnection to the end, and the service's own end.

use std::time::Duration;

use actors::{
    model::Error,
    supervisor::SupervisorConfig,
    testing::{Fault, FaultPoint, Faults},
};
use pneuma::{End, session::SessionEvent};
use support::{CM_NAME, name};

use crate::{
    fake::{capable, offer},
    world::World,
};

const CONNECTED: (u32, u32) = (0, 1);

#[test]
fn signals_come_in_the_order_clients_rely_on() {
    let world = World::new();
    let account = world.account("ada");
    world.events.clear();
    assert_eq!(account.property::<u32>(name::CONNECTION, "Status"), 2);
    account
        .call(name::SIMPLE_PRESENCE, "SetPresence", &("away", "tea"))
        .unwrap();
    account.call(name::CONNECTION, "Connect", &()).unwrap();
    world.until("it is online", || {
        world
            .signals()
            .contains(&"ContactListStateChanged".into())
            .then_some(())
    });
    assert_eq!(
        world.signals(),
        [
            "StatusChanged",
            "SelfContactChanged",
            "SelfHandleChanged",
            "PresencesChanged",
            "StatusChanged",
            "ContactListStateChanged",
        ]
    );
    let statuses = world.events.waiting(|event| {
        (event.member == "StatusChanged").then(|| event.arguments::<(u32, u32)>())?
    });
    assert_eq!(statuses, [(1, 1), CONNECTED]);
    let presences: std::collections::HashMap<u32, (u32, String, String)> =
        world.wait("PresencesChanged", |event| {
            event
                .arguments::<(std::collections::HashMap<u32, (u32, String, String)>,)>()
                .map(|a| a.0)
        });
    let myself: u32 = account.property(name::CONNECTION, "SelfHandle");
    assert_eq!(presences[&myself], (3, "away".into(), "tea".into()));
    assert_eq!(
        account.property::<String>(name::CONNECTION, "SelfID"),
        "ada@here"
    );
    assert_eq!(account.session.log(), ["presence Away tea", "connect"]);
    // Again is allowed and does nothing.
    account.call(name::CONNECTION, "Connect", &()).unwrap();
    assert_eq!(account.session.log().len(), 2);
}

#[test]
fn disconnecting_leaves_nothing() {
    let world = World::new();
    let before = world.objects("/org");
    let account = world.online(vec![capable("bob@there")]);
    let bob = account.handle("bob@there");
    for number in 0..5 {
        account.create(bob, &format!("s{number}")).unwrap();
        account
            .session
            .happens(offer("bob@there", 100 + number, "rfb"));
    }
    world.until("ten channels are there", || {
        (account.channels() == 10).then_some(())
    });
    assert!(world.objects("/org").len() >= before.len() + 11);
    world.events.clear();
    account.call(name::CONNECTION, "Disconnect", &()).unwrap();
    assert!(!world.has_owner(&account.bus_name));
    assert_eq!(world.objects("/org"), before);
    world.wait("StatusChanged", |event| {
        (event.arguments::<(u32, u32)>()? == (2, 1)).then_some(())
    });
    let signals = world.signals();
    let count = |wanted: &str| signals.iter().filter(|signal| *signal == wanted).count();
    assert_eq!((count("Closed"), count("ChannelClosed")), (10, 10));
    assert_eq!(account.session.log().last().unwrap(), "disconnect");
    // What is gone says so.
    assert!(account.call(name::CONNECTION, "GetStatus", &()).is_err());
}

#[test]
fn a_connection_that_was_never_online_can_be_disconnected() {
    let world = World::new();
    let account = world.account("ada");
    account.call(name::CONNECTION, "Disconnect", &()).unwrap();
    assert!(!world.has_owner(&account.bus_name));
    world.wait("StatusChanged", |event| {
        (event.arguments::<(u32, u32)>()? == (2, 1)).then_some(())
    });
}

#[test]
fn a_network_that_fails_says_why() {
    let world = World::new();
    *world.network.refuse_connect.lock().unwrap() =
        Some(Error::NetworkError("no interface".into()));
    let account = world.account("ada");
    world.events.clear();
    account.call(name::CONNECTION, "Connect", &()).unwrap();
    world.until("the connection is gone", || {
        (!world.has_owner(&account.bus_name)).then_some(())
    });
    world.until("all of it is told", || {
        (world.signals().len() >= 3).then_some(())
    });
    assert_eq!(
        world.signals(),
        ["StatusChanged", "ConnectionError", "StatusChanged"]
    );
    let why = world.wait("ConnectionError", |event| {
        event.arguments::<(String, crate::world::Map)>()
    });
    assert_eq!(why.0, "org.freedesktop.Telepathy.Error.NetworkError");
}

#[test]
fn a_session_that_is_lost_ends_the_connection_and_its_channels() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    account.create(account.handle("bob@there"), "http").unwrap();
    account
        .session
        .happens(SessionEvent::Disconnected(Error::NetworkError(
            "gone".into(),
        )));
    let last = world.wait("StatusChanged", |event| event.arguments::<(u32, u32)>());
    assert_eq!(last, (2, 2));
    world.until("the connection is gone", || {
        (!world.has_owner(&account.bus_name)).then_some(())
    });
    // The account can come back.
    world.account("ada");
}

#[test]
fn a_session_that_panics_is_an_error_for_whoever_asked() {
    let world = World::new();
    let account = world.online(vec![]);
    let myself: u32 = account.property(name::CONNECTION, "SelfHandle");
    let aliases = |alias: &'static str| (std::collections::HashMap::from([(myself, alias)]),);
    // The fake panics before it gives a future, inside the actor itself: the connection ends, in
    // order, and the account can come back.
    assert_eq!(
        account.refused(name::ALIASING, "SetAliases", &aliases("boom")),
        "Disconnected"
    );
    world.until("the connection is gone", || {
        (!world.has_owner(&account.bus_name)).then_some(())
    });
    world.wait("ConnectionError", |event| {
        let why = event.arguments::<(String, crate::world::Map)>()?;
        why.0.ends_with("Confused").then_some(())
    });
    world.account("ada");
}

#[test]
fn shutting_down_says_goodbye_everywhere() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there")]);
    account.create(account.handle("bob@there"), "http").unwrap();
    let other = world.account("grace");
    let end = futures_lite::future::block_on(world.service().shutdown());
    assert_eq!(end, End::Stopped);
    for session in [&account.session, &other.session] {
        assert_eq!(session.log().last().unwrap(), "disconnect");
    }
    assert!(!world.has_owner(CM_NAME));
    assert!(!world.has_owner(&account.bus_name));
    assert_eq!(world.ends(), End::Stopped);
}

#[test]
fn without_a_connection_it_leaves_after_a_while() {
    let world = World::with(|builder| builder.idle(Duration::from_millis(300)));
    let account = world.online(vec![]);
    // Longer than it would stay alone: proven by the order of what follows.
    account.call(name::CONNECTION, "Disconnect", &()).unwrap();
    assert_eq!(world.ends(), End::Idle);
    assert!(!world.has_owner(CM_NAME));
}

#[test]
fn a_bus_that_goes_takes_the_service_with_it() {
    let world = World::new();
    world.online(vec![]);
    let session = world.network.session("ada");
    let answer = world
        .bus
        .call(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "GetConnectionUnixProcessID",
            &"org.freedesktop.DBus",
        )
        .unwrap();
    let pid: u32 = answer.body().deserialize().unwrap();
    let pid = i32::try_from(pid).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(world.ends(), End::BusGone);
    assert_eq!(session.log().last().unwrap(), "disconnect");
}

#[test]
fn a_service_that_is_dropped_closes_in_order() {
    let mut world = World::new();
    let session = world.online(vec![]).session;
    drop(world.service.take());
    world.until("its name is gone", || {
        (!world.has_owner(CM_NAME)).then_some(())
    });
    assert_eq!(session.log().last().unwrap(), "disconnect");
}

#[test]
fn a_service_without_its_supervisor_closes_in_order_and_has_failed() {
    let faults = Faults::counting();
    let planned = SupervisorConfig {
        faults: faults.clone(),
        ..SupervisorConfig::default()
    };
    let world = World::with(|builder| builder.supervisor(planned));
    let account = world.online(vec![capable("bob@there")]);
    account.create(account.handle("bob@there"), "http").unwrap();
    faults.arm(FaultPoint::RootWaiting, Fault::Panic, 0, 1);
    assert_eq!(world.ends(), End::Failed);
    assert_eq!(account.session.log().last().unwrap(), "disconnect");
    assert!(!world.has_owner(CM_NAME));
    assert!(!world.has_owner(&account.bus_name));
}
