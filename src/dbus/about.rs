//! `ConnectionManager.Interface.Pneuma.About1`, our own: which Pneuma this is. `pneuma doctor` compares.

use super::error::{Result, read};

/// The interface.
#[derive(Debug)]
pub struct About;

#[zbus::interface(
    name = "org.freedesktop.Telepathy.ConnectionManager.Interface.Pneuma.About1",
    introspection_docs = false
)]
impl About {
    /// As `telepathy-pneuma --version` says it.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> Result<String> {
        read("Version", || env!("CARGO_PKG_VERSION").to_owned())
    }
}
