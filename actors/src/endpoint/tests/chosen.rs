//! Addresses that the user chose.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use super::{Place, accept_one, within};
use crate::{
    endpoint::{Introduction, Listening, dial},
    model::{BytestreamId, Error, SocketAddress},
    runtime::SystemClock,
};

#[test]
fn a_chosen_path_is_private_and_goes_with_the_socket() {
    let place = Place::new();
    std::fs::create_dir(place.directory()).unwrap();
    let path = place.directory().join("mine");
    let address = SocketAddress::Unix(path.clone());
    let listening = Arc::new(Listening::bind_at(&address, &place.0).unwrap());
    assert_eq!(listening.address(), &address);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let clock = SystemClock::new();
    let none = Introduction::None;
    let _dialled = within(dial(&address, none, &place.0, &*clock)).unwrap();
    accept_one(&listening);
    drop(listening);
    assert!(!path.exists());
}

#[test]
fn a_chosen_abstract_name_is_had_by_one_at_a_time() {
    let place = Place::new();
    let name = format!("chosen-{}", BytestreamId::random().unwrap());
    let address = SocketAddress::AbstractUnix(name.into());
    let listening = Arc::new(Listening::bind_at(&address, &place.0).unwrap());
    assert_eq!(listening.address(), &address);
    assert!(matches!(
        Listening::bind_at(&address, &place.0),
        Err(Error::NotAvailable(_))
    ));
    let clock = SystemClock::new();
    let none = Introduction::None;
    let _dialled = within(dial(&address, none, &place.0, &*clock)).unwrap();
    accept_one(&listening);
    drop(listening);
    Listening::bind_at(&address, &place.0).unwrap();
}

#[test]
fn a_dead_socket_is_replaced_and_nothing_else_is() {
    let place = Place::new();
    std::fs::create_dir(place.directory()).unwrap();
    let path = place.directory().join("dead");
    // The standard library's listener leaves its file behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let address = SocketAddress::Unix(path);
    let listening = Listening::bind_at(&address, &place.0).unwrap();
    assert!(matches!(
        Listening::bind_at(&address, &place.0),
        Err(Error::NotAvailable(_))
    ));
    drop(listening);

    let file = place.directory().join("file");
    std::fs::write(&file, "mine").unwrap();
    let taken = Listening::bind_at(&SocketAddress::Unix(file.clone()), &place.0);
    assert!(matches!(taken, Err(Error::NotAvailable(_))));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "mine");
}

#[test]
fn only_this_machine_gets_an_address() {
    let place = Place::new();
    for open in ["0.0.0.0:0", "192.0.2.1:80"] {
        let address = SocketAddress::Ipv4(open.parse().unwrap());
        assert!(matches!(
            Listening::bind_at(&address, &place.0),
            Err(Error::PermissionDenied(_))
        ));
    }
    let unspecified = SocketAddress::Ipv6("[::]:0".parse().unwrap());
    assert!(Listening::bind_at(&unspecified, &place.0).is_err());
    let free = SocketAddress::Ipv4("127.0.0.1:0".parse().unwrap());
    let listening = Listening::bind_at(&free, &place.0).unwrap();
    let SocketAddress::Ipv4(bound) = listening.address() else {
        panic!("another kind of address");
    };
    assert_ne!(bound.port(), 0);
    assert!(matches!(
        Listening::bind_at(listening.address(), &place.0),
        Err(Error::NotAvailable(_))
    ));
}

#[test]
fn a_port_that_the_kernel_chose_can_be_had_again_at_once() {
    let place = Place::new();
    let any = SocketAddress::Ipv4("127.0.0.1:0".parse().unwrap());
    let listening = Arc::new(Listening::bind_at(&any, &place.0).unwrap());
    let address = listening.address().clone();
    let clock = SystemClock::new();
    let none = Introduction::None;
    let _dialled = within(dial(&address, none, &place.0, &*clock)).unwrap();
    // Whoever ends a connection first, as one who is killed does, has its port busy for a while.
    drop(accept_one(&listening));
    drop(listening);
    let again = Listening::bind_at(&address, &place.0).unwrap();
    assert_eq!(again.address(), &address);
}
