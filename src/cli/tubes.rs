//! `pneuma tubes`: what is open or on offer, and what went through it.

use std::{collections::HashMap, time::Duration};

use actors::runtime::Time;
use serde_json::{Value, json};

use super::{
    app::App,
    failure::{Failure, Outcome},
    text::{bytes, safe},
};
use crate::client::{Connection, Kind, Statistics, Tube, TubeState};

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);

/// One tube at one moment.
struct Row {
    tube: Tube,
    state: TubeState,
    statistics: Statistics,
    at: Time,
    /// Bytes a second, both ways together, since the last look.
    rate: Option<u64>,
}

/// Lists tubes; with `watch`, every second until Ctrl-C. Does not bring the account online: an
/// account that is offline has no tubes.
///
/// # Errors
/// Code 6 when the bus or the connection manager does not answer.
pub async fn run(app: &App, watch: bool) -> Outcome {
    let connection = match app.bus().await? {
        Some(bus) => Connection::of_profile(&bus, app.account.profile()).await?,
        None => None,
    };
    let Some(connection) = connection else {
        app.out.record(&Value::Array(vec![]))?;
        return app
            .out
            .line("The account is not online; there are no tubes.");
    };
    if !watch {
        let rows = read(app, &connection, &[]).await?;
        app.out
            .record(&rows.iter().map(record).collect::<Vec<_>>())?;
        return show(app, &rows);
    }
    let mut before = Vec::new();
    loop {
        let rows = read(app, &connection, &before).await?;
        app.out
            .record(&rows.iter().map(record).collect::<Vec<_>>())?;
        show(app, &rows)?;
        before = rows;
        let pause = app
            .interruptible(async {
                app.clock.sleep(EVERY).await;
                Ok(())
            })
            .await;
        match pause {
            // Ctrl-C is how watching ends.
            Err(Failure::Interrupted) => return Ok(()),
            outcome => outcome?,
        }
        app.out.line("")?;
    }
}

async fn read(app: &App, connection: &Connection, before: &[Row]) -> Outcome<Vec<Row>> {
    let last: HashMap<&str, &Row> = before
        .iter()
        .map(|row| (row.tube.path().as_str(), row))
        .collect();
    let mut rows = Vec::new();
    for tube in connection.tubes().await? {
        let state = match tube.state().await {
            Ok(state) => state,
            // Closed since it was listed.
            Err(error) if error.kind.is_gone() => continue,
            Err(error) => return Err(error.into()),
        };
        let statistics = match tube.statistics().await {
            Ok(statistics) => statistics,
            // A service that does not count.
            Err(error) if matches!(error.kind, Kind::NotAvailable | Kind::NotImplemented) => {
                Statistics::default()
            }
            Err(error) => return Err(error.into()),
        };
        let at = app.clock.now();
        let rate = last
            .get(tube.path().as_str())
            .map(|row| rate(&row.statistics, row.at, &statistics, at));
        rows.push(Row {
            tube,
            state,
            statistics,
            at,
            rate,
        });
    }
    Ok(rows)
}

/// Bytes a second between two looks.
fn rate(before: &Statistics, then: Time, after: &Statistics, now: Time) -> u64 {
    let total = |statistics: &Statistics| statistics.sent.saturating_add(statistics.received);
    let passed = now.saturating_sub(then).as_millis().max(1);
    let moved = u128::from(total(after).saturating_sub(total(before)));
    u64::try_from(moved * 1000 / passed).unwrap_or(u64::MAX)
}

fn record(row: &Row) -> Value {
    let tube = row.tube.description();
    json!({
        "channel": tube.path.as_str(),
        "contact": tube.contact_id,
        "service": tube.service,
        "offered_by": if tube.requested { "you" } else { "contact" },
        "state": state_word(row.state),
        "connections": row.statistics.connections,
        "bytes_sent": row.statistics.sent,
        "bytes_received": row.statistics.received,
        "bytes_per_second": row.rate,
        "address": row.statistics.address,
        "encrypted": row.statistics.encrypted,
    })
}

/// A word for programs.
fn state_word(state: TubeState) -> &'static str {
    match state {
        TubeState::RemotePending => "remote-pending",
        TubeState::LocalPending => "local-pending",
        TubeState::Open => "open",
        TubeState::NotOffered => "not-offered",
        TubeState::Unknown => "unknown",
    }
}

fn show(app: &App, rows: &[Row]) -> Outcome {
    if rows.is_empty() {
        return app.out.line("There are no tubes.");
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let tube = row.tube.description();
            vec![
                safe(&tube.contact_id),
                safe(&tube.service),
                row.state.as_str().to_owned(),
                row.statistics.connections.to_string(),
                bytes(row.statistics.sent),
                bytes(row.statistics.received),
                row.rate
                    .map_or_else(|| "–".to_owned(), |rate| format!("{}/s", bytes(rate))),
                safe(&row.statistics.address),
            ]
        })
        .collect();
    let head = [
        "CONTACT",
        "SERVICE",
        "STATE",
        "CONNECTIONS",
        "SENT",
        "RECEIVED",
        "RATE",
        "AT",
    ];
    app.out.table(&head, &cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_and_never_negative() {
        let at = |sent, received| Statistics {
            sent,
            received,
            ..Statistics::default()
        };
        let second = Duration::from_secs(1);
        assert_eq!(rate(&at(0, 0), second, &at(100, 50), second * 2), 150);
        assert_eq!(rate(&at(0, 0), second, &at(100, 0), second * 3), 50);
        assert_eq!(rate(&at(100, 0), second, &at(50, 0), second * 2), 0);
        assert_eq!(rate(&at(0, 0), second, &at(7, 0), second), 7000);
        let all = at(u64::MAX, u64::MAX);
        assert_eq!(rate(&at(0, 0), second, &all, second * 2), u64::MAX);
    }
}
