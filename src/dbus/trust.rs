//! `Connection.Interface.Pneuma.Trust1`, our own: what a person needs to judge a contact, and what
//! the person concluded.

use actors::model::ContactHandle;
use zbus::object_server::SignalEmitter;

use super::{
    attributes,
    error::{Result, answered, read},
    held::Ordered,
    values::Map,
};
use crate::connection::ConnectionHandle;

/// The interface.
#[derive(Debug)]
pub struct Trust {
    connection: ConnectionHandle,
}

impl Trust {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle) -> Self {
        Trust { connection }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Trust1",
    introspection_docs = false
)]
impl Trust {
    /// Our own key's SHA-256, 64 hexadecimal digits.
    #[zbus(property(emits_changed_signal = "const"))]
    fn own_fingerprint(&self) -> Result<String> {
        read("OwnFingerprint", || self.connection.own_fingerprint())
    }

    /// The profile whose key and contacts these are: what tells a client which connection is the one
    /// it would have asked for.
    #[zbus(property(emits_changed_signal = "const"))]
    fn profile(&self) -> Result<String> {
        read("Profile", || self.connection.profile.as_ref().to_owned())
    }

    /// Whether nobody at all is spoken to without encryption; contacts that are pinned never are.
    #[zbus(property(emits_changed_signal = "const"))]
    fn encryption_required(&self) -> Result<bool> {
        read("EncryptionRequired", || {
            self.connection.account.require_encryption
        })
    }

    /// `trust` (s: no-key, unpinned, pinned, verified, blocked), `fingerprint` (s), `pinned-since`
    /// and `verified-since` (x: seconds since 1970), `pinned-fingerprint` (s, when blocked); each
    /// where there is one.
    #[zbus(out_args("Trust"))]
    async fn get_trust(&self, contact: u32) -> Result<Ordered<Map>> {
        answered("GetTrust", async move {
            let order = self.connection.order().read_arc().await;
            let view = self.connection.view.get();
            view.connected()?;
            let trust = attributes::trust(view.contacts.get(ContactHandle(contact))?);
            Ok(Ordered::new(trust, order))
        })
        .await
    }

    #[zbus(out_args("Code"))]
    async fn get_comparison_code(&self, contact: u32) -> Result<String> {
        answered("GetComparisonCode", async move {
            self.connection.comparison_code(contact)
        })
        .await
    }

    /// What Offer and Accept do by themselves, with the key that the person was shown: no other one
    /// is pinned, whatever the contact announces by then.
    async fn pin(&self, contact: u32, fingerprint: String) -> Result<()> {
        answered("Pin", async move {
            self.connection.pin(contact, &fingerprint).await
        })
        .await
    }

    async fn verify(&self, contact: u32, code: String, replace: bool) -> Result<()> {
        answered("Verify", async move {
            self.connection.verify(contact, &code, replace).await
        })
        .await
    }

    async fn forget(&self, contact: u32) -> Result<()> {
        answered(
            "Forget",
            async move { self.connection.forget(contact).await },
        )
        .await
    }

    #[zbus(signal)]
    pub(super) async fn trust_changed(
        emitter: &SignalEmitter<'_>,
        contact: u32,
        trust: Map,
    ) -> zbus::Result<()>;
}
