//! The README is true: its two commands are what is checked, every command line in it is understood,
//! every file it names is there.

use std::{fs, path::Path, process::Command};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The pages that are held to what they say.
const PAGES: [&str; 5] = [
    "README.md",
    "docs/security.md",
    "docs/dbus.md",
    "docs/files.md",
    "docs/sharing.md",
];

/// Every line of every shell block of a page, without its comment.
fn shell_lines(page: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.trim() {
            "```sh" => inside = true,
            "```" => inside = false,
            command if inside => {
                let command = command.split(" #").next().unwrap_or_default().trim();
                lines.push(command.to_owned());
            }
            _ => {}
        }
    }
    lines
}

/// The arguments of each `pneuma` command in a page, also where it is another command's option.
fn pneuma_commands(page: &str) -> Vec<Vec<String>> {
    shell_lines(page)
        .iter()
        .filter_map(|line| {
            let line = line.strip_prefix("target/release/").unwrap_or(line);
            let start = match line.split_once("ProxyCommand=pneuma ") {
                Some((_, rest)) => rest.split('\'').next(),
                None => line
                    .strip_prefix("pneuma ")
                    .or_else(|| line.strip_prefix("cargo run --release -- ")),
            };
            Some(start?.split_whitespace().map(str::to_owned).collect())
        })
        .collect()
}

#[test]
fn the_two_commands_are_what_ci_runs() {
    let readme = shell_lines(&read("README.md"));
    let ci = read(".ci/run");
    assert_eq!(readme[0], "cargo run --release -- demo");
    assert_eq!(readme[1], "cargo test --workspace");
    assert!(ci.contains("cargo run --release --locked -- demo"), "demo");
    assert!(ci.contains("cargo test --workspace --locked"), "tests");
}

#[test]
fn every_command_line_is_understood() {
    let commands: Vec<_> = PAGES
        .iter()
        .flat_map(|page| pneuma_commands(&read(page)))
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    for arguments in commands {
        // With --help at the end the arguments before it are read, and nothing is done.
        let run = Command::new(env!("CARGO_BIN_EXE_pneuma"))
            .args(&arguments)
            .arg("--help")
            .output()
            .expect("pneuma runs");
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "pneuma {arguments:?}: {said}");
        let shown = String::from_utf8_lossy(&run.stdout);
        assert!(shown.contains(&arguments[0]), "{arguments:?}: {shown}");
    }
    let wrong = Command::new(env!("CARGO_BIN_EXE_pneuma"))
        .args(["offer", "--no-such-option", "--help"])
        .output()
        .expect("pneuma runs");
    assert!(!wrong.status.success(), "anything at all is understood");
}

#[test]
fn every_file_that_is_named_is_there() {
    let scenarios = ["tests/hostile", "tests/stream_tube"];
    for page in PAGES {
        let text = read(page);
        for word in text.split(['`', '(', ')', ' ', '|', '\n', ',']) {
            let word = word.trim_end_matches(['.', ';', ':']);
            let path = |folder: &str| root().join(folder).join(word);
            let named = (word.ends_with(".md") || word.starts_with("tests/"))
                .then(|| path("").exists() || path("docs").exists());
            let code = (word.ends_with(".py") || word.ends_with(".rs"))
                .then(|| path("").exists() || scenarios.iter().any(|each| path(each).exists()));
            assert!(
                named.unwrap_or(true) || code.unwrap_or(false),
                "{page}: {word}"
            );
            assert!(code.unwrap_or(true), "{page}: {word}");
        }
    }
    for example in [
        "examples/dbus_tube.rs",
        "examples/embed_in_smol.rs",
        "examples/embed_without_a_bus.rs",
        "actors/examples/actor_from_scratch.rs",
    ] {
        assert!(root().join(example).exists(), "{example}");
    }
}

#[test]
fn every_scenario_that_is_named_is_there() {
    let page = read("docs/security.md");
    let mut sources = String::new();
    for folder in ["tests/hostile", "tests/interop"] {
        for file in fs::read_dir(root().join(folder)).expect(folder) {
            let path = file.expect("a file").path();
            if path.extension().is_some_and(|extension| extension == "py") {
                sources += &fs::read_to_string(path).expect("a scenario");
            }
        }
    }
    let mut named = 0;
    for emphasis in page.split('*').skip(1).step_by(2) {
        for name in emphasis.split([',', '\n', ' ']).map(str::trim) {
            if !name.contains('_') || name.starts_with('…') {
                continue;
            }
            if name.ends_with(".rs") {
                continue;
            }
            named += 1;
            assert!(sources.contains(&format!("def {name}()")), "{name}");
        }
    }
    assert!(named > 12, "{named}");
}

#[test]
fn the_protocol_is_described_as_it_is() {
    let page = read("docs/dbus.md");
    let parameters = fs::read_dir(root().join("src/connection"))
        .expect("src/connection")
        .filter_map(|entry| fs::read_to_string(entry.expect("an entry").path()).ok())
        .collect::<String>();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let first = line.split('|').nth(1).unwrap_or_default();
        for name in first.split('`').skip(1).step_by(2) {
            if name.starts_with('/') || name.starts_with('…') {
                continue;
            }
            assert!(
                parameters.contains(&format!("\"{name}\"")),
                "{name} is no parameter"
            );
        }
    }
}
