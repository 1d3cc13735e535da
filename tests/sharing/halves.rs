//! Both halves of a shared service, joined by a pair of sockets.
//!
//! ```text
//!   Player ── dbus-daemon ── share() ══ pair of sockets ══ Serving ◄── busctl, gdbus …
//!                                             or ══════════ own() ── another dbus-daemon ◄── busctl, gdbus …
//! ```

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
};

use actors::{
    model::SocketAddress,
    runtime::{Clock, Spawner, Stopper, SystemClock, Task},
};
use pneuma::client::{
    Bus, Result,
    sharing::{Filter, Serving, Standing, join, own, share},
};
use smol::{Executor, future::block_on};
use support::{PATIENCE, Process};
use zbus::{Guid, MessageStream, connection::Builder};

/// The service's name.
pub const NAME: &str = "org.mpris.MediaPlayer2.pneuma";
/// Its object.
pub const PATH: &str = "/org/mpris/MediaPlayer2";
/// Its interface.
pub const PLAYER: &str = "org.mpris.MediaPlayer2.Player";

/// A player without sound, as MPRIS has it.
pub struct Player {
    pub played: Arc<Mutex<Vec<String>>>,
    pub volume: f64,
}

#[zbus::interface(name = "org.mpris.MediaPlayer2.Player")]
impl Player {
    fn play(&self) {
        self.played.lock().unwrap().push("play".to_owned());
    }

    fn pause(&self) {
        self.played.lock().unwrap().push("pause".to_owned());
    }

    /// Takes its time.
    async fn seek(&self, _offset: i64) {
        self.played.lock().unwrap().push("seek".to_owned());
        std::future::pending::<()>().await;
    }

    /// More than goes through, or less.
    fn cover(&self, bytes: u32) -> String {
        "x".repeat(bytes as usize)
    }

    fn open_uri(&self, uri: &str) {
        self.played.lock().unwrap().push(uri.to_owned());
    }

    #[zbus(property)]
    fn volume(&self) -> f64 {
        self.volume
    }

    #[zbus(property)]
    fn set_volume(&mut self, volume: f64) {
        self.volume = volume;
    }

    #[zbus(property)]
    fn playback_status(&self) -> &str {
        "Playing"
    }

    #[zbus(property)]
    fn can_control(&self) -> bool {
        true
    }

    #[zbus(property)]
    fn can_play(&self) -> bool {
        true
    }

    #[zbus(property)]
    fn can_pause(&self) -> bool {
        true
    }
}

/// Another interface at the same object.
struct Secret;

#[zbus::interface(name = "org.example.Secret")]
impl Secret {
    fn tell(&self) -> &str {
        "secret"
    }

    #[zbus(property)]
    fn word(&self) -> &str {
        "secret"
    }
}

/// What both halves stand on: a folder, an executor in a thread of its own, a clock.
pub struct Ground {
    pub folder: tempfile::TempDir,
    pub spawner: Spawner,
    pub clock: Arc<dyn Clock>,
    _ends: async_channel::Sender<()>,
}

impl Ground {
    pub fn new() -> Self {
        Ground::at(SystemClock::new())
    }

    /// One with another clock.
    pub fn at(clock: Arc<dyn Clock>) -> Self {
        let executor = Arc::new(Executor::new());
        let (ends, ended) = async_channel::bounded::<()>(1);
        let running = executor.clone();
        // Ends with the last handle of the other half of the channel.
        std::thread::spawn(move || block_on(running.run(ended.recv())));
        Ground {
            folder: tempfile::tempdir().expect("a folder"),
            spawner: Spawner::new(executor),
            clock,
            _ends: ends,
        }
    }

    /// A dbus-daemon.
    pub fn bus(&self, name: &str) -> support::Bus {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        support::Bus::start(&folder, &[])
    }

    /// Shares over `here` as the client of that connection.
    pub fn share(&self, bus: &support::Bus, here: UnixStream, filter: Filter) -> Task<Result<()>> {
        let (address, inner, clock) = (
            bus.address().to_owned(),
            self.spawner.clone(),
            self.clock.clone(),
        );
        self.spawner.spawn("share", async move {
            let bus = Bus::at(&address, inner.clone(), clock.clone()).await?;
            let contact = join(here, &inner, &clock).await?;
            share(&bus, contact, filter, "bob@there").await
        })
    }

    /// Puts the service at the other end of `contact` on a bus under a name.
    pub fn own(
        &self,
        bus: &support::Bus,
        shared: &'static str,
        contact: impl Future<Output = Result<MessageStream>> + Send + 'static,
        name: &'static str,
    ) -> (Task<Result<()>>, async_channel::Receiver<Standing>) {
        let (address, inner, clock) = (
            bus.address().to_owned(),
            self.spawner.clone(),
            self.clock.clone(),
        );
        let (tell, told) = async_channel::bounded(64);
        let task = self.spawner.spawn("own", async move {
            let bus = Bus::at(&address, inner, clock).await?;
            let told = |standing| tell.try_send(standing).expect("room for what is told");
            own(&bus, Filter::of(shared)?, name, contact.await?, told).await
        });
        (task, told)
    }

    /// Serves a small bus for the service at the other end of `contact`: its socket.
    pub fn serve(
        &self,
        shared: &'static str,
        contact: impl Future<Output = Result<MessageStream>> + Send + 'static,
    ) -> (PathBuf, Stopper, Task<Result<()>>) {
        let socket = self.folder.path().join("small");
        let serving = Serving::bind(&SocketAddress::Unix(socket.clone())).expect("a socket");
        let (stopper, stop) = Stopper::new();
        let (inner, clock) = (self.spawner.clone(), self.clock.clone());
        let task = self.spawner.spawn("serve", async move {
            let contact = contact.await?;
            serving.run(shared, contact, &inner, &clock, &stop).await
        });
        (socket, stopper, task)
    }
}

/// A player on a bus, and what it was told.
pub fn player(bus: &support::Bus) -> (zbus::Connection, Arc<Mutex<Vec<String>>>) {
    let played = Arc::<Mutex<Vec<String>>>::default();
    let player = Player {
        played: played.clone(),
        volume: 0.5,
    };
    let player = block_on(
        Builder::address(bus.address())
            .serve_at(PATH, player)
            .serve_at(PATH, Secret)
            .name(NAME)
            .build(),
    )
    .expect("the player on its bus");
    (player, played)
}

/// Everything that runs.
pub struct Halves {
    /// Of the bus that the tools use.
    pub address: String,
    /// What the player was told.
    pub played: Arc<Mutex<Vec<String>>>,
    /// The player's own connection to its bus.
    pub player: zbus::Connection,
    /// The end of the sharing side.
    pub shared: Option<Task<Result<()>>>,
    /// The end of the side that accepts.
    pub served: Option<Task<Result<()>>>,
    /// Ends the small bus.
    pub stopper: Option<Stopper>,
    /// What is told of a name that is owned.
    pub standing: Option<async_channel::Receiver<Standing>>,
    pub ground: Ground,
    _bus: support::Bus,
}

impl Halves {
    /// Shares the player as `filter` says, with a small bus.
    pub fn start(filter: impl FnOnce(Filter) -> Filter) -> Self {
        Halves::with(filter, |halves, there| {
            let (socket, stopper, served) = halves.ground.serve(NAME, welcome(there));
            halves.address = format!("unix:path={}", socket.display());
            halves.served = Some(served);
            halves.stopper = Some(stopper);
        })
    }

    /// Shares the player as `filter` says, and puts it on another bus as `name`.
    pub fn own(other: &support::Bus, ground: Ground, name: &'static str) -> Self {
        Halves::on(
            ground,
            |filter| filter,
            |halves, there| {
                let (served, told) = halves.ground.own(other, NAME, welcome(there), name);
                halves.address = other.address().to_owned();
                halves.served = Some(served);
                halves.standing = Some(told);
            },
        )
    }

    fn with(
        filter: impl FnOnce(Filter) -> Filter,
        accept: impl FnOnce(&mut Self, UnixStream),
    ) -> Self {
        Halves::on(Ground::new(), filter, accept)
    }

    fn on(
        ground: Ground,
        filter: impl FnOnce(Filter) -> Filter,
        accept: impl FnOnce(&mut Self, UnixStream),
    ) -> Self {
        let bus = ground.bus("offering");
        let (player, played) = player(&bus);
        let (here, there) = UnixStream::pair().expect("a pair of sockets");
        let filter = filter(Filter::of(NAME).expect("a name"));
        let mut halves = Halves {
            address: String::new(),
            played,
            player,
            shared: Some(ground.share(&bus, here, filter)),
            served: None,
            stopper: None,
            standing: None,
            ground,
            _bus: bus,
        };
        accept(&mut halves, there);
        halves
    }

    /// The next that is told of the name that is owned.
    pub fn told(&self) -> Standing {
        let told = self.standing.as_ref().expect("a name");
        block_on(smol::future::or(
            async { told.recv().await.expect("it goes on") },
            async {
                self.ground.clock.sleep(PATIENCE).await;
                panic!("nothing is told of the name")
            },
        ))
    }

    /// A program on the bus that the tools use.
    pub fn program(&self, program: &str, arguments: &[&str]) -> Process {
        on_bus(&self.address, program, arguments)
    }

    /// Runs a program to its end: whether it went well, and what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let mut process = self.program(program, arguments);
        let status = process.wait(PATIENCE);
        (status.success(), process.output())
    }

    /// `busctl` on that bus.
    pub fn busctl(&self, arguments: &[&str]) -> (bool, String) {
        let address = format!("--address={}", self.address);
        let mut all = vec![address.as_str(), "--no-pager"];
        all.extend(arguments);
        self.run("busctl", &all)
    }

    /// Waits until that bus says that the service is there, as people's scripts do.
    pub fn wait_for_service(&self) {
        let (went, said) = self.run("gdbus", &["wait", "--session", "--timeout", "30", NAME]);
        assert!(went, "{said}");
    }
}

/// A program on a bus.
pub fn on_bus(address: &str, program: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(program);
    command
        .env("DBUS_SESSION_BUS_ADDRESS", address)
        .env("LC_ALL", "C")
        .args(arguments);
    Process::start(program, &mut command)
}

/// What a tube does at its own socket.
pub async fn welcome(there: UnixStream) -> Result<MessageStream> {
    let welcomed = Builder::unix_stream(there)
        .server(Guid::generate())
        .p2p()
        .validate_bodies()
        .build_message_stream();
    Ok(welcomed.await?)
}
