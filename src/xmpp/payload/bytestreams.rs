//! SOCKS5 bytestreams (XEP-0065): the offer of streamhosts, the one that was used, and the hash that
//! names a bytestream to a SOCKS5 server.

use minidom::Element;
use sha1::{Digest as _, Sha1};

use super::{Malformed, builder};
use crate::xmpp::ns;

/// Most streamhosts that are read of one offer; further ones are not looked at.
pub const MAX_STREAMHOSTS: usize = 8;

/// Where a bytestream can be had (XEP-0065 section 5.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streamhost {
    /// Whose it is. Pidgin writes anything here: it is echoed, not read.
    pub jid: String,
    /// An address or a name, as written.
    pub host: String,
    /// A TCP port.
    pub port: u16,
}

/// The offer: `<query sid='…'><streamhost …/>…</query>` in an iq of type set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streamhosts {
    /// The bytestream's id, from the stream initiation.
    pub sid: String,
    /// In the order of preference, at most [`MAX_STREAMHOSTS`].
    pub hosts: Vec<Streamhost>,
}

impl Streamhosts {
    /// As an element.
    pub fn to_element(&self) -> Element {
        builder("query", ns::BYTESTREAMS)
            .attr("sid", &self.sid)
            .attr("mode", "tcp")
            .children(self.hosts.iter().map(|host| {
                builder("streamhost", ns::BYTESTREAMS)
                    .attr("jid", &host.jid)
                    .attr("host", &host.host)
                    .attr("port", &host.port.to_string())
                    .build()
            }))
            .build()
    }

    /// Reads the element. Streamhosts without host or port are passed over.
    ///
    /// # Errors
    /// [`Malformed`] when it is not a `<query/>` with a `sid`, or asks for UDP.
    pub fn parse(element: &Element) -> Result<Self, Malformed> {
        if !element.is("query", ns::BYTESTREAMS) {
            return Err(Malformed("not an offer of streamhosts"));
        }
        let sid = element
            .attr("sid")
            .filter(|sid| !sid.is_empty())
            .ok_or(Malformed("streamhosts without a sid"))?;
        if element.attr("mode").is_some_and(|mode| mode != "tcp") {
            return Err(Malformed("only the mode tcp is known"));
        }
        let hosts = element
            .children()
            .filter(|child| child.is("streamhost", ns::BYTESTREAMS))
            .filter_map(|child| {
                Some(Streamhost {
                    jid: child.attr("jid")?.to_owned(),
                    host: child.attr("host")?.to_owned(),
                    port: child
                        .attr("port")?
                        .parse()
                        .ok()
                        .filter(|port: &u16| *port != 0)?,
                })
            })
            .take(MAX_STREAMHOSTS)
            .collect();
        Ok(Streamhosts {
            sid: sid.to_owned(),
            hosts,
        })
    }
}

/// The answer: which streamhost was used (XEP-0065 section 5.3.3).
pub fn streamhost_used(sid: &str, jid: &str) -> Element {
    builder("query", ns::BYTESTREAMS)
        .attr("sid", sid)
        .child(
            builder("streamhost-used", ns::BYTESTREAMS)
                .attr("jid", jid)
                .build(),
        )
        .build()
}

/// Reads the answer: the `jid` of the streamhost that was used. Gabble leaves out the sid.
///
/// # Errors
/// [`Malformed`] when it is not there.
pub fn parse_streamhost_used(element: &Element) -> Result<&str, Malformed> {
    element
        .get_child("streamhost-used", ns::BYTESTREAMS)
        .filter(|_| element.is("query", ns::BYTESTREAMS))
        .and_then(|used| used.attr("jid"))
        .ok_or(Malformed("not the choice of a streamhost"))
}

/// `DST.ADDR`: the hash by which a bytestream is asked for over SOCKS5 (XEP-0065 section 5.3.2), 40
/// lower-case hexadecimal digits. `initiator` is who sent the `<si/>`, `target` who answered it, both
/// exactly as in `from` and `to`.
pub fn destination(sid: &str, initiator: &str, target: &str) -> String {
    let hash = Sha1::new()
        .chain_update(sid)
        .chain_update(initiator)
        .chain_update(target)
        .finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xmpp::xml::parse_element;

    #[test]
    fn an_offer_as_gabble_writes_it_is_read() {
        let offer = Streamhosts::parse(
            &parse_element(
                "<query sid='17-22' mode='tcp' xmlns='http://jabber.org/protocol/bytestreams'>\
                 <streamhost jid='a@localhost/e2e' host='192.0.2.2' port='39501'/>\
                 <streamhost jid='proxy.localhost' host='127.0.0.1' port='15223'/></query>",
            )
            .unwrap(),
        )
        .unwrap();
        assert_eq!(offer.sid, "17-22");
        assert_eq!(offer.hosts.len(), 2);
        assert_eq!(offer.hosts[0].host, "192.0.2.2");
        assert_eq!(offer.hosts[1].port, 15223);
        assert_eq!(Streamhosts::parse(&offer.to_element()), Ok(offer));
    }

    #[test]
    fn bad_streamhosts_are_passed_over_and_many_are_cut() {
        let mut text = String::from(
            "<query sid='1' xmlns='http://jabber.org/protocol/bytestreams'>\
             <streamhost jid='a' host='h'/><streamhost jid='a' host='h' port='0'/>\
             <streamhost jid='a' host='h' port='65536'/><streamhost host='h' port='1'/>",
        );
        for port in 1..100 {
            text.push_str(&format!("<streamhost jid='a' host='h' port='{port}'/>"));
        }
        text.push_str("</query>");
        let offer = Streamhosts::parse(&parse_element(&text).unwrap()).unwrap();
        let ports: Vec<u16> = offer.hosts.iter().map(|host| host.port).collect();
        assert_eq!(ports, (1..=8).collect::<Vec<u16>>());
    }

    #[test]
    fn an_offer_without_sid_or_over_udp_is_malformed() {
        for text in [
            "<query xmlns='http://jabber.org/protocol/bytestreams'/>",
            "<query sid='' xmlns='http://jabber.org/protocol/bytestreams'/>",
            "<query sid='1' mode='udp' xmlns='http://jabber.org/protocol/bytestreams'/>",
            "<query sid='1' xmlns='other'/>",
        ] {
            assert!(Streamhosts::parse(&parse_element(text).unwrap()).is_err());
        }
    }

    #[test]
    fn the_choice_is_read_with_and_without_sid() {
        let element = streamhost_used("1", "romeo@forza #2");
        assert_eq!(parse_streamhost_used(&element), Ok("romeo@forza #2"));
        let gabble = parse_element(
            "<query xmlns='http://jabber.org/protocol/bytestreams'>\
             <streamhost-used jid='b@localhost/e2e'/></query>",
        )
        .unwrap();
        assert_eq!(parse_streamhost_used(&gabble), Ok("b@localhost/e2e"));
    }

    #[test]
    fn the_destination_is_sha1_in_lower_case_digits() {
        // printf '%s' 'sidab' | sha1sum
        assert_eq!(
            destination("sid", "a", "b"),
            "61ac7cc02bed01bdbd8d9772469f9ca616ed918d"
        );
    }
}
