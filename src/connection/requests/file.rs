//! What a request says of the file that it wants to send.

use actors::model::{
    ContentHash, Error, FileOffer, HashKind, MAX_URI, TransferId, UNKNOWN_CONTENT,
};

use super::super::{
    contacts::shortened,
    protocol::property,
    value::{Given, GivenMap},
};

/// The properties of file transfers that a request may have. By the specification FileCollection is none
/// of them, and InitialOffset says nothing that the receiver has not asked for: it may be 0.
pub(super) const REQUESTABLE: &[&str] = &[
    property::CONTENT_TYPE,
    property::FILENAME,
    property::SIZE,
    property::CONTENT_HASH_TYPE,
    property::CONTENT_HASH,
    property::DESCRIPTION,
    property::DATE,
    property::INITIAL_OFFSET,
    property::URI,
    property::METADATA_SERVICE,
    property::METADATA,
    property::TRANSFER_ID,
];

/// A request for a file transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRequest {
    /// What the contact is told.
    pub file: FileOffer,
    /// `FileTransfer.URI`, for others on this bus.
    pub uri: String,
}

impl FileRequest {
    /// Reads what the request has beyond the target.
    ///
    /// # Errors
    /// `InvalidArgument` when ContentType, Filename or Size is missing, a value has the wrong type, is
    /// longer than an offer carries, or cannot be.
    pub(super) fn new(request: &GivenMap) -> Result<Self, Error> {
        let said = Said(request);
        if said.number_or("InitialOffset", property::INITIAL_OFFSET, 0_u64)? != 0 {
            return Err(Error::InvalidArgument(
                "InitialOffset is what the receiver asks for: a request may only say 0".into(),
            ));
        }
        let uri = said.text_or_none("URI", property::URI)?;
        if uri.len() > MAX_URI {
            return Err(Error::InvalidArgument(format!(
                "a URI has at most {MAX_URI} bytes"
            )));
        }
        let size = said
            .mandatory("Size", property::SIZE)?
            .number::<u64>("Size")?;
        let file = FileOffer {
            content_type: said.content_type()?,
            hash: said.hash()?,
            description: said.text_or_none("Description", property::DESCRIPTION)?,
            date: match request.get(property::DATE) {
                Some(date) => Some(date.number::<i64>("Date")?),
                None => None,
            },
            service: said.text_or_none("ServiceName", property::METADATA_SERVICE)?,
            metadata: match request.get(property::METADATA) {
                Some(metadata) => metadata.text_lists("Metadata")?.clone(),
                None => Default::default(),
            },
            id: said.id()?,
            ..FileOffer::new(said.name()?, (size != u64::MAX).then_some(size))
        };
        file.check()?;
        // In what others show in one line; a description may have several.
        for (what, text) in [
            ("a file's name", &file.name),
            ("a content type", &file.content_type),
            ("a service's name", &file.service),
        ] {
            if text.chars().any(char::is_control) {
                return Err(Error::InvalidArgument(format!(
                    "{what} has no control characters"
                )));
            }
        }
        Ok(FileRequest { file, uri })
    }
}

/// What was said, property by property.
struct Said<'r>(&'r GivenMap);

impl Said<'_> {
    fn mandatory(&self, what: &str, property: &str) -> Result<&Given, Error> {
        self.0.get(property).ok_or_else(|| {
            Error::InvalidArgument(format!("a file transfer's request must have its {what}"))
        })
    }

    fn text_or_none(&self, what: &str, property: &str) -> Result<String, Error> {
        match self.0.get(property) {
            Some(text) => Ok(text.text(what)?.to_owned()),
            None => Ok(String::new()),
        }
    }

    fn number_or<N: TryFrom<i128>>(&self, what: &str, property: &str, or: N) -> Result<N, Error> {
        match self.0.get(property) {
            Some(number) => number.number(what),
            None => Ok(or),
        }
    }

    /// The name is the last part of a path, and no folder's.
    fn name(&self) -> Result<&str, Error> {
        let name = self
            .mandatory("Filename", property::FILENAME)?
            .text("Filename")?;
        if name.contains('/') || name == "." || name == ".." {
            return Err(Error::InvalidArgument(format!(
                "'{}' is not the name of a file: leave its folder out",
                shortened(name)
            )));
        }
        Ok(name)
    }

    fn content_type(&self) -> Result<String, Error> {
        let given = self
            .mandatory("ContentType", property::CONTENT_TYPE)?
            .text("ContentType")?;
        Ok(match given {
            "" => UNKNOWN_CONTENT.to_owned(),
            given => given.to_owned(),
        })
    }

    /// A type of hash that nobody knows is none, and without a type the hash is not looked at: both by the
    /// specification.
    fn hash(&self) -> Result<Option<ContentHash>, Error> {
        let number = self.number_or("ContentHashType", property::CONTENT_HASH_TYPE, 0_u32)?;
        let Some(kind) = HashKind::ALL
            .into_iter()
            .find(|kind| kind.number() == number)
        else {
            return Ok(None);
        };
        let digits = self.text_or_none("ContentHash", property::CONTENT_HASH)?;
        ContentHash::new(kind, &digits).map(Some)
    }

    /// Empty is none.
    fn id(&self) -> Result<Option<TransferId>, Error> {
        match self.text_or_none("ID", property::TRANSFER_ID)?.as_str() {
            "" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| {
                Error::InvalidArgument("a transfer's ID has 32 hexadecimal digits".into())
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use actors::model::ContactHandle;

    use super::*;
    use crate::{
        connection::requests::{ChannelRequest, Target, Wanted},
        names,
    };

    fn text(text: &str) -> Given {
        Given::Text(text.into())
    }

    fn request(changes: &[(&str, Option<Given>)]) -> Result<ChannelRequest, Error> {
        let mut request = GivenMap::from([
            (
                property::CHANNEL_TYPE.to_owned(),
                text(names::FILE_TRANSFER),
            ),
            (property::TARGET_HANDLE_TYPE.to_owned(), Given::Uint(1)),
            (property::TARGET_HANDLE.to_owned(), Given::Uint(7)),
            (property::CONTENT_TYPE.to_owned(), text("text/plain")),
            (property::FILENAME.to_owned(), text("notes.txt")),
            (property::SIZE.to_owned(), Given::Integer(12)),
        ]);
        for (name, value) in changes {
            match value {
                Some(value) => request.insert((*name).to_owned(), value.clone()),
                None => request.remove(*name),
            };
        }
        ChannelRequest::new(&request)
    }

    fn file(changes: &[(&str, Option<Given>)]) -> FileRequest {
        let request = request(changes).unwrap();
        assert_eq!(request.target, Target::Handle(ContactHandle(7)));
        match request.wanted {
            Wanted::File(file) => *file,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_clients_must_say_is_enough() {
        let FileRequest { file: said, uri } = file(&[]);
        let expected = FileOffer {
            content_type: "text/plain".into(),
            ..FileOffer::new("notes.txt", Some(12))
        };
        assert_eq!((said, uri.as_str()), (expected, ""));
        // In whatever integer type a binding makes of it.
        let unknown = file(&[(property::SIZE, Some(Given::Integer(u64::MAX.into())))]);
        assert_eq!(unknown.file.size, None);
        let small = file(&[(property::SIZE, Some(Given::Uint(0)))]);
        assert_eq!(small.file.size, Some(0));
    }

    #[test]
    fn all_that_may_be_said_is_taken() {
        let metadata = BTreeMap::from([("k".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        let digits = "0A".repeat(32);
        let full = file(&[
            (property::CONTENT_HASH_TYPE, Some(Given::Uint(3))),
            (property::CONTENT_HASH, Some(text(&digits))),
            (property::DESCRIPTION, Some(text("two\nlines"))),
            (property::DATE, Some(Given::Integer(-5))),
            (property::URI, Some(text("file:///home/ada/notes.txt"))),
            (property::INITIAL_OFFSET, Some(Given::Integer(0))),
            (property::METADATA_SERVICE, Some(text("com.example.Notes"))),
            (property::METADATA, Some(Given::TextLists(metadata.clone()))),
            (property::TRANSFER_ID, Some(text(&"ab".repeat(16)))),
            (
                property::INTERFACES,
                Some(Given::Texts(vec![names::FILE_TRANSFER_METADATA.into()])),
            ),
        ]);
        assert_eq!(full.uri, "file:///home/ada/notes.txt");
        let said = full.file;
        let hash = said.hash.unwrap();
        assert_eq!(hash.kind(), HashKind::Sha256);
        assert_eq!(hash.digits(), digits.to_lowercase());
        assert_eq!(said.description, "two\nlines");
        assert_eq!(said.date, Some(-5));
        assert_eq!(said.service, "com.example.Notes");
        assert_eq!(said.metadata, metadata);
        assert_eq!(said.id, Some("ab".repeat(16).parse().unwrap()));
        // A type of hash that nobody knows is none; what the hash says then is nobody's business.
        let strange = file(&[
            (property::CONTENT_HASH_TYPE, Some(Given::Uint(99))),
            (property::CONTENT_HASH, Some(text("?"))),
        ]);
        assert_eq!(strange.file.hash, None);
        assert_eq!(
            file(&[(property::TRANSFER_ID, Some(text("")))]).file.id,
            None
        );
    }

    #[test]
    fn what_makes_no_sense_is_invalid() {
        let long = text(&"x".repeat(1 << 16));
        let lists = BTreeMap::from([("k".to_owned(), vec!["x".repeat(1 << 16)])]);
        let wrong = [
            (property::CONTENT_TYPE, None),
            (property::CONTENT_TYPE, Some(Given::Uint(1))),
            (property::CONTENT_TYPE, Some(long.clone())),
            (property::CONTENT_TYPE, Some(text("text/\nplain"))),
            (property::FILENAME, None),
            (property::FILENAME, Some(Given::Bool(true))),
            (property::FILENAME, Some(text(""))),
            (property::FILENAME, Some(text("/etc/passwd"))),
            (property::FILENAME, Some(text(".."))),
            (property::FILENAME, Some(text("a\u{7}b"))),
            (property::FILENAME, Some(long.clone())),
            (property::SIZE, None),
            (property::SIZE, Some(text("12"))),
            (property::SIZE, Some(Given::Integer(-1))),
            (property::SIZE, Some(Given::Integer(1 << 64))),
            (property::CONTENT_HASH_TYPE, Some(text("MD5"))),
            // A type without its hash.
            (property::CONTENT_HASH_TYPE, Some(Given::Uint(1))),
            (property::DESCRIPTION, Some(Given::Uint(1))),
            (property::DESCRIPTION, Some(long.clone())),
            (property::DATE, Some(text("yesterday"))),
            (property::URI, Some(Given::Uint(1))),
            (property::URI, Some(long.clone())),
            (property::INITIAL_OFFSET, Some(Given::Uint(1))),
            (property::INITIAL_OFFSET, Some(text("0"))),
            (property::METADATA_SERVICE, Some(Given::Uint(1))),
            (property::METADATA_SERVICE, Some(long.clone())),
            (property::METADATA, Some(Given::Other("a{ss}".into()))),
            (property::METADATA, Some(Given::TextLists(lists))),
            (property::TRANSFER_ID, Some(text("7"))),
            (property::TRANSFER_ID, Some(Given::Uint(7))),
            (property::FILE_COLLECTION, Some(text("album"))),
            (property::HAS_RANGES, Some(Given::Bool(true))),
            (property::TARGET_HANDLE, None),
            (property::TARGET_HANDLE_TYPE, None),
        ];
        for (name, value) in wrong {
            let shown = value.as_ref().map(|value| format!("{value:.40?}"));
            let refused = request(&[(name, value)]);
            assert!(
                matches!(refused, Err(Error::InvalidArgument(_))),
                "{name}: {shown:?}: {refused:?}"
            );
        }
        let hash = request(&[
            (property::CONTENT_HASH_TYPE, Some(Given::Uint(1))),
            (property::CONTENT_HASH, Some(text("no digits"))),
        ]);
        assert!(matches!(hash, Err(Error::InvalidArgument(_))));
    }

    #[test]
    fn what_only_tubes_have_cannot_be_met() {
        for (name, value) in [
            (property::SERVICE, text("http")),
            (
                property::AVAILABLE_SOCKET_TYPES,
                Given::Other("a{uau}".into()),
            ),
            (property::INTERFACES, Given::Texts(vec![names::TUBE.into()])),
        ] {
            let refused = request(&[(name, Some(value))]);
            assert!(
                matches!(refused, Err(Error::NotImplemented(_))),
                "{name}: {refused:?}"
            );
        }
    }
}
