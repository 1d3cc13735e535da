//! The end of the objects' connection where a socket would be.

use std::io;

use async_channel::Receiver;
use zbus::{
    Guid, Message,
    connection::{
        Builder,
        socket::{ReadHalf, Socket, Split, WriteHalf},
    },
    export::async_trait::async_trait,
};

use super::Peers;

/// A connection that objects can be served on, and the peers that see them. Nobody greets anybody on
/// it, since both ends are ours.
pub(in crate::dbus) fn connect() -> (Peers, Builder<'static>) {
    let (peers, calls) = Peers::new();
    let ends = Ends {
        calls,
        peers: peers.clone(),
    };
    let builder = Builder::authenticated_socket(ends, Guid::generate()).p2p();
    (peers, builder)
}

struct Ends {
    calls: Receiver<Vec<u8>>,
    peers: Peers,
}

impl Socket for Ends {
    type ReadHalf = Calls;
    type WriteHalf = Answers;

    fn split(self) -> Split<Calls, Answers> {
        let calls = Calls {
            calls: self.calls,
            message: Vec::new(),
            taken: 0,
        };
        Split::new(calls, Answers { peers: self.peers })
    }
}

/// What the objects read.
#[derive(Debug)]
struct Calls {
    calls: Receiver<Vec<u8>>,
    message: Vec<u8>,
    taken: usize,
}

#[async_trait]
impl ReadHalf for Calls {
    async fn recvmsg(
        &mut self,
        buffer: &mut [u8],
    ) -> io::Result<(usize, Vec<std::os::fd::OwnedFd>)> {
        if self.taken == self.message.len() {
            let Ok(message) = self.calls.recv().await else {
                return Ok((0, vec![]));
            };
            (self.message, self.taken) = (message, 0);
        }
        let rest = &self.message[self.taken..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.taken += length;
        Ok((length, vec![]))
    }
}

/// What the objects write.
#[derive(Debug)]
struct Answers {
    peers: Peers,
}

#[async_trait]
impl WriteHalf for Answers {
    async fn send_message(&mut self, message: &Message) -> zbus::Result<()> {
        self.peers.send(message);
        Ok(())
    }

    async fn close(&mut self) -> io::Result<()> {
        self.peers.part();
        Ok(())
    }
}
