//! The same with a library, zbus, at both ends: what is left of the difference for a program as people write
//! them.

use std::{
    io,
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use futures_lite::future::{block_on, pending};
use zbus::{Connection, Guid, connection::Builder};

use crate::ready;

/// The name of the one who answers, where there is a bus.
pub const ANSWERING: &str = "com.example.Bench.Library";
const PATH: &str = "/com/example/Bench";
const INTERFACE: &str = "com.example.Bench";

/// Who answers.
struct Answering;

#[zbus::interface(name = "com.example.Bench")]
impl Answering {
    /// What was given.
    async fn take(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

/// How somebody gets to the other one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Directly.
    Peer,
    /// Over a bus.
    Bus,
}

fn other(error: zbus::Error) -> io::Error {
    io::Error::other(error)
}

/// Answers at this address until it is killed; listens there when `listens`.
pub fn answer(address: &str, kind: Kind, listens: bool) -> io::Result<()> {
    let mut builder = if listens {
        let listener = UnixListener::bind(address)?;
        ready(address)?;
        Builder::unix_stream(listener.accept()?.0).server(Guid::generate())
    } else {
        Builder::address(address)
    };
    builder = match kind {
        Kind::Peer => builder.p2p(),
        Kind::Bus => builder.name(ANSWERING),
    };
    let building = builder.serve_at(PATH, Answering).build();
    let _connection = block_on(building).map_err(other)?;
    if !listens {
        ready(address)?;
    }
    block_on(pending())
}

/// The one who asks, and takes the time.
pub struct Asker(Connection, Kind);

impl Asker {
    /// At this address.
    pub fn new(address: &str, kind: Kind) -> io::Result<Self> {
        let builder = match kind {
            Kind::Peer => Builder::address(address).p2p(),
            Kind::Bus => Builder::address(address),
        };
        Ok(Asker(block_on(builder.build()).map_err(other)?, kind))
    }

    /// Asks and waits, so many times; how long each took.
    pub fn round_trips(&self, many: usize) -> io::Result<Vec<Duration>> {
        let mut bytes = vec![7; 64];
        let to = (self.1 == Kind::Bus).then_some(ANSWERING);
        let mut taken = Vec::with_capacity(many);
        for number in 0..many as u64 {
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            let started = Instant::now();
            let call = self
                .0
                .call_method(to, PATH, Some(INTERFACE), "Take", &bytes);
            let answer = block_on(call).map_err(other)?;
            let back: Vec<u8> = answer.body().deserialize().map_err(other)?;
            taken.push(started.elapsed());
            if back != bytes {
                return Err(io::Error::other("what came back is not what was sent"));
            }
        }
        Ok(taken)
    }
}
