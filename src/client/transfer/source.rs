//! What is sent: a file, a folder, or a pipe.
//!
//! Calls block for as long as the disk, the pipe, or who reads the socket takes.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{
    Offer, Resume, Shape, TransferId,
    archive::{Plan, Sink},
    name::plain,
    partial::digest_of,
    spool::Spool,
    target::failed,
};
use crate::client::error::{Error, Kind, Result};

/// Most bytes that go in one call; who asks to stop waits for no more.
const CHUNK: u64 = 1024 * 1024;
/// The content type of what can be anything.
const ANYTHING: &str = "application/octet-stream";
/// And of a folder.
const ARCHIVE: &str = "application/x-tar";

/// See the module's head.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    what: What,
}

#[derive(Debug)]
enum What {
    File {
        file: File,
        size: u64,
        modified: i64,
        nanoseconds: i64,
        mode: u32,
    },
    Folder(Plan),
    Pipe(Arc<Spool>),
}

/// Why a source did not come out whole.
#[derive(Debug)]
pub(super) enum Cut {
    /// It is not what it was, or cannot be read: to try again does not help.
    Source(Error),
    /// The socket broke, whose other end knows why.
    Socket,
}

/// Where bytes go and how many have gone.
#[derive(Debug)]
pub(super) struct Outlet {
    pub socket: File,
    /// Where in the file it is.
    pub at: AtomicU64,
    /// Nobody waits for it any more.
    pub off: AtomicBool,
}

impl Source {
    /// A file or a folder; a link is what it leads to.
    ///
    /// # Errors
    /// [`Kind::Io`] when it cannot be read, [`Kind::InvalidArgument`] when
    /// it is neither.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = |error| failed(format!("{} cannot be read", path.display()), error);
        let full = std::fs::canonicalize(path).map_err(unreadable)?;
        let metadata = std::fs::metadata(&full).map_err(unreadable)?;
        let what = if metadata.is_dir() {
            What::Folder(Plan::of(&full)?)
        } else if metadata.is_file() {
            // Should it be a pipe by now, nobody waits for its other end.
            let nonblocking = rustix::fs::OFlags::NONBLOCK.bits();
            let mut options = File::options();
            options
                .read(true)
                .custom_flags(i32::try_from(nonblocking).unwrap_or(0));
            let file = options.open(&full).map_err(unreadable)?;
            let metadata = file.metadata().map_err(unreadable)?;
            What::File {
                file,
                size: metadata.len(),
                modified: metadata.mtime(),
                nanoseconds: metadata.mtime_nsec(),
                mode: metadata.mode() & 0o777,
            }
        } else {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!(
                    "{} is neither a file nor a folder; a pipe is sent as `-` with --name",
                    path.display()
                ),
            ));
        };
        Ok(Source { path: full, what })
    }

    /// What comes by `pipe`; a part of it is kept in a file without a name in `folder`. A thread of its own
    /// reads it as it is sent.
    ///
    /// # Errors
    /// [`Kind::Io`] when there is no room for that.
    pub fn pipe(pipe: impl io::Read + Send + 'static, folder: &Path) -> Result<Self> {
        let spool = Spool::new(folder).map_err(|error| {
            failed(
                format!("a part of the pipe cannot be kept in {}", folder.display()),
                error,
            )
        })?;
        let spool = Arc::new(spool);
        let filling = spool.clone();
        // It may wait for the pipe for ever, and ends with the process.
        smol::unblock(move || filling.fill(pipe)).detach();
        Ok(Source {
            path: PathBuf::from("-"),
            what: What::Pipe(spool),
        })
    }

    /// Where it is, with links followed; `-` for a pipe.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size as it travels, where that is known.
    pub fn size(&self) -> Option<u64> {
        match &self.what {
            What::File { size, .. } => Some(*size),
            What::Folder(plan) => Some(plan.length()),
            What::Pipe(_) => None,
        }
    }

    /// Of a folder: how many things are in it, and how many of them are not sent.
    pub fn counts(&self) -> Option<(usize, u64)> {
        match &self.what {
            What::Folder(plan) => Some((plan.entries(), plan.left_out())),
            _ => None,
        }
    }

    /// What tells it apart from another, and from itself once it has changed, for
    /// [`Records::sending`](super::Records::sending); nothing for a pipe, which is never the same.
    pub fn identity(&self) -> Option<Vec<Vec<u8>>> {
        let path = self.path.as_os_str().as_bytes().to_vec();
        match &self.what {
            What::File {
                size,
                modified,
                nanoseconds,
                ..
            } => Some(vec![
                path,
                format!("{size} {modified} {nanoseconds}").into_bytes(),
            ]),
            What::Folder(plan) => Some(vec![path, plan.identity()]),
            What::Pipe(_) => None,
        }
    }

    /// What is said of it. Its own name is used where none is given; what of it does not show is
    /// replaced.
    pub fn offer(&self, name: Option<&str>, id: TransferId) -> Offer {
        let own = self.path.file_name().unwrap_or_default().to_string_lossy();
        let mut name = plain(name.unwrap_or(&own));
        if name.is_empty() {
            // The root of the file system has none.
            name = "folder".to_owned();
        }
        let offer = Offer {
            name,
            content_type: ANYTHING.to_owned(),
            size: self.size(),
            modified: None,
            mode: None,
            shape: Shape::File,
            id: Some(id),
        };
        match &self.what {
            What::File { modified, mode, .. } => Offer {
                modified: Some(*modified).filter(|modified| *modified > 0),
                mode: Some(*mode),
                ..offer
            },
            What::Folder(plan) => Offer {
                name: format!("{}.tar", offer.name),
                content_type: ARCHIVE.to_owned(),
                modified: Some(plan.modified()).filter(|modified| *modified > 0),
                shape: Shape::Folder,
                ..offer
            },
            What::Pipe(_) => offer,
        }
    }

    /// Where to begin for a contact that asks for this: there, if what it has is what we have, else at
    /// the beginning.
    ///
    /// # Errors
    /// When it cannot be read, or is a pipe whose beginning is gone.
    pub(super) fn begin(&self, asked: &Resume) -> Result<u64> {
        let agrees = match (&self.what, asked.stored) {
            _ if asked.offset == 0 => return self.the_beginning(),
            _ if self.size().is_some_and(|size| asked.offset > size) => false,
            // Whoever asks without saying what it has knows what it does.
            (What::File { .. } | What::Folder(_), None) => true,
            (What::File { file, .. }, Some(stored)) => {
                digest_of(file, asked.offset).map_err(|error| self.unreadable(error))? == stored
            }
            (What::Folder(plan), Some(stored)) => plan.digest(asked.offset)? == stored,
            (What::Pipe(spool), stored) => {
                let ours = spool
                    .digest(asked.offset)
                    .map_err(|error| self.unreadable(error))?;
                ours.is_some_and(|ours| stored.is_none_or(|stored| stored == ours))
            }
        };
        if agrees {
            Ok(asked.offset)
        } else {
            self.the_beginning()
        }
    }

    fn the_beginning(&self) -> Result<u64> {
        match &self.what {
            What::Pipe(spool) if !spool.has_beginning() => Err(Error::new(
                Kind::Io,
                "a pipe can be read only once, and what the contact lacks of it is not kept any more; send it anew",
            )),
            _ => Ok(0),
        }
    }

    /// Writes all from `from` on.
    pub(super) fn copy(&self, from: u64, outlet: &Outlet) -> Result<(), Cut> {
        outlet.at.store(from, Ordering::Relaxed);
        match &self.what {
            What::File { file, size, .. } => {
                outlet.file(file, from, size.saturating_sub(from))?;
                self.unchanged()
            }
            What::Folder(plan) => {
                let mut outlet = outlet;
                plan.write(from, plan.length(), &mut outlet)
            }
            What::Pipe(spool) => {
                let mut buffer = vec![0; CHUNK as usize / 4];
                let mut at = from;
                loop {
                    let off = || outlet.off.load(Ordering::Relaxed);
                    let next = spool.next(at, &mut buffer, off);
                    let read = next.map_err(|why| Cut::Source(Error::new(Kind::Io, why)))?;
                    if read == 0 {
                        return if off() { Err(Cut::Socket) } else { Ok(()) };
                    }
                    outlet.all(&buffer[..read])?;
                    at += read as u64;
                }
            }
        }
    }

    /// Has a thread that waits in [`Source::copy`] for a pipe look whether it is off.
    pub(super) fn wake(&self) {
        if let What::Pipe(spool) = &self.what {
            spool.wake();
        }
    }

    /// What has been sent is what the file is. One that has only grown is sent as it was.
    fn unchanged(&self) -> Result<(), Cut> {
        let What::File {
            file,
            size,
            modified,
            nanoseconds,
            ..
        } = &self.what
        else {
            return Ok(());
        };
        let now = file
            .metadata()
            .map_err(|error| Cut::Source(self.unreadable(error)))?;
        let same = (now.mtime(), now.mtime_nsec()) == (*modified, *nanoseconds);
        if same || now.len() > *size {
            return Ok(());
        }
        Err(Cut::Source(self.changed()))
    }

    fn changed(&self) -> Error {
        Error::new(
            Kind::Io,
            format!(
                "{} changed while it was sent; send it again",
                self.path.display()
            ),
        )
    }

    fn unreadable(&self, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.changed();
        }
        failed(format!("{} cannot be read", self.path.display()), error)
    }
}

impl Outlet {
    /// All of these bytes.
    fn all(&self, bytes: &[u8]) -> Result<(), Cut> {
        (&self.socket).write_all(bytes).map_err(|_| Cut::Socket)?;
        self.at.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// These of a file, without their passing through this program.
    fn file(&self, file: &File, from: u64, length: u64) -> Result<(), Cut> {
        match self.file_or_end(file, from, length) {
            Ok(()) => Ok(()),
            Err(Some(cut)) => Err(cut),
            Err(None) => Err(Cut::Source(Error::new(
                Kind::Io,
                "the file became shorter while it was sent; send it again",
            ))),
        }
    }

    fn file_or_end(&self, file: &File, from: u64, length: u64) -> Result<(), Option<Cut>> {
        let mut at = from;
        let end = from.saturating_add(length);
        while at < end {
            if self.off.load(Ordering::Relaxed) {
                return Err(Some(Cut::Socket));
            }
            let most = usize::try_from((end - at).min(CHUNK)).unwrap_or(usize::MAX);
            let sent = match rustix::fs::sendfile(&self.socket, file, Some(&mut at), most) {
                Ok(sent) => sent,
                Err(rustix::io::Errno::INTR) => continue,
                // Some file systems cannot; some cannot read this file, which reading it will say.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                    return self.read_and_write(file, at, end);
                }
                Err(rustix::io::Errno::IO) => return Err(Some(Cut::Source(broken_disk()))),
                Err(_) => return Err(Some(Cut::Socket)),
            };
            if sent == 0 {
                return Err(None);
            }
            self.at.fetch_add(sent as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn read_and_write(&self, file: &File, mut at: u64, end: u64) -> Result<(), Option<Cut>> {
        let mut buffer = vec![0; CHUNK as usize];
        while at < end {
            let most = usize::try_from((end - at).min(CHUNK)).unwrap_or(usize::MAX);
            let read = file.read_at(&mut buffer[..most], at);
            match read.map_err(|_| Some(Cut::Source(broken_disk())))? {
                0 => return Err(None),
                read => {
                    self.all(&buffer[..read])?;
                    at += read as u64;
                }
            }
        }
        Ok(())
    }
}

fn broken_disk() -> Error {
    Error::new(Kind::Io, "the file cannot be read: the disk fails")
}

impl Sink for &Outlet {
    type Error = Cut;

    fn unreadable(error: Error) -> Cut {
        Cut::Source(error)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        self.all(bytes)
    }

    fn file(&mut self, file: &File, from: u64, length: u64) -> Result<(), Option<Cut>> {
        self.file_or_end(file, from, length)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Read as _,
        os::{fd::OwnedFd, unix::net::UnixStream},
    };

    use sha2::{Digest as _, Sha256};

    use super::{super::Sha256Digest, *};

    /// What comes out of it from there on.
    fn out(source: &Source, from: u64) -> (Result<(), Cut>, Vec<u8>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).map(|_| all).unwrap()
        });
        let outlet = Outlet {
            socket: OwnedFd::from(ours).into(),
            at: AtomicU64::new(0),
            off: AtomicBool::new(false),
        };
        let copied = source.copy(from, &outlet);
        drop(outlet);
        (copied, reading.join().unwrap())
    }

    fn asked(offset: u64, of: &[u8]) -> Resume {
        let digest: [u8; 32] = Sha256::digest(of).into();
        Resume {
            offset,
            stored: Some(Sha256Digest(digest)),
        }
    }

    #[test]
    fn a_file_is_sent_from_where_the_contact_has_the_same() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let source = Source::open(&path).unwrap();
        assert_eq!(source.begin(&Resume::default()).unwrap(), 0);
        assert_eq!(source.begin(&asked(7, &bytes[..7])).unwrap(), 7);
        assert_eq!(source.begin(&asked(7, b"another")).unwrap(), 0);
        assert_eq!(source.begin(&asked(3_000_001, &bytes)).unwrap(), 0);
        let trusting = Resume {
            offset: 9,
            stored: None,
        };
        assert_eq!(source.begin(&trusting).unwrap(), 9);
        for from in [0, 1_500_001, 3_000_000] {
            let (copied, out) = out(&source, from as u64);
            assert!(copied.is_ok() && out == bytes[from..], "{from}");
        }
    }

    #[test]
    fn a_file_that_changes_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        let written = |bytes: &[u8], age: u64| {
            fs::write(&path, bytes).unwrap();
            let date = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 - age);
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(date).unwrap();
        };
        written(b"12345", 9);
        let source = Source::open(&path).unwrap();
        let identity = source.identity();
        written(b"123", 8);
        assert!(matches!(out(&source, 0).0, Err(Cut::Source(_))), "shorter");
        assert_ne!(Source::open(&path).unwrap().identity(), identity);
        written(b"54321", 7);
        assert!(matches!(out(&source, 0).0, Err(Cut::Source(_))), "another");
        written(b"12345678", 6);
        let (copied, bytes) = out(&source, 0);
        assert!(copied.is_ok() && bytes == b"12345", "longer is as it was");
    }

    #[test]
    fn a_pipe_goes_on_from_what_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let source = Source::pipe(&b"what came by it"[..], home.path()).unwrap();
        assert_eq!((source.size(), source.identity()), (None, None));
        let (copied, bytes) = out(&source, 0);
        assert!(copied.is_ok() && bytes == b"what came by it");
        assert_eq!(source.begin(&asked(5, b"what ")).unwrap(), 5);
        assert_eq!(source.begin(&asked(5, b"that ")).unwrap(), 0);
        assert_eq!(out(&source, 5).1, b"came by it");
    }

    #[test]
    fn what_is_sent_has_a_name_that_shows() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a\nb");
        fs::write(&path, "").unwrap();
        let id = actors::model::BytestreamId([1; 16]);
        let offer = Source::open(&path).unwrap().offer(None, id);
        assert_eq!((offer.name.as_str(), offer.size), ("a_b", Some(0)));
        let folder = Source::open(home.path()).unwrap().offer(Some("mine"), id);
        assert_eq!(
            (folder.name.as_str(), folder.shape),
            ("mine.tar", Shape::Folder)
        );
        assert!(Source::open(Path::new("/dev/null")).is_err());
        let missing = Source::open(&home.path().join("missing")).unwrap_err();
        assert!(missing.message.ends_with("it is not there"), "{missing}");
    }
}
