//! What `pneuma doctor` looks at on floors that the command line does not stand on: the keys of a
//! profile, and what discovery needs of the machine. It only looks.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use actors::runtime::{Clock, Spawner};

use crate::{
    connection::{
        kept::record::{MAX_FILE, Record},
        sessions::profiles_folder,
    },
    runtime::OurRuntime,
    session::{
        link_local::discovery::avahi,
        trust::{Folder, Identity, TrustTable},
    },
};

pub use crate::session::link_local::{
    MDNS_PORT,
    discovery::look::{Interface, beside, comes_back, interfaces, is_announced},
};

/// Larger files are not read.
const MOST: u64 = 16 * 1024 * 1024;
/// What to do about what cannot be opened.
const ALONE: &str = "the profile's folder and its files must be yours, and yours alone";
/// How far ahead of our clock a date may lie that an honest clock wrote.
const SKEW: Duration = Duration::from_secs(24 * 3600);

/// What is wrong with a profile, each a sentence without its full stop, and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfileLook {
    /// Where it lies; nothing where there is no place for it.
    pub place: Option<PathBuf>,
    /// The fingerprint of its key, where there is one.
    pub fingerprint: Option<String>,
    /// How many contacts are pinned.
    pub contacts: usize,
    /// What is wrong, and what to do about it.
    pub wrong: Vec<(String, String)>,
    /// Records of kept tubes that were put aside.
    pub aside: Vec<PathBuf>,
    /// Which process has it locked.
    pub locked_by: Option<u32>,
}

/// Whether an Avahi daemon runs that going online would use.
pub async fn avahi_runs(spawner: &Spawner, clock: &Arc<dyn Clock>) -> bool {
    let bus = avahi::system_bus(OurRuntime::new(spawner.clone()));
    avahi::is_there(&bus, &**clock).await
}

/// Looks at a profile of this name.
pub fn profile(name: &str, now: SystemTime) -> ProfileLook {
    let mut look = ProfileLook::default();
    let Some(place) = profiles_folder().map(|profiles| profiles.join(name)) else {
        look.wrong.push((
            "there is no place for keys: neither XDG_STATE_HOME nor HOME is set".into(),
            "log in in the usual way, or set HOME".into(),
        ));
        return look;
    };
    look.place = Some(place.clone());
    match Folder::find(&place) {
        Ok(None) => {}
        Ok(Some(folder)) => read(&mut look, &folder, name, now),
        Err(error) => look.wrong.push((error.to_string(), ALONE.into())),
    }
    look.locked_by = locked_by(&place.join("lock"));
    look.aside = aside(&place);
    look
}

fn read(look: &mut ProfileLook, folder: &Folder, name: &str, now: SystemTime) {
    let restore = |file: &str| {
        format!(
            "restore {} from a backup, or move it away to begin anew",
            folder.place(file).display()
        )
    };
    let text = |file: &str| match folder.read(file, MOST) {
        Ok(Some(bytes)) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| (format!("{file} of the profile is no text"), restore(file))),
        Ok(None) => Ok(None),
        Err(error) => Err((error.to_string(), ALONE.into())),
    };
    match text("identity.pem") {
        Ok(None) => {}
        Ok(Some(text)) => match Identity::from_pem(&text) {
            Ok(identity) => look.fingerprint = Some(identity.id().to_string()),
            Err(error) => look.wrong.push((
                format!("the key and its certificate cannot be read: {error}"),
                restore("identity.pem"),
            )),
        },
        Err(wrong) => look.wrong.push(wrong),
    }
    match text("trust.json") {
        Ok(None) => {}
        Ok(Some(text)) => match TrustTable::from_json(&text) {
            Ok(table) => {
                look.contacts = table.rows().len();
                let ahead = |when: SystemTime| when > now + SKEW;
                if table
                    .rows()
                    .iter()
                    .any(|row| ahead(row.first_seen) || row.verified.is_some_and(ahead))
                {
                    look.wrong.push((
                        "this machine's clock is behind: contacts were trusted in its future"
                            .into(),
                        "set the clock".into(),
                    ));
                }
            }
            Err(error) => look.wrong.push((error.to_string(), restore("trust.json"))),
        },
        Err(wrong) => look.wrong.push(wrong),
    }
    match folder.read("kept.json", MAX_FILE) {
        Ok(None) => {}
        Ok(Some(bytes)) => {
            if let Err(error) = Record::from_json(&bytes, name) {
                look.wrong.push((
                    format!("the record of kept tubes cannot be understood: {error}"),
                    restore("kept.json"),
                ));
            }
        }
        Err(error) => look.wrong.push((error.to_string(), ALONE.into())),
    }
}

/// Records of kept tubes that the service put aside.
fn aside(place: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(place) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("kept.json."))
        })
        .filter(|path| path.extension().is_some_and(|end| end != "new"))
        .collect();
    found.sort();
    found
}

/// Which process has a lock on a file, as the kernel lists them. Trying the lock would be simpler, and
/// in the way of a service that starts at this moment.
fn locked_by(file: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(file).ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let inode = format!(":{}", metadata.ino());
    locks.lines().find_map(|line| {
        // 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
        let mut words = line.split_whitespace().skip(1);
        let (kind, _, _, process, place) = (
            words.next()?,
            words.next()?,
            words.next()?,
            words.next()?,
            words.next()?,
        );
        (kind == "FLOCK" && place.ends_with(&inode)).then(|| process.parse().ok())?
    })
}

/// The users whose sockets are at a UDP port, one for each socket, as the kernel lists them.
///
/// # Errors
/// The system's, where it does not tell.
pub fn at_udp_port(port: u16) -> io::Result<Vec<u32>> {
    let mut users = Vec::new();
    for list in ["/proc/net/udp", "/proc/net/udp6"] {
        let text = match std::fs::read_to_string(list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        users.extend(text.lines().skip(1).filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let local = words.get(1)?.rsplit(':').next()?;
            let uid = words.get(7)?.parse::<u32>().ok()?;
            (u16::from_str_radix(local, 16) == Ok(port)).then_some(uid)
        }));
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_who_has_a_lock_and_a_port() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = std::fs::File::create(&path).unwrap();
        assert_eq!(locked_by(&path), None);
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(locked_by(&path), Some(std::process::id()));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(at_udp_port(port).unwrap(), [own]);
        drop(socket);
        assert_eq!(at_udp_port(port).unwrap(), Vec::<u32>::new());
    }
}
