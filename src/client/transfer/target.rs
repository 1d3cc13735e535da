//! A folder that files arrive in. It is opened once and everything in it is reached through that
//! descriptor, so that whoever moves it, or puts a link in its place, sends nothing elsewhere; links in
//! it are never followed.
//!
//! Calls block for as long as the disk takes.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::SafeName;
use crate::client::error::{Error, Kind, Result};

/// Most files of one name in one folder. Who has more of them cannot get another.
const MOST_NUMBERED: u32 = 9999;

/// See the module's head.
#[derive(Debug)]
pub struct Target {
    folder: OwnedFd,
    path: PathBuf,
}

impl Target {
    /// Opens a folder that is there.
    ///
    /// # Errors
    /// [`Kind::Io`], with a sentence.
    pub fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)
            .map_err(|error| Error::io("the current folder cannot be read", &error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(folder) => Ok(Target { folder, path }),
            Err(error) => Err(failed(
                format!("the folder {} cannot be used", path.display()),
                error,
            )),
        }
    }

    /// Whether files can be made in it, found out before a contact is told yes.
    ///
    /// # Errors
    /// [`Kind::Io`], with a sentence.
    pub fn check_writable(&self) -> Result<()> {
        // By what the kernel thinks of us as we are, and of the file system.
        rustix::fs::accessat(
            &self.folder,
            c".",
            rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
            AtFlags::EACCESS,
        )
        .map_err(|error| {
            failed(
                format!(
                    "nothing can be written into the folder {}",
                    self.path.display()
                ),
                error,
            )
        })
    }

    /// Where it was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where something in it is, for people.
    pub fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Bytes that a user like ours can still write there.
    ///
    /// # Errors
    /// What the system says.
    pub fn room(&self) -> io::Result<u64> {
        let of = rustix::fs::fstatvfs(&self.folder)?;
        Ok(of.f_bavail.saturating_mul(of.f_frsize))
    }

    /// A new file, ours alone, to read and write; nothing where there is something of the name.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&self, name: &str) -> io::Result<Option<File>> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::EXIST) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A file that is there, to read and write. A link is an error.
    ///
    /// # Errors
    /// What the system says.
    pub fn reopen(&self, name: &str) -> io::Result<File> {
        // Not waiting for whoever else opens it, should it be a pipe by now.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.folder, name, flags, Mode::empty())?.into())
    }

    /// Gives what is called `from` its last name: the first of `name`, `name (2)`, … that nothing has,
    /// whoever else does the same at this moment.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::AlreadyExists`] when all are taken.
    pub fn settle(&self, from: &str, name: &SafeName) -> io::Result<String> {
        for number in 1..=MOST_NUMBERED {
            let to = name.numbered(number);
            match self.rename(from, &to) {
                Ok(()) => return Ok(to),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Renames and replaces nothing.
    fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        let folder = &self.folder;
        match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
            // File systems that cannot do that in one.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            answer => return answer,
        }
        match rustix::fs::linkat(folder, from, folder, to, AtFlags::empty()) {
            Ok(()) => return rustix::fs::unlinkat(folder, from, AtFlags::empty()),
            Err(Errno::EXIST) => return Err(Errno::EXIST),
            // Nor this: there are no links there, or it is a folder.
            Err(_) => {}
        }
        // Whatever makes a file of the name now fails, or is of our own user's doing.
        let is_folder = rustix::fs::statat(folder, from, AtFlags::SYMLINK_NOFOLLOW)
            .map(|of| rustix::fs::FileType::from_raw_mode(of.st_mode))?
            == rustix::fs::FileType::Directory;
        if is_folder {
            rustix::fs::mkdirat(folder, to, Mode::RWXU)?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(folder, to, flags, Mode::RUSR | Mode::WUSR)?;
        }
        rustix::fs::renameat(folder, from, folder, to)
    }

    /// Makes what was created and renamed in it last.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.folder)?)
    }

    /// Removes a file; one that is gone is removed.
    pub fn remove(&self, name: &str) {
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                tracing::warn!(%error, file = %self.place(name).display(), "it stays behind");
            }
        }
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// What a file system said, as an error of this library.
pub fn failed(what: impl std::fmt::Display, error: impl Into<io::Error>) -> Error {
    let error = error.into();
    let why = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full".to_owned(),
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "nothing can be written there".to_owned(),
        io::ErrorKind::FileTooLarge => {
            "files cannot become so large there, or for this user".to_owned()
        }
        _ => error.to_string(),
    };
    Error::new(Kind::Io, format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_ever_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let target = Target::open(home.path()).unwrap();
        std::fs::write(home.path().join("a.txt"), "old").unwrap();
        symlink("/nowhere", home.path().join("a (2).txt")).unwrap();
        let name = SafeName::of("a.txt");
        for expected in ["a (3).txt", "a (4).txt"] {
            target.create("a.txt.part").unwrap().expect("none is there");
            assert_eq!(target.create("a.txt.part").unwrap().map(drop), None);
            assert_eq!(target.settle("a.txt.part", &name).unwrap(), expected);
        }
        assert_eq!(std::fs::read(home.path().join("a.txt")).unwrap(), b"old");
        assert!(!home.path().join("a.txt.part").exists());
    }

    #[test]
    fn links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = home.path().join("elsewhere");
        std::fs::write(&elsewhere, "mine").unwrap();
        let dir = home.path().join("dir");
        std::fs::create_dir(&dir).unwrap();
        let target = Target::open(&dir).unwrap();
        symlink(&elsewhere, dir.join("x.part")).unwrap();
        assert!(target.create("x.part").unwrap().is_none());
        assert!(target.reopen("x.part").is_err());
        // The folder is the one that was opened, whatever has its name now.
        std::fs::rename(&dir, home.path().join("moved")).unwrap();
        symlink(home.path(), &dir).unwrap();
        target.create("y").unwrap().expect("none is there");
        assert!(home.path().join("moved/y").exists() && !home.path().join("y").exists());
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"mine");
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_said_so() {
        let home = tempfile::tempdir().unwrap();
        let missing = Target::open(&home.path().join("missing")).unwrap_err();
        assert!(missing.message.ends_with("it is not there"), "{missing}");
        std::fs::write(home.path().join("file"), "").unwrap();
        assert_eq!(
            Target::open(&home.path().join("file")).unwrap_err().kind,
            Kind::Io
        );
        let full = failed("a cannot be written", Errno::NOSPC);
        assert_eq!(full.message, "a cannot be written: the disk is full");
    }
}
