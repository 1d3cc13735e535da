//! What an actor is made of, at its edges.

use std::time::Duration;

use actors::{
    runtime::{AskError, Clock as _, Failure, Mailbox, Reply, Snapshot, Stopper},
    testing::Sim,
};
use futures_lite::future::{block_on, poll_once};

#[test]
fn the_priority_inbox_is_read_first() {
    let (mut mailbox, address) = Mailbox::new(4);
    address.try_tell(1).unwrap();
    address.try_tell(2).unwrap();
    address.try_tell_first(3).unwrap();
    let read: Vec<_> = (0..3).map(|_| block_on(mailbox.next())).collect();
    assert_eq!(read, [Some(3), Some(1), Some(2)]);
}

#[test]
fn a_full_inbox_says_so_and_leaves_the_priority_inbox_free() {
    let (mut mailbox, address) = Mailbox::new(1);
    address.try_tell(1).unwrap();
    assert!(address.try_tell(2).is_err());
    assert!(block_on(poll_once(address.tell(2))).is_none());
    address.try_tell_first(3).unwrap();
    assert_eq!(block_on(mailbox.next()), Some(3));
}

#[test]
fn what_was_sent_before_the_last_address_went_is_read() {
    let (mut mailbox, address) = Mailbox::new(4);
    let mut next = Box::pin(mailbox.next());
    assert!(block_on(poll_once(&mut next)).is_none());
    // It waits already when the message comes and the address goes.
    address.try_tell(1).unwrap();
    drop(address);
    assert_eq!(block_on(next), Some(1));
    assert_eq!(block_on(mailbox.next()), None);
}

#[test]
fn a_question_in_a_mailbox_that_is_dropped_is_answered() {
    let (mailbox, address) = Mailbox::<Reply<()>>::new(4);
    block_on(async {
        let mut asking = Box::pin(address.ask(|reply| reply));
        assert!(poll_once(&mut asking).await.is_none());
        drop(mailbox);
        assert_eq!(asking.await, Err(AskError::Dropped));
        assert_eq!(address.ask(|reply| reply).await, Err(AskError::Gone));
    });
}

#[test]
fn a_lent_mailbox_leaves_everything_where_it_is() {
    let (mailbox, address) = Mailbox::new(4);
    address.try_tell(1).unwrap();
    address.try_tell(2).unwrap();
    let mut lent = mailbox.lend();
    assert_eq!(block_on(lent.next()), Some(1));
    drop(lent);
    assert!(!address.is_gone());
    assert_eq!(block_on(mailbox.lend().next()), Some(2));
}

#[test]
fn stop_goes_down_and_never_up() {
    let (root, stop) = Stopper::new();
    let (left, left_stop) = stop.branch();
    let (_right, right_stop) = stop.branch();
    let (_below, below_stop) = left_stop.branch();
    left.stop();
    assert!(left_stop.is_stopped() && below_stop.is_stopped());
    assert!(!stop.is_stopped() && !right_stop.is_stopped());
    drop(root);
    assert!(stop.is_stopped() && right_stop.is_stopped());
    let (_late, late_stop) = stop.branch();
    assert!(late_stop.is_stopped());
}

#[test]
fn a_deep_tree_stops_without_a_deep_stack() {
    let (root, mut stop) = Stopper::new();
    let mut kept = Vec::new();
    for _ in 0..200_000 {
        let (stopper, below) = stop.branch();
        kept.push(stopper);
        stop = below;
    }
    root.stop();
    assert!(stop.is_stopped());
    block_on(stop.stopped());
}

#[test]
fn whoever_waits_for_a_stop_is_woken() {
    let sim = Sim::new();
    let (stopper, stop) = Stopper::new();
    let waiting = sim
        .spawner
        .spawn("waits", async move { stop.stopped().await });
    sim.settle();
    assert!(!waiting.is_finished());
    stopper.stop();
    assert_eq!(sim.run(waiting), Ok(()));
}

#[test]
fn a_panic_is_a_failure_and_the_count_goes_back() {
    let sim = Sim::new();
    let task = sim.spawner.spawn("panics", async { panic!("on purpose") });
    assert_eq!(sim.spawner.running(), 1);
    let ended: Result<(), Failure> = sim.run(task);
    assert_eq!(ended, Err(Failure::Panicked("on purpose".into())));
    assert_eq!(sim.spawner.running(), 0);
}

#[test]
fn a_task_that_is_dropped_is_cancelled() {
    let sim = Sim::new();
    let clock = sim.clock.clone();
    let task = sim.spawner.spawn("sleeps", async move {
        clock.sleep(Duration::from_secs(60)).await;
    });
    sim.settle();
    assert_eq!(sim.clock.sleepers(), 1);
    drop(task);
    sim.settle();
    assert_eq!((sim.spawner.running(), sim.clock.sleepers()), (0, 0));
}

#[test]
fn a_snapshot_wakes_those_who_wait_for_a_value() {
    let sim = Sim::new();
    let (writer, snapshot) = Snapshot::new(0);
    let waiting = sim.spawner.spawn("waits", async move {
        *snapshot.wait_for(|value| *value > 1).await
    });
    sim.settle();
    writer.publish(1);
    sim.settle();
    assert!(!waiting.is_finished());
    writer.publish(2);
    assert_eq!(sim.run(waiting), Ok(2));
}

#[test]
fn a_reply_nobody_waits_for_comes_back() {
    let (reply, pending) = Reply::new();
    assert!(reply.is_wanted());
    drop(pending);
    assert!(!reply.is_wanted());
    assert_eq!(reply.send(7), Err(7));
}
