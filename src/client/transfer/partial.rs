//! A file that is arriving: `NAME.part` beside where it will be, and a record of whose it is.
//!
//! ```text
//!  begin ──► NAME.part, locked ──► bytes, synced now and then ──► verified ──► finish: NAME
//!                 ▲                          │
//!                 └────── resume ────────────┘  the link broke, we were stopped, killed, switched off
//! ```
//!
//! Nothing has the final name before it is whole and verified, and nothing that is there is replaced. After
//! a crash of this program what was written counts as it is, since the machine runs on; after one of the
//! machine, what was synced. Either way the sender compares the SHA-256 of it before anything is added.
//!
//! Calls block for as long as the disk takes.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
    sync::Arc,
};

use rustix::fs::{FallocateFlags, FlockOperation, Timespec, Timestamps};
use sha2::{Digest as _, Sha256};

use super::{
    Offer, Records, Resume, SafeName, Sha256Digest, Shape, Target, TransferId,
    records::Receiving,
    target::failed,
    unpack::{self, Unpacked},
};
use crate::client::error::{Error, Kind, Result};

/// How many bytes are read at a time.
const CHUNK: usize = 256 * 1024;
/// Most names that are tried for a file that is arriving.
const MOST_PARTS: u32 = 1000;

/// See the module's head. Cheap to clone: all are the same file.
#[derive(Clone, Debug)]
pub struct Partial {
    target: Arc<Target>,
    file: Arc<File>,
    record: Receiving,
    /// Nothing where it cannot be resumed: the sender gives no id that lasts, or has no key.
    records: Option<Records>,
}

/// A file or a folder that has arrived.
#[derive(Debug)]
pub struct Finished {
    /// Where it is.
    pub path: PathBuf,
    /// Whether its name is another than the sender gave it, other than for a number behind it.
    pub renamed: bool,
    /// Of a folder: what is in it, and what of the archive was left out.
    pub unpacked: Option<Unpacked>,
}

impl Partial {
    /// Begins anew, in this folder, what `offer` says.
    ///
    /// # Errors
    /// [`Kind::Io`], with a sentence.
    pub fn begin(
        target: Target,
        offer: &Offer,
        key: Option<&str>,
        records: &Records,
    ) -> Result<Self> {
        let name = SafeName::of(&offer.name);
        let is_folder = offer.shape == Shape::Folder;
        let last = if is_folder {
            name.without_tar()
        } else {
            name.clone()
        };
        let mut made = None;
        for number in 1..=MOST_PARTS {
            let part = format!("{}.part", name.numbered(number));
            let create = target.create(&part);
            let create = create.map_err(|error| {
                failed(
                    format!("{} cannot be written", shown(&target, &part)),
                    error,
                )
            })?;
            if let Some(file) = create {
                made = Some((part, file));
                break;
            }
        }
        let Some((part, file)) = made else {
            return Err(Error::new(
                Kind::Io,
                format!(
                    "there are too many files like {}.part in {}; remove some",
                    name.as_str(),
                    target.path().display()
                ),
            ));
        };
        lock(&file, &target, &part)?;
        let metadata = file
            .metadata()
            .map_err(|error| failed(format!("{} cannot be read", shown(&target, &part)), error))?;
        let record = Receiving {
            version: 1,
            key: key.unwrap_or_default().to_owned(),
            id: offer.id.map(|id| id.to_string()).unwrap_or_default(),
            folder: target.path().to_owned(),
            part,
            name: last.as_str().to_owned(),
            renamed: name.changed(),
            is_folder,
            size: offer.size,
            modified: offer.modified,
            mode: offer.mode,
            device: metadata.dev(),
            inode: metadata.ino(),
            stored: 0,
            boot: boot(),
            verified: false,
        };
        let lasts = key.is_some() && offer.id.is_some();
        let partial = Partial {
            target: Arc::new(target),
            file: Arc::new(file),
            record,
            records: lasts.then(|| records.clone()),
        };
        if let Err(error) = partial.keep() {
            partial.target.remove(&partial.record.part);
            return Err(error);
        }
        Ok(partial)
    }

    /// What has arrived so far of what the contact with this key sends under this id; nothing when
    /// nothing is known of it, or it is not where it was.
    ///
    /// # Errors
    /// [`Kind::NotYours`] when another program is at it.
    pub fn resume(records: &Records, key: &str, id: TransferId) -> Result<Option<Self>> {
        match records.receiving(key, id) {
            Some(record) => Partial::of_record(records, record),
            None => Ok(None),
        }
    }

    /// Everything that was verified, and was to get its name when this program was killed. What came whole
    /// and was not heard to be verified is not among it: it may be anything.
    pub fn unfinished(records: &Records) -> Vec<Self> {
        let all = records.all_receiving().into_iter();
        all.filter(|record| record.verified)
            .filter_map(|record| Partial::of_record(records, record).ok()?)
            .filter(Partial::is_whole)
            .collect()
    }

    fn of_record(records: &Records, record: Receiving) -> Result<Option<Self>> {
        let found = || -> Option<(Target, File)> {
            let target = Target::open(&record.folder).ok()?;
            let file = target.reopen(&record.part).ok()?;
            let metadata = file.metadata().ok()?;
            let same = (metadata.dev(), metadata.ino()) == (record.device, record.inode);
            (metadata.is_file() && same).then_some((target, file))
        };
        let Some((target, file)) = found() else {
            // Moved or removed by the user, or the folder is not there today: it begins anew.
            return Ok(None);
        };
        lock(&file, &target, &record.part)?;
        Ok(Some(Partial {
            target: Arc::new(target),
            file: Arc::new(file),
            record,
            records: Some(records.clone()),
        }))
    }

    /// The file's name while it arrives, with the folder.
    pub fn place(&self) -> PathBuf {
        self.target.place(&self.record.part)
    }

    /// Whether `offer` is of what this is the beginning of.
    pub fn fits(&self, offer: &Offer) -> bool {
        self.record.size == offer.size && self.record.is_folder == (offer.shape == Shape::Folder)
    }

    /// The size it will have, where that is known.
    pub fn size(&self) -> Option<u64> {
        self.record.size
    }

    /// How much of it is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn length(&self) -> Result<u64> {
        let there = self
            .file
            .metadata()
            .map_err(|error| self.unreadable(error))?;
        let there = match self.record.size {
            Some(size) => there.len().min(size),
            None => there.len(),
        };
        if self.record.boot == boot() {
            return Ok(there);
        }
        Ok(there.min(self.record.stored))
    }

    /// How much of it is there, and the SHA-256 of that.
    ///
    /// # Errors
    /// What the system says.
    pub fn prefix(&self) -> Result<Resume> {
        let length = self.length()?;
        if length == 0 {
            return Ok(Resume::default());
        }
        let digest = digest_of(&self.file, length).map_err(|error| self.unreadable(error))?;
        Ok(Resume {
            offset: length,
            stored: Some(digest),
        })
    }

    /// Makes ready for bytes from `offset` on: what lies behind it is cut off.
    ///
    /// # Errors
    /// What the system says; [`Kind::BadAnswer`] when there is not so much.
    pub fn begin_at(&mut self, offset: u64) -> Result<()> {
        if offset > self.length()? {
            return Err(Error::new(
                Kind::BadAnswer,
                "the transfer would begin behind what was asked for",
            ));
        }
        self.file
            .set_len(offset)
            .map_err(|error| self.unwritable(error))?;
        self.record.stored = self.record.stored.min(offset);
        if self.record.boot != boot() {
            // From here on it is this run of the machine that knows what is there.
            self.file
                .sync_data()
                .map_err(|error| self.unwritable(error))?;
            self.record.boot = boot();
            self.record.stored = offset;
        }
        if let Some(size) = self.record.size {
            self.reserve(size)?;
        }
        self.keep()
    }

    /// Has the file system set aside what it will need, where it can, so that a disk that is too small
    /// says so at once.
    fn reserve(&self, size: u64) -> Result<()> {
        if size == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, size) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error, rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
                Err(self.unwritable(error.into()))
            }
            // It cannot be had there; writing will tell.
            Err(_) => Ok(()),
        }
    }

    /// The file, to be written by somebody else at the places that are his.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Syncs it, and notes that so much of it is on the disk.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&mut self, offset: u64) -> Result<()> {
        if offset > self.record.stored {
            self.file
                .sync_data()
                .map_err(|error| self.unwritable(error))?;
            self.record.stored = offset;
            self.keep()?;
        }
        Ok(())
    }

    /// Notes that it is all there and is what was sent; `length` is then its size. When this returns, all of
    /// that is on the disk, whatever happens to the machine.
    ///
    /// # Errors
    /// What the system says; [`Kind::ConnectionLost`] when it is not as long as the contact said: then
    /// bytes went elsewhere.
    pub fn verified(&mut self, length: u64) -> Result<()> {
        if self.record.size.is_some_and(|size| size != length) {
            let why = "the transfer ended, and not all of it came here";
            return Err(Error::new(Kind::ConnectionLost, why));
        }
        self.file
            .sync_data()
            .map_err(|error| self.unwritable(error))?;
        self.record.stored = length;
        self.record.size = Some(length);
        self.target.sync().map_err(|error| self.unwritable(error))?;
        self.record.verified = true;
        self.keep()
    }

    /// Whether it is noted that it is all there and is what was sent.
    pub fn is_verified(&self) -> bool {
        self.record.verified
    }

    /// Whether as much of it is there as it has, where that is known.
    pub fn is_whole(&self) -> bool {
        let length = self.length().ok();
        self.record.size.is_none_or(|size| length == Some(size))
    }

    /// Gives what was verified its name, permissions and date. That it has arrived stays remembered.
    ///
    /// # Errors
    /// What the system says; it is still there under the name it had. [`Kind::BadAnswer`] for a folder
    /// that cannot be unpacked, now or later: its archive, which its sender knows to be here, is kept under a
    /// name that the sentence says, and counts as having arrived.
    pub fn finish(self) -> Result<Finished> {
        if !self.record.verified {
            return Err(Error::new(
                Kind::InvalidArgument,
                "a file that is not whole gets no name",
            ));
        }
        let name = SafeName::of(&self.record.name);
        let (settled, unpacked) = if self.record.is_folder {
            match self.unpack(&name) {
                Err(error) if error.kind == Kind::BadAnswer => {
                    return Err(self.keep_archive(&name, &error));
                }
                unpacked => unpacked.map(|(name, unpacked)| (name, Some(unpacked)))?,
            }
        } else {
            self.dress().map_err(|error| self.unwritable(error))?;
            let settled = self.target.settle(&self.record.part, &name);
            (settled.map_err(|error| self.unnamed(&name, error))?, None)
        };
        self.target
            .sync()
            .map_err(|error| self.unnamed(&name, error))?;
        if unpacked.is_some() {
            self.target.remove(&self.record.part);
        }
        // Its sender may not have heard of it, and would offer it again.
        if let Some(records) = &self.records {
            records.arrive(&self.record);
        }
        Ok(Finished {
            path: self.target.place(&settled),
            renamed: self.record.renamed,
            unpacked,
        })
    }

    fn unpack(&self, name: &SafeName) -> Result<(String, Unpacked)> {
        let mut archive = &*self.file;
        archive.rewind().map_err(|error| self.unreadable(error))?;
        let part = format!("{}.unpacking", self.record.part);
        let unpacked = unpack::unpack(
            io::BufReader::with_capacity(CHUNK, archive),
            &self.target,
            &part,
            self.record.modified,
        )?;
        let settled = self.target.settle(&part, name);
        Ok((
            settled.map_err(|error| self.unnamed(name, error))?,
            unpacked,
        ))
    }

    /// Gives the archive of a folder that cannot be unpacked a name of its own. Says so.
    fn keep_archive(&self, folder: &SafeName, why: &Error) -> Error {
        let name = SafeName::of(&format!("{}.tar", folder.as_str()));
        let settled = self.target.settle(&self.record.part, &name);
        let settled = settled.and_then(|settled| self.target.sync().map(|()| settled));
        let settled = match settled {
            Ok(settled) => settled,
            Err(error) => return self.unnamed(&name, error),
        };
        if let Some(records) = &self.records {
            records.arrive(&self.record);
        }
        let place = self.target.place(&settled);
        let sentence = format!(
            "{}; its archive is kept as {}",
            why.message,
            place.display()
        );
        Error::new(Kind::BadAnswer, sentence)
    }

    /// Permissions and date as the sender says, as far as they are for others to say.
    fn dress(&self) -> io::Result<()> {
        let mode = self.record.mode.unwrap_or(0o666) & 0o777 & !umask();
        // Its owner can always read what has arrived.
        rustix::fs::fchmod(&*self.file, (mode | 0o400).into())?;
        if let Some(modified) = self.record.modified {
            rustix::fs::futimens(&*self.file, &at(modified))?;
        }
        self.file.sync_all()
    }

    /// Throws it away: the contact took it back, or it can never be resumed.
    pub fn discard(self) {
        self.target.remove(&self.record.part);
        self.forget();
    }

    /// What becomes of it when its transfer broke: it stays if it can be resumed.
    pub fn leave(self) {
        if self.records.is_none() {
            self.discard();
        }
    }

    /// Whether it can go on later.
    pub fn lasts(&self) -> bool {
        self.records.is_some()
    }

    fn keep(&self) -> Result<()> {
        match &self.records {
            Some(records) => records.keep(&self.record),
            None => Ok(()),
        }
    }

    fn forget(&self) {
        if let Some(records) = &self.records {
            records.forget(&self.record);
        }
    }

    fn unreadable(&self, error: io::Error) -> Error {
        failed(format!("{} cannot be read", self.place().display()), error)
    }

    pub(super) fn unwritable(&self, error: io::Error) -> Error {
        failed(
            format!("{} cannot be written", self.place().display()),
            error,
        )
    }

    fn unnamed(&self, name: &SafeName, error: io::Error) -> Error {
        failed(
            format!(
                "what has arrived is whole, in {}, and cannot be called {}",
                self.place().display(),
                name.as_str()
            ),
            error,
        )
    }
}

fn shown(target: &Target, name: &str) -> String {
    target.place(name).display().to_string()
}

/// One program writes at a time. The lock goes with the descriptor.
fn lock(file: &File, target: &Target, part: &str) -> Result<()> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
            Kind::NotYours,
            format!("another command is receiving {}", shown(target, part)),
        )),
        // A file system without locks: as before there were any.
        _ => Ok(()),
    }
}

/// The SHA-256 of a file's first bytes.
pub(super) fn digest_of(file: &File, length: u64) -> io::Result<Sha256Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        let most = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK);
        let read = file.read_at(&mut buffer[..most], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(&buffer[..read]);
        at += read as u64;
    }
    Ok(Sha256Digest(hash.finalize().into()))
}

/// The machine's run, as the kernel names it; nothing where it does not.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// What permissions this process gives nobody.
pub(super) fn umask() -> u32 {
    // Asking the kernel by the call would change it for a moment, for all threads.
    let mut status = String::new();
    let read =
        File::open("/proc/self/status").and_then(|mut file| file.read_to_string(&mut status));
    let mask = read.ok().and_then(|_| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Umask:"))?;
        u32::from_str_radix(line.trim(), 8).ok()
    });
    mask.unwrap_or(0o022)
}

/// A date, as what was changed last then.
pub(super) fn at(seconds: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        },
        last_modification: time,
    }
}

#[cfg(test)]
mod damaged;
#[cfg(test)]
#[path = "partial_tests.rs"]
mod tests;
