//! A message in a new envelope: the same body, word for word, under another serial, sender and
//! destination.
//!
//! Nothing of the old header is taken over that was not understood: whoever looked at a message and let
//! it pass saw what the next reader sees.

use std::{io, num::NonZeroU32, os::fd::OwnedFd};

use futures_lite::future::{block_on, poll_once};
use zbus::{
    Message,
    connection::socket::ReadHalf,
    export::async_trait::async_trait,
    message::{Flags, PrimaryHeader, Type},
};

use super::wire::MOST_BYTES;

/// Bytes before the header's fields.
const HEAD: usize = 16;
/// Where the fields' length stands.
const FIELDS_LENGTH: usize = 12;

/// The header fields that go along: path, interface, member, error name, signature.
const KEPT: [u8; 5] = [1, 2, 3, 4, 8];
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
/// The last one that the specification knows.
const UNIX_FDS: u8 = 9;

/// Reserved for what a library tells its own process; libraries and buses disconnect a peer that sends it.
const LOCAL: &str = "org.freedesktop.DBus.Local";
const LOCAL_PATH: &str = "/org/freedesktop/DBus/Local";

/// What is said of a message on its next way.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'e> {
    /// Its number there.
    pub serial: NonZeroU32,
    /// What it answers there.
    pub reply_serial: Option<NonZeroU32>,
    /// From whom.
    pub sender: Option<&'e str>,
    /// For whom.
    pub destination: Option<&'e str>,
    /// An answer is wanted, whether or not whoever called wants one.
    pub answered: bool,
    /// No bus may start a program for it.
    pub starts_nothing: bool,
}

impl<'e> Envelope<'e> {
    /// One with a new number and nothing else.
    pub fn fresh() -> Self {
        Envelope {
            serial: fresh_serial(),
            reply_serial: None,
            sender: None,
            destination: None,
            answered: false,
            starts_nothing: false,
        }
    }

    /// The same, for this name.
    pub fn to(destination: &'e str) -> Self {
        Envelope {
            destination: Some(destination),
            ..Envelope::fresh()
        }
    }
}

/// Unique in this process until the 32-bit counter wraps.
pub fn fresh_serial() -> NonZeroU32 {
    PrimaryHeader::new(Type::MethodCall, 0).serial_num()
}

/// Reads one whole message.
///
/// zbus checks bytes that come from a socket, so they come from one here that has nothing more to say:
/// `Message::from_bytes` is unsafe, which this crate forbids.
///
/// # Errors
/// When it is none, or has bytes missing; what follows it is not looked at.
pub fn parse(bytes: Vec<u8>) -> zbus::Result<Message> {
    let mut bytes = bytes;
    let mut descriptors = Vec::new();
    let mut nothing = Nothing;
    let reading = nothing.receive_message(0, &mut bytes, &mut descriptors);
    // Nothing in it ever waits.
    block_on(poll_once(reading)).unwrap_or(Err(zbus::Error::InvalidField))
}

/// Puts `message` into a new envelope. Of its flags, those that tell a bus what to do remain, unless the
/// envelope says otherwise; the one that lets a program ask the user for a password does not.
///
/// # Errors
/// When a header field stands there twice or is none that the specification knows, when the message
/// carries descriptors, is one that nobody may send or longer than
/// [`MOST_BYTES`], or when a name in the envelope is none.
pub fn rewrap(message: &Message, envelope: &Envelope<'_>) -> zbus::Result<Message> {
    let header = message.header();
    let is_local = header.path().is_some_and(|path| *path == LOCAL_PATH)
        || header.interface().is_some_and(|name| *name == LOCAL);
    if is_local {
        return Err(zbus::Error::InvalidField);
    }
    let bytes = message.data().bytes();
    let big = bytes.first() == Some(&b'B');
    let mut fields = Fields {
        bytes,
        big,
        at: HEAD,
    };
    let end = HEAD
        + fields
            .number(FIELDS_LENGTH)
            .ok_or(zbus::Error::InvalidField)?;

    let mut new = bytes.get(..HEAD).ok_or(zbus::Error::InvalidField)?.to_vec();
    let flags = message.primary_header().flags();
    let kept = [
        (
            Flags::NO_REPLY_EXPECTED,
            flags.contains(Flags::NO_REPLY_EXPECTED) && !envelope.answered,
        ),
        (
            Flags::NO_AUTO_START,
            flags.contains(Flags::NO_AUTO_START) || envelope.starts_nothing,
        ),
    ];
    new[2] = kept
        .into_iter()
        .filter(|(_, stands)| *stands)
        .fold(0, |all, (flag, _)| all | flag.bits());
    new[8..FIELDS_LENGTH].copy_from_slice(&in_order(envelope.serial.get(), big));

    let mut seen = [false; UNIX_FDS as usize + 1];
    while fields.at < end {
        let (code, field) = fields.next(end).ok_or(zbus::Error::InvalidField)?;
        match seen.get_mut(usize::from(code)) {
            Some(seen) if !*seen && code != UNIX_FDS => *seen = true,
            _ => return Err(zbus::Error::InvalidField),
        }
        if KEPT.contains(&code) {
            pad(&mut new);
            new.extend_from_slice(field);
        }
    }
    if let Some(serial) = envelope.reply_serial {
        pad(&mut new);
        new.extend_from_slice(&[REPLY_SERIAL, 1, b'u', 0]);
        new.extend_from_slice(&in_order(serial.get(), big));
    }
    let names = [
        (DESTINATION, envelope.destination),
        (SENDER, envelope.sender),
    ];
    for (code, name) in names {
        let Some(name) = name else { continue };
        pad(&mut new);
        new.extend_from_slice(&[code, 1, b's', 0]);
        let length = u32::try_from(name.len()).map_err(|_| zbus::Error::ExcessData)?;
        new.extend_from_slice(&in_order(length, big));
        new.extend_from_slice(name.as_bytes());
        new.push(0);
    }
    let length = u32::try_from(new.len() - HEAD).map_err(|_| zbus::Error::ExcessData)?;
    new[FIELDS_LENGTH..HEAD].copy_from_slice(&in_order(length, big));
    pad(&mut new);
    let body = message.body();
    let body = body.data().bytes();
    // Whoever gets it would hang up.
    if new.len() + body.len() > MOST_BYTES {
        return Err(zbus::Error::ExcessData);
    }
    new.extend_from_slice(body);
    parse(new)
}

/// Up to where the next field or the body may begin.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn in_order(number: u32, big: bool) -> [u8; 4] {
    if big {
        number.to_be_bytes()
    } else {
        number.to_le_bytes()
    }
}

/// Walks over a header's fields.
struct Fields<'b> {
    bytes: &'b [u8],
    big: bool,
    at: usize,
}

impl<'b> Fields<'b> {
    fn number(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        let number = if self.big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        };
        usize::try_from(number).ok()
    }

    /// The next field's code, and its bytes without padding.
    fn next(&mut self, end: usize) -> Option<(u8, &'b [u8])> {
        let start = self.at;
        // A code, and the signature of one basic value.
        let &[code, 1, kind, 0] = self.bytes.get(start..start + 4)? else {
            return None;
        };
        let value = start + 4;
        let after = match kind {
            b'u' => value + 4,
            b's' | b'o' => value.checked_add(4 + 1)?.checked_add(self.number(value)?)?,
            b'g' => value + 1 + usize::from(*self.bytes.get(value)?) + 1,
            _ => return None,
        };
        if after > end {
            return None;
        }
        self.at = after.next_multiple_of(8);
        Some((code, self.bytes.get(start..after)?))
    }
}

/// A socket that has said all it had to say.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl ReadHalf for Nothing {
    async fn recvmsg(&mut self, _: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((0, vec![]))
    }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
