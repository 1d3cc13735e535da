//! Offers that a person answers: they may wait for hours, so they have places of their own, keep the XML
//! stream open, and can be taken back.
//!
//! ```text
//!  offer()                                            on_request()
//!  Standing ──<si/>────────────────────────────────► Undecided ── dropped, declined ──▶ refused
//!     │  │ dropped ──<transfer-cancel/>────────────►   │  │ ──▶ withdrawn
//!     │  └ the XML stream ends ──▶ Offline             │  └ the XML stream ends ──▶ withdrawn
//!     │◄──────────── methods ──────────────────────────┘ agreed
//!     ▼                                                ▼
//!  Agreed ── open(): from here as any bytestream      waits for that; withdrawn as before
//!     │ ◄──────────<transfer-cancel/>──────────────────┘ dropped while it waits
//!     └▶ ended
//! ```
//!
//! Between a person's agreement and the first step towards the bytestream there is no limit either, if
//! the peer is one of us: whoever sends a file may have to look through the half that it has sent before.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use actors::{
    model::Error,
    ports::Bytestream,
    runtime::{BoxFuture, Stop, Stopper, within},
};
use minidom::Element;

use super::{
    Bytestreams, Key, Place, Purpose, Stream, key,
    open::{Agreement, Asked, Draft, NotAgreed, Written},
    peer, random_id,
};
use crate::{
    session::{
        lane::{Standing, User},
        link::{Link, StanzaError},
    },
    xmpp::{Condition, ErrorKind, ns, payload::tube},
};

/// Whether a person decides on offers with this `profile` and these elements.
pub(super) fn is_for_a_person<'e>(
    profile: &str,
    mut elements: impl Iterator<Item = &'e Element>,
) -> bool {
    profile == ns::SI_FILE_TRANSFER || (profile == ns::TUBES && elements.any(tube::DBusOffer::is))
}

/// The peers' offers, until they are declined, withdrawn or open; and, apart from those, our own.
#[derive(Clone, Default)]
pub(super) struct Undecided(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    /// Whose entry a key is: a withdrawn offer must not take out the next one with its SID.
    next: u64,
    entries: HashMap<Key, Stands>,
}

/// An offer that stands. It is withdrawn when this is taken out, and the XML stream need not stay open
/// for it any more.
struct Stands {
    number: u64,
    _end: Stopper,
    _user: User,
}

/// What an offer that a person decides on holds while it stands.
pub(super) struct Waited {
    undecided: Undecided,
    key: Key,
    number: u64,
    end: Stop,
    _place: Place,
}

impl Waited {
    /// Stopped when the peer takes it back or the XML stream ends.
    pub(super) fn end(&self) -> Stop {
        self.end.clone()
    }
}

impl Drop for Waited {
    fn drop(&mut self) {
        let mut inner = self.undecided.lock();
        let ours = |stands: &Stands| stands.number == self.number;
        if inner.entries.get(&self.key).is_some_and(ours) {
            inner.entries.remove(&self.key);
        }
    }
}

impl Undecided {
    /// An offer that waits from now on, unless one of its key does.
    fn enter(&self, link: &Arc<dyn Link>, key: Key, place: Place) -> Option<Waited> {
        let (stopper, end) = Stopper::new();
        let number = {
            let mut inner = self.lock();
            inner.next += 1;
            let number = inner.next;
            match inner.entries.entry(key.clone()) {
                Entry::Occupied(_) => return None,
                Entry::Vacant(entry) => entry.insert(Stands {
                    number,
                    _end: stopper,
                    _user: link.lane().enter(),
                }),
            };
            number
        };
        Some(Waited {
            undecided: self.clone(),
            key,
            number,
            end,
            _place: place,
        })
    }

    /// The XML stream has ended: whoever waits need not decide any more.
    pub(super) fn link_ended(&self, ended: Stream) {
        self.lock()
            .entries
            .retain(|(stream, _), _| *stream != ended);
    }

    /// Every change is one insertion or one removal, so it stays valid whatever panicked while it was
    /// locked.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An offer that a person has agreed to. Dropping it tells the peer, if that is one of us.
pub(super) struct Agreed {
    streams: Arc<Bytestreams>,
    link: Arc<dyn Link>,
    draft: Draft,
    agreement: Agreement,
    standing: Standing,
    waited: Waited,
}

impl Agreed {
    /// What the answer holds beside the methods.
    pub(super) fn extra(&self) -> &[Element] {
        &self.agreement.extra
    }

    /// Whether TLS goes inside.
    pub(super) fn is_secured(&self) -> bool {
        self.draft.expected.is_some()
    }

    /// Stopped when the peer takes its agreement back, and when this is dropped or has opened.
    pub(super) fn end(&self) -> Stop {
        self.waited.end()
    }

    /// Opens the bytestream.
    pub(super) fn open(self) -> BoxFuture<'static, Result<Bytestream, Error>> {
        Box::pin(async move {
            let (streams, link) = (self.streams, self.link);
            // Until then the peer may say so, and the place is taken.
            let _waited = self.waited;
            let _opening = streams.place(&streams.outgoing, &*link).ok_or_else(|| {
                Error::ResourceUnavailable("too many connections are being opened".into())
            })?;
            let opening = async {
                let door = streams.door(&*link).await?;
                streams
                    .reached(&*link, &self.draft, self.agreement, door)
                    .await
            };
            let opened = within(&*streams.clock, streams.config.negotiation, opening)
                .await
                .unwrap_or_else(|| {
                    Err(Error::ConnectionFailed(
                        "the contact did not connect in time".into(),
                    ))
                })?;
            self.standing.over();
            Ok(opened)
        })
    }
}

impl Bytestreams {
    /// Offers a bytestream on which a person at the other end decides; that takes any time. Dropping the
    /// future takes the offer back. `written` is told when the peer can know of it; `purpose` is given the
    /// SID.
    ///
    /// # Errors
    /// `Rejected`, `NotCapable`, `ResourceUnavailable` at [`Config::max_offers`](super::Config), and
    /// what [`Bytestreams::open`] says.
    pub(super) async fn offer(
        self: &Arc<Self>,
        link: Arc<dyn Link>,
        written: Written,
        purpose: impl FnOnce(&str) -> Purpose,
    ) -> Result<Agreed, NotAgreed> {
        let (all, each) = (self.config.max_offers, self.config.max_offers_each);
        let place = self
            .offering
            .take(peer(&*link), all, each)
            .ok_or_else(|| Error::ResourceUnavailable("too many offers wait for an answer".into()));
        let place = place.map_err(NotAgreed::Failed)?;
        let draft = random_id().and_then(|id| self.draft(&*link, id));
        let draft = draft.map_err(NotAgreed::Failed)?;
        // Before the answer, as what takes that back may follow at once.
        let key = key(&*link, &draft.sid);
        let waited = self.agreed.enter(&link, key, place);
        let waited =
            waited.ok_or_else(|| NotAgreed::Failed(Error::Confused("an id came twice".into())));
        let waited = waited?;
        let standing = link.lane().stand(draft.sid.clone());
        let agreement = self
            .negotiate(&*link, &draft, purpose(&draft.sid), Asked::Person(written))
            .await?;
        Ok(Agreed {
            streams: self.clone(),
            link,
            draft,
            agreement,
            standing,
            waited,
        })
    }

    /// The peer says that its offer does not stand any more, or that it does not wait any more for
    /// what it has agreed to.
    pub fn taken_back(&self, link: &dyn Link, sid: &str) {
        self.undecided.lock().entries.remove(&key(link, sid));
        self.agreed.lock().entries.remove(&key(link, sid));
    }

    /// A place for an offer of the peer's.
    pub(super) fn undecided(&self, link: &Arc<dyn Link>, sid: &str) -> Result<Waited, StanzaError> {
        let conflict = || StanzaError {
            kind: ErrorKind::Cancel,
            condition: Condition::Conflict,
            text: Some("another offer has this id".into()),
        };
        let key = key(&**link, sid);
        if self.shelf.has(&key) || self.waiting().contains_key(&key) {
            return Err(conflict());
        }
        let (all, each) = (self.config.max_offers, self.config.max_offers_each);
        let place = self
            .offered
            .take(peer(&**link), all, each)
            .ok_or_else(|| StanzaError::new(Condition::ResourceConstraint))?;
        let waited = self.undecided.enter(link, key, place);
        waited.ok_or_else(conflict)
    }
}
