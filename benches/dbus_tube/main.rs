//! What a D-Bus tube costs: two programs that speak D-Bus to each other through one, beside dbus-daemon and
//! beside a socket between the two, in one run.
//!
//! `cargo bench --bench dbus_tube` starts two connection managers on buses of their own and joins them by a tube,
//! encrypted as every one is; and a dbus-daemon with the configuration of a session. The same two programs ([`raw`])
//! speak over all three ways in turn, some rounds of each measurement, so that what else the machine does falls on
//! all of them: round trips one at a time and with many in flight, small messages one way, large ones one way. Then the
//! same round trips with a library, zbus, at both ends. All on one machine, whose processors all of them share.
//! Everything is counted at the other end, and one message of each size compared byte by byte while no time is taken;
//! what is lost, doubled, changed or out of order is an error. How long it took is not.
//!
//! Where a tube's time goes is told in two ways: the processor time of each process, and how often it had to be
//! woken; and the same round trip over what a tube is made of, one piece more at a time ([`pieces`]).
//!
//! `PNEUMA_BENCH_ROUNDS` changes how many rounds there are, `PNEUMA_BENCH_MIB` how large the largest message is:
//! 64 MiB at most, as an array in D-Bus. `PNEUMA_BENCH_SERVICE` names a `telepathy-pneuma` of another build, which
//! is measured as one more way.

mod library;
mod pieces;
mod raw;
mod usage;

use std::{
    env,
    io::{self, Write as _},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use support::{
    Address, PATIENCE, Person, Process, World,
    measure::{mebibytes, number},
    service,
};
use usage::{Used, Watched};

/// Round trips in a round, one at a time.
const ROUND_TRIPS: usize = 3000;
/// Calls in a round of which some are in flight.
const CALLS: usize = 20_000;
/// How many of these are.
const IN_FLIGHT: usize = 64;
/// Messages in a round that want no answer.
const ONE_WAY: usize = 50_000;
/// Of the larger and the largest messages, so many bytes in a round.
const LARGE: usize = 128 << 20;
/// Set for a program at the other end or between both: what it is to be.
const ROLE: &str = "PNEUMA_BENCH_ROLE";

fn main() -> io::Result<()> {
    if let Ok(role) = env::var(ROLE) {
        let words: Vec<&str> = role.split(' ').collect();
        return play(&words);
    }
    let (rounds, mib) = (number("PNEUMA_BENCH_ROUNDS", 5), mebibytes(64));
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name).display().to_string();

    let (answering, target) = start(&format!("listen {}", at("direct")))?;
    let direct = Way::direct(&answering, &target)?;
    let daemon = Daemon::start(&at("bus"));
    let world = World::new();
    let alice = Person::online(&world, "alice", service!());
    let bob = Person::online(&world, "bob", service!());
    bob.sees(&alice);
    let mut ways = vec![direct, Way::bus(&daemon)?];
    let other_build = env::var_os("PNEUMA_BENCH_SERVICE").map(PathBuf::from);
    let others = other_build.map(|service| {
        let [one, other] = ["carol", "dave"].map(|name| Person::online(&world, name, &service));
        other.sees(&one);
        [one, other]
    });
    if let Some([carol, dave]) = &others {
        ways.push(Way::tube("other build", carol, dave)?);
    }
    ways.push(Way::tube("tube", &alice, &bob)?);
    let sizes = [1 << 20, mib << 20];
    println!(
        "{rounds} rounds of {ROUND_TRIPS} round trips of {} bytes each way, {CALLS} with {IN_FLIGHT} in flight, {ONE_WAY} one way, \
         and {} MiB in messages of 1 and {mib} MiB; medians\n",
        ways[0].asker.small_bytes(),
        LARGE >> 20
    );
    for _ in 0..rounds {
        for way in &mut ways {
            way.measure(sizes)?;
        }
    }
    let large = sizes.map(|size| format!("{} MiB, MB/s", size >> 20));
    let columns = [
        "round trips/s",
        "p50, µs",
        "p99, µs",
        "in flight/s",
        "one way/s",
        &large[0],
        &large[1],
    ];
    print(&columns, &ways);
    print_used(&ways);
    drop(ways);

    print_library(&daemon, (&alice, &bob), &at("library"), rounds)?;
    print_pieces((&alice, &bob), &target, dir.path(), rounds)
}

/// A program that is told what to be.
fn play(words: &[&str]) -> io::Result<()> {
    match *words {
        ["listen", path] => {
            let listener = UnixListener::bind(path)?;
            ready(path)?;
            loop {
                let mut connection = raw::Connection::welcome(listener.accept()?.0)?;
                thread::spawn(move || connection.answer());
            }
        }
        ["connect", path] => {
            let mut connection = raw::Connection::connect(path)?;
            ready(path)?;
            connection.answer()
        }
        ["bus", path] => {
            let mut connection = raw::Connection::connect(path)?;
            connection.join_bus(raw::ANSWERING)?;
            ready(path)?;
            connection.answer()
        }
        ["library", "listen", path] => library::answer(path, library::Kind::Peer, true),
        ["library", "connect", address] => library::answer(address, library::Kind::Peer, false),
        ["library", "bus", address] => library::answer(address, library::Kind::Bus, false),
        ["relay", from, to, with] => pieces::relay(from.into(), to.into(), with == "tls"),
        _ => Err(io::Error::other(format!("no such role: {words:?}"))),
    }
}

/// Says that it can be used, and where.
fn ready(place: &str) -> io::Result<()> {
    println!("ready {place}");
    io::stdout().flush()
}

/// Starts one of them; it is ready. Gives its place too.
fn start(role: &str) -> io::Result<(Process, String)> {
    let program = env::current_exe()?;
    let process = Process::start(role, Command::new(program).env(ROLE, role));
    let place = process.wait_for_line(PATIENCE, |line| {
        line.strip_prefix("ready ").map(str::to_owned)
    });
    Ok((process, place))
}

/// A bus with what a session's allows.
struct Daemon {
    address: String,
    process: Process,
}

impl Daemon {
    fn start(path: &str) -> Self {
        let mut command = Command::new("dbus-daemon");
        command
            .args(["--session", "--nofork", "--print-address"])
            .arg(format!("--address=unix:path={path}"));
        let process = Process::start("dbus-daemon", &mut command);
        let address = process.wait_for_line(PATIENCE, |line| {
            line.starts_with("unix:").then(|| line.to_owned())
        });
        Daemon { address, process }
    }
}

/// The path in an address.
fn path(address: &str) -> &str {
    let path = address.strip_prefix("unix:path=").unwrap_or(address);
    path.split(',').next().unwrap_or(path)
}

/// One way from one program to the other, and what was measured.
struct Way {
    name: &'static str,
    asker: raw::Asker,
    /// Who has to do with it, and what they used for round trips and for messages one way.
    watched: Vec<(&'static str, Watched, [Used; 2])>,
    /// By column.
    figures: Vec<Vec<f64>>,
    /// Who answers, where it is this way's alone.
    _answering: Option<Process>,
}

impl Way {
    fn new(
        name: &'static str,
        connection: raw::Connection,
        answering: u32,
        between: &[(&'static str, u32)],
    ) -> Self {
        let mut watched = vec![("who asks", Watched::Ourselves, Default::default())];
        for (name, id) in between.iter().copied().chain([("who answers", answering)]) {
            watched.push((name, Watched::Process(id), Default::default()));
        }
        Way {
            name,
            asker: raw::Asker::new(connection),
            watched,
            figures: Vec::new(),
            _answering: None,
        }
    }

    /// A socket between the two, where somebody listens already.
    fn direct(answering: &Process, path: &str) -> io::Result<Self> {
        let connection = raw::Connection::connect(path)?;
        Ok(Way::new("direct", connection, answering.id(), &[]))
    }

    fn bus(daemon: &Daemon) -> io::Result<Self> {
        let path = path(&daemon.address);
        let (answering, _) = start(&format!("bus {path}"))?;
        let mut connection = raw::Connection::connect(path)?;
        connection.join_bus(raw::ASKING)?;
        let between = [("dbus-daemon", daemon.process.id())];
        let way = Way::new("dbus-daemon", connection, answering.id(), &between);
        Ok(way.keeping(answering))
    }

    fn tube(name: &'static str, alice: &Person, bob: &Person) -> io::Result<Self> {
        let [(_, here), (_, there)] = alice.dbus_tube_to(bob, raw::ANSWERING);
        let (answering, _) = start(&format!("connect {}", path(&there)))?;
        let connection = raw::Connection::connect(path(&here))?;
        let between = [
            ("the one service", alice.manager_id()),
            ("the other service", bob.manager_id()),
        ];
        let way = Way::new(name, connection, answering.id(), &between);
        Ok(way.keeping(answering))
    }

    fn keeping(self, answering: Process) -> Self {
        Way {
            _answering: Some(answering),
            ..self
        }
    }

    /// A round of everything.
    fn measure(&mut self, sizes: [usize; 2]) -> io::Result<()> {
        let mut figures = Vec::new();
        let taken = self.watching(0, |asker| asker.round_trips(ROUND_TRIPS))?;
        let all: Duration = taken.iter().sum();
        figures.push(ROUND_TRIPS as f64 / all.as_secs_f64());
        figures.extend(percentiles(taken));
        let taken = self.asker.in_flight(CALLS, IN_FLIGHT)?;
        figures.push(CALLS as f64 / taken.as_secs_f64());
        let taken = self.watching(1, |asker| asker.one_way(ONE_WAY))?;
        figures.push(ONE_WAY as f64 / taken.as_secs_f64());
        for size in sizes {
            let many = (LARGE / size).max(1);
            let taken = self.asker.large(many, size)?;
            figures.push((many * size) as f64 / 1e6 / taken.as_secs_f64());
        }
        self.figures.resize(figures.len(), Vec::new());
        for (column, figure) in self.figures.iter_mut().zip(figures) {
            column.push(figure);
        }
        Ok(())
    }

    /// Does something and adds up what that used.
    fn watching<T>(
        &mut self,
        which: usize,
        what: impl FnOnce(&mut raw::Asker) -> io::Result<T>,
    ) -> io::Result<T> {
        let before: Vec<Used> = self
            .watched
            .iter()
            .map(|(_, watched, _)| watched.used())
            .collect::<io::Result<_>>()?;
        let done = what(&mut self.asker)?;
        for ((_, watched, used), before) in self.watched.iter_mut().zip(before) {
            used[which] += watched.used()?.since(before);
        }
        Ok(done)
    }
}

/// In microseconds: half of them took no longer, and 99 of 100.
fn percentiles(mut taken: Vec<Duration>) -> [f64; 2] {
    taken.sort_unstable();
    let last = taken.len() - 1;
    [50, 99].map(|percent| taken[last * percent / 100].as_secs_f64() * 1e6)
}

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A table of all ways, and how the last one stands beside each of the others.
fn print(columns: &[&str], ways: &[Way]) {
    let heading: String = columns.iter().map(|name| format!("{name:>15}")).collect();
    println!("{:<14}{heading}", "");
    let medians = |way: &Way| -> Vec<f64> { way.figures.iter().map(|all| median(all)).collect() };
    for way in ways {
        let row: String = medians(way)
            .iter()
            .map(|figure| format!("{figure:>15.0}"))
            .collect();
        println!("{:<14}{row}", way.name);
    }
    let Some((last, others)) = ways.split_last() else {
        return;
    };
    println!(
        "\n{} beside the others; above 1 it is the better one\n",
        last.name
    );
    for way in others {
        let both = medians(last).into_iter().zip(medians(way));
        let row: String = both
            .zip(columns)
            .map(|((ours, theirs), column)| {
                let less_is_better = column.ends_with("µs");
                let ratio = if less_is_better {
                    theirs / ours
                } else {
                    ours / theirs
                };
                format!("{ratio:>15.2}")
            })
            .collect();
        println!("{:<14}{row}", way.name);
    }
}

/// Who computed for how long, and was woken how often.
fn print_used(ways: &[Way]) {
    println!(
        "\nprocessor time, and how often it slept, for each{:>11}{:>18}\n",
        "round trip", "message one way"
    );
    for way in ways {
        let times = [ROUND_TRIPS, ONE_WAY].map(|many| (many * way.figures[0].len()) as f64);
        let show = |used: [Used; 2]| {
            let each = used.iter().zip(times).map(|(used, times)| {
                let computed = used.computed.as_secs_f64() * 1e6 / times;
                format!("{computed:>9.1} µs {:>5.2}", used.sleeps as f64 / times)
            });
            each.collect::<String>()
        };
        let mut all = [Used::default(); 2];
        for (name, _, used) in &way.watched {
            println!("{:<14}{name:<26}{}", way.name, show(*used));
            for (all, used) in all.iter_mut().zip(used) {
                *all += *used;
            }
        }
        println!("{:<14}{:<26}{}", way.name, "all", show(all));
    }
}

/// Round trips with zbus at both ends.
fn print_library(
    daemon: &Daemon,
    (alice, bob): (&Person, &Person),
    socket: &str,
    rounds: usize,
) -> io::Result<()> {
    use library::{Asker, Kind};
    let [(_, here), (_, there)] = alice.dbus_tube_to(bob, library::ANSWERING);
    let address = format!("unix:path={socket}");
    let mut rows = Vec::new();
    for (name, role, address, kind) in [
        ("direct", format!("listen {socket}"), &address, Kind::Peer),
        (
            "dbus-daemon",
            format!("bus {}", daemon.address),
            &daemon.address,
            Kind::Bus,
        ),
        ("tube", format!("connect {there}"), &here, Kind::Peer),
    ] {
        let answering = start(&format!("library {role}"))?;
        rows.push((
            name,
            Asker::new(address, kind)?,
            answering,
            [vec![], vec![], vec![]],
        ));
    }
    for _ in 0..rounds {
        for (_, asker, _, figures) in &mut rows {
            let taken = asker.round_trips(ROUND_TRIPS)?;
            let all: Duration = taken.iter().sum();
            figures[0].push(ROUND_TRIPS as f64 / all.as_secs_f64());
            for (figures, percentile) in figures[1..].iter_mut().zip(percentiles(taken)) {
                figures.push(percentile);
            }
        }
    }
    println!("\nwith zbus at both ends\n");
    println!(
        "{:<14}{:>15}{:>15}{:>15}",
        "", "round trips/s", "p50, µs", "p99, µs"
    );
    for (name, _, _, figures) in &rows {
        let row = figures
            .each_ref()
            .map(|figures| format!("{:>15.0}", median(figures)));
        println!("{name:<14}{}", row.concat());
    }
    let trips = |row: usize| median(&rows[row].3[0]);
    println!(
        "\ntube beside dbus-daemon {:.2}, beside direct {:.2}",
        trips(2) / trips(1),
        trips(2) / trips(0)
    );
    Ok(())
}

/// The same round trips over growing pieces of a tube.
fn print_pieces(
    (alice, bob): (&Person, &Person),
    target: &str,
    dir: &Path,
    rounds: usize,
) -> io::Result<()> {
    let at = |name: &str| dir.join(name).display().to_string();
    let mut kept = Vec::new();
    let mut relay = |from: &str, to: &str, with: &str| -> io::Result<String> {
        let (process, place) = start(&format!("relay {from} {to} {with}"))?;
        kept.push(process);
        Ok(place)
    };
    let one = relay(&at("one"), target, "plain")?;
    let port = relay("0", target, "plain")?;
    let two = relay(&at("two"), &port, "plain")?;
    let port = relay("0", target, "tls")?;
    let tls = relay(&at("tls"), &port, "tls")?;
    let (_, _, door) = alice.tube_to(bob, "x-bench-pieces", &Address::Unix(target.into()), 0);
    let Address::Unix(door) = door else {
        return Err(io::Error::other("no Unix socket was given"));
    };
    let service = "com.example.Bench.Pieces";
    let [(_, here), (_, there)] = alice.dbus_tube_to(bob, service);
    let _other_end = start(&format!("connect {}", path(&there)))?;
    let mut rows = Vec::new();
    for (name, path) in [
        ("direct", target),
        ("a relay between", &one),
        ("two relays, TCP between", &two),
        ("two relays, TLS between", &tls),
        ("two services, stream tube", &door.display().to_string()),
        ("two services, D-Bus tube", path(&here)),
    ] {
        let asker = raw::Asker::new(raw::Connection::connect(path)?);
        rows.push((name, asker, Vec::new()));
    }
    for _ in 0..rounds {
        for (_, asker, figures) in &mut rows {
            let [half, _] = percentiles(asker.round_trips(ROUND_TRIPS)?);
            figures.push(half);
        }
    }
    println!("\nthe same round trip, p50, over what a tube is made of\n");
    let mut before = 0.0;
    for (name, _, figures) in &rows {
        let taken = median(figures);
        println!("{name:<28}{taken:>8.1} µs{:>+8.1}", taken - before);
        before = taken;
    }
    Ok(())
}
