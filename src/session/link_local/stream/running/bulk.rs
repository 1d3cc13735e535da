//! What in-band bytestreams send through the stream, and how those who use it learn of its end.

use std::sync::Arc;

use actors::runtime::Time;

use crate::{
    session::{
        bytestreams::Bytestreams,
        lane::{Source, Ticket},
        link::{Link, RequestError},
    },
    xmpp::{Iq, IqKind, Message, iq_tracker::TrackError, payload::file},
};

use super::{super::StreamLink, REQUEST, Running, Waiter};

/// Tells those who use the stream that it is over, even if its actor dies.
pub(super) struct Ending {
    pub(super) link: Arc<StreamLink>,
    pub(super) bytestreams: Arc<Bytestreams>,
}

impl Ending {
    pub(super) fn tell(&self) {
        self.link.end();
        self.bytestreams.link_ended(&*self.link);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.tell();
    }
}

impl Running {
    /// A bytestream's turn has come.
    pub(super) fn turn(&mut self, source: Arc<dyn Source>) {
        let Some((payload, ticket)) = source.clone().next() else {
            return;
        };
        let id = self.fresh_id();
        let deadline = match ticket {
            Ticket::Block(_) => Time::MAX,
            Ticket::Close => self.now() + REQUEST,
        };
        let refused = || {
            Err(RequestError::Refused {
                condition: "resource-constraint".into(),
                text: Some("it was not sent".into()),
            })
        };
        if let Err(TrackError::Full((source, ticket)) | TrackError::SameId((source, ticket))) =
            self.blocks.track(&id, deadline, (source, ticket))
        {
            source.answered(ticket, refused());
            return;
        }
        let iq = Iq::new(
            self.link.us(),
            self.link.them(),
            id.clone(),
            IqKind::Set(payload),
        );
        if self.send(&iq.to_element()).is_err()
            && let Some((source, ticket)) = self.blocks.forget(&id)
        {
            source.answered(ticket, refused());
        }
    }

    /// Sends a message of which nobody has to know whether it was written.
    fn say(&mut self, payloads: Vec<minidom::Element>) {
        let message = Message {
            from: Some(self.link.us().to_owned()),
            to: Some(self.link.them().to_owned()),
            id: Some(self.fresh_id()),
            kind: None,
            payloads,
        };
        if let Err(error) = self.send(&message.to_element()) {
            tracing::debug!(contact = %self.contact, %error, "a message was not sent");
        }
    }

    /// A bytestream is over. A peer that has not answered its blocks need not do so any more, and an answer
    /// that comes all the same finds nobody: so what never is answered takes no room.
    /// Whoever offered something and does not wait any more is forgotten likewise; the peer is told, if it
    /// understands that.
    pub(super) fn left(&mut self) {
        self.blocks.retain(|(source, _)| !source.is_over());
        self.tracker.retain(|waiter| match waiter {
            Waiter::Offer(reply) => reply.is_wanted(),
            _ => true,
        });
        for sid in self.link.lane().taken_back() {
            if self.link.is_pneuma() {
                self.say(vec![file::cancel(&sid)]);
            }
        }
    }
}
