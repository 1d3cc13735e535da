//! Notices that nobody keeps a connection online any more. The command line's programs queue for a
//! name that belongs to the connection ([`LEASE_PREFIX`]); the last of them that ends in order takes
//! the connection offline itself, and one that is killed cannot. A connection whose name nobody ever
//! had (Mission Control's, one of `--detach`) stays.

use actors::model::{Error, Result};
use futures_lite::StreamExt as _;

use crate::names::{CONNECTION_PREFIX, LEASE_PREFIX};

/// Starts watching. The future that comes back completes when the last of those who keep this
/// connection online has gone: never, where there was none, or when the bus is gone.
///
/// # Errors
/// `NotAvailable` when the bus does not answer.
pub(super) async fn watch(
    bus: &zbus::Connection,
    connection: &str,
) -> Result<impl Future<Output = ()> + Send + 'static + use<>> {
    let fails =
        |error: zbus::Error| Error::NotAvailable(format!("the bus does not answer: {error}"));
    let account = connection
        .strip_prefix(CONNECTION_PREFIX)
        .unwrap_or("account");
    let name = format!("{LEASE_PREFIX}{account}");
    let bus = zbus::fdo::DBusProxy::new(bus).await.map_err(fails)?;
    let mut unowned = bus
        .receive_name_owner_changed_with_args(&[(0, name.as_str()), (2, "")])
        .await
        .map_err(fails)?;
    Ok(async move {
        if unowned.next().await.is_none() {
            // The service has noticed too, and ends.
            std::future::pending().await
        }
    })
}
