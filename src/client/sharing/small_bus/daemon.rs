//! What the small bus answers itself, as the specification has it for a message bus.

use std::collections::HashMap;

use zbus::{Message, Variant, message::Header};

use super::{Act, BUS, BUS_PATH, ClientId, Refusal, SERVICE, SmallBus};

const UNKNOWN: Refusal = ("UnknownMethod", "this bus has no such method");
const ARGUMENTS: Refusal = ("InvalidArgs", "the method has other arguments");
const NO_OWNER: Refusal = ("NameHasNoOwner", "nobody has this name");
const NO_NAMES: Refusal = ("AccessDenied", "nobody can have a name of their own here");

/// `StartServiceByName`: it runs already.
const ALREADY_RUNNING: u32 = 2;
/// `ReleaseName`: there is no such name.
const NON_EXISTENT: u32 = 2;

const INTROSPECTION: &str = include_str!("daemon.xml");

impl SmallBus {
    /// A client's call of the bus.
    pub(super) fn ask_daemon(&mut self, id: ClientId, message: &Message) -> Vec<Act> {
        let header = message.header();
        let member = header.member().map_or("", |member| member.as_str());
        let interface = header.interface().map(|interface| interface.as_str());
        let answered = match interface {
            None | Some(BUS) => self.of_bus(id, message, &header, member),
            Some("org.freedesktop.DBus.Peer") => match member {
                "Ping" => Ok(self.returns(id, &header, &())),
                // What is on this bus runs on another machine, whose id is nobody's business. The bus's own
                // has the form of one, and tells a program that compares ids that it is not this machine.
                "GetMachineId" => Ok(self.returns(id, &header, &self.guid)),
                _ => Err(UNKNOWN),
            },
            Some("org.freedesktop.DBus.Introspectable") if member == "Introspect" => {
                Ok(self.returns(id, &header, &INTROSPECTION))
            }
            Some("org.freedesktop.DBus.Properties") => {
                self.of_properties(id, message, &header, member)
            }
            Some(_) => Err(UNKNOWN),
        };
        answered.unwrap_or_else(|refusal| self.refuse(id, &header, refusal))
    }

    fn of_bus(
        &mut self,
        id: ClientId,
        message: &Message,
        header: &Header<'_>,
        member: &str,
    ) -> Result<Vec<Act>, Refusal> {
        let body = message.body();
        let text = || body.deserialize::<&str>().map_err(|_| ARGUMENTS);
        match member {
            "Hello" => Ok(self.greet(id, header)),
            "AddMatch" => {
                let client = self.clients.get_mut(&id).ok_or(UNKNOWN)?;
                client.rules.add(text()?)?;
                Ok(self.returns(id, header, &()))
            }
            "RemoveMatch" => {
                let client = self.clients.get_mut(&id).ok_or(UNKNOWN)?;
                client.rules.remove(text()?)?;
                Ok(self.returns(id, header, &()))
            }
            "GetNameOwner" => {
                let owner = self.owner(text()?).ok_or(NO_OWNER)?;
                Ok(self.returns(id, header, &owner))
            }
            "NameHasOwner" => {
                let has = self.owner(text()?).is_some();
                Ok(self.returns(id, header, &has))
            }
            "ListQueuedOwners" => {
                let owner = self.owner(text()?).ok_or(NO_OWNER)?;
                Ok(self.returns(id, header, &vec![owner]))
            }
            "ListNames" => Ok(self.returns(id, header, &self.names())),
            "ListActivatableNames" => Ok(self.returns(id, header, &vec![BUS])),
            "StartServiceByName" => {
                let (name, _flags) = body.deserialize::<(&str, u32)>().map_err(|_| ARGUMENTS)?;
                match self.owner(name) {
                    Some(_) => Ok(self.returns(id, header, &ALREADY_RUNNING)),
                    None => Err((
                        "ServiceUnknown",
                        "only a call can start the contact's service",
                    )),
                }
            }
            "GetId" => Ok(self.returns(id, header, &self.guid)),
            "GetConnectionUnixUser" => {
                self.owner(text()?).ok_or(NO_OWNER)?;
                Ok(self.returns(id, header, &self.uid))
            }
            "GetConnectionCredentials" => {
                self.owner(text()?).ok_or(NO_OWNER)?;
                let known = HashMap::from([("UnixUserID", Variant::from(self.uid))]);
                Ok(self.returns(id, header, &known))
            }
            "GetConnectionUnixProcessID" => {
                self.owner(text()?).ok_or(NO_OWNER)?;
                Err(("UnixProcessIdUnknown", "nobody's process is known here"))
            }
            "RequestName" | "UpdateActivationEnvironment" => Err(NO_NAMES),
            "ReleaseName" => Ok(self.returns(id, header, &NON_EXISTENT)),
            _ => Err(UNKNOWN),
        }
    }

    fn of_properties(
        &self,
        id: ClientId,
        message: &Message,
        header: &Header<'_>,
        member: &str,
    ) -> Result<Vec<Act>, Refusal> {
        let none = || Variant::from(Vec::<&str>::new());
        let body = message.body();
        match member {
            "Get" => match body.deserialize::<(&str, &str)>() {
                Ok((BUS, "Features" | "Interfaces")) => Ok(self.returns(id, header, &none())),
                Ok(_) => Err(("UnknownProperty", "this bus has no such property")),
                Err(_) => Err(ARGUMENTS),
            },
            "GetAll" => match body.deserialize::<&str>() {
                Ok(BUS) => {
                    let all = HashMap::from([("Features", none()), ("Interfaces", none())]);
                    Ok(self.returns(id, header, &all))
                }
                Ok(_) => Ok(self.returns(id, header, &HashMap::<&str, Variant<'_>>::new())),
                Err(_) => Err(ARGUMENTS),
            },
            "Set" => Err(("PropertyReadOnly", "no property of this bus can be set")),
            _ => Err(UNKNOWN),
        }
    }

    /// Gives a client its name.
    fn greet(&mut self, id: ClientId, header: &Header<'_>) -> Vec<Act> {
        let Some(client) = self.clients.get_mut(&id) else {
            return vec![];
        };
        client.greeted = true;
        let name = client.name.clone();
        let mut acts = self.returns(id, header, &name);
        acts.extend(self.owner_changed(&name, "", &name));
        let acquired = Message::signal(BUS_PATH, BUS, "NameAcquired")
            .sender(BUS)
            .destination(name.as_str())
            .build(&name);
        acts.extend(acquired.map(|acquired| Act::Client(id, acquired)));
        acts
    }

    /// The unique name of whoever has this name.
    fn owner(&self, name: &str) -> Option<&str> {
        if name == BUS {
            return Some(BUS);
        }
        if name == self.name || name == SERVICE {
            return self.is_there().then_some(SERVICE);
        }
        let mut names = self.clients.values().filter(|client| client.greeted);
        names
            .find(|client| client.name == name)
            .map(|client| client.name.as_str())
    }

    fn names(&self) -> Vec<&str> {
        let clients = self.clients.values().filter(|client| client.greeted);
        let service = [SERVICE, self.name.as_str()];
        [BUS]
            .into_iter()
            .chain(service.into_iter().filter(|_| self.is_there()))
            .chain(clients.map(|client| client.name.as_str()))
            .collect()
    }

    fn returns<B>(&self, id: ClientId, header: &Header<'_>, body: &B) -> Vec<Act>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.say(id, header, Message::method_return(header), body)
    }
}
