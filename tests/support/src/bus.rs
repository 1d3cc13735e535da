//! A dbus-daemon for one person, and calls over it.

use std::{fmt, path::Path, process::Command};

use futures_lite::future::block_on;
use zbus::{DynamicType, Message};

use crate::{PATIENCE, Process};

/// A session bus that nobody else knows: its own configuration, socket and process.
pub struct Bus {
    address: String,
    connection: zbus::Connection,
    _daemon: Process,
}

/// An error a D-Bus call was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// The error's name, such as `org.freedesktop.Telepathy.Error.InvalidHandle`.
    pub name: String,
    /// The sentence beside it.
    pub message: String,
}

impl CallError {
    /// The last component of the name.
    pub fn short(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.message)
    }
}

impl std::error::Error for CallError {}

impl From<zbus::Error> for CallError {
    fn from(error: zbus::Error) -> Self {
        use zbus::DBusError as _;
        match error {
            zbus::Error::MethodError(name, message, _) => CallError {
                name: name.as_str().to_owned(),
                message: message.unwrap_or_default(),
            },
            zbus::Error::FDO(error) => CallError {
                name: error.name().as_str().to_owned(),
                message: error.to_string(),
            },
            other => CallError {
                name: "local".into(),
                message: other.to_string(),
            },
        }
    }
}

impl Bus {
    /// Starts one whose socket and configuration lie in `dir`. `environment` is what activated
    /// services inherit; service files are looked for in `dir/services`.
    ///
    /// # Panics
    /// When dbus-daemon is not installed or does not come up.
    pub fn start(dir: &Path, environment: &[(String, String)]) -> Self {
        let services = dir.join("services");
        std::fs::create_dir_all(&services).expect("a directory for service files");
        let configuration = dir.join("bus.conf");
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
             <busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <servicedir>{}</servicedir>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
             <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>\n",
            dir.join("bus").display(),
            services.display(),
        );
        std::fs::write(&configuration, text).expect("the bus's configuration");
        let daemon = Process::start(
            "dbus-daemon",
            Command::new("dbus-daemon")
                .arg(format!("--config-file={}", configuration.display()))
                .args(["--nofork", "--print-address"])
                .envs(environment.iter().map(|(name, value)| (name, value))),
        );
        let address = daemon.wait_for_line(PATIENCE, |line| {
            line.starts_with("unix:").then(|| line.to_owned())
        });
        let connection = block_on(
            zbus::connection::Builder::address(address.as_str())
                .method_timeout(PATIENCE)
                .build(),
        )
        .expect("a connection to our own bus");
        Bus {
            address,
            connection,
            _daemon: daemon,
        }
    }

    /// What clients put into `DBUS_SESSION_BUS_ADDRESS`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A client's connection.
    pub fn connection(&self) -> &zbus::Connection {
        &self.connection
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// The error it was answered with.
    pub fn call<B>(
        &self,
        destination: &str,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<Message, CallError>
    where
        B: serde::Serialize + DynamicType,
    {
        block_on(self.connection.call_method(
            Some(destination),
            path,
            Some(interface),
            method,
            body,
        ))
        .map_err(CallError::from)
    }
}
