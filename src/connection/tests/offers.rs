//! What contacts offer: how much of it, whose, and what is done about the rest.

use actors::{
    model::{Error, ServiceName},
    testing::{FakeIncoming, IncomingOutcome, Signalled, StreamCounter},
};

use super::fakes::{World, bob, offered};
use crate::{
    connection::{
        message::ConnectionMessage,
        offer_rate::OF_A_STRANGER,
        table::{MAX_CHANNELS, MAX_OFFERS, MAX_OFFERS_OF_ONE, MAX_OFFERS_OF_STRANGERS},
    },
    session::{Contact, ContactId, Presence, SessionEvent, Show, Trust, TubeId, trust::KeyId},
};

pub fn contact(name: &str, trust: Trust) -> SessionEvent {
    SessionEvent::Contact(Contact {
        id: ContactId(name.into()),
        alias: String::new(),
        presence: Presence {
            show: Show::Available,
            message: String::new(),
        },
        features: None,
        key: None,
        trust,
    })
}

fn offered_by(name: &str, number: u32) -> SessionEvent {
    let mut offer = offered(number);
    if let SessionEvent::TubeOffered { from, .. } = &mut offer {
        from.contact = ContactId(name.into());
    }
    offer
}

#[test]
fn a_connection_through_a_tube_the_contact_offered_itself_is_refused() {
    let world = World::new();
    let (_connection, _) = world.online();
    world.happens(offered(7));
    let (stream, outcome) = FakeIncoming::request(1, &StreamCounter::default(), None);
    world.happens(SessionEvent::StreamOffered {
        from: bob(),
        tube: TubeId(7),
        stream,
    });
    let refused = world.sim.run(outcome.wait());
    assert!(matches!(
        refused,
        Ok(IncomingOutcome::Refused(Error::NotAvailable(_)))
    ));
    // Its mailbox is for what our user asks.
    assert!(world.opener.tubes.lock().unwrap()[0].drain().is_empty());
    world.ends();
}

#[test]
fn offers_are_bounded_for_each_contact_and_closed_beyond() {
    let world = World::new();
    let (connection, _) = world.online();
    for tube in 1..=MAX_OFFERS_OF_ONE as u32 + 1 {
        world.happens(offered(tube));
    }
    assert_eq!(connection.view.get().channels.len(), MAX_OFFERS_OF_ONE);
    assert_eq!(world.session().signalling.log(), [Signalled::Closed]);
    const { assert!(MAX_OFFERS_OF_ONE < MAX_OFFERS && MAX_OFFERS < MAX_CHANNELS) };
    world.ends();
}

#[test]
fn a_tube_offered_and_closed_again_and_again_is_soon_refused() {
    let world = World::new();
    let (connection, _) = world.online();
    for tube in 1..=200 {
        world.happens(offered(tube));
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
    world.sim.advance(OF_A_STRANGER.each);
    world.happens(offered(201));
    assert_eq!(world.tree.count("new"), OF_A_STRANGER.burst as usize + 1);
    world.ends();
}

#[test]
fn an_offer_that_comes_twice_is_one() {
    let world = World::new();
    let (connection, _) = world.online();
    *world.opener.hold.lock().unwrap() = true;
    world.happens(offered(1));
    world.happens(offered(1));
    let opening = world.opener.held.lock().unwrap().remove(0);
    opening.answer.answer(Ok(opening.object));
    world.sim.settle();
    world.happens(offered(1));
    assert_eq!(connection.view.get().channels.len(), 1);
    // A close would end the tube it means to keep.
    assert!(world.session().signalling.log().is_empty());
    world.ends();
}

#[test]
fn many_strangers_leave_room_for_the_offers_of_those_our_user_knows() {
    let world = World::new();
    let (connection, _) = world.online();
    for number in 0..2 * MAX_OFFERS / MAX_OFFERS_OF_ONE {
        let name = format!("stranger {number}");
        world.happens(contact(&name, Trust::Unpinned));
        for tube in 1..=MAX_OFFERS_OF_ONE as u32 {
            world.happens(offered_by(&name, tube));
        }
    }
    let channels = || connection.view.get().channels.len();
    assert_eq!(channels(), MAX_OFFERS_OF_STRANGERS);
    let since = std::time::UNIX_EPOCH;
    world.happens(contact("carol", Trust::Pinned { since }));
    world.happens(offered_by("carol", 1));
    assert_eq!(channels(), MAX_OFFERS_OF_STRANGERS + 1);
    world.ends();
}

#[test]
fn offers_of_all_contacts_together_are_bounded() {
    let world = World::new();
    let (connection, _) = world.online();
    let since = std::time::UNIX_EPOCH;
    for number in 0..=MAX_OFFERS / MAX_OFFERS_OF_ONE {
        let name = format!("friend {number}");
        world.happens(contact(&name, Trust::Pinned { since }));
        for tube in 1..=MAX_OFFERS_OF_ONE as u32 {
            world.happens(offered_by(&name, tube));
        }
    }
    assert_eq!(connection.view.get().channels.len(), MAX_OFFERS);
    world.ends();
}

#[test]
fn what_a_blocked_contact_offers_is_closed() {
    let world = World::new();
    let (connection, _) = world.online();
    let pinned = KeyId([1; 32]);
    world.happens(contact("mallory", Trust::Blocked { pinned }));
    world.happens(offered_by("mallory", 1));
    assert!(connection.view.get().channels.is_empty());
    assert_eq!(world.session().signalling.log(), [Signalled::Closed]);
    world.ends();
}

#[test]
fn an_offer_whose_id_is_taken_is_refused() {
    let world = World::new();
    let (connection, _) = world.online();
    world.happens(offered(1));
    let mut other = offered(1);
    if let SessionEvent::TubeOffered { service, .. } = &mut other {
        *service = ServiceName::new("http").unwrap();
    }
    world.happens(other);
    assert_eq!(connection.view.get().channels.len(), 1);
    assert_eq!(world.session().signalling.log(), [Signalled::Closed]);
    world.ends();
}
