//! Between D-Bus values and the typed ones of the floors below: maps that callers fill in, the tables
//! of the protocol, a tube's parameters. Socket addresses are in `sockets`.

use std::collections::{BTreeMap, HashMap};

use actors::model::{Error, ParameterValue, Result, TubeParameters};
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use crate::connection::{
    protocol::{self, ChannelClass, Parameter, ParameterDefault, ParameterKind},
    value::{Given, GivenMap},
};

/// `a{sv}` as it is sent.
pub type Map = HashMap<String, Variant<'static>>;
/// `a{sv}` as it is received.
pub type ReceivedMap = HashMap<String, OwnedVariant>;
/// `Requestable_Channel_Class` on the bus.
pub type Class = (Map, Vec<String>);
/// `Param_Spec` on the bus.
pub type ParamSpec = (String, u32, String, Variant<'static>);
/// `Simple_Status_Spec` on the bus.
pub type StatusSpec = (u32, bool, bool);

/// What a caller filled in, as the floors below take it.
pub fn given_map(map: &ReceivedMap) -> GivenMap {
    map.iter()
        .map(|(name, value)| (name.clone(), given(value)))
        .collect()
}

/// One such value. A variant in a variant, which some bindings make, counts as what is in it.
pub fn given(value: &Variant<'_>) -> Given {
    match value {
        Variant::Str(text) => Given::Text(text.as_str().to_owned()),
        Variant::ObjectPath(path) => Given::Text(path.as_str().to_owned()),
        Variant::Bool(value) => Given::Bool(*value),
        Variant::U32(number) => Given::Uint(*number),
        Variant::U8(number) => Given::Integer((*number).into()),
        Variant::I16(number) => Given::Integer((*number).into()),
        Variant::U16(number) => Given::Integer((*number).into()),
        Variant::I32(number) => Given::Integer((*number).into()),
        Variant::I64(number) => Given::Integer((*number).into()),
        Variant::U64(number) => Given::Integer((*number).into()),
        Variant::Variant(inner) if !matches!(**inner, Variant::Variant(_)) => given(inner),
        Variant::Dict(dict) => text_lists(dict).map_or_else(
            || Given::Other(value.value_signature().to_string()),
            Given::TextLists,
        ),
        other => texts(other).map_or_else(
            || Given::Other(other.value_signature().to_string()),
            Given::Texts,
        ),
    }
}

/// A list of texts (`as`), if it is one.
fn texts(value: &Variant<'_>) -> Option<Vec<String>> {
    match value {
        Variant::Array(array) if array.element_signature() == &zbus::Signature::Str => array
            .inner()
            .iter()
            .map(|item| match item {
                Variant::Str(text) => Some(text.as_str().to_owned()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// Lists of texts by name (`a{sas}`), if that is what it is. Some bindings make `a{sv}` of it, and of
/// every map that is empty.
fn text_lists(dict: &zbus::Dict<'_, '_>) -> Option<BTreeMap<String, Vec<String>>> {
    dict.iter()
        .map(|(name, value)| match (name, value) {
            (Variant::Str(name), Variant::Variant(inner)) => {
                Some((name.as_str().to_owned(), texts(inner)?))
            }
            (Variant::Str(name), value) => Some((name.as_str().to_owned(), texts(value)?)),
            _ => None,
        })
        .collect()
}

/// A value to send.
pub fn variant(given: &Given) -> Variant<'static> {
    match given {
        Given::Text(text) => Variant::new(text.clone()),
        Given::Bool(value) => Variant::new(*value),
        Given::Uint(number) => Variant::new(*number),
        // We send none of the other kinds; an i64 holds what a table could say.
        Given::Integer(number) => Variant::new(i64::try_from(*number).unwrap_or_default()),
        Given::Texts(texts) => Variant::new(texts.clone()),
        Given::TextLists(lists) => Variant::new(lists.clone()),
        Given::Other(signature) => Variant::new(signature.clone()),
    }
}

/// A channel class to send.
pub fn class(class: &ChannelClass) -> Class {
    (
        class
            .fixed
            .iter()
            .map(|(name, value)| ((*name).to_owned(), variant(value)))
            .collect(),
        strings(&class.allowed),
    )
}

/// `Param_Spec` of a parameter.
pub fn param_spec(parameter: &Parameter) -> ParamSpec {
    let default = match (parameter.default, parameter.kind) {
        (Some(ParameterDefault::Text(text)), _) => Variant::new(text),
        (Some(ParameterDefault::Bool(value)), _) => Variant::new(value),
        (Some(ParameterDefault::Port(port)), _) => Variant::new(port),
        // No default: some value of the right type.
        (None, ParameterKind::Text) => Variant::new(""),
        (None, ParameterKind::Bool) => Variant::new(false),
        (None, ParameterKind::Port) => Variant::new(0_u16),
    };
    (
        parameter.name.to_owned(),
        parameter.flags(),
        parameter.kind.signature().to_owned(),
        default,
    )
}

/// `Protocol.Parameters`.
pub fn param_specs() -> Vec<ParamSpec> {
    protocol::PARAMETERS.iter().map(param_spec).collect()
}

/// `Statuses`.
pub fn statuses() -> BTreeMap<String, StatusSpec> {
    protocol::STATUSES
        .iter()
        .map(|status| {
            (
                status.name.to_owned(),
                (status.presence as u32, status.settable, status.message),
            )
        })
        .collect()
}

/// Names as a list to send.
pub fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// An object path of ours as a value.
///
/// # Errors
/// `Confused` when it is none, which would be a bug.
pub fn object_path(path: &str) -> Result<OwnedObjectPath> {
    OwnedObjectPath::try_from(path.to_owned())
        .map_err(|error| Error::Confused(format!("'{path}' is no object path: {error}")))
}

/// An array of bytes (`ay`), if it is one.
pub fn bytes(value: &Variant<'_>) -> Option<Vec<u8>> {
    match value {
        Variant::Array(array) if array.element_signature() == &zbus::Signature::U8 => array
            .inner()
            .iter()
            .map(|byte| match byte {
                Variant::U8(byte) => Some(*byte),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// `Tube.Parameters` to send.
pub fn tube_parameters(parameters: &TubeParameters) -> Map {
    parameters
        .values()
        .iter()
        .map(|(name, value)| {
            let value = match value {
                ParameterValue::Text(text) => Variant::new(text.clone()),
                ParameterValue::Bytes(bytes) => Variant::new(bytes.clone()),
                ParameterValue::Int(number) => Variant::new(*number),
                ParameterValue::Uint(number) => Variant::new(*number),
                ParameterValue::Bool(value) => Variant::new(*value),
            };
            (name.clone(), value)
        })
        .collect()
}

/// `parameters` of an offer.
///
/// # Errors
/// `InvalidArgument` for a value of any but the five types that a tube carries, and beyond the
/// bounds of [`TubeParameters`].
pub fn given_tube_parameters(map: &ReceivedMap) -> Result<TubeParameters> {
    let value = |name: &str, value: &Variant<'_>| match value {
        Variant::Str(text) => Ok(ParameterValue::Text(text.as_str().to_owned())),
        Variant::I32(number) => Ok(ParameterValue::Int(*number)),
        Variant::U32(number) => Ok(ParameterValue::Uint(*number)),
        Variant::Bool(value) => Ok(ParameterValue::Bool(*value)),
        other => bytes(other).map(ParameterValue::Bytes).ok_or_else(|| {
            Error::InvalidArgument(format!(
                "the parameter '{}' is of type '{}'; tubes carry s, ay, u, i and b",
                crate::connection::contacts::shortened(name),
                other.value_signature()
            ))
        }),
    };
    let mut values = BTreeMap::new();
    for (name, given) in map {
        values.insert(name.clone(), value(name, given)?);
    }
    TubeParameters::new(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_five_types_go_there_and_back() {
        let wanted = TubeParameters::new(BTreeMap::from([
            ("s".into(), ParameterValue::Text("t".into())),
            ("ay".into(), ParameterValue::Bytes(vec![0, 255])),
            ("i".into(), ParameterValue::Int(-1)),
            ("u".into(), ParameterValue::Uint(1)),
            ("b".into(), ParameterValue::Bool(true)),
        ]))
        .unwrap();
        let received: ReceivedMap = tube_parameters(&wanted)
            .into_iter()
            .map(|(name, value)| (name, value.try_into_owned().unwrap()))
            .collect();
        assert_eq!(given_tube_parameters(&received), Ok(wanted));
        for wrong in [
            Variant::new(1.5),
            Variant::new(1_u64),
            Variant::new(vec!["x"]),
        ] {
            let map = ReceivedMap::from([("x".into(), wrong.try_into_owned().unwrap())]);
            assert!(matches!(
                given_tube_parameters(&map),
                Err(Error::InvalidArgument(_))
            ));
        }
    }
}
