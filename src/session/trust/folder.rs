//! A private directory and its files: what keys, trust and kept tubes lie in.
//!
//! The directory is 0700 and ours, its files 0600 and ours, neither is a symbolic link; anything
//! else is refused with a sentence that says what to do. A file is written beside its old self,
//! flushed, and renamed over it, so that a crash leaves the one or the other. All calls block for as
//! long as the disk takes.

use std::{
    fs::{DirBuilder, File},
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use actors::model::Error;
use rustix::{
    fs::{AtFlags, FlockOperation, Mode, OFlags},
    io::Errno,
};

/// An open directory; see the module's head.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    directory: OwnedFd,
}

impl Folder {
    /// Opens the directory, making it if there is none.
    ///
    /// # Errors
    /// `PermissionDenied` when it is not ours alone, `Confused` when the system fails.
    pub fn open(path: &Path) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| failed("cannot make", path, &error))?;
        match Folder::find(path)? {
            Some(folder) => Ok(folder),
            None => Err(failed("cannot open", path, &Errno::NOENT.into())),
        }
    }

    /// Opens the directory if it is there.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn find(path: &Path) -> Result<Option<Self>, Error> {
        let opened = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let directory = match opened {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(Error::PermissionDenied(format!(
                    "{} is not a directory; it holds keys and must be a directory of your own",
                    path.display()
                )));
            }
            Err(error) => return Err(failed("cannot open", path, &error.into())),
        };
        check_private(&directory, path)?;
        Ok(Some(Folder {
            path: path.to_owned(),
            directory,
        }))
    }

    /// The path of a file in it, for sentences.
    pub fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the exclusive `flock` of a file in it, made if there is none. Nothing when somebody has
    /// it; the kernel releases it when what this gives is dropped, or its process dies.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn lock(&self, name: &str) -> Result<Option<OwnedFd>, Error> {
        let path = self.place(name);
        let lock = rustix::fs::openat(
            &self.directory,
            name,
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
        .map_err(|error| failed("cannot open", &path, &error.into()))?;
        check_private(&lock, &path)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed("cannot lock", &path, &error.into())),
        }
    }

    /// What is in a file, of at most `most` bytes; one byte more is given of a larger one.
    ///
    /// # Errors
    /// `PermissionDenied` for a file that is not ours alone, `Confused` when the system fails.
    pub fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, Error> {
        let path = self.place(name);
        let file = match rustix::fs::openat(
            &self.directory,
            name,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed("cannot read", &path, &error.into())),
        };
        check_private(&file, &path)?;
        let mut bytes = Vec::new();
        File::from(file)
            .take(most + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| failed("cannot read", &path, &error))?;
        Ok(Some(bytes))
    }

    /// Replaces a file; it is on the disk when this returns.
    ///
    /// # Errors
    /// `Confused` when the system fails; the old file is then still there.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.place(name);
        // Whoever writes has the profile to himself, so one name is enough; what a crash left there
        // is overwritten.
        let temporary = format!("{name}.new");
        match rustix::fs::unlinkat(&self.directory, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed("cannot replace", &path, &error.into())),
        }
        let write = || -> std::io::Result<()> {
            let mut file = File::from(rustix::fs::openat(
                &self.directory,
                &temporary,
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::RUSR | Mode::WUSR,
            )?);
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            rustix::fs::renameat(&self.directory, &temporary, &self.directory, name)?;
            rustix::fs::fsync(&self.directory)?;
            Ok(())
        };
        write().map_err(|error| failed("cannot write", &path, &error))
    }

    /// Gives a file another name in the same directory, which nothing has yet.
    ///
    /// # Errors
    /// `Confused` when the system fails.
    pub fn set_aside(&self, name: &str, aside: &str) -> Result<(), Error> {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&self.directory, name, &self.directory, aside, flags)
            .map_err(|error| failed("cannot move away", &self.place(name), &error.into()))
    }
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::Confused(format!("{what} {}: {error}", path.display()))
}

/// Ours, and nobody else may so much as read it.
fn check_private(file: &OwnedFd, path: &Path) -> Result<(), Error> {
    let stat =
        rustix::fs::fstat(file).map_err(|error| failed("cannot look at", path, &error.into()))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Error::PermissionDenied(format!(
            "{} belongs to another user; it holds keys and must be yours",
            path.display()
        )));
    }
    if stat.st_mode & 0o077 != 0 {
        return Err(Error::PermissionDenied(format!(
            "other users may use {}; it holds keys: take their permission away with chmod go= {}",
            path.display(),
            path.display()
        )));
    }
    Ok(())
}
