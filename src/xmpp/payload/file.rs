//! Files offered by stream initiation (XEP-0096), as Gabble and Pidgin write them, and what we add.
//!
//! ```text
//! offer   <si … profile=P mime-type='…'>
//!           <file xmlns=P name='…' size='…' hash='MD5' date='…'> <desc/> <range/> forms… </file>
//!           <transfer xmlns=OURS id='…' hash-type='…' hash='…' collection='…'/> </si>
//! answer  <si …> <file xmlns=P><range offset='…'/></file>
//!                <transfer xmlns=OURS offset='…' stored='SHA-256'/> </si>
//! taken back    <message> <transfer-cancel xmlns=OURS sid='…'/> </message>, by whoever offers, or by
//!               whoever agreed and does not wait for it any more, before the bytestream
//! ```
//!
//! P is `http://jabber.org/protocol/si/profile/file-transfer`, OURS `urn:x-pneuma:secured:1`. The forms are
//! Gabble's (XEP-0004, type `result`): one whose `FORM_TYPE` is `…/xmpp/file-transfer-service` has the
//! field `ServiceName`, one with `…/xmpp/file-transfer-metadata` has a field for each name of the metadata.
//! Gabble writes the content type into `<file/>`, others into `<si/>`: both are written, either is read.
//!
//! Our element means that both ends frame the bytes, and carries what the profile has no place for: the id
//! that lasts, hashes other than MD5, and what the receiver has stored. A file whose size is not known has
//! no `size`, which only those understand who speak it.

use std::collections::BTreeMap;

use actors::model::{ContentHash, FileOffer, HashKind, Resume, Sha256Digest, UNKNOWN_CONTENT};
use minidom::Element;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Malformed, builder};
use crate::xmpp::ns;

/// The largest size and offset: what files have on Linux.
pub const MAX_SIZE: u64 = i64::MAX.unsigned_abs();
/// The field of a form that names the form.
pub const FORM_TYPE: &str = "FORM_TYPE";
const SERVICE_NAME: &str = "ServiceName";

/// An offer of a file: what stands in an `<si/>` beside the methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The file. Without `ours` it has a size, no id, no collection and no hash but MD5; those of
    /// another offer are not written.
    pub file: FileOffer,
    /// `<range/>`: the sender can begin elsewhere than at the beginning.
    pub ranges: bool,
    /// Our element is there.
    pub ours: bool,
}

impl Offer {
    /// As elements of the `<si/>`. Its `mime-type` is [`FileOffer::content_type`].
    pub fn to_elements(&self) -> Vec<Element> {
        let file = &self.file;
        let (md5, other) = match &file.hash {
            Some(hash) if hash.kind() == HashKind::Md5 => (Some(hash.digits()), None),
            hash => (None, hash.as_ref()),
        };
        let size = file.size.map(|size| size.to_string());
        let date = file.date.and_then(written_date);
        let element = builder("file", ns::SI_FILE_TRANSFER)
            .attr("name", &file.name)
            .maybe_attr("size", size.as_deref())
            .attr("mime-type", &file.content_type)
            .maybe_attr("hash", md5)
            .maybe_attr("date", date.as_deref())
            .children((!file.description.is_empty()).then(|| {
                builder("desc", ns::SI_FILE_TRANSFER)
                    .text(&file.description)
                    .build()
            }))
            .children(
                self.ranges
                    .then(|| builder("range", ns::SI_FILE_TRANSFER).build()),
            )
            .children((!file.service.is_empty()).then(|| {
                let value = field(SERVICE_NAME, std::slice::from_ref(&file.service));
                form(ns::FILE_SERVICE, [value])
            }))
            .children((!file.metadata.is_empty()).then(|| {
                let fields = file.metadata.iter();
                form(
                    ns::FILE_METADATA,
                    fields.map(|(name, values)| field(name, values)),
                )
            }))
            .build();
        let ours = self.ours.then(|| {
            let id = file.id.map(|id| id.to_string());
            let collection = Some(&file.collection[..]).filter(|name| !name.is_empty());
            builder("transfer", ns::PNEUMA)
                .maybe_attr("id", id.as_deref())
                .maybe_attr("hash-type", other.map(|hash| hash_name(hash.kind())))
                .maybe_attr("hash", other.map(ContentHash::digits))
                .maybe_attr("collection", collection)
                .build()
        });
        [element].into_iter().chain(ours).collect()
    }

    /// Reads an offer from an `<si/>`: its `mime-type` and its elements. Dates, hashes and fields that
    /// cannot be understood are passed over.
    ///
    /// # Errors
    /// [`Malformed`] without `<file/>` or with two, without a name, with a size that no file has, without
    /// a size and without our element, with a bad id in our element, and beyond the bounds of
    /// [`FileOffer::check`].
    pub fn parse(mime_type: Option<&str>, elements: &[Element]) -> Result<Self, Malformed> {
        let element = only(elements, "file", ns::SI_FILE_TRANSFER)?
            .ok_or(Malformed("a file transfer without a file"))?;
        let ours = only(elements, "transfer", ns::PNEUMA)?;
        let size = match element.attr("size") {
            Some(size) => Some(number(size)?),
            None if ours.is_some() => None,
            None => return Err(Malformed("a file without a size")),
        };
        let ours_says = |name| ours.and_then(|ours| ours.attr(name));
        let id = ours_says("id")
            .map(str::parse)
            .transpose()
            .map_err(|_| Malformed("the transfer's id is malformed"))?;
        let hash = match (ours_says("hash-type"), ours_says("hash")) {
            (Some(name), Some(digits)) => hash_kind(name).map(|kind| (kind, digits)),
            _ => element.attr("hash").map(|digits| (HashKind::Md5, digits)),
        };
        let text = |name| {
            element
                .get_child(name, ns::SI_FILE_TRANSFER)
                .map(Element::text)
        };
        let mut metadata = fields(element, ns::FILE_METADATA);
        metadata.remove(FORM_TYPE);
        let service = fields(element, ns::FILE_SERVICE)
            .remove(SERVICE_NAME)
            .and_then(|values| values.into_iter().next());
        let file = FileOffer {
            name: element.attr("name").unwrap_or_default().to_owned(),
            content_type: mime_type
                .or(element.attr("mime-type"))
                .filter(|name| !name.is_empty())
                .unwrap_or(UNKNOWN_CONTENT)
                .to_owned(),
            size,
            hash: hash.and_then(|(kind, digits)| ContentHash::new(kind, digits).ok()),
            description: text("desc").unwrap_or_default(),
            date: element.attr("date").and_then(read_date),
            collection: ours_says("collection").unwrap_or_default().to_owned(),
            service: service.unwrap_or_default(),
            metadata,
            id,
        };
        file.check()
            .map_err(|_| Malformed("the file's name is missing, or something is too long"))?;
        Ok(Offer {
            file,
            ranges: element.has_child("range", ns::SI_FILE_TRANSFER),
            ours: ours.is_some(),
        })
    }
}

/// The answer that wants the file: what stands in the answering `<si/>` beside the methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Where it is to begin. `stored` only with `ours`.
    pub from: Resume,
    /// How many bytes are wanted from there, where the receiver says it (XEP-0096 section 2).
    pub length: Option<u64>,
    /// Our element is there.
    pub ours: bool,
}

impl Agreement {
    /// As elements of the answering `<si/>`.
    pub fn to_elements(&self) -> Vec<Element> {
        let offset = (self.from.offset > 0).then(|| self.from.offset.to_string());
        let length = self.length.map(|length| length.to_string());
        let range = (offset.is_some() || length.is_some()).then(|| {
            builder("range", ns::SI_FILE_TRANSFER)
                .maybe_attr("offset", offset.as_deref())
                .maybe_attr("length", length.as_deref())
                .build()
        });
        let file = builder("file", ns::SI_FILE_TRANSFER)
            .children(range)
            .build();
        let ours = self.ours.then(|| {
            let stored = self.from.stored.map(|stored| stored.to_string());
            builder("transfer", ns::PNEUMA)
                .attr("offset", &self.from.offset.to_string())
                .maybe_attr("stored", stored.as_deref())
                .build()
        });
        [file].into_iter().chain(ours).collect()
    }

    /// Reads an answer. One without `<file/>` wants all of it: Pidgin writes none.
    ///
    /// # Errors
    /// [`Malformed`] when an element is there twice, when a number or the hash is none, and when the
    /// two offsets differ.
    pub fn parse(elements: &[Element]) -> Result<Self, Malformed> {
        let range = only(elements, "file", ns::SI_FILE_TRANSFER)?
            .and_then(|file| file.get_child("range", ns::SI_FILE_TRANSFER));
        let read = |name| {
            let value = range.and_then(|range| range.attr(name));
            value.map(number).transpose()
        };
        let (offset, length) = (read("offset")?.unwrap_or(0), read("length")?);
        let Some(ours) = only(elements, "transfer", ns::PNEUMA)? else {
            return Ok(Agreement {
                from: Resume {
                    offset,
                    stored: None,
                },
                length,
                ours: false,
            });
        };
        if number(ours.attr("offset").unwrap_or("0"))? != offset {
            return Err(Malformed("the file is wanted from two places"));
        }
        let stored = ours.attr("stored").map(digest).transpose()?;
        Ok(Agreement {
            from: Resume { offset, stored },
            length,
            ours: true,
        })
    }
}

/// The message that takes an offer back, by the `id` of its `<si/>`.
pub fn cancel(sid: &str) -> Element {
    builder("transfer-cancel", ns::PNEUMA)
        .attr("sid", sid)
        .build()
}

/// Reads it.
///
/// # Errors
/// [`Malformed`] when it is something else, or has no `sid`.
pub fn parse_cancel(element: &Element) -> Result<&str, Malformed> {
    element
        .attr("sid")
        .filter(|_| element.is("transfer-cancel", ns::PNEUMA))
        .ok_or(Malformed("not the end of an offer"))
}

/// The element of this name, which must not be there twice.
fn only<'a>(
    elements: &'a [Element],
    name: &str,
    namespace: &str,
) -> Result<Option<&'a Element>, Malformed> {
    let mut found = elements
        .iter()
        .filter(|element| element.is(name, namespace));
    let first = found.next();
    match found.next() {
        None => Ok(first),
        Some(_) => Err(Malformed("one element is there twice")),
    }
}

/// A size or an offset: digits and nothing else.
fn number(text: &str) -> Result<u64, Malformed> {
    Some(text)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|number| *number <= MAX_SIZE)
        .ok_or(Malformed("a size or an offset that no file has"))
}

fn digest(text: &str) -> Result<Sha256Digest, Malformed> {
    let malformed = Malformed("the hash of what is stored is malformed");
    let hash = ContentHash::new(HashKind::Sha256, text).map_err(|_| malformed.clone())?;
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(hash.digits().as_bytes().chunks(2)) {
        *byte = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or_else(|| malformed.clone())?;
    }
    Ok(Sha256Digest(bytes))
}

/// Their names in IANA's registry of hash functions.
fn hash_name(kind: HashKind) -> &'static str {
    match kind {
        HashKind::Md5 => "md5",
        HashKind::Sha1 => "sha-1",
        HashKind::Sha256 => "sha-256",
    }
}

fn hash_kind(name: &str) -> Option<HashKind> {
    HashKind::ALL
        .into_iter()
        .find(|kind| hash_name(*kind) == name)
}

/// XEP-0082; nothing for years that have not four digits.
fn written_date(seconds: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()?
        .format(&Rfc3339)
        .ok()
}

fn read_date(text: &str) -> Option<i64> {
    let date = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(date.unix_timestamp())
}

fn field(name: &str, values: &[String]) -> Element {
    builder("field", ns::DATA_FORMS)
        .attr("var", name)
        .children(
            values
                .iter()
                .map(|value| builder("value", ns::DATA_FORMS).text(value).build()),
        )
        .build()
}

fn form(kind: &str, fields: impl IntoIterator<Item = Element>) -> Element {
    let kind = builder("field", ns::DATA_FORMS)
        .attr("var", FORM_TYPE)
        .attr("type", "hidden")
        .child(builder("value", ns::DATA_FORMS).text(kind).build())
        .build();
    builder("x", ns::DATA_FORMS)
        .attr("type", "result")
        .child(kind)
        .children(fields)
        .build()
}

/// The fields of the first form of this kind; of several with one name the last.
fn fields(element: &Element, kind: &str) -> BTreeMap<String, Vec<String>> {
    let read = |form: &Element| -> BTreeMap<String, Vec<String>> {
        form.children()
            .filter(|field| field.is("field", ns::DATA_FORMS))
            .filter_map(|field| {
                let values = field
                    .children()
                    .filter(|value| value.is("value", ns::DATA_FORMS))
                    .map(Element::text);
                Some((field.attr("var")?.to_owned(), values.collect()))
            })
            .collect()
    };
    element
        .children()
        .filter(|form| form.is("x", ns::DATA_FORMS))
        .map(read)
        .find(|fields| {
            let named = fields.get(FORM_TYPE).and_then(|values| values.first());
            named.is_some_and(|named| named == kind)
        })
        .unwrap_or_default()
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
