//! What is said of a file that is sent.

use std::collections::HashMap;

use super::TransferId;

/// What becomes of the bytes at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A file.
    File,
    /// A folder: the bytes are a tar archive of it. Who does not know that gets the archive.
    Folder,
}

/// What is said of a file; see the constants for what of it is said in our own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// `Filename`
    pub name: String,
    /// `ContentType`
    pub content_type: String,
    /// `Size` in bytes; nothing of a pipe.
    pub size: Option<u64>,
    /// `Date`: when it was changed last, in seconds since 1970.
    pub modified: Option<i64>,
    /// Its permissions, without what is not for others to set.
    pub mode: Option<u32>,
    /// What it is.
    pub shape: Shape,
    /// The id that lasts; nothing where the sender knows of none.
    pub id: Option<TransferId>,
}

impl Offer {
    /// The metadata that says that an archive stands for a folder.
    pub const FOLDER: &str = "pneuma-folder";
    /// Its one value.
    pub const TAR: &str = "tar";
    /// The metadata that carries a file's permissions, in octal digits.
    pub const MODE: &str = "pneuma-mode";

    /// What of it goes as `Metadata`.
    pub fn metadata(&self) -> HashMap<String, Vec<String>> {
        let mut metadata = HashMap::new();
        if self.shape == Shape::Folder {
            metadata.insert(Offer::FOLDER.to_owned(), vec![Offer::TAR.to_owned()]);
        }
        if let Some(mode) = self.mode {
            metadata.insert(Offer::MODE.to_owned(), vec![format!("{:o}", mode & 0o777)]);
        }
        metadata
    }
}
