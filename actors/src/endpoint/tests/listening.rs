//! Binding: what kinds there are, where the sockets lie, and that nothing stays behind.

use std::{
    fs::{self, Permissions},
    net::{Ipv4Addr, TcpStream},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    time::{Duration, SystemTime},
};

use super::{Client, KINDS, Place, ip, path};
use crate::{
    endpoint::{EndpointConfig, Listening, supported_sockets, sweep},
    model::{AccessControl, AccessRule, AddressType, BytestreamId, Error, SocketAddress},
};

fn bind_error(place: &Place, kind: AddressType, access: AccessRule) -> Error {
    Listening::bind(kind, access, &place.0).unwrap_err()
}

fn refused(place: &Place) -> Error {
    let error = bind_error(place, AddressType::Unix, AccessRule::Localhost);
    assert!(matches!(error, Error::PermissionDenied(_)), "{error:?}");
    error
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_unix_socket_and_its_directory_are_for_nobody_else() {
    let place = Place::new();
    let listening = place.bind(AddressType::Unix);
    assert_eq!(mode(place.directory()), 0o700);
    assert_eq!(mode(path(&listening)), 0o600);
    assert!(path(&listening).starts_with(place.directory()));
}

#[test]
fn the_name_of_a_unix_socket_cannot_be_guessed() {
    let place = Place::new();
    let (one, other) = (place.bind(AddressType::Unix), place.bind(AddressType::Unix));
    let name = |listening| {
        let name = path(listening).file_name().unwrap().to_str().unwrap();
        assert_eq!(name.len(), 32);
        assert!(name.bytes().all(|byte| byte.is_ascii_hexdigit()));
        name.to_owned()
    };
    assert_ne!(name(&one), name(&other));
}

#[test]
fn the_socket_file_goes_with_the_socket_and_only_that_one() {
    let place = Place::new();
    let (one, other) = (place.bind(AddressType::Unix), place.bind(AddressType::Unix));
    let gone = path(&one).to_owned();
    let _waiting = UnixStream::connect(&gone).unwrap();
    drop(one);
    assert!(!gone.exists());
    assert!(path(&other).exists());
}

#[test]
fn clients_that_still_wait_learn_that_nobody_listens_any_more() {
    for kind in KINDS {
        let place = Place::new();
        let listening = place.bind(kind);
        let mut waiting = Client::connect(&listening);
        drop(listening);
        let error = waiting.read_to_end().unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "{kind:?}"
        );
    }
}

#[test]
fn a_directory_that_is_open_to_others_is_not_used() {
    let place = Place::new();
    for open in [0o755, 0o711, 0o770, 0o777, 0o1700] {
        fs::create_dir(place.directory()).unwrap();
        fs::set_permissions(place.directory(), Permissions::from_mode(open)).unwrap();
        let error = refused(&place);
        assert!(error.to_string().contains("open to others"), "{error}");
        assert_eq!(fs::read_dir(place.directory()).unwrap().count(), 0);
        fs::remove_dir(place.directory()).unwrap();
    }
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let place = Place::new();
    let elsewhere = Place::new();
    fs::create_dir(elsewhere.directory()).unwrap();
    fs::set_permissions(elsewhere.directory(), Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink(elsewhere.directory(), place.directory()).unwrap();
    refused(&place);
    fs::remove_file(place.directory()).unwrap();
}

#[test]
fn a_file_is_no_directory() {
    let place = Place::new();
    fs::write(place.directory(), "").unwrap();
    refused(&place);
    fs::remove_file(place.directory()).unwrap();
}

#[test]
fn a_directory_that_others_could_rename_is_not_used() {
    let parent = Place::new();
    fs::create_dir(parent.directory()).unwrap();
    let place = Place(EndpointConfig {
        socket_directory: parent.directory().join("sockets"),
        any_local_user: false,
    });
    fs::set_permissions(parent.directory(), Permissions::from_mode(0o777)).unwrap();
    let error = refused(&place);
    assert!(error.to_string().contains("written by others"), "{error}");
    // With the sticky bit, as /tmp has it, they could not.
    fs::set_permissions(parent.directory(), Permissions::from_mode(0o1777)).unwrap();
    drop(place.bind(AddressType::Unix));
}

#[test]
fn a_directory_of_somebody_else_is_not_used() {
    let place = Place::new();
    fs::create_dir(place.directory()).unwrap();
    if !super::others::as_root("giving a directory away") {
        return;
    }
    std::os::unix::fs::chown(place.directory(), Some(65534), None).unwrap();
    fs::set_permissions(place.directory(), Permissions::from_mode(0o700)).unwrap();
    let error = refused(&place);
    assert!(error.to_string().contains("somebody else"), "{error}");
}

#[test]
fn a_relative_path_and_a_missing_parent_are_errors_that_say_so() {
    let place = Place(EndpointConfig {
        socket_directory: "here".into(),
        any_local_user: false,
    });
    assert!(refused(&place).to_string().contains("absolute"));
    let place = Place(EndpointConfig {
        socket_directory: Place::new().directory().join("sockets"),
        any_local_user: false,
    });
    let error = bind_error(&place, AddressType::Unix, AccessRule::Localhost);
    assert!(matches!(error, Error::NotAvailable(_)), "{error:?}");
}

#[test]
fn a_directory_with_too_long_a_name_is_an_error_that_says_so() {
    let mut place = Place::new();
    let parent = place.directory().clone();
    fs::create_dir(&parent).unwrap();
    place.0.socket_directory = parent.join("x".repeat(100));
    let error = bind_error(&place, AddressType::Unix, AccessRule::Localhost);
    assert!(matches!(error, Error::NotAvailable(_)), "{error:?}");
    assert!(error.to_string().contains("too long"), "{error}");
    fs::remove_dir_all(parent).unwrap();
}

#[test]
fn what_sockets_of_a_kind_cannot_demand_is_not_implemented() {
    let place = Place::new();
    let port = AccessRule::Port("127.0.0.1:4000".parse().unwrap());
    for (kind, rule) in [
        (AddressType::Unix, port),
        (AddressType::AbstractUnix, port),
        (AddressType::Ipv4, AccessRule::Credentials),
        (AddressType::Ipv6, AccessRule::Credentials),
    ] {
        let error = bind_error(&place, kind, rule);
        assert!(matches!(error, Error::NotImplemented(_)), "{error:?}");
    }
    assert!(!place.directory().exists());
}

#[test]
fn an_address_nobody_can_have_is_no_demand() {
    let place = Place::new();
    for (kind, from) in [
        (AddressType::Ipv4, "127.0.0.1:0"),
        (AddressType::Ipv4, "0.0.0.0:0"),
        (AddressType::Ipv6, "[::]:0"),
        (AddressType::Ipv4, "[::1]:4000"),
        (AddressType::Ipv6, "127.0.0.1:4000"),
    ] {
        let error = bind_error(&place, kind, AccessRule::Port(from.parse().unwrap()));
        assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    }
}

#[test]
fn the_name_of_an_abstract_socket_cannot_be_guessed_and_goes_with_it() {
    let place = Place::new();
    let kind = AddressType::AbstractUnix;
    let (one, other) = (place.bind(kind), place.bind(kind));
    let name = |listening: &Listening| match listening.address() {
        SocketAddress::AbstractUnix(name) => String::from_utf8(name.clone()).unwrap(),
        other => panic!("{other}"),
    };
    let names = [name(&one), name(&other)];
    for name in &names {
        let random = name.strip_prefix("pneuma-").unwrap();
        assert_eq!(random.len(), 32);
        assert!(random.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    assert_ne!(names[0], names[1]);
    assert!(!place.directory().exists(), "it needs no directory");
    let address = one.address().clone();
    drop(one);
    assert!(Client::try_connect(&address).is_err());
    Client::try_connect(other.address()).unwrap();
}

#[test]
fn ip_sockets_listen_on_loopback_only_and_each_for_its_own_protocol() {
    let place = Place::new();
    let four = ip(&place.bind(AddressType::Ipv4));
    assert!(four.ip().is_loopback() && four.is_ipv4() && four.port() != 0);
    let listening = place.bind(AddressType::Ipv6);
    let six = ip(&listening);
    assert!(six.ip().is_loopback() && six.is_ipv6() && six.port() != 0);
    TcpStream::connect((Ipv4Addr::LOCALHOST, six.port())).unwrap_err();
    assert!(rustix::net::sockopt::ipv6_v6only(listening.descriptor()).unwrap());
}

#[test]
fn descriptors_are_not_handed_to_programs_we_start() {
    let place = Place::new();
    for kind in KINDS {
        let listening = place.bind(kind);
        let flags = rustix::io::fcntl_getfd(listening.descriptor()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let _client = Client::connect(&listening);
        let accepted = super::accept_one(&listening);
        let flags = rustix::io::fcntl_getfd(&accepted.stream).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}

#[test]
fn what_is_said_to_be_supported_can_be_bound() {
    let place = Place::new();
    let supported = supported_sockets();
    assert!(supported.iter().any(|(kind, _)| *kind == AddressType::Unix));
    for (kind, controls) in supported {
        assert!(!controls.is_empty());
        for control in controls {
            let rule = match control {
                AccessControl::Localhost => AccessRule::Localhost,
                AccessControl::Credentials => AccessRule::Credentials,
                AccessControl::Port if kind == AddressType::Ipv4 => {
                    AccessRule::Port("127.0.0.1:4000".parse().unwrap())
                }
                AccessControl::Port => AccessRule::Port("[::1]:4000".parse().unwrap()),
            };
            Listening::bind(kind, rule, &place.0).unwrap();
        }
    }
}

#[test]
fn what_a_killed_service_left_is_swept_and_nothing_else() {
    let place = Place::new();
    let live = place.bind(AddressType::Unix);
    let name = || {
        place
            .directory()
            .join(BytestreamId::random().unwrap().to_string())
    };
    // A listener that is dropped leaves its file, as one that is killed does.
    let leave = |path: &Path| drop(UnixListener::bind(path).unwrap());
    let (dead, file, foreign) = (name(), name(), place.directory().join("foreign"));
    leave(&dead);
    leave(&foreign);
    fs::write(&file, "").unwrap();
    let now = SystemTime::now();
    // It may be about to listen.
    assert_eq!(sweep(place.directory(), now).unwrap(), 0);
    assert_eq!(
        sweep(place.directory(), now + Duration::from_secs(120)).unwrap(),
        1
    );
    assert!(!dead.exists() && file.exists() && foreign.exists());
    assert!(UnixStream::connect(path(&live)).is_ok());
    assert_eq!(sweep(&place.directory().join("none"), now).unwrap(), 0);
}

#[test]
fn whoever_listens_does_not_notice_a_sweep() {
    let place = Place::new();
    drop(place.bind(AddressType::Unix));
    let path = place
        .directory()
        .join(BytestreamId::random().unwrap().to_string());
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let later = SystemTime::now() + Duration::from_secs(120);
    assert_eq!(sweep(place.directory(), later).unwrap(), 0);
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_sweep_follows_no_links() {
    let (place, other) = (Place::new(), Place::new());
    drop(place.bind(AddressType::Unix));
    drop(other.bind(AddressType::Unix));
    let name = BytestreamId::random().unwrap().to_string();
    let elsewhere = other.directory().join(&name);
    drop(UnixListener::bind(&elsewhere).unwrap());
    std::os::unix::fs::symlink(&elsewhere, place.directory().join(&name)).unwrap();
    let later = SystemTime::now() + Duration::from_secs(120);
    assert_eq!(sweep(place.directory(), later).unwrap(), 0);
    let link = place.directory().join("link");
    std::os::unix::fs::symlink(other.directory(), &link).unwrap();
    assert!(matches!(
        sweep(&link, later),
        Err(Error::PermissionDenied(_))
    ));
    assert!(elsewhere.exists());
    assert_eq!(sweep(other.directory(), later).unwrap(), 1);
}
