//! Files in a storm: commands and services are killed (SIGKILL), connections reset, a side put to sleep, at moments
//! that a seed chooses; and every file arrives as it was, once. A hundred seeds with a small file each, which a rule
//! makes slow enough to be broken half way. `PNEUMA_STORM_SEED` is another seed to begin at. It takes a minute, most
//! of it pauses before somebody tries again; `cargo bench --bench survive` does it with a large file.

use std::{
    env, fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use support::storm::{Breakage, Random, Storm, Survived};

use crate::files::Files;

/// How many seeds.
const SEEDS: u64 = 100;
/// How many pairs of people go through them side by side: most of the time they wait.
const PAIRS: usize = 8;
/// Sizes of the files: from here on.
const SIZE: u64 = 1024 * 1024;
/// How fast they go.
const RATE: &str = "2MiB";
/// How long somebody sleeps. Longer than anybody waits for an answer is what the benchmark does.
const ASLEEP: Duration = Duration::from_millis(300);

/// What a seed breaks, and after how many bytes: while some are still to come.
fn plan(random: &mut Random, size: u64) -> Vec<(u64, Breakage)> {
    let all = Breakage::anywhere(ASLEEP);
    let many = 1 + random.below(2);
    let mut when: Vec<u64> = (0..many).map(|_| random.below(size / 5 * 3)).collect();
    when.sort_unstable();
    when.into_iter()
        .map(|at| (at, all[random.below(all.len() as u64) as usize]))
        .collect()
}

/// One pair of people, until the seeds are used up. Each seed's breakages are noted, and whether it began again.
fn pair(next: &AtomicU64, seen: &Mutex<Vec<Survived>>) {
    let files = Files::new();
    let rate = ["policy", "set", "bob", "file-transfer", "--max-rate", RATE];
    files.two.alice.run(&rate).succeeded();
    let storm = Storm {
        pneuma: Path::new(env!("CARGO_BIN_EXE_pneuma")),
        sender: files.two.alice.person(),
        receiver: files.two.bob.person(),
        to: &files.bob,
        into: &files.inn,
    };
    let first = env::var("PNEUMA_STORM_SEED").map_or(0, |seed| seed.parse().expect("a seed"));
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= SEEDS {
            return;
        }
        let seed = first + number;
        let mut random = Random(seed);
        let size = SIZE + random.below(5000);
        let mut bytes = vec![0; usize::try_from(size).expect("a length")];
        random.fill(&mut bytes);
        let name = format!("seed-{seed}");
        let path = files.file(&name, &bytes);
        let plan = plan(&mut random, size);
        let begun = Instant::now();
        let survived = storm.send(&path, &plan, |_| ());
        let taken = begun.elapsed().as_secs_f32();
        eprintln!("seed {seed}: {taken:.1} s: {survived:?} of {plan:?}");
        files.is_there(&name, &bytes);
        assert_eq!(files.has(), [name.as_str()], "seed {seed}");
        for path in [path, files.inn.join(&name)] {
            fs::remove_file(path).expect("it is there");
        }
        seen.lock().expect("nobody panics here").extend(survived);
    }
}

#[test]
fn every_file_of_a_hundred_seeds_arrives_whatever_breaks() {
    let (next, seen) = (AtomicU64::new(0), Mutex::default());
    thread::scope(|scope| {
        let pairs: Vec<_> = (0..PAIRS)
            .map(|_| scope.spawn(|| pair(&next, &seen)))
            .collect();
        for pair in pairs {
            pair.join().expect("every seed arrives");
        }
    });
    let seen = seen.into_inner().expect("nobody panicked");
    // A storm that breaks nothing would show nothing.
    let again = seen.iter().filter(|one| one.from.is_some()).count();
    let half_way = seen
        .iter()
        .filter(|one| one.from.is_some_and(|from| from.0 > 0));
    let half_way = half_way.count();
    eprintln!(
        "{} breakages; {again} began again, {half_way} of them half way",
        seen.len()
    );
    assert!(
        half_way > usize::try_from(SEEDS / 4).expect("a number"),
        "{half_way}"
    );
}
