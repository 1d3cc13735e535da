//! The directory that Unix sockets lie in. Its permissions are the access control of Unix sockets,
//! so it is looked at anew for every socket, through a descriptor that cannot be swapped.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{FileType, Mode, OFlags, Stat, fstat, mkdir, open},
    io::Errno,
    process::geteuid,
};

use crate::model::Error;

/// Makes the directory if it is not there, and checks that nobody else can look into it or put
/// another in its place.
///
/// # Errors
/// `PermissionDenied` when it is a symbolic link, no directory, not ours or open to others, or
/// when others could rename it; what the system says when it cannot be made or opened.
pub fn ensure_private(directory: &Path) -> Result<(), Error> {
    if !directory.is_absolute() {
        return Err(refused(directory, "is not an absolute path"));
    }
    match mkdir(directory, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("cannot make", directory, error)),
    }
    let itself = open_directory(directory)?;
    let found = fstat(&itself).map_err(|error| failed("cannot examine", directory, error))?;
    check_private(directory, &found)?;
    examine_parent(directory)
}

/// Whether the directory is there, checked as [`ensure_private`] does it: for whoever looks for a
/// socket in it. Makes nothing.
///
/// # Errors
/// As [`ensure_private`].
pub fn is_there_and_private(directory: &Path) -> Result<bool, Error> {
    if existing(directory)?.is_none() {
        return Ok(false);
    }
    examine_parent(directory)?;
    Ok(true)
}

fn examine_parent(directory: &Path) -> Result<(), Error> {
    let Some(parent) = directory.parent() else {
        return Ok(());
    };
    let found = open(
        parent,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(fstat)
    .map_err(|error| failed("cannot examine", parent, error))?;
    check_parent(parent, &found)
}

/// The directory if it is there, checked as [`ensure_private`] does it.
///
/// # Errors
/// As [`ensure_private`].
pub(super) fn existing(directory: &Path) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Err(Errno::NOENT) = open(directory, flags, Mode::empty()) {
        return Ok(None);
    }
    let itself = open_directory(directory)?;
    let found = fstat(&itself).map_err(|error| failed("cannot examine", directory, error))?;
    check_private(directory, &found)?;
    Ok(Some(itself))
}

fn open_directory(directory: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(directory, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP => refused(directory, "is not a directory"),
        error => failed("cannot open", directory, error),
    })
}

fn check_private(directory: &Path, found: &Stat) -> Result<(), Error> {
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        return Err(refused(directory, "is not a directory"));
    }
    if found.st_uid != geteuid().as_raw() {
        return Err(refused(directory, "belongs to somebody else"));
    }
    if found.st_mode & 0o7777 != 0o700 {
        return Err(refused(
            directory,
            "is open to others (its mode is not 0700)",
        ));
    }
    Ok(())
}

/// A directory is as safe as the one it lies in: whoever may write there may rename it.
fn check_parent(parent: &Path, found: &Stat) -> Result<(), Error> {
    if found.st_uid != geteuid().as_raw() && found.st_uid != 0 {
        return Err(refused(parent, "belongs to somebody else"));
    }
    let others_write = found.st_mode & 0o022 != 0;
    let sticky = found.st_mode & 0o1000 != 0;
    if others_write && !sticky {
        return Err(refused(parent, "can be written by others"));
    }
    Ok(())
}

fn refused(directory: &Path, why: &str) -> Error {
    Error::PermissionDenied(format!(
        "no Unix socket is safe there: {} {why}",
        directory.display()
    ))
}

fn failed(doing: &str, directory: &Path, error: Errno) -> Error {
    super::socket_error(
        &format!("{doing} the directory {}", directory.display()),
        &io::Error::from(error),
    )
}
