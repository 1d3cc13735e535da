//! What a process uses while something is measured, as the kernel counts it (proc(5)).

use std::{
    fs, io,
    ops::AddAssign,
    path::{Path, PathBuf},
    time::Duration,
};

/// Who is watched.
#[derive(Clone, Copy, Debug)]
pub enum Watched {
    /// All threads of a process.
    Process(u32),
    /// The thread that asks.
    Ourselves,
}

impl Watched {
    /// What it has used since it began. Of a process, without the threads that are gone.
    pub fn used(self) -> io::Result<Used> {
        let threads: Vec<PathBuf> = match self {
            Watched::Ourselves => vec!["/proc/thread-self".into()],
            Watched::Process(id) => fs::read_dir(format!("/proc/{id}/task"))?
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<_>>()?,
        };
        let mut used = Used::default();
        for thread in threads {
            match used_by(&thread) {
                Ok(this) => used += this,
                // It has ended since.
                Err(_) if !thread.exists() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(used)
    }
}

fn used_by(thread: &Path) -> io::Result<Used> {
    let computed = fs::read_to_string(thread.join("schedstat"))?;
    let computed = number(computed.split_whitespace().next())?;
    let status = fs::read_to_string(thread.join("status"))?;
    let sleeps = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(Used {
        computed: Duration::from_nanos(computed),
        sleeps: number(sleeps)?,
    })
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
