//! D-Bus tubes by D-Bus, and applications at their ends.

use std::collections::HashMap;

use futures_lite::future::block_on;
use zbus::Variant;

use crate::{Access, CallError, PATIENCE, Person, name, tube::tube_request};

/// What a request for a D-Bus tube says.
pub fn dbus_tube_request(contact: u32, service: &str) -> HashMap<String, Variant<'_>> {
    tube_request(name::DBUS_TUBE, "ServiceName", contact, service)
}

impl Person {
    /// Requests a D-Bus tube to a contact; not offered yet. Gives its object path.
    ///
    /// # Errors
    /// What CreateChannel answers.
    ///
    /// # Panics
    /// When the answer is not what the specification says.
    pub fn create_dbus_tube(&self, contact: u32, service: &str) -> Result<String, CallError> {
        self.create_channel(&dbus_tube_request(contact, service))
    }

    /// Offers a D-Bus tube. Gives the address where our application connects.
    ///
    /// # Errors
    /// What Offer answers.
    ///
    /// # Panics
    /// When the answer is no address.
    pub fn offer_dbus(
        &self,
        tube: &str,
        access: Access,
        parameters: HashMap<&str, Variant<'_>>,
    ) -> Result<String, CallError> {
        let body = (parameters, access as u32);
        let answer = self.on_object(tube, name::DBUS_TUBE, "Offer", &body)?;
        Ok(answer.body().deserialize().expect("an address"))
    }

    /// Accepts a D-Bus tube. Gives the address where our application connects.
    ///
    /// # Errors
    /// What Accept answers.
    ///
    /// # Panics
    /// When the answer is no address.
    pub fn accept_dbus(&self, tube: &str, access: Access) -> Result<String, CallError> {
        let answer = self.on_object(tube, name::DBUS_TUBE, "Accept", &(access as u32))?;
        Ok(answer.body().deserialize().expect("an address"))
    }

    /// Waits until a D-Bus tube for `service` is offered to us. Gives its object path.
    ///
    /// # Panics
    /// When none is.
    pub fn offered_dbus(&self, service: &str) -> String {
        self.offered_as(&format!("{}.ServiceName", name::DBUS_TUBE), service)
    }

    /// Waits until a tube is in this state, which it tells.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn tube_becomes(&self, tube: &str, state: crate::TubeState) {
        self.wait_for(&format!("{state:?} of {tube}"), |event| {
            let this = event.path == tube && event.member == "TubeChannelStateChanged";
            let now: u32 = this.then(|| event.arguments())??;
            (now == state as u32).then_some(())
        });
    }

    /// An open D-Bus tube from `self` to `other`, with Credentials. Gives both object paths and both
    /// addresses.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn dbus_tube_to(&self, other: &Person, service: &str) -> [(String, String); 2] {
        let contact = self.sees(other);
        let ours = self
            .create_dbus_tube(contact.handle, service)
            .unwrap_or_else(|error| self.fail(&format!("CreateChannel: {error}")));
        let here = self
            .offer_dbus(&ours, Access::Credentials, HashMap::new())
            .unwrap_or_else(|error| self.fail(&format!("Offer: {error}")));
        let theirs = other.offered_dbus(service);
        let there = other
            .accept_dbus(&theirs, Access::Credentials)
            .unwrap_or_else(|error| other.fail(&format!("Accept: {error}")));
        for (person, tube) in [(self, &ours), (other, &theirs)] {
            person.tube_becomes(tube, crate::TubeState::Open);
        }
        [(ours, here), (theirs, there)]
    }
}

/// An application's end of a D-Bus tube: a peer-to-peer connection to this address, on which it has
/// this object.
///
/// # Errors
/// When it is not let in.
pub fn application(
    address: &str,
    path: &str,
    object: impl zbus::object_server::Interface,
) -> zbus::Result<zbus::Connection> {
    block_on(
        zbus::connection::Builder::address(address)
            .p2p()
            .method_timeout(PATIENCE)
            .serve_at(path, object)
            .build(),
    )
}
