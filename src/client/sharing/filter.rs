//! What of a service is shared: which calls of the contact go on to it, and which of its signals go to
//! the contact.
//!
//! Everything that is not allowed is refused. Where an interface limits what is shared, a call of
//! `org.freedesktop.DBus.Properties` is judged by the interface in its first argument, and a call that names
//! no interface at all is refused: which one answers it, the service would choose.

use zbus::{
    Message, ObjectPath,
    message::Type,
    names::{InterfaceName, WellKnownName},
};

use super::words::BUS;
use crate::client::error::{Error, Kind, Result};

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
pub(super) const PEER: &str = "org.freedesktop.DBus.Peer";

/// Its connection managers, accounts and clients.
const TELEPATHY: &str = "org.freedesktop.Telepathy";

/// Most objects and most interfaces that a filter names.
pub const MOST_PARTS: usize = 64;

/// What is shared of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    name: String,
    objects: Vec<String>,
    interfaces: Vec<String>,
    read_only: bool,
}

impl Filter {
    /// All of the service with this well-known name.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when that is no such name, the bus's own, or one of Telepathy's.
    pub fn of(name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Filter {
            name: name.to_owned(),
            objects: Vec::new(),
            interfaces: Vec::new(),
            read_only: false,
        })
    }

    /// Only this object and those below it; may be said more than once.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when that is no object path, and for more than [`MOST_PARTS`].
    pub fn object(mut self, path: &str) -> Result<Self> {
        ObjectPath::try_from(path).map_err(|_| {
            Error::new(
                Kind::InvalidArgument,
                format!(
                    "{path} is no object path: it begins with a slash and does not end with one"
                ),
            )
        })?;
        push(&mut self.objects, path)?;
        Ok(self)
    }

    /// Only this interface; may be said more than once.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when that is no interface's name, and for more than [`MOST_PARTS`].
    pub fn interface(mut self, name: &str) -> Result<Self> {
        InterfaceName::try_from(name).map_err(|_| {
            Error::new(
                Kind::InvalidArgument,
                format!("{name} is no name of an interface"),
            )
        })?;
        push(&mut self.interfaces, name)?;
        Ok(self)
    }

    /// Only reading: `Get`, `GetAll`, `Introspect`, `Ping`, `GetMachineId` and signals.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it says which objects are shared; `/` is all of them.
    pub fn names_objects(&self) -> bool {
        !self.objects.is_empty()
    }

    /// Whether it lets nothing be changed.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether a method call of the contact goes on to the service.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn check_call(&self, message: &Message) -> Result<(), &'static str> {
        let header = message.header();
        if message.message_type() != Type::MethodCall {
            return Err("only method calls go to a shared service");
        }
        if header.unix_fds().is_some_and(|count| count > 0) {
            return Err("descriptors cannot be passed to a shared service");
        }
        if header.destination().map(|name| name.as_str()) != Some(self.name()) {
            return Err("only the shared service can be called");
        }
        let (Some(path), Some(member)) = (header.path(), header.member()) else {
            return Err("a call names an object and a method");
        };
        if !self.has_object(path.as_str()) {
            return Err("this object is not shared");
        }
        let Some(interface) = header.interface() else {
            return if self.read_only || !self.interfaces.is_empty() {
                Err("not all of the service is shared, so a call must name its interface")
            } else {
                Ok(())
            };
        };
        match (interface.as_str(), member.as_str()) {
            (INTROSPECTABLE, "Introspect") | (PEER, "Ping" | "GetMachineId") => {
                if message.body().is_empty() {
                    Ok(())
                } else {
                    Err("this call has no arguments")
                }
            }
            (PROPERTIES, member) => {
                let signature = match member {
                    "Get" => "ss",
                    "GetAll" => "s",
                    "Set" if self.read_only => {
                        return Err("the service is shared for reading only");
                    }
                    "Set" => "ssv",
                    _ => return Err("this is no method for properties"),
                };
                match first_text(message, signature) {
                    Some(of) if self.has_interface(&of) => Ok(()),
                    Some(_) => Err("the interface of this property is not shared"),
                    None => Err("a call for a property names its interface first"),
                }
            }
            _ if self.read_only => Err("the service is shared for reading only"),
            (interface, _) if self.has_interface(interface) => Ok(()),
            _ => Err("this interface is not shared"),
        }
    }

    /// Whether a signal of the service goes to the contact.
    pub fn lets_signal_through(&self, message: &Message) -> bool {
        let header = message.header();
        let (Some(path), Some(interface), Some(_)) =
            (header.path(), header.interface(), header.member())
        else {
            return false;
        };
        if message.message_type() != Type::Signal
            || header.unix_fds().is_some_and(|count| count > 0)
            || !self.has_object(path.as_str())
        {
            return false;
        }
        match interface.as_str() {
            // The bus's own: whoever emits signals of it is not believed.
            BUS => false,
            PROPERTIES => first_text(message, "sa{sv}as").is_some_and(|of| self.has_interface(&of)),
            interface => self.has_interface(interface),
        }
    }

    fn has_object(&self, path: &str) -> bool {
        self.objects.is_empty() || self.objects.iter().any(|object| is_below(path, object))
    }

    fn has_interface(&self, name: &str) -> bool {
        self.interfaces.is_empty() || self.interfaces.iter().any(|shared| shared == name)
    }
}

/// Whether this can be the well-known name of a service.
///
/// # Errors
/// [`Kind::InvalidArgument`] when that is no such name, the bus's own, or one of Telepathy's: whoever
/// reaches a connection manager is its user to everybody.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name == TELEPATHY || is_part_of(name, TELEPATHY) {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!(
                "{name} is a name of Telepathy's, and such a service goes to no contact and comes from none"
            ),
        ));
    }
    if WellKnownName::try_from(name).is_ok() && name != BUS {
        return Ok(());
    }
    Err(Error::new(
        Kind::InvalidArgument,
        format!(
            "{name} is no name of a service: give one as it is on the bus, such as org.example.Name"
        ),
    ))
}

fn push(list: &mut Vec<String>, part: &str) -> Result<()> {
    if list.len() == MOST_PARTS {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!(
                "at most {MOST_PARTS} objects and {MOST_PARTS} interfaces can be shared of one service"
            ),
        ));
    }
    list.push(part.to_owned());
    Ok(())
}

/// Whether a name is `whole` with more parts behind it.
fn is_part_of(name: &str, whole: &str) -> bool {
    name.strip_prefix(whole)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// Whether a path is `object`'s or that of one below it.
pub fn is_below(path: &str, object: &str) -> bool {
    match path.strip_prefix(object) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || object == "/",
        None => false,
    }
}

/// The first argument, a string, of a message whose arguments are of these types.
fn first_text(message: &Message, signature: &str) -> Option<String> {
    let body = message.body();
    if body.signature().to_string_no_parens() != signature {
        return None;
    }
    let text: &str = body.deserialize_ignore_signature().ok()?;
    Some(text.to_owned())
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
