//! The tar archive of a folder that came from a contact, unpacked where it can do no harm. It was verified
//! before: what is in it is what its sender wanted to be in it, which may be anything.
//!
//! - Every name is looked at part by part: no `..`, none that is empty, nothing absolute. What does not
//!   show as itself is replaced. Each part is opened below the one before it and never through a link.
//! - A symbolic link is made when everything else is there, and only if it stays inside: relative, with
//!   `..` at its beginning only and no more of them than it lies deep.
//! - Files, folders and such links: everything else (devices, pipes, hard links, sparse files) is left out.
//! - Permissions are those of the sender, without those that run a program as somebody else, and less
//!   what this user's umask takes; dates are the sender's.
//! - Bounds: [`MOST_ENTRIES`], [`MOST_DEPTH`], and no more bytes than the archive has.
//!
//! What is left out is counted and told. An archive that is damaged or beyond the bounds makes no folder at
//! all.

use std::{
    collections::HashMap,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use tar::EntryType;

use super::{
    Target,
    name::safe_component,
    partial::{at, umask},
    target::failed,
};
use crate::client::error::{Error, Kind, Result};

/// Most files, folders and links in one folder that is received.
pub const MOST_ENTRIES: u64 = 1_000_000;
/// Most folders in each other.
pub const MOST_DEPTH: usize = 100;
/// Longest target of a link that is made.
const MOST_LINK: usize = 4095;
/// Most folders that are kept open, so that a file costs one call and not one for each part of its path.
const MOST_OPEN: usize = 64;
/// How many that were left out are named.
const MOST_NAMED: usize = 5;

/// What became of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, folders and links that were made.
    pub entries: u64,
    /// How many were left out.
    pub left_out: u64,
    /// The first of them, by name.
    pub examples: Vec<String>,
    /// How many have another name than their sender gave them.
    pub renamed: u64,
}

/// Unpacks `archive` into a new folder `name` of `target`, which gets the date `modified`. A folder of
/// that name that is there already, from before a crash, is removed first.
///
/// # Errors
/// [`Kind::Io`], and [`Kind::BadAnswer`] for an archive that is none. What
/// was unpacked by then is removed.
pub fn unpack(
    archive: impl Read,
    target: &Target,
    name: &str,
    modified: Option<i64>,
) -> Result<Unpacked> {
    let shown = target.place(name).display().to_string();
    let unusable = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::Other => {
            Error::new(
                Kind::BadAnswer,
                format!("the folder that was sent cannot be unpacked: {error}"),
            )
        }
        _ => failed(format!("{shown} cannot be written"), error),
    };
    remove(target, name).map_err(&unusable)?;
    let unpacked = Unpacking::begin(target, name)
        .and_then(|unpacking| unpacking.run(archive, modified))
        .map_err(&unusable);
    if unpacked.is_err() {
        remove(target, name).unwrap_or_default();
    }
    unpacked
}

/// Removes a folder and all that is in it, without following links.
fn remove(target: &Target, name: &str) -> io::Result<()> {
    // The standard library's own does so.
    match std::fs::remove_dir_all(target.place(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        answer => answer,
    }
}

struct Unpacking {
    root: OwnedFd,
    /// Folders that are open, by their path below the root.
    open: HashMap<Vec<String>, OwnedFd>,
    /// Permissions and dates of folders, which are set when nothing more is put into them.
    folders: Vec<(Vec<String>, u32, i64)>,
    links: Vec<(Vec<String>, Vec<u8>)>,
    mask: u32,
    done: Unpacked,
}

impl Unpacking {
    fn begin(target: &Target, name: &str) -> io::Result<Self> {
        rustix::fs::mkdirat(target, name, Mode::RWXU)?;
        let root = rustix::fs::openat(target, name, FOLDER, Mode::empty())?;
        Ok(Unpacking {
            root,
            open: HashMap::new(),
            folders: Vec::new(),
            links: Vec::new(),
            mask: umask(),
            done: Unpacked::default(),
        })
    }

    fn run(mut self, archive: impl Read, modified: Option<i64>) -> io::Result<Unpacked> {
        let mut archive = tar::Archive::new(archive);
        let mut seen = 0;
        for entry in archive.entries()? {
            let mut entry = entry?;
            seen += 1;
            if seen > MOST_ENTRIES {
                return Err(io::Error::other(format!(
                    "it has more than {MOST_ENTRIES} files"
                )));
            }
            self.entry(&mut entry)?;
        }
        for (path, to) in std::mem::take(&mut self.links) {
            self.link(&path, &to)?;
        }
        // The innermost first: what is put into one changes its date.
        self.folders
            .sort_by_key(|(path, ..)| std::cmp::Reverse(path.len()));
        for (path, mode, modified) in std::mem::take(&mut self.folders) {
            let mode = mode & !self.mask | 0o700;
            dress(self.folder(&path)?, mode, modified)?;
        }
        let mask = self.mask;
        let root = self.folder(&[])?;
        rustix::fs::fchmod(root, (0o777 & !mask).into())?;
        if let Some(modified) = modified {
            rustix::fs::futimens(root, &at(modified))?;
        }
        // All of it at once: thousands of small files need not wait for the disk one by one.
        rustix::fs::syncfs(root)?;
        Ok(self.done)
    }

    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<()> {
        let given = entry.path_bytes().into_owned();
        let Some((path, renamed)) = path_of(&given) else {
            self.leave_out(&given);
            return Ok(());
        };
        if path.len() > MOST_DEPTH {
            return Err(io::Error::other(format!(
                "its folders are more than {MOST_DEPTH} deep"
            )));
        }
        let header = entry.header();
        let mode = header.mode().unwrap_or(0o644) & 0o777;
        let modified = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        match (header.entry_type(), path.split_last()) {
            // The folder itself.
            (EntryType::Directory, None) => return Ok(()),
            (EntryType::Directory, _) => {
                self.folder(&path)?;
                self.folders.push((path, mode, modified));
            }
            (EntryType::Regular | EntryType::Continuous, Some((name, parents))) => {
                let folder = self.folder(parents)?;
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let created =
                    rustix::fs::openat(folder, name.as_str(), flags, Mode::RUSR | Mode::WUSR);
                let file = match created {
                    Ok(file) => file,
                    // The same name twice: the first stays.
                    Err(Errno::EXIST) => {
                        self.leave_out(&given);
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                };
                let mut file = std::fs::File::from(file);
                io::copy(entry, &mut file)?;
                dress(&file, mode & !self.mask | 0o400, modified)?;
            }
            (EntryType::Symlink, Some((_, parents))) => {
                let to = entry.link_name_bytes().unwrap_or_default().into_owned();
                if !stays_inside(&to, parents.len()) {
                    self.leave_out(&given);
                    return Ok(());
                }
                self.links.push((path, to));
            }
            _ => {
                self.leave_out(&given);
                return Ok(());
            }
        }
        self.done.renamed += u64::from(renamed);
        self.done.entries += 1;
        Ok(())
    }

    fn link(&mut self, path: &[String], to: &[u8]) -> io::Result<()> {
        let Some((name, parents)) = path.split_last() else {
            return Ok(());
        };
        let folder = self.folder(parents)?;
        match rustix::fs::symlinkat(to, folder, name.as_str()) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                self.done.entries -= 1;
                self.leave_out(name.as_bytes());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The folder of this path, made where there is none; links are not followed, and where there is
    /// something else, the archive is damaged.
    fn folder(&mut self, path: &[String]) -> io::Result<&OwnedFd> {
        if path.is_empty() {
            return Ok(&self.root);
        }
        if !self.open.contains_key(path) {
            let mut from = path.len();
            while from > 0 && !self.open.contains_key(&path[..from]) {
                from -= 1;
            }
            let mut folder: Option<OwnedFd> = None;
            for (depth, part) in path.iter().enumerate().skip(from) {
                let above = match &folder {
                    Some(folder) => folder,
                    None => self.open.get(&path[..depth]).unwrap_or(&self.root),
                };
                match rustix::fs::mkdirat(above, part.as_str(), Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                folder = match rustix::fs::openat(above, part.as_str(), FOLDER, Mode::empty()) {
                    Ok(folder) => Some(folder),
                    Err(Errno::NOTDIR | Errno::LOOP) => {
                        return Err(io::Error::other("a file and a folder have one name"));
                    }
                    Err(error) => return Err(error.into()),
                };
            }
            if self.open.len() >= MOST_OPEN {
                self.open.clear();
            }
            if let Some(folder) = folder {
                self.open.insert(path.to_vec(), folder);
            }
        }
        Ok(self.open.get(path).unwrap_or(&self.root))
    }

    fn leave_out(&mut self, given: &[u8]) {
        self.done.left_out += 1;
        if self.done.examples.len() < MOST_NAMED {
            let name = String::from_utf8_lossy(given).into_owned();
            self.done.examples.push(name);
        }
    }
}

/// How folders are opened: as what they are, and never through a link.
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn dress(file: impl std::os::fd::AsFd, mode: u32, modified: i64) -> io::Result<()> {
    rustix::fs::fchmod(&file, mode.into())?;
    rustix::fs::futimens(&file, &at(modified))?;
    Ok(())
}

/// The parts of a path below the folder, and whether one has another name now; nothing for one that leads
/// elsewhere. `./` at its beginning is the folder itself.
fn path_of(given: &[u8]) -> Option<(Vec<String>, bool)> {
    if given.first() == Some(&b'/') {
        return None;
    }
    let mut renamed = false;
    let mut path = Vec::new();
    let parts = given.split(|byte| *byte == b'/');
    for part in parts.filter(|part| !part.is_empty() && **part != *b".") {
        let text = String::from_utf8_lossy(part);
        let safe = safe_component(&text)?;
        renamed |= safe.as_bytes() != part;
        path.push(safe);
    }
    Some((path, renamed))
}

/// Whether a link that lies so deep leads to something inside the folder, whatever other links there are:
/// what follows a name is below it, as long as no `..` comes behind.
fn stays_inside(to: &[u8], depth: usize) -> bool {
    if to.is_empty() || to.len() > MOST_LINK || to[0] == b'/' || to.contains(&0) {
        return false;
    }
    let mut up = 0;
    let mut named = false;
    for part in std::ffi::OsStr::from_bytes(to)
        .as_bytes()
        .split(|byte| *byte == b'/')
    {
        match part {
            b"" | b"." => {}
            b".." if named => return false,
            b".." => up += 1,
            _ => named = true,
        }
    }
    up <= depth
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, symlink},
        path::PathBuf,
    };

    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            let home = Home(tempfile::tempdir().unwrap());
            fs::create_dir(home.0.path().join("in")).unwrap();
            fs::write(home.0.path().join("outside"), "mine").unwrap();
            home
        }

        fn unpack(&self, archive: &[u8]) -> Result<Unpacked> {
            let target = Target::open(&self.0.path().join("in")).unwrap();
            unpack(archive, &target, "new", Some(5))
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join("in/new").join(name)
        }

        /// Everything below, by path.
        fn found(&self) -> Vec<String> {
            let root = self.0.path().join("in");
            let mut found = Vec::new();
            let mut folders = vec![root.clone()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    let below = path.strip_prefix(&root).unwrap();
                    found.push(below.display().to_string());
                    if fs::symlink_metadata(&path).unwrap().is_dir() {
                        folders.push(path);
                    }
                }
            }
            found.sort();
            found
        }

        fn is_untouched(&self) {
            assert_eq!(fs::read(self.0.path().join("outside")).unwrap(), b"mine");
            let beside = fs::read_dir(self.0.path()).unwrap().count();
            assert_eq!(beside, 2, "something was put beside the folder");
        }
    }

    /// An archive of entries whose names are taken as they are.
    struct Hostile(tar::Builder<Vec<u8>>);

    impl Hostile {
        fn new() -> Self {
            Hostile(tar::Builder::new(Vec::new()))
        }

        fn with(mut self, kind: EntryType, name: &str, link: &str, data: &[u8]) -> Self {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o6777);
            header.set_mtime(99);
            header.set_size(data.len() as u64);
            let old = header.as_old_mut();
            old.name[..name.len()].copy_from_slice(name.as_bytes());
            old.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            self.0.append(&header, data).unwrap();
            self
        }

        fn file(self, name: &str) -> Self {
            self.with(EntryType::Regular, name, "", b"evil")
        }

        fn bytes(self) -> Vec<u8> {
            self.0.into_inner().unwrap()
        }
    }

    #[test]
    fn paths_do_not_lead_elsewhere() {
        let home = Home::new();
        let outside = home.0.path().join("outside").display().to_string();
        let archive = Hostile::new()
            .file("../../outside")
            .file("a/../../../outside")
            .file(&outside)
            .file("..")
            .file("/")
            .file("good")
            .bytes();
        let unpacked = home.unpack(&archive).unwrap();
        assert_eq!((unpacked.entries, unpacked.left_out), (1, 5));
        assert_eq!(unpacked.examples.len(), MOST_NAMED);
        assert_eq!(home.found(), ["new", "new/good"]);
        home.is_untouched();
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let home = Home::new();
        let root = home.0.path().display().to_string();
        for to in [root.as_str(), "..", "../..", "."] {
            let archive = Hostile::new()
                .with(EntryType::Symlink, "way", to, b"")
                .file("way/outside")
                .bytes();
            // The folder that the file makes is there before the link.
            let unpacked = home.unpack(&archive).unwrap();
            assert_eq!(unpacked.left_out, 1, "{to}");
            assert!(
                fs::symlink_metadata(home.at("way")).unwrap().is_dir(),
                "{to}"
            );
            home.is_untouched();
        }
        // A file where a folder should be.
        let archive = Hostile::new().file("way").file("way/outside").bytes();
        assert_eq!(home.unpack(&archive).unwrap_err().kind, Kind::BadAnswer);
        assert_eq!(home.found(), Vec::<String>::new());
    }

    #[test]
    fn links_stay_inside() {
        for (to, depth) in [
            ("a", 0),
            ("./a/b", 0),
            ("../a", 1),
            ("../../a/./b", 2),
            (".", 0),
        ] {
            assert!(stays_inside(to.as_bytes(), depth), "{to}");
        }
        for (to, depth) in [
            ("..", 0),
            ("../a", 0),
            ("a/../b", 5),
            // Where `a` leads to the folder itself, it would be outside.
            ("a/..", 1),
            ("../../x", 1),
            ("/a", 3),
            ("", 1),
        ] {
            assert!(!stays_inside(to.as_bytes(), depth), "{to}");
        }
        let home = Home::new();
        let archive = Hostile::new()
            .with(EntryType::Symlink, "d/up", "../file", b"")
            .with(EntryType::Symlink, "bad", "/etc/passwd", b"")
            .file("file")
            .bytes();
        let unpacked = home.unpack(&archive).unwrap();
        assert_eq!((unpacked.entries, unpacked.left_out), (2, 1));
        assert_eq!(fs::read(home.at("d/up")).unwrap(), b"evil");
        assert_eq!(home.found(), ["new", "new/d", "new/d/up", "new/file"]);
    }

    #[test]
    fn only_files_folders_and_links_are_made() {
        let home = Home::new();
        let archive = Hostile::new()
            .file("a")
            .with(EntryType::Link, "hard", "a", b"")
            .with(EntryType::Char, "null", "", b"")
            .with(EntryType::Block, "disk", "", b"")
            .with(EntryType::Fifo, "pipe", "", b"")
            .with(EntryType::Directory, "folder", "", b"")
            .with(EntryType::GNUSparse, "sparse", "", b"")
            .file("a")
            .bytes();
        let unpacked = home.unpack(&archive);
        // A sparse file's map may make the archive no archive at all, which is as good.
        if let Ok(unpacked) = unpacked {
            assert_eq!((unpacked.entries, unpacked.left_out), (2, 6));
            assert_eq!(home.found(), ["new", "new/a", "new/folder"]);
            let mode = fs::metadata(home.at("a")).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o777 & !umask(), "{mode:o}");
            assert_eq!(fs::metadata(home.at("a")).unwrap().mtime(), 99);
            let mode = fs::metadata(home.at("folder")).unwrap().mode();
            assert_eq!(mode & 0o6000, 0);
        }
        home.is_untouched();
    }

    #[test]
    fn names_are_made_safe_and_counted() {
        let home = Home::new();
        let archive = Hostile::new().file("a\nb/c\x1b[2J").file(".hidden").bytes();
        let unpacked = home.unpack(&archive).unwrap();
        assert_eq!((unpacked.renamed, unpacked.left_out), (1, 0));
        assert_eq!(
            home.found(),
            ["new", "new/.hidden", "new/a_b", "new/a_b/c_[2J"]
        );
    }

    #[test]
    fn what_is_damaged_or_too_deep_makes_no_folder() {
        let home = Home::new();
        let deep = format!("{}f", "d/".repeat(MOST_DEPTH + 1));
        let mut long = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        long.append_data(&mut header, deep, io::empty()).unwrap();
        let mut cut = Hostile::new().file("a").bytes();
        cut.truncate(514);
        let noise = vec![7; 2048];
        for archive in [long.into_inner().unwrap(), cut, noise] {
            assert_eq!(home.unpack(&archive).unwrap_err().kind, Kind::BadAnswer);
            assert_eq!(home.found(), Vec::<String>::new());
        }
        home.is_untouched();
    }

    #[test]
    fn what_a_crash_left_is_removed_and_links_in_it_not_followed() {
        let home = Home::new();
        let old = home.at("old");
        fs::create_dir_all(&old).unwrap();
        symlink(home.0.path(), old.join("link")).unwrap();
        home.unpack(&Hostile::new().file("a").bytes()).unwrap();
        assert_eq!(home.found(), ["new", "new/a"]);
        home.is_untouched();
    }
}
