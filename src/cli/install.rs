//! `pneuma install`: the two programs and the files that let D-Bus, systemd and Telepathy clients
//! find them, manual pages and completions, below a prefix. Packagers stage with `--destdir` (or
//! DESTDIR), which is no part of the paths in the files.

use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    Outside,
    app::App,
    failure::{Failure, Outcome},
    pages,
    text::safe,
};
use crate::packaging::{COMMAND, Layout, SERVICE_PROGRAM};

/// What `install` was asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Where things will live.
    pub prefix: PathBuf,
    /// What is put before every path that is written.
    pub destdir: Option<PathBuf>,
    /// Where the service's program will live, if not in the usual place.
    pub libexecdir: Option<PathBuf>,
    /// Where the built programs are, if not beside this one.
    pub from: Option<PathBuf>,
    /// Only say what would be written.
    pub dry_run: bool,
}

/// One file to write.
struct Piece {
    to: PathBuf,
    what: What,
    mode: u32,
}

enum What {
    Copy(PathBuf),
    Text(String),
}

/// Installs.
///
/// # Errors
/// Before anything is written: programs that are not built, a prefix the files cannot carry.
/// While writing: what the file system says. What was written before then stays.
pub fn run(app: &App, outside: Outside, wish: &Wish) -> Outcome {
    let pieces = plan(outside, wish)?;
    for piece in &pieces {
        if !wish.dry_run {
            write(piece).map_err(|error| {
                Failure::failed(format!("{} cannot be written: {error}", piece.to.display()))
            })?;
        }
        app.out.line(safe(&piece.to.display().to_string()))?;
    }
    app.out.record(&json!({
        "written": !wish.dry_run,
        "files": pieces
            .iter()
            .map(|piece| piece.to.display().to_string())
            .collect::<Vec<_>>(),
    }))?;
    if wish.destdir.is_none() && !wish.dry_run {
        let share = wish.prefix.join("share");
        let searched = std::env::var("XDG_DATA_DIRS").unwrap_or_default();
        if !is_searched(&share, &searched, &data_home()) {
            app.out.remark(format!(
                "D-Bus and Telepathy clients do not look into {}; add it to XDG_DATA_DIRS of your session.",
                safe(&share.display().to_string())
            ));
        }
    }
    Ok(())
}

/// Everything there is to write.
fn plan(outside: Outside, wish: &Wish) -> Outcome<Vec<Piece>> {
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|error| Failure::failed(format!("the current folder cannot be read: {error}")))
    };
    let mut layout = Layout::new(absolute(&wish.prefix)?);
    if let Some(libexecdir) = &wish.libexecdir {
        layout.libexecdir = absolute(libexecdir)?;
    }
    let from = match &wish.from {
        Some(from) => absolute(from)?,
        None => std::env::current_exe()
            .ok()
            .and_then(|own| own.parent().map(Path::to_owned))
            .ok_or_else(|| {
                Failure::failed("this program cannot tell where it is; say so with --from")
            })?,
    };
    let mut pieces = Vec::new();
    for (name, to) in [
        (COMMAND, layout.command()),
        (SERVICE_PROGRAM, layout.service_program()),
    ] {
        let program = from.join(name);
        if !program.is_file() {
            return Err(Failure::failed(format!(
                "there is no {name} in {}; build both programs first with `cargo build --release`",
                from.display()
            )));
        }
        pieces.push(Piece {
            to,
            what: What::Copy(program),
            mode: 0o755,
        });
    }
    let files = layout
        .files()
        .map_err(|error| Failure::usage(error.to_string()))?;
    let pages = pages::files(&layout.prefix, outside)?;
    pieces.extend(files.into_iter().chain(pages).map(|(to, text)| Piece {
        to,
        what: What::Text(text),
        mode: 0o644,
    }));
    if let Some(destdir) = &wish.destdir {
        let destdir = absolute(destdir)?;
        for piece in &mut pieces {
            piece.to = below(&destdir, &piece.to);
        }
    }
    Ok(pieces)
}

/// An absolute path below another folder.
fn below(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path.strip_prefix("/").unwrap_or(path))
}

/// Writes beside the target and renames, so that a program that runs is replaced and nobody ever
/// sees half a file.
fn write(piece: &Piece) -> std::io::Result<()> {
    let folder = piece.to.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(piece.to.file_name().unwrap_or_default());
    name.push(".new");
    let beside = folder.join(name);
    let written = (|| {
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(piece.mode)
            .open(&beside)?;
        match &piece.what {
            What::Copy(from) => {
                std::io::copy(&mut std::fs::File::open(from)?, &mut file)?;
            }
            What::Text(text) => file.write_all(text.as_bytes())?,
        }
        // Whatever the umask took away: others run and read what is installed.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(piece.mode))?;
        file.sync_all()?;
        std::fs::rename(&beside, &piece.to)
    })();
    if written.is_err() {
        // What went wrong first is what is told.
        std::fs::remove_file(&beside).unwrap_or_default();
    }
    written
}

/// Whether a data folder is among those that sessions look into (XDG base directories).
fn is_searched(share: &Path, data_dirs: &str, data_home: &Path) -> bool {
    let dirs = if data_dirs.is_empty() {
        "/usr/local/share:/usr/share"
    } else {
        data_dirs
    };
    share == data_home || dirs.split(':').any(|dir| Path::new(dir) == share)
}

fn data_home() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    variable("XDG_DATA_HOME").map_or_else(
        || PathBuf::from(variable("HOME").unwrap_or_default()).join(".local/share"),
        PathBuf::from,
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const OUTSIDE: Outside = Outside {
        service: |_| std::process::ExitCode::SUCCESS,
        service_command: || clap::Command::new(SERVICE_PROGRAM),
    };

    fn built() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in [COMMAND, SERVICE_PROGRAM] {
            std::fs::write(folder.path().join(name), name).expect("a program");
        }
        folder
    }

    fn wish(from: &Path, prefix: &Path, destdir: Option<&Path>) -> Wish {
        Wish {
            prefix: prefix.to_owned(),
            destdir: destdir.map(Path::to_owned),
            libexecdir: None,
            from: Some(from.to_owned()),
            dry_run: false,
        }
    }

    #[test]
    fn everything_lands_below_the_staging_folder_with_the_final_paths_inside() {
        let (from, stage) = (built(), built());
        let pieces = plan(
            OUTSIDE,
            &wish(from.path(), Path::new("/opt/p"), Some(stage.path())),
        )
        .expect("everything is there");
        for piece in &pieces {
            assert!(piece.to.starts_with(stage.path()), "{:?}", piece.to);
            write(piece).expect("it can be written");
            let mode = std::fs::metadata(&piece.to)
                .expect("it is there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, piece.mode);
        }
        // Once more: what is there is replaced.
        pieces
            .iter()
            .try_for_each(write)
            .expect("it can be written again");
        let read = |path: &str| {
            std::fs::read_to_string(stage.path().join(path))
                .unwrap_or_else(|e| panic!("{path}: {e}"))
        };
        assert_eq!(read("opt/p/bin/pneuma"), "pneuma");
        assert_eq!(read("opt/p/libexec/telepathy-pneuma"), "telepathy-pneuma");
        let activation = read(
            "opt/p/share/dbus-1/services/org.freedesktop.Telepathy.ConnectionManager.pneuma.service",
        );
        assert!(activation.contains("\nExec=/opt/p/libexec/telepathy-pneuma\n"));
        assert!(!activation.contains(&*stage.path().to_string_lossy()));
        read("opt/p/share/telepathy/managers/pneuma.manager");
        read("opt/p/lib/systemd/user/telepathy-pneuma.service");
        read("opt/p/share/bash-completion/completions/pneuma");
        read("opt/p/share/man/man1/pneuma-offer.1");
        read("opt/p/share/man/man8/telepathy-pneuma.8");
    }

    #[test]
    fn what_is_missing_is_said_before_anything_is_written() {
        let from = built();
        std::fs::remove_file(from.path().join(SERVICE_PROGRAM)).expect("it was there");
        let failure = plan(OUTSIDE, &wish(from.path(), Path::new("/opt/p"), None)).err();
        let Some(Failure::Error { message, .. }) = failure else {
            panic!("a missing program was no error");
        };
        assert!(message.contains("cargo build --release"), "{message}");
        let odd = plan(OUTSIDE, &wish(built().path(), Path::new("/opt/a b"), None));
        assert_eq!(odd.err().map(|failure| failure.exit_code()), Some(2));
    }

    #[test]
    fn sessions_look_into_the_usual_places() {
        let home = Path::new("/home/ada/.local/share");
        assert!(is_searched(Path::new("/usr/local/share"), "", home));
        assert!(is_searched(home, "", home));
        assert!(!is_searched(Path::new("/opt/share"), "", home));
        assert!(is_searched(
            Path::new("/opt/share"),
            "/usr/share:/opt/share",
            home
        ));
        assert!(!is_searched(Path::new("/usr/share"), "/opt/share", home));
    }
}
