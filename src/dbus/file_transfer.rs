//! `Channel.Type.FileTransfer`.

use std::collections::HashMap;

use actors::{
    file_transfer::FileTransferMessage,
    model::{AccessRule, AddressType, FileOffer, MAX_URI, Result as Outcome, Resume},
    ports::FileTransferObject,
};
use zbus::{OwnedVariant, Variant, object_server::SignalEmitter};

use super::{
    error::{Result, answered, read},
    sockets,
};
use crate::connection::ConnectionHandle;

/// The interface.
#[derive(Debug)]
pub struct FileTransfer {
    object: FileTransferObject,
    connection: ConnectionHandle,
}

/// `Size`; `UINT64_MAX` where nobody knows.
pub fn size(file: &FileOffer) -> u64 {
    file.size.unwrap_or(u64::MAX)
}

/// `ContentHashType` and `ContentHash`; 0 and nothing where there is none.
pub fn content_hash(file: &FileOffer) -> (u32, String) {
    file.hash.as_ref().map_or_else(Default::default, |hash| {
        (hash.kind().number(), hash.digits().to_owned())
    })
}

/// `Transfer1.ID`; empty where there is none.
pub fn id(file: &FileOffer) -> String {
    file.id.map(|id| id.to_string()).unwrap_or_default()
}

/// The socket that an application asks for: its type, its access control, and that one's parameter.
pub type Socket<'v> = (u32, u32, &'v Variant<'v>);

/// What such a socket is.
///
/// # Errors
/// `NotImplemented` for a combination that `AvailableSocketTypes` does not have; `InvalidArgument` for
/// what means nothing.
fn understood(
    object: &FileTransferObject,
    socket: Socket<'_>,
) -> Outcome<(AddressType, AccessRule)> {
    let (address_type, access_control, parameter) = socket;
    let available = &object.description.sockets;
    let (kind, access) = sockets::supported(available, address_type, access_control)?;
    Ok((kind, sockets::access_rule(kind, access, parameter)?))
}

/// AcceptFile and `Transfer1.AcceptFrom`, whose application `stores`: it says what it has stored. Gives the
/// address that listens.
///
/// # Errors
/// Those of [`ConnectionHandle::accept_file`], and for a socket that cannot be had.
pub async fn accept(
    connection: &ConnectionHandle,
    object: &FileTransferObject,
    socket: Socket<'_>,
    from: Resume,
    stores: bool,
) -> Outcome<Variant<'static>> {
    let (kind, rule) = understood(object, socket)?;
    let address = connection
        .accept_file(object, kind, rule, from, stores)
        .await?;
    Ok(sockets::address(&address))
}

/// ProvideFile and `Transfer1.ProvideFrom`, which says where the application begins; gives the address
/// that listens.
///
/// # Errors
/// Those of [`ConnectionHandle::provide_file`], and for a socket that cannot be had.
pub async fn provide(
    connection: &ConnectionHandle,
    object: &FileTransferObject,
    socket: Socket<'_>,
    from: Option<u64>,
) -> Outcome<Variant<'static>> {
    let (kind, rule) = understood(object, socket)?;
    let address = connection.provide_file(object, kind, rule, from).await?;
    Ok(sockets::address(&address))
}

impl FileTransfer {
    /// Of this channel.
    pub fn new(object: FileTransferObject, connection: ConnectionHandle) -> Self {
        FileTransfer { object, connection }
    }

    fn file(&self) -> &FileOffer {
        &self.object.description.file
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Channel.Type.FileTransfer",
    introspection_docs = false
)]
impl FileTransfer {
    #[zbus(property(emits_changed_signal = "false"))]
    fn state(&self) -> Result<u32> {
        read("State", || self.object.view.get().state.number())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn content_type(&self) -> Result<String> {
        read("ContentType", || self.file().content_type.clone())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn filename(&self) -> Result<String> {
        read("Filename", || self.file().name.clone())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn size(&self) -> Result<u64> {
        read("Size", || size(self.file()))
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn content_hash_type(&self) -> Result<u32> {
        read("ContentHashType", || content_hash(self.file()).0)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn content_hash(&self) -> Result<String> {
        read("ContentHash", || content_hash(self.file()).1)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn description(&self) -> Result<String> {
        read("Description", || self.file().description.clone())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn date(&self) -> Result<i64> {
        read("Date", || self.file().date.unwrap_or_default())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn available_socket_types(&self) -> Result<HashMap<u32, Vec<u32>>> {
        read("AvailableSocketTypes", || {
            sockets::socket_types(&self.object.description.sockets)
        })
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn transferred_bytes(&self) -> Result<u64> {
        read("TransferredBytes", || self.object.view.get().transferred)
    }

    /// 0 until InitialOffsetDefined says what it is.
    #[zbus(property(emits_changed_signal = "false"))]
    fn initial_offset(&self) -> Result<u64> {
        read("InitialOffset", || {
            self.object.view.get().initial_offset.unwrap_or_default()
        })
    }

    #[zbus(property(emits_changed_signal = "false"), name = "URI")]
    fn uri(&self) -> Result<String> {
        read("URI", || self.object.view.get().uri.clone())
    }

    #[zbus(property, name = "URI")]
    async fn set_uri(&self, uri: String) -> Result<()> {
        answered("URI", async {
            if uri.len() > MAX_URI {
                return Err(actors::model::Error::InvalidArgument(format!(
                    "a URI has at most {MAX_URI} bytes"
                )));
            }
            self.object
                .address
                .ask(|reply| FileTransferMessage::SetUri { uri, reply })
                .await?
        })
        .await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn file_collection(&self) -> Result<String> {
        read("FileCollection", || self.file().collection.clone())
    }

    #[zbus(out_args("Address"))]
    async fn accept_file(
        &self,
        address_type: u32,
        access_control: u32,
        access_control_param: OwnedVariant,
        offset: u64,
    ) -> Result<Variant<'static>> {
        answered("AcceptFile", async {
            let socket = (address_type, access_control, &*access_control_param);
            let from = Resume {
                offset,
                stored: None,
            };
            accept(&self.connection, &self.object, socket, from, false).await
        })
        .await
    }

    #[zbus(out_args("Address"))]
    async fn provide_file(
        &self,
        address_type: u32,
        access_control: u32,
        access_control_param: OwnedVariant,
    ) -> Result<Variant<'static>> {
        answered("ProvideFile", async {
            let socket = (address_type, access_control, &*access_control_param);
            provide(&self.connection, &self.object, socket, None).await
        })
        .await
    }

    #[zbus(signal)]
    pub(super) async fn file_transfer_state_changed(
        emitter: &SignalEmitter<'_>,
        state: u32,
        reason: u32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn transferred_bytes_changed(
        emitter: &SignalEmitter<'_>,
        count: u64,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn initial_offset_defined(
        emitter: &SignalEmitter<'_>,
        initialoffset: u64,
    ) -> zbus::Result<()>;

    #[zbus(signal, name = "URIDefined")]
    pub(super) async fn uri_defined(emitter: &SignalEmitter<'_>, uri: &str) -> zbus::Result<()>;
}
