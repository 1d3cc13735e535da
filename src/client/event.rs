//! What happens on a connection and its channels, as one queue in the order the service sent it.

use std::{collections::HashMap, num::NonZeroUsize};

use actors::model::{FileTransferReason, FileTransferState};
use futures_lite::StreamExt as _;
use zbus::{MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant, message};

use super::{
    bus::Bus,
    error::{Error, Kind, Result},
    transfer::{
        TransferDescription, reason_from_number, state_from_number, transfer_from_properties,
    },
    tube::{TubeDescription, TubeState, tube_from_properties},
};
use crate::names;

/// Most signals that wait for whoever reads [`Events`]. When it is full the bus library reads no
/// further from the socket until there is room; nothing is lost.
const QUEUE: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// One signal.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// `Connection.StatusChanged`: 0 connected, 1 connecting, 2 disconnected.
    Status {
        /// `Connection_Status`
        status: u32,
        /// `Connection_Status_Reason`
        reason: u32,
    },
    /// `Connection.ConnectionError`: why it is about to disconnect.
    ConnectionError(Error),
    /// The contact list, presences, aliases, capabilities or trust changed: read contacts again.
    Contacts,
    /// `Policy1.PolicyChanged`: other rules are in force.
    Policy,
    /// `Requests.NewChannels`, as far as they are tubes.
    NewTubes(Vec<TubeDescription>),
    /// `Channel.Closed`
    Closed(OwnedObjectPath),
    /// `Tube.TubeChannelStateChanged`
    TubeState {
        /// Of which channel.
        channel: OwnedObjectPath,
        /// What it is now.
        state: TubeState,
    },
    /// `StreamTube.NewLocalConnection` or `NewRemoteConnection`.
    Opened {
        /// Of which channel.
        channel: OwnedObjectPath,
        /// `Connection_ID`
        id: u32,
    },
    /// `StreamTube.ConnectionClosed`
    Ended {
        /// Of which channel.
        channel: OwnedObjectPath,
        /// `Connection_ID`
        id: u32,
        /// Why.
        why: Error,
    },
    /// `Requests.NewChannels`, as far as they are file transfers.
    NewTransfers(Vec<TransferDescription>),
    /// `FileTransfer.FileTransferStateChanged`; a state of a newer service is left out.
    TransferState {
        /// Of which channel.
        channel: OwnedObjectPath,
        /// What it is now.
        state: FileTransferState,
        /// Why.
        reason: FileTransferReason,
    },
    /// `FileTransfer.TransferredBytesChanged`
    Transferred {
        /// Of which channel.
        channel: OwnedObjectPath,
        /// `Count`
        count: u64,
    },
    /// `Transfer1.AskedDefined`: the contact has said where it wants to begin.
    Asked {
        /// Of which channel.
        channel: OwnedObjectPath,
    },
    /// The service left the bus.
    ServiceGone,
}

impl Event {
    /// An error when it says that the connection ended.
    ///
    /// # Errors
    /// [`Kind::ServiceGone`] and [`Kind::Disconnected`].
    pub fn still_online(&self) -> Result<()> {
        let kind = match self {
            Event::ServiceGone => Kind::ServiceGone,
            Event::Status { status: 2, .. } => Kind::Disconnected,
            _ => return Ok(()),
        };
        Err(Error::new(kind, "the connection ended"))
    }
}

/// The queue; see the module's head.
pub struct Events {
    bus: Bus,
    signals: MessageStream,
    /// Of the connection's name; without a bus there is none, and the connection's last words and the
    /// end of the service tell.
    owners: Option<MessageStream>,
    destination: String,
    ended: bool,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

impl Events {
    /// Listens to everything under the connection's object path.
    pub(super) async fn subscribe(
        bus: &Bus,
        destination: &str,
        connection: &OwnedObjectPath,
    ) -> Result<Self> {
        // By its unique name: the bus library cannot compare a well-known one with a sender.
        let owner = bus.owner(destination).await?.ok_or_else(|| {
            Error::new(Kind::ServiceGone, "the connection is no longer on the bus")
        })?;
        let mut rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .path_namespace(connection);
        if !bus.is_private() {
            rule = rule.sender(owner.as_str());
        }
        let rule = rule.build()?;
        let signals = MessageStream::for_match_rule(rule, bus.connection(), Some(QUEUE)).await?;
        let owners = if bus.is_private() {
            None
        } else {
            let rule = MatchRule::builder()
                .msg_type(message::Type::Signal)
                .sender("org.freedesktop.DBus")
                .interface("org.freedesktop.DBus")
                .member("NameOwnerChanged")
                .arg(0, destination)
                .build()?;
            Some(MessageStream::for_match_rule(rule, bus.connection(), Some(QUEUE)).await?)
        };
        Ok(Events {
            bus: bus.clone(),
            signals,
            owners,
            destination: destination.to_owned(),
            ended: false,
        })
    }

    /// The next event. Cancel-safe. After [`Event::ServiceGone`] nothing sensible follows.
    ///
    /// # Errors
    /// [`Kind::NoBus`] when the bus went away.
    pub async fn next(&mut self) -> Result<Event> {
        enum From {
            Signal(Option<zbus::Result<Message>>),
            Owner(Option<zbus::Result<Message>>),
        }
        loop {
            if self.ended {
                return Ok(Event::ServiceGone);
            }
            let (signals, owners) = (&mut self.signals, &mut self.owners);
            // Signals first, so that what a leaving service said last is still heard.
            let next =
                futures_lite::future::or(async { From::Signal(signals.next().await) }, async {
                    match owners {
                        Some(owners) => From::Owner(owners.next().await),
                        None => std::future::pending().await,
                    }
                })
                .await;
            let gone = || Error::new(Kind::NoBus, "the session bus is gone");
            match next {
                // The stream ends with the connection, and that with the service.
                From::Signal(None | Some(Err(_))) if self.bus.is_private() => self.ended = true,
                From::Signal(message) => {
                    if let Some(event) = read(&message.ok_or_else(gone)??)? {
                        let over = matches!(event, Event::Status { status: 2, .. });
                        self.ended = over && self.bus.is_private();
                        return Ok(event);
                    }
                }
                From::Owner(message) => {
                    let message = message.ok_or_else(gone)??;
                    let (_, _, owner): (String, String, String) = message.body().deserialize()?;
                    if owner.is_empty() {
                        return Ok(Event::ServiceGone);
                    }
                }
            }
        }
    }
}

/// The event in a signal, if it is one that matters.
fn read(message: &Message) -> Result<Option<Event>> {
    let header = message.header();
    let (Some(interface), Some(member), Some(path)) =
        (header.interface(), header.member(), header.path())
    else {
        return Ok(None);
    };
    let channel = || OwnedObjectPath::from(path.to_owned());
    let body = message.body();
    Ok(Some(match (interface.as_str(), member.as_str()) {
        (names::CONNECTION, "StatusChanged") => {
            let (status, reason) = body.deserialize()?;
            Event::Status { status, reason }
        }
        (names::CONNECTION, "ConnectionError") => {
            let (name, details): (String, HashMap<String, OwnedVariant>) = body.deserialize()?;
            let message = super::contact::text(&details, "debug-message").unwrap_or_default();
            Event::ConnectionError(Error::from_reply(&name, &message))
        }
        (names::CONTACT_LIST, "ContactsChangedWithID")
        | (names::SIMPLE_PRESENCE, "PresencesChanged")
        | (names::ALIASING, "AliasesChanged")
        | (names::CONTACT_CAPABILITIES, "ContactCapabilitiesChanged")
        | (names::TRUST, "TrustChanged") => Event::Contacts,
        (names::POLICY, "PolicyChanged") => Event::Policy,
        (names::REQUESTS, "NewChannels") => {
            let channels: Vec<(OwnedObjectPath, HashMap<String, OwnedVariant>)> =
                body.deserialize()?;
            let tubes: Vec<_> = channels
                .into_iter()
                .filter_map(|(path, properties)| tube_from_properties(path, &properties))
                .collect();
            if !tubes.is_empty() {
                return Ok(Some(Event::NewTubes(tubes)));
            }
            let channels: Vec<(OwnedObjectPath, HashMap<String, OwnedVariant>)> =
                body.deserialize()?;
            let transfers: Vec<_> = channels
                .into_iter()
                .filter_map(|(path, properties)| transfer_from_properties(path, &properties))
                .collect();
            if transfers.is_empty() {
                return Ok(None);
            }
            // The service tells of one channel at a time.
            Event::NewTransfers(transfers)
        }
        (names::FILE_TRANSFER, "FileTransferStateChanged") => {
            let (state, reason): (u32, u32) = body.deserialize()?;
            match state_from_number(state) {
                Some(state) => Event::TransferState {
                    channel: channel(),
                    state,
                    reason: reason_from_number(reason),
                },
                None => return Ok(None),
            }
        }
        (names::FILE_TRANSFER, "TransferredBytesChanged") => Event::Transferred {
            channel: channel(),
            count: body.deserialize()?,
        },
        (names::TRANSFER, "AskedDefined") => Event::Asked { channel: channel() },
        (names::CHANNEL, "Closed") => Event::Closed(channel()),
        (names::TUBE, "TubeChannelStateChanged") => Event::TubeState {
            channel: channel(),
            state: TubeState::from_number(body.deserialize()?),
        },
        (names::STREAM_TUBE, "NewLocalConnection") => Event::Opened {
            channel: channel(),
            id: body.deserialize()?,
        },
        (names::STREAM_TUBE, "NewRemoteConnection") => {
            let (_, _, id): (u32, OwnedVariant, u32) = body.deserialize()?;
            Event::Opened {
                channel: channel(),
                id,
            }
        }
        (names::STREAM_TUBE, "ConnectionClosed") => {
            let (id, name, text): (u32, String, String) = body.deserialize()?;
            Event::Ended {
                channel: channel(),
                id,
                why: Error::from_reply(&name, &text),
            }
        }
        _ => return Ok(None),
    }))
}
