//! Where records of kept tubes lie: `kept.json` in each profile's folder. [`Records`] is what the keeper
//! needs; [`Store`] is the disk, for which it takes a thread of smol's pool. Whoever writes holds the
//! profile, by a connection of his own.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use actors::{model::Error, runtime::BoxFuture};

use super::record::{MAX_FILE, Record};
use crate::{connection::parameters::MAX_PROFILE, session::trust::Folder};

/// The file.
pub const FILE: &str = "kept.json";
/// Most profiles that are looked at when the service starts: no more connections are possible.
const MAX_PROFILES: usize = crate::connection::manager::MAX_CONNECTIONS;

/// All profiles' records, as the keeper reads and writes them.
pub trait Records: Send + Sync + 'static {
    /// The profiles that have one.
    fn profiles(&self) -> BoxFuture<'static, Vec<String>>;

    /// A profile's; see [`Store::load`].
    fn load(
        &self,
        profile: &str,
        now: SystemTime,
    ) -> BoxFuture<'static, Result<Option<Record>, Error>>;

    /// Replaces a profile's, and gives it back; see [`Store::save`].
    fn save(&self, record: Record) -> BoxFuture<'static, Result<Record, Error>>;
}

impl Records for Store {
    fn profiles(&self) -> BoxFuture<'static, Vec<String>> {
        let store = self.clone();
        Box::pin(smol::unblock(move || Store::profiles(&store)))
    }

    fn load(
        &self,
        profile: &str,
        now: SystemTime,
    ) -> BoxFuture<'static, Result<Option<Record>, Error>> {
        let (store, profile) = (self.clone(), profile.to_owned());
        Box::pin(smol::unblock(move || Store::load(&store, &profile, now)))
    }

    fn save(&self, record: Record) -> BoxFuture<'static, Result<Record, Error>> {
        let store = self.clone();
        Box::pin(smol::unblock(move || {
            Store::save(&store, &record).map(|()| record)
        }))
    }
}

/// The records on the disk. Its calls block for as long as that takes.
#[derive(Clone, Debug)]
pub struct Store {
    profiles: PathBuf,
}

impl Store {
    /// Those in this folder of profiles.
    pub fn new(profiles: PathBuf) -> Self {
        Store { profiles }
    }

    /// The profiles that have a record, at most as many as can be online.
    pub fn profiles(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.profiles) else {
            // There is none yet, or keys cannot be read either, which is told when somebody needs one.
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.len() <= MAX_PROFILE)
            .filter(|name| self.profiles.join(name).join(FILE).exists())
            .collect();
        names.sort();
        if names.len() > MAX_PROFILES {
            tracing::warn!(
                profiles = names.len(),
                "too many profiles keep tubes: the last wait"
            );
            names.truncate(MAX_PROFILES);
        }
        names
    }

    /// A profile's record; nothing where there is none. One that cannot be understood is put aside
    /// under another name, with a sentence in the log, and counts as none.
    ///
    /// # Errors
    /// What [`Folder`] says: the file is not ours alone, or the system fails. It stays as it is.
    pub fn load(&self, profile: &str, now: SystemTime) -> Result<Option<Record>, Error> {
        let Some(folder) = Folder::find(&self.profiles.join(profile))? else {
            return Ok(None);
        };
        let Some(bytes) = folder.read(FILE, MAX_FILE)? else {
            return Ok(None);
        };
        match Record::from_json(&bytes, profile) {
            Ok(record) => Ok(Some(record)),
            Err(why) => {
                let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
                let aside = format!("{FILE}.{seconds}");
                folder.set_aside(FILE, &aside)?;
                tracing::error!(
                    "{} cannot be understood ({why}), so no tube of the profile '{profile}' is made anew; it lies beside as {aside}",
                    folder.place(FILE).display()
                );
                Ok(None)
            }
        }
    }

    /// Replaces a profile's record.
    ///
    /// # Errors
    /// As [`Store::load`]; the old one is then still there.
    pub fn save(&self, record: &Record) -> Result<(), Error> {
        let folder = Folder::open(&self.profiles.join(&record.account.profile))?;
        folder.write(FILE, &record.to_json()?)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::connection::parameters::Account;

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path().join("pneuma"));
        assert_eq!(store.profiles(), Vec::<String>::new());
        assert_eq!(store.load("default", UNIX_EPOCH), Ok(None));
        let record = Record::new(Account::new(&Default::default(), "ada").unwrap());
        store.save(&record).unwrap();
        assert_eq!(store.profiles(), ["default"]);
        assert_eq!(store.load("default", UNIX_EPOCH), Ok(Some(record)));
        let file = home.path().join("pneuma/default").join(FILE);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_understood_is_put_aside_and_nothing_is_lost() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path().join("pneuma"));
        let record = Record::new(Account::new(&Default::default(), "ada").unwrap());
        store.save(&record).unwrap();
        let folder = home.path().join("pneuma/default");
        for (second, wrong) in [
            b"half".to_vec(),
            vec![b' '; 1 << 20],
            b"{\"version\":9}".to_vec(),
        ]
        .into_iter()
        .enumerate()
        {
            fs::write(folder.join(FILE), &wrong).unwrap();
            let now = UNIX_EPOCH + std::time::Duration::from_secs(second as u64);
            assert_eq!(store.load("default", now), Ok(None));
            assert!(!folder.join(FILE).exists());
            assert_eq!(
                fs::read(folder.join(format!("{FILE}.{second}"))).unwrap(),
                wrong
            );
            // What is written next does not touch it.
            store.save(&record).unwrap();
            assert_eq!(
                fs::read(folder.join(format!("{FILE}.{second}"))).unwrap(),
                wrong
            );
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_not_believed_and_stays() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path().join("pneuma"));
        let record = Record::new(Account::new(&Default::default(), "ada").unwrap());
        store.save(&record).unwrap();
        let file = home.path().join("pneuma/default").join(FILE);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(
            store.load("default", UNIX_EPOCH),
            Err(Error::PermissionDenied(_))
        ));
        assert!(file.exists());
    }
}
