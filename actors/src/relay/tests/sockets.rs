//! The same with the kernel's sockets.

use std::{
    io::{ErrorKind, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::Arc,
    time::Duration,
};

use async_io::Async;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use crate::{
    endpoint::LocalStream,
    ports::{Bytestream, Duplex as _},
    relay::{Meters, RelayEnd, run},
    runtime::{Clock as _, Stop, Stopper, SystemClock},
};

/// Both ends of a TCP connection over loopback.
fn tcp_pair() -> (LocalStream, LocalStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    let local = |stream| LocalStream::from(Async::new(stream).unwrap());
    (local(one), local(other))
}

fn unix_pair() -> (LocalStream, LocalStream) {
    let (one, other) = UnixStream::pair().unwrap();
    let local = |stream| LocalStream::from(Async::new(stream).unwrap());
    (local(one), local(other))
}

async fn relay(local: LocalStream, remote: LocalStream, stop: &Stop) -> RelayEnd {
    let remote = Bytestream {
        io: Box::new(remote),
        encrypted: false,
    };
    run(local, remote, Arc::new(Meters::default()), stop).await
}

/// Runs a relay beside what people do, but not for ever.
fn play<T>(
    local: LocalStream,
    remote: LocalStream,
    people: impl Future<Output = T>,
) -> (RelayEnd, T) {
    let (_stopper, stop) = Stopper::new();
    let clock = SystemClock::new();
    future::block_on(future::or(
        future::zip(relay(local, remote, &stop), people),
        async {
            clock.sleep(Duration::from_secs(20)).await;
            panic!("the relay hangs")
        },
    ))
}

#[test]
fn bytes_and_half_closes_pass_between_every_pair_of_kinds() {
    for (pair, other) in [
        (tcp_pair as fn() -> _, tcp_pair as fn() -> _),
        (unix_pair, tcp_pair),
        (tcp_pair, unix_pair),
        (unix_pair, unix_pair),
    ] {
        let (mut application, local) = pair();
        let (mut contact, remote) = other();
        let question = vec![5; 300_000];
        let (end, ()) = play(local, remote, async {
            let asking = async {
                application.write_all(&question).await.unwrap();
                application.close().await.unwrap();
            };
            let mut heard = Vec::new();
            let hearing = contact.read_to_end(&mut heard);
            future::zip(asking, hearing).await.1.unwrap();
            assert!(heard == question);
            contact.write_all(b"answer").await.unwrap();
            contact.close().await.unwrap();
            heard.clear();
            application.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"answer");
        });
        assert_eq!(end, RelayEnd::Finished);
    }
}

#[test]
fn sockets_are_joined_in_the_kernel_and_nothing_else_is() {
    use crate::relay::splice::Pipe;
    let (one, other) = tcp_pair();
    let (fake, _other) = crate::testing::pipe(1);
    assert!(Pipe::pair(one.socket(), other.socket()).is_some());
    assert!(Pipe::pair(one.socket(), fake.socket()).is_none());
    let boxed: Box<dyn crate::ports::Duplex> = Box::new(other);
    assert!(boxed.socket().is_some(), "a box hides nothing");
}

#[test]
fn a_message_that_is_shorter_than_a_pipe_arrives_at_once() {
    let (mut application, local) = tcp_pair();
    let (mut contact, remote) = unix_pair();
    let (_stopper, stop) = Stopper::new();
    let clock = SystemClock::new();
    let mut relay = std::pin::pin!(relay(local, remote, &stop));
    let begun = clock.now();
    future::block_on(async {
        let people = async {
            for _ in 0..200 {
                let mut heard = [0; 5];
                application.write_all(b"hello").await.unwrap();
                contact.read_exact(&mut heard).await.unwrap();
                contact.write_all(b"right").await.unwrap();
                application.read_exact(&mut heard).await.unwrap();
            }
        };
        future::or(people, async {
            (&mut relay).await;
        })
        .await;
    });
    // Held back (by Nagle or SPLICE_F_MORE) each of them would take 40 to 200 ms.
    assert!(clock.now() - begun < Duration::from_secs(5));
}

#[test]
fn a_tcp_reset_comes_out_as_a_tcp_reset_on_either_side() {
    let (mut application, local) = tcp_pair();
    let (mut contact, remote) = tcp_pair();
    let (end, ()) = play(local, remote, async {
        application.write_all(b"x").await.unwrap();
        contact.read_exact(&mut [0]).await.unwrap();
        application.reset();
        drop(application);
        let error = contact.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
    assert_eq!(end, RelayEnd::LocalReset);

    let (mut application, local) = tcp_pair();
    let (mut contact, remote) = tcp_pair();
    let (end, ()) = play(local, remote, async {
        contact.reset();
        drop(contact);
        let error = application.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
    assert_eq!(end, RelayEnd::RemoteReset);
}

#[test]
fn a_unix_application_that_leaves_an_answer_unread_resets_the_contact() {
    let (mut application, local) = unix_pair();
    let (mut contact, remote) = tcp_pair();
    let (end, ()) = play(local, remote, async {
        contact.write_all(b"answer").await.unwrap();
        // Sees that it is there, and leaves it.
        let LocalStream::Unix(socket) = &application else {
            unreachable!()
        };
        socket.readable().await.unwrap();
        application.write_all(b"bye").await.unwrap();
        drop(application);
        let mut heard = Vec::new();
        match contact.read_to_end(&mut heard).await {
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            Ok(_) => panic!("an end of file after {heard:?}"),
        }
    });
    assert_eq!(end, RelayEnd::LocalReset);
}

#[test]
fn an_application_that_closes_while_the_contact_talks_on_is_a_reset() {
    let (application, local) = tcp_pair();
    let (mut contact, remote) = tcp_pair();
    let (end, ()) = play(local, remote, async {
        drop(application);
        assert_eq!(
            contact.read(&mut [0]).await.unwrap(),
            0,
            "so far it looks like a half-close"
        );
        let error = loop {
            if let Err(error) = contact.write_all(b"talk").await {
                break error;
            }
            future::yield_now().await;
        };
        assert!(
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ),
            "{error}"
        );
    });
    assert_eq!(end, RelayEnd::LocalReset);
}

#[test]
fn a_stop_is_a_reset_on_both_sides() {
    let (mut application, local) = tcp_pair();
    let (mut contact, remote) = tcp_pair();
    let (stopper, stop) = Stopper::new();
    let people = async {
        application.write_all(b"x").await.unwrap();
        contact.read_exact(&mut [0]).await.unwrap();
        stopper.stop();
        for person in [&mut application, &mut contact] {
            let error = person.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    };
    let (end, ()) = future::block_on(future::zip(relay(local, remote, &stop), people));
    assert_eq!(end, RelayEnd::Stopped);
}

#[test]
fn a_contact_that_does_not_read_stops_a_real_writer() {
    let (application, local) = tcp_pair();
    let (contact, remote) = tcp_pair();
    let LocalStream::Tcp(writer) = &application else {
        unreachable!()
    };
    // What the kernel may hold: two sockets' buffers on each of two connections, at their largest.
    const MOST: usize = 64 << 20;
    let (_stopper, stop) = Stopper::new();
    let mut relay = std::pin::pin!(relay(local, remote, &stop));
    let taken = future::block_on(async {
        let mut taken = 0;
        let chunk = vec![0; 64 << 10];
        let mut idle = 0;
        // The relay and the kernel get many turns after the writer was last let on.
        while idle < 1000 {
            assert!(future::poll_once(&mut relay).await.is_none());
            match writer.get_ref().write(&chunk) {
                Ok(count) => {
                    (taken, idle) = (taken + count, 0);
                    assert!(taken < MOST, "nobody stops the writer");
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    idle += 1;
                }
            }
        }
        taken
    });
    writer.get_ref().shutdown(Shutdown::Write).unwrap();
    // Once it reads, everything arrives.
    let LocalStream::Tcp(mut contact) = contact else {
        unreachable!()
    };
    let heard = async {
        let mut heard = Vec::new();
        contact.read_to_end(&mut heard).await.unwrap();
        contact.get_ref().shutdown(Shutdown::Write).unwrap();
        heard.len()
    };
    let (end, heard) = future::block_on(future::zip(relay, heard));
    assert_eq!((end, heard), (RelayEnd::Finished, taken));
}
