//! In-band bytestreams (XEP-0047): opening, blocks, closing.
//!
//! ```text
//! <open  xmlns='http://jabber.org/protocol/ibb' sid='SID' block-size='4096' stanza='iq'/>
//! <data  xmlns='http://jabber.org/protocol/ibb' sid='SID' seq='0'>BASE64</data>
//! <close xmlns='http://jabber.org/protocol/ibb' sid='SID'/>
//! ```
//!
//! Each is the payload of an `<iq type='set'/>`. Between two Pneumas a `<close/>` may hold
//! `<reset xmlns='urn:x-pneuma:secured:1'/>`: the side was reset rather than closed.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minidom::Element;

use super::{Malformed, builder, si::MAX_SID_BYTES};
use crate::xmpp::ns;

/// `<open/>` (section 2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The bytestream's id, from the stream initiation.
    pub sid: String,
    /// Most bytes a block has before it is encoded.
    pub block_size: u16,
    /// Blocks come in iqs, which are answered; else in messages, which are not.
    pub answered: bool,
}

/// `<data/>` (section 2.2), its bytes decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Its place in the order: 0, 1, … 65535, 0, …
    pub seq: u16,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Open {
    /// As an element.
    pub fn to_element(&self) -> Element {
        builder("open", ns::IBB)
            .attr("sid", &self.sid)
            .attr("block-size", &self.block_size.to_string())
            .attr("stanza", if self.answered { "iq" } else { "message" })
            .build()
    }

    /// Reads the element.
    ///
    /// # Errors
    /// [`Malformed`] without a sid, a block size of 1 to 65535 or with an unknown kind of stanza.
    pub fn parse(element: &Element) -> Result<Self, Malformed> {
        if !element.is("open", ns::IBB) {
            return Err(Malformed("not the opening of an in-band bytestream"));
        }
        let block_size = element
            .attr("block-size")
            .and_then(|size| size.parse().ok())
            .filter(|size: &u16| *size > 0)
            .ok_or(Malformed("an in-band bytestream without a good block size"))?;
        let answered = match element.attr("stanza") {
            None | Some("iq") => true,
            Some("message") => false,
            Some(_) => return Err(Malformed("blocks come in iqs or in messages")),
        };
        Ok(Open {
            sid: sid(element)?.to_owned(),
            block_size,
            answered,
        })
    }
}

/// Writes a block.
pub fn data(sid: &str, seq: u16, bytes: &[u8]) -> Element {
    builder("data", ns::IBB)
        .attr("sid", sid)
        .attr("seq", &seq.to_string())
        .text(&STANDARD.encode(bytes))
        .build()
}

/// Writes the end.
pub fn close(sid: &str, reset: bool) -> Element {
    builder("close", ns::IBB)
        .attr("sid", sid)
        .children(reset.then(|| builder("reset", ns::PNEUMA).build()))
        .build()
}

/// Which bytestream an element is about.
///
/// # Errors
/// [`Malformed`] without one of 1 to [`MAX_SID_BYTES`] bytes.
pub fn sid(element: &Element) -> Result<&str, Malformed> {
    element
        .attr("sid")
        .filter(|sid| !sid.is_empty() && sid.len() <= MAX_SID_BYTES)
        .ok_or(Malformed("an in-band bytestream without a good sid"))
}

/// Whether a `<close/>` says that the side was reset.
pub fn is_reset(close: &Element) -> bool {
    close.has_child("reset", ns::PNEUMA)
}

impl Data {
    /// Reads the element: base64 (RFC 4648 section 4) with its padding and nothing else in it.
    ///
    /// # Errors
    /// [`Malformed`] when it is no block, its number is none of 16 bits or it is not base64.
    pub fn parse(element: &Element) -> Result<Self, Malformed> {
        if !element.is("data", ns::IBB) {
            return Err(Malformed("not a block of an in-band bytestream"));
        }
        let seq = element
            .attr("seq")
            .filter(|seq| seq.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|seq| seq.parse().ok())
            .ok_or(Malformed("a block without a good number"))?;
        let bytes = STANDARD
            .decode(element.text())
            .map_err(|_| Malformed("a block that is not base64"))?;
        Ok(Data { seq, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xmpp::xml::parse_element;

    #[test]
    fn the_examples_of_the_specification_are_read() {
        let open = parse_element(
            "<open xmlns='http://jabber.org/protocol/ibb' block-size='4096' sid='i781hf64' \
             stanza='iq'/>",
        )
        .unwrap();
        let open = Open::parse(&open).unwrap();
        assert_eq!((open.block_size, open.answered), (4096, true));
        assert_eq!(Open::parse(&open.to_element()), Ok(open));
        let block = parse_element(
            "<data xmlns='http://jabber.org/protocol/ibb' seq='65535' sid='i781hf64'>aGVsbG8=</data>",
        )
        .unwrap();
        assert_eq!(sid(&block), Ok("i781hf64"));
        let block = Data::parse(&block).unwrap();
        assert_eq!((block.seq, &block.bytes[..]), (65535, &b"hello"[..]));
        assert_eq!(Data::parse(&data("1", 65535, b"hello")), Ok(block));
        assert!(is_reset(&close("1", true)) && !is_reset(&close("1", false)));
    }

    #[test]
    fn what_breaks_a_rule_is_malformed() {
        let read = |text: &str| parse_element(text).unwrap();
        for attributes in [
            "block-size='4096'",
            "sid='' block-size='4096'",
            "sid='1'",
            "sid='1' block-size='0'",
            "sid='1' block-size='65536'",
            "sid='1' block-size='-1'",
            "sid='1' block-size='1' stanza='presence'",
        ] {
            let text = format!("<open xmlns='{}' {attributes}/>", ns::IBB);
            assert!(Open::parse(&read(&text)).is_err(), "{text}");
        }
        for rest in [
            ">aGVsbG8=<",
            " seq='65536'>aGVsbG8=<",
            " seq='+1'>aGVsbG8=<",
            " seq='1'>aGVsbG8<",
            " seq='1'>=aGVsbG8<",
            " seq='1'>aGVs bG8=<",
            " seq='1'>aGVsbG9=<",
        ] {
            let text = format!("<data xmlns='{}' sid='1'{rest}/data>", ns::IBB);
            assert!(Data::parse(&read(&text)).is_err(), "{text}");
        }
    }
}
