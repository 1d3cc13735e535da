//! A file of some size through the operating system's sockets: from a program, by a Unix socket, a
//! sending channel, a TCP connection and a receiving channel, to another program. Afterwards no descriptor,
//! task or file is left. Alone in its process, because it counts descriptors. What it prints is the
//! throughput of both ends together:
//!
//! ```text
//! cargo test --release -p pneuma-actors --test file_on_sockets -- --nocapture
//! ```

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use actors::{
    endpoint::{EndpointConfig, LocalStream},
    file_transfer::FileTransferMessage,
    limits::Limits,
    model::{
        AccessRule, AddressType, ContactHandle, FileOffer, FileTransferState, OwnerId, Resume,
        SocketAddress,
    },
    ports::{
        AgreedFile, Bytestream, FileStream, FileTransferDescription, FileTransferObject, Parties,
    },
    runtime::{Clock, Spawner, SystemClock},
    supervisor::{
        FileTransferRequest, FileWay, Supervisor, SupervisorConfig, SupervisorHandle, SystemSockets,
    },
    testing::{FakeIncomingFile, FakeSending, FakeTree},
};
use async_io::Async;
use futures_lite::future;
use smol::Executor;

const SIZE: u64 = 64 << 20;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The byte of the file at this place.
fn byte(place: u64) -> u8 {
    (place ^ (place >> 8) ^ (place >> 16)) as u8
}

/// Both ends of a TCP connection.
fn tcp_pair() -> [LocalStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    [near, far].map(|stream| {
        stream.set_nodelay(true).unwrap();
        LocalStream::from(Async::new(stream).unwrap())
    })
}

fn bytestream(io: LocalStream, framed: bool) -> FileStream {
    FileStream {
        bytestream: Bytestream {
            io: Box::new(io),
            encrypted: false,
        },
        framed,
    }
}

fn request(way: FileWay, sockets: &SystemSockets, clock: &Arc<dyn Clock>) -> FileTransferRequest {
    let requested = matches!(way, FileWay::Send(_));
    FileTransferRequest {
        owner: OwnerId(1),
        description: FileTransferDescription {
            parties: Parties {
                target: ContactHandle(2),
                target_id: "juliet@capulet".into(),
                initiator: ContactHandle(if requested { 1 } else { 2 }),
                initiator_id: "somebody".into(),
                requested,
            },
            file: FileOffer::new("big", Some(SIZE)).into(),
            sockets: Vec::new(),
            uri: String::new(),
            has_ranges: true,
        },
        way,
        sockets: Arc::new(sockets.clone()),
        limits: Limits::new(clock),
    }
}

fn connect(address: &SocketAddress) -> UnixStream {
    match address {
        SocketAddress::Unix(path) => UnixStream::connect(path).unwrap(),
        other => panic!("no Unix socket: {other}"),
    }
}

async fn completed(channel: &FileTransferObject) {
    let over = |view: &actors::ports::FileTransferView| view.state >= FileTransferState::Completed;
    let view = channel.view.wait_for(over).await;
    assert_eq!(view.state, FileTransferState::Completed, "{view:?}");
    assert_eq!(view.transferred, SIZE);
    let ask = |reply| FileTransferMessage::Close { reply };
    channel.address.ask_first(ask).await.unwrap();
}

async fn one_file(
    supervisor: &SupervisorHandle,
    sockets: &SystemSockets,
    clock: &Arc<dyn Clock>,
    framed: bool,
) -> Duration {
    let [near, far] = tcp_pair();
    let (port, answers) = FakeSending::new();
    let request_to_send = request(FileWay::Send(port), sockets, clock);
    let sender = supervisor
        .open_file_transfer(request_to_send)
        .await
        .unwrap();
    let (port, offer) = FakeIncomingFile::offered(true);
    let request_to_receive = request(FileWay::Receive(port), sockets, clock);
    let receiver = supervisor.open_file_transfer(request_to_receive).await;
    let receiver = receiver.unwrap();
    let (address_type, access) = (AddressType::Unix, AccessRule::Localhost);
    let ask = |reply| FileTransferMessage::Accept {
        address_type,
        access,
        from: Resume::default(),
        stores: false,
        reply,
    };
    let to = receiver.address.ask(ask).await.unwrap().unwrap();
    let (from, opened) = offer.accepted().await.unwrap();
    let agreed = AgreedFile {
        from,
        opening: Box::pin(async move { Ok(bytestream(near, framed)) }),
        withdrawn: Box::pin(std::future::pending()),
    };
    answers.send(Ok(agreed)).await.unwrap();
    opened.answer(Ok(bytestream(far, framed)));
    let ask = |reply| FileTransferMessage::Provide {
        address_type,
        access,
        from: None,
        reply,
    };
    let at = sender.address.ask(ask).await.unwrap().unwrap();
    let begun = Instant::now();
    let mut source = connect(&at);
    let mut sink = connect(&to);
    let writer = thread::spawn(move || {
        let part: Vec<u8> = (0..1 << 20).map(byte).collect();
        for number in 0..SIZE >> 20 {
            // The same bytes with another beginning, so that no two parts are alike.
            source.write_all(&number.to_be_bytes()).unwrap();
            source.write_all(&part[8..]).unwrap();
        }
        source.shutdown(Shutdown::Write).unwrap();
    });
    let reader = thread::spawn(move || {
        let expected: Vec<u8> = (0..1 << 20).map(byte).collect();
        let mut part = vec![0; 1 << 20];
        for number in 0..SIZE >> 20 {
            sink.read_exact(&mut part).unwrap();
            assert_eq!(part[..8], number.to_be_bytes());
            assert!(part[8..] == expected[8..], "part {number}");
        }
        assert_eq!(sink.read(&mut [0]).unwrap(), 0, "nothing more");
    });
    future::zip(completed(&sender), completed(&receiver)).await;
    let took = begun.elapsed();
    writer.join().unwrap();
    reader.join().unwrap();
    took
}

#[test]
fn a_file_goes_through_sockets_and_leaves_nothing_behind() {
    let name = format!("pneuma-test-{}-file", std::process::id());
    let directory: PathBuf = std::env::temp_dir().join(name);
    let executor = Arc::new(Executor::new());
    let spawner = Spawner::new(executor.clone());
    let clock: Arc<dyn Clock> = SystemClock::new();
    let config = EndpointConfig {
        socket_directory: directory.clone(),
        any_local_user: false,
    };
    let sockets = SystemSockets::new(config, clock.clone());
    let supervisor = Supervisor::start(
        spawner.clone(),
        clock.clone(),
        Arc::new(FakeTree::new()),
        SupervisorConfig::default(),
    );
    let scenario = async {
        // What async-io opens for itself, once.
        drop(Async::<UnixStream>::pair().unwrap());
        let before = open_descriptors();
        for framed in [true, false] {
            let took = one_file(&supervisor, &sockets, &clock, framed).await;
            let rate = SIZE as f64 / 1e6 / took.as_secs_f64();
            println!("framed: {framed}, {rate:.0} MB/s");
        }
        supervisor.shutdown().await;
        // Tasks that have told their end are gone a moment later.
        let deadline = Instant::now() + Duration::from_secs(10);
        while (open_descriptors(), spawner.running()) != (before, 0) {
            assert!(Instant::now() < deadline, "something is left");
            clock.sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    };
    let helper = {
        let executor = executor.clone();
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let thread = thread::spawn(move || future::block_on(executor.run(stopped.recv())).ok());
        (stop, thread)
    };
    future::block_on(executor.run(scenario));
    drop(helper.0);
    helper.1.join().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
}
