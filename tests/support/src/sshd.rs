//! An sshd of one's own on loopback, with keys made for the moment, for what is measured beside ssh.

use std::{
    fs, io,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::Process;

const PATIENCE: Duration = Duration::from_secs(20);

/// See the module's head. Killed on drop.
pub struct Sshd {
    port: u16,
    dir: PathBuf,
    process: Process,
}

impl Sshd {
    /// Starts it; its keys and configuration lie in `dir`.
    ///
    /// # Errors
    /// When OpenSSH is not installed, or it does not come up.
    pub fn start(dir: &Path) -> io::Result<Self> {
        let at = |name: &str| dir.join(name).display().to_string();
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)])
                .status()?;
            if !made.success() {
                return Err(io::Error::other("ssh-keygen failed"));
            }
        }
        fs::copy(dir.join("user.pub"), dir.join("authorized"))?;
        // Where sshd runs as root it wants this directory; a packaged service would have made it.
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd")?;
        }
        let port = free_port()?;
        fs::write(
            dir.join("sshd_config"),
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\n\
                 PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n\
                 Subsystem sftp internal-sftp\n",
                at("host"),
                at("authorized")
            ),
        )?;
        let process = Process::start(
            "sshd",
            Command::new(find("sshd")?).args(["-D", "-e", "-f", &at("sshd_config")]),
        );
        wait_for_port(port)
            .map_err(|error| io::Error::other(format!("{error}\n{}", process.output())))?;
        Ok(Sshd {
            port,
            dir: dir.to_owned(),
            process,
        })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The options with which `ssh`, `scp` and `sftp` get in. The port is not among them: its letter
    /// is not everywhere the same.
    pub fn options(&self) -> Vec<String> {
        let at = |name: &str| self.dir.join(name).display().to_string();
        [
            "-F",
            "/dev/null",
            "-i",
            &at("user"),
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "BatchMode=yes",
            "-o",
            &format!("UserKnownHostsFile={}", at("known")),
            "-o",
            "IdentitiesOnly=yes",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// What it wrote.
    pub fn output(&self) -> String {
        self.process.output()
    }
}

/// sshd insists on being started by its whole path.
fn find(program: &str) -> io::Result<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
        .ok_or_else(|| io::Error::other(format!("{program} is not installed")))
}

/// A TCP port of 127.0.0.1 that nobody has now.
///
/// # Errors
/// When the kernel has none.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until somebody listens on a port of 127.0.0.1.
///
/// # Errors
/// When nobody does before the deadline.
pub fn wait_for_port(port: u16) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            // There is no event for "it listens now" in another process.
            Err(_) => thread::yield_now(),
        }
    }
}
