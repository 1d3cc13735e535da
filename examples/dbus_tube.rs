//! An application here speaks D-Bus to an application there, through a D-Bus tube.
//!
//! Alice's has a chess board, an ordinary D-Bus object, on which Bob's makes a move. Their connection
//! managers run inside this program, on the loopback interface; where one runs on the session bus,
//! `Bus::session` is all that is needed of `online`.
//!
//!     cargo run --example dbus_tube

use std::{collections::HashMap, error::Error, path::Path, sync::Arc, time::Duration};

use actors::runtime::{Spawner, SystemClock};
use pneuma::{
    Service,
    client::{Account, Bus, Connection, Event, TubeKind},
};
use smol::Executor;

type Outcome<T> = Result<T, Box<dyn Error>>;

const BOARD: &str = "/com/example/Chess/Board";

struct Board;

#[zbus::interface(name = "com.example.Chess.Board")]
impl Board {
    async fn play(&self, r#move: &str) -> String {
        format!("{move} is allowed")
    }
}

async fn online(home: &Path, executor: &Arc<Executor<'static>>) -> Outcome<(Service, Connection)> {
    let socket = home.join("private").join("bus");
    let service = Service::builder()
        .without_bus()
        .private_socket(&socket)
        .profiles(home.join("profiles"))
        .runtime_directory(home.join("sockets"))
        .start(executor.clone())
        .await?;
    let spawner = Spawner::new(executor.clone());
    let bus = Bus::private(&socket, spawner, SystemClock::new()).await?;
    let account = Account {
        interface: Some("lo".into()),
        mdns_port: Some(25_355),
        ..Account::default()
    };
    let connection = Connection::request(&bus, &account).await?;
    connection.connect(Duration::from_secs(30)).await?;
    Ok((service, connection))
}

fn main() -> Outcome<()> {
    let executor = Arc::new(Executor::new());
    smol::block_on(executor.run(run(&executor)))
}

async fn run(executor: &Arc<Executor<'static>>) -> Outcome<()> {
    let (hers, his) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (_alices_service, alice) = online(hers.path(), executor).await?;
    let (_bobs_service, bob) = online(his.path(), executor).await?;
    let (mut alices, mut bobs) = (alice.events().await?, bob.events().await?);
    let handle = loop {
        let contacts = alice.contacts().await?;
        if let Some(bob) = contacts.iter().find(|contact| contact.tubes) {
            break bob.handle;
        }
        while alices.next().await? != Event::Contacts {}
    };

    let service = "com.example.Chess";
    let ours = alice.create_tube(handle, TubeKind::DBus, service).await?;
    let parameters = HashMap::from([("minutes", 90_u32.into())]);
    let here = ours.offer_dbus(&parameters).await?;
    let theirs = loop {
        if let Event::NewTubes(tubes) = bobs.next().await? {
            break bob.tube(tubes[0].clone());
        }
    };
    let offered = theirs.description().shown();
    println!(
        "bob is offered {offered} with {:?}",
        theirs.parameters().await?
    );
    let there = theirs.accept_dbus().await?;
    ours.opened(&mut alices).await?;
    theirs.opened(&mut bobs).await?;

    let _hers = ours.peer(&here).serve_at(BOARD, Board).build().await?;
    let his = theirs.peer(&there).build().await?;
    let interface = Some("com.example.Chess.Board");
    let answer = his.call_method(None::<&str>, BOARD, interface, "Play", &"e4");
    println!(
        "bob plays e4: {}",
        answer.await?.body().deserialize::<String>()?
    );
    Ok(())
}
