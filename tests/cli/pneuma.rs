//! Runs `pneuma` as a person would, and keeps what it wrote. Nothing waits for ever: a command that
//! does not end is killed and fails its test.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::JoinHandle,
    time::Instant,
};

use serde_json::Value;
use support::{PATIENCE, Person};

/// A person's command line.
pub struct Pneuma {
    person: Person,
}

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Asserts that it worked.
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Asserts how it failed, in one sentence that has all of `parts`.
    pub fn failed(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        let sentence = self.err.lines().last().unwrap_or_default();
        assert!(sentence.starts_with("pneuma: "), "{self:?}");
        assert!(sentence.ends_with('.'), "{self:?}");
        for part in parts {
            assert!(sentence.contains(part), "{part} is not in {sentence}");
        }
        self
    }

    /// Asserts how a command with `--json` failed.
    pub fn failed_with_json(self, code: i32, word: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        let last = self.err.lines().last().unwrap_or_default();
        let value: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert_eq!(value["error"], word, "{self:?}");
        self
    }

    /// The result as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Pneuma {
    pub fn of(person: Person) -> Self {
        Pneuma { person }
    }

    pub fn person(&self) -> &Person {
        &self.person
    }

    /// A command of this person's, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_pneuma"), arguments)
    }

    /// Another program in this person's session.
    pub fn command_of(&self, program: &str, arguments: &[&str]) -> Command {
        self.person.command(program, arguments)
    }

    /// Runs a command to its end, with nothing on its standard input.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.start(arguments).finish()
    }

    /// Starts a command that goes on.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null());
        Running::start(command)
    }

    /// Brings the account online and leaves it so.
    pub fn stay_online(&self) {
        self.run(&["contacts", "--detach"]).succeeded();
    }

    /// Waits until there is no tube: what a contact or a service that was killed has closed is listed for
    /// a moment.
    pub fn has_no_tubes(&self) {
        self.person.until("there are no tubes", || {
            let tubes = self.run(&["tubes", "--json"]).succeeded().json();
            (tubes == serde_json::json!([])).then_some(())
        });
    }

    /// The id under which others see this person, once online.
    pub fn id(&self) -> String {
        let status = self.run(&["status", "--json"]).succeeded().json();
        status["accounts"][0]["id"]
            .as_str()
            .unwrap_or_else(|| panic!("no account is online: {status}"))
            .to_owned()
    }
}

/// A command that runs. Killed on drop.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    readers: Vec<JoinHandle<String>>,
    shown: String,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, lines) = channel();
        let out = child.stdout.take().expect("a pipe");
        let err = child.stderr.take().expect("a pipe");
        let readers = vec![
            std::thread::spawn(move || {
                let mut all = String::new();
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    all.push_str(&line);
                    all.push('\n');
                    // A test that waits for no more lines is no reason to stop reading.
                    drop(sender.send(line));
                }
                all
            }),
            std::thread::spawn(move || {
                let mut all = Vec::new();
                let mut err = err;
                drop(err.read_to_end(&mut all));
                String::from_utf8_lossy(&all).into_owned()
            }),
        ];
        Running {
            child,
            lines,
            readers,
            shown: String::new(),
        }
    }

    /// Its standard input, where the command was given a pipe.
    pub fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe")
    }

    /// The first line of its output in which `find` sees something, from where the last search
    /// ended.
    pub fn wait_for<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.shown.push_str(&line);
                    self.shown.push('\n');
                    if let Some(found) = find(&line) {
                        return found;
                    }
                }
                Err(why) => {
                    drop(self.child.kill());
                    let err = self.readers.pop().map(JoinHandle::join);
                    let ended = matches!(why, RecvTimeoutError::Disconnected);
                    panic!(
                        "no {what} (ended: {ended}); it wrote:\n{}\n{err:?}",
                        self.shown
                    );
                }
            }
        }
    }

    /// The same among the lines that are there already.
    pub fn has_said<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        while let Ok(line) = self.lines.try_recv() {
            self.shown.push_str(&line);
            self.shown.push('\n');
            if let Some(found) = find(&line) {
                return Some(found);
            }
        }
        None
    }

    /// The next JSON record with this event.
    pub fn event(&mut self, event: &str) -> Value {
        self.wait_for(event, |line| {
            let value: Value = serde_json::from_str(line).expect("a line of JSON");
            (value["event"] == event).then_some(value)
        })
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).expect("a signal to our own child");
    }

    /// Presses Ctrl-C and waits for the end.
    pub fn interrupt(self) -> Ran {
        self.signal(rustix::process::Signal::INT);
        self.finish()
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Ran {
        let status = self.wait();
        let mut outputs = self
            .readers
            .drain(..)
            .map(|reader| reader.join().expect("a reader"));
        Ran {
            code: status.code(),
            out: outputs.next().unwrap_or_default(),
            err: outputs.next().unwrap_or_default(),
        }
    }

    /// Waits until standard output has ended, which a process's end is for.
    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.shown.push_str(&line);
                    self.shown.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    drop(self.child.kill());
                    let err = self.readers.pop().map(JoinHandle::join);
                    panic!("it did not end; {err:?}\n{}", self.shown);
                }
            }
        }
        self.child.wait().expect("our own child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Writes all of it and closes.
pub fn feed(mut input: ChildStdin, bytes: Vec<u8>) -> JoinHandle<std::io::Result<()>> {
    std::thread::spawn(move || input.write_all(&bytes))
}

/// Bytes that repeat at no power of two.
pub fn noise(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ (n % 251) as u8)
        .collect()
}
