//! What a process uses while something is measured, as the kernel counts it (proc(5)).

use std::{fs, io, ops::AddAssign, time::Duration};

/// A process, or a thread of ours.
#[derive(Clone, Debug)]
pub struct Watched(String);

impl Watched {
    /// All threads of a process.
    pub fn process(id: u32) -> Self {
        Watched(format!("/proc/{id}/task"))
    }

    /// The first thread of this process alone.
    pub fn ourselves() -> Self {
        Watched("/proc/self/task".to_owned())
    }

    /// What it has used since it began.
    pub fn used(&self) -> io::Result<Used> {
        let mut used = Used::default();
        for thread in fs::read_dir(&self.0)? {
            let thread = thread?.path();
            let first = thread.ends_with(std::process::id().to_string());
            if self.0.contains("self") && !first {
                continue;
            }
            let computed = fs::read_to_string(thread.join("schedstat"))?;
            let computed = computed.split_whitespace().next();
            used.computed += Duration::from_nanos(number(computed)?);
            let status = fs::read_to_string(thread.join("status"))?;
            let sleeps = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            used.sleeps += number(sleeps)?;
        }
        Ok(used)
    }
}

fn number(text: Option<&str>) -> io::Result<u64> {
    text.and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel counts nothing"))
}

/// See [`Watched::used`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Time of a processor.
    pub computed: Duration,
    /// How often it had nothing to do and waited.
    pub sleeps: u64,
}

impl Used {
    /// What was used since then.
    pub fn since(self, before: Used) -> Used {
        Used {
            computed: self.computed.saturating_sub(before.computed),
            sleeps: self.sleeps.saturating_sub(before.sleeps),
        }
    }
}

impl AddAssign for Used {
    fn add_assign(&mut self, other: Used) {
        self.computed += other.computed;
        self.sleeps += other.sleeps;
    }
}
