//! Telepathy's tubes between two contacts, as Gabble writes them (namespace T,
//! `http://telepathy.freedesktop.org/xmpp/tubes`).
//!
//! - `<tube xmlns=T type='stream' service='…' id='…'><parameters>…</parameters></tube>` in a message
//!   offers; an empty `<tube xmlns=T/>` in the answer to a stream initiation agrees.
//! - `<stream xmlns=T tube='…'/>` in a stream initiation names the tube it is a connection of.
//! - `<close xmlns=T tube='…' id='…'/>` in a message closes. Gabble writes `tube` and reads `id`, so
//!   both are written and either is read.
//! - `<tube xmlns=T type='dbus' service='…' id='…' stream-id='SID' initiator='…'><parameters/></tube>` in a
//!   stream initiation offers a D-Bus tube, which the bytestream is; the answer is as above.

use std::collections::BTreeMap;

use actors::model::{ParameterValue, ServiceName, TubeParameters};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use minidom::Element;

use super::{Builder, Malformed, builder};
use crate::xmpp::ns;

/// An offer of a stream tube.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// `id`, chosen by the initiator; never 0.
    pub id: u32,
    /// `service`
    pub service: ServiceName,
    /// `<parameters/>`
    pub parameters: TubeParameters,
}

impl Offer {
    /// As an element.
    pub fn to_element(&self) -> Element {
        tube("stream", self.id, &self.service)
            .child(written_parameters(&self.parameters))
            .build()
    }

    /// Reads the element. Parameters of unknown types and malformed values are passed over, as
    /// Gabble does.
    ///
    /// # Errors
    /// [`Malformed`] for another type of tube, for a bad id or service, and for parameters beyond
    /// the bounds of [`TubeParameters`].
    pub fn parse(element: &Element) -> Result<Self, Malformed> {
        if !element.is("tube", ns::TUBES) || element.attr("type") != Some("stream") {
            return Err(Malformed("not an offer of a stream tube"));
        }
        let service = element
            .attr("service")
            .and_then(|service| ServiceName::new(service).ok())
            .ok_or(Malformed("the tube's service is malformed"))?;
        Ok(Offer {
            id: parse_id(element.attr("id"))?,
            service,
            parameters: parse_parameters(element)?,
        })
    }
}

/// An offer of a D-Bus tube. What else the element says repeats what the stream initiation says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DBusOffer {
    /// `id`, chosen by the initiator; never 0.
    pub id: u32,
    /// `service`, a bus name.
    pub service: ServiceName,
    /// `<parameters/>`
    pub parameters: TubeParameters,
}

impl DBusOffer {
    /// Whether the element is one, well-formed or not.
    pub fn is(element: &Element) -> bool {
        element.is("tube", ns::TUBES) && element.attr("type") == Some("dbus")
    }

    /// As an element of the stream initiation with this id, of whoever has this name.
    pub fn to_element(&self, sid: &str, initiator: &str) -> Element {
        tube("dbus", self.id, &self.service)
            .attr("stream-id", sid)
            .attr("initiator", initiator)
            .child(written_parameters(&self.parameters))
            .build()
    }

    /// Reads the element; parameters as in [`Offer::parse`].
    ///
    /// # Errors
    /// [`Malformed`] for another type of tube, for a bad id, for a service that is no bus name, and for
    /// parameters beyond the bounds of [`TubeParameters`].
    pub fn parse(element: &Element) -> Result<Self, Malformed> {
        if !DBusOffer::is(element) {
            return Err(Malformed("not an offer of a D-Bus tube"));
        }
        let service = element
            .attr("service")
            .and_then(|service| ServiceName::of_bus(service).ok())
            .ok_or(Malformed("the tube's service is no bus name"))?;
        Ok(DBusOffer {
            id: parse_id(element.attr("id"))?,
            service,
            parameters: parse_parameters(element)?,
        })
    }
}

/// What both types of tubes begin with.
fn tube(kind: &str, id: u32, service: &ServiceName) -> Builder {
    builder("tube", ns::TUBES)
        .attr("type", kind)
        .attr("service", service.as_str())
        .attr("id", &id.to_string())
}

fn written_parameters(parameters: &TubeParameters) -> Element {
    let parameters = parameters.values().iter().map(|(name, value)| {
        let (kind, text) = match value {
            ParameterValue::Text(text) => ("str", text.clone()),
            ParameterValue::Bytes(bytes) => ("bytes", STANDARD.encode(bytes)),
            ParameterValue::Int(number) => ("int", number.to_string()),
            ParameterValue::Uint(number) => ("uint", number.to_string()),
            ParameterValue::Bool(truth) => ("bool", u8::from(*truth).to_string()),
        };
        builder("parameter", ns::TUBES)
            .attr("name", name)
            .attr("type", kind)
            .text(&text)
            .build()
    });
    builder("parameters", ns::TUBES)
        .children(parameters)
        .build()
}

fn parse_parameters(tube: &Element) -> Result<TubeParameters, Malformed> {
    let values: BTreeMap<String, ParameterValue> = tube
        .get_child("parameters", ns::TUBES)
        .into_iter()
        .flat_map(Element::children)
        .filter(|child| child.is("parameter", ns::TUBES))
        .filter_map(parse_parameter)
        .collect();
    TubeParameters::new(values)
        .map_err(|_| Malformed("the tube's parameters are too many or too large"))
}

fn parse_parameter(element: &Element) -> Option<(String, ParameterValue)> {
    let name = element.attr("name")?.to_owned();
    let text = element.text();
    let value = match element.attr("type")? {
        "str" => ParameterValue::Text(text),
        "bytes" => {
            let digits: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            ParameterValue::Bytes(STANDARD.decode(digits).ok()?)
        }
        "int" => ParameterValue::Int(text.trim().parse().ok()?),
        "uint" => ParameterValue::Uint(text.trim().parse().ok()?),
        "bool" => match text.trim() {
            "0" | "false" => ParameterValue::Bool(false),
            "1" | "true" => ParameterValue::Bool(true),
            _ => return None,
        },
        _ => return None,
    };
    Some((name, value))
}

fn parse_id(id: Option<&str>) -> Result<u32, Malformed> {
    id.and_then(|id| id.parse().ok())
        .filter(|id| *id != 0)
        .ok_or(Malformed("the tube's id is malformed"))
}

/// The order to close a tube.
pub fn close(id: u32) -> Element {
    let id = id.to_string();
    builder("close", ns::TUBES)
        .attr("tube", &id)
        .attr("id", &id)
        .build()
}

/// Reads the order to close a tube: its id.
///
/// # Errors
/// [`Malformed`] when neither attribute is a tube's id, or when they differ.
pub fn parse_close(element: &Element) -> Result<u32, Malformed> {
    if !element.is("close", ns::TUBES) {
        return Err(Malformed("not the closing of a tube"));
    }
    match (element.attr("tube"), element.attr("id")) {
        (Some(tube), Some(id)) if tube != id => Err(Malformed("a tube is closed by two ids")),
        (tube, id) => parse_id(tube.or(id)),
    }
}

/// What a stream initiation is for: a connection through this tube.
pub fn stream(id: u32) -> Element {
    builder("stream", ns::TUBES)
        .attr("tube", &id.to_string())
        .build()
}

/// Reads the purpose of a stream initiation: the tube's id.
///
/// # Errors
/// [`Malformed`] when it is something else.
pub fn parse_stream(element: &Element) -> Result<u32, Malformed> {
    if !element.is("stream", ns::TUBES) {
        return Err(Malformed("not a connection through a tube"));
    }
    parse_id(element.attr("tube"))
}

/// The empty element beside the chosen method in the answer to a stream initiation.
pub fn agreed() -> Element {
    builder("tube", ns::TUBES).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xmpp::xml::parse_element;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Offer, Malformed> {
        Offer::parse(&parse_element(text).unwrap())
    }

    #[test]
    fn an_offer_as_gabble_writes_it_is_read() {
        let offer = parse(
            "<tube service='e2e' id='1953063797' type='stream' \
             xmlns='http://telepathy.freedesktop.org/xmpp/tubes'><parameters>\
             <parameter name='n' type='uint'>7</parameter>\
             <parameter name='hello' type='str'>world</parameter></parameters></tube>",
        )
        .unwrap();
        assert_eq!((offer.id, offer.service.as_str()), (1_953_063_797, "e2e"));
        let values = offer.parameters.values();
        assert_eq!(values["n"], ParameterValue::Uint(7));
        assert_eq!(values["hello"], ParameterValue::Text("world".into()));
    }

    #[test]
    fn truth_is_read_in_both_spellings_and_nonsense_is_passed_over() {
        let offer = parse(
            "<tube service='s' id='1' type='stream' \
             xmlns='http://telepathy.freedesktop.org/xmpp/tubes'><parameters>\
             <parameter name='a' type='bool'>true</parameter>\
             <parameter name='b' type='bool'>0</parameter>\
             <parameter name='c' type='bool'>perhaps</parameter>\
             <parameter name='d' type='bytes'>AAH/\n</parameter>\
             <parameter name='e' type='int'>-5</parameter>\
             <parameter name='f' type='int'>99999999999</parameter>\
             <parameter name='g' type='other'>1</parameter>\
             <parameter type='str'>1</parameter></parameters></tube>",
        )
        .unwrap();
        let values = offer.parameters.values();
        assert_eq!(values.len(), 4);
        assert_eq!(values["a"], ParameterValue::Bool(true));
        assert_eq!(values["b"], ParameterValue::Bool(false));
        assert_eq!(values["d"], ParameterValue::Bytes(vec![0, 1, 255]));
        assert_eq!(values["e"], ParameterValue::Int(-5));
    }

    #[test]
    fn bad_offers_are_malformed() {
        for text in [
            "<tube service='s' id='0' type='stream' xmlns='T'/>",
            "<tube service='s' id='-1' type='stream' xmlns='T'/>",
            "<tube service='s' id='4294967296' type='stream' xmlns='T'/>",
            "<tube service='s' type='stream' xmlns='T'/>",
            "<tube service='' id='1' type='stream' xmlns='T'/>",
            "<tube id='1' type='stream' xmlns='T'/>",
            "<tube service='s' id='1' type='dbus' xmlns='T'/>",
            "<tube service='s' id='1' type='stream' xmlns='other'/>",
        ] {
            assert!(
                parse(&text.replace("'T'", &format!("'{}'", ns::TUBES))).is_err(),
                "{text}"
            );
        }
    }

    fn parse_dbus(text: &str) -> Result<DBusOffer, Malformed> {
        DBusOffer::parse(&parse_element(text).unwrap())
    }

    #[test]
    fn a_dbus_tube_as_gabble_offers_it_is_read() {
        let offer = parse_dbus(
            "<tube service='org.example.E2E' id='491048017' type='dbus' \
             stream-id='1795414783-2267839310' initiator='a@localhost' \
             xmlns='http://telepathy.freedesktop.org/xmpp/tubes'><parameters/></tube>",
        )
        .unwrap();
        let service = offer.service.as_str();
        assert_eq!((offer.id, service), (491_048_017, "org.example.E2E"));
        assert!(offer.parameters.values().is_empty());
    }

    #[test]
    fn a_bad_offer_of_a_dbus_tube_is_malformed() {
        for tube in [
            "<tube service='a.b' id='0' type='dbus' xmlns='T'/>",
            "<tube service='a.b' type='dbus' xmlns='T'/>",
            "<tube service='http' id='1' type='dbus' xmlns='T'/>",
            "<tube service=':1.7' id='1' type='dbus' xmlns='T'/>",
            "<tube id='1' type='dbus' xmlns='T'/>",
            "<tube service='a.b' id='1' type='stream' xmlns='T'/>",
            "<tube service='a.b' id='1' type='dbus' xmlns='other'/>",
        ] {
            let text = tube.replace("'T'", &format!("'{}'", ns::TUBES));
            assert!(parse_dbus(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_close_has_both_attributes_and_either_is_read() {
        let element = close(49);
        assert_eq!(
            (element.attr("tube"), element.attr("id")),
            (Some("49"), Some("49"))
        );
        let read = |attributes: &str| {
            let text = format!("<close xmlns='{}' {attributes}/>", ns::TUBES);
            parse_close(&parse_element(&text).unwrap())
        };
        assert_eq!(read("tube='49' id='49'"), Ok(49));
        assert_eq!(read("tube='49'"), Ok(49));
        assert_eq!(read("id='49'"), Ok(49));
        assert!(read("tube='49' id='50'").is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn a_connection_names_its_tube() {
        assert_eq!(parse_stream(&stream(49)), Ok(49));
        assert!(parse_stream(&agreed()).is_err());
    }

    fn value() -> impl Strategy<Value = ParameterValue> {
        prop_oneof![
            "[^\\p{Cc}\u{fffe}\u{ffff}]{0,40}".prop_map(ParameterValue::Text),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(ParameterValue::Bytes),
            any::<i32>().prop_map(ParameterValue::Int),
            any::<u32>().prop_map(ParameterValue::Uint),
            any::<bool>().prop_map(ParameterValue::Bool),
        ]
    }

    proptest! {
        #[test]
        fn an_offer_survives_the_wire(
            id in 1..=u32::MAX,
            values in prop::collection::btree_map("[^\\p{Cc}\u{fffe}\u{ffff}]{0,20}", value(), 0..10),
        ) {
            let offer = Offer {
                id,
                service: ServiceName::new("x-ssh-contact").unwrap(),
                parameters: TubeParameters::new(values).unwrap(),
            };
            let text = String::from_utf8(crate::xmpp::write::element(&offer.to_element())).unwrap();
            prop_assert_eq!(parse(&text), Ok(offer));
        }

        #[test]
        fn an_offer_of_a_dbus_tube_survives_the_wire(
            id in 1..=u32::MAX,
            values in prop::collection::btree_map("[^\\p{Cc}\u{fffe}\u{ffff}]{0,20}", value(), 0..10),
        ) {
            let offer = DBusOffer {
                id,
                service: ServiceName::of_bus("org.example.Chess-2").unwrap(),
                parameters: TubeParameters::new(values).unwrap(),
            };
            let element = offer.to_element("sid", "us");
            prop_assert_eq!(element.attr("stream-id"), Some("sid"));
            let text = String::from_utf8(crate::xmpp::write::element(&element)).unwrap();
            prop_assert_eq!(parse_dbus(&text), Ok(offer));
        }
    }
}
