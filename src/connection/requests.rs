//! What CreateChannel and EnsureChannel are asked for, checked and typed. What is said of a file is read
//! in [`file`].

use actors::model::{ContactHandle, Error, ServiceName};

use self::file::FileRequest;
use super::{
    contacts::shortened,
    protocol::{
        DBUS_TUBE_INTERFACES, FILE_TRANSFER_INTERFACES, HANDLE_TYPE_CONTACT,
        STREAM_TUBE_INTERFACES, property,
    },
    value::{Given, GivenMap},
};
use crate::names;

pub mod file;

/// Whom a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `TargetHandle`
    Handle(ContactHandle),
    /// `TargetID`
    Id(String),
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A stream tube, for this `StreamTube.Service`.
    StreamTube(ServiceName),
    /// A D-Bus tube, for this `DBusTube.ServiceName`.
    DBusTube(ServiceName),
    /// A file transfer to the contact.
    File(Box<FileRequest>),
}

impl Wanted {
    /// Which tube it is, if it is one.
    pub(super) fn tube(&self) -> Option<(Kind, &ServiceName)> {
        match self {
            Wanted::StreamTube(service) => Some((Kind::StreamTube, service)),
            Wanted::DBusTube(service) => Some((Kind::DBusTube, service)),
            Wanted::File(_) => None,
        }
    }
}

/// A request for a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRequest {
    /// To whom.
    pub target: Target,
    /// What.
    pub wanted: Wanted,
    /// Whether whoever asks has claimed the channel from the beginning.
    pub claimed: bool,
}

/// The types of channels that can be requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Channel.Type.StreamTube`
    StreamTube,
    /// `Channel.Type.DBusTube`
    DBusTube,
    /// `Channel.Type.FileTransfer`
    File,
}

impl Kind {
    /// What our user's rules know a service by that a channel of this type is for: stream tubes by its name,
    /// D-Bus tubes by `dbus:` and its name, files as what they are. A stream tube that is called as one of the
    /// others would be is no other: it has `stream:` before its name.
    pub fn ruled(self, service: &ServiceName) -> ServiceName {
        match self {
            Kind::StreamTube => service.of_stream(),
            Kind::DBusTube => service.of_dbus(),
            Kind::File => ServiceName::of_files(),
        }
    }

    fn of(channel_type: &str) -> Result<Self, Error> {
        match channel_type {
            names::STREAM_TUBE => Ok(Kind::StreamTube),
            names::DBUS_TUBE => Ok(Kind::DBusTube),
            names::FILE_TRANSFER => Ok(Kind::File),
            other => Err(Error::NotImplemented(format!(
                "channels of type '{}' cannot be requested here",
                shortened(other)
            ))),
        }
    }

    fn interfaces(self) -> &'static [&'static str] {
        match self {
            Kind::StreamTube => STREAM_TUBE_INTERFACES,
            Kind::DBusTube => DBUS_TUBE_INTERFACES,
            Kind::File => FILE_TRANSFER_INTERFACES,
        }
    }

    /// Properties that say more of a channel of this type.
    fn requestable(self) -> &'static [&'static str] {
        match self {
            Kind::StreamTube => &[property::SERVICE],
            Kind::DBusTube => &[property::SERVICE_NAME],
            Kind::File => file::REQUESTABLE,
        }
    }

    /// Properties of its that no request may have.
    fn never(self) -> &'static [&'static str] {
        match self {
            Kind::StreamTube => &[property::TUBE_PARAMETERS, property::SUPPORTED_SOCKET_TYPES],
            Kind::DBusTube => &[
                property::TUBE_PARAMETERS,
                property::SUPPORTED_ACCESS_CONTROLS,
            ],
            Kind::File => &[property::FILE_COLLECTION, property::HAS_RANGES],
        }
    }
}

impl ChannelRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// `InvalidArgument` when `ChannelType` is missing or a value has the wrong type or makes no
    /// sense; `NotImplemented` for what can never be requested here, which includes every property
    /// that is not known, since it might be a demand; `InvalidHandle` for handle 0.
    pub fn new(request: &GivenMap) -> Result<Self, Error> {
        let Some(channel_type) = request.get(property::CHANNEL_TYPE) else {
            return Err(Error::InvalidArgument(
                "a channel request must say which ChannelType it wants".into(),
            ));
        };
        let kind = Kind::of(channel_type.text("ChannelType")?)?;
        let mut claimed = false;
        for (name, value) in request {
            match name.as_str() {
                property::CHANNEL_TYPE
                | property::TARGET_HANDLE_TYPE
                | property::TARGET_HANDLE
                | property::TARGET_ID => {}
                property::REQUESTED if value.bool("Requested")? => {}
                property::CLAIMED => claimed = value.bool("Claimed")?,
                // A demand that can be met, by the specification of Channel.Interfaces.
                property::INTERFACES
                    if matches!(value, Given::Texts(names) if names
                        .iter()
                        .all(|name| kind.interfaces().contains(&name.as_str()))) => {}
                name if kind.requestable().contains(&name) => {}
                name if kind.never().contains(&name) => {
                    return Err(Error::InvalidArgument(format!(
                        "{name} cannot be part of a request"
                    )));
                }
                _ => {
                    return Err(Error::NotImplemented(format!(
                        "a request with '{}' cannot be met",
                        shortened(name)
                    )));
                }
            }
        }
        Ok(ChannelRequest {
            target: Target::of(request)?,
            wanted: match kind {
                Kind::StreamTube => Wanted::StreamTube(service(request)?),
                Kind::DBusTube => Wanted::DBusTube(bus_name(request)?),
                Kind::File => Wanted::File(Box::new(FileRequest::new(request)?)),
            },
            claimed,
        })
    }
}

impl Target {
    fn of(request: &GivenMap) -> Result<Self, Error> {
        match request.get(property::TARGET_HANDLE_TYPE) {
            None => {
                return Err(Error::InvalidArgument(
                    "a channel request must have TargetHandleType Contact (1)".into(),
                ));
            }
            Some(kind) if kind.number::<u32>("TargetHandleType")? != HANDLE_TYPE_CONTACT => {
                return Err(Error::NotImplemented(
                    "tubes and files go to contacts only (TargetHandleType 1)".into(),
                ));
            }
            Some(_) => {}
        }
        match (
            request.get(property::TARGET_HANDLE),
            request.get(property::TARGET_ID),
        ) {
            (Some(handle), None) => match handle.number::<u32>("TargetHandle")? {
                0 => Err(Error::InvalidHandle("0 is nobody's handle".into())),
                handle => Ok(Target::Handle(ContactHandle(handle))),
            },
            (None, Some(id)) => Ok(Target::Id(id.text("TargetID")?.to_owned())),
            _ => Err(Error::InvalidArgument(
                "a channel request must have either TargetHandle or TargetID".into(),
            )),
        }
    }
}

fn service(request: &GivenMap) -> Result<ServiceName, Error> {
    let Some(service) = request.get(property::SERVICE) else {
        return Err(Error::InvalidArgument(
            "a stream tube's request must name its Service".into(),
        ));
    };
    ServiceName::new(service.text("Service")?)
}

fn bus_name(request: &GivenMap) -> Result<ServiceName, Error> {
    let Some(name) = request.get(property::SERVICE_NAME) else {
        return Err(Error::InvalidArgument(
            "a D-Bus tube's request must have its ServiceName".into(),
        ));
    };
    ServiceName::of_bus(name.text("ServiceName")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    fn request(changes: &[(&str, Option<Given>)]) -> Result<ChannelRequest, Error> {
        let mut request = GivenMap::from([
            (
                property::CHANNEL_TYPE.to_owned(),
                Given::Text(names::STREAM_TUBE.into()),
            ),
            (property::TARGET_HANDLE_TYPE.to_owned(), Given::Uint(1)),
            (property::TARGET_HANDLE.to_owned(), Given::Uint(7)),
            (property::SERVICE.to_owned(), Given::Text("http".into())),
        ]);
        for (name, value) in changes {
            match value {
                Some(value) => request.insert((*name).to_owned(), value.clone()),
                None => request.remove(*name),
            };
        }
        ChannelRequest::new(&request)
    }

    #[test]
    fn what_clients_send_is_understood() {
        assert_eq!(
            request(&[]).unwrap().target,
            Target::Handle(ContactHandle(7))
        );
        let by_id = request(&[
            (property::TARGET_HANDLE, None),
            (property::TARGET_ID, Some(Given::Text("ada@a".into()))),
            (property::TARGET_HANDLE_TYPE, Some(Given::Integer(1))),
        ]);
        assert_eq!(by_id.unwrap().target, Target::Id("ada@a".into()));
    }

    #[test]
    fn a_dbus_tube_has_a_bus_name() {
        let dbus = |name: Option<Given>| {
            request(&[
                (
                    property::CHANNEL_TYPE,
                    Some(Given::Text(names::DBUS_TUBE.into())),
                ),
                (property::SERVICE, None),
                (property::SERVICE_NAME, name),
            ])
        };
        let name = |name: &str| Some(Given::Text(name.into()));
        let chess = ServiceName::of_bus("com.example.Chess").unwrap();
        let wanted = dbus(name("com.example.Chess")).unwrap().wanted;
        assert_eq!(wanted, Wanted::DBusTube(chess));
        for wrong in [None, Some(Given::Uint(7)), name("chess"), name(":1.7")] {
            let refused = dbus(wrong);
            assert!(
                matches!(refused, Err(Error::InvalidArgument(_))),
                "{refused:?}"
            );
        }
        // Each type of tube has its own properties.
        let mixed = request(&[(property::SERVICE_NAME, name("com.example.Chess"))]);
        assert!(matches!(mixed, Err(Error::NotImplemented(_))), "{mixed:?}");
    }

    #[test]
    fn a_channel_is_claimed_only_by_who_says_so() {
        let claimed = |value| request(&[(property::CLAIMED, value)]);
        assert!(!claimed(None).unwrap().claimed);
        assert!(!claimed(Some(Given::Bool(false))).unwrap().claimed);
        assert!(claimed(Some(Given::Bool(true))).unwrap().claimed);
        let wrong = claimed(Some(Given::Uint(1)));
        assert!(matches!(wrong, Err(Error::InvalidArgument(_))), "{wrong:?}");
    }

    #[test]
    fn what_can_never_be_is_not_implemented() {
        let never = [
            (
                property::CHANNEL_TYPE,
                Given::Text("org.example.Chat".into()),
            ),
            (property::TARGET_HANDLE_TYPE, Given::Uint(2)),
            ("com.example.Colour", Given::Text("red".into())),
            (property::REQUESTED, Given::Bool(false)),
            (property::INTERFACES, Given::Texts(vec!["a.b".into()])),
        ];
        for (name, value) in never {
            let refused = request(&[(name, Some(value))]);
            assert!(
                matches!(refused, Err(Error::NotImplemented(_))),
                "{name}: {refused:?}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_invalid() {
        let invalid = [
            (property::CHANNEL_TYPE, None),
            (property::CHANNEL_TYPE, Some(Given::Uint(1))),
            (property::TARGET_HANDLE_TYPE, None),
            (property::TARGET_HANDLE, None),
            (property::TARGET_HANDLE, Some(Given::Text("7".into()))),
            (property::TARGET_HANDLE, Some(Given::Integer(1 << 40))),
            (property::TARGET_ID, Some(Given::Text("both".into()))),
            (property::SERVICE, None),
            (property::SERVICE, Some(Given::Bool(true))),
            (property::SERVICE, Some(Given::Text(String::new()))),
            (property::SERVICE, Some(Given::Text("x".repeat(1 << 20)))),
            (
                property::TUBE_PARAMETERS,
                Some(Given::Other("a{sv}".into())),
            ),
        ];
        for (name, value) in invalid {
            let refused = request(&[(name, value)]);
            assert!(
                matches!(refused, Err(Error::InvalidArgument(_))),
                "{name}: {refused:?}"
            );
        }
        assert!(matches!(
            request(&[(property::TARGET_HANDLE, Some(Given::Uint(0)))]),
            Err(Error::InvalidHandle(_))
        ));
    }
}
