//! File transfers: who is sent files, whose are taken, and what becomes of them.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex},
};

use actors::{
    file_transfer::FileTransferMessage,
    model::{
        AccessRule, AddressType, ContactHandle, Error, FileOffer, FileTransferState, Result,
        Resume, ServiceName, SocketAddress, TubeState,
    },
    ports::{FileStream, FileTransferObject, IncomingFile},
    runtime::BoxFuture,
    supervisor::FileWay,
};

use super::{
    fakes::{Opening, World, bob, offered},
    offers::contact,
};
use crate::{
    connection::{
        ConnectionHandle,
        capabilities::ClientCapabilities,
        message::{ConnectionMessage, CreatedChannel},
        offer_rate::OF_A_STRANGER,
        protocol::property,
        requests::{ChannelRequest, Target, Wanted, file::FileRequest},
        table::MAX_OFFERS_OF_ONE,
        value::{Given, GivenMap},
    },
    names,
    session::{
        Contact, ContactId, PeerId, Presence, SessionEvent, Show, Trust,
        trust::{Decision, KeyId, Scope, Terms, Who},
    },
    xmpp::ns,
};

/// Why offers were declined; an empty one is there for each that was dropped.
type Declined = Arc<Mutex<Vec<Option<Error>>>>;

/// A file that a contact offers and that is only ever declined.
struct TestIncoming {
    declined: Declined,
    said: bool,
}

impl IncomingFile for TestIncoming {
    fn has_ranges(&self) -> bool {
        true
    }

    fn accept(self: Box<Self>, _: Resume) -> BoxFuture<'static, Result<FileStream>> {
        Box::pin(std::future::pending())
    }

    fn decline(mut self: Box<Self>, why: Error) {
        self.said = true;
        self.declined.lock().unwrap().push(Some(why));
    }

    fn withdrawn(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

impl Drop for TestIncoming {
    fn drop(&mut self) {
        if !self.said {
            self.declined.lock().unwrap().push(None);
        }
    }
}

fn file_of(name: &str) -> (SessionEvent, Declined) {
    let declined = Declined::default();
    let event = SessionEvent::FileOffered {
        from: PeerId {
            contact: ContactId(name.into()),
            resource: None,
        },
        file: FileOffer::new("picture.png", Some(100)),
        incoming: Box::new(TestIncoming {
            declined: declined.clone(),
            said: false,
        }),
    };
    (event, declined)
}

/// Online, with Bob, who takes tubes and files.
fn online(world: &World, trust: Trust) -> (ConnectionHandle, ContactHandle) {
    let (connection, bob) = world.online();
    world.happens(takes_files(trust));
    world.tree.log.lock().unwrap().clear();
    (connection, bob)
}

fn takes_files(trust: Trust) -> SessionEvent {
    let features = [ns::TUBES, ns::PNEUMA, ns::SI_FILE_TRANSFER];
    SessionEvent::Contact(Contact {
        id: bob().contact,
        alias: String::new(),
        presence: Presence {
            show: Show::Available,
            message: String::new(),
        },
        features: Some(Arc::new(features.map(str::to_owned).into())),
        key: None,
        trust,
    })
}

fn sending(contact: ContactHandle, size: Option<u64>) -> ChannelRequest {
    ChannelRequest {
        target: Target::Handle(contact),
        wanted: Wanted::File(Box::new(FileRequest {
            file: FileOffer::new("notes.txt", size),
            uri: "file:///notes.txt".into(),
        })),
        claimed: false,
    }
}

impl World {
    fn send(
        &self,
        connection: &ConnectionHandle,
        contact: ContactHandle,
        size: Option<u64>,
    ) -> Result<CreatedChannel> {
        let asked = connection.request(sending(contact, size), false);
        let answer = self.sim.run(asked);
        self.sim.settle();
        answer
    }

    /// The object of the channel that is there.
    fn transfer(&self, connection: &ConnectionHandle) -> FileTransferObject {
        let channel = *connection.view.get().channels.keys().next().unwrap();
        let object = self
            .sim
            .run(connection.ask(|reply| ConnectionMessage::Channel { channel, reply }))
            .unwrap();
        object.unwrap().file_transfer().unwrap().clone()
    }

    fn decide(&self, connection: &ConnectionHandle, decision: Decision) {
        let scope = Scope {
            who: Who::Everybody,
            service: Some(ServiceName::of_files()),
        };
        let terms = Terms {
            decision,
            ..Terms::default()
        };
        self.sim
            .run(connection.set_rule(scope, Some(terms)))
            .unwrap();
        self.sim.settle();
    }

    fn told(&self, file: usize) -> Vec<FileTransferMessage> {
        self.opener.files.lock().unwrap()[file].told.drain()
    }
}

#[test]
fn a_file_for_somebody_who_takes_files_is_a_channel_and_a_pin() {
    let world = World::new();
    let (connection, bob) = online(&world, Trust::Unpinned);
    let created = world.send(&connection, bob, Some(12)).unwrap();
    assert!(created.yours);
    assert_eq!(world.tree.count("new"), 0);
    drop(created);
    world.sim.settle();
    assert_eq!(world.tree.count("new"), 1);
    let session = world.session();
    assert_eq!(session.pinned.lock().unwrap().len(), 1);
    assert_eq!(
        *session.log.lock().unwrap(),
        ["file notes.txt to bob@there"]
    );
    let files = world.opener.files.lock().unwrap();
    let description = &files[0].description;
    assert!(matches!(files[0].way, FileWay::Send(_)));
    assert!(description.parties.requested && description.has_ranges);
    assert_eq!(description.parties.initiator_id, "ada@here");
    assert_eq!(description.parties.target_id, "bob@there");
    assert_eq!(description.uri, "file:///notes.txt");
    assert!(!description.sockets.is_empty());
    drop(files);
    let path = connection
        .view
        .get()
        .channels
        .values()
        .next()
        .unwrap()
        .path
        .clone();
    assert!(path.contains("/FileTransfer"), "{path}");
    // Two of the same are two.
    world.send(&connection, bob, Some(12)).unwrap();
    assert_eq!(connection.view.get().channels.len(), 2);
    world.ends();
}

#[test]
fn a_file_for_somebody_who_cannot_have_it_pins_nobody() {
    let world = World::new();
    // Bob takes tubes only.
    let (connection, bob) = world.online();
    let refused = |size| world.send(&connection, bob, size).map(|_| ());
    assert!(matches!(refused(Some(1)), Err(Error::NotCapable(_))));
    // Somebody else's program takes files, but must know how long they are.
    let mut other = takes_files(Trust::Unpinned);
    if let SessionEvent::Contact(contact) = &mut other {
        contact.features = Some(Arc::new([ns::SI_FILE_TRANSFER.to_owned()].into()));
    }
    world.happens(other);
    assert!(matches!(refused(None), Err(Error::NotCapable(_))));
    world.happens(takes_files(Trust::Blocked {
        pinned: KeyId([3; 32]),
    }));
    assert!(matches!(
        refused(Some(1)),
        Err(Error::CertFingerprintMismatch(_))
    ));
    let mut gone = takes_files(Trust::Unpinned);
    if let SessionEvent::Contact(contact) = &mut gone {
        contact.presence.show = Show::Offline;
    }
    world.happens(gone);
    assert!(matches!(refused(Some(1)), Err(Error::Offline(_))));
    world.happens(takes_files(Trust::Unpinned));
    world.decide(&connection, Decision::Deny);
    assert!(matches!(refused(None), Err(Error::PermissionDenied(_))));
    world.decide(&connection, Decision::Ask);
    let ensured = world.sim.run(connection.request(sending(bob, None), true));
    assert!(matches!(ensured, Err(Error::NotImplemented(_))));
    let myself = connection.view.get().self_handle.unwrap();
    let oneself = world.send(&connection, myself, Some(1));
    assert!(oneself.is_err());
    assert!(world.session().pinned.lock().unwrap().is_empty());
    assert!(world.opener.files.lock().unwrap().is_empty());
    // None of that was Bob's last word.
    assert!(refused(None).is_ok());
    world.ends();
}

#[test]
fn an_offered_file_is_a_channel() {
    let world = World::new();
    let (connection, _) = online(&world, Trust::Unpinned);
    let (event, declined) = file_of("bob@there");
    world.happens(event);
    assert_eq!(world.tree.count("new"), 1);
    let files = world.opener.files.lock().unwrap();
    let description = &files[0].description;
    assert!(matches!(files[0].way, FileWay::Receive(_)));
    assert!(!description.parties.requested && description.has_ranges);
    assert_eq!(description.parties.initiator_id, "bob@there");
    assert_eq!(description.file.name, "picture.png");
    assert_eq!(description.uri, "");
    drop(files);
    assert!(declined.lock().unwrap().is_empty());
    assert!(world.session().pinned.lock().unwrap().is_empty());
    assert_eq!(connection.view.get().channels.len(), 1);
    world.ends();
}

#[test]
fn files_of_those_who_may_send_none_are_declined_unseen() {
    let world = World::new();
    let (connection, _) = online(&world, Trust::Unpinned);
    let why = |name: &str| {
        let (event, declined) = file_of(name);
        world.happens(event);
        declined.lock().unwrap().pop().expect("declined")
    };
    world.happens(contact(
        "mallory",
        Trust::Blocked {
            pinned: KeyId([1; 32]),
        },
    ));
    assert!(matches!(
        why("mallory"),
        Some(Error::CertFingerprintMismatch(_))
    ));
    assert!(matches!(why("nobody"), Some(Error::InvalidHandle(_))));
    world.decide(&connection, Decision::Deny);
    assert!(matches!(why("bob@there"), Some(Error::PermissionDenied(_))));
    assert!(connection.view.get().channels.is_empty());
    // Allow is for clients to ask for; to us it is the same as ask.
    world.decide(&connection, Decision::Ask);
    let (event, _declined) = file_of("bob@there");
    world.happens(event);
    assert_eq!(connection.view.get().channels.len(), 1);
    world.ends();
}

#[test]
fn files_and_tubes_on_offer_count_together() {
    let world = World::new();
    let (connection, _) = online(&world, Trust::Unpinned);
    for tube in 1..MAX_OFFERS_OF_ONE as u32 {
        world.happens(offered(tube));
    }
    let (event, first) = file_of("bob@there");
    world.happens(event);
    let (event, second) = file_of("bob@there");
    world.happens(event);
    assert!(first.lock().unwrap().is_empty());
    assert!(matches!(
        second.lock().unwrap()[..],
        [Some(Error::ResourceUnavailable(_))]
    ));
    assert_eq!(connection.view.get().channels.len(), MAX_OFFERS_OF_ONE);
    // Taken back, its channel is there until somebody closes it.
    world.opener.files.lock().unwrap()[0].becomes(FileTransferState::Cancelled);
    world.sim.advance(OF_A_STRANGER.each);
    let (event, withdrawn) = file_of("bob@there");
    world.happens(event);
    assert!(matches!(
        withdrawn.lock().unwrap()[..],
        [Some(Error::ResourceUnavailable(_))]
    ));
    // Once it is answered it does not wait any more; how often one may offer is another question.
    world.opener.files.lock().unwrap()[0].becomes(FileTransferState::Accepted);
    world.sim.advance(OF_A_STRANGER.each);
    let (event, third) = file_of("bob@there");
    world.happens(event);
    assert!(third.lock().unwrap().is_empty());
    world.ends();
}

#[test]
fn files_offered_and_declined_again_and_again_are_soon_declined_by_us() {
    let world = World::new();
    let (connection, _) = online(&world, Trust::Unpinned);
    for _ in 0..100 {
        let (event, _declined) = file_of("bob@there");
        world.happens(event);
        let channels: Vec<_> = connection.view.get().channels.keys().copied().collect();
        for channel in channels {
            let closed = ConnectionMessage::ChannelClosed(channel);
            world
                .sim
                .run(connection.address.tell_first(closed))
                .unwrap();
        }
        world.sim.settle();
    }
    assert_eq!(world.tree.count("new"), OF_A_STRANGER.burst as usize);
    world.ends();
}

#[test]
fn a_contact_that_is_lost_is_told_to_its_transfers_those_that_are_opening_too() {
    let world = World::new();
    let (connection, bob_handle) = online(&world, Trust::Unpinned);
    world.send(&connection, bob_handle, Some(1)).unwrap();
    *world.opener.hold.lock().unwrap() = true;
    let (event, _declined) = file_of("bob@there");
    world.happens(event);
    world.happens(SessionEvent::ContactLost(bob().contact));
    assert!(matches!(
        world.told(0)[..],
        [FileTransferMessage::ContactGone]
    ));
    let Opening { object, answer } = world.opener.held_files.lock().unwrap().remove(0);
    answer.answer(Ok(object));
    world.sim.settle();
    assert!(matches!(
        world.told(1)[..],
        [FileTransferMessage::ContactGone]
    ));
    world.ends();
}

#[test]
fn a_deny_closes_what_goes_on_and_nothing_that_is_over() {
    let world = World::new();
    let (connection, bob_handle) = online(&world, Trust::Unpinned);
    for _ in 0..3 {
        world.send(&connection, bob_handle, Some(1)).unwrap();
    }
    let states = [
        FileTransferState::Open,
        FileTransferState::Completed,
        FileTransferState::Cancelled,
    ];
    for (file, state) in states.into_iter().enumerate() {
        world.opener.files.lock().unwrap()[file].becomes(state);
    }
    let (event, _declined) = file_of("bob@there");
    world.happens(event);
    let held = {
        *world.opener.hold.lock().unwrap() = true;
        let (event, _declined) = file_of("bob@there");
        world.happens(event);
        world.opener.held_files.lock().unwrap().remove(0)
    };
    world.happens(offered(1));
    world.decide(&connection, Decision::Deny);
    held.answer.answer(Ok(held.object));
    world.sim.settle();
    let told_to_close = |file| {
        let told = world.told(file);
        assert!(
            told.iter()
                .all(|message| matches!(message, FileTransferMessage::Close { .. }))
        );
        told.len()
    };
    let closed: Vec<usize> = (0..5).map(told_to_close).collect();
    assert_eq!(closed, [1, 0, 0, 1, 1]);
    // Tubes are another service.
    assert!(world.opener.tubes.lock().unwrap()[0].drain().is_empty());
    world.ends();
}

#[test]
fn to_accept_a_file_pins_its_sender() {
    let world = World::new();
    let (connection, _) = online(&world, Trust::Unpinned);
    let (event, _declined) = file_of("bob@there");
    world.happens(event);
    let transfer = world.transfer(&connection);
    let accept = |offset| {
        let (connection, transfer) = (connection.clone(), transfer.clone());
        let from = Resume {
            offset,
            stored: None,
        };
        world.sim.spawner.spawn("accepting", async move {
            connection
                .accept_file(
                    &transfer,
                    AddressType::Ipv4,
                    AccessRule::Localhost,
                    from,
                    true,
                )
                .await
        })
    };
    let beyond = world.sim.run(accept(101)).unwrap();
    assert!(
        matches!(beyond, Err(Error::InvalidArgument(_))),
        "{beyond:?}"
    );
    let provided =
        connection.provide_file(&transfer, AddressType::Ipv4, AccessRule::Localhost, None);
    assert!(matches!(
        world.sim.run(provided),
        Err(Error::NotAvailable(_))
    ));
    assert!(world.session().pinned.lock().unwrap().is_empty());
    let accepting = accept(100);
    world.sim.settle();
    assert_eq!(*world.session().pinned.lock().unwrap(), [bob().contact]);
    let mut told = world.told(0);
    let Some(FileTransferMessage::Accept {
        from,
        stores: true,
        reply,
        ..
    }) = told.pop()
    else {
        panic!("it was not told");
    };
    assert_eq!((from.offset, told.len()), (100, 0));
    let address = SocketAddress::Ipv4("127.0.0.1:7".parse().unwrap());
    reply.answer(Ok(address.clone()));
    assert_eq!(world.sim.run(accepting).unwrap(), Ok(address));
    // Straight into the session, so that the channel is still there.
    {
        let session = world.session();
        let mut policy = session.policy.lock().unwrap();
        let scope = Scope {
            who: Who::Everybody,
            service: None,
        };
        let terms = Terms {
            decision: Decision::Deny,
            ..Terms::default()
        };
        Arc::make_mut(&mut policy).set(scope, terms).unwrap();
    }
    let denied = world.sim.run(accept(0)).unwrap();
    assert!(matches!(denied, Err(Error::PermissionDenied(_))));
    world.ends();
}

#[test]
fn a_file_that_our_user_took_up_gives_its_token_back() {
    let world = World::new();
    let since = std::time::UNIX_EPOCH;
    let (connection, _) = online(&world, Trust::Pinned { since });
    let shown = |rounds: usize, state| {
        for _ in 0..rounds {
            let (event, _declined) = file_of("bob@there");
            world.happens(event);
            let Some(channel) = connection.view.get().channels.keys().next().copied() else {
                continue;
            };
            world
                .opener
                .files
                .lock()
                .unwrap()
                .last()
                .unwrap()
                .becomes(state);
            let closed = ConnectionMessage::ChannelClosed(channel);
            world
                .sim
                .run(connection.address.tell_first(closed))
                .unwrap();
            world.sim.settle();
        }
        let shown = world.tree.count("new");
        world.tree.log.lock().unwrap().clear();
        shown
    };
    assert_eq!(shown(600, FileTransferState::Completed), 600);
    // Those that nobody wanted do not.
    assert_eq!(shown(600, FileTransferState::Cancelled), 256);
    world.ends();
}

#[test]
fn the_rules_for_files_say_how_fast_they_may_be() {
    let world = World::new();
    let (connection, bob_handle) = online(&world, Trust::Unpinned);
    let (event, _declined) = file_of("bob@there");
    world.happens(event);
    world.send(&connection, bob_handle, Some(1)).unwrap();
    let scope = Scope {
        who: Who::Everybody,
        service: Some(ServiceName::of_files()),
    };
    let terms = Terms {
        max_bytes_per_second: NonZeroU64::new(4096),
        ..Terms::default()
    };
    world
        .sim
        .run(connection.set_rule(scope, Some(terms)))
        .unwrap();
    for file in world.opener.files.lock().unwrap().iter() {
        let rate = file.limits.caps().bytes_per_second;
        assert_eq!(rate, terms.max_bytes_per_second);
    }
    world.ends();
}

#[test]
fn what_our_clients_register_is_what_contacts_are_told() {
    let world = World::new();
    let (connection, _) = online(&world, Trust::Unpinned);
    let register = |filters: Vec<GivenMap>| {
        let clients = vec![ClientCapabilities {
            client: "org.example.Client".into(),
            filters,
        }];
        let update = |reply| ConnectionMessage::UpdateCapabilities { clients, reply };
        world.sim.run(connection.ask(update)).unwrap().unwrap();
        world.session().log.lock().unwrap().pop().unwrap()
    };
    let filter = GivenMap::from([(
        property::CHANNEL_TYPE.to_owned(),
        Given::Text(names::FILE_TRANSFER.into()),
    )]);
    assert_eq!(
        register(vec![filter]),
        format!("features {}", ns::SI_FILE_TRANSFER)
    );
    let myself = connection.view.get().myself().unwrap().clone();
    assert!(myself.capabilities.as_ref().unwrap().files);
    assert_eq!(register(Vec::new()), "features ");
    world.ends();
}

#[test]
fn a_transfer_that_is_over_keeps_nobody_waiting() {
    let world = World::new();
    let (connection, bob_handle) = online(&world, Trust::Unpinned);
    world.send(&connection, bob_handle, Some(1)).unwrap();
    let used = || {
        let used = crate::connection::kept::tend::used_by_others(&connection, &[]);
        world.sim.run(used)
    };
    assert!(used());
    for (state, uses) in [
        (FileTransferState::Accepted, true),
        (FileTransferState::Open, true),
        (FileTransferState::Completed, false),
        (FileTransferState::Cancelled, false),
    ] {
        world.opener.files.lock().unwrap()[0].becomes(state);
        assert_eq!(used(), uses, "{state:?}");
    }
    // What a contact offers and nobody takes is nobody's use; a tube of ours is.
    let (event, _declined) = file_of("bob@there");
    world.happens(event);
    assert!(!used());
    let pending = world.ask(&connection, bob_handle, false);
    world.answer(pending).unwrap();
    assert!(used());
    assert_eq!(
        world.opener.objects.lock().unwrap()[0].view.get().state,
        TubeState::NotOffered
    );
    world.ends();
}
