//! Well-known names on the bus: the manager has one for as long as it serves, each connection one
//! of its own.

use actors::model::{Error, Result};
use zbus::fdo::{RequestNameFlags, RequestNameReply};

/// Owns a name, at once and alone.
///
/// # Errors
/// `NotAvailable` when it belongs to somebody else.
pub(super) async fn own(bus: &zbus::Connection, name: &str) -> Result<()> {
    let taken = || Error::NotAvailable(format!("the name {name} belongs to another program"));
    match bus
        .request_name_with_flags(name, RequestNameFlags::DO_NOT_QUEUE)
        .await
    {
        Ok(RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner) => Ok(()),
        Ok(_) | Err(zbus::Error::NameTaken) => Err(taken()),
        Err(error) => Err(Error::NetworkError(format!(
            "the bus does not give out the name {name}: {error}"
        ))),
    }
}
