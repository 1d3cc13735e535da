//! The endpoint with real sockets, in this process.

mod chosen;

use std::{net::TcpStream, os::unix::net::UnixStream, path::PathBuf, sync::Arc};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use super::{Accepted, EndpointConfig, Listening, Slots, dial, listen};
use crate::{
    model::{AccessControl, AddressType, BytestreamId, SocketAddress},
    runtime::{Exit, Stopper, SystemClock},
};

/// A configuration with a directory of its own, removed at the end.
struct Place(EndpointConfig);

impl Place {
    fn new() -> Self {
        let name = format!("pneuma-endpoint-{}", BytestreamId::random().unwrap());
        Place(EndpointConfig {
            socket_directory: std::env::temp_dir().join(name),
            any_local_user: false,
        })
    }

    fn directory(&self) -> &PathBuf {
        &self.0.socket_directory
    }

    fn bind(&self, kind: AddressType) -> Arc<Listening> {
        Arc::new(Listening::bind(kind, AccessControl::Localhost, &self.0).unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(self.directory()) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

/// Listens until one connection came, and gives it.
async fn accept_one(listening: &Arc<Listening>) -> Accepted {
    let (_stopper, stop) = Stopper::new();
    let (sender, receiver) = async_channel::bounded(1);
    let deliver = |accepted| {
        let sender = sender.clone();
        async move {
            sender.send(accepted).await.unwrap();
            false
        }
    };
    let exit = listen(
        listening.clone(),
        Slots::new(4),
        SystemClock::new(),
        deliver,
        &stop,
    )
    .await;
    assert_eq!(exit, Exit::Finished);
    receiver.recv().await.unwrap()
}

#[test]
fn what_it_listens_on_can_be_dialled_and_what_came_early_is_not_lost() {
    let place = Place::new();
    for kind in [AddressType::Unix, AddressType::Ipv4, AddressType::Ipv6] {
        let listening = place.bind(kind);
        future::block_on(async {
            let clock = SystemClock::new();
            let mut dialled = dial(
                listening.address(),
                AccessControl::Localhost,
                &place.0,
                &*clock,
            )
            .await
            .unwrap();
            dialled.stream.write_all(b"early").await.unwrap();
            dialled.stream.close().await.unwrap();
            let mut accepted = accept_one(&listening).await;
            let mut text = String::new();
            accepted.stream.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "early", "{kind:?}");
        });
    }
}

#[test]
fn a_client_that_is_gone_before_we_look_is_refused() {
    let place = Place::new();
    let listening = place.bind(AddressType::Ipv4);
    let SocketAddress::Ipv4(address) = *listening.address() else {
        unreachable!()
    };
    let mut gone = TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut gone, b"and away").unwrap();
    drop(gone);
    let _patient = TcpStream::connect(address).unwrap();
    let accepted = future::block_on(accept_one(&listening));
    drop(accepted);
    assert_eq!(listening.refused(), 1);
}

#[test]
fn the_socket_file_goes_with_the_socket() {
    let place = Place::new();
    let listening = place.bind(AddressType::Unix);
    let SocketAddress::Unix(path) = listening.address().clone() else {
        unreachable!()
    };
    let _waiting = UnixStream::connect(&path).unwrap();
    assert!(path.exists());
    drop(listening);
    assert!(!path.exists());
}
