//! Our own element in a stream initiation and in its answer: this bytestream has TLS and a binding
//! inside, and this is the id of the connection it carries.
//!
//! `<secured xmlns='urn:x-pneuma:secured:1' id='00112233445566778899aabbccddeeff'/>`
//!
//! Both sides must say it; it is used only between peers that announce the namespace inside an
//! authenticated stream. The id in an answer is the offer's.

use actors::model::BytestreamId;
use minidom::Element;

use super::{Malformed, builder};
use crate::xmpp::ns;

/// Writes the element.
pub fn secured(id: BytestreamId) -> Element {
    builder("secured", ns::PNEUMA)
        .attr("id", &id.to_string())
        .build()
}

/// Looks for the element among others.
///
/// # Errors
/// [`Malformed`] when it is there without a good id, or twice.
pub fn find<'a>(
    elements: impl IntoIterator<Item = &'a Element>,
) -> Result<Option<BytestreamId>, Malformed> {
    let mut found = elements
        .into_iter()
        .filter(|element| element.is("secured", ns::PNEUMA));
    let Some(element) = found.next() else {
        return Ok(None);
    };
    if found.next().is_some() {
        return Err(Malformed("the connection's id is given twice"));
    }
    element
        .attr("id")
        .and_then(|id| id.parse().ok())
        .map(Some)
        .ok_or(Malformed("the connection's id is malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xmpp::xml::parse_element;

    #[test]
    fn the_id_survives_and_malformed_ones_do_not() {
        let id = BytestreamId([0xab; 16]);
        assert_eq!(find(&[secured(id)]), Ok(Some(id)));
        assert_eq!(find(&[]), Ok(None));
        assert!(find(&[secured(id), secured(id)]).is_err());
        for text in [
            "<secured xmlns='urn:x-pneuma:secured:1'/>",
            "<secured xmlns='urn:x-pneuma:secured:1' id='12'/>",
            "<secured xmlns='urn:x-pneuma:secured:1' id='gg112233445566778899aabbccddeeff'/>",
        ] {
            assert!(find(&[parse_element(text).unwrap()]).is_err(), "{text}");
        }
    }
}
