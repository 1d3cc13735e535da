//! A file transfer's channel: what it is about, accept or provide, what is stored, close.

use std::{collections::HashMap, sync::Arc};

use actors::model::{AddressType, FileTransferReason, FileTransferState, SocketAddress};
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use super::{
    Resume, Sha256Digest,
    following::{Following, Step},
    offer::{Offer, Shape},
};
use crate::{
    client::{
        bus::Remote,
        connection::Connection,
        contact::{number, text},
        error::{Error, Kind, Result},
        managed::Handler,
        tube::{address_from_variant, type_number},
    },
    names,
};

/// `Socket_Access_Control` Localhost.
const LOCALHOST: u32 = 0;
/// `Size` of a file whose size is not known.
const NO_SIZE: u64 = u64::MAX;

/// From the number on the bus; a newer one is nothing.
pub fn state_from_number(number: u32) -> Option<FileTransferState> {
    use FileTransferState as State;
    [
        State::Pending,
        State::Accepted,
        State::Open,
        State::Completed,
        State::Cancelled,
    ]
    .into_iter()
    .find(|state| state.number() == number)
}

/// The same of a reason; a newer one counts as an error at the contact's.
pub fn reason_from_number(number: u32) -> FileTransferReason {
    use FileTransferReason as Reason;
    [
        Reason::None,
        Reason::Requested,
        Reason::LocalStopped,
        Reason::RemoteStopped,
        Reason::LocalError,
        Reason::RemoteError,
    ]
    .into_iter()
    .find(|reason| reason.number() == number)
    .unwrap_or(Reason::RemoteError)
}

/// What does not change about a file transfer: its immutable properties.
#[derive(Clone, Debug, PartialEq)]
pub struct TransferDescription {
    /// The channel's object path.
    pub path: OwnedObjectPath,
    /// `TargetHandle`: the contact at the other end.
    pub contact: u32,
    /// `TargetID`
    pub contact_id: String,
    /// `Requested`: sent by us.
    pub requested: bool,
    /// What is sent. One that came from a contact is hostile.
    pub offer: Offer,
    /// Whether the sender can begin elsewhere than at the beginning.
    pub has_ranges: bool,
}

/// Reads the immutable properties of a channel, if it is a file transfer.
pub fn transfer_from_properties(
    path: OwnedObjectPath,
    properties: &HashMap<String, OwnedVariant>,
) -> Option<TransferDescription> {
    let channel = |name: &str| format!("{}.{name}", names::CHANNEL);
    let file = |name: &str| format!("{}.{name}", names::FILE_TRANSFER);
    if text(properties, &channel("ChannelType"))? != names::FILE_TRANSFER {
        return None;
    }
    let flag = |name: &str| match &**properties.get(name)? {
        Variant::Bool(flag) => Some(*flag),
        _ => None,
    };
    let ours = |name: &str| format!("{}.{name}", names::TRANSFER);
    let size = match &**properties.get(&file("Size"))? {
        Variant::U64(NO_SIZE) => None,
        Variant::U64(size) => Some(*size),
        _ => return None,
    };
    let metadata = properties
        .get(&format!("{}.Metadata", names::FILE_TRANSFER_METADATA))
        .map(|value| words(value))
        .unwrap_or_default();
    let word = |name: &str| metadata.get(name).and_then(|words| words.first());
    let folder = word(Offer::FOLDER).is_some_and(|kind| kind == Offer::TAR);
    Some(TransferDescription {
        path,
        contact: match &**properties.get(&channel("TargetHandle"))? {
            Variant::U32(handle) => *handle,
            _ => return None,
        },
        contact_id: text(properties, &channel("TargetID"))?,
        requested: flag(&channel("Requested"))?,
        has_ranges: flag(&ours("HasRanges")).unwrap_or(false),
        offer: Offer {
            name: text(properties, &file("Filename"))?,
            content_type: text(properties, &file("ContentType")).unwrap_or_default(),
            size,
            modified: number(properties, &file("Date")).filter(|date| *date > 0),
            mode: word(Offer::MODE).and_then(|mode| u32::from_str_radix(mode, 8).ok()),
            shape: if folder { Shape::Folder } else { Shape::File },
            id: text(properties, &ours("ID")).and_then(|id| id.parse().ok()),
        },
    })
}

/// A dictionary of lists of texts (`a{sas}`); what is of another type is left out.
fn words(value: &Variant<'_>) -> HashMap<String, Vec<String>> {
    let Variant::Dict(dict) = value else {
        return HashMap::new();
    };
    let list = |value: &Variant<'_>| match value {
        Variant::Array(list) => list
            .iter()
            .filter_map(|word| match word {
                Variant::Str(word) => Some(word.as_str().to_owned()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    dict.iter()
        .filter_map(|(name, value)| match name {
            Variant::Str(name) => Some((name.as_str().to_owned(), list(value))),
            _ => None,
        })
        .collect()
}

/// What is asked of `CreateChannel`, but for the contact.
pub fn request(offer: &Offer) -> HashMap<String, Variant<'static>> {
    let channel = |name: &str| format!("{}.{name}", names::CHANNEL);
    let file = |name: &str| format!("{}.{name}", names::FILE_TRANSFER);
    let mut request = HashMap::from([
        (channel("ChannelType"), names::FILE_TRANSFER.into()),
        (channel("TargetHandleType"), 1u32.into()),
        (file("Filename"), offer.name.clone().into()),
        (file("ContentType"), offer.content_type.clone().into()),
        (file("Size"), offer.size.unwrap_or(NO_SIZE).into()),
    ]);
    if let Some(modified) = offer.modified {
        request.insert(file("Date"), modified.into());
    }
    if let Some(id) = offer.id {
        request.insert(format!("{}.ID", names::TRANSFER), id.to_string().into());
    }
    let metadata = offer.metadata();
    if !metadata.is_empty() {
        let name = format!("{}.Metadata", names::FILE_TRANSFER_METADATA);
        request.insert(name, metadata.into());
    }
    request
}

/// A file transfer's channel. Cheap to clone; dropping it leaves the channel as it is.
#[derive(Clone, Debug)]
pub struct Transfer {
    remote: Remote,
    description: TransferDescription,
    /// Keeps our Handler on the bus, so that Mission Control knows whose the channel is.
    _handler: Option<Arc<Handler>>,
}

impl Transfer {
    pub(in crate::client) fn new(remote: Remote, description: TransferDescription) -> Self {
        Transfer {
            remote,
            description,
            _handler: None,
        }
    }

    /// The same transfer, with the Handler that Mission Control gave it to.
    pub(in crate::client) fn handled_by(self, handler: Arc<Handler>) -> Self {
        Transfer {
            _handler: Some(handler),
            ..self
        }
    }

    /// Its immutable properties.
    pub fn description(&self) -> &TransferDescription {
        &self.description
    }

    /// Its object path.
    pub fn path(&self) -> &OwnedObjectPath {
        &self.description.path
    }

    /// `State`, and why, as far as is known; a state of a newer service is an error.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn state(&self) -> Result<FileTransferState> {
        let number: u32 = self.remote.get(names::FILE_TRANSFER, "State").await?;
        state_from_number(number).ok_or_else(|| {
            Error::new(
                Kind::BadAnswer,
                "the service says that the transfer is in a state this program does not know",
            )
        })
    }

    /// Waits until it is not on offer any more: taken, taken back, or broken.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn withdrawn(&self, connection: &Connection) -> Result<()> {
        let mut following = Following::new(connection.events().await?, self);
        match self.state().await {
            Ok(FileTransferState::Pending) => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind.is_gone() => return Ok(()),
            Err(error) => return Err(error),
        }
        loop {
            if let Step::State(..) | Step::Closed = following.next().await? {
                return Ok(());
            }
        }
    }

    /// `InitialOffset`: where the bytes begin, once the state is Open.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn initial_offset(&self) -> Result<u64> {
        self.remote.get(names::FILE_TRANSFER, "InitialOffset").await
    }

    /// How far the file had gone when it was over, in bytes from its beginning.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn reached(&self) -> Result<u64> {
        let count: u64 = self
            .remote
            .get(names::FILE_TRANSFER, "TransferredBytes")
            .await?;
        Ok(self.initial_offset().await?.saturating_add(count))
    }

    /// `Transfer1.Asked`: where the contact wants the file to begin, once it has agreed. A digest that
    /// cannot be read is none.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn asked(&self) -> Result<Resume> {
        let value: OwnedVariant = self
            .remote
            .call(
                "org.freedesktop.DBus.Properties",
                "Get",
                &(names::TRANSFER, "Asked"),
            )
            .await?;
        if let Variant::Structure(asked) = &*value
            && let [Variant::U64(offset), Variant::Str(digest)] = asked.fields()
        {
            return Ok(Resume {
                offset: *offset,
                stored: digest_from_hex(digest.as_str()),
            });
        }
        Err(Error::new(
            Kind::BadAnswer,
            "where the contact wants the file to begin cannot be understood",
        ))
    }

    /// `Transfer1.Error`: what went wrong, where something did.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn error(&self) -> Result<Option<Error>> {
        let value: OwnedVariant = self
            .remote
            .call(
                "org.freedesktop.DBus.Properties",
                "Get",
                &(names::TRANSFER, "Error"),
            )
            .await?;
        if let Variant::Structure(error) = &*value
            && let [Variant::Str(name), Variant::Str(sentence)] = error.fields()
            && !name.is_empty()
        {
            return Ok(Some(Error::from_reply(name.as_str(), sentence.as_str())));
        }
        Ok(None)
    }

    /// Agrees to what the contact sends, from `from` on. The address is where its bytes come from.
    ///
    /// # Errors
    /// What the service answers; [`Kind::NotAvailable`] when somebody else has agreed already.
    pub async fn accept(&self, from: &Resume) -> Result<SocketAddress> {
        let stored = from.stored.map(|digest| digest.to_string());
        self.with_socket(async |socket| {
            self.remote
                .call(
                    names::TRANSFER,
                    "AcceptFrom",
                    &(
                        type_number(socket),
                        LOCALHOST,
                        Variant::from(0u32),
                        from.offset,
                        stored.as_deref().unwrap_or_default(),
                    ),
                )
                .await
        })
        .await
    }

    /// Gives our file, from `offset` on: 0 or what the contact asked for. The address is where its
    /// bytes go.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn provide(&self, offset: u64) -> Result<SocketAddress> {
        self.with_socket(async |socket| {
            self.remote
                .call(
                    names::TRANSFER,
                    "ProvideFrom",
                    &(type_number(socket), LOCALHOST, Variant::from(0u32), offset),
                )
                .await
        })
        .await
    }

    /// A Unix socket, or where the service has none for us, an IP one.
    async fn with_socket(
        &self,
        ask: impl AsyncFn(AddressType) -> Result<OwnedVariant>,
    ) -> Result<SocketAddress> {
        let (socket, address) = match ask(AddressType::Unix).await {
            Err(error) if error.kind == Kind::NotImplemented => {
                (AddressType::Ipv4, ask(AddressType::Ipv4).await?)
            }
            answer => (AddressType::Unix, answer?),
        };
        address_from_variant(socket, &address)
    }

    /// Says how much of the file lies safely on our disk, counted from its beginning.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn report_stored(&self, offset: u64) -> Result<()> {
        self.remote
            .call(names::TRANSFER, "ReportStored", &offset)
            .await
    }

    /// How long the file is that has come, if all of it has and is what was sent: known once its end was read
    /// from the socket.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn verified(&self) -> Result<Option<u64>> {
        let (verified, size): (bool, u64) =
            self.remote.call(names::TRANSFER, "IsVerified", &()).await?;
        Ok(verified.then_some(size))
    }

    /// Has the service close the channel when this program vanishes.
    ///
    /// # Errors
    /// [`Kind::NotYours`] when somebody else claimed it already.
    pub async fn claim(&self) -> Result<()> {
        self.remote.call(names::CLAIM, "Claim", &()).await
    }

    /// Takes that back.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn release(&self) -> Result<()> {
        self.remote.call(names::CLAIM, "Release", &()).await
    }

    /// Closes the channel if the transfer was cancelled, which nobody else may do; one that another program
    /// took stays.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn close_if_cancelled(&self) -> Result<()> {
        match self.state().await {
            Ok(FileTransferState::Cancelled) => self.close().await,
            Ok(_) => Ok(()),
            Err(error) if error.kind.is_gone() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Closes the channel: declines, takes back or stops what has not ended. One that is closed
    /// already counts as closed.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn close(&self) -> Result<()> {
        match self.remote.call(names::CHANNEL, "Close", &()).await {
            Err(error) if error.kind.is_gone() => Ok(()),
            answer => answer,
        }
    }
}

/// 64 hexadecimal digits.
pub fn digest_from_hex(text: &str) -> Option<Sha256Digest> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(Sha256Digest(digest))
}

#[cfg(test)]
mod tests {
    use super::{super::TransferId, *};

    fn owned(value: impl Into<Variant<'static>>) -> OwnedVariant {
        OwnedVariant::try_from(value.into()).expect("no descriptors in it")
    }

    fn id_of(bytes: [u8; 16]) -> TransferId {
        actors::model::BytestreamId(bytes)
    }

    fn offer() -> Offer {
        Offer {
            name: "tree.tar".into(),
            content_type: "application/x-tar".into(),
            size: Some(5),
            modified: Some(7),
            mode: Some(0o755),
            shape: Shape::Folder,
            id: Some(id_of([9; 16])),
        }
    }

    /// What the service would say of a channel that was asked for so.
    fn properties(offer: &Offer) -> HashMap<String, OwnedVariant> {
        let mut map: HashMap<String, OwnedVariant> = request(offer)
            .into_iter()
            .map(|(name, value)| (name, owned(value)))
            .collect();
        for (name, value) in [
            ("TargetHandle", owned(4u32)),
            ("TargetID", owned("bob@desk")),
            ("Requested", owned(false)),
        ] {
            map.insert(format!("{}.{name}", names::CHANNEL), value);
        }
        map.insert(format!("{}.HasRanges", names::TRANSFER), owned(true));
        map
    }

    #[test]
    fn what_is_requested_is_what_is_read() {
        for offer in [
            offer(),
            Offer {
                size: None,
                modified: None,
                mode: None,
                shape: Shape::File,
                id: None,
                ..offer()
            },
        ] {
            let path = OwnedObjectPath::try_from("/a").expect("a path");
            let read = transfer_from_properties(path, &properties(&offer)).expect("a transfer");
            assert_eq!(read.offer, offer);
            assert!(read.has_ranges && !read.requested);
            assert_eq!((read.contact, read.contact_id.as_str()), (4, "bob@desk"));
        }
    }

    #[test]
    fn what_is_of_another_type_is_no_transfer_or_left_out() {
        let path = || OwnedObjectPath::try_from("/a").expect("a path");
        let whole = properties(&offer());
        for name in ["ChannelType", "TargetHandle", "TargetID", "Requested"] {
            let mut map = whole.clone();
            map.insert(format!("{}.{name}", names::CHANNEL), owned(1.5));
            assert_eq!(transfer_from_properties(path(), &map), None, "{name}");
        }
        let mut map = whole;
        map.insert(format!("{}.ID", names::TRANSFER), owned("no id"));
        map.insert(
            format!("{}.Metadata", names::FILE_TRANSFER_METADATA),
            owned(3u32),
        );
        map.remove(&format!("{}.HasRanges", names::TRANSFER));
        let read = transfer_from_properties(path(), &map).expect("a transfer");
        assert_eq!((read.offer.id, read.offer.mode), (None, None));
        assert!(!read.has_ranges && read.offer.shape == Shape::File);
    }

    #[test]
    fn digests_are_64_digits() {
        let digest = Sha256Digest([0xab; 32]);
        assert_eq!(digest_from_hex(&digest.to_string()), Some(digest));
        for wrong in ["", "ab", &"g".repeat(64), &"a".repeat(65)] {
            assert_eq!(digest_from_hex(wrong), None);
        }
    }
}
