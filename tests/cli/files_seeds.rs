//! Files in a storm: commands and services are killed (SIGKILL) at moments that a seed chooses, and every file
//! arrives as it was.
//!
//! Without anything said, a hundred seeds with a small file each. `PNEUMA_STORM_SEEDS`, `PNEUMA_STORM_MIB` and
//! `PNEUMA_STORM_KILLS` make other storms: `1`, `1024` and `10` are ten kills for one GiB. With
//! `PNEUMA_STORM_ALONE`, in a network namespace where nobody else uses the loopback interface, its counter says
//! how many bytes went twice, and more than 2 % fail.

use std::{env, fs, time::Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{CM_NAME, PATIENCE, Person};

use crate::files::Files;

/// A number of the environment's, or this one.
fn number(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().expect(name))
}

/// The same seed gives the same numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    SendingCommand,
    ReceivingCommand,
    SendersService,
    ReceiversService,
}

/// Kills whoever is a person's connection manager now.
fn kill_service(person: &Person) {
    let asked = person.bus().call(
        "org.freedesktop.DBus",
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus",
        "GetConnectionUnixProcessID",
        &CM_NAME,
    );
    // It may not be back yet from the last time.
    let Ok(answer) = asked else { return };
    let id: u32 = answer.body().deserialize().expect("a process id");
    let id = Pid::from_raw(i32::try_from(id).expect("a process id")).expect("a process");
    kill_process(id, Signal::KILL).unwrap_or_default();
}

/// Sends one file through a storm.
fn storm(files: &Files, seed: u64, mib: u64, kills: u64) {
    let mut random = Random(seed);
    let size = mib * 1024 * 1024 + random.below(5000);
    let bytes = random.bytes(usize::try_from(size).expect("a length"));
    let name = format!("storm-{seed}");
    files.file(&name, &bytes);
    let mut moments: Vec<u64> = (0..kills).map(|_| random.below(size)).collect();
    moments.sort_unstable();
    let (part, whole) = (
        files.inn.join(format!("{name}.part")),
        files.inn.join(&name),
    );
    let mut receiving = files.receiving(&["--once"]);
    let mut sending = files.sending(&[&name]);
    let mut victims = Vec::new();
    for at in moments {
        // Looked at without a pause, so that a quick file is caught.
        let deadline = Instant::now() + PATIENCE;
        let there = || fs::metadata(&part).is_ok_and(|metadata| metadata.len() > at);
        while !there() && !whole.exists() {
            if Instant::now() > deadline {
                let (sent, received) = (sending.interrupt(), receiving.interrupt());
                panic!("seed {seed}: {victims:?}, then nothing\n{sent:?}\n{received:?}");
            }
            std::thread::yield_now();
        }
        if whole.exists() {
            break;
        }
        let victim = match random.below(4) {
            0 => Victim::SendingCommand,
            1 => Victim::ReceivingCommand,
            2 => Victim::SendersService,
            _ => Victim::ReceiversService,
        };
        victims.push(victim);
        match victim {
            Victim::SendersService => kill_service(files.two.alice.person()),
            Victim::ReceiversService => kill_service(files.two.bob.person()),
            Victim::SendingCommand => {
                sending.signal(Signal::KILL);
                sending = files.sending(&[&name]);
            }
            Victim::ReceivingCommand => {
                receiving.signal(Signal::KILL);
                receiving = files.receiving(&["--once"]);
            }
        }
    }
    receiving.event("completed");
    let received = receiving.finish();
    // A sender that was killed when all had arrived finds nobody to send it to again.
    drop(sending);
    assert_eq!(
        received.code,
        Some(0),
        "seed {seed}: {victims:?}: {received:?}"
    );
    files.is_there(&name, &bytes);
    assert!(!part.exists(), "seed {seed}: {victims:?}");
    fs::remove_file(whole).expect("it is there");
}

/// A quarter of the seeds, with people of its own.
fn quarter(number_of_it: u64) {
    let seeds = number("PNEUMA_STORM_SEEDS", 100);
    let mib = number("PNEUMA_STORM_MIB", 4);
    let kills = number("PNEUMA_STORM_KILLS", 1);
    let mine: Vec<u64> = (0..seeds).filter(|seed| seed % 4 == number_of_it).collect();
    if mine.is_empty() {
        return;
    }
    let files = Files::new();
    for seed in mine {
        let before = sent();
        let begun = Instant::now();
        storm(&files, seed, mib, kills);
        let (bytes, size) = (sent() - before, mib * 1024 * 1024);
        if env::var_os("PNEUMA_STORM_ALONE").is_some() {
            let more = bytes.saturating_sub(size) as f64 / size as f64;
            eprintln!(
                "seed {seed}: {mib} MiB in {:.1} s, {kills} kills, {bytes} bytes on the wire: {:.2} % more",
                begun.elapsed().as_secs_f64(),
                more * 100.0
            );
            assert!(more < 0.02, "seed {seed}");
        }
    }
}

#[test]
fn every_file_of_the_first_quarter_arrives_whoever_is_killed() {
    quarter(0);
}

#[test]
fn every_file_of_the_second_quarter_arrives_whoever_is_killed() {
    quarter(1);
}

#[test]
fn every_file_of_the_third_quarter_arrives_whoever_is_killed() {
    quarter(2);
}

#[test]
fn every_file_of_the_last_quarter_arrives_whoever_is_killed() {
    quarter(3);
}

/// Bytes that went over the loopback interface.
fn sent() -> u64 {
    let path = "/sys/class/net/lo/statistics/tx_bytes";
    let text = fs::read_to_string(path).expect("the kernel counts");
    text.trim().parse().expect("a number")
}
