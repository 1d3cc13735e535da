//! D-Bus tubes: who is offered them, whose are shown, and what becomes of them.

use actors::{
    dbus_tube::DBusTubeMessage,
    model::{AccessControl, ContactHandle, Error, Result, ServiceName, TubeParameters},
    ports::DBusTubeView,
    supervisor::DBusTubeWay,
    testing::{FakeDBusOffer, FakeIncomingDBusTube},
};

use super::{
    fakes::{World, bob, offered},
    offers::contact,
};
use crate::{
    connection::{
        ConnectionHandle,
        message::{ConnectionMessage, CreatedChannel},
        offer_rate::OF_A_PINNED_CONTACT,
        requests::{ChannelRequest, Target, Wanted},
        table::MAX_OFFERS_OF_ONE,
    },
    session::{
        ContactId, SessionEvent, Trust, TubeId,
        trust::{Decision, Scope, Terms, Who},
    },
};

fn chess() -> ServiceName {
    ServiceName::of_bus("com.example.Chess").unwrap()
}

/// Bob offers one.
fn tube_of_bob(tube: u32) -> (SessionEvent, FakeDBusOffer) {
    let (incoming, offer) = FakeIncomingDBusTube::offered();
    let event = SessionEvent::DBusTubeOffered {
        from: bob(),
        tube: TubeId(tube),
        service: chess(),
        parameters: TubeParameters::default(),
        incoming,
    };
    (event, offer)
}

impl World {
    fn wants_chess(
        &self,
        connection: &ConnectionHandle,
        contact: ContactHandle,
        ensure: bool,
    ) -> Result<CreatedChannel> {
        let request = ChannelRequest {
            target: Target::Handle(contact),
            wanted: Wanted::DBusTube(chess()),
            claimed: false,
        };
        let answer = self.sim.run(connection.request(request, ensure));
        self.sim.settle();
        answer
    }

    /// Denies it to everybody.
    fn deny(&self, connection: &ConnectionHandle, service: &str) {
        let scope = Scope {
            who: Who::Everybody,
            service: Some(ServiceName::new(service).unwrap()),
        };
        let terms = Terms {
            decision: Decision::Deny,
            ..Terms::default()
        };
        let deny = connection.set_rule(scope, Some(terms));
        self.sim.run(deny).unwrap();
        self.sim.settle();
    }

    /// Whether the contact that made this offer is refused by now.
    fn is_declined(&self, offer: &FakeDBusOffer) -> bool {
        self.sim.settle();
        let accepted = futures_lite::future::poll_once(offer.accepted());
        matches!(self.sim.run(accepted), Some(None))
    }

    /// What the last D-Bus tube was told.
    fn dbus_tube_was_told(&self) -> Vec<DBusTubeMessage> {
        let mut tubes = self.opener.dbus_tubes.lock().unwrap();
        tubes.last_mut().expect("a D-Bus tube").told.drain()
    }
}

#[test]
fn a_tube_is_made_once_for_whoever_ensures_it() {
    let world = World::new();
    let (connection, bob) = world.online();
    let first = world.wants_chess(&connection, bob, true).unwrap();
    let again = world.wants_chess(&connection, bob, true).unwrap();
    assert!(first.yours && !again.yours);
    assert_eq!(first.details.id, again.details.id);
    let other = world.wants_chess(&connection, bob, false).unwrap();
    assert_ne!(first.details.id, other.details.id);
    {
        let tubes = world.opener.dbus_tubes.lock().unwrap();
        assert_eq!(tubes.len(), 2);
        for tube in &*tubes {
            assert!(matches!(tube.way, DBusTubeWay::Offer(_)));
            let description = &tube.object.description;
            assert_eq!(description.service, chess());
            // Those of the machine's Unix sockets.
            let unix = [AccessControl::Localhost, AccessControl::Credentials];
            assert_eq!(description.accesses, unix);
        }
    }
    // Nobody is pinned before something is offered.
    assert!(world.session().pinned.lock().unwrap().is_empty());
    drop((first, again, other));
    world.ends();
}

#[test]
fn our_user_is_asked_about_what_is_offered_within_bounds() {
    let world = World::new();
    let (_connection, _) = world.online();
    // The ids of both types are one contact's.
    world.happens(offered(1));
    let (taken, offer) = tube_of_bob(1);
    world.happens(taken);
    assert!(world.is_declined(&offer));
    let offers: Vec<_> = (2..)
        .take(MAX_OFFERS_OF_ONE)
        .map(|tube| {
            let (event, offer) = tube_of_bob(tube);
            world.happens(event);
            offer
        })
        .collect();
    let declined = offers.iter().filter(|offer| world.is_declined(offer));
    assert_eq!(declined.count(), 1);
    assert!(world.is_declined(&offers[MAX_OFFERS_OF_ONE - 1]));
    let shown = world.opener.dbus_tubes.lock().unwrap().len();
    assert_eq!(shown, MAX_OFFERS_OF_ONE - 1);
    world.ends();
}

#[test]
fn who_is_denied_is_declined() {
    let world = World::new();
    let (connection, bob) = world.online();
    let (event, standing) = tube_of_bob(1);
    world.happens(event);
    let mine = world.wants_chess(&connection, bob, false).unwrap();
    // The same name without a prefix is a stream tube's.
    world.deny(&connection, "com.example.Chess");
    for tube in &mut *world.opener.dbus_tubes.lock().unwrap() {
        assert!(tube.told.drain().is_empty());
    }
    world.deny(&connection, "dbus:com.example.Chess");
    // What stands is closed, and what comes is declined.
    for tube in &mut *world.opener.dbus_tubes.lock().unwrap() {
        assert!(matches!(
            *tube.told.drain(),
            [DBusTubeMessage::Close { .. }]
        ));
    }
    let (event, offer) = tube_of_bob(2);
    world.happens(event);
    assert!(world.is_declined(&offer));
    // And nothing is offered.
    let object = world.opener.dbus_tubes.lock().unwrap()[1].object.clone();
    let offering = connection.offer_dbus(&object, AccessControl::Credentials, Default::default());
    let refused = world.sim.run(offering);
    assert!(
        matches!(refused, Err(Error::PermissionDenied(_))),
        "{refused:?}"
    );
    assert!(world.session().pinned.lock().unwrap().is_empty());
    drop((standing, mine));
    world.ends();
}

#[test]
fn a_tube_for_who_is_denied_stays_and_its_offer_is_refused() {
    let world = World::new();
    let (connection, bob) = world.online();
    world.deny(&connection, "dbus:com.example.Chess");
    let mine = world.wants_chess(&connection, bob, false).unwrap();
    assert!(world.dbus_tube_was_told().is_empty());
    let object = world.opener.dbus_tubes.lock().unwrap()[0].object.clone();
    let offering = connection.offer_dbus(&object, AccessControl::Localhost, Default::default());
    let refused = world.sim.run(offering);
    assert!(
        matches!(refused, Err(Error::PermissionDenied(_))),
        "{refused:?}"
    );
    drop(mine);
    world.ends();
}

#[test]
fn a_tube_that_was_accepted_counts_as_no_offer_whatever_became_of_it() {
    let world = World::new();
    let (connection, _) = world.online();
    let ends = |accepted| {
        let tube = world.opener.dbus_tubes.lock().unwrap().pop().unwrap();
        let seen = (*tube.object.view.get()).clone();
        tube.view.publish(DBusTubeView { accepted, ..seen });
        let closed = ConnectionMessage::ChannelClosed(tube.object.id);
        let told = connection.address.tell_first(closed);
        world.sim.run(told).unwrap();
        world.sim.settle();
    };
    // To accept is to pin.
    let since = std::time::UNIX_EPOCH;
    world.happens(contact("carol", Trust::Pinned { since }));
    let offers = |number| {
        let (mut event, offer) = tube_of_bob(number);
        if let SessionEvent::DBusTubeOffered { from, .. } = &mut event {
            from.contact = ContactId("carol".into());
        }
        world.happens(event);
        offer
    };
    for number in 1..=2 * OF_A_PINNED_CONTACT.burst {
        let offer = offers(number);
        assert!(!world.is_declined(&offer), "{number}");
        ends(true);
    }
    for number in 1..=OF_A_PINNED_CONTACT.burst {
        let offer = offers(number);
        assert!(!world.is_declined(&offer), "{number}");
        ends(false);
    }
    assert!(world.is_declined(&offers(1)));
    world.ends();
}

#[test]
fn whoever_offers_or_accepts_deals_with_the_contact() {
    let world = World::new();
    let (connection, handle) = world.online();
    let mine = world.wants_chess(&connection, handle, false).unwrap();
    let (event, standing) = tube_of_bob(7);
    world.happens(event);
    let mut tubes = std::mem::take(&mut *world.opener.dbus_tubes.lock().unwrap());
    let access = AccessControl::Credentials;
    let mut dealt = Vec::new();
    for tube in &mut tubes {
        let object = tube.object.clone();
        let asked = async {
            match tube.way {
                DBusTubeWay::Offer(_) => {
                    let parameters = TubeParameters::default();
                    connection.offer_dbus(&object, access, parameters).await
                }
                DBusTubeWay::Accept(_) => connection.accept_dbus(&object, access).await,
            }
        };
        let answers = async {
            let (DBusTubeMessage::Offer { reply, .. } | DBusTubeMessage::Accept { reply, .. }) =
                tube.told.expect().await
            else {
                panic!("something else");
            };
            dealt.push(world.session().pinned.lock().unwrap().len());
            reply.answer(Ok("unix:path=/here".into()));
        };
        let (address, ()) = world.sim.run(futures_lite::future::zip(asked, answers));
        assert_eq!(address.unwrap(), "unix:path=/here");
    }
    // Before the tube is asked.
    assert_eq!(dealt, [1, 2]);
    let contact = bob().contact;
    assert_eq!(
        *world.session().pinned.lock().unwrap(),
        [contact.clone(), contact]
    );
    drop((mine, standing));
    world.ends();
}

#[test]
fn a_tube_learns_what_becomes_of_its_contact() {
    let world = World::new();
    let (_connection, _) = world.online();
    let (event, _offer) = tube_of_bob(7);
    world.happens(event);
    world.happens(SessionEvent::TubeClosed {
        from: bob(),
        tube: TubeId(8),
    });
    assert!(world.dbus_tube_was_told().is_empty());
    world.happens(SessionEvent::TubeClosed {
        from: bob(),
        tube: TubeId(7),
    });
    assert!(matches!(
        *world.dbus_tube_was_told(),
        [DBusTubeMessage::RemoteClosed]
    ));
    world.happens(SessionEvent::ContactLost(bob().contact));
    assert!(matches!(
        *world.dbus_tube_was_told(),
        [DBusTubeMessage::ContactGone]
    ));
    world.ends();
}
