//! `Channel` and `Channel.Interface.Tube`, which every tube has.

use actors::{
    model::{Error, TubeParameters},
    ports::{
        ChannelDescription, ChannelObject, DBusTubeDescription, DBusTubeObject,
        FileTransferDescription, Parties, StreamTubeDescription, StreamTubeObject,
    },
};
use zbus::{Variant, object_server::SignalEmitter};

use super::{
    error::{Result, answered, read},
    file_transfer, sockets,
    values::{self, Map},
};
use crate::connection::protocol::{self, property};

/// What is fixed about a channel, by full names: in NewChannels, `Channels` and the answers of
/// CreateChannel and EnsureChannel.
pub fn immutable_properties(description: &ChannelDescription) -> Map {
    let parties = description.parties();
    let mut map = Map::new();
    let mut set = |name: &str, value: Variant<'static>| {
        map.insert(name.to_owned(), value);
    };
    set(
        property::CHANNEL_TYPE,
        Variant::new(protocol::channel_type(description)),
    );
    set(
        property::INTERFACES,
        Variant::new(values::strings(protocol::channel_interfaces(description))),
    );
    set(
        property::TARGET_HANDLE_TYPE,
        Variant::new(protocol::HANDLE_TYPE_CONTACT),
    );
    set(property::TARGET_HANDLE, Variant::new(parties.target.0));
    set(property::TARGET_ID, Variant::new(parties.target_id.clone()));
    set(property::REQUESTED, Variant::new(parties.requested));
    set(
        property::INITIATOR_HANDLE,
        Variant::new(parties.initiator.0),
    );
    set(
        property::INITIATOR_ID,
        Variant::new(parties.initiator_id.clone()),
    );
    match description {
        ChannelDescription::StreamTube(tube) => of_stream_tube(tube, &mut set),
        ChannelDescription::FileTransfer(transfer) => of_file_transfer(transfer, &mut set),
        ChannelDescription::DBusTube(tube) => of_dbus_tube(tube, &mut set),
    }
    map
}

fn of_stream_tube(
    description: &StreamTubeDescription,
    set: &mut impl FnMut(&str, Variant<'static>),
) {
    set(
        property::SERVICE,
        Variant::new(description.service.as_str().to_owned()),
    );
    set(
        property::SUPPORTED_SOCKET_TYPES,
        Variant::new(sockets::socket_types(&description.sockets)),
    );
    parameters_of(&description.parties, &description.parameters, set);
}

fn of_dbus_tube(description: &DBusTubeDescription, set: &mut impl FnMut(&str, Variant<'static>)) {
    set(
        property::SERVICE_NAME,
        Variant::new(description.service.as_str().to_owned()),
    );
    set(
        property::SUPPORTED_ACCESS_CONTROLS,
        Variant::new(sockets::access_controls(&description.accesses)),
    );
    parameters_of(&description.parties, &description.parameters, set);
}

/// Those of a requested tube come with Offer.
fn parameters_of(
    parties: &Parties,
    parameters: &TubeParameters,
    set: &mut impl FnMut(&str, Variant<'static>),
) {
    if !parties.requested {
        let parameters = values::tube_parameters(parameters);
        set(property::TUBE_PARAMETERS, Variant::new(parameters));
    }
}

fn of_file_transfer(
    description: &FileTransferDescription,
    set: &mut impl FnMut(&str, Variant<'static>),
) {
    let file = &description.file;
    let (hash_type, hash) = file_transfer::content_hash(file);
    set(
        property::CONTENT_TYPE,
        Variant::new(file.content_type.clone()),
    );
    set(property::FILENAME, Variant::new(file.name.clone()));
    set(property::SIZE, Variant::new(file_transfer::size(file)));
    set(property::CONTENT_HASH_TYPE, Variant::new(hash_type));
    set(property::CONTENT_HASH, Variant::new(hash));
    set(
        property::DESCRIPTION,
        Variant::new(file.description.clone()),
    );
    set(property::DATE, Variant::new(file.date.unwrap_or_default()));
    set(
        property::AVAILABLE_SOCKET_TYPES,
        Variant::new(sockets::socket_types(&description.sockets)),
    );
    set(
        property::FILE_COLLECTION,
        Variant::new(file.collection.clone()),
    );
    // That of an incoming file may be set later.
    if description.parties.requested {
        set(property::URI, Variant::new(description.uri.clone()));
    }
    set(
        property::METADATA_SERVICE,
        Variant::new(file.service.clone()),
    );
    set(property::METADATA, Variant::new(file.metadata.clone()));
    set(property::TRANSFER_ID, Variant::new(file_transfer::id(file)));
    set(property::HAS_RANGES, Variant::new(description.has_ranges));
}

/// The interface `Channel`.
#[derive(Debug)]
pub struct Channel {
    object: ChannelObject,
}

impl Channel {
    /// Of this channel.
    pub fn new(object: ChannelObject) -> Self {
        Channel { object }
    }

    fn parties(&self) -> &Parties {
        self.object.parties()
    }
}

#[zbus::interface(name = "org.freedesktop.Telepathy.Channel", introspection_docs = false)]
impl Channel {
    #[zbus(property(emits_changed_signal = "const"))]
    fn channel_type(&self) -> Result<String> {
        read("ChannelType", || {
            protocol::channel_type(&self.object.description()).to_owned()
        })
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn interfaces(&self) -> Result<Vec<String>> {
        read("Interfaces", || {
            values::strings(protocol::channel_interfaces(&self.object.description()))
        })
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn target_handle(&self) -> Result<u32> {
        read("TargetHandle", || self.parties().target.0)
    }

    #[zbus(property(emits_changed_signal = "const"), name = "TargetID")]
    fn target_id(&self) -> Result<String> {
        read("TargetID", || self.parties().target_id.clone())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn target_handle_type(&self) -> Result<u32> {
        read("TargetHandleType", || protocol::HANDLE_TYPE_CONTACT)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn requested(&self) -> Result<bool> {
        read("Requested", || self.parties().requested)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn initiator_handle(&self) -> Result<u32> {
        read("InitiatorHandle", || self.parties().initiator.0)
    }

    #[zbus(property(emits_changed_signal = "const"), name = "InitiatorID")]
    fn initiator_id(&self) -> Result<String> {
        read("InitiatorID", || self.parties().initiator_id.clone())
    }

    // The next three are deprecated, and telepathy-glib 0.24 calls them all the same.

    #[zbus(out_args("Channel_Type"))]
    async fn get_channel_type(&self) -> Result<String> {
        self.channel_type()
    }

    #[zbus(out_args("Target_Handle_Type", "Target_Handle"))]
    async fn get_handle(&self) -> Result<(u32, u32)> {
        Ok((self.target_handle_type()?, self.target_handle()?))
    }

    #[zbus(out_args("Interfaces"))]
    async fn get_interfaces(&self) -> Result<Vec<String>> {
        self.interfaces()
    }

    /// Answers once the object is gone. Closing what is closing already is fine.
    async fn close(&self) -> Result<()> {
        answered("Close", async {
            self.object.close().await;
            Ok::<(), Error>(())
        })
        .await
    }

    #[zbus(signal)]
    pub(super) async fn closed(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;
}

/// The interface `Channel.Interface.Tube`.
#[derive(Debug)]
pub struct Tube {
    object: TubeObject,
}

/// A tube of either type.
#[derive(Debug)]
pub enum TubeObject {
    /// A stream tube.
    Stream(StreamTubeObject),
    /// A D-Bus tube.
    DBus(DBusTubeObject),
}

impl From<StreamTubeObject> for TubeObject {
    fn from(tube: StreamTubeObject) -> Self {
        TubeObject::Stream(tube)
    }
}

impl From<DBusTubeObject> for TubeObject {
    fn from(tube: DBusTubeObject) -> Self {
        TubeObject::DBus(tube)
    }
}

impl Tube {
    /// Of this channel.
    pub fn new(object: impl Into<TubeObject>) -> Self {
        Tube {
            object: object.into(),
        }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Channel.Interface.Tube",
    introspection_docs = false
)]
impl Tube {
    #[zbus(property(emits_changed_signal = "false"))]
    fn parameters(&self) -> Result<Map> {
        read("Parameters", || match &self.object {
            TubeObject::Stream(tube) => values::tube_parameters(&tube.view.get().parameters),
            TubeObject::DBus(tube) => values::tube_parameters(&tube.view.get().parameters),
        })
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn state(&self) -> Result<u32> {
        read("State", || {
            let state = match &self.object {
                TubeObject::Stream(tube) => tube.view.get().state,
                TubeObject::DBus(tube) => tube.view.get().state,
            };
            state.number()
        })
    }

    #[zbus(signal)]
    pub(super) async fn tube_channel_state_changed(
        emitter: &SignalEmitter<'_>,
        state: u32,
    ) -> zbus::Result<()>;
}
