//! What `pneuma send` costs: beside `scp`, `rsync` over ssh and a plain TCP copy, in one run.
//!
//! `cargo bench --bench transfer` starts two connection managers on buses of their own and an sshd of its
//! own with keys of its own, and sends one large file and one folder of many small ones each way, a few
//! rounds of all of them. What is told is how long a person waits, from the start of the command until all is
//! there under its name, and how fast the bytes flow once they do: the same without what a file of one byte
//! takes. Both accounts are online and `pneuma receive` runs, as sshd does; and how much memory all four of
//! our processes had at most is told, too. Everything lies in memory where the machine has a
//! `/dev/shm` for it, else in a temporary folder and so in the page cache; both ends share one machine's
//! processors. What arrived is compared, file by file, while no time is taken. `PNEUMA_BENCH_MIB`
//! changes how large the file is, `PNEUMA_BENCH_FILES` how many files the folder has.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::{
    Person, Process, Sshd, Usage, World, befriend,
    measure::{mebibytes, number},
    service,
};

/// Times everything is sent; the medians are told.
const ROUNDS: usize = 3;
/// Bytes read and written at a time.
const BLOCK: usize = 256 * 1024;
/// Files in one folder of the tree.
const IN_A_FOLDER: usize = 100;
/// Sizes of the small files: all below it, evenly.
const SMALL: usize = 8192;
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often a command's memory is looked at, whose most is forgotten with it.
const LOOK: Duration = Duration::from_millis(5);

fn main() -> io::Result<()> {
    let (mib, files) = (mebibytes(2048), number("PNEUMA_BENCH_FILES", 10_000));
    let place = Place::new(mib, files)?;
    let keys = tempfile::tempdir()?;
    let sshd = Sshd::start(keys.path())?;
    let ours = Ours::new()?;

    let mut ways = vec![
        Way::new("TCP, in the clear", |source, into| {
            copy_by_tcp(source, into)
        }),
        Way::new("scp", |source, into| {
            timed(&mut scp(&sshd, None, source, into))
        }),
        Way::new("scp, aes128-gcm", |source, into| {
            timed(&mut scp(
                &sshd,
                Some("aes128-gcm@openssh.com"),
                source,
                into,
            ))
        }),
        Way::new("rsync -e ssh", |source, into| {
            timed(&mut rsync(&sshd, source, into))
        }),
        Way::new("pneuma send", |source, into| ours.send(source, into)),
    ];
    for _ in 0..ROUNDS {
        for way in &mut ways {
            way.send(&place.one_byte, &place)?;
            way.send(&place.large, &place)?;
        }
    }
    println!(
        "one file of {mib} MiB, in {}; medians of {ROUNDS}\n",
        place.dir.path().display()
    );
    print(&ways, &place.large, Some((&place.one_byte, mib)));

    let mut ways = vec![
        Way::new("tar | ssh tar", |source, into| {
            timed(&mut tar(&sshd, source, into)?)
        }),
        Way::new("rsync -e ssh", |source, into| {
            timed(&mut rsync(&sshd, source, into))
        }),
        Way::new("pneuma send", |source, into| ours.send(source, into)),
    ];
    for _ in 0..ROUNDS {
        for way in &mut ways {
            way.send(&place.many, &place)?;
        }
    }
    println!("\none folder of {files} files below {SMALL} bytes; medians of {ROUNDS}\n");
    print(&ways, &place.many, None);
    ours.print_memory(&place);
    Ok(())
}

/// What is sent, and where it goes.
struct Place {
    dir: tempfile::TempDir,
    one_byte: PathBuf,
    large: PathBuf,
    many: PathBuf,
    received: PathBuf,
}

impl Place {
    fn new(mib: usize, files: usize) -> io::Result<Self> {
        let needed = 3 * (mib * 1024 * 1024 + files * SMALL) as u64;
        let memory = Path::new("/dev/shm");
        let room = rustix::fs::statvfs(memory).map_or(0, |room| room.f_bavail * room.f_frsize);
        let dir = if room > needed {
            tempfile::tempdir_in(memory)?
        } else {
            tempfile::tempdir()?
        };
        let at = |name: &str| dir.path().join(name);
        let place = Place {
            one_byte: at("one-byte"),
            large: at("large"),
            many: at("many"),
            received: at("received"),
            dir,
        };
        fs::create_dir(&place.received)?;
        fs::write(&place.one_byte, "1")?;
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let mut block = vec![0; 1024 * 1024];
        let mut large = File::create(&place.large)?;
        for _ in 0..mib {
            noise.fill(&mut block);
            large.write_all(&block)?;
        }
        for number in 0..files {
            let folder = place.many.join(format!("{:03}", number / IN_A_FOLDER));
            fs::create_dir_all(&folder)?;
            let size = number * 2_654_435_761 % SMALL;
            noise.fill(&mut block[..size]);
            fs::write(folder.join(format!("{number:06}")), &block[..size])?;
        }
        Ok(place)
    }
}

/// Bytes that nothing compresses (xorshift).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            part.copy_from_slice(&self.0.to_le_bytes()[..part.len()]);
        }
    }
}

/// Sends a file or a folder into a folder, and says how long that took.
type Carry<'a> = Box<dyn FnMut(&Path, &Path) -> io::Result<Duration> + 'a>;

/// One way to send, and how long it took each time, by what was sent.
struct Way<'a> {
    name: &'static str,
    carry: Carry<'a>,
    taken: BTreeMap<PathBuf, Vec<Duration>>,
}

impl<'a> Way<'a> {
    /// `carry` sends a file or a folder into a folder, and says how long that took.
    fn new(
        name: &'static str,
        carry: impl FnMut(&Path, &Path) -> io::Result<Duration> + 'a,
    ) -> Self {
        Way {
            name,
            carry: Box::new(carry),
            taken: BTreeMap::new(),
        }
    }

    /// Sends once, compares what arrived, and takes it away.
    fn send(&mut self, source: &Path, place: &Place) -> io::Result<()> {
        let taken = (self.carry)(source, &place.received)
            .map_err(|error| io::Error::other(format!("{}: {error}", self.name)))?;
        let arrived = place.received.join(source.file_name().unwrap_or_default());
        if contents(source)? != contents(&arrived)? {
            return Err(io::Error::other(format!(
                "{}: what arrived is not what was sent",
                self.name
            )));
        }
        remove(&arrived)?;
        self.taken.entry(source.to_owned()).or_default().push(taken);
        Ok(())
    }

    fn median(&self, source: &Path) -> Duration {
        let mut taken = self.taken.get(source).cloned().unwrap_or_default();
        taken.sort();
        taken.get(taken.len() / 2).copied().unwrap_or_default()
    }
}

/// The SHA-256 of a file, or of each file below a folder.
fn contents(path: &Path) -> io::Result<BTreeMap<PathBuf, [u8; 32]>> {
    let mut found = BTreeMap::new();
    let mut left = vec![path.to_owned()];
    let mut block = vec![0; BLOCK];
    while let Some(next) = left.pop() {
        if next.is_dir() {
            for entry in fs::read_dir(&next)? {
                left.push(entry?.path());
            }
            continue;
        }
        let (mut file, mut hash) = (File::open(&next)?, Sha256::new());
        loop {
            match file.read(&mut block)? {
                0 => break,
                read => hash.update(&block[..read]),
            }
        }
        let below = next.strip_prefix(path).unwrap_or(&next).to_owned();
        found.insert(below, hash.finalize().into());
    }
    Ok(found)
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// Runs a command to its end; gives how long that took.
fn timed(command: &mut Command) -> io::Result<Duration> {
    let started = Instant::now();
    let done = command.stdin(Stdio::null()).output()?;
    let taken = started.elapsed();
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(io::Error::other(format!("{}: {said}", done.status)));
    }
    Ok(taken)
}

/// A thread writes what it reads from the file, another what it reads from the connection.
fn copy_by_tcp(source: &Path, into: &Path) -> io::Result<Duration> {
    let target = into.join(source.file_name().unwrap_or_default());
    let started = Instant::now();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let sender =
            scope.spawn(move || pass_on(File::open(source)?, TcpStream::connect(address)?));
        pass_on(listener.accept()?.0, File::create(target)?)?;
        sender.join().map_err(|_| io::Error::other("the sender"))?
    })?;
    Ok(started.elapsed())
}

fn pass_on(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        match from.read(&mut block)? {
            0 => return Ok(()),
            read => to.write_all(&block[..read])?,
        }
    }
}

/// Two people who have compared codes, online, each with a connection manager on a bus.
struct Ours {
    alice: Person,
    bob: Person,
    /// Bob's id.
    to: String,
    /// The most memory of each process, in KiB, by what was sent.
    peaks: RefCell<BTreeMap<(&'static str, PathBuf), u64>>,
}

impl Ours {
    fn new() -> io::Result<Self> {
        let world = World::new();
        let alice = Person::new(&world, "alice", service!());
        let bob = Person::new(&world, "bob", service!());
        let to = befriend(env!("CARGO_BIN_EXE_pneuma"), &alice, &bob)?;
        Ok(Ours {
            alice,
            bob,
            to,
            peaks: RefCell::default(),
        })
    }

    fn send(&self, source: &Path, into: &Path) -> io::Result<Duration> {
        let folder = into.display().to_string();
        let receive = ["--json", "receive", "--accept", "verified", "--once"];
        let mut receive = pneuma(&self.bob, &receive);
        let mut receiving = Process::start("receive", receive.args(["--dir", &folder]));
        receiving.wait_for_line(PATIENCE, |line| event(line, "ready"));
        for person in [&self.alice, &self.bob] {
            // Begins the count of its most memory anew (proc(5)).
            fs::write(format!("/proc/{}/clear_refs", person.manager_id()), "5")?;
        }
        let mut send = pneuma(&self.alice, &["--quiet", "send"]);
        send.arg(source).arg(&self.to);
        let started = Instant::now();
        let mut sending = Process::start("send", &mut send);
        let (taken, [sender, receiver]) = peaks([sending.id(), receiving.id()], || {
            let status = sending.wait(PATIENCE);
            receiving.wait_for_line(PATIENCE, |line| event(line, "completed"));
            (started.elapsed(), status)
        });
        let (taken, status) = taken;
        if !status.success() {
            return Err(io::Error::other(sending.output()));
        }
        receiving.wait(PATIENCE);
        for (process, peak) in [
            ("pneuma send", sender),
            ("pneuma receive", receiver),
            ("the sender's service", service_peak(&self.alice)),
            ("the receiver's service", service_peak(&self.bob)),
        ] {
            let mut peaks = self.peaks.borrow_mut();
            let most = peaks.entry((process, source.to_owned())).or_default();
            *most = peak.max(*most);
        }
        Ok(taken)
    }

    fn print_memory(&self, place: &Place) {
        println!(
            "\nmost memory, MiB{:>22}{:>14}{:>14}",
            "one byte", "the file", "the folder"
        );
        let peaks = self.peaks.borrow();
        for process in [
            "pneuma send",
            "pneuma receive",
            "the sender's service",
            "the receiver's service",
        ] {
            let after = |source: &PathBuf| {
                let peak = peaks.get(&(process, source.clone()));
                peak.map_or(f64::NAN, |kib| *kib as f64 / 1024.0)
            };
            println!(
                "{process:<26}{:>12.1}{:>14.1}{:>14.1}",
                after(&place.one_byte),
                after(&place.large),
                after(&place.many)
            );
        }
    }
}

fn pneuma(person: &Person, arguments: &[&str]) -> Command {
    person.command(env!("CARGO_BIN_EXE_pneuma"), arguments)
}

/// Whether a line of JSON tells of this.
fn event(line: &str, name: &str) -> Option<()> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["event"] == name).then_some(())
}

fn service_peak(person: &Person) -> u64 {
    Usage::peak_kib(person.manager_id()).unwrap_or_default()
}

/// Does something and looks at the memory of processes meanwhile; gives the most that each had.
fn peaks<T, const N: usize>(processes: [u32; N], what: impl FnOnce() -> T) -> (T, [u64; N]) {
    let (done, is_done) = mpsc::channel::<()>();
    let watcher = thread::spawn(move || {
        let mut most = [0; N];
        while is_done.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            for (most, process) in most.iter_mut().zip(processes) {
                *most = Usage::peak_kib(process).unwrap_or_default().max(*most);
            }
        }
        most
    });
    let given = what();
    drop(done);
    (given, watcher.join().unwrap_or([0; N]))
}

fn scp(sshd: &Sshd, cipher: Option<&str>, source: &Path, into: &Path) -> Command {
    let mut command = Command::new("scp");
    command
        .arg("-q")
        .args(sshd.options())
        .args(["-P", &sshd.port().to_string()]);
    if let Some(cipher) = cipher {
        command.args(["-c", cipher]);
    }
    command
        .arg(source)
        .arg(format!("127.0.0.1:{}/", into.display()));
    command
}

/// The whole command with which others reach the sshd.
fn ssh(sshd: &Sshd) -> String {
    format!("ssh -p {} {}", sshd.port(), sshd.options().join(" "))
}

fn rsync(sshd: &Sshd, source: &Path, into: &Path) -> Command {
    let mut command = Command::new("rsync");
    command
        .args(["-a", "-e", &ssh(sshd)])
        .arg(source)
        .arg(format!("127.0.0.1:{}/", into.display()));
    command
}

fn tar(sshd: &Sshd, source: &Path, into: &Path) -> io::Result<Command> {
    let folder = source.parent().unwrap_or(source).display();
    let name = source.file_name().unwrap_or_default().display();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "tar -C {folder} -cf - {name} | {} 127.0.0.1 tar -C {} -xf -",
        ssh(sshd),
        into.display()
    ));
    Ok(command)
}

/// A table of all ways, and how the last one stands beside each of the others. `beside` is what a
/// command takes that sends nearly nothing, and how many MiB the other one was.
fn print(ways: &[Way], source: &Path, beside: Option<(&Path, usize)>) {
    let waited = |way: &Way| way.median(source).as_secs_f64();
    let flowed = |way: &Way| {
        beside.and_then(|(one_byte, mib)| {
            // Where a file takes no longer than one byte, it is too small to tell.
            let without = way.median(source).checked_sub(way.median(one_byte))?;
            (!without.is_zero()).then(|| mib as f64 / without.as_secs_f64())
        })
    };
    println!("{:<22}{:>12}{:>22}", "", "waited", "flow alone, MiB/s");
    for way in ways {
        let flow = flowed(way).map_or(String::new(), |rate| format!("{rate:.0}"));
        println!("{:<22}{:>10.2} s{flow:>22}", way.name, waited(way));
    }
    let Some((last, others)) = ways.split_last() else {
        return;
    };
    println!(
        "\n{} beside the others; above 1 it is the better one\n",
        last.name
    );
    for way in others {
        let ratio = flowed(last)
            .zip(flowed(way))
            .map(|(ours, theirs)| ours / theirs);
        let flow = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        println!(
            "{:<22}{:>12.2}{flow:>22}",
            way.name,
            waited(way) / waited(last)
        );
    }
}
