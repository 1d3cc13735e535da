//! How a file travels inside one bytestream between two programs that speak our namespace: the
//! protocol's reference, and a codec without I/O.
//!
//! All numbers are big-endian. The sender writes first and the receiver may write at any time; each side
//! reads while it writes.
//!
//! # What the sender writes
//!
//! ```text
//!   ┌─────────┬────────────┐ ┌────────────┬───────────┐     ┌──────┬─────────────┐
//!   │ 01      │ u64 offset │ │ u32 length │ bytes     │ ... │ u32 0│ 32: SHA-256 │
//!   └─────────┴────────────┘ └────────────┴───────────┘     └──────┴─────────────┘
//!     header, once             chunk, any number              end, once
//!
//!                                     instead of a chunk or the end, once:  │ u32 FFFFFFFF │ u8 why │
//! ```
//!
//! - The **header** has the version, 1, and where in the file the bytes begin. The receiver has said
//!   where it wants them to begin; the offset is that or 0.
//! - A **chunk** has 1 to 262144 ([`MOST_CHUNK`]) bytes of the file, each chunk those that follow the
//!   one before it.
//! - The **end** has the SHA-256 of all bytes of the file that went through this bytestream. Afterwards the
//!   sender writes nothing and waits for the verdict.
//! - An **abort** says why there will be no end: 1 the sender's user stopped it, 2 something went wrong
//!   at the sender's. Afterwards the sender closes its side.
//!
//! # What the receiver writes
//!
//! ```text
//!   stored     │ 01 │ u64 offset │   at any time after the header, any number
//!   verified   │ 02 │              after the end; then it closes its side
//!   mismatch   │ 03 │              after the end; then it closes its side
//!   abort      │ 04 │ u8 why │     at any time, once; then it closes its side
//! ```
//!
//! - **stored** says how far the receiving application has stored the file safely, counted from the
//!   file's beginning. It never goes down, and never beyond what was sent. It is for whoever wants to
//!   watch; no bytes wait for it.
//! - **verified**: the digest, the size and the offer's own hash are right and the receiving application
//!   has been handed all bytes; and, where it says what it has stored, it has said that of all of them.
//!   Between the end and this word there may be minutes, then. Only now the sender counts the transfer as completed.
//! - **mismatch**: one of them is wrong.
//! - An **abort** says why the receiver wants no more of it, by the same numbers.
//!
//! # What a reader does about the rest
//! Everything that is not one of these, and every frame at a time when it has no place, is [`Malformed`]:
//! the reader ends the transfer as its contact's error. An end of the bytestream without an end, a
//! verdict or an abort is a bytestream that broke. Nothing is stored here but the few bytes of a
//! number or a digest that has come in part; the bytes of chunks are handed on where they lie.

use crate::model::Sha256Digest;

/// The version of what this module describes.
pub const VERSION: u8 = 1;
/// Most bytes a chunk may have.
pub const MOST_CHUNK: usize = 256 * 1024;
/// How many bytes a chunk's length takes.
pub const LENGTH: usize = 4;
/// How many bytes a header takes.
pub const HEADER: usize = 9;
/// How many bytes an end takes.
pub const END: usize = LENGTH + 32;
/// The most that any word of the receiver's takes.
pub const MOST_WORD: usize = 9;

const ABORTED: u32 = u32::MAX;

/// Why a side gives a transfer up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AbortReason {
    /// Its user stopped it.
    Stopped,
    /// Something went wrong at that side.
    Failed,
}

impl AbortReason {
    fn byte(self) -> u8 {
        match self {
            AbortReason::Stopped => 1,
            AbortReason::Failed => 2,
        }
    }

    fn of(byte: u8) -> Result<Self, Malformed> {
        match byte {
            1 => Ok(AbortReason::Stopped),
            2 => Ok(AbortReason::Failed),
            other => Err(Malformed::Reason(other)),
        }
    }
}

/// What came is not what this protocol allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The header is of a version we do not know.
    #[error("the contact sends files by version {0} of the framing, and only 1 is known")]
    Version(u8),
    /// A chunk is too long.
    #[error("the contact sent a chunk of {0} bytes")]
    Chunk(u32),
    /// There is no such reason to abort.
    #[error("the contact gave the transfer up for an unknown reason, number {0}")]
    Reason(u8),
    /// There is no such word.
    #[error("the contact sent an unknown word, number {0}")]
    Word(u8),
    /// Nothing so far could be stored like this.
    #[error("the contact says that {0} bytes of the file are stored, which cannot be")]
    Stored(u64),
    /// A verdict before there is anything to judge.
    #[error("the contact judged a file before its end")]
    TooEarly,
    /// A file begins where nobody wanted it to.
    #[error("the contact begins the file at {0}, where nobody asked for it")]
    Beginning(u64),
    /// Nothing may follow.
    #[error("the contact sent something after the end")]
    AfterTheEnd,
}

/// Something the sender wrote. The bytes of a chunk may come in any number of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The header.
    Begin {
        /// Where in the file the bytes begin.
        offset: u64,
    },
    /// Bytes of the file; never none.
    Bytes(&'a [u8]),
    /// All was sent, and this is its digest.
    End(Sha256Digest),
    /// There will be no end.
    Abort(AbortReason),
}

/// Something the receiver wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// So much is stored, counted from the file's beginning.
    Stored(u64),
    /// All is well.
    Verified,
    /// What arrived is not what was sent.
    Mismatch,
    /// It wants no more of it.
    Abort(AbortReason),
}

impl Word {
    /// Writes it down.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Word::Stored(offset) => {
                out.push(1);
                out.extend(offset.to_be_bytes());
            }
            Word::Verified => out.push(2),
            Word::Mismatch => out.push(3),
            Word::Abort(why) => out.extend([4, why.byte()]),
        }
    }
}

/// The header of a file that begins there.
pub fn header(offset: u64) -> [u8; HEADER] {
    let mut header = [VERSION; HEADER];
    header[1..].copy_from_slice(&offset.to_be_bytes());
    header
}

/// What goes before a chunk of so many bytes, which must be 1 to [`MOST_CHUNK`].
pub fn chunk_length(bytes: usize) -> [u8; LENGTH] {
    debug_assert!((1..=MOST_CHUNK).contains(&bytes));
    // In bounds, so it fits.
    u32::try_from(bytes).unwrap_or(u32::MAX - 1).to_be_bytes()
}

/// The end of a file with this digest.
pub fn end(digest: Sha256Digest) -> [u8; END] {
    let mut end = [0; END];
    end[LENGTH..].copy_from_slice(&digest.0);
    end
}

/// The sender gives up.
pub fn abort(why: AbortReason) -> [u8; LENGTH + 1] {
    let mut abort = [why.byte(); LENGTH + 1];
    abort[..LENGTH].copy_from_slice(&ABORTED.to_be_bytes());
    abort
}

/// The first bytes of something whose rest has not come yet.
#[derive(Clone, Copy, Debug)]
struct Partial<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Partial<N> {
    const EMPTY: Self = Partial {
        bytes: [0; N],
        filled: 0,
    };

    /// Takes what it lacks of `wanted` bytes, and gives them once they are complete.
    fn take(&mut self, wanted: usize, input: &mut &[u8]) -> Option<&[u8]> {
        let count = (wanted - self.filled).min(input.len());
        let (taken, rest) = input.split_at(count);
        self.bytes[self.filled..self.filled + count].copy_from_slice(taken);
        self.filled += count;
        *input = rest;
        if self.filled < wanted {
            return None;
        }
        self.filled = 0;
        Some(&self.bytes[..wanted])
    }

    /// The same for a number of as many bytes as this holds.
    fn take_all(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        self.take(N, input)?;
        Some(self.bytes)
    }
}

/// Reads what a sender writes.
///
/// ```text
///   Header ──► Length ──► Chunk ──► Length …
///                │──────► Digest ──► Over
///                └──────► Why ─────► Over
/// ```
#[derive(Debug)]
pub struct FrameReader {
    place: Place,
    number: Partial<8>,
    digest: Partial<32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Version,
    Offset,
    Length,
    Chunk(usize),
    Digest,
    Why,
    Over,
}

impl Default for FrameReader {
    fn default() -> Self {
        FrameReader {
            place: Place::Version,
            number: Partial::EMPTY,
            digest: Partial::EMPTY,
        }
    }
}

impl FrameReader {
    /// Takes what it can from the front of `input`, and gives the next frame, or part of a chunk,
    /// that is complete. `None` when all of `input` was taken and more is needed.
    ///
    /// # Errors
    /// [`Malformed`]; the reader is of no more use then.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, Malformed> {
        while !input.is_empty() {
            match self.place {
                Place::Version => match input[0] {
                    VERSION => {
                        *input = &input[1..];
                        self.place = Place::Offset;
                    }
                    other => return Err(Malformed::Version(other)),
                },
                Place::Offset => {
                    if let Some(offset) = self.number.take_all(input) {
                        self.place = Place::Length;
                        return Ok(Some(Frame::Begin {
                            offset: u64::from_be_bytes(offset),
                        }));
                    }
                }
                Place::Length => {
                    if let Some(length) = self.number.take(LENGTH, input) {
                        let length =
                            u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
                        self.place = match (length, usize::try_from(length)) {
                            (0, _) => Place::Digest,
                            (ABORTED, _) => Place::Why,
                            (_, Ok(length)) if length <= MOST_CHUNK => Place::Chunk(length),
                            _ => return Err(Malformed::Chunk(length)),
                        };
                    }
                }
                Place::Chunk(left) => {
                    let (bytes, rest) = input.split_at(left.min(input.len()));
                    *input = rest;
                    self.place = match left - bytes.len() {
                        0 => Place::Length,
                        left => Place::Chunk(left),
                    };
                    return Ok(Some(Frame::Bytes(bytes)));
                }
                Place::Digest => {
                    if let Some(digest) = self.digest.take_all(input) {
                        self.place = Place::Over;
                        return Ok(Some(Frame::End(Sha256Digest(digest))));
                    }
                }
                Place::Why => {
                    let why = AbortReason::of(input[0])?;
                    *input = &input[1..];
                    self.place = Place::Over;
                    return Ok(Some(Frame::Abort(why)));
                }
                Place::Over => return Err(Malformed::AfterTheEnd),
            }
        }
        Ok(None)
    }
}

/// Reads what a receiver writes. Whether a word has its place where it stands, whoever reads it knows.
#[derive(Debug, Default)]
pub struct WordReader {
    stored: Option<Partial<8>>,
    aborting: bool,
    over: bool,
}

impl WordReader {
    /// Takes what it can from the front of `input`, and gives the next word that is complete. `None`
    /// when all of `input` was taken and more is needed.
    ///
    /// # Errors
    /// [`Malformed`]; the reader is of no more use then.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Word>, Malformed> {
        while let Some((first, rest)) = input.split_first() {
            if self.over {
                return Err(Malformed::AfterTheEnd);
            }
            if let Some(stored) = &mut self.stored {
                if let Some(offset) = stored.take_all(input) {
                    self.stored = None;
                    return Ok(Some(Word::Stored(u64::from_be_bytes(offset))));
                }
                continue;
            }
            let word = match *first {
                why if self.aborting => Word::Abort(AbortReason::of(why)?),
                1 => {
                    self.stored = Some(Partial::EMPTY);
                    *input = rest;
                    continue;
                }
                2 => Word::Verified,
                3 => Word::Mismatch,
                4 => {
                    self.aborting = true;
                    *input = rest;
                    continue;
                }
                other => return Err(Malformed::Word(other)),
            };
            *input = rest;
            self.over = true;
            return Ok(Some(word));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
