//! Which channels a connection has, which of them is which tube on the wire, and how many there may be.
//!
//! The ids of both sides' tubes with one contact share one table, as they do in other
//! implementations: an offer whose id is taken is refused. Files have no id there: each offer is one
//! of its own.
//!
//! ```text
//!  (nothing) ──begin──> Opening ──opened──> Open ──closed──> (nothing)
//!                          └──failed──> (nothing)
//! ```

use std::{collections::BTreeMap, io, sync::Arc};

use actors::{
    model::{ChannelId, ContactHandle, Error, FileTransferState, Result, ServiceName, TubeState},
    ports::{ChannelObject, Parties},
    runtime::{Reply, Task},
};

use super::{message::CreatedChannel, requests::Kind, view::ChannelDetails};
use crate::session::TubeId;

/// Most channels of one connection, those that are still opening counted. A request for one more
/// is answered `ResourceUnavailable`; an offer of one more is closed again.
pub const MAX_CHANNELS: usize = 512;
/// Most tubes and files that one contact has offered and our user has not answered. One more is closed
/// again.
pub const MAX_OFFERS_OF_ONE: usize = 16;
/// The same over all contacts.
pub const MAX_OFFERS: usize = 128;
/// The same over all contacts our user never dealt with: anybody can be many strangers, who must not
/// take the places of those our user knows.
pub const MAX_OFFERS_OF_STRANGERS: usize = 64;

/// A tube as both sides of the wire know it.
pub type WireId = (ContactHandle, TubeId);

/// Who waits for an opening channel.
pub struct Waiter {
    /// Where the answer goes.
    pub reply: Reply<Result<CreatedChannel>>,
    /// `Yours`, if it is answered well.
    pub yours: bool,
}

/// Which channel it is to us and to the contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// With whom.
    pub contact: ContactHandle,
    /// What type of channel it is.
    pub kind: Kind,
    /// Its number on the wire, if it is a tube.
    pub tube: Option<TubeId>,
    /// The service that our user's rules know it by.
    pub service: ServiceName,
    /// We asked for it; otherwise the contact did.
    pub requested: bool,
}

impl Place {
    /// Of a channel between these.
    pub fn of(parties: &Parties, kind: Kind, tube: Option<TubeId>, service: ServiceName) -> Self {
        Place {
            contact: parties.target,
            kind,
            tube,
            service,
            requested: parties.requested,
        }
    }

    fn is_on_wire(&self, wire: WireId) -> bool {
        (self.contact, self.tube) == (wire.0, Some(wire.1))
    }

    /// Whether it is a tube of ours that EnsureChannel can answer with.
    fn is_our_tube(&self, contact: ContactHandle, (kind, service): (Kind, &ServiceName)) -> bool {
        self.requested
            && self.contact == contact
            && self.kind == kind
            && self.service == kind.ruled(service)
    }
}

/// A channel the supervisor was asked for.
pub struct Opening {
    /// Which it will be.
    pub place: Place,
    /// Nobody for an incoming one.
    pub waiters: Vec<Waiter>,
    /// The contact closed it before it was open, or is gone.
    pub closed: bool,
    /// The asking; dropping it takes the channel back.
    pub task: Option<Task<()>>,
}

/// What is left of a channel.
pub struct Closed {
    /// What it was.
    pub details: Arc<ChannelDetails>,
    /// Which it was.
    pub place: Place,
    /// The contact offered it, and our user took it up.
    pub taken_up: bool,
}

struct Open {
    place: Place,
    object: ChannelObject,
    details: Arc<ChannelDetails>,
}

/// The table.
#[derive(Default)]
pub struct Table {
    opening: BTreeMap<u64, Opening>,
    open: BTreeMap<ChannelId, Open>,
    /// Channels that closed before we knew that they had opened.
    closed_early: Vec<ChannelId>,
    next_ticket: u64,
}

impl Table {
    /// Whether one more channel may be opened.
    ///
    /// # Errors
    /// `ResourceUnavailable` at [`MAX_CHANNELS`].
    pub fn room(&self) -> Result<()> {
        if self.opening.len() + self.open.len() < MAX_CHANNELS {
            return Ok(());
        }
        Err(Error::ResourceUnavailable(format!(
            "this connection has {MAX_CHANNELS} channels already"
        )))
    }

    /// Whether one more offer of this contact may wait for our user. `pinned`: whether our user has
    /// dealt with a contact.
    ///
    /// # Errors
    /// `ResourceUnavailable` at [`MAX_CHANNELS`], [`MAX_OFFERS`], [`MAX_OFFERS_OF_STRANGERS`] or
    /// [`MAX_OFFERS_OF_ONE`].
    pub fn room_for_offer(
        &self,
        contact: ContactHandle,
        pinned: impl Fn(ContactHandle) -> bool,
    ) -> Result<()> {
        self.room()?;
        let opening = self
            .opening
            .values()
            .map(|opening| &opening.place)
            .filter(|place| !place.requested);
        let pending = self
            .open
            .values()
            .filter(|open| waits_for_our_user(&open.object))
            .map(|open| &open.place);
        let (mut all, mut of_this, mut of_strangers) = (0, 0, 0);
        for one in opening.chain(pending) {
            all += 1;
            of_this += usize::from(one.contact == contact);
            of_strangers += usize::from(!pinned(one.contact));
        }
        let room = pinned(contact) || of_strangers < MAX_OFFERS_OF_STRANGERS;
        if room && all < MAX_OFFERS && of_this < MAX_OFFERS_OF_ONE {
            return Ok(());
        }
        Err(Error::ResourceUnavailable(
            "too many offers wait for an answer".into(),
        ))
    }

    /// All channels' places, open or opening.
    fn places(&self) -> impl Iterator<Item = &Place> {
        let opening = self.opening.values().map(|opening| &opening.place);
        opening.chain(self.open.values().map(|open| &open.place))
    }

    /// Whether a tube on the wire is known.
    pub fn knows(&self, wire: WireId) -> bool {
        self.places().any(|place| place.is_on_wire(wire))
    }

    /// Whether a tube on the wire is a stream tube that the contact has offered, for this service.
    pub fn is_theirs(&self, wire: WireId, service: &ServiceName) -> bool {
        self.places().any(|place| {
            place.is_on_wire(wire)
                && place.kind == Kind::StreamTube
                && !place.requested
                && place.service == place.kind.ruled(service)
        })
    }

    /// An id for a tube of ours with this contact.
    ///
    /// # Errors
    /// `Confused` when the kernel has no random bytes.
    pub fn fresh_id(&self, contact: ContactHandle) -> Result<TubeId> {
        loop {
            let id = TubeId(random().map_err(|error| {
                Error::Confused(format!("the kernel has no random bytes: {error}"))
            })?);
            if id.0 != 0 && !self.knows((contact, id)) {
                return Ok(id);
            }
        }
    }

    /// Notes that a channel is being opened; gives its ticket.
    pub fn begin(&mut self, place: Place, waiters: Vec<Waiter>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.opening.insert(
            ticket,
            Opening {
                place,
                waiters,
                closed: false,
                task: None,
            },
        );
        ticket
    }

    /// Notes who does the opening, so that it can be given up.
    pub fn opens_by(&mut self, ticket: u64, task: Task<()>) {
        match self.opening.get_mut(&ticket) {
            Some(opening) => opening.task = Some(task),
            None => task.detach(),
        }
    }

    /// The opening has ended, one way or the other.
    pub fn ended(&mut self, ticket: u64) -> Option<Opening> {
        self.opening.remove(&ticket)
    }

    /// Notes a channel that is open. `false` when it has closed again in the meantime.
    pub fn opened(
        &mut self,
        place: Place,
        object: ChannelObject,
        details: Arc<ChannelDetails>,
    ) -> bool {
        let id = object.id();
        if let Some(index) = self.closed_early.iter().position(|early| *early == id) {
            self.closed_early.swap_remove(index);
            return false;
        }
        self.open.insert(
            id,
            Open {
                place,
                object,
                details,
            },
        );
        true
    }

    /// Forgets a channel that has closed.
    pub fn closed(&mut self, channel: ChannelId) -> Option<Closed> {
        let open = self.open.remove(&channel);
        // Not more than there are openings: only one of those can be meant.
        if open.is_none() && self.closed_early.len() < self.opening.len() {
            self.closed_early.push(channel);
        }
        open.map(|open| Closed {
            taken_up: !open.place.requested && was_taken_up(&open.object),
            place: open.place,
            details: open.details,
        })
    }

    /// An open channel.
    pub fn object(&self, channel: ChannelId) -> Option<&ChannelObject> {
        self.open.get(&channel).map(|open| &open.object)
    }

    /// The channel of a tube on the wire.
    pub fn on_wire(&self, wire: WireId) -> Option<&ChannelObject> {
        self.open
            .values()
            .find(|open| open.place.is_on_wire(wire))
            .map(|open| &open.object)
    }

    /// The channels with a contact.
    pub fn with(&self, contact: ContactHandle) -> impl Iterator<Item = &ChannelObject> {
        self.open
            .values()
            .filter(move |open| open.place.contact == contact)
            .map(|open| &open.object)
    }

    /// Those of them that our user's rules know by this service.
    pub fn of_service<'t>(
        &'t self,
        contact: ContactHandle,
        service: &'t ServiceName,
    ) -> impl Iterator<Item = &'t ChannelObject> {
        self.open
            .values()
            .filter(move |open| open.place.contact == contact && open.place.service == *service)
            .map(|open| &open.object)
    }

    /// Whether there is a channel of this contact and service, open or opening.
    pub fn has(&self, contact: ContactHandle, service: &ServiceName) -> bool {
        self.places()
            .any(|place| place.contact == contact && place.service == *service)
    }

    /// A tube of ours that EnsureChannel can answer with.
    pub fn our_tube(
        &self,
        contact: ContactHandle,
        tube: (Kind, &ServiceName),
    ) -> Option<&Arc<ChannelDetails>> {
        self.open
            .values()
            .find(|open| open.place.is_our_tube(contact, tube))
            .map(|open| &open.details)
    }

    /// The same while it is opening.
    pub fn our_tube_opening(
        &mut self,
        contact: ContactHandle,
        tube: (Kind, &ServiceName),
    ) -> Option<&mut Opening> {
        self.opening
            .values_mut()
            .find(|opening| opening.place.is_our_tube(contact, tube))
    }

    /// The contact closed a tube that is not open yet; `false` if there is none such.
    pub fn close_opening(&mut self, wire: WireId) -> bool {
        let mut found = false;
        for opening in self.opening.values_mut() {
            if opening.place.is_on_wire(wire) {
                opening.closed = true;
                found = true;
            }
        }
        found
    }

    /// The same for all channels with a contact.
    pub fn close_openings_with(&mut self, contact: ContactHandle) {
        for opening in self.opening.values_mut() {
            opening.closed |= opening.place.contact == contact;
        }
    }
}

/// Whether it is an offer of the contact's that our user has not answered.
/// A file's channel stays when the contact takes its offer back, until somebody here closes it: it counts,
/// or whoever offers and takes back would fill the table.
fn waits_for_our_user(object: &ChannelObject) -> bool {
    !object.parties().requested
        && match object {
            ChannelObject::StreamTube(tube) => tube.view.get().state == TubeState::LocalPending,
            ChannelObject::FileTransfer(_) | ChannelObject::DBusTube(_) => !was_taken_up(object),
        }
}

/// Whether our user has taken up what was offered. A file that ended badly after that had a socket.
fn was_taken_up(object: &ChannelObject) -> bool {
    match object {
        ChannelObject::StreamTube(tube) => tube.view.get().state == TubeState::Open,
        // The state says nothing of that before the bytestream has opened, and one that is over has no
        // address any more.
        ChannelObject::DBusTube(tube) => tube.view.get().accepted,
        ChannelObject::FileTransfer(transfer) => {
            let view = transfer.view.get();
            match view.state {
                FileTransferState::Pending => false,
                FileTransferState::Cancelled => view.address.is_some(),
                FileTransferState::Accepted
                | FileTransferState::Open
                | FileTransferState::Completed => true,
            }
        }
    }
}

fn random() -> io::Result<u32> {
    let mut bytes = [0; 4];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(u32::from_ne_bytes(bytes))
}
