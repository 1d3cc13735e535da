//! What is remembered of transfers that have not ended, in the profile's folder of the state directory,
//! so that the same command, run again, goes on: for what we send, under which id; for what we receive,
//! where its bytes lie. One small file each. What has arrived is remembered, too: its sender may not have
//! heard so, and then offers it again.
//!
//! Bounds: [`MOST_RECORDS`] of what has not ended, and as many of what has arrived; the oldest goes when
//! there is one more. A record that nothing was written to for [`EXPIRY`] is forgotten, and what it is of
//! begins anew. Files of the user are never removed for that.
//!
//! Calls block for as long as the disk takes.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{TransferId, target::failed};
use crate::client::error::{Error, Kind, Result};

/// Most records of one profile.
const MOST_RECORDS: usize = 1000;
/// How long a record lives that nobody writes to.
const EXPIRY: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest record that is read; paths are at most 4 KiB.
const MOST_BYTES: u64 = 64 * 1024;
/// Where they lie in a profile's folder.
const FOLDER: &str = "transfers";
/// What the names of records of what has arrived begin with.
const DONE: &str = "done-";
/// What this program writes. Another version is not read.
const VERSION: u32 = 1;

/// What we send, as far as it has to be remembered.
#[derive(Debug, Serialize, Deserialize)]
struct Sending {
    version: u32,
    id: String,
}

/// What we receive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receiving {
    pub version: u32,
    /// The contact's key, in hexadecimal digits.
    pub key: String,
    /// The transfer's id.
    pub id: String,
    /// The folder, and the file's names in it: while it arrives, and at the end.
    pub folder: PathBuf,
    pub part: String,
    pub name: String,
    /// Whether `name` is another than the sender's.
    pub renamed: bool,
    pub is_folder: bool,
    pub size: Option<u64>,
    pub modified: Option<i64>,
    pub mode: Option<u32>,
    /// Which file it is, so that nothing else is taken for it.
    pub device: u64,
    pub inode: u64,
    /// How much of it is on the disk for sure, and since when the machine runs that said so: what was
    /// written since then is there as long as it runs.
    pub stored: u64,
    pub boot: String,
    /// It is all there and is what was sent; only its name is still to be given.
    pub verified: bool,
}

/// What has arrived and has its name.
#[derive(Debug, Serialize, Deserialize)]
struct Arrived {
    version: u32,
    key: String,
    id: String,
    size: u64,
}

/// The records of a profile.
#[derive(Clone, Debug)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Those of a profile, in `$XDG_STATE_HOME/pneuma/PROFILE` or where that is by default. What has
    /// expired by `now` is forgotten.
    ///
    /// # Errors
    /// [`Kind::Io`] when there is no place for them, or it cannot be used.
    pub fn open(profile: &str, now: SystemTime) -> Result<Self> {
        let absolute = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let state = absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .ok_or_else(|| {
                Error::new(
                    Kind::Io,
                    "there is no place to remember transfers: neither XDG_STATE_HOME nor HOME is set",
                )
            })?;
        if profile.is_empty() || profile.contains(['/', '\0']) || profile.starts_with('.') {
            return Err(Error::new(
                Kind::InvalidArgument,
                "the profile's name is no name",
            ));
        }
        Records::at(&state.join("pneuma").join(profile).join(FOLDER), now)
    }

    /// Those in this folder.
    pub(super) fn at(folder: &Path, now: SystemTime) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| {
                failed(
                    format!("transfers cannot be remembered in {}", folder.display()),
                    error,
                )
            })?;
        let records = Records {
            folder: folder.to_owned(),
        };
        records.expire(now);
        Ok(records)
    }

    /// Where they lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The id under which `what` (a path, its size and date) is sent to the contact with this key: the
    /// same as last time, until [`Records::sent`]. Without a key, a new one.
    ///
    /// # Errors
    /// [`Kind::Io`] when it cannot be written down.
    pub fn sending(&self, what: &[&[u8]], key: Option<&str>) -> Result<TransferId> {
        let fresh = || {
            TransferId::random().map_err(|error| Error::io("there are no random numbers", &error))
        };
        let Some(key) = key else {
            return fresh();
        };
        let name = sending_name(what, key);
        if let Some(record) = self.read::<Sending>(&name)
            && record.version == VERSION
            && let Ok(id) = record.id.parse()
        {
            return Ok(id);
        }
        let id = fresh()?;
        let record = Sending {
            version: VERSION,
            id: id.to_string(),
        };
        self.write(&name, &record)?;
        Ok(id)
    }

    /// Forgets the id: `what` has arrived, or never will.
    pub fn sent(&self, what: &[&[u8]], key: Option<&str>) {
        if let Some(key) = key {
            self.remove(&sending_name(what, key));
        }
    }

    /// Everything that is to be received and has not ended.
    pub(super) fn all_receiving(&self) -> Vec<Receiving> {
        self.names()
            .into_iter()
            .filter(|(name, _)| name.starts_with("in-") && name.ends_with(".json"))
            .filter_map(|(name, _)| self.read::<Receiving>(&name))
            .filter(|record| record.version == VERSION)
            .collect()
    }

    /// What this contact sends under this id, as far as it is remembered.
    pub(super) fn receiving(&self, key: &str, id: TransferId) -> Option<Receiving> {
        self.read::<Receiving>(&receiving_name(key, &id.to_string()))
            .filter(|record| record.version == VERSION)
            .filter(|record| record.key == key && record.id == id.to_string())
    }

    /// Writes one down. One that is verified is on the disk when this returns, whatever happens to the
    /// machine.
    pub(super) fn keep(&self, record: &Receiving) -> Result<()> {
        self.write(&receiving_name(&record.key, &record.id), record)?;
        if !record.verified {
            return Ok(());
        }
        let sync = || fs::File::open(&self.folder)?.sync_all();
        sync().map_err(|error| self.unwritable(error))
    }

    /// How long that was which has arrived from this contact under this id, if it has and is remembered.
    pub fn arrived(&self, key: &str, id: TransferId) -> Option<u64> {
        let id = id.to_string();
        let arrived = self
            .read::<Arrived>(&arrived_name(key, &id))
            .filter(|record| record.version == VERSION && record.key == key && record.id == id);
        match arrived {
            Some(record) => Some(record.size),
            // This program was killed after it had named the file, and before it said so here.
            None => self
                .read::<Receiving>(&receiving_name(key, &id))
                .filter(|record| record.version == VERSION && record.verified)
                .filter(|record| record.key == key && record.id == id)
                .and_then(|record| record.size),
        }
    }

    /// Forgets that something has arrived: what is offered under its id is something else by now.
    pub fn forget_arrived(&self, key: &str, id: TransferId) {
        let id = id.to_string();
        self.remove(&arrived_name(key, &id));
        self.remove(&receiving_name(key, &id));
    }

    /// What is received has its name: of its record stays that it has arrived.
    pub(super) fn arrive(&self, record: &Receiving) {
        let arrived = Arrived {
            version: VERSION,
            key: record.key.clone(),
            id: record.id.clone(),
            size: record.stored,
        };
        match self.write(&arrived_name(&record.key, &record.id), &arrived) {
            Ok(()) => {
                self.forget(record);
                // By their number alone.
                self.expire(SystemTime::UNIX_EPOCH);
            }
            // The record itself says it too.
            Err(error) => tracing::warn!(%error, "what has arrived is remembered less well"),
        }
    }

    /// Forgets one.
    pub(super) fn forget(&self, record: &Receiving) {
        self.remove(&receiving_name(&record.key, &record.id));
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let file = fs::File::open(self.folder.join(name)).ok()?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        // What cannot be understood, half written by a crash or by another version, counts as none.
        serde_json::from_slice(&bytes).ok()
    }

    fn write(&self, name: &str, record: &impl Serialize) -> Result<()> {
        let failed = |error: io::Error| self.unwritable(error);
        let bytes = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        let new = self.folder.join(format!("{name}.new"));
        let write = || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            fs::rename(&new, self.folder.join(name))
        };
        write().map_err(failed)
    }

    fn unwritable(&self, error: io::Error) -> Error {
        failed(
            format!(
                "a transfer cannot be remembered in {}",
                self.folder.display()
            ),
            error,
        )
    }

    fn remove(&self, name: &str) {
        match fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, name, "a record stays behind");
            }
            _ => {}
        }
    }

    /// All records with the time they were written, the oldest first.
    fn names(&self) -> Vec<(String, SystemTime)> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let mut names: Vec<(String, SystemTime)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_string().ok()?;
                let written = entry.metadata().ok()?.modified().ok()?;
                let known = ["in-", "out-", DONE];
                let known = known.iter().any(|kind| name.starts_with(kind));
                known.then_some((name, written))
            })
            .collect();
        names.sort_by_key(|(_, written)| *written);
        names
    }

    fn expire(&self, now: SystemTime) {
        let (done, others): (Vec<_>, Vec<_>) = self
            .names()
            .into_iter()
            .partition(|(name, _)| name.starts_with(DONE));
        for names in [done, others] {
            // Room for one more.
            let too_many = (names.len() + 1).saturating_sub(MOST_RECORDS);
            for (number, (name, written)) in names.iter().enumerate() {
                let age = now.duration_since(*written).unwrap_or_default();
                if number < too_many || age > EXPIRY {
                    self.remove(name);
                }
            }
        }
    }
}

fn sending_name(what: &[&[u8]], key: &str) -> String {
    let mut hash = Sha256::new();
    for part in what.iter().chain([&key.as_bytes()]) {
        // With their lengths, so that no two lists are one text.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    format!("out-{}.json", hex(&hash.finalize()[..16]))
}

fn receiving_name(key: &str, id: &str) -> String {
    format!("in-{}.json", name_of(key, id))
}

fn arrived_name(key: &str, id: &str) -> String {
    format!("{DONE}{}.json", name_of(key, id))
}

/// Both come from others: neither is a file's name as it is.
fn name_of(key: &str, id: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update([0]);
    hash.update(id);
    hex(&hash.finalize()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn records(home: &tempfile::TempDir) -> Records {
        Records::at(&home.path().join("transfers"), SystemTime::UNIX_EPOCH).expect("a folder")
    }

    #[test]
    fn the_same_thing_to_the_same_contact_has_the_same_id() {
        let home = tempfile::tempdir().unwrap();
        let records = records(&home);
        let what: [&[u8]; 2] = [b"/tmp/a", b"5"];
        let first = records.sending(&what, Some("aa")).unwrap();
        assert_eq!(records.sending(&what, Some("aa")).unwrap(), first);
        assert_ne!(records.sending(&what, Some("bb")).unwrap(), first);
        assert_ne!(
            records.sending(&[b"/tmp/a5", b""], Some("aa")).unwrap(),
            first
        );
        assert_ne!(
            records.sending(&what, None).unwrap(),
            records.sending(&what, None).unwrap()
        );
        records.sent(&what, Some("aa"));
        assert_ne!(records.sending(&what, Some("aa")).unwrap(), first);
    }

    #[test]
    fn what_cannot_be_understood_is_none() {
        let home = tempfile::tempdir().unwrap();
        let records = records(&home);
        let what: [&[u8]; 1] = [b"a"];
        let first = records.sending(&what, Some("aa")).unwrap();
        let file = records.folder().join(sending_name(&what, "aa"));
        for wrong in ["", "{\"version\":1", "{\"version\":9,\"id\":\"00\"}", "[]"] {
            fs::write(&file, wrong).unwrap();
            let again = records.sending(&what, Some("aa")).unwrap();
            assert_ne!(again, first, "{wrong}");
        }
    }

    fn count(records: &Records, kind: &str) -> usize {
        let names = records.names();
        names
            .iter()
            .filter(|(name, _)| name.starts_with(kind))
            .count()
    }

    #[test]
    fn records_expire_and_are_bounded() {
        let home = tempfile::tempdir().unwrap();
        let records = records(&home);
        let write = |name: &str, age: Duration| {
            let path = records.folder().join(name);
            fs::write(&path, "{}").unwrap();
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_modified(UNIX_EPOCH + NOW - age).unwrap();
        };
        let day = Duration::from_secs(24 * 3600);
        write("in-old.json", day * 31);
        write("in-young.json", day * 29);
        write("something-else", day * 99);
        records.expire(UNIX_EPOCH + NOW);
        let left = || {
            let mut names: Vec<String> = fs::read_dir(records.folder())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(left(), ["in-young.json", "something-else"]);
        for number in 0..MOST_RECORDS {
            write(&format!("out-{number}.json"), day);
        }
        records.expire(UNIX_EPOCH + NOW);
        let left = left();
        assert_eq!(left.len(), MOST_RECORDS);
        assert!(!left.contains(&"in-young.json".to_owned()), "the oldest");
        // What has arrived takes no place from what has not, and as few.
        for number in 0..=MOST_RECORDS {
            write(&format!("done-{number}.json"), day * 2);
        }
        write("done-old.json", day * 31);
        records.expire(UNIX_EPOCH + NOW);
        assert_eq!(count(&records, "out-"), MOST_RECORDS - 1);
        assert_eq!(count(&records, "done-"), MOST_RECORDS - 1);
    }
}
