//! The server's side of how a D-Bus connection begins: the D-Bus specification's "Authentication
//! Protocol". Pure: it is fed what the application writes and says what to answer.
//!
//! ```text
//!   Zero ──0──▶ Auth ──AUTH EXTERNAL──▶ Data ──DATA──▶ Begin ──BEGIN──▶ done, the messages follow
//!                │ ▲  └──AUTH EXTERNAL uid───────────────▲ │
//!                │ └─────────────CANCEL, ERROR─────────────┘
//!                └── everything that is no such thing: REJECTED or ERROR, until MAX_LINES
//! ```
//!
//! Who the application is has been asked of the kernel before; `EXTERNAL` may only say the same.
//! Descriptors are not agreed to.

use std::fmt::Write as _;

/// Longest line, without its end. A mechanism and a user's number have less than a hundred bytes.
pub const MAX_LINE: usize = 1024;
/// Most lines until BEGIN. Real programs need four.
pub const MAX_LINES: usize = 32;

/// What tells one server's address from another. D-Bus calls it the address's `guid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

impl std::fmt::Display for Guid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whom the application may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admittance {
    /// The user that the kernel says it is. Where it does not say, `EXTERNAL` is refused.
    pub user: Option<u32>,
    /// Whoever got as far as this may come in without saying who it is (`Localhost`).
    pub anonymous: bool,
}

/// Why an application is not let in. There is no answer to these: its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The first byte is not zero.
    #[error("it does not begin as a D-Bus client does")]
    NoZero,
    /// A line longer than [`MAX_LINE`].
    #[error("it wrote too long a line")]
    LongLine,
    /// More lines than [`MAX_LINES`].
    #[error("it wrote too many lines")]
    ManyLines,
    /// BEGIN before OK.
    #[error("it began without having said who it is")]
    Unauthenticated,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Handshake {
    guid: Guid,
    admittance: Admittance,
    step: Step,
    line: Vec<u8>,
    lines: usize,
    refused: Option<Refused>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Zero,
    Auth,
    Data,
    Begin,
    Done,
}

impl Handshake {
    /// With an application whose first byte is still to come, or was taken already: it is what
    /// `Credentials` demands of every client.
    pub fn new(guid: Guid, admittance: Admittance, zero_is_taken: bool) -> Self {
        Handshake {
            guid,
            admittance,
            step: if zero_is_taken {
                Step::Auth
            } else {
                Step::Zero
            },
            line: Vec::new(),
            lines: 0,
            refused: None,
        }
    }

    /// Whether BEGIN has come.
    pub fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// Takes what the application wrote, up to BEGIN, and says how many bytes that are; what follows
    /// is its first message. Answers are added to `answer`.
    ///
    /// # Errors
    /// It is not let in, whatever else it writes.
    pub fn feed(&mut self, input: &[u8], answer: &mut Vec<u8>) -> Result<usize, Refused> {
        match self.refused {
            Some(why) => Err(why),
            None => self
                .read(input, answer)
                .inspect_err(|why| self.refused = Some(*why)),
        }
    }

    fn read(&mut self, input: &[u8], answer: &mut Vec<u8>) -> Result<usize, Refused> {
        for (place, byte) in input.iter().enumerate() {
            match self.step {
                Step::Done => return Ok(place),
                Step::Zero if *byte == 0 => self.step = Step::Auth,
                Step::Zero => return Err(Refused::NoZero),
                _ if *byte == b'\n' && self.line.last() == Some(&b'\r') => {
                    self.lines += 1;
                    if self.lines > MAX_LINES {
                        return Err(Refused::ManyLines);
                    }
                    let line = std::mem::take(&mut self.line);
                    self.take(&line[..line.len() - 1], answer)?;
                }
                _ if self.line.len() > MAX_LINE => return Err(Refused::LongLine),
                _ => self.line.push(*byte),
            }
        }
        Ok(input.len())
    }

    fn take(&mut self, line: &[u8], answer: &mut Vec<u8>) -> Result<(), Refused> {
        // What is not text is no command either.
        let line = std::str::from_utf8(line).unwrap_or_default();
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (self.step, command) {
            (Step::Begin, "BEGIN") => self.step = Step::Done,
            (_, "BEGIN") => return Err(Refused::Unauthenticated),
            (Step::Auth, "AUTH") => self.auth(rest, answer),
            (Step::Data, "DATA") => self.external(rest, answer),
            (Step::Auth, "ERROR") | (Step::Data | Step::Begin, "CANCEL" | "ERROR") => {
                self.reject(answer);
            }
            // Descriptors, which are not agreed to, among them.
            _ => say(answer, "ERROR"),
        }
        Ok(())
    }

    fn auth(&mut self, mechanism: &str, answer: &mut Vec<u8>) {
        match mechanism.split_once(' ') {
            None if mechanism == "EXTERNAL" => {
                self.step = Step::Data;
                say(answer, "DATA");
            }
            Some(("EXTERNAL", claim)) => self.external(claim, answer),
            _ if self.admittance.anonymous
                && (mechanism == "ANONYMOUS" || mechanism.starts_with("ANONYMOUS ")) =>
            {
                self.accept(answer);
            }
            _ => self.reject(answer),
        }
    }

    /// The user's number in decimal digits, those in hexadecimal; or nothing, for whoever it is.
    fn external(&mut self, claim: &str, answer: &mut Vec<u8>) {
        let is_so = self.admittance.user.is_some_and(|user| {
            claim.is_empty() || claim.eq_ignore_ascii_case(&hexadecimal(&user.to_string()))
        });
        if is_so {
            self.accept(answer);
        } else {
            self.reject(answer);
        }
    }

    fn accept(&mut self, answer: &mut Vec<u8>) {
        self.step = Step::Begin;
        say(answer, &format!("OK {}", self.guid));
    }

    fn reject(&mut self, answer: &mut Vec<u8>) {
        self.step = Step::Auth;
        say(
            answer,
            if self.admittance.anonymous {
                "REJECTED EXTERNAL ANONYMOUS"
            } else {
                "REJECTED EXTERNAL"
            },
        );
    }
}

fn say(answer: &mut Vec<u8>, line: &str) {
    answer.extend_from_slice(line.as_bytes());
    answer.extend_from_slice(b"\r\n");
}

fn hexadecimal(text: &str) -> String {
    let mut written = String::new();
    for byte in text.bytes() {
        // A string takes everything.
        write!(written, "{byte:02x}").ok();
    }
    written
}

#[cfg(feature = "testing")]
pub mod fuzzing;
#[cfg(test)]
mod tests;
