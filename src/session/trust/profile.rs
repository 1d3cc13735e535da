//! The directory a profile lies in: private, locked, and never silently replaced.
//!
//! A [`Folder`] of its own. An exclusive `flock` on `lock` keeps a second Connection out for as long as
//! the [`Profile`] lives; the kernel releases it when the process dies.

use std::{os::fd::OwnedFd, path::Path};

use actors::model::Error;

use super::{Folder, Identity, TrustTable};

const IDENTITY: &str = "identity.pem";
const TRUST: &str = "trust.json";
const LOCK: &str = "lock";
/// Larger files are not read: nothing we write comes near.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// An open, locked profile. All its calls block for as long as the disk takes.
#[derive(Debug)]
pub struct Profile {
    folder: Folder,
    _lock: OwnedFd,
}

impl Profile {
    /// Opens the profile, making its directory if there is none.
    ///
    /// # Errors
    /// `PermissionDenied` when the directory is not ours alone, `AlreadyConnected` when another
    /// Connection has it, `Confused` when the system fails.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let folder = Folder::open(path)?;
        let Some(lock) = folder.lock(LOCK)? else {
            return Err(Error::AlreadyConnected(format!(
                "the profile {} is in use by another connection; give this one another profile",
                path.display()
            )));
        };
        Ok(Profile {
            folder,
            _lock: lock,
        })
    }

    /// Our key; made and stored the first time.
    ///
    /// # Errors
    /// `PermissionDenied` for a file that is not ours alone, `Confused` for one that is damaged.
    pub fn identity(&self) -> Result<Identity, Error> {
        if let Some(text) = self.read(IDENTITY)? {
            return Identity::from_pem(&text).map_err(|error| self.damaged(IDENTITY, &error));
        }
        let identity = Identity::generate().map_err(|error| Error::Confused(error.to_string()))?;
        self.write(IDENTITY, identity.to_pem())?;
        Ok(identity)
    }

    /// The table of trusted keys; empty the first time.
    ///
    /// # Errors
    /// As [`Profile::identity`].
    pub fn trust(&self) -> Result<TrustTable, Error> {
        match self.read(TRUST)? {
            Some(text) => TrustTable::from_json(&text).map_err(|error| self.damaged(TRUST, &error)),
            None => Ok(TrustTable::default()),
        }
    }

    /// Stores the table of trusted keys; it is on the disk when this returns.
    ///
    /// # Errors
    /// `Confused` when the system fails; the old table is then still there.
    pub fn save_trust(&self, table: &TrustTable) -> Result<(), Error> {
        let text = table
            .to_json()
            .map_err(|error| Error::Confused(error.to_string()))?;
        self.write(TRUST, &text)
    }

    fn damaged(&self, name: &str, error: &dyn std::fmt::Display) -> Error {
        Error::Confused(format!(
            "{} is damaged ({error}); restore it from a backup, or move it away to begin anew as a \
             stranger to your contacts",
            self.folder.place(name).display()
        ))
    }

    fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let Some(bytes) = self.folder.read(name, MAX_FILE)? else {
            return Ok(None);
        };
        if bytes.len() as u64 > MAX_FILE {
            return Err(self.damaged(name, &"it is too large"));
        }
        let text = String::from_utf8(bytes).map_err(|error| self.damaged(name, &error))?;
        Ok(Some(text))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        self.folder.write(name, text)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
        time::UNIX_EPOCH,
    };

    use super::*;
    use crate::session::trust::{KeyId, TrustRow};

    fn row() -> TrustRow {
        TrustRow {
            protocol: "local-xmpp".into(),
            contact: "romeo@forza".into(),
            key: KeyId([1; 32]),
            label: String::new(),
            first_seen: UNIX_EPOCH,
            verified: None,
        }
    }

    #[test]
    fn the_key_and_the_table_are_the_same_next_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("pneuma/default");
        let profile = Profile::open(&path).unwrap();
        let id = profile.identity().unwrap().id();
        let mut table = profile.trust().unwrap();
        assert!(table.rows().is_empty());
        table.pin(row()).unwrap();
        profile.save_trust(&table).unwrap();
        profile.save_trust(&table).unwrap();
        drop(profile);

        let profile = Profile::open(&path).unwrap();
        assert_eq!(profile.identity().unwrap().id(), id);
        assert_eq!(profile.trust().unwrap(), table);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        for file in fs::read_dir(&path).unwrap() {
            let file = file.unwrap();
            assert_eq!(
                file.metadata().unwrap().mode() & 0o777,
                0o600,
                "{:?}",
                file.file_name()
            );
            assert!(!file.file_name().to_string_lossy().ends_with(".new"));
        }
    }

    #[test]
    fn a_profile_is_for_one_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("default");
        let first = Profile::open(&path).unwrap();
        assert!(matches!(
            Profile::open(&path),
            Err(Error::AlreadyConnected(_))
        ));
        drop(first);
        assert!(Profile::open(&path).is_ok());
    }

    #[test]
    fn what_others_may_read_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("default");
        Profile::open(&path).unwrap().identity().unwrap();
        let chmod = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };

        chmod(&path, 0o750);
        assert!(matches!(
            Profile::open(&path),
            Err(Error::PermissionDenied(_))
        ));
        chmod(&path, 0o700);
        chmod(&path.join(IDENTITY), 0o640);
        let profile = Profile::open(&path).unwrap();
        assert!(matches!(
            profile.identity(),
            Err(Error::PermissionDenied(_))
        ));
    }

    #[test]
    fn a_link_in_place_of_the_directory_or_a_file_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let real = home.path().join("real");
        Profile::open(&real).unwrap().identity().unwrap();
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(Profile::open(&link).is_err());

        fs::rename(real.join(IDENTITY), home.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(home.path().join("elsewhere"), real.join(IDENTITY)).unwrap();
        assert!(Profile::open(&real).unwrap().identity().is_err());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("default");
        let profile = Profile::open(&path).unwrap();
        profile.identity().unwrap();
        profile.save_trust(&TrustTable::default()).unwrap();
        for name in [IDENTITY, TRUST] {
            fs::write(path.join(name), [0xff, 0xfe, b'x']).unwrap();
        }
        assert!(
            matches!(profile.identity(), Err(Error::Confused(text)) if text.contains("damaged"))
        );
        assert!(matches!(profile.trust(), Err(Error::Confused(text)) if text.contains("damaged")));
        fs::write(path.join(TRUST), "").unwrap();
        assert!(profile.trust().is_err());
        assert_eq!(fs::read(path.join(IDENTITY)).unwrap(), [0xff, 0xfe, b'x']);
    }

    #[test]
    fn a_write_that_a_crash_cut_short_leaves_the_old_table() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("default");
        let profile = Profile::open(&path).unwrap();
        let mut table = TrustTable::default();
        table.pin(row()).unwrap();
        profile.save_trust(&table).unwrap();
        fs::write(path.join("trust.json.new"), "half").unwrap();
        assert_eq!(profile.trust().unwrap(), table);
        profile.save_trust(&TrustTable::default()).unwrap();
        assert!(profile.trust().unwrap().rows().is_empty());
    }
}
