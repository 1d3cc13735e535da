//! The digests of what goes by.

use ring::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::model::{ContentHash, HashKind, Sha256Digest};

/// The SHA-256 of all bytes of one flow, and what the offer says the file's hash is.
pub(super) struct Hashes {
    sha256: digest::Context,
    content: Option<Content>,
}

struct Content {
    wanted: ContentHash,
    hasher: Hasher,
}

enum Hasher {
    Md5(Box<md5::Md5>),
    Sha1(Box<digest::Context>),
    /// The same bytes as the flow's own.
    Sha256,
}

impl Hashes {
    pub(super) fn new() -> Self {
        Hashes {
            sha256: digest::Context::new(&SHA256),
            content: None,
        }
    }

    /// The file begins at its beginning, so its hash can be looked at as well.
    pub(super) fn check_content(&mut self, wanted: ContentHash) {
        let hasher = match wanted.kind() {
            HashKind::Md5 => Hasher::Md5(Box::default()),
            HashKind::Sha1 => {
                Hasher::Sha1(Box::new(digest::Context::new(&SHA1_FOR_LEGACY_USE_ONLY)))
            }
            HashKind::Sha256 => Hasher::Sha256,
        };
        self.content = Some(Content { wanted, hasher });
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        match self.content.as_mut().map(|content| &mut content.hasher) {
            Some(Hasher::Md5(md5)) => md5::Digest::update(&mut **md5, bytes),
            Some(Hasher::Sha1(sha1)) => sha1.update(bytes),
            Some(Hasher::Sha256) | None => {}
        }
    }

    /// The SHA-256 so far, and whether the file's own hash is what it should be.
    pub(super) fn finish(&self) -> (Sha256Digest, bool) {
        let sha256 = self.sha256.clone().finish();
        let mut own = [0; 32];
        own.copy_from_slice(sha256.as_ref());
        let is_right = self.content.as_ref().is_none_or(|content| {
            let digits = match &content.hasher {
                Hasher::Md5(md5) => hex(&md5::Digest::finalize(md5::Md5::clone(md5))),
                Hasher::Sha1(sha1) => hex(digest::Context::clone(sha1).finish().as_ref()),
                Hasher::Sha256 => hex(&own),
            };
            digits == content.wanted.digits()
        });
        (Sha256Digest(own), is_right)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
