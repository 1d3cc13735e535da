//! `pneuma tubes`: what is open, on offer or kept, and what went through it; and the end of one.

use std::{collections::HashMap, time::Duration};

use actors::runtime::Time;
use serde_json::{Value, json};

use super::{
    app::{App, can_ask},
    failure::{Code, Failure, Outcome},
    offer::kept_id,
    select::{Selection, select},
    text::{bytes, safe},
};
use crate::client::{Connection, Contact, KeptTube, Kind, Statistics, Tube, TubeState};

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);

/// One tube at one moment.
enum Row {
    /// It is there, and may be kept.
    There(Box<There>),
    /// It is kept, and not there.
    Waits(KeptTube),
}

/// A channel at one moment.
struct There {
    tube: Tube,
    /// As people write it.
    service: String,
    kept: Option<KeptTube>,
    state: TubeState,
    statistics: Statistics,
    at: Time,
    /// Bytes a second, both ways together, since the last look.
    rate: Option<u64>,
}

impl Row {
    /// What it is called on the command line: `k3` if it is kept, else the number of its channel.
    fn id(&self) -> String {
        match self {
            Row::There(there) => match &there.kept {
                Some(kept) => kept_id(kept.number),
                None => channel_id(&there.tube),
            },
            Row::Waits(kept) => kept_id(kept.number),
        }
    }

    fn contact(&self) -> &str {
        match self {
            Row::There(there) => &there.tube.description().contact_id,
            Row::Waits(kept) => &kept.contact,
        }
    }

    fn service(&self) -> &str {
        match self {
            Row::There(there) => &there.service,
            Row::Waits(kept) => &kept.service,
        }
    }

    fn is_ours(&self) -> bool {
        match self {
            Row::There(there) => there.tube.description().requested,
            Row::Waits(kept) => kept.offered,
        }
    }

    /// Where the service is for local programs: the address that was chosen, where one was.
    fn address(&self) -> &str {
        match self {
            Row::There(there) => match &there.kept {
                Some(kept) => &kept.address,
                None => &there.statistics.address,
            },
            Row::Waits(kept) => &kept.address,
        }
    }

    fn kept(&self) -> Option<&KeptTube> {
        match self {
            Row::There(there) => there.kept.as_ref(),
            Row::Waits(kept) => Some(kept),
        }
    }

    fn there(&self) -> Option<&There> {
        match self {
            Row::There(there) => Some(there),
            Row::Waits(_) => None,
        }
    }

    /// What went through it; nothing while it is not there.
    fn statistics(&self) -> Statistics {
        self.there()
            .map(|there| there.statistics.clone())
            .unwrap_or_default()
    }
}

/// The number at the end of a channel's path; the whole path of one that has none.
fn channel_id(tube: &Tube) -> String {
    let path = tube.path().as_str();
    let digits = path.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    match &path[digits..] {
        "" => path.to_owned(),
        number => number.to_owned(),
    }
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
        show(app, &rows)?;
        remarks(app, &rows);
        return Ok(());
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
    let last: HashMap<&str, &There> = before
        .iter()
        .filter_map(Row::there)
        .map(|there| (there.tube.path().as_str(), there))
        .collect();
    // Before the channels, so that what has just been made is still known to be waited for.
    let mut kept = connection.kept().await?;
    let mut all = Vec::new();
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
            // Closed since it said its state.
            Err(error) if error.kind.is_gone() => continue,
            Err(error) => return Err(error.into()),
        };
        let at = app.clock.now();
        let rate = last
            .get(tube.path().as_str())
            .map(|then| rate(&then.statistics, then.at, &statistics, at));
        all.push(There {
            kept: taken(&mut kept, |kept| is_of(kept, &tube, state)),
            service: tube.description().shown().into_owned(),
            tube,
            state,
            statistics,
            at,
            rate,
        });
    }
    if !kept.is_empty() {
        // One that was not found has opened or closed meanwhile, perhaps, and says so by now.
        let now = connection.kept().await?;
        let still = |one: &KeptTube| now.iter().find(|now| now.number == one.number).cloned();
        kept = kept.iter().filter_map(still).collect();
        for there in all.iter_mut().filter(|there| there.kept.is_none()) {
            let path = there.tube.path();
            there.kept = taken(&mut kept, |kept| kept.channel.as_ref() == Some(path));
        }
    }
    kept.sort_by_key(|kept| kept.number);
    let there = all.into_iter().map(|there| Row::There(Box::new(there)));
    Ok(there.chain(kept.into_iter().map(Row::Waits)).collect())
}

/// Takes the first that fits out of a list.
fn taken(list: &mut Vec<KeptTube>, fits: impl Fn(&KeptTube) -> bool) -> Option<KeptTube> {
    let place = list.iter().position(fits)?;
    Some(list.swap_remove(place))
}

/// Whether a channel is a kept tube's: the one it says, or one that is not open yet and will be what
/// it waits for.
fn is_of(kept: &KeptTube, tube: &Tube, state: TubeState) -> bool {
    if kept.channel.is_some() {
        return kept.channel.as_ref() == Some(tube.path());
    }
    let description = tube.description();
    let coming = match state {
        TubeState::NotOffered | TubeState::RemotePending => description.requested,
        TubeState::LocalPending | TubeState::Open => !description.requested,
        TubeState::Unknown => false,
    };
    coming
        && kept.offered == description.requested
        && kept.service == description.shown()
        && kept.contact == description.contact_id
}

/// Bytes a second between two looks.
fn rate(before: &Statistics, then: Time, after: &Statistics, now: Time) -> u64 {
    let total = |statistics: &Statistics| statistics.sent.saturating_add(statistics.received);
    let passed = now.saturating_sub(then).as_millis().max(1);
    let moved = u128::from(total(after).saturating_sub(total(before)));
    u64::try_from(moved * 1000 / passed).unwrap_or(u64::MAX)
}

fn record(row: &Row) -> Value {
    let there = row.there();
    let statistics = row.statistics();
    json!({
        "id": row.id(),
        "channel": there.map(|there| there.tube.path().as_str()),
        "contact": row.contact(),
        "service": row.service(),
        "offered_by": if row.is_ours() { "you" } else { "contact" },
        "state": there.map_or("waiting", |there| state_word(there.state)),
        "kept": row.kept().is_some(),
        "waiting": match row {
            Row::There(_) => None,
            Row::Waits(kept) => Some(&kept.waiting),
        },
        "connections": statistics.connections,
        "bytes_sent": statistics.sent,
        "bytes_received": statistics.received,
        "bytes_per_second": there.and_then(|there| there.rate),
        "address": row.address(),
        "encrypted": statistics.encrypted,
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
            let there = row.there();
            let statistics = row.statistics();
            let state = there.map_or("waiting", |there| there.state.as_str());
            let rate = there.and_then(|there| there.rate);
            vec![
                row.id(),
                safe(row.contact()),
                safe(row.service()),
                state.to_owned(),
                statistics.connections.to_string(),
                bytes(statistics.sent),
                bytes(statistics.received),
                rate.map_or_else(|| "–".to_owned(), |rate| format!("{}/s", bytes(rate))),
                safe(row.address()),
            ]
        })
        .collect();
    let head = [
        "ID",
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

/// Why what is kept is not there.
fn remarks(app: &App, rows: &[Row]) {
    for row in rows {
        // One whose channel has just been made does not wait any more.
        if let Row::Waits(kept @ KeptTube { channel: None, .. }) = row {
            app.out
                .remark(format!("{} waits: {}.", row.id(), safe(&kept.waiting)));
        }
    }
}

/// Closes one tube, for good where it is kept. Brings the account online for it, since what is kept
/// belongs to it.
///
/// # Errors
/// Code 3 when no tube or several are meant, 4 when somebody uses it and it is not confirmed.
pub async fn close(app: &App, wanted: &str) -> Outcome {
    app.with_connection(async |connection| {
        let rows = read(app, connection, &[]).await?;
        let contacts = connection.contacts().await?;
        let row = meant(wanted, &rows, &contacts)?;
        let (id, contact, service) = (row.id(), safe(row.contact()), safe(row.service()));
        confirm_closing(app, row).await?;
        match row {
            Row::There(there) => match &there.kept {
                Some(kept) => connection.close_kept(kept.number).await?,
                None => there.tube.close().await?,
            },
            Row::Waits(kept) => connection.close_kept(kept.number).await?,
        }
        app.out.record(&json!({
            "closed": id,
            "contact": row.contact(),
            "service": row.service(),
            "kept": row.kept().is_some(),
        }))?;
        app.out
            .line(format!("{service} with {contact} ({id}) is closed."))
    })
    .await
}

/// The tube that an id or CONTACT/SERVICE names. A part of a contact's name selects as everywhere.
fn meant<'a>(wanted: &str, rows: &'a [Row], contacts: &[Contact]) -> Outcome<&'a Row> {
    if let Some(row) = rows.iter().find(|row| row.id() == wanted) {
        return Ok(row);
    }
    let mut found = Vec::new();
    for row in rows {
        let Some(whose) = wanted
            .strip_suffix(row.service())
            .and_then(|rest| rest.strip_suffix('/'))
        else {
            continue;
        };
        let selected = match select(whose, contacts) {
            Selection::Known(contact) | Selection::Stranger(contact) => Some(contact.id.as_str()),
            Selection::Ambiguous(sentence) => {
                return Err(Failure::new(Code::NotFound, "ambiguous", sentence));
            }
            Selection::Nobody(_) => None,
        };
        if selected == Some(row.contact()) || whose == row.contact() {
            found.push(row);
        }
    }
    match found[..] {
        [row] => Ok(row),
        [] => Err(Failure::new(
            Code::NotFound,
            "not-found",
            format!(
                "there is no tube `{}`; `pneuma tubes` lists those that there are, with their ids",
                safe(wanted)
            ),
        )),
        _ => {
            let ids: Vec<String> = found.iter().map(|row| row.id()).collect();
            Err(Failure::new(
                Code::NotFound,
                "ambiguous",
                format!(
                    "`{}` fits several tubes: {}; write the id of the one you mean",
                    safe(wanted),
                    ids.join(", ")
                ),
            ))
        }
    }
}

/// One that somebody uses is closed only if the user says so.
async fn confirm_closing(app: &App, row: &Row) -> Outcome {
    let used = row.statistics().connections;
    if app.global.yes || used == 0 {
        return Ok(());
    }
    let what = format!("{} with {}", safe(row.service()), safe(row.contact()));
    if !can_ask() {
        return Err(Failure::new(
            Code::Refused,
            "not-confirmed",
            format!(
                "{used} connections go through {what} now and there is no terminal to ask whether to cut them; add --yes if you mean it"
            ),
        ));
    }
    if app
        .ask(&format!("Cut {used} connections of {what}?"))
        .await?
    {
        return Ok(());
    }
    Err(Failure::new(
        Code::Refused,
        "not-confirmed",
        format!("{what} is not closed"),
    ))
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
