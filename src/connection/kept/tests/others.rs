//! Kept tubes beside what else there is: other clients, and another service of the same user.

use super::*;
use crate::connection::tests::fakes;

#[test]
fn a_connection_that_made_way_for_nothing_comes_back() {
    let kept = Kept::new(Some(record()));
    kept.world.network.fails.store(true, Ordering::Relaxed);
    let request = kept.keeper.request(World::account("ada"));
    let refused = kept.world.sim.run(request);
    assert!(matches!(refused, Err(Error::NetworkError(_))));
    kept.world.sim.settle();
    assert_eq!(kept.sessions().len(), 2);
    assert_eq!(kept.connection().view.get().status, Status::Connected);
    assert_eq!(*kept.memory.record.lock().unwrap(), Some(record()));
    // Nobody wanted it to be offline, however long it takes until it is back.
    kept.world.network.taken.store(true, Ordering::Relaxed);
    assert!(matches!(kept.another(), Err(Error::AlreadyConnected(_))));
    kept.world.sim.settle();
    kept.waits_for("offline");
    assert_eq!(*kept.memory.record.lock().unwrap(), Some(record()));
    kept.world.network.taken.store(false, Ordering::Relaxed);
    kept.world.sim.advance(Duration::from_secs(10));
    assert_eq!(kept.connection().view.get().status, Status::Connected);
    kept.ends();
}

#[test]
fn a_connection_with_tubes_of_others_does_not_make_way() {
    let kept = Kept::new(Some(record()));
    kept.friend();
    kept.offered();
    let (connection, other) = (kept.connection(), kept.somebody_else_s());
    let request = || {
        let request = kept.keeper.request(World::account("ada"));
        kept.world.sim.run(request)
    };
    assert!(matches!(request(), Err(Error::NotAvailable(_))));
    assert_eq!(connection.view.get().status, Status::Connected);
    kept.closed(&connection, other);
    kept.world.opener.tubes.lock().unwrap().clear();
    assert_ne!(request().unwrap().id, connection.id);
    kept.ends();
}

#[test]
fn what_went_online_for_kept_tubes_ends_with_them_unless_it_is_used() {
    let kept = Kept::new(Some(record()));
    kept.friend();
    kept.offered();
    let connection = kept.connection();
    let own = *connection.view.get().channels.keys().next().unwrap();
    let other = kept.somebody_else_s();
    let (keeper, of) = (kept.keeper.clone(), connection.clone());
    let closing = async move { keeper.close(&of, 1).await };
    let closing = kept.world.sim.spawner.spawn("user", closing);
    kept.world.sim.settle();
    kept.closed(&connection, own);
    kept.world.sim.run(closing).unwrap().unwrap();
    kept.world.sim.advance(Duration::from_secs(3600));
    assert_eq!(connection.view.get().status, Status::Connected);
    kept.closed(&connection, other);
    assert_eq!(connection.view.get().status, Status::Connected);
    // A tube that nobody answers holds its connection's end.
    kept.world.opener.tubes.lock().unwrap().clear();
    kept.world.sim.advance(Duration::from_secs(10));
    assert!(connection.address.is_gone());
    assert_eq!(kept.sessions().len(), 1);
    kept.ends();
}

#[test]
fn nobody_stays_for_what_another_service_keeps_and_takes_it_over_when_that_has_ended() {
    let network = TestNetwork::default();
    network.taken.store(true, Ordering::Relaxed);
    let kept = Kept::with(network, Some(record()));
    let network = kept.world.network.clone();
    assert_eq!(kept.sessions().len(), 0);
    assert!(!kept.keeper.is_going_online());
    kept.waits_for("offline");
    // Somebody takes it offline there: that counts here, too.
    kept.memory.record.lock().unwrap().as_mut().unwrap().offline = true;
    network.taken.store(false, Ordering::Relaxed);
    kept.world.sim.advance(Duration::from_secs(3600));
    assert_eq!(kept.sessions().len(), 0);
    kept.ends();

    let network = TestNetwork::default();
    network.taken.store(true, Ordering::Relaxed);
    let kept = Kept::with(network, Some(record()));
    let network = kept.world.network.clone();
    kept.world.sim.advance(Duration::from_secs(3600));
    assert!(!kept.keeper.is_going_online());
    // What may go better the next time is worth staying for.
    network.taken.store(false, Ordering::Relaxed);
    network.fails.store(true, Ordering::Relaxed);
    while network.fails.load(Ordering::Relaxed) {
        kept.world.sim.advance(Duration::from_secs(1));
    }
    assert!(kept.keeper.is_going_online());
    kept.world.sim.advance(Duration::from_secs(2));
    assert_eq!(kept.sessions().len(), 1);
    assert!(!kept.keeper.is_going_online(), "it is there");
    kept.friend();
    kept.offered();
    kept.ends();
}

#[test]
fn an_offer_that_somebody_has_taken_holds_the_connection_and_one_that_waits_does_not() {
    let kept = Kept::new(Some(record()));
    kept.friend();
    kept.offered();
    let session = kept.sessions().pop().unwrap();
    session.events.try_send(fakes::offered(1)).unwrap();
    kept.world.sim.settle();
    assert_eq!(kept.connection().view.get().channels.len(), 2);
    kept.world.opens();
    assert!(matches!(kept.another(), Err(Error::NotAvailable(_))));
    kept.ends();

    let kept = Kept::new(Some(record()));
    kept.friend();
    kept.offered();
    let session = kept.sessions().pop().unwrap();
    session.events.try_send(fakes::offered(1)).unwrap();
    kept.world.sim.settle();
    // Whether it is taken is asked of the tube, which says so only by what it shows.
    assert!(kept.another().is_ok());
    kept.ends();
}

#[test]
fn a_tube_that_is_only_just_made_does_not_hold_the_connection_of_its_own() {
    let kept = Kept::new(Some(record()));
    kept.friend();
    let connection = kept.connection();
    // The channel is there, and nobody has answered its Offer.
    assert_eq!(connection.view.get().channels.len(), 1);
    kept.waits_for("");
    assert!(kept.another().is_ok());
    assert!(connection.address.is_gone());
    kept.ends();
}

#[test]
fn who_wants_a_connection_while_ours_is_being_made_gets_it_when_that_is_done() {
    let network = TestNetwork::default();
    let (started, hold) = Reply::new();
    *network.hold.lock().unwrap() = Some(hold);
    let kept = Kept::with(network, Some(record()));
    assert_eq!(kept.sessions().len(), 0);
    let keeper = kept.keeper.clone();
    let asking = async move { keeper.request(World::account("ada")).await };
    let asking = kept.world.sim.spawner.spawn("client", asking);
    kept.world.sim.advance(Duration::from_millis(1500));
    assert!(!asking.is_finished());
    started.answer(());
    let had = kept.world.sim.run(asking).unwrap().unwrap();
    kept.world.sim.settle();
    assert_eq!(kept.sessions().len(), 2);
    assert_eq!(kept.connection().id, had.id);
    kept.ends();
}

#[test]
fn what_is_kept_anew_before_the_account_has_gone_offline_keeps_it_online() {
    let kept = Kept::new(Some(record()));
    kept.friend();
    kept.offered();
    let connection = kept.connection();
    let ending = kept.ends_first();
    kept.closes(&connection);
    kept.world.sim.run(ending).unwrap().unwrap();
    kept.world.opener.tubes.lock().unwrap().clear();
    kept.world.sim.advance(Duration::from_secs(4));
    let asking = kept.keeps("http");
    kept.offered();
    kept.world.sim.run(asking).unwrap().unwrap();
    // Nothing else of the connection's keeps it: the keeper looks whether it is needed.
    kept.closes(&connection);
    kept.world.opener.tubes.lock().unwrap().clear();
    kept.world.sim.advance(Duration::from_secs(3600));
    assert_eq!(connection.view.get().status, Status::Connected);
    kept.ends();
}

#[test]
fn what_another_service_has_changed_counts_as_it_is_written() {
    let kept = Kept::new(Some(record()));
    kept.friend();
    kept.offered();
    kept.world.network.taken.store(true, Ordering::Relaxed);
    kept.fails();
    // The same number, another tube.
    let mut theirs = Record::new(World::account("ada"));
    theirs.keep(offer("rfb")).unwrap();
    *kept.memory.record.lock().unwrap() = Some(theirs);
    kept.world.sim.advance(Duration::from_secs(3600));
    let [listed] = <[_; 1]>::try_from(kept.keeper.of("ada")).expect("one kept tube");
    assert_eq!(listed.tube, offer("rfb"));
    kept.world.network.taken.store(false, Ordering::Relaxed);
    kept.world.sim.advance(Duration::from_secs(300));
    kept.friend();
    kept.offered();
    let objects = kept.world.opener.objects.lock().unwrap();
    let last = objects.last().unwrap().description.service.clone();
    drop(objects);
    assert_eq!(last, ServiceName::new("rfb").unwrap());
    kept.ends();
}
