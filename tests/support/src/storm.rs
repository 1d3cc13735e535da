//! A file through a storm: programs are killed, connections reset, machines put to sleep, while it goes from one
//! person to another by `pneuma send` and `pneuma receive`. What is killed of the commands is started again, as
//! its user would; everything else has to mend itself.
//!
//! What breaks, and after how many bytes have arrived, is a plan that a seed makes; so the same seed breaks the
//! same things at the same bytes, as far as two machines' schedulers let it.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process};

use crate::{CM_NAME, Person};

/// How often it is looked at how much has arrived.
const LOOK: Duration = Duration::from_millis(1);
/// How long nothing may happen before it is given up. A command waits up to a minute before it tries again.
const PATIENCE: Duration = Duration::from_secs(180);

/// The same seed gives the same numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `most`, which is not 0.
    pub fn below(&mut self, most: u64) -> u64 {
        self.number() % most
    }

    /// Fills a block with bytes that nothing compresses.
    pub fn fill(&mut self, block: &mut [u8]) {
        for part in block.chunks_mut(8) {
            part.copy_from_slice(&self.number().to_le_bytes()[..part.len()]);
        }
    }
}

/// Whose machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that sends.
    Sender,
    /// The one that receives.
    Receiver,
}

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breakage {
    /// The command is killed (SIGKILL), and run again.
    Command(Side),
    /// The service is killed (SIGKILL).
    Service(Side),
    /// Every TCP connection of the sender's service is reset.
    Connections,
    /// The interface that all goes over is down for so long. Needs a network namespace of one's own.
    Link(Duration),
    /// Command and service stand still (SIGSTOP) for so long.
    Asleep(Side, Duration),
}

impl Breakage {
    /// All that needs no network namespace, where who is asleep is so for that long.
    pub fn anywhere(asleep: Duration) -> [Breakage; 7] {
        [
            Breakage::Command(Side::Sender),
            Breakage::Command(Side::Receiver),
            Breakage::Service(Side::Sender),
            Breakage::Service(Side::Receiver),
            Breakage::Connections,
            Breakage::Asleep(Side::Sender, asleep),
            Breakage::Asleep(Side::Receiver, asleep),
        ]
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Sender => "sender",
            Side::Receiver => "receiver",
        })
    }
}

impl fmt::Display for Breakage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Breakage::Command(side) => write!(f, "the {side}'s command is killed"),
            Breakage::Service(side) => write!(f, "the {side}'s service is killed"),
            Breakage::Connections => f.write_str("all TCP connections are reset"),
            Breakage::Link(time) => write!(f, "the link is down for {} s", time.as_secs_f32()),
            Breakage::Asleep(side, time) => {
                write!(f, "the {side} is asleep for {} s", time.as_secs_f32())
            }
        }
    }
}

/// A breakage once it has happened, and how it went on.
#[derive(Debug)]
pub struct Survived {
    /// What broke.
    pub what: Breakage,
    /// How many bytes had arrived.
    pub at: u64,
    /// Where it began again, and how long after the breakage; nothing where it never stopped, or something else
    /// broke first.
    pub from: Option<(u64, Duration)>,
}

/// Who sends to whom.
pub struct Storm<'a> {
    /// The program `pneuma`.
    pub pneuma: &'a Path,
    /// Who sends.
    pub sender: &'a Person,
    /// Who receives; has the sender among the contacts.
    pub receiver: &'a Person,
    /// The receiver's id.
    pub to: &'a str,
    /// Where to.
    pub into: &'a Path,
}

/// What goes on while one file is sent.
struct Going {
    sending: Running,
    receiving: Running,
    /// Whether the receiver's command was killed once: whoever is run after it may have nothing left to do.
    killed: bool,
    survived: Vec<Survived>,
    broke: Instant,
}

impl Storm<'_> {
    /// Sends `file` while `breakages` happen, each once so many bytes have arrived, in that order; those after the
    /// end do not. Then the file is there under its name, and the receiver's command has said so, unless it was
    /// killed as soon as it had given that name. `told` hears of each breakage when it is known how it went on.
    ///
    /// # Panics
    /// When nothing happens any more, or the receiver's command fails.
    pub fn send(
        &self,
        file: &Path,
        breakages: &[(u64, Breakage)],
        mut told: impl FnMut(&Survived),
    ) -> Vec<Survived> {
        let size = fs::metadata(file).expect("the file").len();
        let name = file.file_name().expect("a name").to_string_lossy();
        let (part, whole) = (
            self.into.join(format!("{name}.part")),
            self.into.join(&*name),
        );
        let length = || fs::metadata(&part).map_or(0, |metadata| metadata.len());
        let is_there = || fs::metadata(&whole).is_ok_and(|metadata| metadata.len() == size);
        let mut going = Going {
            sending: self.sending(file),
            receiving: self.receiving(),
            killed: false,
            survived: Vec::new(),
            broke: Instant::now(),
        };
        for &(at, what) in breakages {
            let service = self.service_of(what);
            let mut seen = (length(), Instant::now());
            let ended = loop {
                going.listen();
                let now = length();
                if whole.exists() || going.receiving.ended() {
                    break true;
                }
                if now > at {
                    break now >= size;
                }
                if now != seen.0 {
                    seen = (now, Instant::now());
                } else if seen.1.elapsed() > PATIENCE {
                    going.fail("nothing arrives any more");
                }
                thread::sleep(LOOK);
            };
            if ended {
                break;
            }
            going.tell(&mut told);
            going.survived.push(Survived {
                what,
                at: length(),
                from: None,
            });
            going.broke = Instant::now();
            self.break_it(what, service, &mut going, file, &whole);
        }
        let deadline = Instant::now() + PATIENCE;
        while !going.receiving.ended() {
            if Instant::now() > deadline {
                // Its sender was told before the kill, and the next command only gave it its name.
                if going.killed && is_there() {
                    break;
                }
                going.fail("it does not end");
            }
            going.listen();
            thread::sleep(LOOK);
        }
        going.listen();
        going.tell(&mut told);
        if !is_there() || !going.received() {
            going.fail("it has ended, and the file is not there");
        }
        // One that was not told offers it again, and would be in the next one's way.
        going.sending.signal(Signal::INT);
        let deadline = Instant::now() + PATIENCE;
        while !going.sending.ended() {
            if Instant::now() > deadline {
                going.fail("the sender does not end");
            }
            thread::sleep(LOOK);
        }
        going.survived
    }

    /// The service that has to be killed, as long as nobody is in a hurry.
    fn service_of(&self, what: Breakage) -> Option<Pid> {
        match what {
            Breakage::Service(side) | Breakage::Asleep(side, _) => self.service(side),
            Breakage::Connections => self.service(Side::Sender),
            Breakage::Command(_) | Breakage::Link(_) => None,
        }
    }

    /// Whoever is a person's connection manager now.
    fn service(&self, side: Side) -> Option<Pid> {
        let person = match side {
            Side::Sender => self.sender,
            Side::Receiver => self.receiver,
        };
        let asked = person.bus().call(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "GetConnectionUnixProcessID",
            &CM_NAME,
        );
        // It may not be back yet from the last time.
        let id: u32 = asked.ok()?.body().deserialize().ok()?;
        Pid::from_raw(i32::try_from(id).ok()?)
    }

    fn break_it(
        &self,
        what: Breakage,
        service: Option<Pid>,
        going: &mut Going,
        file: &Path,
        whole: &Path,
    ) {
        // Who was killed before, and is not back, cannot be killed.
        let signal = |signal| {
            if let Some(service) = service {
                kill_process(service, signal).unwrap_or_default();
            }
        };
        match what {
            Breakage::Command(Side::Sender) => {
                going.sending.kill();
                going.sending = self.sending(file);
            }
            Breakage::Command(Side::Receiver) => {
                going.receiving.kill();
                going.killed = true;
                if !whole.exists() {
                    going.receiving = self.receiving();
                }
            }
            Breakage::Service(_) => signal(Signal::KILL),
            Breakage::Connections => {
                if let Some(service) = service {
                    reset_connections(service);
                }
            }
            Breakage::Link(time) => {
                ip(&["link", "set", "lo", "down"]);
                thread::sleep(time);
                ip(&["link", "set", "lo", "up"]);
            }
            Breakage::Asleep(side, time) => {
                let command = match side {
                    Side::Sender => &going.sending,
                    Side::Receiver => &going.receiving,
                };
                signal(Signal::STOP);
                command.signal(Signal::STOP);
                thread::sleep(time);
                command.signal(Signal::CONT);
                signal(Signal::CONT);
            }
        }
    }

    fn sending(&self, file: &Path) -> Running {
        let file = file.to_str().expect("a path");
        self.running(self.sender, &["send", "--json", file, self.to])
    }

    fn receiving(&self) -> Running {
        let into = self.into.to_str().expect("a path");
        let arguments = [
            "receive", "--json", "--accept", "pinned", "--once", "--dir", into,
        ];
        self.running(self.receiver, &arguments)
    }

    fn running(&self, person: &Person, arguments: &[&str]) -> Running {
        let program = self.pneuma.to_str().expect("a path");
        let mut child = person
            .command(program, arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pneuma can be started");
        let (sender, lines) = channel();
        let out = child.stdout.take().expect("a pipe");
        let mut err = child.stderr.take().expect("a pipe");
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                // Nobody listens any more, and it has to be read all the same.
                sender.send((Instant::now(), line)).unwrap_or_default();
            }
        });
        let err = thread::spawn(move || {
            let mut all = Vec::new();
            err.read_to_end(&mut all).unwrap_or_default();
            String::from_utf8_lossy(&all).into_owned()
        });
        Running {
            child,
            lines,
            err: Some(err),
            shown: String::new(),
            status: None,
        }
    }
}

impl Going {
    /// Takes what the commands have said.
    fn listen(&mut self) {
        while let Ok((when, line)) = self.receiving.lines.try_recv() {
            if let (Some(offset), Some(last)) = (flowing(&line), self.survived.last_mut())
                && when > self.broke
            {
                last.from = Some((offset, when - self.broke));
            }
            self.receiving.shown += &line;
            self.receiving.shown += "\n";
        }
        while let Ok((_, line)) = self.sending.lines.try_recv() {
            self.sending.shown += &line;
            self.sending.shown += "\n";
        }
    }

    /// Whether the receiver's command has ended well, or only our own kill kept it from that.
    fn received(&self) -> bool {
        match self.receiving.status {
            Some(status) if status.success() => true,
            Some(status) => self.killed && status.signal() == Some(Signal::KILL.as_raw()),
            None => self.killed,
        }
    }

    /// Tells of the last breakage.
    fn tell(&self, told: &mut impl FnMut(&Survived)) {
        if let Some(last) = self.survived.last() {
            told(last);
        }
    }

    fn fail(&mut self, why: &str) -> ! {
        self.listen();
        let said = [&mut self.sending, &mut self.receiving].map(|running| {
            running.kill();
            let err = running.err.take().map(JoinHandle::join);
            format!("{}{err:?}", running.shown)
        });
        panic!(
            "{why}\n{:?}\nsend:\n{}\nreceive:\n{}",
            self.survived, said[0], said[1]
        );
    }
}

/// A command that runs. Killed on drop.
struct Running {
    child: Child,
    lines: Receiver<(Instant, String)>,
    err: Option<JoinHandle<String>>,
    shown: String,
    status: Option<ExitStatus>,
}

impl Running {
    fn ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("our own child");
        }
        self.status.is_some()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap_or_default();
        self.status = self.child.wait().ok();
    }

    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            kill_process(Pid::from_child(&self.child), signal).unwrap_or_default();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The offset of a line of JSON that says that bytes flow. There is no parser here, and none is needed: the
/// commands write the same order each time.
fn flowing(line: &str) -> Option<u64> {
    if !line.contains("\"event\":\"flowing\"") {
        return None;
    }
    let (_, rest) = line.split_once("\"offset\":")?;
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Resets every TCP connection that a process has, as a router does that has forgotten them: the kernel sends a
/// reset and throws away what was not read.
///
/// # Panics
/// When the kernel does not let us have the sockets of a child.
pub fn reset_connections(process: Pid) {
    let connected = established();
    let Ok(handle) = rustix::process::pidfd_open(process, PidfdFlags::empty()) else {
        return;
    };
    let folder = format!("/proc/{}/fd", process.as_raw_nonzero());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = fs::read_link(entry.path())
            .ok()
            .and_then(|link| {
                let link = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                Some(connected.contains(&link.to_owned()))
            })
            .unwrap_or(false);
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (true, Some(number)) = (is_ours, number) {
            let flags = PidfdGetfdFlags::empty();
            match rustix::process::pidfd_getfd(&handle, number, flags) {
                Ok(socket) => rustix::net::connect_unspec(socket).unwrap_or_default(),
                // Closed meanwhile.
                Err(rustix::io::Errno::BADF | rustix::io::Errno::SRCH) => {}
                Err(error) => panic!("a child's socket cannot be had: {error}"),
            }
        }
    }
}

/// The inodes of the TCP connections that are established.
fn established() -> Vec<String> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines = text.lines().skip(1).map(str::to_owned);
            lines.collect::<Vec<_>>()
        })
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields.get(3) == Some(&"01"))
                .then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
        })
        .collect()
}

/// Runs `ip` (iproute2).
///
/// # Panics
/// When it fails.
pub fn ip(arguments: &[&str]) {
    let done = std::process::Command::new("ip").args(arguments).output();
    let done = done.expect("ip can be run");
    assert!(
        done.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}
