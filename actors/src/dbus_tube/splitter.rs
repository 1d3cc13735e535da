//! Where one D-Bus message ends and the next begins, and whether what lies there is one at all. Pure: it
//! is fed bytes, a byte at a time or several messages together, and holds none of them.
//!
//! ```text
//!   Prefix, 16 bytes ──▶ Fields, walked one by one ──▶ padding and body, counted ──▶ the next Prefix
//!        └── no D-Bus message, too large, or with descriptors: Malformed, for good
//! ```
//!
//! The format is the D-Bus specification's, "Message Format". Of the header fields only one is looked at:
//! `UNIX_FDS`, because a tube carries no descriptors and a program would take a message that lacks its
//! descriptors for corrupt. Others are walked over, those that nobody knows too, of whatever type: the
//! specification has them ignored. What else is wrong inside a message is its reader's to find.
//!
//! # How a value is walked over
//! Its signature is a list of types that are still to come. A structure has its members come, a variant the
//! type that it brings; an array of anything is as long as it says. So nothing nests here, and the list has
//! a bound, [`MAX_TYPES`].

/// Bytes before the header fields: what says how long a message is.
pub const PREFIX: usize = 16;
/// Most bytes of header fields, as the specification has it for every array.
pub const MAX_FIELDS: u32 = 64 * 1024 * 1024;
/// Most bytes of a message, as the specification has it.
pub const MAX_MESSAGE: u32 = 128 * 1024 * 1024;

/// The header field that says how many descriptors come with a message.
const UNIX_FDS: u8 = 9;
/// Most types, by their letters, that are still to come within one header field. A signature has up to 255;
/// more are there only where variants bring some within a structure.
pub const MAX_TYPES: usize = 1024;
/// How deep arrays may nest, and structures, as the specification has it.
const MAX_DEPTH: usize = 32;

/// Why bytes are no message that may go through a tube.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first byte says neither.
    #[error("a message that is neither little nor big endian")]
    Endianness,
    /// Not one of the four there are.
    #[error("a message of a type that does not exist")]
    Type,
    /// Another version of the protocol than 1.
    #[error("a message of another version of D-Bus")]
    Version,
    /// The serial is 0.
    #[error("a message without a serial")]
    Serial,
    /// More than [`MAX_FIELDS`] or [`MAX_MESSAGE`].
    #[error("a message that is larger than D-Bus allows")]
    TooLarge,
    /// The header fields do not fit their length, or are of a type that no header field has.
    #[error("a message with a broken header")]
    Fields,
    /// It says that descriptors come with it.
    #[error("a message with file descriptors, which a tube does not carry")]
    Descriptors,
}

/// See the module's head. What is malformed once stays so.
#[derive(Clone, Debug, Default)]
pub struct Splitter {
    /// Bytes of the current message so far.
    at: u32,
    prefix: [u8; PREFIX],
    big_endian: bool,
    /// Where the header fields end, and the message.
    fields_end: u32,
    end: u32,
    step: Step,
    malformed: Option<Malformed>,
    /// The letters of the types that are still to come within a header field, the next one last.
    types: Vec<u8>,
}

/// What the next byte of the header fields is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// Padding, or a field's code.
    #[default]
    Code,
    SignatureLength(Of),
    /// So many letters are still to be read, and a zero. They go behind the others for now.
    Signature {
        of: Of,
        length: u8,
        left: u8,
    },
    /// A number that says how much follows, or, of [`UNIX_FDS`], how many descriptors; with padding
    /// before it.
    Number {
        of: Counted,
        read: u8,
        value: u32,
    },
    /// A signature as a value.
    Byte,
    /// Nothing to be looked at up to here.
    Until(u32),
}

/// What has a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// The header field with this code.
    Field(u8),
    Variant,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Descriptors,
    /// Of a string, which a zero follows.
    Text,
    /// Bytes of an array, whose elements are aligned so.
    Elements(u32),
}

impl Splitter {
    /// Whether nothing of a message has come, or all of it.
    pub fn is_between(&self) -> bool {
        self.at == 0
    }

    /// Takes what belongs to the current message, and says how many bytes that are: fewer than there
    /// are where the message ends. One at least, if there is one.
    ///
    /// # Errors
    /// This is no message that may go through a tube. The bytes before the error are not counted, and
    /// nothing is taken after it.
    pub fn feed(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        match self.malformed {
            Some(why) => Err(why),
            None => self
                .take(input)
                .inspect_err(|why| self.malformed = Some(*why)),
        }
    }

    fn take(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        let mut taken = 0;
        while taken < input.len() {
            let rest = &input[taken..];
            let step = if (self.at as usize) < PREFIX {
                self.prefix(rest)?
            } else if self.at < self.fields_end {
                self.field(rest)?
            } else {
                // Zeroes up to the body, and the body.
                self.skip(rest, self.end)
            };
            taken += step;
            if self.at as usize >= PREFIX {
                if self.at == self.fields_end && !self.is_between_fields() {
                    return Err(Malformed::Fields);
                }
                if self.at == self.end {
                    // Nothing is in there; its room is for the next.
                    let types = std::mem::take(&mut self.types);
                    *self = Splitter {
                        types,
                        ..Splitter::default()
                    };
                    return Ok(taken);
                }
            }
        }
        Ok(taken)
    }

    /// How many bytes the current message has, once enough of it is known.
    pub fn length(&self) -> Option<u32> {
        (self.at as usize >= PREFIX).then_some(self.end)
    }

    fn prefix(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        let at = self.at as usize;
        let count = input.len().min(PREFIX - at);
        self.prefix[at..at + count].copy_from_slice(&input[..count]);
        self.at += count as u32;
        let come = self.at as usize;
        // What is wrong is said as soon as it is there: its sender might never send the rest.
        self.big_endian = match self.prefix[0] {
            b'l' => false,
            b'B' => true,
            _ => return Err(Malformed::Endianness),
        };
        if come > 1 && !(1..=4).contains(&self.prefix[1]) {
            return Err(Malformed::Type);
        }
        if come > 3 && self.prefix[3] != 1 {
            return Err(Malformed::Version);
        }
        if come == PREFIX {
            let (body, serial, fields) = (self.number(4), self.number(8), self.number(12));
            if serial == 0 {
                return Err(Malformed::Serial);
            }
            if fields > MAX_FIELDS || body > MAX_MESSAGE {
                return Err(Malformed::TooLarge);
            }
            self.fields_end = PREFIX as u32 + fields;
            self.end = self.fields_end.next_multiple_of(8) + body;
            if self.end > MAX_MESSAGE {
                return Err(Malformed::TooLarge);
            }
        }
        Ok(count)
    }

    fn number(&self, place: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.prefix[place..place + 4]);
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }

    fn skip(&mut self, input: &[u8], until: u32) -> usize {
        let left = (until - self.at) as usize;
        let count = input.len().min(left);
        self.at += count as u32;
        count
    }

    /// Whether a field may begin here, so that the fields may end here too.
    fn is_between_fields(&self) -> bool {
        match self.step {
            Step::Code => true,
            Step::Until(end) => end == self.at && self.types.is_empty(),
            _ => false,
        }
    }

    fn field(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        if let Step::Until(until) = self.step {
            if self.at < until {
                return Ok(self.skip(input, until));
            }
            self.step = self.next_value()?;
            if let Step::Until(_) = self.step {
                return Ok(0);
            }
        }
        let byte = input[0];
        let at = self.at;
        self.at += 1;
        self.step = match self.step {
            Step::Code if !at.is_multiple_of(8) => Step::Code,
            Step::Code => Step::SignatureLength(Of::Field(byte)),
            Step::SignatureLength(_) if self.types.len() + usize::from(byte) > MAX_TYPES => {
                return Err(Malformed::Fields);
            }
            Step::SignatureLength(of) => Step::Signature {
                of,
                length: byte,
                left: byte,
            },
            Step::Signature { of, length, left } if left > 0 => {
                self.types.push(byte);
                let left = left - 1;
                Step::Signature { of, length, left }
            }
            Step::Signature { of, length, .. } if byte == 0 => self.signed(of, length.into())?,
            Step::Signature { .. } => return Err(Malformed::Fields),
            // Padding.
            Step::Number { read: 0, .. } if !at.is_multiple_of(4) => self.step,
            Step::Number { of, read, value } => {
                let shift = 8 * u32::from(if self.big_endian { 3 - read } else { read });
                let value = value | u32::from(byte) << shift;
                if read < 3 {
                    let read = read + 1;
                    Step::Number { of, read, value }
                } else {
                    self.counted(of, value)?
                }
            }
            // Its length, itself and a zero.
            Step::Byte => self.until(self.at.checked_add(u32::from(byte) + 1))?,
            Step::Until(_) => return Err(Malformed::Fields),
        };
        Ok(1)
    }

    /// What comes behind a signature, the last `length` letters.
    fn signed(&mut self, of: Of, length: usize) -> Result<Step, Malformed> {
        let signature = self.types.len() - length;
        if complete(&self.types[signature..]) != Some(length) {
            return Err(Malformed::Fields);
        }
        if let Of::Field(UNIX_FDS) = of {
            let one = self.types.pop() == Some(b'u') && length == 1;
            let number = Step::Number {
                of: Counted::Descriptors,
                read: 0,
                value: 0,
            };
            return one.then_some(number).ok_or(Malformed::Fields);
        }
        self.types[signature..].reverse();
        self.next_value()
    }

    /// What the next value of the current field is, or else the next field.
    fn next_value(&mut self) -> Result<Step, Malformed> {
        let number = |of| Step::Number {
            of,
            read: 0,
            value: 0,
        };
        let Some(letter) = self.types.pop() else {
            return Ok(Step::Code);
        };
        let step = match letter {
            b's' | b'o' => number(Counted::Text),
            b'g' => Step::Byte,
            b'v' => Step::SignatureLength(Of::Variant),
            b'a' => {
                let elements = alignment(*self.types.last().ok_or(Malformed::Fields)?)?;
                self.drop_one();
                number(Counted::Elements(elements))
            }
            b'(' => self.until(Some(self.at.next_multiple_of(8)))?,
            // The others are as large as they are aligned.
            _ => {
                let size = alignment(letter)?;
                self.until(Some(self.at.next_multiple_of(size) + size))?
            }
        };
        // Nothing comes for the end of a structure.
        while self.types.last() == Some(&b')') {
            self.types.pop();
        }
        Ok(step)
    }

    /// Leaves out the next type, the elements of an array.
    fn drop_one(&mut self) {
        let mut depth = 0usize;
        while let Some(letter) = self.types.pop() {
            match letter {
                b'a' => continue,
                b'(' | b'{' => depth += 1,
                b')' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn counted(&self, of: Counted, value: u32) -> Result<Step, Malformed> {
        match of {
            Counted::Descriptors if value != 0 => Err(Malformed::Descriptors),
            Counted::Descriptors => self.until(Some(self.at)),
            Counted::Text => self.until(
                value
                    .checked_add(1)
                    .and_then(|all| self.at.checked_add(all)),
            ),
            // Padding comes all the same. Where it is the last of the fields, they may end before it.
            Counted::Elements(_) if value == 0 && self.types.is_empty() => {
                self.until(Some(self.at))
            }
            Counted::Elements(alignment) => {
                self.until(self.at.next_multiple_of(alignment).checked_add(value))
            }
        }
    }

    fn until(&self, end: Option<u32>) -> Result<Step, Malformed> {
        match end {
            Some(end) if end <= self.fields_end => Ok(Step::Until(end)),
            _ => Err(Malformed::Fields),
        }
    }
}

/// How a type is aligned that begins with this letter.
fn alignment(letter: u8) -> Result<u32, Malformed> {
    match letter {
        b'y' | b'g' | b'v' => Ok(1),
        b'n' | b'q' => Ok(2),
        b'b' | b'i' | b'u' | b's' | b'o' | b'a' => Ok(4),
        b'x' | b't' | b'd' | b'(' | b'{' => Ok(8),
        _ => Err(Malformed::Fields),
    }
}

/// How many letters the first type has that begins here; `None` where none is whole. `h` is none: nothing
/// with descriptors goes through.
fn complete(letters: &[u8]) -> Option<usize> {
    // What is open, and how many arrays are.
    let (mut open, mut arrays) = (Vec::new(), 0);
    let mut before = 0;
    for (place, letter) in letters.iter().copied().enumerate() {
        match letter {
            b'a' => arrays += 1,
            b'(' => open.push(b')'),
            b'{' if before == b'a' => open.push(b'}'),
            b')' | b'}' => {
                let empty = matches!(before, b'(' | b'{' | b'a');
                if open.pop() != Some(letter) || empty {
                    return None;
                }
            }
            _ => drop(alignment(letter).ok()?),
        }
        if arrays > MAX_DEPTH || open.len() > MAX_DEPTH {
            return None;
        }
        let whole = !matches!(letter, b'a' | b'(' | b'{');
        if whole {
            arrays = 0;
        }
        if whole && open.is_empty() {
            return Some(place + 1);
        }
        before = letter;
    }
    None
}

#[cfg(feature = "testing")]
pub mod fuzzing;
#[cfg(test)]
pub(in crate::dbus_tube) mod tests;
