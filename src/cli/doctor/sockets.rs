//! What local sockets take: a private folder whose paths fit, a kernel that tells who connects, and
//! descriptors.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use actors::model::AddressType;
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::client::{self, Bus};

/// Longest path a Unix socket can have on Linux: 108 bytes with the NUL at its end.
const MOST_PATH: usize = 107;
/// What the service puts behind its folder: a slash and a name of random digits.
const NAME: usize = 1 + 32;
/// Fewer descriptors than this are too few for a few busy tubes.
const FEW: u64 = 4096;

/// The checks.
pub(super) async fn look(bus: Option<&Bus>) -> Vec<Finding> {
    let mut found = folder();
    let kinds: Vec<AddressType> = smol::unblock(|| {
        let all = actors::endpoint::supported_sockets();
        all.into_iter().map(|(kind, _)| kind).collect()
    })
    .await;
    found.push(if kinds.contains(&AddressType::Ipv4) {
        Finding::good("who-connects", "the kernel tells who connects to a TCP port of a tube")
    } else {
        Finding::wrong(
            "who-connects",
            "there are no TCP ports for tubes: either there is no 127.0.0.1, or the kernel does not tell who connects (sock_diag)",
            "bring lo up; load the kernel modules inet_diag and tcp_diag; else use unix: addresses",
        )
    });
    if !kinds.contains(&AddressType::Ipv6) {
        found.push(Finding::note(
            "ipv6",
            "this machine has no IPv6 loopback; IPv4 serves as well",
            "",
        ));
    }
    let process = match bus {
        Some(bus) => client::process(bus).await.ok(),
        None => None,
    };
    found.push(descriptors(process));
    found
}

fn folder() -> Vec<Finding> {
    let set = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let Some(runtime) = set.filter(|path| path.is_absolute()) else {
        return vec![Finding::note(
            "runtime-folder",
            "XDG_RUNTIME_DIR is not set; sockets lie in a folder of yours below the one for temporary files",
            "log in in a way that sets it, so that the folder goes when you log out",
        )];
    };
    if !runtime.is_dir() {
        return vec![Finding::wrong(
            "runtime-folder",
            format!(
                "XDG_RUNTIME_DIR says {}, which is no folder",
                runtime.display()
            ),
            "log in anew, or unset it",
        )];
    }
    let mut found = vec![private("runtime-folder", &runtime)];
    let own = runtime.join("pneuma");
    if own.exists() {
        found.push(private("socket-folder", &own));
    }
    let length = own.as_os_str().len() + NAME;
    if length > MOST_PATH {
        found.push(Finding::wrong(
            "socket-paths",
            format!("{} is so long that a socket in it has a path of {length} bytes; {MOST_PATH} are possible", own.display()),
            "set XDG_RUNTIME_DIR to a shorter path",
        ));
    }
    found
}

/// Whether a folder is of this user alone.
fn private(check: &'static str, folder: &Path) -> Finding {
    let shown = folder.display();
    let metadata = match std::fs::symlink_metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) => {
            return Finding::wrong(
                check,
                format!("{shown} cannot be looked at: {error}"),
                "log in anew",
            );
        }
    };
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Finding::wrong(
            check,
            format!("{shown} belongs to another user, number {}", metadata.uid()),
            "set XDG_RUNTIME_DIR to a folder of your own; `su` and `sudo` keep the other user's",
        );
    }
    if metadata.mode() & 0o077 != 0 {
        return Finding::wrong(
            check,
            format!(
                "{shown} is open to others (mode {:03o})",
                metadata.mode() & 0o777
            ),
            format!("`chmod 700 {shown}`"),
        );
    }
    Finding::good(check, format!("{shown} is yours alone"))
}

/// How many descriptors the service has, or may have.
fn descriptors(process: Option<u32>) -> Finding {
    let of_service = process.and_then(|process| {
        let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    // The service takes as many as it is allowed to.
    let (whose, most) = match of_service {
        Some(most) => ("the connection manager has", most),
        None => (
            "the connection manager may have",
            getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        ),
    };
    if most < FEW {
        Finding::wrong(
            "descriptors",
            format!("{whose} {most} descriptors, which a few busy tubes use up"),
            "raise the hard limit (`ulimit -Hn`, LimitNOFILE in systemd, nofile in limits.conf)",
        )
    } else if most == u64::MAX {
        Finding::good(
            "descriptors",
            format!("{whose} as many descriptors as it wants"),
        )
    } else {
        Finding::good("descriptors", format!("{whose} {most} descriptors"))
    }
}
