//! The floors of the README, kept: what may import what, and what may stand nowhere.
//!
//! Reads the sources as text. Cargo keeps the `actors` crate below the rest by itself; this keeps
//! what lies within the `pneuma` crate and what no compiler looks for.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A floor of the `pneuma` crate, and the floors below it that it may use.
const FLOORS: &[(&str, &[&str])] = &[
    ("xmpp", &[]),
    ("session", &["xmpp"]),
    ("connection", &["session", "xmpp"]),
    ("dbus", &["connection", "session", "xmpp"]),
    ("client", &[]),
    ("cli", &["client"]),
];

/// What stands in no source file, except in those named or below the folders named.
const NOWHERE: &[(&str, &[&str])] = &[
    // smol's own executor is global: who embeds us could not stop us.
    ("smol::spawn", &[]),
    // Time comes from the clock that is handed in.
    ("Instant::now", &["actors/src/runtime/clock.rs"]),
    ("SystemTime::now", &["actors/src/runtime/clock.rs", TESTS]),
    ("thread::sleep", &[]),
    // Everything is bounded. Tests and fakes keep what they look at later.
    ("unbounded(", &["actors/src/testing/", TESTS]),
    ("#[allow(", &[]),
    ("#![allow(", &[]),
    ("#[ignore", &[]),
    ("todo!(", &[]),
    ("unimplemented!(", &[]),
];

/// The one place of the session's floor that speaks D-Bus.
const AVAHI: &str = "session/link_local/discovery/avahi/";

/// Stands for the folders and files that hold a module's own tests.
const TESTS: &str = "tests";

/// Whether a file is one of these: itself, below the folder, or a module's tests.
fn is_one_of(shown: &str, except: &[&str]) -> bool {
    except.iter().any(|except| match *except {
        TESTS => shown.contains("/tests/") || shown.ends_with("tests.rs"),
        folder => shown.starts_with(folder),
    })
}

/// Most lines a file may have; one that needs more holds more than one thing.
const MOST_LINES: usize = 700;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with this extension below a folder.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Each line of code of a file with its number; comments are taken out.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a source file");
    text.lines()
        .enumerate()
        .map(|(number, line)| (number + 1, without_comment(line).to_owned()))
        .collect()
}

/// The line up to a comment. Two slashes after a colon are part of an address.
fn without_comment(line: &str) -> &str {
    let start = line
        .match_indices("//")
        .find(|(place, _)| !line[..*place].ends_with(':'));
    start.map_or(line, |(place, _)| &line[..place])
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Fails with all that was found, each on a line.
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// The names of modules that a line imports from the crate's root.
fn imported(line: &str) -> Vec<&str> {
    line.match_indices("crate::")
        .map(|(place, text)| &line[place + text.len()..])
        .flat_map(|rest| match rest.strip_prefix('{') {
            // `crate::{a::x, b}`: the first word of each part.
            Some(list) => list.split(',').collect(),
            None => vec![rest],
        })
        .map(|rest| {
            let rest = rest.trim_start();
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            &rest[..end]
        })
        .collect()
}

#[test]
fn imports_go_downward_only() {
    let mut upward = Vec::new();
    for (floor, below) in FLOORS {
        for file in files(&format!("src/{floor}"), "rs") {
            for (number, line) in code(&file) {
                for module in imported(&line) {
                    let known = FLOORS.iter().any(|(name, _)| *name == module);
                    if known && module != *floor && !below.contains(&module) {
                        upward.push(format!("{}:{number}: {}", shown(&file), line.trim()));
                    }
                }
            }
        }
    }
    none("imports that go upward", &upward);
}

#[test]
fn every_folder_is_a_floor() {
    let unknown: Vec<String> = fs::read_dir(root().join("src"))
        .expect("src")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir() && !path.ends_with("bin"))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            !FLOORS.iter().any(|(floor, _)| Some(*floor) == name)
        })
        .map(|path| shown(&path))
        .collect();
    none("folders that stand on no floor", &unknown);
}

#[test]
fn only_dbus_and_our_handler_serve_objects() {
    let mut elsewhere = Vec::new();
    for file in files("src", "rs") {
        let shown = shown(&file);
        let of = |floor: &str| shown.starts_with(&format!("src/{floor}/"));
        for (number, line) in code(&file) {
            // A client of Mission Control shows one object, by which it is handed channels.
            let may_serve = of("dbus") || shown == "src/client/managed/handler.rs";
            let serves = line.contains("zbus::interface")
                || line.contains("#[interface(")
                || line.contains("object_server()")
                || line.contains("ObjectServer");
            let speaks = line.contains("zbus");
            // The adapter to our executor and the socket with bounds, which both sides of the bus share; the log, which leaves the
            // library's messages out; and a client of another bus, which serves nothing either: the
            // Avahi daemon is on the system bus.
            let may_speak = [
                "dbus/",
                "client/",
                "cli/",
                "bounded_socket.rs",
                "runtime.rs",
                "log.rs",
                AVAHI,
            ]
            .iter()
            .any(|floor| shown.starts_with(&format!("src/{floor}")));
            if (serves && !may_serve) || (speaks && !may_speak) {
                elsewhere.push(format!("{shown}:{number}: {}", line.trim()));
            }
        }
    }
    none("D-Bus where it does not belong", &elsewhere);
}

#[test]
fn actors_know_neither_dbus_nor_xml() {
    let mut found = Vec::new();
    let unwanted = ["zbus", "zvariant", "minidom", "rxml", "xso", "xmpp"];
    let manifest = root().join("actors/Cargo.toml");
    for file in files("actors", "rs").into_iter().chain([manifest]) {
        for (number, line) in code(&file) {
            if unwanted.iter().any(|name| line.contains(name)) {
                found.push(format!("{}:{number}: {}", shown(&file), line.trim()));
            }
        }
    }
    none("D-Bus or XML in the actors", &found);
}

#[test]
fn nothing_global_unbounded_or_silenced() {
    let mut found = Vec::new();
    for file in files("src", "rs")
        .into_iter()
        .chain(files("actors/src", "rs"))
    {
        let shown = shown(&file);
        for (number, line) in code(&file) {
            for (text, except) in NOWHERE {
                if line.contains(text) && !is_one_of(&shown, except) {
                    found.push(format!("{shown}:{number}: {}", line.trim()));
                }
            }
        }
    }
    none("what stands nowhere", &found);
}

#[test]
fn no_file_holds_more_than_one_thing() {
    let long: Vec<String> = ["src", "actors", "tests", "examples", "benches"]
        .iter()
        .flat_map(|folder| files(folder, "rs").into_iter().chain(files(folder, "py")))
        .filter_map(|file| {
            let lines = fs::read_to_string(&file).ok()?.lines().count();
            (lines >= MOST_LINES).then(|| format!("{}: {lines} lines", shown(&file)))
        })
        .collect();
    none(&format!("files of {MOST_LINES} lines and more"), &long);
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<String> = ["src", "actors/src", "tests", "examples", "benches"]
        .iter()
        .flat_map(|folder| files(folder, "rs"))
        .filter(|file| {
            let text = fs::read_to_string(file).expect("a source file");
            !text.starts_with("//!")
        })
        .map(|file| shown(&file))
        .collect();
    none("modules that do not begin with what they are for", &silent);
}

#[test]
fn reads_imports_and_comments_as_meant() {
    assert_eq!(imported("use crate::session::Session;"), ["session"]);
    assert_eq!(imported("use crate::{xmpp::ns, dbus};"), ["xmpp", "dbus"]);
    assert_eq!(without_comment("a(); // smol::spawn"), "a(); ");
    assert_eq!(
        without_comment("let a = \"http://x\";"),
        "let a = \"http://x\";"
    );
}
