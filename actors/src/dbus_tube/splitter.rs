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
//! descriptors for corrupt. What else is wrong inside a message is its reader's to find.

/// Bytes before the header fields: what says how long a message is.
pub const PREFIX: usize = 16;
/// Most bytes of header fields, as the specification has it for every array.
pub const MAX_FIELDS: u32 = 64 * 1024 * 1024;
/// Most bytes of a message, as the specification has it.
pub const MAX_MESSAGE: u32 = 128 * 1024 * 1024;

/// The header field that says how many descriptors come with a message.
const UNIX_FDS: u8 = 9;
/// Longest signature of a header field that is walked. Those the specification knows have one letter;
/// of others a basic type or an array of one is enough.
const MAX_SIGNATURE: usize = 2;

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
}

/// What the next byte of the header fields is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// Padding, or a field's code.
    #[default]
    Code,
    SignatureLength {
        code: u8,
    },
    Signature {
        code: u8,
        length: u8,
        read: u8,
        letters: [u8; MAX_SIGNATURE],
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

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Descriptors,
    /// Of a string, which a zero follows.
    Text,
    /// Of an array, whose elements are aligned so.
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
                    *self = Splitter::default();
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
            Step::Until(end) => end == self.at,
            _ => false,
        }
    }

    fn field(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        if let Step::Until(until) = self.step {
            if self.at < until {
                return Ok(self.skip(input, until));
            }
            self.step = Step::Code;
        }
        let byte = input[0];
        let at = self.at;
        self.at += 1;
        self.step = match self.step {
            Step::Code if !at.is_multiple_of(8) => Step::Code,
            Step::Code => Step::SignatureLength { code: byte },
            Step::SignatureLength { code } if (1..=MAX_SIGNATURE as u8).contains(&byte) => {
                Step::Signature {
                    code,
                    length: byte,
                    read: 0,
                    letters: [0; MAX_SIGNATURE],
                }
            }
            Step::SignatureLength { .. } => return Err(Malformed::Fields),
            Step::Signature {
                code,
                length,
                read,
                mut letters,
            } => {
                if read < length {
                    letters[usize::from(read)] = byte;
                    Step::Signature {
                        code,
                        length,
                        read: read + 1,
                        letters,
                    }
                } else if byte == 0 {
                    self.value(code, &letters[..usize::from(length)])?
                } else {
                    return Err(Malformed::Fields);
                }
            }
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

    /// What comes behind a signature.
    fn value(&self, code: u8, signature: &[u8]) -> Result<Step, Malformed> {
        let number = |of| Step::Number {
            of,
            read: 0,
            value: 0,
        };
        let step = match signature {
            b"u" if code == UNIX_FDS => number(Counted::Descriptors),
            _ if code == UNIX_FDS => return Err(Malformed::Fields),
            b"s" | b"o" => number(Counted::Text),
            b"g" => Step::Byte,
            [b'a', element] => number(Counted::Elements(alignment(*element)?)),
            // The others are as large as they are aligned.
            [letter] => {
                let size = alignment(*letter)?;
                self.until(Some(self.at.next_multiple_of(size) + size))?
            }
            _ => return Err(Malformed::Fields),
        };
        Ok(step)
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
            Counted::Elements(_) if value == 0 => {
                // Padding comes all the same, and is what comes before the next field anyway.
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

/// How a basic type is aligned. Containers inside of containers are in no header field.
fn alignment(letter: u8) -> Result<u32, Malformed> {
    match letter {
        b'y' | b'g' => Ok(1),
        b'n' | b'q' => Ok(2),
        b'b' | b'i' | b'u' | b's' | b'o' => Ok(4),
        b'x' | b't' | b'd' => Ok(8),
        _ => Err(Malformed::Fields),
    }
}

#[cfg(feature = "testing")]
pub mod fuzzing;
#[cfg(test)]
pub(in crate::dbus_tube) mod tests;
