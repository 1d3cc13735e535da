//! The byte that `Credentials` demands: whoever connects says it first, with its credentials attached
//! if it can (`SCM_CREDENTIALS`), and it is no part of the stream. Both ways.
//!
//! Credentials that are attached are the kernel's word about who *wrote* the byte. Where there are
//! none, those of the one who connected, which were looked at before, are enough: the specification
//! wants the byte even so. After the byte the socket is like any other: what follows it is still in
//! the kernel, and nothing is attached to it any more, which would cut what is read into pieces.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use async_io::Async;
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, UCred, recvmsg, sendmsg, sockopt::set_socket_passcred,
    },
    process::{getegid, geteuid, getpid},
};

/// A client's first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The byte. Its value tells one connection from another, and nothing else.
    Byte {
        /// The user of the process that wrote it, if that was attached.
        writer: Option<u32>,
    },
    /// It closed its side instead.
    End,
}

/// Has the kernel attach to what comes in on this socket, or on those accepted from it, who wrote it.
pub(super) fn ask_for_credentials(socket: impl AsFd) -> io::Result<()> {
    Ok(set_socket_passcred(socket, true)?)
}

/// Takes the byte, and that only; descriptors that come with it are closed.
///
/// # Errors
/// `EAGAIN` while there is none, and what the kernel says of a socket that broke.
pub(super) fn hear(socket: BorrowedFd<'_>) -> io::Result<Word> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let heard = loop {
        match recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut attached,
            flags,
        ) {
            Err(Errno::INTR) => {}
            heard => break heard?,
        }
    };
    if heard.bytes == 0 {
        return Ok(Word::End);
    }
    let writer = attached.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.uid.as_raw()),
        _ => None,
    });
    set_socket_passcred(socket, false)?;
    Ok(Word::Byte { writer })
}

/// Says the byte to a service we connected to; without our credentials where they cannot be attached.
///
/// # Errors
/// What the kernel says: the service is gone already.
pub(super) async fn say(service: &Async<UnixStream>, byte: u8) -> io::Result<()> {
    service
        .write_with(|service| match send(service.as_fd(), byte, true) {
            Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {
                Ok(send(service.as_fd(), byte, false)?)
            }
            said => Ok(said?),
        })
        .await
}

fn send(service: BorrowedFd<'_>, byte: u8, attach: bool) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    if attach {
        // There is room for just this one.
        attached.push(SendAncillaryMessage::ScmCredentials(UCred {
            pid: getpid(),
            uid: geteuid(),
            gid: getegid(),
        }));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(service, &[IoSlice::new(&[byte])], &mut attached, flags).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use futures_lite::future::block_on;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[test]
    fn what_is_said_is_heard_with_who_said_it_and_nothing_more_is_taken() {
        let (client, mut service) = pair();
        ask_for_credentials(&service).unwrap();
        let mut client = Async::new(client).unwrap();
        block_on(say(&client, 7)).unwrap();
        block_on(futures_lite::AsyncWriteExt::write_all(&mut client, b"rest")).unwrap();
        let writer = Some(geteuid().as_raw());
        assert_eq!(hear(service.as_fd()).unwrap(), Word::Byte { writer });
        drop(client);
        let mut rest = String::new();
        service.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "rest");
    }

    #[test]
    fn the_credentials_are_there_for_a_service_that_asks_when_it_looks() {
        // As GLib does it. The kernel attaches nothing by itself then.
        let (client, service) = pair();
        let mut client = Async::new(client).unwrap();
        block_on(say(&client, 7)).unwrap();
        block_on(futures_lite::AsyncWriteExt::write_all(&mut client, b"8")).unwrap();
        ask_for_credentials(&service).unwrap();
        let writer = Some(geteuid().as_raw());
        assert_eq!(hear(service.as_fd()).unwrap(), Word::Byte { writer });
        ask_for_credentials(&service).unwrap();
        let word = hear(service.as_fd()).unwrap();
        assert_ne!(word, Word::Byte { writer }, "this would prove nothing");
    }

    #[test]
    fn a_byte_without_credentials_is_heard() {
        let (mut client, service) = pair();
        client.write_all(b"xy").unwrap();
        let word = hear(service.as_fd()).unwrap();
        assert_eq!(word, Word::Byte { writer: None });
    }

    #[test]
    fn nothing_is_no_word_and_an_end_is_one() {
        let (client, service) = pair();
        let nothing = hear(service.as_fd()).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(client);
        assert_eq!(hear(service.as_fd()).unwrap(), Word::End);
    }

    #[test]
    fn descriptors_that_come_along_are_closed() {
        let (client, service) = pair();
        ask_for_credentials(&service).unwrap();
        let (mut kept, given) = pair();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut attached = SendAncillaryBuffer::new(&mut space);
        let descriptors = [given.as_fd()];
        assert!(attached.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let flags = SendFlags::empty();
        sendmsg(&client, &[IoSlice::new(b"x")], &mut attached, flags).unwrap();
        drop(given);
        let writer = Some(geteuid().as_raw());
        assert_eq!(hear(service.as_fd()).unwrap(), Word::Byte { writer });
        assert_eq!(
            kept.read(&mut [0]).unwrap(),
            0,
            "it is still open somewhere"
        );
    }
}
