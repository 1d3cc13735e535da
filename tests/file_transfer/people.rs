//! Two people who send each other files, by D-Bus.

use std::collections::HashMap;

use support::{Access, Address, CallError, Caller, Person, PortForm, World, name, service};
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

/// `Socket_Address_Type` and `Socket_Access_Control`: what there is, and nothing else.
pub const WAYS: [(u32, Access); 8] = [
    (0, Access::Localhost),
    (0, Access::Credentials),
    (1, Access::Localhost),
    (1, Access::Credentials),
    (2, Access::Localhost),
    (2, Access::Port),
    (3, Access::Localhost),
    (3, Access::Port),
];

/// A Unix socket, for whom it makes no difference.
pub const UNIX: (u32, Access) = (0, Access::Localhost);

/// `File_Transfer_State` with `File_Transfer_State_Change_Reason`, as the signal has them.
pub type State = (u32, u32);

pub const ACCEPTED: State = (2, 0);
pub const OPEN: State = (3, 0);
pub const COMPLETED: State = (4, 0);
/// Cancelled, and why.
pub const LOCAL_STOPPED: State = (5, 2);
pub const REMOTE_STOPPED: State = (5, 3);
pub const LOCAL_ERROR: State = (5, 4);
pub const REMOTE_ERROR: State = (5, 5);

/// Two people who are online, see each other and take files.
pub fn alice_and_bob() -> (Person, Person) {
    let world = World::new();
    let alice = Person::online(&world, "alice", service!());
    let bob = Person::online(&world, "bob", service!());
    for person in [&alice, &bob] {
        let filter = HashMap::from([(
            format!("{}.ChannelType", name::CHANNEL),
            Variant::from(name::FILE_TRANSFER),
        )]);
        let client = ("org.example.Files", vec![filter], Vec::<String>::new());
        person
            .on_connection(
                name::CONTACT_CAPABILITIES,
                "UpdateCapabilities",
                &(vec![client],),
            )
            .unwrap_or_else(|error| person.fail(&format!("UpdateCapabilities: {error}")));
    }
    alice.sees(&bob);
    bob.sees(&alice);
    (alice, bob)
}

/// One end of a transfer.
pub struct End<'p> {
    pub person: &'p Person,
    pub path: String,
}

/// A file of this name and size from one to the other, who has been offered it. `more` is said of it, by
/// the properties' short names.
pub fn offer<'p>(
    from: &'p Person,
    to: &'p Person,
    name: &str,
    size: u64,
    more: &[(&str, Variant<'static>)],
) -> (End<'p>, End<'p>) {
    let contact = from.sees(to).handle;
    let channel = |property: &str| format!("{}.{property}", name::CHANNEL);
    let file = |property: &str| format!("{}.{property}", name::FILE_TRANSFER);
    let mut request = HashMap::from([
        (channel("ChannelType"), Variant::from(name::FILE_TRANSFER)),
        (channel("TargetHandleType"), Variant::from(1u32)),
        (channel("TargetHandle"), Variant::from(contact)),
        (file("ContentType"), Variant::from("text/plain")),
        (file("Filename"), Variant::new(name.to_owned())),
        (file("Size"), Variant::from(size)),
    ]);
    for (property, value) in more {
        let full = match *property {
            "ID" => format!("{}.ID", name::TRANSFER),
            property => file(property),
        };
        request.insert(full, value.clone());
    }
    // The contact takes a moment to say that it takes files.
    let path = from.until("the contact takes files", || {
        match from.on_connection(name::REQUESTS, "CreateChannel", &(&request,)) {
            Ok(answer) => {
                let made: (OwnedObjectPath, HashMap<String, OwnedVariant>) = answer
                    .body()
                    .deserialize()
                    .expect("an object path and properties");
                Some(made.0.to_string())
            }
            Err(error) if error.short() == "NotCapable" => None,
            Err(error) => from.fail(&format!("CreateChannel: {error}")),
        }
    });
    type Channels = Vec<(OwnedObjectPath, HashMap<String, OwnedVariant>)>;
    let theirs = to.wait_for(&format!("NewChannels with {name}"), |event| {
        if event.member != "NewChannels" {
            return None;
        }
        let channels: Channels = event.arguments()?;
        channels.into_iter().find_map(|(path, properties)| {
            let called: String = properties.get(&file("Filename"))?.downcast_ref().ok()?;
            (called == name).then(|| path.to_string())
        })
    });
    let end = |person, path| End { person, path };
    (end(from, path), end(to, theirs))
}

impl End<'_> {
    /// Waits for the next state.
    pub fn state(&self) -> State {
        self.person
            .wait_for(&format!("a state of {}", self.path), |event| {
                let this = event.member == "FileTransferStateChanged" && event.path == self.path;
                this.then(|| event.arguments::<State>())?
            })
    }

    /// A property of `FileTransfer`.
    pub fn property<T>(&self, property: &str) -> T
    where
        T: TryFrom<OwnedVariant>,
        T::Error: std::fmt::Debug,
    {
        let value = self
            .person
            .property(&self.path, name::FILE_TRANSFER, property)
            .unwrap_or_else(|error| self.person.fail(&format!("{property}: {error}")));
        value.try_into().expect("a value of its type")
    }

    fn address(
        &self,
        kind: u32,
        answer: Result<zbus::Message, CallError>,
    ) -> Result<Address, CallError> {
        let value: OwnedVariant = answer?.body().deserialize().expect("a variant");
        Ok(Address::from_variant(kind, value).expect("an address of the type that was asked for"))
    }

    /// `ProvideFile`, by a caller that is about to connect.
    pub fn provide(&self, way: (u32, Access), form: PortForm) -> (Address, Caller) {
        let caller = Caller::new(way.0, way.1);
        let body = (way.0, way.1 as u32, caller.parameter(form));
        let answer = self
            .person
            .on_object(&self.path, name::FILE_TRANSFER, "ProvideFile", &body);
        let door = self
            .address(way.0, answer)
            .unwrap_or_else(|error| self.person.fail(&format!("ProvideFile {way:?}: {error}")));
        (door, caller)
    }

    /// `AcceptFile`, the same way.
    pub fn accept(&self, way: (u32, Access), form: PortForm, offset: u64) -> (Address, Caller) {
        let caller = Caller::new(way.0, way.1);
        let body = (way.0, way.1 as u32, caller.parameter(form), offset);
        let answer = self
            .person
            .on_object(&self.path, name::FILE_TRANSFER, "AcceptFile", &body);
        let door = self
            .address(way.0, answer)
            .unwrap_or_else(|error| self.person.fail(&format!("AcceptFile {way:?}: {error}")));
        (door, caller)
    }

    /// `Channel.Close`.
    pub fn close(&self) {
        self.person
            .close(&self.path)
            .unwrap_or_else(|error| self.person.fail(&format!("Close: {error}")));
    }
}
