//! The socket of somebody who speaks D-Bus to us without a bus, as zbus reads and writes it: with bounds
//! for what may be sent to us, and without descriptors, which nothing here takes.

use std::{
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use async_io::Async;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use zbus::{
    Message,
    connection::socket::{ReadHalf, Socket, Split, WriteHalf},
    export::async_trait::async_trait,
    fdo::ConnectionCredentials,
};

/// Most bytes of a greeting.
pub(crate) const MAX_GREETING: usize = 16 * 1024;

/// Bytes at a message's beginning that say how long it is.
const HEAD: usize = 16;

/// A connected socket whose other end the kernel says belongs to `uid`.
pub(crate) struct PeerSocket {
    pub(crate) stream: Arc<Async<UnixStream>>,
    pub(crate) uid: u32,
    /// Most bytes of a message.
    pub(crate) longest: usize,
}

impl Socket for PeerSocket {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let bytes = Bytes {
            stream: self.stream.clone(),
            uid: self.uid,
        };
        let reader = Reader {
            bytes,
            greeting: 0,
            longest: self.longest,
        };
        Split::new(reader, Writer(self.stream))
    }
}

/// The socket as it is.
#[derive(Debug)]
struct Bytes {
    stream: Arc<Async<UnixStream>>,
    uid: u32,
}

#[async_trait]
impl ReadHalf for Bytes {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        // The kernel closes descriptors that nobody asks for.
        let read = (&*self.stream).read(buffer).await?;
        Ok((read, vec![]))
    }
}

/// The half we read from.
#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Bytes,
    /// How much came before the first message.
    greeting: usize,
    longest: usize,
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let (read, none) = self.bytes.recvmsg(buffer).await?;
        self.greeting += read;
        if self.greeting > MAX_GREETING {
            return Err(too_long("greeting"));
        }
        Ok((read, none))
    }

    async fn receive_message(
        &mut self,
        seq: u64,
        received: &mut Vec<u8>,
        descriptors: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        // Before there is a buffer as large as the message says it is.
        while received.len() < HEAD {
            let mut head = [0; HEAD];
            let wanted = HEAD - received.len();
            let (read, _) = self.bytes.recvmsg(&mut head[..wanted]).await?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            received.extend_from_slice(&head[..read]);
        }
        if length(received).is_none_or(|length| length > self.longest) {
            return Err(too_long("message").into());
        }
        self.bytes.receive_message(seq, received, descriptors).await
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        // What the kernel said when we accepted.
        Ok(ConnectionCredentials::default().set_unix_user_id(self.bytes.uid))
    }
}

/// How long the message is that begins with these bytes, as far as they say.
fn length(head: &[u8]) -> Option<usize> {
    let number = |at: usize| {
        let bytes = head.get(at..at + 4)?.try_into().ok()?;
        let number = match head.first()? {
            b'l' => u32::from_le_bytes(bytes),
            b'B' => u32::from_be_bytes(bytes),
            _ => return None,
        };
        usize::try_from(number).ok()
    };
    let (body, fields) = (number(4)?, number(12)?);
    HEAD.checked_add(body)?.checked_add(fields)
}

fn too_long(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("too long a {what}"))
}

/// The half we write to.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Async<UnixStream>>);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], _none: &[BorrowedFd<'_>]) -> io::Result<usize> {
        (&*self.0).write(buffer).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.get_ref().shutdown(std::net::Shutdown::Both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_in_both_byte_orders() {
        let message = |order: u8, body: [u8; 4], fields: [u8; 4]| {
            let mut head = vec![order, 1, 0, 1];
            head.extend(body);
            head.extend([1, 0, 0, 0]);
            head.extend(fields);
            head
        };
        let little = message(b'l', [8, 0, 0, 0], [0, 1, 0, 0]);
        assert_eq!(length(&little), Some(16 + 8 + 256));
        let big = message(b'B', [0, 0, 0, 8], [0, 0, 1, 0]);
        assert_eq!(length(&big), Some(16 + 8 + 256));
        let most = message(b'l', [255; 4], [255; 4]);
        assert!(length(&most).is_none_or(|length| length > 128 * 1024 * 1024));
        assert_eq!(length(&message(b'x', [0; 4], [0; 4])), None);
        assert_eq!(length(&little[..15]), None);
    }
}
