//! An actor from nothing: a counter that is told and asked, dies of a bad message, and is restarted by
//! a supervisor of twenty lines from the last value it committed.
//!
//! `cargo run -p pneuma-actors --example actor_from_scratch`

use std::{sync::Arc, time::Duration};

use actors::runtime::{
    Actor, Address, Clock, Exit, Flow, Mailbox, Reply, Snapshot, SnapshotWriter, Spawner, Stop,
    Stopper, SystemClock, catch, run,
};

/// What the counter is sent: one variant for each thing one can say to it. A question carries the
/// place for its answer.
enum Message {
    Add(u64),
    DivideBy(u64),
    Value(Reply<u64>),
}

/// The counter. Its state is a number; the snapshot is the same number for everybody to read, and the
/// record from which a successor starts.
struct Counter {
    mailbox: Mailbox<Message>,
    value: u64,
    committed: Arc<SnapshotWriter<u64>>,
}

impl Actor for Counter {
    /// `None`: everybody who could send something is gone.
    type Event = Option<Message>;

    /// Waits, and changes nothing: it may be cancelled at any time without a loss.
    async fn select(&mut self) -> Self::Event {
        self.mailbox.next().await
    }

    /// Decides, and waits for nothing: a unit test calls this with any event it likes.
    fn apply(&mut self, event: Self::Event) -> Flow {
        match event {
            Some(Message::Add(number)) => self.value += number,
            // A bug, left in on purpose: nobody checks for 0.
            Some(Message::DivideBy(number)) => self.value /= number,
            Some(Message::Value(reply)) => reply.answer(self.value),
            None => return Flow::Exit(Exit::Finished),
        }
        self.committed.publish(self.value);
        Flow::Continue
    }
}

/// Restarts the counter when it fails. The mailbox belongs to the supervisor and is lent, so addresses
/// stay valid and no message is lost but the one that was being handled.
async fn supervise(
    clock: Arc<dyn Clock>,
    mailbox: Mailbox<Message>,
    committed: SnapshotWriter<u64>,
    stop: Stop,
) {
    let committed = Arc::new(committed);
    let mut pause = Duration::from_millis(10);
    loop {
        let counter = Counter {
            mailbox: mailbox.lend(),
            value: *committed.get(),
            committed: committed.clone(),
        };
        match catch("counter", run(counter, &stop)).await {
            Ok(Exit::Finished | Exit::Stopped) => {
                return println!("supervisor: the counter is done");
            }
            Ok(Exit::Failed(failure)) | Err(failure) => {
                println!("supervisor: the counter {failure}; restarting in {pause:?}");
            }
        }
        clock.sleep(pause).await;
        pause *= 2;
    }
}

async fn scenario(counter: Address<Message>, value: Snapshot<u64>) {
    for number in [20, 22] {
        if counter.tell(Message::Add(number)).await.is_err() {
            println!("the counter is gone");
        }
    }
    println!("asked: {:?}", counter.ask(Message::Value).await);
    println!("read without asking: {}", value.get());

    println!("now divide by zero, and ask right behind it");
    if counter.tell(Message::DivideBy(0)).await.is_err() {
        println!("the counter is gone");
    }
    println!(
        "its successor answers from the last commit: {:?}",
        counter.ask(Message::Value).await
    );
}

fn main() {
    // The executor and the clock are ours; the actors get them handed in. A test would bring a
    // `testing::Sim` instead and run hours in milliseconds.
    let executor = Arc::new(async_executor::Executor::new());
    let spawner = Spawner::new(executor.clone());
    futures_lite::future::block_on(executor.run(async {
        let (mailbox, address) = Mailbox::new(8);
        let (writer, value) = Snapshot::new(0);
        let (stopper, stop) = Stopper::new();
        let supervisor = supervise(SystemClock::new(), mailbox, writer, stop);
        let supervisor = spawner.spawn("supervisor", supervisor);

        scenario(address, value).await;
        println!("tasks running: {}", spawner.running());
        stopper.stop();
        if let Err(failure) = supervisor.await {
            println!("the supervisor {failure}");
        }
        println!("tasks running: {}", spawner.running());
    }));
}
