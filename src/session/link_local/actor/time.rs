//! What happens because time passes.

use actors::{model::Error, runtime::Time};

use async_channel::Receiver;

use super::streams::refuse;
use super::{MAX_BACKGROUND, SessionActor, State};

impl SessionActor {
    pub(super) fn next_deadline(&self) -> Option<Time> {
        if self.over {
            return None;
        }
        let state = match &self.state {
            State::Starting { until, .. } | State::Leaving { until, .. } => Some(*until),
            State::Offline | State::Online => None,
        };
        let unknown = self.unknown.iter().map(|unknown| unknown.until);
        let waiters = self
            .peers
            .values()
            .flat_map(|peer| peer.waiters.iter().map(|(until, _)| *until));
        // While as many are being opened as may be, the next one's turn comes with an end, not with time.
        let room = |pinned| self.in_background(pinned) < MAX_BACKGROUND;
        let (room_for_pinned, room_for_others) = (room(true), room(false));
        let free = |id| match self.parts.contacts.has_pin(id) {
            true => room_for_pinned,
            false => room_for_others,
        };
        let asking = self
            .peers
            .iter()
            .filter(|(id, peer)| self.is_online() && peer.dialling.is_none() && free(id))
            .filter_map(|(_, peer)| peer.ask_at);
        unknown
            .chain(waiters)
            .chain(asking)
            .chain(state)
            .chain(self.parts.contacts.next_deadline())
            .min()
    }

    pub(super) fn timers(&mut self) {
        // After a sleep of the machine the time comes with all that happened before it, and what
        // happened counts: who was seen, or answered, is not lost. As much as the queues hold may
        // exceed the outbox's bound, once.
        while let Ok((id, event)) = self.parts.stream_events.try_next() {
            self.stream_event(id, event);
        }
        while let Some(Ok(event)) = self.sightings.as_ref().map(Receiver::try_recv) {
            self.discovered(event);
        }
        let now = self.now();
        if matches!(&self.state, State::Starting { until, .. } if *until <= now) {
            self.leave(
                Error::NetworkError(
                    "our presence could not be announced: no interface carries multicast".into(),
                ),
                None,
            );
        }
        let (late, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unknown)
            .into_iter()
            .partition(|unknown| unknown.until <= now);
        self.unknown = waiting;
        for unknown in late {
            refuse(unknown.admission, "nothing on the network vouches for it");
        }
        for (id, peer) in &mut self.peers {
            for (_, waiter) in peer.waiters.extract_if(.., |(until, _)| *until <= now) {
                waiter.fail(Error::ConnectionFailed(format!(
                    "{id} could not be reached in time"
                )));
            }
        }
        let changes = self.parts.contacts.expire(now);
        self.follow(changes);
    }
}
