//! Both halves of a shared service, joined by a pair of sockets.
//!
//! ```text
//!   Player ── dbus-daemon ── share() ══ pair of sockets ══ Serving ◄── busctl, gdbus …
//! ```

use std::{
    os::unix::net::UnixStream,
    process::Command,
    sync::{Arc, Mutex},
};

use actors::{
    model::SocketAddress,
    runtime::{Clock, Spawner, Stop, Stopper, SystemClock, Task},
};
use pneuma::client::{
    Bus, Result,
    sharing::{Filter, Serving, join, share},
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

/// Everything that runs.
pub struct Halves {
    /// Of the small bus, as tools take it.
    pub address: String,
    /// What the player was told.
    pub played: Arc<Mutex<Vec<String>>>,
    /// The player's own connection to its bus.
    pub player: zbus::Connection,
    /// The end of the sharing side.
    pub shared: Option<Task<Result<()>>>,
    /// The end of the small bus.
    pub served: Option<Task<Result<()>>>,
    /// Ends the small bus.
    pub stopper: Stopper,
    _ends: async_channel::Sender<()>,
    _bus: support::Bus,
    _folder: tempfile::TempDir,
}

impl Halves {
    /// Shares the player as `filter` says.
    pub fn start(filter: impl FnOnce(Filter) -> Filter) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let bus = support::Bus::start(folder.path(), &[]);
        let executor = Arc::new(Executor::new());
        let (ends, ended) = async_channel::bounded::<()>(1);
        let running = executor.clone();
        // Ends with the last handle of the other half of the channel.
        std::thread::spawn(move || block_on(running.run(ended.recv())));
        let spawner = Spawner::new(executor);
        let clock: Arc<dyn Clock> = SystemClock::new();

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

        let (here, there) = UnixStream::pair().expect("a pair of sockets");
        let filter = filter(Filter::of(NAME).expect("a name"));
        let address = bus.address().to_owned();
        let (inner, its_clock) = (spawner.clone(), clock.clone());
        let shared = spawner.spawn("share", async move {
            let bus = Bus::at(&address, inner.clone(), its_clock.clone()).await?;
            let contact = join(here, &inner, &its_clock).await?;
            share(&bus, contact, filter).await
        });

        let socket = folder.path().join("small");
        let serving = Serving::bind(&SocketAddress::Unix(socket.clone())).expect("a socket");
        let (stopper, stop) = Stopper::new();
        let inner = spawner.clone();
        let served = spawner.spawn("serve", serve(serving, there, inner, clock, stop));
        Halves {
            address: format!("unix:path={}", socket.display()),
            played,
            player,
            shared: Some(shared),
            served: Some(served),
            stopper,
            _ends: ends,
            _bus: bus,
            _folder: folder,
        }
    }

    /// A program on the small bus.
    pub fn program(&self, program: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new(program);
        command
            .env("DBUS_SESSION_BUS_ADDRESS", &self.address)
            .env("LC_ALL", "C")
            .args(arguments);
        Process::start(program, &mut command)
    }

    /// Runs a program to its end: whether it went well, and what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let mut process = self.program(program, arguments);
        let status = process.wait(PATIENCE);
        (status.success(), process.output())
    }

    /// `busctl` on the small bus.
    pub fn busctl(&self, arguments: &[&str]) -> (bool, String) {
        let address = format!("--address={}", self.address);
        let mut all = vec![address.as_str(), "--no-pager"];
        all.extend(arguments);
        self.run("busctl", &all)
    }

    /// Waits until the small bus says that the service is there, as people's scripts do.
    pub fn wait_for_service(&self) {
        let (went, said) = self.run("gdbus", &["wait", "--session", "--timeout", "30", NAME]);
        assert!(went, "{said}");
    }
}

async fn serve(
    serving: Serving,
    there: UnixStream,
    spawner: Spawner,
    clock: Arc<dyn Clock>,
    stop: Stop,
) -> Result<()> {
    // What a tube does at its own socket.
    let contact: MessageStream = Builder::unix_stream(there)
        .server(Guid::generate())
        .p2p()
        .validate_bodies()
        .build_message_stream()
        .await?;
    serving.run(NAME, contact, &spawner, &clock, &stop).await
}
