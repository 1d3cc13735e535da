//! The connection manager inside another smol program, on that program's executor.
//!
//! The program has work of its own (it counts), one executor and one thread. It starts the manager
//! on that executor, brings an account online as a client would, shows what it sees, and lets the
//! manager go again; its own work never stops. A private message bus and a temporary folder keep the
//! example apart from the rest of the machine.
//!
//!     cargo run --example embed_in_smol

use std::{
    error::Error,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use actors::runtime::{Spawner, SystemClock};
use pneuma::{
    Service,
    client::{Account, Bus, Connection},
};
use smol::Executor;

/// A message bus of our own, gone when it is dropped.
struct PrivateBus {
    daemon: Child,
    address: String,
}

impl PrivateBus {
    fn start() -> Result<Self, Box<dyn Error>> {
        let mut daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = daemon.stdout.take().ok_or("the bus has no output")?;
        let mut address = String::new();
        BufReader::new(output).read_line(&mut address)?;
        Ok(PrivateBus {
            daemon,
            address: address.trim().to_owned(),
        })
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        if let Err(error) = self.daemon.kill().and_then(|()| self.daemon.wait()) {
            eprintln!("the bus does not end: {error}");
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let bus = PrivateBus::start()?;
    let folder = tempfile::tempdir()?;
    let executor = Arc::new(Executor::new());

    // The program's own work.
    let counted = Arc::new(AtomicU32::new(0));
    let counting = executor.spawn({
        let counted = counted.clone();
        async move {
            loop {
                smol::Timer::after(Duration::from_millis(20)).await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });

    smol::block_on(executor.run(async {
        let service = Service::builder()
            .address(&bus.address)
            .profiles(folder.path().join("profiles"))
            .runtime_directory(folder.path().join("sockets"))
            .persist(true)
            .start(executor.clone())
            .await?;
        println!("the manager runs in here, with {} tasks", service.tasks());

        talk_to_it(&bus.address, &executor).await?;
        println!(
            "meanwhile the program counted to {}",
            counted.load(Ordering::Relaxed)
        );

        let end = service.shutdown().await;
        while service.tasks() > 0 {
            smol::future::yield_now().await;
        }
        println!("the manager has ended ({end:?}), with no task left");

        let before = counted.load(Ordering::Relaxed);
        smol::Timer::after(Duration::from_millis(100)).await;
        let after = counted.load(Ordering::Relaxed);
        println!("and the program goes on counting: {before}, {after}");
        counting.cancel().await;
        if after > before {
            Ok(())
        } else {
            Err("the program's own work has stopped".into())
        }
    }))
}

/// What any Telepathy client does, by our own client library and on the same executor.
async fn talk_to_it(
    address: &str,
    executor: &Arc<Executor<'static>>,
) -> Result<(), Box<dyn Error>> {
    let bus = Bus::at(address, Spawner::new(executor.clone()), SystemClock::new()).await?;
    let account = Account {
        published_name: Some("embedded".into()),
        // Only this machine, and apart from whoever else is on it.
        interface: Some("lo".into()),
        mdns_port: Some(25_353),
        ..Account::default()
    };
    let connection = Connection::request(&bus, &account).await?;
    connection.connect(Duration::from_secs(30)).await?;
    println!(
        "online as {}, with the key {}",
        connection.self_id().await?,
        connection.own_fingerprint().await?
    );
    println!("{} others are here", connection.contacts().await?.len());
    connection.disconnect().await?;
    Ok(())
}
