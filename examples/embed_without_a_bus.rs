//! Two connection managers inside one smol program, and no message bus anywhere.
//!
//! Each serves at a Unix socket of its own, in a folder nobody else can enter. Alice's client offers her
//! web server to Bob, Bob's accepts it, and the program fetches a page through the tube. A temporary
//! folder and the loopback interface keep the example apart from the rest of the machine.
//!
//!     cargo run --example embed_without_a_bus

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use actors::{
    model::{AddressType, SocketAddress},
    runtime::{Spawner, SystemClock},
};
use pneuma::{
    Service,
    client::{Account, Bus, Connection, Contact, Event, TubeKind, from_ip},
};
use smol::{
    Executor,
    future::FutureExt as _,
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PAGE: &str = "HTTP/1.0 200 OK\r\n\r\nHello from Alice's web server.\n";

/// One person's service, and a client of it.
struct Person {
    service: Service,
    connection: Connection,
}

impl Person {
    async fn online(folder: &Path, name: &str, executor: &Arc<Executor<'static>>) -> Outcome<Self> {
        let home = folder.join(name);
        std::fs::create_dir(&home)?;
        let socket = home.join("private").join("bus");
        let service = Service::builder()
            .without_bus()
            .private_socket(&socket)
            .profiles(home.join("profiles"))
            .runtime_directory(home.join("sockets"))
            .persist(true)
            .start(executor.clone())
            .await?;
        // What another program of this user would do.
        let spawner = Spawner::new(executor.clone());
        let bus = Bus::private(&socket, spawner, SystemClock::new()).await?;
        let account = Account {
            published_name: Some(name.into()),
            interface: Some("lo".into()),
            mdns_port: Some(25_354),
            ..Account::default()
        };
        let connection = Connection::request(&bus, &account).await?;
        connection.connect(Duration::from_secs(30)).await?;
        println!("{} is online", connection.self_id().await?);
        Ok(Person {
            service,
            connection,
        })
    }

    /// Waits until the other is there and takes tubes.
    async fn sees(&self, name: &str) -> Outcome<Contact> {
        let mut events = self.connection.events().await?;
        loop {
            let contacts = self.connection.contacts().await?;
            let is_it =
                |contact: &&Contact| contact.id.starts_with(&format!("{name}@")) && contact.tubes;
            if let Some(contact) = contacts.iter().find(is_it) {
                return Ok(contact.clone());
            }
            while events.next().await? != Event::Contacts {}
        }
    }
}

fn main() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let executor = Arc::new(Executor::new());
    let late = async {
        smol::Timer::after(Duration::from_secs(60)).await;
        Err("it took too long".into())
    };
    smol::block_on(executor.run(run(folder.path(), &executor).or(late)))
}

async fn run(folder: &Path, executor: &Arc<Executor<'static>>) -> Outcome<()> {
    let alice = Person::online(folder, "alice", executor).await?;
    let bob = Person::online(folder, "bob", executor).await?;

    let server = TcpListener::bind("127.0.0.1:0").await?;
    let address = from_ip(server.local_addr()?);
    let serving = executor.spawn(async move {
        let (mut stream, _) = server.accept().await?;
        let mut request = [0; 64];
        let read = stream.read(&mut request).await?;
        stream.write_all(PAGE.as_bytes()).await?;
        stream.close().await?;
        std::io::Result::Ok(read)
    });

    let mut events = bob.connection.events().await?;
    let handle = alice.sees("bob").await?.handle;
    let offered = alice
        .connection
        .create_tube(handle, TubeKind::Stream, "http")
        .await?;
    offered.offer(&address).await?;
    let tube = loop {
        if let Event::NewTubes(mut tubes) = events.next().await?
            && let Some(tube) = tubes.pop()
        {
            break bob.connection.tube(tube);
        }
    };
    println!("bob is offered {}", tube.description().service);
    let SocketAddress::Ipv4(door) = tube.accept(AddressType::Ipv4).await? else {
        return Err("another kind of address than was asked for".into());
    };
    let mut stream = TcpStream::connect(door).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    print!(
        "through the tube: {}",
        page.lines().last().unwrap_or_default()
    );
    println!();
    serving.await?;
    if page != PAGE {
        return Err("another page came through the tube".into());
    }

    for person in [alice, bob] {
        let end = person.service.shutdown().await;
        while person.service.tasks() > 0 {
            smol::future::yield_now().await;
        }
        println!("a manager has ended ({end:?}), with no task left");
    }
    Ok(())
}
