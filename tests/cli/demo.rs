//! `pneuma demo`, which needs nobody.

use std::process::Command;

#[test]
fn it_works_measures_and_leaves_nothing_behind() {
    let temporary = tempfile::Builder::new()
        .prefix("p-")
        .tempdir_in("/tmp")
        .expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_pneuma"))
        .args(["demo", "--size", "2", "--json"])
        .env("TMPDIR", temporary.path())
        .env_remove("DBUS_SESSION_BUS_ADDRESS")
        .output()
        .expect("pneuma runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let measured: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(measured["download_bytes"], 2 * 1024 * 1024);
    for way in ["tube", "direct"] {
        for what in [
            "first_byte_seconds",
            "round_trip_seconds",
            "megabytes_per_second",
        ] {
            let value = measured[way][what].as_f64().unwrap_or_default();
            assert!(value > 0.0, "{way} {what}: {measured}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(temporary.path())
        .expect("the folder")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let folder = temporary.path().to_string_lossy().into_owned();
    assert_eq!(processes_that_know(&folder), Vec::<String>::new());
}

/// Processes whose command line or environment names the folder.
fn processes_that_know(folder: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != own)
        .filter(|process| {
            // One that is gone by now knows nothing.
            ["cmdline", "environ"].iter().any(|what| {
                std::fs::read(format!("/proc/{process}/{what}"))
                    .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(folder))
            })
        })
        .collect()
}
