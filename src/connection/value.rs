//! Values of maps that a caller filled in freely (`a{sv}`): connection parameters, channel
//! requests, filters of channel classes. `dbus/` makes them of variants, so that this floor needs
//! no D-Bus library; whatever none of them needs is kept only as the signature it had.

use std::collections::BTreeMap;

use actors::model::Error;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// `s`, also an object path
    Text(String),
    /// `b`
    Bool(bool),
    /// `u`
    Uint(u32),
    /// Any other integer type, which some clients use for a port or a handle.
    Integer(i128),
    /// `as`
    Texts(Vec<String>),
    /// `a{sas}`
    TextLists(BTreeMap<String, Vec<String>>),
    /// Anything else: its signature.
    Other(String),
}

/// A map of them.
pub type GivenMap = BTreeMap<String, Given>;

impl Given {
    /// The text.
    ///
    /// # Errors
    /// `InvalidArgument` naming `what` when it is none.
    pub fn text(&self, what: &str) -> Result<&str, Error> {
        match self {
            Given::Text(text) => Ok(text),
            other => Err(other.is_not(what, "text")),
        }
    }

    /// The truth value.
    ///
    /// # Errors
    /// `InvalidArgument` naming `what` when it is none.
    pub fn bool(&self, what: &str) -> Result<bool, Error> {
        match self {
            Given::Bool(value) => Ok(*value),
            other => Err(other.is_not(what, "true or false")),
        }
    }

    /// The number, of whatever integer type, if it fits.
    ///
    /// # Errors
    /// `InvalidArgument` naming `what` when it is none or does not fit.
    pub fn number<N: TryFrom<i128>>(&self, what: &str) -> Result<N, Error> {
        let number = match self {
            Given::Uint(value) => i128::from(*value),
            Given::Integer(value) => *value,
            other => return Err(other.is_not(what, "a number")),
        };
        N::try_from(number)
            .map_err(|_| Error::InvalidArgument(format!("{what} cannot be {number}")))
    }

    /// The lists of texts.
    ///
    /// # Errors
    /// `InvalidArgument` naming `what` when it is none.
    pub fn text_lists(&self, what: &str) -> Result<&BTreeMap<String, Vec<String>>, Error> {
        match self {
            Given::TextLists(lists) => Ok(lists),
            other => Err(other.is_not(what, "a map of lists of texts (a{sas})")),
        }
    }

    fn is_not(&self, what: &str, wanted: &str) -> Error {
        let kind = match self {
            Given::Text(_) => "text",
            Given::Bool(_) => "a truth value",
            Given::Uint(_) | Given::Integer(_) => "a number",
            Given::Texts(_) => "a list of texts",
            Given::TextLists(_) => "a map of lists of texts",
            Given::Other(signature) => {
                return Error::InvalidArgument(format!(
                    "{what} must be {wanted}, not of type '{signature}'"
                ));
            }
        };
        Error::InvalidArgument(format!("{what} must be {wanted}, not {kind}"))
    }
}
