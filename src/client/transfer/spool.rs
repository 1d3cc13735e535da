//! The end of a pipe that was read, kept for a while, so that a transfer that breaks can go on: a pipe can
//! be read only once. It lies in a file without a name, which vanishes with this program.
//!
//! ```text
//!   pipe ──► filling ──► ring on the disk ──► whoever sends, from any place that is still in it
//!                           start … end
//! ```
//!
//! Bounds: [`KEPT`] bytes are kept; older ones are forgotten. What the other end has not stored by then is
//! lost to it, which only happens where it lost what had been written, such as by a loss of power. Nothing
//! is read ahead of who sends by more than [`AHEAD`].
//!
//! Calls block.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::Sha256Digest;

/// Most bytes that are kept.
const KEPT: u64 = 64 * 1024 * 1024;
/// Most bytes that are read before they are sent.
const AHEAD: u64 = 1024 * 1024;
/// Most bytes that are read at once.
const CHUNK: usize = 256 * 1024;

/// See the module's head.
#[derive(Debug)]
pub struct Spool {
    ring: File,
    kept: u64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What is in the ring, in bytes from the pipe's beginning.
    start: u64,
    end: u64,
    /// How far whoever sends has got.
    sent: u64,
    /// The pipe has ended, in order or not.
    ended: Option<Result<(), String>>,
    /// Of everything before `start`.
    hash: Sha256,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("start", &self.start)
            .field("end", &self.end)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

impl Spool {
    /// An empty one, with its file in this folder.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(folder: &Path) -> io::Result<Self> {
        Spool::keeping(folder, KEPT)
    }

    fn keeping(folder: &Path, kept: u64) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let ring = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Spool {
            ring: ring.into(),
            kept,
            state: Mutex::new(State {
                start: 0,
                end: 0,
                sent: 0,
                ended: None,
                hash: Sha256::new(),
            }),
            changed: Condvar::new(),
        })
    }

    /// Positions that were written whole, whatever panicked: they only grow.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the pipe to its end. One thread does this, once.
    pub fn fill(&self, mut pipe: impl io::Read) {
        let mut buffer = vec![0; CHUNK];
        let ended = loop {
            let mut state = self.state();
            while state.end >= state.sent.saturating_add(AHEAD) {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            match pipe.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(read) => {
                    if let Err(error) = self.take(&buffer[..read]) {
                        break Err(format!("what came by the pipe cannot be kept: {error}"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(format!("the pipe cannot be read: {error}")),
            }
        };
        self.state().ended = Some(ended);
        self.changed.notify_all();
    }

    fn take(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let end = state.end + bytes.len() as u64;
        let start = end.saturating_sub(self.kept).max(state.start);
        // What is forgotten is hashed, since it cannot be later.
        let mut gone = vec![0; CHUNK];
        while state.start < start {
            let most = usize::try_from(start - state.start)
                .unwrap_or(CHUNK)
                .min(CHUNK);
            let read = self.read(state.start, &mut gone[..most])?;
            state.hash.update(&gone[..read]);
            state.start += read as u64;
        }
        let mut at = state.end;
        let mut left = bytes;
        while !left.is_empty() {
            let place = at % self.kept;
            let room = usize::try_from(self.kept - place).unwrap_or(left.len());
            let (now, later) = left.split_at(left.len().min(room));
            self.ring.write_all_at(now, place)?;
            at += now.len() as u64;
            left = later;
        }
        state.end = end;
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Bytes of the ring, not beyond its seam.
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let place = at % self.kept;
        let room = usize::try_from(self.kept - place).unwrap_or(buffer.len());
        let most = buffer.len().min(room);
        self.ring.read_exact_at(&mut buffer[..most], place)?;
        Ok(most)
    }

    /// The bytes at `at`, waiting for them; none at the pipe's end, or when `stop` says so, which is
    /// looked at after [`Spool::wake`].
    ///
    /// # Errors
    /// What broke the pipe; that the bytes are forgotten.
    pub fn next(
        &self,
        at: u64,
        buffer: &mut [u8],
        stop: impl Fn() -> bool,
    ) -> Result<usize, String> {
        let mut state = self.state();
        state.sent = state.sent.max(at);
        self.changed.notify_all();
        loop {
            if stop() {
                return Ok(0);
            }
            if at < state.start {
                return Err("what it lacks of the pipe is not kept any more".to_owned());
            }
            if at < state.end {
                let most = usize::try_from(state.end - at).unwrap_or(buffer.len());
                let most = most.min(buffer.len());
                return self
                    .read(at, &mut buffer[..most])
                    .map_err(|error| format!("what was kept of the pipe cannot be read: {error}"));
            }
            match &state.ended {
                Some(Ok(())) => return Ok(0),
                Some(Err(why)) => return Err(why.clone()),
                None => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Has whoever waits look again whether to stop.
    pub fn wake(&self) {
        // Not between his look and his wait.
        drop(self.state());
        self.changed.notify_all();
    }

    /// The SHA-256 of everything up to `offset`, if that can still be sent from there.
    ///
    /// # Errors
    /// What the system says.
    pub fn digest(&self, offset: u64) -> io::Result<Option<Sha256Digest>> {
        let state = self.state();
        if offset < state.start || offset > state.end {
            return Ok(None);
        }
        let mut hash = state.hash.clone();
        let mut at = state.start;
        let mut buffer = vec![0; CHUNK];
        while at < offset {
            let most = usize::try_from(offset - at).unwrap_or(CHUNK).min(CHUNK);
            let read = self.read(at, &mut buffer[..most])?;
            hash.update(&buffer[..read]);
            at += read as u64;
        }
        Ok(Some(Sha256Digest(hash.finalize().into())))
    }

    /// Whether the pipe can be sent from its beginning.
    pub fn has_beginning(&self) -> bool {
        self.state().start == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Bytes of which none looks like another far away.
    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 31 + n / 251) as u8).collect()
    }

    fn filled(kept: u64, bytes: Vec<u8>) -> (Arc<Spool>, std::thread::JoinHandle<()>) {
        let spool = Spool::keeping(&std::env::temp_dir(), kept).expect("a file without a name");
        let spool = Arc::new(spool);
        let filling = spool.clone();
        let thread = std::thread::spawn(move || filling.fill(&bytes[..]));
        (spool, thread)
    }

    fn drain(spool: &Spool, from: u64) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 1000];
        loop {
            let at = from + all.len() as u64;
            match spool.next(at, &mut buffer, || false)? {
                0 => return Ok(all),
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    #[test]
    fn what_was_sent_can_be_sent_again_while_it_is_kept() {
        let bytes = pattern(3 * 1024 * 1024 + 77);
        let (spool, thread) = filled(2 * 1024 * 1024, bytes.clone());
        assert!(spool.has_beginning());
        assert_eq!(drain(&spool, 0).as_deref(), Ok(&bytes[..]));
        thread.join().unwrap();
        assert!(!spool.has_beginning());
        let kept = bytes.len() as u64 - 2 * 1024 * 1024;
        for from in [kept, kept + 1, bytes.len() as u64] {
            let index = usize::try_from(from).unwrap();
            assert_eq!(drain(&spool, from).as_deref(), Ok(&bytes[index..]));
            let digest = spool.digest(from).unwrap().expect("it is kept");
            let expected: [u8; 32] = Sha256::digest(&bytes[..index]).into();
            assert_eq!(digest, Sha256Digest(expected));
        }
        assert!(drain(&spool, kept - 1).is_err());
        assert_eq!(spool.digest(kept - 1).unwrap(), None);
        assert_eq!(spool.digest(bytes.len() as u64 + 1).unwrap(), None);
    }

    #[test]
    fn nothing_is_read_far_ahead_of_who_sends() {
        let bytes = pattern(4 * 1024 * 1024);
        let (spool, thread) = filled(16 * 1024 * 1024, bytes.clone());
        let mut buffer = vec![0; 10];
        assert_eq!(spool.next(0, &mut buffer, || false), Ok(10));
        assert!(spool.state().end < AHEAD + CHUNK as u64);
        assert_eq!(drain(&spool, 0).as_deref(), Ok(&bytes[..]));
        thread.join().unwrap();
    }

    #[test]
    fn who_waits_can_be_called_off_and_hears_of_what_broke() {
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let spool = Spool::keeping(&std::env::temp_dir(), 1 << 20).unwrap();
        assert_eq!(spool.next(0, &mut [0], || true), Ok(0));
        spool.fill(Broken);
        assert!(spool.next(0, &mut [0], || false).is_err());
    }
}
