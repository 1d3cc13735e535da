//! Who we are and whom we trust: our key, the profile it lies in, the table of pinned keys, and what
//! our user lets whom do.
//!
//! ```text
//!  Profile (directory, locked for one Connection)
//!     ├── identity.pem   Identity: our key and its self-signed certificate
//!     ├── trust.json     TrustTable: which key our user pinned for which contact; Policy: the rules
//!     └── kept.json      tubes that are made anew after a restart; see `connection::kept`
//! ```
//!
//! [`TrustTable`], [`Policy`] and the comparison code are pure. [`Profile`] does the file system's part and
//! blocks while it does: the session opens it before it starts and writes through a task of its
//! own. `link_local/` talks to all of them; `bytestreams/` needs [`Identity`] and [`KeyId`] only.

use std::fmt;

mod code;
mod folder;
mod identity;
mod policy;
mod profile;
mod table;

pub use code::{ComparisonCode, ParseCodeError};
pub use folder::Folder;
pub use identity::{BadCertificate, Identity, IdentityError, RunId, key_of_certificate};
pub use policy::{
    Decision, MAX_RATE, MAX_RULES, MIN_RATE, ParseDecisionError, ParseWhoError, Policy,
    PolicyError, Scope, Terms, Who,
};
pub use profile::Profile;
pub use table::{MAX_ROWS, TableError, TrustRow, TrustTable};

/// The identity of a contact: SHA-256 of its certificate's SubjectPublicKeyInfo. Written as 64
/// lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 32]);

impl KeyId {
    /// The first eight hexadecimal digits: enough to tell two contacts of one name apart on a
    /// screen, never enough to trust.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key's fingerprint has 64 hexadecimal digits")]
pub struct ParseKeyIdError;

impl std::str::FromStr for KeyId {
    type Err = ParseKeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(ParseKeyIdError);
        }
        let digit = |c: u8| (c as char).to_digit(16).ok_or(ParseKeyIdError);
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(KeyId(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_reads_what_it_writes() {
        let id = KeyId(std::array::from_fn(|n| (n * 7) as u8));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn a_key_id_of_another_length_or_alphabet_is_refused() {
        for text in ["", "00", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64)] {
            assert_eq!(text.parse::<KeyId>(), Err(ParseKeyIdError), "{text}");
        }
        // 64 bytes, but not 64 digits.
        assert_eq!("é".repeat(32).parse::<KeyId>(), Err(ParseKeyIdError));
    }
}
