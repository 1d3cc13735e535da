//! How much the service says while it works.

use zbus::Variant;

use super::{
    bus::{Bus, Remote, path},
    error::{Error, Kind, Result},
    launch::is_running,
};
use crate::names;

/// The levels as they are, in the form that [`set_levels`] takes.
///
/// # Errors
/// [`Kind::NoService`] when the service does not run, and what it answers.
pub async fn levels(bus: &Bus) -> Result<String> {
    log(bus).await?.get(names::DEBUG_LEVELS, "Levels").await
}

/// Changes the levels until the service ends: `info`, or `warn,pneuma::session=debug`.
///
/// # Errors
/// [`Kind::InvalidArgument`] for what are no levels, and as [`levels`].
pub async fn set_levels(bus: &Bus, levels: &str) -> Result<()> {
    log(bus)
        .await?
        .call(
            "org.freedesktop.DBus.Properties",
            "Set",
            &(names::DEBUG_LEVELS, "Levels", Variant::from(levels)),
        )
        .await
}

/// A bus would start a service that says nothing yet.
async fn log(bus: &Bus) -> Result<Remote> {
    if !is_running(bus).await? {
        return Err(not_running());
    }
    Ok(bus.remote(names::MANAGER_BUS_NAME, path(names::DEBUG_PATH)?))
}

/// It has nothing to say.
pub fn not_running() -> Error {
    Error::new(Kind::NoService, "the connection manager does not run")
}
