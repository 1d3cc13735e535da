//! A child process whose output is kept for the moment a test fails, and what /proc says of it.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Lines of output kept; the oldest go first.
const KEPT_LINES: usize = 400;

#[derive(Default)]
struct Output {
    lines: std::collections::VecDeque<String>,
    ended: usize,
}

/// A running child. Killed by its id and reaped on drop.
pub struct Process {
    label: String,
    child: Child,
    output: Arc<(Mutex<Output>, Condvar)>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts it, keeping what it writes.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(label: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{label}: cannot start {command:?}: {error}"));
        let output = Arc::new((Mutex::new(Output::default()), Condvar::new()));
        let pipes: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|pipe| Box::new(pipe) as _),
            child.stderr.take().map(|pipe| Box::new(pipe) as _),
        ];
        let readers = pipes
            .into_iter()
            .flatten()
            .map(|pipe| {
                let output = Arc::clone(&output);
                std::thread::spawn(move || keep(pipe, &output))
            })
            .collect();
        Process {
            label: label.to_owned(),
            child,
            output,
            readers,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote, oldest first, each line after its label.
    pub fn output(&self) -> String {
        let output = self.output.0.lock().expect("the output's lock");
        output
            .lines
            .iter()
            .map(|line| format!("[{}] {line}\n", self.label))
            .collect()
    }

    /// The first line in which `find` sees something.
    ///
    /// # Panics
    /// When there is none before the deadline or the end of its output.
    pub fn wait_for_line<T>(&self, patience: Duration, find: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + patience;
        let (lock, changed) = &*self.output;
        let mut output = lock.lock().expect("the output's lock");
        loop {
            if let Some(found) = output.lines.iter().find_map(|line| find(line)) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || output.ended == 2 {
                drop(output);
                panic!(
                    "{} did not say what was waited for:\n{}",
                    self.label,
                    self.output()
                );
            }
            output = changed
                .wait_timeout(output, left)
                .expect("the output's lock")
                .0;
        }
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Panics
    /// When it still runs after `patience`.
    pub fn terminate(&mut self, patience: Duration) -> std::process::ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait(patience)
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).expect("a signal to our own child");
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> std::process::ExitStatus {
        let deadline = Instant::now() + patience;
        // Both pipes end when the process does; then `wait` does not block for long.
        let (lock, changed) = &*self.output;
        let mut output = lock.lock().expect("the output's lock");
        while output.ended < 2 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(output);
                panic!("{} did not end:\n{}", self.label, self.output());
            }
            output = changed
                .wait_timeout(output, left)
                .expect("the output's lock")
                .0;
        }
        drop(output);
        self.child.wait().expect("our own child")
    }

    /// What it uses now.
    ///
    /// # Panics
    /// When it is gone.
    pub fn usage(&self) -> Usage {
        Usage::of(self.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is fine; anything else shows as a hang in the joins below.
        drop(self.child.kill());
        drop(self.child.wait());
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
        if std::thread::panicking() {
            eprintln!("{}", self.output());
        }
    }
}

fn keep(pipe: Box<dyn Read + Send>, output: &(Mutex<Output>, Condvar)) {
    let mut lines = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).unwrap_or(0);
        let mut output_now = output.0.lock().expect("the output's lock");
        if read == 0 {
            output_now.ended += 1;
            output.1.notify_all();
            return;
        }
        if output_now.lines.len() == KEPT_LINES {
            output_now.lines.pop_front();
        }
        output_now
            .lines
            .push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        output.1.notify_all();
    }
}

/// What a process holds, from /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory, in KiB.
    pub resident_kib: u64,
}

impl Usage {
    /// Reads it.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn of(process: u32) -> Self {
        let count = |what: &str| {
            std::fs::read_dir(format!("/proc/{process}/{what}"))
                .unwrap_or_else(|error| panic!("process {process} is gone: {error}"))
                .count()
        };
        Usage {
            descriptors: count("fd"),
            threads: count("task"),
            resident_kib: status_kib(process, "VmRSS:").expect("a running process's VmRSS"),
        }
    }

    /// The most resident memory it ever had, in KiB; nothing once it is gone.
    pub fn peak_kib(process: u32) -> Option<u64> {
        status_kib(process, "VmHWM:")
    }
}

/// A line of `/proc/PID/status`.
fn status_kib(process: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
