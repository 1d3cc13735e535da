//! One large file through ten breakages: how much of it is sent twice.
//!
//! `cargo bench --bench survive` starts two people with buses, services and keys of their own, has one send 1 GiB
//! to the other with `pneuma send` and `pneuma receive`, and breaks ten things at moments that a seed chooses:
//! commands and services are killed, their connections reset, the link is taken down, one side and the other sleep
//! for longer than anybody waits for an answer. It tells each breakage and how it went on; at the end the SHA-256 of
//! both files, and how many bytes went over the wire. All runs in a network namespace of its own (`unshare` of
//! util-linux, `ip` of iproute2), so that the kernel's counter of the interface is of this file alone: it counts
//! the headers of every layer, discovery, and what was on its way when something broke. It fails when the two
//! files differ, or when more than 2 % were sent twice.
//!
//! What is on its way when something breaks is mostly in the buffers of the kernel's sockets, the more the busier
//! the machine is: Linux lets them grow to tens of MiB, which over ten breakages can be far more than 2 %. So in
//! this namespace they grow to 1 MiB at most (`net.ipv4.tcp_rmem`, `net.ipv4.tcp_wmem`). That leaves what Pneuma
//! itself sends twice; with the buffers of a system as it comes, each breakage may cost as much more as they hold.
//!
//! `PNEUMA_BENCH_MIB` changes how large the file is, `PNEUMA_BENCH_SEED` what breaks when, `PNEUMA_BENCH_BREAKAGES`
//! how often, `PNEUMA_BENCH_ASLEEP` how many seconds somebody sleeps, `PNEUMA_BENCH_MOST` how many percent may be
//! sent twice.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use support::{
    Person, World, befriend,
    measure::{mebibytes, number},
    service,
    storm::{Breakage, Random, Storm, ip},
};

/// Bytes that are read at a time.
const BLOCK: usize = 1024 * 1024;
/// Most percent of the file that may be sent twice, with all that the layers below add, if nothing else is said.
const MOST: usize = 2;
/// Least, usual and most bytes of a TCP socket's buffers (tcp(7)): the system's usual ones, and a small maximum.
const BUFFERS: [(&str, &str); 2] = [
    ("tcp_rmem", "4096 131072 1048576"),
    ("tcp_wmem", "4096 16384 1048576"),
];
/// For how long the link is down.
const DOWN: Duration = Duration::from_secs(20);
/// Set where the namespace is ours.
const INSIDE: &str = "PNEUMA_BENCH_INSIDE";

fn main() -> io::Result<()> {
    if env::var_os(INSIDE).is_none() {
        return Err(own_namespace());
    }
    ip(&["link", "set", "lo", "up"]);
    for (which, bytes) in BUFFERS {
        fs::write(Path::new("/proc/sys/net/ipv4").join(which), bytes)?;
    }
    let most = number("PNEUMA_BENCH_MOST", MOST);
    let size = mebibytes(1024) as u64 * 1024 * 1024;
    let seed = number("PNEUMA_BENCH_SEED", 1) as u64;
    let breakages = plan(seed, size, number("PNEUMA_BENCH_BREAKAGES", 10));

    let world = World::new();
    let alice = Person::new(&world, "alice", service!());
    let bob = Person::new(&world, "bob", service!());
    let to = befriend(env!("CARGO_BIN_EXE_pneuma"), &alice, &bob)?;
    let (file, into) = (alice.dir().join("large"), bob.dir().join("in"));
    fs::create_dir(&into)?;
    let sent = make(&file, size, seed)?;
    println!("{} MiB, seed {seed}\n", size >> 20);
    println!(
        "{:>12}  {:<40}{:>16}{:>10}",
        "arrived, MiB", "then", "on from, MiB", "after"
    );
    let storm = Storm {
        pneuma: Path::new(env!("CARGO_BIN_EXE_pneuma")),
        sender: &alice,
        receiver: &bob,
        to: &to,
        into: &into,
    };
    let (begun, before) = (Instant::now(), on_the_wire()?);
    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    storm.send(&file, &breakages, |survived| {
        let on = survived
            .from
            .map_or([String::new(), String::new()], |(offset, after)| {
                [
                    format!("{:.1}", mib(offset)),
                    format!("{:.1} s", after.as_secs_f64()),
                ]
            });
        let what = survived.what.to_string();
        println!(
            "{:>12.1}  {what:<40}{:>16}{:>10}",
            mib(survived.at),
            on[0],
            on[1]
        );
    });
    let (taken, wire) = (begun.elapsed(), on_the_wire()? - before);
    let arrived = digest(&into.join("large"))?;
    let more = wire as f64 / size as f64 - 1.0;
    println!("\nsent      {sent}\narrived   {arrived}");
    println!(
        "{:.1} s; {wire} bytes on the wire for {size}: {:.2} % more",
        taken.as_secs_f64(),
        more * 100.0
    );
    if sent != arrived {
        return Err(io::Error::other("what arrived is not what was sent"));
    }
    let left: Vec<_> = fs::read_dir(&into)?.collect::<io::Result<_>>()?;
    if left.len() != 1 {
        return Err(io::Error::other(format!("more arrived than one: {left:?}")));
    }
    if more * 100.0 > most as f64 {
        return Err(io::Error::other("too much was sent twice"));
    }
    Ok(())
}

/// Runs this program again in a network namespace of its own: as root, or as one's own root where a user may
/// have that. Returns only what keeps it from that.
fn own_namespace() -> io::Error {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    command
        .args(["--net", "--"])
        .arg(program)
        .env(INSIDE, "1")
        .exec()
}

/// What breaks when: everything at least once where there are enough, in the seed's order, at its moments.
fn plan(seed: u64, size: u64, many: usize) -> Vec<(u64, Breakage)> {
    let asleep = Duration::from_secs(number("PNEUMA_BENCH_ASLEEP", 80) as u64);
    let mut all = Breakage::anywhere(asleep).to_vec();
    all.insert(5, Breakage::Link(DOWN));
    let mut random = Random(seed);
    let mut what: Vec<Breakage> = all.into_iter().cycle().take(many).collect();
    for place in (1..what.len()).rev() {
        what.swap(place, random.below(place as u64 + 1) as usize);
    }
    // Not at the very end, when nothing is left to break.
    let mut when: Vec<u64> = (0..many).map(|_| random.below(size / 100 * 98)).collect();
    when.sort_unstable();
    when.into_iter().zip(what).collect()
}

/// Makes the file, and gives its SHA-256.
fn make(path: &Path, size: u64, seed: u64) -> io::Result<String> {
    let (mut random, mut file) = (Random(seed), File::create(path)?);
    let mut block = vec![0; BLOCK];
    for _ in 0..size / BLOCK as u64 {
        random.fill(&mut block);
        file.write_all(&block)?;
    }
    digest(path)
}

fn digest(path: &Path) -> io::Result<String> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block)? {
            0 => break,
            read => hash.update(&block[..read]),
        }
    }
    let digest = hash.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Bytes that went over this namespace's only interface, as the kernel counts them (proc(5)).
fn on_the_wire() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/net/dev")?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    line.and_then(|line| line.split_whitespace().nth(8)?.parse().ok())
        .ok_or_else(|| io::Error::other("the kernel counts nothing"))
}
