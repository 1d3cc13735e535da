//! What a relay does, with real sockets and with scripted ones.

use std::{
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::Arc,
};

use async_io::Async;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use super::{Meters, RelayEnd, run};
use crate::{endpoint::LocalStream, ports::Bytestream, runtime::Stopper};

/// Both ends of a TCP connection over loopback.
fn tcp_pair() -> (Async<TcpStream>, Async<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    (Async::new(one).unwrap(), Async::new(other).unwrap())
}

fn bytestream(io: Async<TcpStream>) -> Bytestream {
    Bytestream {
        io: Box::new(LocalStream::from(io)),
        encrypted: false,
    }
}

#[test]
fn bytes_pass_both_ways_and_each_half_close_is_passed_on() {
    let (mut application, local) = tcp_pair();
    let (mut contact, remote) = tcp_pair();
    let meters = Arc::new(Meters::default());
    let (_stopper, stop) = Stopper::new();
    let people = async {
        application.write_all(b"question").await.unwrap();
        application.get_ref().shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        contact.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        contact.write_all(b"a longer answer").await.unwrap();
        contact.get_ref().shutdown(Shutdown::Write).unwrap();
        text.clear();
        application.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "a longer answer");
    };
    let relay = run(
        LocalStream::from(local),
        bytestream(remote),
        meters.clone(),
        &stop,
    );
    let (end, ()) = future::block_on(future::zip(relay, people));
    assert_eq!(end, RelayEnd::Finished);
    assert_eq!((meters.sent(), meters.received()), (8, 15));
}

#[test]
fn the_order_of_the_half_closes_does_not_matter() {
    let (application, local) = UnixStream::pair().unwrap();
    let (contact, remote) = tcp_pair();
    let (_stopper, stop) = Stopper::new();
    let mut application = Async::new(application).unwrap();
    let mut contact = contact;
    let people = async {
        contact.get_ref().shutdown(Shutdown::Write).unwrap();
        let mut end = Vec::new();
        application.read_to_end(&mut end).await.unwrap();
        application.write_all(b"still here").await.unwrap();
        application.get_ref().shutdown(Shutdown::Write).unwrap();
        contact.read_to_end(&mut end).await.unwrap();
        assert_eq!(end, b"still here");
    };
    let local = LocalStream::from(Async::new(local).unwrap());
    let relay = run(local, bytestream(remote), Arc::default(), &stop);
    let (end, ()) = future::block_on(future::zip(relay, people));
    assert_eq!(end, RelayEnd::Finished);
}
