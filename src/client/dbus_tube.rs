//! What only a D-Bus tube does: it is offered with parameters, and each side gets an address at which one of
//! its programs speaks D-Bus with one of the contact's.
//!
//! ```text
//!   we offer                              the contact offers
//!   create_tube() ─ offer_dbus() ┐        Event::NewTubes ─ parameters() ─ accept_dbus() ┐
//!                                ▼                                                       ▼
//!                             address ── opened() ── peer() ══════ its application ══ address
//! ```
//!
//! A service of the session bus is shared over such a tube by [`sharing`](super::sharing).

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant, connection::Builder};

use super::{
    error::{Error, Kind, Result},
    event::{Event, Events},
    tube::{Tube, TubeState},
};
use crate::{names, runtime::OurRuntime};

/// `Socket_Access_Control` Credentials: this user's programs, by what the kernel says.
const CREDENTIALS: u32 = 3;

impl Tube {
    /// `Channel.Type.DBusTube.Offer`: offers the D-Bus tube to the contact, which sees `parameters` before it
    /// accepts. Gives the D-Bus address for our end of it, where this user's programs are let in, one at a
    /// time; what it says before the tube is open waits.
    ///
    /// A parameter is a text, bytes, an `i32`, a `u32` or a `bool`. There may be
    /// [`MAX_PARAMETERS`](actors::model::MAX_PARAMETERS) of them, which have
    /// [`MAX_PARAMETER_BYTES`](actors::model::MAX_PARAMETER_BYTES) together.
    ///
    /// # Errors
    /// What the service answers: `InvalidArgument` for parameters that are too many, too large or of another
    /// type; `NotAvailable` for a tube that is offered already, or by the contact; `NotCapable`, `Offline`,
    /// `PermissionDenied` and `FingerprintMismatch` among the others. The tube is still there then.
    pub async fn offer_dbus(&self, parameters: &HashMap<&str, Variant<'_>>) -> Result<String> {
        self.remote
            .call(names::DBUS_TUBE, "Offer", &(parameters, CREDENTIALS))
            .await
    }

    /// `Channel.Type.DBusTube.Accept`: accepts the D-Bus tube the contact offers; gives the D-Bus address for
    /// our end of it, which is as that of [`Tube::offer_dbus`].
    ///
    /// # Errors
    /// What the service answers: `NotAvailable` for a tube that is accepted already, or ours;
    /// `PermissionDenied` by the rules among the others.
    pub async fn accept_dbus(&self) -> Result<String> {
        self.remote
            .call(names::DBUS_TUBE, "Accept", &CREDENTIALS)
            .await
    }

    /// `Channel.Interface.Tube.Parameters`: what the tube was offered with; none before that. The type of a
    /// number is what the way to here made of it: other programs send each as an `i32` or a `u32`.
    ///
    /// # Errors
    /// What the service answers, and [`Kind::BadAnswer`].
    pub async fn parameters(&self) -> Result<HashMap<String, OwnedVariant>> {
        let value: OwnedVariant = self
            .remote
            .call(
                "org.freedesktop.DBus.Properties",
                "Get",
                &(names::TUBE, "Parameters"),
            )
            .await?;
        HashMap::try_from(value).map_err(|_| {
            Error::new(
                Kind::BadAnswer,
                "the parameters of the tube cannot be understood",
            )
        })
    }

    /// Waits until the tube is open. `events` are the connection's, from before it was offered or accepted.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] when it is closed instead, and when the connection ends.
    pub async fn opened(&self, events: &mut Events) -> Result<()> {
        loop {
            let event = events.next().await?;
            event.still_online()?;
            match event {
                Event::TubeState {
                    channel,
                    state: TubeState::Open,
                } if channel == *self.path() => return Ok(()),
                Event::Closed(channel) if channel == *self.path() => {
                    return Err(Error::new(Kind::Cancelled, "the tube was closed"));
                }
                _ => {}
            }
        }
    }

    /// A D-Bus connection of two with the contact's application, to be built at the address for our end of
    /// the tube: the caller has it serve his objects first, if he has any. It runs on the executor of the
    /// [`Bus`](super::Bus). Nobody has a name on it: calls and signals have no destination. The tube stays
    /// when it ends, and another may be built.
    ///
    /// This is a convenience: whatever speaks D-Bus, in any language, can be given the address. Messages may
    /// be as large as D-Bus has them, so who does not trust the contact bounds what he takes.
    ///
    /// # Errors
    /// None here, but of [`Builder::build`](zbus::connection::Builder::build): for an address that cannot be understood, and
    /// when nobody answers there. While another application is at this end, it waits.
    pub fn peer<'a>(&self, address: &str) -> Builder<'a> {
        Builder::address(address)
            .p2p()
            .runtime(OurRuntime::new(self.remote.bus().spawner().clone()))
    }
}
