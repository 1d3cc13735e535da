//! A folder as a tar archive that is made while it is sent. What is in it is listed first, sorted, so that
//! its length is known, every byte has its place, and it can be made from any place on: the same folder is
//! the same archive.
//!
//! ```text
//!   header (512 bytes, more for long names) │ bytes of the file │ zeros to 512 │ header … │ 1024 zeros
//! ```
//!
//! Kept are names, permissions, dates (in seconds) and links as links; owners are not, and sockets, pipes
//! and devices are left out. Links are not followed, but for the folder itself. Bounds: those of whoever
//! unpacks it, [`MOST_ENTRIES`] and [`MOST_DEPTH`].
//!
//! Calls block for as long as the disk takes.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::{
    target::failed,
    unpack::{MOST_DEPTH, MOST_ENTRIES},
};
use crate::client::error::{Error, Kind, Result};

/// What an archive is made of.
const BLOCK: u64 = 512;
/// What it ends with.
const TRAILER: u64 = 2 * BLOCK;
/// Longest target of a link that is read.
const MOST_LINK: usize = 4096;

/// What is in a folder, and where each thing begins in the archive.
#[derive(Debug)]
pub struct Plan {
    root: OwnedFd,
    shown: PathBuf,
    entries: Vec<Entry>,
    length: u64,
    left_out: u64,
    modified: i64,
}

#[derive(Debug)]
struct Entry {
    /// Below the root; not empty.
    path: PathBuf,
    what: What,
    mode: u32,
    modified: i64,
    /// Where its header begins, and its bytes after that.
    begins: u64,
    data: u64,
}

#[derive(Debug)]
enum What {
    Folder,
    File { size: u64 },
    Link { to: Vec<u8> },
}

impl Entry {
    fn size(&self) -> u64 {
        match self.what {
            What::File { size } => size,
            _ => 0,
        }
    }

    /// Its header, with whatever a long name or link takes before it.
    fn header(&self) -> io::Result<Vec<u8>> {
        let mut header = Header::new_gnu();
        header.set_mode(self.mode);
        // A date before 1970 cannot be said.
        header.set_mtime(u64::try_from(self.modified).unwrap_or(0));
        header.set_size(self.size());
        let mut made = tar::Builder::new(Vec::new());
        match &self.what {
            What::Folder => {
                header.set_entry_type(EntryType::Directory);
                made.append_data(&mut header, self.path.join(""), io::empty())?;
            }
            What::File { .. } => {
                header.set_entry_type(EntryType::Regular);
                // The bytes come from elsewhere: only what stands before them is wanted.
                made.append_data(&mut header, &self.path, io::empty())?;
            }
            What::Link { to } => {
                header.set_entry_type(EntryType::Symlink);
                made.append_link(&mut header, &self.path, OsStr::from_bytes(to))?;
            }
        }
        // Without the end of an archive, which it would write when it is dropped.
        Ok(std::mem::take(made.get_mut()))
    }
}

impl Plan {
    /// Lists a folder.
    ///
    /// # Errors
    /// [`Kind::Io`] when something in it cannot be read, and
    /// [`Kind::ResourceUnavailable`] when there is too much in it.
    pub fn of(path: &Path) -> Result<Self> {
        let unreadable =
            |error: io::Error| failed(format!("{} cannot be read", path.display()), error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| unreadable(error.into()))?;
        let modified = rustix::fs::fstat(&root)
            .map_err(|error| unreadable(error.into()))?
            .st_mtime;
        let mut plan = Plan {
            root,
            shown: path.to_owned(),
            entries: Vec::new(),
            length: 0,
            left_out: 0,
            modified,
        };
        let root = rustix::io::fcntl_dupfd_cloexec(&plan.root, 0)
            .map_err(|error| unreadable(error.into()))?;
        plan.list(root, Path::new(""), 0)?;
        plan.place().map_err(unreadable)?;
        Ok(plan)
    }

    fn list(&mut self, folder: OwnedFd, below: &Path, depth: usize) -> Result<()> {
        let here = self.shown.join(below);
        let unreadable = |name: &OsStr, error: rustix::io::Errno| {
            failed(
                format!("{} cannot be read", here.join(name).display()),
                error,
            )
        };
        if depth > MOST_DEPTH {
            return Err(Error::new(
                Kind::ResourceUnavailable,
                format!("{} is more than {MOST_DEPTH} folders deep", here.display()),
            ));
        }
        let none = OsStr::new("");
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).map_err(|error| unreadable(none, error))? {
            let entry = entry.map_err(|error| unreadable(none, error))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        // Whatever order the file system has.
        names.sort();
        for name in names {
            if self.entries.len() as u64 >= MOST_ENTRIES {
                return Err(Error::new(
                    Kind::ResourceUnavailable,
                    format!(
                        "{} has more than {MOST_ENTRIES} files; send it as an archive",
                        self.shown.display()
                    ),
                ));
            }
            let of = match rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(of) => of,
                // It went away since the folder was listed.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(unreadable(&name, error)),
            };
            let path = below.join(&name);
            let what = match FileType::from_raw_mode(of.st_mode) {
                FileType::Directory => What::Folder,
                FileType::RegularFile => What::File {
                    size: u64::try_from(of.st_size).unwrap_or(0),
                },
                FileType::Symlink => {
                    let to = rustix::fs::readlinkat(&folder, &name, Vec::with_capacity(MOST_LINK))
                        .map_err(|error| unreadable(&name, error))?;
                    What::Link {
                        to: to.into_bytes(),
                    }
                }
                _ => {
                    self.left_out += 1;
                    continue;
                }
            };
            let is_folder = matches!(what, What::Folder);
            self.entries.push(Entry {
                path: path.clone(),
                what,
                mode: of.st_mode & 0o777,
                modified: of.st_mtime,
                begins: 0,
                data: 0,
            });
            if is_folder {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(&folder, &name, flags, Mode::empty())
                    .map_err(|error| unreadable(&name, error))?;
                self.list(inner, &path, depth + 1)?;
            }
        }
        Ok(())
    }

    fn place(&mut self) -> io::Result<()> {
        let mut at: u64 = 0;
        for entry in &mut self.entries {
            entry.begins = at;
            entry.data = at + entry.header()?.len() as u64;
            let end = entry.size().checked_next_multiple_of(BLOCK);
            at = end
                .and_then(|size| entry.data.checked_add(size))
                .ok_or_else(|| io::Error::other("it is larger than any archive can be"))?;
        }
        self.length = at + TRAILER;
        Ok(())
    }

    /// The archive's length.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// How many things are in it.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// How many are not: sockets, pipes and devices.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// When the folder itself was changed last.
    pub fn modified(&self) -> i64 {
        self.modified
    }

    /// A text that is the same as long as nothing in the folder has changed, as far as names, sizes,
    /// dates and permissions show it.
    pub fn identity(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        for entry in &self.entries {
            let name = entry.path.as_os_str().as_bytes();
            hash.update((name.len() as u64).to_be_bytes());
            hash.update(name);
            hash.update(entry.mode.to_be_bytes());
            hash.update(entry.modified.to_be_bytes());
            match &entry.what {
                What::Folder => hash.update(b"d"),
                What::File { size } => hash.update(size.to_be_bytes()),
                What::Link { to } => hash.update(to),
            }
        }
        hash.finalize().to_vec()
    }

    /// Writes the archive from `from` to `to` into `sink`, which takes a file's bytes in whichever way is
    /// best for it.
    ///
    /// # Errors
    /// [`Kind::Io`] when a file is not as it was when it was listed; what the sink says.
    pub fn write<S: Sink>(&self, from: u64, to: u64, sink: &mut S) -> Result<(), S::Error> {
        let first = self
            .entries
            .partition_point(|entry| entry.data + entry.size().next_multiple_of(BLOCK) <= from);
        for entry in &self.entries[first..] {
            if entry.begins >= to {
                break;
            }
            let header = entry
                .header()
                .map_err(|error| S::unreadable(self.changed(entry, error)))?;
            bytes(&header, entry.begins, from, to, sink)?;
            let size = entry.size();
            let end = entry.data + size;
            let (begin, stop) = (from.max(entry.data), to.min(end));
            if begin < stop {
                let file = self
                    .open(entry)
                    .map_err(|error| S::unreadable(self.changed(entry, error)))?;
                sink.file(&file, begin - entry.data, stop - begin).map_err(
                    |error| match error {
                        // The file ended before it should.
                        None => {
                            S::unreadable(self.changed(entry, io::ErrorKind::UnexpectedEof.into()))
                        }
                        Some(error) => error,
                    },
                )?;
            }
            let padding = [0; BLOCK as usize];
            let missing = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0);
            bytes(&padding[..missing], end, from, to, sink)?;
        }
        let trailer = [0; TRAILER as usize];
        bytes(&trailer, self.length - TRAILER, from, to, sink)
    }

    /// Opens a file as it was listed.
    fn open(&self, entry: &Entry) -> io::Result<File> {
        let mut above: Option<OwnedFd> = None;
        if let Some(parent) = entry.path.parent() {
            for part in parent {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let at = above.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
                above = Some(rustix::fs::openat(at, part, flags, Mode::empty())?);
            }
        }
        let name = entry.path.file_name().unwrap_or_default();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let at = above.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
        let file = File::from(rustix::fs::openat(at, name, flags, Mode::empty())?);
        let of = rustix::fs::fstat(&file)?;
        let same = FileType::from_raw_mode(of.st_mode) == FileType::RegularFile
            && u64::try_from(of.st_size).ok() == Some(entry.size())
            && of.st_mtime == entry.modified;
        if !same {
            return Err(io::Error::other("it has changed"));
        }
        Ok(file)
    }

    fn changed(&self, entry: &Entry, error: io::Error) -> Error {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "it has become shorter".to_owned(),
            io::ErrorKind::NotFound => "it is not there any more".to_owned(),
            _ => error.to_string(),
        };
        Error::new(
            Kind::Io,
            format!(
                "{} cannot be sent as it was when the folder was read ({why}); send the folder again",
                self.shown.join(&entry.path).display()
            ),
        )
    }

    /// The SHA-256 of the archive up to `offset`.
    ///
    /// # Errors
    /// As [`Plan::write`].
    pub fn digest(&self, offset: u64) -> Result<super::Sha256Digest> {
        let mut hashing = Hashing(Sha256::new());
        self.write(0, offset.min(self.length), &mut hashing)?;
        Ok(super::Sha256Digest(hashing.0.finalize().into()))
    }
}

/// Where bytes of an archive go.
pub trait Sink {
    /// What goes wrong with it.
    type Error;

    /// What says that the folder could not be read.
    fn unreadable(error: Error) -> Self::Error;

    /// These bytes.
    ///
    /// # Errors
    /// Its own.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// These of a file.
    ///
    /// # Errors
    /// Its own, and nothing when the file has ended before them.
    fn file(&mut self, file: &File, from: u64, length: u64) -> Result<(), Option<Self::Error>>;
}

/// What of `text`, which stands at `at`, lies between `from` and `to`.
fn bytes<S: Sink>(text: &[u8], at: u64, from: u64, to: u64, sink: &mut S) -> Result<(), S::Error> {
    let (begin, end) = (from.max(at), to.min(at + text.len() as u64));
    if begin >= end {
        return Ok(());
    }
    let index = |place: u64| usize::try_from(place - at).unwrap_or(text.len());
    sink.bytes(&text[index(begin)..index(end)])
}

struct Hashing(Sha256);

impl Sink for Hashing {
    type Error = Error;

    fn unreadable(error: Error) -> Error {
        error
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.update(bytes);
        Ok(())
    }

    fn file(&mut self, mut file: &File, from: u64, length: u64) -> Result<(), Option<Error>> {
        use std::io::Seek as _;
        let read = file
            .seek(io::SeekFrom::Start(from))
            .and_then(|_| io::copy(&mut file.take(length), &mut self.0))
            .map_err(|error| Some(Error::io("a file in the folder cannot be read", &error)))?;
        if read < length { Err(None) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    };

    use super::{
        super::{Target, unpack::unpack},
        *,
    };

    /// Keeps what it gets.
    struct Kept(Vec<u8>);

    impl Sink for Kept {
        type Error = Error;

        fn unreadable(error: Error) -> Error {
            error
        }

        fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }

        fn file(&mut self, file: &File, from: u64, length: u64) -> Result<(), Option<Error>> {
            use std::os::unix::fs::FileExt as _;
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            file.read_exact_at(&mut bytes, from).map_err(|_| None)?;
            self.0.extend_from_slice(&bytes);
            Ok(())
        }
    }

    fn tree() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at("b/empty")).unwrap();
        fs::write(at("b/run"), vec![5; 1000]).unwrap();
        fs::set_permissions(at("b/run"), fs::Permissions::from_mode(0o754)).unwrap();
        fs::write(at("a"), "").unwrap();
        fs::write(at(".hidden"), vec![6; 512]).unwrap();
        let long = "long".repeat(40);
        fs::create_dir(at(&long)).unwrap();
        fs::write(at(&long).join("x"), "deep").unwrap();
        symlink("b/run", at("link")).unwrap();
        symlink("y".repeat(200), at("z")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        home
    }

    fn all(plan: &Plan, from: u64) -> Vec<u8> {
        let mut kept = Kept(Vec::new());
        plan.write(from, plan.length(), &mut kept).unwrap();
        kept.0
    }

    #[test]
    fn a_folder_comes_out_as_it_went_in() {
        let home = tree();
        let plan = Plan::of(home.path()).unwrap();
        let archive = all(&plan, 0);
        assert_eq!(archive.len() as u64, plan.length());
        assert_eq!((plan.entries(), plan.left_out()), (9, 1));
        let place = tempfile::tempdir().unwrap();
        let target = Target::open(place.path()).unwrap();
        let unpacked = unpack(&archive[..], &target, "tree", Some(plan.modified())).unwrap();
        assert_eq!((unpacked.entries, unpacked.left_out), (9, 0));
        // What is made of it is the same archive, but for permissions that the umask takes.
        let again = Plan::of(&place.path().join("tree")).unwrap();
        assert_eq!(again.length(), plan.length());
        let run = fs::metadata(place.path().join("tree/b/run")).unwrap();
        assert_eq!(run.mode() & 0o7777, 0o754 & !super::super::partial::umask());
        let was = fs::metadata(home.path().join("b")).unwrap().mtime();
        let folder = fs::metadata(place.path().join("tree/b")).unwrap();
        assert_eq!(folder.mtime(), was);
        assert_eq!(
            fs::read_link(place.path().join("tree/link")).unwrap(),
            Path::new("b/run")
        );
        assert!(place.path().join("tree/b/empty").is_dir());
    }

    #[test]
    fn it_can_be_made_from_any_place_on() {
        let home = tree();
        let plan = Plan::of(home.path()).unwrap();
        let archive = all(&plan, 0);
        for from in (0..archive.len()).step_by(97).chain([archive.len()]) {
            let rest = all(&plan, from as u64);
            assert!(rest == archive[from..], "from {from}");
            let expected: [u8; 32] = Sha256::digest(&archive[..from]).into();
            let digest = plan.digest(from as u64).unwrap();
            assert_eq!(digest, super::super::Sha256Digest(expected));
        }
        assert_eq!(Plan::of(home.path()).unwrap().identity(), plan.identity());
    }

    #[test]
    fn what_has_changed_is_not_sent_as_something_else() {
        let home = tree();
        let plan = Plan::of(home.path()).unwrap();
        let mut kept = Kept(Vec::new());
        fs::write(home.path().join("b/run"), "short").unwrap();
        let error = plan.write(0, plan.length(), &mut kept).unwrap_err();
        assert!(error.message.contains("b/run"), "{error}");
        assert_ne!(Plan::of(home.path()).unwrap().identity(), plan.identity());
        // A link in its place is not followed.
        fs::remove_file(home.path().join("b/run")).unwrap();
        symlink("../a", home.path().join("b/run")).unwrap();
        assert!(plan.write(0, plan.length(), &mut kept).is_err());
    }

    #[test]
    fn tar_itself_understands_it() {
        let home = tree();
        let plan = Plan::of(home.path()).unwrap();
        let archive = all(&plan, 0);
        let mut tar = std::process::Command::new("tar")
            .args(["--list", "--verbose"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("tar is part of every system");
        std::io::Write::write_all(&mut tar.stdin.take().unwrap(), &archive).unwrap();
        let output = tar.wait_with_output().unwrap();
        assert!(output.status.success());
        let listed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(listed.lines().count(), 9, "{listed}");
        assert!(
            listed.contains("-rwxr-xr-- 0/0") && listed.contains("link -> b/run"),
            "{listed}"
        );
    }
}
