//! `Channel.Interface.Tube`: states and the parameters an offer carries.

use std::{collections::BTreeMap, fmt};

use super::Error;

/// Most parameters one offer may carry.
pub const MAX_PARAMETERS: usize = 256;
/// Most bytes all names and values of one offer's parameters may have together. An offer travels
/// in one stanza, which peers bound, so this stays well below a stanza's limit.
pub const MAX_PARAMETER_BYTES: usize = 64 * 1024;
/// Most bytes a service name may have.
pub const MAX_SERVICE_NAME: usize = 255;

/// `Tube_Channel_State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TubeState {
    /// The contact offered the tube; our user has not answered yet (0).
    LocalPending,
    /// We offered the tube; the contact has not taken it up yet (1).
    RemotePending,
    /// Both sides agreed (2).
    Open,
    /// We requested the channel and have not offered it to the contact yet (3).
    NotOffered,
}

impl TubeState {
    const BY_NUMBER: [TubeState; 4] = [
        TubeState::LocalPending,
        TubeState::RemotePending,
        TubeState::Open,
        TubeState::NotOffered,
    ];

    /// Its number on D-Bus.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The state with this number on D-Bus; `None` for one the specification does not have.
    pub fn from_number(number: u32) -> Option<Self> {
        let index = usize::try_from(number).ok()?;
        Self::BY_NUMBER.get(index).copied()
    }
}

/// One value of `Channel.Interface.Tube.Parameters`: the five types the wire format has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParameterValue {
    /// `s`
    Text(String),
    /// `ay`
    Bytes(Vec<u8>),
    /// `i`
    Int(i32),
    /// `u`
    Uint(u32),
    /// `b`
    Bool(bool),
}

/// `Channel.Interface.Tube.Parameters`, within [`MAX_PARAMETERS`] and [`MAX_PARAMETER_BYTES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TubeParameters(BTreeMap<String, ParameterValue>);

impl TubeParameters {
    /// Takes the values, checking the bounds.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when there are too many of them, when they are too large, or
    /// when a name or text holds a character XML cannot carry.
    pub fn new(values: BTreeMap<String, ParameterValue>) -> Result<Self, Error> {
        if values.len() > MAX_PARAMETERS {
            return Err(Error::InvalidArgument(format!(
                "a tube takes at most {MAX_PARAMETERS} parameters"
            )));
        }
        let size = |value: &ParameterValue| match value {
            ParameterValue::Text(text) => text.len(),
            ParameterValue::Bytes(bytes) => bytes.len(),
            _ => 4,
        };
        let bytes: usize = values
            .iter()
            .map(|(name, value)| name.len() + size(value))
            .sum();
        if bytes > MAX_PARAMETER_BYTES {
            return Err(Error::InvalidArgument(format!(
                "a tube's parameters may have {MAX_PARAMETER_BYTES} bytes, these have {bytes}"
            )));
        }
        let fits = |text: &str| text.chars().all(is_xml_char);
        let all_fit = values.iter().all(|(name, value)| {
            fits(name)
                && if let ParameterValue::Text(text) = value {
                    fits(text)
                } else {
                    true
                }
        });
        if !all_fit {
            return Err(Error::InvalidArgument(
                "a tube's parameters may not hold control characters".into(),
            ));
        }
        Ok(TubeParameters(values))
    }

    /// The values by name.
    pub fn values(&self) -> &BTreeMap<String, ParameterValue> {
        &self.0
    }
}

/// What stands before the name of a D-Bus tube's service in rules.
const DBUS: &str = "dbus:";

/// `Channel.Type.StreamTube.Service`: what kind of service a tube carries, such as `rfb` or
/// `x-ssh-contact`; or a D-Bus tube's bus name ([`ServiceName::of_bus`]). Not empty, at most [`MAX_SERVICE_NAME`] bytes, nothing XML cannot carry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(String);

impl ServiceName {
    /// Takes a name, checking it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when it is empty, too long or holds control characters.
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        if name.is_empty()
            || name.len() > MAX_SERVICE_NAME
            || name.chars().any(char::is_control)
            || !name.chars().all(is_xml_char)
        {
            return Err(Error::InvalidArgument(format!(
                "a service name has 1 to {MAX_SERVICE_NAME} bytes and no control characters"
            )));
        }
        Ok(ServiceName(name))
    }

    /// `Channel.Type.DBusTube.ServiceName`: a well-known bus name, by the D-Bus specification.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when it is none.
    pub fn of_bus(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let is_element = |element: &str| {
            let mut bytes = element.bytes();
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            bytes
                .next()
                .is_some_and(|first| fits(first) && !first.is_ascii_digit())
                && bytes.all(fits)
        };
        if name.len() > MAX_SERVICE_NAME || !name.contains('.') || !name.split('.').all(is_element)
        {
            return Err(Error::InvalidArgument(
                "a D-Bus tube's service has a bus name, such as com.example.Chess".into(),
            ));
        }
        Ok(ServiceName(name))
    }

    /// The service that our user's rules know file transfers by, whatever a file says that it is for.
    pub fn of_files() -> Self {
        ServiceName("file-transfer".into())
    }

    /// What our user's rules know a D-Bus tube's service by.
    pub fn of_dbus(&self) -> Self {
        ServiceName(format!("{DBUS}{self}"))
    }

    /// What our user's rules know a stream tube's service by: its name, unless that is how they know a D-Bus
    /// tube's, or files.
    pub fn of_stream(&self) -> Self {
        if self.0.starts_with(DBUS) || *self == ServiceName::of_files() {
            ServiceName(format!("stream:{self}"))
        } else {
            self.clone()
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// XML 1.0's `Char` production.
fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_name_is_what_the_bus_takes_for_one() {
        let long = format!("a.{}", "b".repeat(MAX_SERVICE_NAME - 2));
        for name in ["a.b", "com.example.Chess", "_a.b-2", &long] {
            assert!(ServiceName::of_bus(name).is_ok(), "{name}");
        }
        let longer = format!("{long}b");
        for name in [
            "", "a", ".a.b", "a..b", "a.b.", "1a.b", "a.1b", ":1.7", "a.b c", "a.é", &longer,
        ] {
            assert!(ServiceName::of_bus(name).is_err(), "{name}");
        }
    }

    #[test]
    fn states_have_the_numbers_of_the_specification() {
        assert_eq!(TubeState::LocalPending.number(), 0);
        assert_eq!(TubeState::RemotePending.number(), 1);
        assert_eq!(TubeState::Open.number(), 2);
        assert_eq!(TubeState::NotOffered.number(), 3);
        for state in TubeState::BY_NUMBER {
            assert_eq!(TubeState::from_number(state.number()), Some(state));
        }
        assert_eq!(TubeState::from_number(4), None);
    }
}
