//! Identifiers. Each is its own type so that one is never passed for another.

use std::fmt;

/// One channel (a tube or a transfer) for the life of the process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u64);

/// Whose channel it is: one Telepathy Connection for its life in this process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(pub u64);

/// `Connection_ID` of `Channel.Type.StreamTube`: one connection through one tube, unique within
/// that tube. It is what `NewLocalConnection`, `NewRemoteConnection` and `ConnectionClosed` name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// `Contact_Handle` of the specification. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContactHandle(pub u32);

/// The random 128-bit id every connection through a tube carries on the wire, written as 32
/// lower-case hexadecimal digits. It outlives a carrier, so that a broken link can be resumed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BytestreamId(pub [u8; 16]);

impl BytestreamId {
    /// A fresh one from the kernel's random source.
    ///
    /// # Errors
    /// When the kernel has no random bytes to give (before its pool is seeded).
    pub fn random() -> std::io::Result<Self> {
        let mut id = [0; 16];
        let mut filled = 0;
        while filled < id.len() {
            filled +=
                rustix::rand::getrandom(&mut id[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(BytestreamId(id))
    }
}

impl fmt::Display for BytestreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BytestreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BytestreamId({self})")
    }
}

/// The text is not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bytestream id has 32 hexadecimal digits")]
pub struct ParseBytestreamIdError;

impl std::str::FromStr for BytestreamId {
    type Err = ParseBytestreamIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(ParseBytestreamIdError);
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| (c as char).to_digit(16).ok_or(ParseBytestreamIdError);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(BytestreamId(id))
    }
}
