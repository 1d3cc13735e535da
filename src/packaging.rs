//! The files that let others find the service: `pneuma.manager` (Telepathy clients), the D-Bus
//! activation file and the systemd user unit. Made from the tables the service itself uses, so they
//! cannot say anything else; `data/` holds them as they are for the prefix `/usr`, and a test
//! compares.
//!
//! Formats: `ConnectionManager` and `Protocol` of the specification for `.manager`, the D-Bus
//! specification's "Message Bus Starting Services" for activation, systemd.service(5).

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use crate::connection::{
    protocol::{
        self, AUTHENTICATION_TYPES, CONNECTION_INTERFACES, ChannelClass, ENGLISH_NAME, ICON,
        MANAGER, MANAGER_BUS_NAME, MANAGER_INTERFACES, MANAGER_PATH, PARAMETERS, PROTOCOL,
        PROTOCOL_INTERFACES, ParameterDefault, STATUSES, VCARD_FIELD,
    },
    value::Given,
};

/// The service's program.
pub const SERVICE_PROGRAM: &str = "telepathy-pneuma";
/// The command line.
pub const COMMAND: &str = "pneuma";
/// The systemd user unit, which the activation file names.
pub const UNIT: &str = "telepathy-pneuma.service";

/// Where things live once they are installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `/usr`, `/usr/local`, …
    pub prefix: PathBuf,
    /// Where programs live that people do not start by hand.
    pub libexecdir: PathBuf,
}

impl Layout {
    /// The usual places below a prefix.
    pub fn new(prefix: impl Into<PathBuf>) -> Self {
        let prefix = prefix.into();
        Layout {
            libexecdir: prefix.join("libexec"),
            prefix,
        }
    }

    /// The service's program.
    pub fn service_program(&self) -> PathBuf {
        self.libexecdir.join(SERVICE_PROGRAM)
    }

    /// The command line.
    pub fn command(&self) -> PathBuf {
        self.prefix.join("bin").join(COMMAND)
    }

    /// All text files: where each goes, and what is in it.
    ///
    /// # Errors
    /// [`BadPath`] when a path cannot be written into these files.
    pub fn files(&self) -> Result<Vec<(PathBuf, String)>, BadPath> {
        Ok(vec![
            (
                self.prefix
                    .join("share/telepathy/managers")
                    .join(format!("{MANAGER}.manager")),
                manager_file(),
            ),
            (
                self.prefix
                    .join("share/dbus-1/services")
                    .join(format!("{MANAGER_BUS_NAME}.service")),
                activation_file(&self.service_program())?,
            ),
            (
                self.prefix.join("lib/systemd/user").join(UNIT),
                systemd_unit(&self.service_program())?,
            ),
        ])
    }
}

/// A path that the files cannot carry: spaces, quotes and `%` mean something in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} has characters that D-Bus and systemd files cannot carry; use letters, digits and -_./+"
)]
pub struct BadPath(pub String);

/// A program's path as both kinds of file can carry it.
fn plain(path: &Path) -> Result<&str, BadPath> {
    path.to_str()
        .filter(|text| {
            text.starts_with('/')
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_./+".contains(&byte))
        })
        .ok_or_else(|| BadPath(path.display().to_string()))
}

/// `pneuma.manager`.
pub fn manager_file() -> String {
    let mut file = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        writeln!(file, "{text}").unwrap_or_default();
    };
    line(format_args!("[ConnectionManager]"));
    // The specification calls these two redundant; some clients still look for them.
    line(format_args!("BusName={MANAGER_BUS_NAME}"));
    line(format_args!("ObjectPath={MANAGER_PATH}"));
    line(format_args!("Interfaces={}", list(MANAGER_INTERFACES)));
    line(format_args!(""));
    line(format_args!("[Protocol {PROTOCOL}]"));
    line(format_args!("EnglishName={}", escaped(ENGLISH_NAME)));
    line(format_args!("Icon={}", escaped(ICON)));
    line(format_args!("VCardField={}", escaped(VCARD_FIELD)));
    line(format_args!("Interfaces={}", list(PROTOCOL_INTERFACES)));
    line(format_args!(
        "ConnectionInterfaces={}",
        list(CONNECTION_INTERFACES)
    ));
    line(format_args!(
        "AuthenticationTypes={}",
        list(AUTHENTICATION_TYPES)
    ));
    let classes = protocol::requestable_channel_classes();
    let names: Vec<String> = (0..classes.len()).map(|n| format!("class{n}")).collect();
    let shown: Vec<&str> = names.iter().map(String::as_str).collect();
    line(format_args!("RequestableChannelClasses={}", list(&shown)));
    for parameter in PARAMETERS {
        line(format_args!(
            "param-{}={}",
            parameter.name,
            parameter.kind.signature()
        ));
        match parameter.default {
            None => {}
            Some(ParameterDefault::Text(text)) => {
                line(format_args!("default-{}={}", parameter.name, escaped(text)));
            }
            Some(ParameterDefault::Bool(value)) => {
                line(format_args!("default-{}={value}", parameter.name));
            }
            Some(ParameterDefault::Port(port)) => {
                line(format_args!("default-{}={port}", parameter.name));
            }
        }
    }
    for status in STATUSES {
        let settable = if status.settable { " settable" } else { "" };
        let message = if status.message { " message" } else { "" };
        line(format_args!(
            "status-{}={}{settable}{message}",
            status.name, status.presence as u32
        ));
    }
    for (name, class) in names.iter().zip(&classes) {
        line(format_args!(""));
        line(format_args!("[{name}]"));
        for text in class_lines(class) {
            line(format_args!("{text}"));
        }
    }
    file
}

/// A channel class as the lines of its group.
fn class_lines(class: &ChannelClass) -> Vec<String> {
    let mut lines: Vec<String> = class
        .fixed
        .iter()
        .filter_map(|(property, value)| match value {
            Given::Text(text) => Some(format!("{property} s={}", escaped(text))),
            Given::Uint(number) => Some(format!("{property} u={number}")),
            Given::Bool(value) => Some(format!("{property} b={value}")),
            // No class of ours has others; a test sees to it.
            Given::Integer(_) | Given::Texts(_) | Given::TextLists(_) | Given::Other(_) => None,
        })
        .collect();
    lines.push(format!("allowed={}", list(&class.allowed)));
    lines
}

/// A list as `.manager` files have it: each item followed by a semicolon.
fn list(items: &[&str]) -> String {
    items
        .iter()
        .map(|item| format!("{};", escaped(item).replace(';', "\\;")))
        .collect()
}

/// A text as desktop entry files have it.
fn escaped(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\t', "\\t")
        .replace('\r', "\\r");
    match escaped.strip_prefix(' ') {
        Some(rest) => format!("\\s{rest}"),
        None => escaped,
    }
}

/// The D-Bus activation file.
///
/// # Errors
/// [`BadPath`].
pub fn activation_file(program: &Path) -> Result<String, BadPath> {
    Ok(format!(
        "[D-BUS Service]\nName={MANAGER_BUS_NAME}\nExec={}\nSystemdService={UNIT}\n",
        plain(program)?
    ))
}

/// The systemd user unit. It holds what needs no privilege and no user namespace, which a user's
/// systemd may not have: the service writes its state, its sockets and nothing else, speaks IP, Unix
/// and netlink (which asks who connects), and starts no programs. D-Bus starts it for whoever asks; who
/// keeps tubes enables it, and has it from the beginning of each session.
///
/// # Errors
/// [`BadPath`].
pub fn systemd_unit(program: &Path) -> Result<String, BadPath> {
    Ok(format!(
        "\
[Unit]
Description=Telepathy connection manager for tubes to people nearby

[Service]
Type=dbus
BusName={MANAGER_BUS_NAME}
ExecStart={}
Restart=on-failure
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
LimitNOFILE=65536

[Install]
WantedBy=default.target
",
        plain(program)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where `data/` says that things live.
    fn usual() -> Layout {
        Layout::new("/usr")
    }

    #[test]
    fn data_is_what_the_tables_say() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        let update = std::env::var_os("PNEUMA_UPDATE_DATA").is_some();
        let mut expected = Vec::new();
        for (place, text) in usual().files().expect("/usr can be written") {
            let name = place.file_name().expect("a file's name").to_owned();
            let file = data.join(&name);
            if update {
                std::fs::create_dir_all(&data).expect("data/ can be made");
                std::fs::write(&file, &text).expect("data/ can be written");
            }
            let stands = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(
                stands == text,
                "{} is not what the tables say; PNEUMA_UPDATE_DATA=1 cargo test packaging writes it anew",
                file.display()
            );
            expected.push(name);
        }
        for entry in std::fs::read_dir(&data).expect("data/ is there") {
            let name = entry.expect("an entry").file_name();
            assert!(expected.contains(&name), "data/{name:?} is made by nobody");
        }
    }

    /// What a client reads from a group of the file.
    fn group(file: &str, name: &str) -> Vec<(String, String)> {
        file.split("\n\n")
            .find_map(|group| group.strip_prefix(&format!("[{name}]\n")))
            .unwrap_or_else(|| panic!("no group {name}"))
            .lines()
            .map(|line| {
                let (key, value) = line.split_once('=').expect("key=value");
                (key.to_owned(), value.to_owned())
            })
            .collect()
    }

    #[test]
    fn a_client_finds_every_parameter_status_and_class() {
        let file = manager_file();
        let protocol = group(&file, "Protocol local-xmpp");
        let value = |key: &str| {
            protocol
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.as_str())
        };
        for parameter in PARAMETERS {
            let key = format!("param-{}", parameter.name);
            assert_eq!(value(&key), Some(parameter.kind.signature()), "{key}");
            assert_eq!(
                value(&format!("default-{}", parameter.name)).is_some(),
                parameter.default.is_some()
            );
        }
        assert_eq!(value("default-require-encryption"), Some("true"));
        assert_eq!(value("status-available"), Some("2 settable message"));
        assert_eq!(value("status-offline"), Some("1"));
        assert_eq!(value("VCardField"), Some(""));
        let classes = value("RequestableChannelClasses").expect("the classes");
        for (name, class) in classes
            .split_terminator(';')
            .zip(protocol::requestable_channel_classes())
        {
            let lines = group(&file, name);
            assert_eq!(lines.len(), class.fixed.len() + 1, "{name}");
        }
    }

    #[test]
    fn texts_are_escaped() {
        assert_eq!(escaped(" a\\b\nc\t"), "\\sa\\\\b\\nc\\t");
        assert_eq!(list(&["a;b", "c"]), "a\\;b;c;");
        assert_eq!(list(&[]), "");
    }

    #[test]
    fn paths_that_would_be_misread_are_refused() {
        for path in [
            "/opt/a b/x",
            "/opt/100%/x",
            "relative/x",
            "/opt/\"x",
            "/a\n/x",
        ] {
            assert!(activation_file(Path::new(path)).is_err(), "{path}");
            assert!(systemd_unit(Path::new(path)).is_err(), "{path}");
        }
        let unit = systemd_unit(Path::new("/opt/x_1.2+b/telepathy-pneuma")).expect("it is fine");
        assert!(unit.contains("\nExecStart=/opt/x_1.2+b/telepathy-pneuma\n"));
    }

    #[test]
    fn activation_and_unit_name_each_other() {
        let files = usual().files().expect("/usr can be written");
        let unit = files
            .iter()
            .find(|(place, _)| place.ends_with(UNIT))
            .expect("the unit");
        assert!(unit.1.contains(&format!("BusName={MANAGER_BUS_NAME}\n")));
        assert!(files.iter().any(|(place, text)| {
            place.ends_with(format!("{MANAGER_BUS_NAME}.service"))
                && text.contains(&format!("SystemdService={UNIT}\n"))
        }));
    }
}
