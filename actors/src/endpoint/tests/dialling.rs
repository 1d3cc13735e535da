//! Dialling services that are there, and all the ways in which they are not.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::unix::net::{UnixDatagram, UnixListener, UnixStream},
    path::PathBuf,
};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with,
};

use super::{KINDS, Place, accept_one, within};
use crate::{
    endpoint::{DIAL_WITHIN, Dialled, EndpointConfig, Introduction, check_target, dial},
    model::{AccessControl, AddressType, Error, SocketAddress},
    runtime::SystemClock,
    testing::Sim,
};

fn config() -> EndpointConfig {
    EndpointConfig {
        socket_directory: PathBuf::from("/nowhere"),
        any_local_user: false,
    }
}

fn dial_now(address: &SocketAddress) -> Result<Dialled, Error> {
    let clock = SystemClock::new();
    within(dial(address, Introduction::None, &config(), &*clock))
}

fn ip(address: SocketAddr) -> SocketAddress {
    match address {
        SocketAddr::V4(address) => SocketAddress::Ipv4(address),
        SocketAddr::V6(address) => SocketAddress::Ipv6(address),
    }
}

#[test]
fn a_service_of_every_kind_is_reached_and_ip_says_from_where() {
    let place = Place::new();
    for kind in KINDS {
        let listening = place.bind(kind);
        let mut dialled = dial_now(listening.address()).unwrap();
        let mut accepted = accept_one(&listening);
        within(async {
            dialled.stream.write_all(b"hello").await.unwrap();
            let mut heard = [0; 5];
            accepted.stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hello");
        });
        match dialled.from {
            None => assert!(matches!(
                kind,
                AddressType::Unix | AddressType::AbstractUnix
            )),
            Some(from) => {
                let (_, peer) = accepted.stream.tcp_ends().unwrap().unwrap();
                assert_eq!(from, ip(peer));
            }
        }
    }
}

#[test]
fn small_writes_are_not_held_back() {
    let place = Place::new();
    let listening = place.bind(AddressType::Ipv4);
    let dialled = dial_now(listening.address()).unwrap();
    let accepted = accept_one(&listening);
    for stream in [&dialled.stream, &accepted.stream] {
        assert!(rustix::net::sockopt::tcp_nodelay(stream).unwrap());
    }
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let gone = TcpListener::bind(listen).unwrap().local_addr().unwrap();
        let error = dial_now(&ip(gone)).unwrap_err();
        assert!(matches!(error, Error::ConnectionRefused(_)), "{error:?}");
        assert!(error.to_string().contains(&gone.to_string()), "{error}");
    }
}

#[test]
fn a_path_without_a_listening_stream_socket_refuses() {
    let place = Place::new();
    std::fs::create_dir(place.directory()).unwrap();
    let at = |name: &str| place.directory().join(name);
    std::fs::write(at("file"), "").unwrap();
    let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
    drop(UnixListener::bind(at("stale")).unwrap());
    for name in ["missing", "file", "datagram", "stale", "file/below"] {
        let error = dial_now(&SocketAddress::Unix(at(name))).unwrap_err();
        assert!(
            matches!(error, Error::ConnectionRefused(_)),
            "{name}: {error:?}"
        );
    }
}

#[test]
fn an_address_no_service_can_have_is_an_argument_error_even_before_dialling() {
    let long = PathBuf::from(format!("/{}", "x".repeat(108)));
    let longest = PathBuf::from(format!("/{}", "x".repeat(107)));
    for address in [
        SocketAddress::Unix(long),
        SocketAddress::Unix("relative".into()),
        SocketAddress::Unix("".into()),
        SocketAddress::Unix("/with\0nul".into()),
        SocketAddress::AbstractUnix(Vec::new()),
        SocketAddress::AbstractUnix(vec![b'x'; 108]),
        ip("127.0.0.1:0".parse().unwrap()),
        ip("[::1]:0".parse().unwrap()),
    ] {
        let error = check_target(&address, AccessControl::Localhost).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
        assert_eq!(dial_now(&address).unwrap_err(), error);
    }
    check_target(&SocketAddress::Unix(longest), AccessControl::Localhost).unwrap();
    let longest = SocketAddress::AbstractUnix(vec![0; 107]);
    check_target(&longest, AccessControl::Localhost).unwrap();
}

#[test]
fn what_sockets_of_a_kind_cannot_demand_is_not_implemented() {
    let place = Place::new();
    for kind in KINDS {
        let listening = place.bind(kind);
        let (has, has_not) = match kind {
            AddressType::Unix | AddressType::AbstractUnix => {
                (AccessControl::Credentials, AccessControl::Port)
            }
            AddressType::Ipv4 | AddressType::Ipv6 => {
                (AccessControl::Port, AccessControl::Credentials)
            }
        };
        check_target(listening.address(), has).unwrap();
        let error = check_target(listening.address(), has_not).unwrap_err();
        assert!(matches!(error, Error::NotImplemented(_)), "{error:?}");
    }
    let sim = Sim::new();
    let service = ip("127.0.0.1:1".parse().unwrap());
    let config = config();
    let dialling = dial(&service, Introduction::Byte(1), &config, &*sim.clock);
    let error = sim.run(dialling).unwrap_err();
    assert!(matches!(error, Error::NotImplemented(_)), "{error:?}");
}

/// Dials in virtual time, which runs on whenever the kernel has nothing to say.
fn dial_in_vain(address: &SocketAddress) {
    let sim = Sim::new();
    let config = config();
    let dialling = dial(address, Introduction::None, &config, &*sim.clock);
    let error = sim.run(dialling).unwrap_err();
    assert!(matches!(error, Error::ConnectionFailed(_)), "{error:?}");
    assert!(error.to_string().contains("10 seconds"), "{error}");
    assert_eq!(sim.now(), DIAL_WITHIN);
    assert_eq!(sim.clock.sleepers(), 0);
}

#[test]
fn a_tcp_service_that_never_answers_is_given_up_in_time() {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let address = TcpListener::from(socket);
    let place = address.local_addr().unwrap();
    // Its queue is full: the kernel ignores who comes now.
    let _first = TcpStream::connect(place).unwrap();
    dial_in_vain(&ip(place));
}

#[test]
fn a_unix_service_whose_queue_stays_full_is_given_up_in_time() {
    let place = Place::new();
    std::fs::create_dir(place.directory()).unwrap();
    let path = place.directory().join("busy");
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    let (socket, address) = (new(), SocketAddrUnix::new(&path).unwrap());
    bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let waiting = new();
    connect(&waiting, &address).unwrap();
    dial_in_vain(&SocketAddress::Unix(path));
}

#[test]
fn a_unix_service_whose_queue_was_full_for_a_moment_is_reached() {
    let place = Place::new();
    std::fs::create_dir(place.directory()).unwrap();
    let path = place.directory().join("busy");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let address = SocketAddress::Unix(path);
    let sim = Sim::new();
    let config = config();
    let mut dialling = std::pin::pin!(dial(&address, Introduction::None, &config, &*sim.clock));
    assert!(
        futures_lite::future::block_on(futures_lite::future::poll_once(&mut dialling)).is_none()
    );
    listener.accept().unwrap();
    sim.run(dialling).unwrap();
    assert!(sim.now() < DIAL_WITHIN);
}

#[test]
fn an_attempt_that_is_dropped_leaves_nothing_behind() {
    let sim = Sim::new();
    let place = Place::new();
    let listening = place.bind(AddressType::Ipv4);
    let config = config();
    let dialling = dial(
        listening.address(),
        Introduction::None,
        &config,
        &*sim.clock,
    );
    drop(futures_lite::future::block_on(
        futures_lite::future::poll_once(dialling),
    ));
    assert_eq!(sim.clock.sleepers(), 0);
}
