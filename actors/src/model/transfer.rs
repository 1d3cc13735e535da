//! `Channel.Type.FileTransfer`: what is sent, and where a transfer stands.

use std::{collections::BTreeMap, fmt};

use super::{Error, id::BytestreamId};

/// Most bytes a file's name may have: what the file systems of Linux take.
pub const MAX_FILE_NAME: usize = 255;
/// Most bytes a description may have; an offer travels in one stanza.
pub const MAX_DESCRIPTION: usize = 4 * 1024;
/// Most bytes a content type, a collection or a service's name may have.
pub const MAX_WORD: usize = 255;
/// Most bytes a `URI` may have.
pub const MAX_URI: usize = 8 * 1024;
/// Most bytes names and values of one offer's metadata may have together.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;
/// The content type of a file of which nothing is known.
pub const UNKNOWN_CONTENT: &str = "application/octet-stream";

/// `File_Transfer_State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileTransferState {
    /// Offered; the receiver has not answered yet (1).
    Pending = 1,
    /// The receiver wants it; it cannot flow yet (2).
    Accepted = 2,
    /// It flows (3).
    Open = 3,
    /// All of it has arrived, and is what was sent (4).
    Completed = 4,
    /// It ended before that (5).
    Cancelled = 5,
}

impl FileTransferState {
    /// Its number on D-Bus.
    pub fn number(self) -> u32 {
        self as u32
    }
}

/// `File_Transfer_State_Change_Reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileTransferReason {
    /// No reason (0); always so unless the state is Cancelled.
    None = 0,
    /// Asked for (1).
    Requested = 1,
    /// Our user ended it (2).
    LocalStopped = 2,
    /// The contact ended it (3).
    RemoteStopped = 3,
    /// Something went wrong here (4).
    LocalError = 4,
    /// Something went wrong at the contact's or on the way (5).
    RemoteError = 5,
}

impl FileTransferReason {
    /// Its number on D-Bus.
    pub fn number(self) -> u32 {
        self as u32
    }
}

/// `File_Hash_Type`, but for None, which is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashKind {
    /// MD5 (1)
    Md5 = 1,
    /// SHA1 (2)
    Sha1 = 2,
    /// SHA256 (3)
    Sha256 = 3,
}

impl HashKind {
    /// All of them.
    pub const ALL: [HashKind; 3] = [HashKind::Md5, HashKind::Sha1, HashKind::Sha256];

    /// Its number on D-Bus.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// How many hexadecimal digits it has.
    pub fn digits(self) -> usize {
        match self {
            HashKind::Md5 => 32,
            HashKind::Sha1 => 40,
            HashKind::Sha256 => 64,
        }
    }
}

/// `ContentHashType` and `ContentHash`: what the whole file's hash must turn out to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContentHash {
    kind: HashKind,
    digits: String,
}

impl ContentHash {
    /// A hash written in hexadecimal digits of either case.
    ///
    /// # Errors
    /// `InvalidArgument` when there are too few or too many, or something else is among them.
    pub fn new(kind: HashKind, digits: &str) -> Result<Self, Error> {
        if digits.len() != kind.digits() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::InvalidArgument(format!(
                "a content hash of this type has {} hexadecimal digits",
                kind.digits()
            )));
        }
        Ok(ContentHash {
            kind,
            digits: digits.to_ascii_lowercase(),
        })
    }

    /// `ContentHashType`
    pub fn kind(&self) -> HashKind {
        self.kind
    }

    /// `ContentHash`, in lower case.
    pub fn digits(&self) -> &str {
        &self.digits
    }
}

/// A SHA-256 of bytes that are there.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Digest({self})")
    }
}

impl std::str::FromStr for Sha256Digest {
    type Err = Error;

    /// Takes 64 hexadecimal digits of either case; everything else is `InvalidArgument`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::InvalidArgument("a SHA-256 has 64 hexadecimal digits".into());
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(wrong());
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or_else(wrong);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Sha256Digest(digest))
    }
}

/// The random 128-bit id of a transfer. It lasts: a transfer that was broken and is offered again
/// carries it again, so that the receiver knows what it has stored of it.
pub type TransferId = BytestreamId;

/// Where a receiver wants a transfer to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// In bytes from the file's beginning; 0 is all of it.
    pub offset: u64,
    /// The SHA-256 of the bytes before it, as the receiver has stored them, where it says so: only
    /// to a sender who speaks our namespace.
    pub stored: Option<Sha256Digest>,
}

/// What a sender says of a file: the requestable properties of `Channel.Type.FileTransfer` and of
/// `Channel.Interface.FileTransfer.Metadata`, as they travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOffer {
    /// `Filename`; not empty. One that came from a contact is hostile: whoever makes a file of it
    /// looks first.
    pub name: String,
    /// `ContentType`
    pub content_type: String,
    /// `Size` in bytes; nothing where it is not known (`UINT64_MAX` on D-Bus).
    pub size: Option<u64>,
    /// `ContentHash`
    pub hash: Option<ContentHash>,
    /// `Description`
    pub description: String,
    /// `Date`: seconds since 1970, UTC.
    pub date: Option<i64>,
    /// `FileCollection`; empty for a file that is not of one.
    pub collection: String,
    /// `Metadata.ServiceName`; empty for a file that is for no service.
    pub service: String,
    /// `Metadata.Metadata`
    pub metadata: BTreeMap<String, Vec<String>>,
    /// Ours: the id that lasts. Nothing where the sender gives none.
    pub id: Option<TransferId>,
}

impl FileOffer {
    /// A file of this name, and nothing known but its size.
    pub fn new(name: impl Into<String>, size: Option<u64>) -> Self {
        FileOffer {
            name: name.into(),
            content_type: UNKNOWN_CONTENT.into(),
            size,
            hash: None,
            description: String::new(),
            date: None,
            collection: String::new(),
            service: String::new(),
            metadata: BTreeMap::new(),
            id: None,
        }
    }

    /// Whether it keeps the bounds of this module.
    ///
    /// # Errors
    /// `InvalidArgument` that says what is too long, or that the name is empty.
    pub fn check(&self) -> Result<(), Error> {
        let bounded = |what: &str, text: &str, most: usize| {
            if text.len() <= most {
                return Ok(());
            }
            Err(Error::InvalidArgument(format!(
                "{what} has at most {most} bytes"
            )))
        };
        if self.name.is_empty() {
            return Err(Error::InvalidArgument("a file must have a name".into()));
        }
        bounded("a file's name", &self.name, MAX_FILE_NAME)?;
        bounded("a content type", &self.content_type, MAX_WORD)?;
        bounded("a description", &self.description, MAX_DESCRIPTION)?;
        bounded("a file collection's name", &self.collection, MAX_WORD)?;
        bounded("a service's name", &self.service, MAX_WORD)?;
        let metadata: usize = self
            .metadata
            .iter()
            .map(|(name, values)| name.len() + values.iter().map(String::len).sum::<usize>())
            .sum();
        if metadata > MAX_METADATA_BYTES {
            return Err(Error::InvalidArgument(format!(
                "a file's metadata has at most {MAX_METADATA_BYTES} bytes"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_has_its_digits_and_no_others() {
        for kind in HashKind::ALL {
            let good = "0aF".repeat(32)[..kind.digits()].to_owned();
            let hash = ContentHash::new(kind, &good).expect("a hash");
            assert_eq!(hash.digits(), good.to_lowercase());
            for bad in [&good[1..], &format!("{good}0"), &good.replace('F', "g"), ""] {
                assert!(ContentHash::new(kind, bad).is_err(), "{bad}");
            }
        }
    }

    #[test]
    fn an_offer_keeps_its_bounds() {
        let good = FileOffer::new("a", None);
        assert!(good.check().is_ok());
        let long = |most: usize| "x".repeat(most + 1);
        let wrong: [fn(&mut FileOffer, String); 5] = [
            |offer, _| offer.name.clear(),
            |offer, text| offer.name = text,
            |offer, text| offer.content_type = text,
            |offer, text| offer.collection = text,
            |offer, text| {
                offer.metadata.insert("k".into(), vec![text; 100]);
            },
        ];
        for spoil in wrong {
            let mut bad = good.clone();
            spoil(&mut bad, long(MAX_FILE_NAME));
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
