//! `pneuma log-level`: how much the connection manager says while it works.

use serde_json::json;

use super::{app::App, failure::Outcome, text::safe};
use crate::client;

/// Shows the levels, or changes them until the connection manager ends.
///
/// # Errors
/// Code 6 when it does not run, and when `wanted` are no levels.
pub async fn run(app: &App, wanted: Option<&str>) -> Outcome {
    let bus = app.bus().await?.ok_or_else(client::not_running)?;
    if let Some(wanted) = wanted {
        client::set_levels(&bus, wanted).await?;
    }
    let levels = client::levels(&bus).await?;
    app.out.record(&json!({ "levels": levels }))?;
    app.out.line(safe(&levels))
}
