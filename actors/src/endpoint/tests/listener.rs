//! The actor that accepts.

use std::{
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream},
    sync::Arc,
};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, future};

use super::{Client, KINDS, Place, accept_one, ip, listening_to, within};
use crate::{
    endpoint::{
        Slots,
        access_control::{Checked, Refusal, SockDiag},
        listen,
        listening::InHand,
    },
    model::AddressType,
    runtime::{Exit, Stopper, SystemClock},
};

#[test]
fn bytes_pass_in_both_directions_over_every_kind() {
    let place = Place::new();
    for kind in KINDS {
        let listening = place.bind(kind);
        let mut client = Client::connect(&listening);
        client.write(b"early");
        let mut accepted = accept_one(&listening);
        within(async {
            let mut heard = [0; 5];
            accepted.stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"early", "what came before we looked is not lost");
            accepted.stream.write_all(b"answer").await.unwrap();
            accepted.stream.close().await.unwrap();
            assert_eq!(client.read_to_end().unwrap(), b"answer");
            client.write(b"and on");
            accepted.stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"and o", "closing was a half-close");
        });
    }
}

#[test]
fn a_client_that_half_closed_before_we_look_may_come_in() {
    let place = Place::new();
    for kind in [AddressType::Ipv4, AddressType::Ipv6] {
        let listening = place.bind(kind);
        let mut client = TcpStream::connect(ip(&listening)).unwrap();
        std::io::Write::write_all(&mut client, b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut accepted = accept_one(&listening);
        let mut request = String::new();
        within(accepted.stream.read_to_string(&mut request)).unwrap();
        assert_eq!(request, "request");
        assert_eq!(listening.refused(), 0);
    }
}

#[test]
fn a_tcp_client_that_wrote_and_closed_before_we_look_is_refused() {
    let place = Place::new();
    for kind in [AddressType::Ipv4, AddressType::Ipv6] {
        let listening = place.bind(kind);
        let mut gone = Client::connect(&listening);
        gone.write(b"and away");
        drop(gone);
        let mut patient = Client::connect(&listening);
        patient.write(b"patient");
        let mut accepted = accept_one(&listening);
        let mut heard = [0; 7];
        within(accepted.stream.read_exact(&mut heard)).unwrap();
        assert_eq!(&heard, b"patient");
        assert_eq!(listening.refused(), 1);
    }
}

#[test]
fn a_unix_client_that_wrote_and_closed_is_still_known_and_comes_in() {
    let place = Place::new();
    let listening = place.bind(AddressType::Unix);
    let mut gone = Client::connect(&listening);
    gone.write(b"last will");
    drop(gone);
    let mut accepted = accept_one(&listening);
    let mut heard = String::new();
    within(accepted.stream.read_to_string(&mut heard)).unwrap();
    assert_eq!(heard, "last will");
}

#[test]
fn an_ipv6_socket_that_speaks_ipv4_may_come_in() {
    let place = Place::new();
    let listening = place.bind(AddressType::Ipv4);
    let mapped = format!("[::ffff:127.0.0.1]:{}", ip(&listening).port());
    let _client = TcpStream::connect(mapped).unwrap();
    accept_one(&listening);
}

#[test]
fn nobody_comes_in_beyond_the_slots_until_one_is_free() {
    let place = Place::new();
    for kind in KINDS {
        let listening = place.bind(kind);
        let slots = Slots::new(2);
        let _clients: Vec<Client> = (0..3).map(|_| Client::connect(&listening)).collect();
        listening_to(&listening, &slots, async |accepted| {
            let one = accepted.recv().await.unwrap();
            let _other = accepted.recv().await.unwrap();
            for _ in 0..100 {
                future::yield_now().await;
                assert!(accepted.is_empty());
            }
            assert_eq!(slots.taken(), 2);
            drop(one);
            accepted.recv().await.unwrap();
        });
        drop(listening);
        assert_eq!(slots.taken(), 0, "{kind:?}");
    }
}

#[test]
fn a_listener_that_is_stopped_leaves_the_waiting_clients_to_its_successor() {
    let place = Place::new();
    for kind in KINDS {
        let listening = place.bind(kind);
        let address = listening.address().clone();
        let slots = Slots::new(1);
        let mut first = Client::connect(&listening);
        let mut second = Client::connect(&listening);
        first.write(b"1");
        second.write(b"2");
        for expected in [b'1', b'2'] {
            let mut accepted = listening_to(&listening, &slots, async |accepted| {
                accepted.recv().await.unwrap()
            });
            let mut heard = [0];
            within(accepted.stream.read_exact(&mut heard)).unwrap();
            assert_eq!(heard, [expected]);
        }
        assert_eq!(listening.address(), &address);
    }
}

#[test]
fn a_connection_that_was_in_a_listeners_hand_when_it_died_goes_to_its_successor() {
    let place = Place::new();
    for kind in KINDS {
        let listening = place.bind(kind);
        let slots = Slots::new(1);
        let mut client = Client::connect(&listening);
        client.write(b"x");
        {
            let serving = listening.serve().unwrap();
            within(serving.accept(slots.try_reserve().unwrap())).unwrap();
        }
        assert_eq!(slots.taken(), 1, "its slot is held for it");
        let mut accepted = listening_to(&listening, &slots, async |accepted| {
            accepted.recv().await.unwrap()
        });
        within(accepted.stream.read_exact(&mut [0])).unwrap();
    }
}

#[test]
fn wherever_a_listener_is_dropped_its_successor_delivers_every_connection_once() {
    let place = Place::new();
    for kind in KINDS {
        for polls in 0..12 {
            let listening = place.bind(kind);
            let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(&listening)).collect();
            for (name, client) in (0..).zip(&mut clients) {
                client.write(&[name]);
            }
            let slots = Slots::new(3);
            // A tube that is slow: there is room for one connection, after a moment.
            let (sender, tube) = async_channel::bounded(1);
            let deliver = move |accepted| {
                let sender = sender.clone();
                async move {
                    future::yield_now().await;
                    sender.send(accepted).await.is_ok()
                }
            };
            let (_stopper, stop) = Stopper::new();
            let start = || {
                let clock = SystemClock::new();
                listen(
                    listening.clone(),
                    slots.clone(),
                    clock,
                    deliver.clone(),
                    &stop,
                )
            };
            {
                let mut first = Box::pin(start());
                for _ in 0..polls {
                    assert!(within(future::poll_once(&mut first)).is_none());
                }
            }
            let mut heard = Vec::new();
            let tube = async {
                while heard.len() < 3 {
                    let mut name = [0];
                    let mut accepted = tube.recv().await.unwrap();
                    accepted.stream.read_exact(&mut name).await.unwrap();
                    heard.push(name[0]);
                }
            };
            within(future::or(tube, async {
                panic!("the listener ended: {:?}", start().await)
            }));
            assert_eq!(heard, [0, 1, 2], "{kind:?} after {polls} polls");
            drop(listening);
            assert_eq!(slots.taken(), 0);
        }
    }
}

#[test]
fn a_delivery_that_panics_is_not_tried_again() {
    let place = Place::new();
    let listening = place.bind(AddressType::Unix);
    let slots = Slots::new(2);
    let mut clients = [Client::connect(&listening), Client::connect(&listening)];
    clients[1].write(b"2");
    let (_stopper, stop) = Stopper::new();
    let listener = listen(
        listening.clone(),
        slots.clone(),
        SystemClock::new(),
        |_| async { panic!("boom") },
        &stop,
    );
    let failure = within(std::panic::AssertUnwindSafe(listener).catch_unwind());
    assert!(failure.is_err());
    assert!(clients[0].read_to_end().unwrap().is_empty(), "it is let go");
    let mut second = listening_to(&listening, &slots, async |accepted| {
        accepted.recv().await.unwrap()
    });
    within(second.stream.read_exact(&mut [0])).unwrap();
}

#[test]
fn a_client_whose_port_was_taken_anew_by_one_of_ours_is_not_taken_for_that_one() {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    let place = Place::new();
    let listening = place.bind(AddressType::Ipv4);
    // An address of the loopback network that no other program here uses.
    let client = |port| {
        let own = SocketAddrV4::new(Ipv4Addr::new(127, 83, 19, 7), port);
        let client = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&client, true).unwrap();
        bind(&client, &own).unwrap();
        connect(&client, &ip(&listening)).unwrap();
        TcpStream::from(client)
    };
    let first = client(0);
    let port = first.local_addr().unwrap().port();
    let serving = listening.serve().unwrap();
    within(serving.accept(Slots::new(1).try_reserve().unwrap())).unwrap();
    let InHand::Accepted(accepted) = serving.take_in_hand() else {
        panic!("nothing was accepted")
    };
    let checked = Checked::of(&accepted.stream);
    // It resets its connection, and another program gets the very same port.
    sockopt::set_socket_linger(&first, Some(std::time::Duration::ZERO)).unwrap();
    drop(first);
    let _second = client(port);
    let mut kernel = SockDiag::open().unwrap();
    let clock = SystemClock::new();
    let verdict = within(
        listening
            .admission()
            .check(checked, Some(&mut kernel), &*clock),
    );
    assert!(matches!(verdict, Err(Refusal::Gone)), "{verdict:?}");
}

#[test]
fn one_socket_has_one_listener() {
    let place = Place::new();
    let listening = place.bind(AddressType::Unix);
    listening_to(&listening, &Slots::new(1), async |_| {
        // The first one has begun.
        while let Some(serving) = listening.serve() {
            drop(serving);
            future::yield_now().await;
        }
        let (_stopper, stop) = Stopper::new();
        let second = listen(
            listening.clone(),
            Slots::new(1),
            SystemClock::new(),
            async |_| true,
            &stop,
        );
        assert!(matches!(second.await, Exit::Failed(_)));
    });
    assert!(listening.serve().is_some(), "the right is given back");
}

#[test]
fn a_dead_socket_fails_its_listener() {
    let place = Place::new();
    for kind in [AddressType::Ipv4, AddressType::Ipv6] {
        let listening = place.bind(kind);
        rustix::net::shutdown(listening.descriptor(), rustix::net::Shutdown::Both).unwrap();
        let (_stopper, stop) = Stopper::new();
        let exit = within(listen(
            listening,
            Slots::new(1),
            SystemClock::new(),
            async |_| true,
            &stop,
        ));
        assert!(matches!(exit, Exit::Failed(_)), "{exit:?}");
    }
}

#[test]
fn a_unix_socket_that_was_shut_down_does_not_keep_its_listener_busy() {
    let place = Place::new();
    let listening = place.bind(AddressType::Unix);
    rustix::net::shutdown(listening.descriptor(), rustix::net::Shutdown::Both).unwrap();
    let serving = listening.serve().unwrap();
    // The kernel says "somebody is there" and "nobody is there" at once.
    let slot = Slots::new(1).try_reserve().unwrap();
    let error = within(serving.accept(slot)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_listener_ends_when_nobody_takes_connections_any_more() {
    let place = Place::new();
    let listening = place.bind(AddressType::Ipv4);
    let _client = Client::connect(&listening);
    let slots = Slots::new(1);
    let (_stopper, stop) = Stopper::new();
    let exit = within(listen(
        listening,
        slots.clone(),
        SystemClock::new(),
        async |_| false,
        &stop,
    ));
    assert_eq!(exit, Exit::Finished);
    assert_eq!(slots.taken(), 0);
}

#[test]
fn a_stop_ends_a_listener_wherever_it_waits() {
    let place = Place::new();
    // For a client, for a slot, and for somebody to take what it has.
    for (slots, connects, takes) in [(1, false, true), (0, true, true), (1, true, false)] {
        let listening = place.bind(AddressType::Ipv6);
        let _client = connects.then(|| Client::connect(&listening));
        let slots = Slots::new(slots);
        let (stopper, stop) = Stopper::new();
        let (arrived, arrivals) = async_channel::bounded(1);
        let deliver = move |accepted| {
            let arrived = arrived.clone();
            async move {
                arrived.send(()).await.unwrap();
                if !takes {
                    future::pending::<()>().await;
                }
                drop(accepted);
                true
            }
        };
        let listener = listen(
            listening.clone(),
            slots.clone(),
            SystemClock::new(),
            deliver,
            &stop,
        );
        let stopping = async {
            if !takes {
                arrivals.recv().await.unwrap();
            }
            stopper.stop();
        };
        let (exit, ()) = within(future::zip(listener, stopping));
        assert_eq!(exit, Exit::Stopped);
        let listening = Arc::into_inner(listening).expect("nobody else holds it");
        drop(listening);
        assert_eq!(slots.taken(), 0);
    }
}
