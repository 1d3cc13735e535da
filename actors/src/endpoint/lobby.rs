//! Where clients wait until they have said their byte (`Credentials`). They have been accepted and are
//! of our user; each holds a slot.
//!
//! ```text
//!   accepted, admitted ──► Lobby ──byte──► to the tube
//!                            └── end of file, another user's byte, silence ──► refused
//! ```
//!
//! One that stays silent is refused after [`FIRST_WORD_WITHIN`]. It delays nobody else: while there
//! are places ([`MOST_SILENT`]) and slots others pass it by, and when there are none and somebody
//! waits, who has been silent longest goes as soon as it has had [`PATIENCE`].

use std::{
    collections::VecDeque,
    io,
    os::fd::AsFd as _,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    Accepted,
    access_control::{Admission, Refusal},
    credentials::{self, Word},
};
use crate::runtime::Time;

/// How long a client may take to say its byte.
pub const FIRST_WORD_WITHIN: Duration = Duration::from_secs(10);
/// Most clients that have not said theirs yet. The next one waits in the kernel's queue.
pub const MOST_SILENT: usize = 32;
/// How long a client may be silent although others wait for its place.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// See the module's head. Guests stand in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Lobby(VecDeque<Guest>);

#[derive(Debug)]
struct Guest {
    accepted: Accepted,
    since: Time,
}

impl Lobby {
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MOST_SILENT
    }

    pub(super) fn enter(&mut self, accepted: Accepted, now: Time) {
        self.0.push_back(Guest {
            accepted,
            since: now,
        });
    }

    /// Since when the one that came first has been here.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.0.front().map(|guest| guest.since)
    }

    /// Takes out the one that came first.
    pub(super) fn take_oldest(&mut self) -> Option<Accepted> {
        self.0.pop_front().map(|guest| guest.accepted)
    }

    /// Takes out the first guest that has said something, and whether it may come in. Waits for one.
    pub(super) fn poll_word(
        &mut self,
        admission: &Admission,
        context: &mut Context<'_>,
    ) -> Poll<(Accepted, Result<(), Refusal>)> {
        let spoken =
            self.0
                .iter()
                .enumerate()
                .find_map(|(place, guest)| match guest.poll_word(context) {
                    Poll::Ready(word) => Some((place, word)),
                    Poll::Pending => None,
                });
        let Some((place, word)) = spoken else {
            return Poll::Pending;
        };
        let verdict = word.map_err(Refusal::Unknown).and_then(|word| match word {
            Word::Byte { writer } => admission.check_writer(writer),
            Word::End => Err(Refusal::Gone),
        });
        match self.0.remove(place) {
            Some(guest) => Poll::Ready((guest.accepted, verdict)),
            None => Poll::Pending,
        }
    }
}

impl Guest {
    fn poll_word(&self, context: &mut Context<'_>) -> Poll<io::Result<Word>> {
        let stream = &self.accepted.stream;
        loop {
            match credentials::hear(stream.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match stream.poll_readable(context) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                word => return Poll::Ready(word),
            }
        }
    }
}
