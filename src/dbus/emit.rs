//! Signals: from the floors' types to messages on the bus.

use std::{collections::HashMap, sync::Arc};

use actors::ports::{ChannelSignal, DBusTubeSignal, FileTransferSignal, StreamTubeSignal};
use zbus::{ObjectPath, Variant, object_server::SignalEmitter};

use super::{
    aliasing::Aliasing,
    attributes,
    capabilities::ContactCapabilities,
    channel::{self, Channel, Tube},
    connection::Connection,
    contact_list::ContactList,
    error,
    file_transfer::FileTransfer,
    manager::ConnectionManager,
    policy::{self, Policy},
    presence::SimplePresence,
    requests::Requests,
    sockets,
    stream_tube::StreamTube,
    transfer::{self, Transfer},
    trust::Trust,
    values::Map,
};
use crate::connection::{contacts::Contact, protocol, view::ConnectionSignal};

/// A signal that cannot be sent has nobody to hear it: the bus is gone.
pub fn lost(outcome: zbus::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "a signal is lost");
    }
}

/// Emits a signal of a connection.
pub async fn of_connection(bus: &zbus::Connection, path: &str, signal: ConnectionSignal) {
    lost(connection_signal(bus, path, signal).await);
}

async fn connection_signal(
    bus: &zbus::Connection,
    path: &str,
    signal: ConnectionSignal,
) -> zbus::Result<()> {
    let emitter = SignalEmitter::new(bus, path)?;
    match signal {
        ConnectionSignal::StatusChanged(status, reason) => {
            Connection::status_changed(&emitter, status as u32, reason as u32).await
        }
        ConnectionSignal::ConnectionError(why) => {
            let details = Map::from([("debug-message".to_owned(), Variant::new(why.to_string()))]);
            Connection::connection_error(&emitter, error::name(&why), details).await
        }
        ConnectionSignal::SelfContactChanged(myself) => {
            Connection::self_contact_changed(&emitter, myself.handle.0, &myself.id).await?;
            Connection::self_handle_changed(&emitter, myself.handle.0).await
        }
        ConnectionSignal::ContactListStateChanged(state) => {
            ContactList::contact_list_state_changed(&emitter, state as u32).await
        }
        ConnectionSignal::ContactsChanged { changed, removed } => {
            contacts_changed(&emitter, &changed, &removed).await
        }
        ConnectionSignal::AliasesChanged(contacts) => {
            let aliases = contacts
                .iter()
                .map(|contact| (contact.handle.0, contact.alias.clone()))
                .collect();
            Aliasing::aliases_changed(&emitter, aliases).await
        }
        ConnectionSignal::PresencesChanged(contacts) => {
            let presences = contacts
                .iter()
                .map(|contact| (contact.handle.0, attributes::presence(contact)))
                .collect();
            SimplePresence::presences_changed(&emitter, presences).await
        }
        ConnectionSignal::CapabilitiesChanged(contacts) => {
            let capabilities = contacts
                .iter()
                .map(|contact| (contact.handle.0, attributes::classes(contact)))
                .collect();
            ContactCapabilities::contact_capabilities_changed(&emitter, capabilities).await
        }
        ConnectionSignal::TrustChanged(contact) => {
            let trust = attributes::trust(&contact);
            Trust::trust_changed(&emitter, contact.handle.0, trust).await
        }
        ConnectionSignal::PolicyChanged { set, removed } => {
            let set = set.iter().map(|(scope, terms)| policy::rule(scope, terms));
            let removed = removed.iter().map(policy::place).collect();
            Policy::policy_changed(&emitter, set.collect(), removed).await
        }
        ConnectionSignal::NewChannels(details) => {
            let path = ObjectPath::try_from(details.path.as_str())?;
            let properties = channel::immutable_properties(&details.description);
            Requests::new_channels(&emitter, vec![(path.clone(), properties)]).await?;
            // For clients older than NewChannels; the specification wants it beside the other.
            Connection::new_channel(
                &emitter,
                path,
                protocol::channel_type(&details.description),
                protocol::HANDLE_TYPE_CONTACT,
                details.parties().target.0,
                details.parties().requested,
            )
            .await
        }
        ConnectionSignal::ChannelClosed(details) => {
            let path = ObjectPath::try_from(details.path.as_str())?;
            Requests::channel_closed(&emitter, path).await
        }
    }
}

async fn contacts_changed(
    emitter: &SignalEmitter<'_>,
    changed: &[Arc<Contact>],
    removed: &[Arc<Contact>],
) -> zbus::Result<()> {
    let changes: HashMap<u32, (u32, u32, String)> = changed
        .iter()
        .map(|contact| {
            let yes = attributes::subscription(contact);
            (contact.handle.0, (yes, yes, String::new()))
        })
        .collect();
    let identifiers = |contacts: &[Arc<Contact>]| -> HashMap<u32, String> {
        contacts
            .iter()
            .map(|contact| (contact.handle.0, contact.id.as_ref().to_owned()))
            .collect()
    };
    ContactList::contacts_changed_with_id(
        emitter,
        changes.clone(),
        identifiers(changed),
        identifiers(removed),
    )
    .await?;
    let removals = removed.iter().map(|contact| contact.handle.0).collect();
    ContactList::contacts_changed(emitter, changes, removals).await
}

/// Emits a signal of a channel.
pub async fn of_channel(bus: &zbus::Connection, path: &str, signal: ChannelSignal) {
    lost(channel_signal(bus, path, signal).await);
}

async fn channel_signal(
    bus: &zbus::Connection,
    path: &str,
    signal: ChannelSignal,
) -> zbus::Result<()> {
    let emitter = SignalEmitter::new(bus, path)?;
    match signal {
        ChannelSignal::StreamTube(signal) => stream_tube_signal(&emitter, signal).await,
        ChannelSignal::FileTransfer(signal) => file_transfer_signal(&emitter, signal).await,
        ChannelSignal::DBusTube(DBusTubeSignal::TubeStateChanged(state)) => {
            Tube::tube_channel_state_changed(&emitter, state.number()).await
        }
    }
}

async fn file_transfer_signal(
    emitter: &SignalEmitter<'_>,
    signal: FileTransferSignal,
) -> zbus::Result<()> {
    match signal {
        FileTransferSignal::StateChanged(state, reason) => {
            let (state, reason) = (state.number(), reason.number());
            FileTransfer::file_transfer_state_changed(emitter, state, reason).await
        }
        FileTransferSignal::TransferredBytesChanged(count) => {
            FileTransfer::transferred_bytes_changed(emitter, count).await
        }
        FileTransferSignal::InitialOffsetDefined(offset) => {
            FileTransfer::initial_offset_defined(emitter, offset).await
        }
        FileTransferSignal::UriDefined(uri) => FileTransfer::uri_defined(emitter, &uri).await,
        FileTransferSignal::AskedDefined(resume) => {
            let (offset, stored) = transfer::asked(Some(&resume));
            Transfer::asked_defined(emitter, offset, &stored).await
        }
        FileTransferSignal::StoredChanged(stored) => {
            Transfer::stored_changed(emitter, stored).await
        }
    }
}

async fn stream_tube_signal(
    emitter: &SignalEmitter<'_>,
    signal: StreamTubeSignal,
) -> zbus::Result<()> {
    match signal {
        StreamTubeSignal::TubeStateChanged(state) => {
            Tube::tube_channel_state_changed(emitter, state.number()).await
        }
        StreamTubeSignal::NewLocalConnection(id) => {
            StreamTube::new_local_connection(emitter, id.0).await
        }
        StreamTubeSignal::NewRemoteConnection {
            contact,
            parameter,
            id,
        } => {
            let parameter = sockets::connection_parameter(&parameter);
            StreamTube::new_remote_connection(emitter, contact.0, parameter, id.0).await
        }
        StreamTubeSignal::ConnectionClosed { id, why } => {
            let (name, text) = (error::name(&why), why.to_string());
            StreamTube::connection_closed(emitter, id.0, name, &text).await
        }
    }
}

/// Emits `ConnectionManager.NewConnection`.
pub async fn new_connection(bus: &zbus::Connection, bus_name: &str, path: &str) {
    let announced = async {
        let manager = SignalEmitter::new(bus, protocol::MANAGER_PATH)?;
        let path = ObjectPath::try_from(path)?;
        ConnectionManager::new_connection(&manager, bus_name, path, protocol::PROTOCOL).await
    };
    lost(announced.await);
}

/// Emits `Channel.Closed`.
pub async fn channel_closed(bus: &zbus::Connection, path: &str) {
    let closed = async {
        let emitter = SignalEmitter::new(bus, path)?;
        Channel::closed(&emitter).await
    };
    lost(closed.await);
}
