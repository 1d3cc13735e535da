//! Listeners and dials die at every await and every effect; nobody who connects is lost or let in
//! twice, and no socket is left.

use std::{collections::BTreeSet, io::Read as _, os::unix::net::UnixListener};

use futures_lite::{AsyncReadExt as _, FutureExt as _};

use super::*;
use crate::{
    endpoint::{Introduction, dial_until, listen_until},
    model::Error,
    runtime::{Failure, catch},
    testing::{Fault, FaultPoint, Faults},
};

const CLIENTS: u8 = 3;

/// Three clients, and listeners one after the other until all have come in. Whether one died.
fn three_clients(
    kind: AddressType,
    rule: AccessRule,
    point: FaultPoint,
    fault: Fault,
    skip: usize,
) -> bool {
    let context = format!("{kind:?} {rule:?} {point:?} {fault:?} {skip}");
    let place = Place::new();
    let listening = place.bind_with(kind, rule);
    let slots = Slots::new(usize::from(CLIENTS));
    let faults = Faults::counting();
    faults.arm(point, fault, skip, 1);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = Client::connect(&listening);
            if rule == AccessRule::Credentials {
                client.write(b"b");
            }
            client.write(&[number]);
            client
        })
        .collect();
    let (sender, accepted) = async_channel::unbounded();
    let (_stopper, stop) = Stopper::new();
    let listeners = async {
        loop {
            let sender = sender.clone();
            let deliver = move |connection| {
                let sender = sender.clone();
                async move { sender.send(connection).await.is_ok() }
            };
            let clock = SystemClock::new();
            let listener = listen_until(
                listening.clone(),
                slots.clone(),
                clock,
                deliver,
                None,
                &stop,
                &faults,
            );
            let exit = catch("listener", listener).await;
            let died = matches!(exit, Ok(Exit::Failed(_)) | Err(Failure::Panicked(_)));
            assert!(died && faults.fired() == 1, "{context}: {exit:?}");
        }
    };
    let come_in = async {
        let mut open: Vec<Accepted> = Vec::new();
        let mut numbers = BTreeSet::new();
        for _ in 0..CLIENTS {
            let mut connection: Accepted = accepted.recv().await.unwrap();
            let mut number = [0];
            connection.stream.read_exact(&mut number).await.unwrap();
            assert!(numbers.insert(number[0]), "{context}: twice");
            open.push(connection);
        }
        open
    };
    let open = within(listeners.or(come_in));
    assert!(slots.try_reserve().is_none(), "{context}");
    drop((open, clients));
    let free: Vec<_> = (0..CLIENTS).map_while(|_| slots.try_reserve()).collect();
    assert_eq!(
        free.len(),
        usize::from(CLIENTS),
        "{context}: slots are lost"
    );
    assert_eq!(listening.refused(), 0, "{context}");
    faults.fired() == 1
}

#[test]
fn a_listener_may_die_anywhere() {
    for kind in KINDS {
        for point in [
            FaultPoint::ListenerReserving,
            FaultPoint::ListenerAccepting,
            FaultPoint::ListenerAccepted,
            FaultPoint::ListenerChecking,
            FaultPoint::ListenerChecked,
            FaultPoint::ListenerDelivering,
        ] {
            for fault in [Fault::Error, Fault::Panic] {
                for skip in 0..usize::from(CLIENTS) {
                    let died = three_clients(kind, AccessRule::Localhost, point, fault, skip);
                    assert!(died, "nobody comes by {point:?}");
                }
            }
        }
    }
}

#[test]
fn a_listener_that_hears_bytes_may_die_anywhere() {
    let rule = AccessRule::Credentials;
    for kind in [AddressType::Unix, AddressType::AbstractUnix] {
        for point in [
            FaultPoint::ListenerReserving,
            FaultPoint::ListenerAccepting,
            FaultPoint::ListenerAccepted,
            FaultPoint::ListenerChecking,
            FaultPoint::ListenerChecked,
            FaultPoint::ListenerHearing,
            FaultPoint::ListenerHeard,
            FaultPoint::ListenerDelivering,
        ] {
            for fault in [Fault::Error, Fault::Panic] {
                for skip in 0..usize::from(CLIENTS) {
                    let died = three_clients(kind, rule, point, fault, skip);
                    assert!(died, "nobody comes by {point:?}");
                }
            }
        }
    }
}

#[test]
fn a_dial_may_die_anywhere() {
    for point in [
        FaultPoint::DiallerConnecting,
        FaultPoint::DiallerSaying,
        FaultPoint::DiallerConnected,
    ] {
        for fault in [Fault::Error, Fault::Panic] {
            let place = Place::new();
            std::fs::create_dir_all(place.directory()).unwrap();
            let path = place.directory().join("service");
            let service = UnixListener::bind(&path).unwrap();
            service.set_nonblocking(true).unwrap();
            let faults = Faults::counting();
            faults.arm(point, fault, 0, 1);
            let address = SocketAddress::Unix(path);
            let clock = SystemClock::new();
            let dial = || dial_until(&address, Introduction::Byte(b'b'), &*clock, &faults);
            let outcome = within(catch("dial", dial()));
            match fault {
                Fault::Error => assert!(
                    matches!(outcome, Ok(Err(Error::ConnectionFailed(_)))),
                    "{outcome:?}"
                ),
                Fault::Panic => assert!(outcome.is_err(), "{outcome:?}"),
            }
            match service.accept() {
                Ok((mut connection, _)) => {
                    assert_ne!(point, FaultPoint::DiallerConnecting);
                    connection.set_nonblocking(true).unwrap();
                    let mut said = Vec::new();
                    let end = connection.read_to_end(&mut said);
                    assert!(end.is_ok(), "the socket is left: {end:?}");
                    let told = point == FaultPoint::DiallerConnected;
                    assert_eq!(said, if told { b"b".as_slice() } else { b"" });
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    assert_eq!(point, FaultPoint::DiallerConnecting);
                }
            }
            // The next one is none the worse for it.
            within(dial()).unwrap();
        }
    }
}
