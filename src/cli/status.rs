//! `pneuma status` and `pneuma disconnect`: what there is, without changing it; and its end.

use serde_json::json;

use super::{
    app::App,
    failure::Outcome,
    output::Style,
    text::{fingerprint, safe, table},
};
use crate::client::{self, Bus, Connection, ManagedAccount, Status};

/// One connection, as shown.
struct Row {
    profile: String,
    /// Mission Control's object path of the account, where that manages it.
    account: Option<String>,
    status: Status,
    id: String,
    fingerprint: String,
    responder: String,
    contacts: usize,
    present: usize,
    tubes: usize,
}

/// Shows whether the connection manager runs and what is online. Starts nothing.
///
/// # Errors
/// Code 6 when the bus or the connection manager does not answer.
pub async fn run(app: &App) -> Outcome {
    let mut running = false;
    let mut rows: Vec<Row> = Vec::new();
    for bus in Bus::all(app.spawner.clone(), app.clock.clone()).await? {
        running |= client::is_running(&bus).await?;
        for connection in Connection::all(&bus).await? {
            match read(&bus, &connection).await {
                // One service may be both on the bus and at its own socket.
                Ok(row) if rows.iter().any(|other| other.profile == row.profile) => {}
                Ok(row) => rows.push(row),
                // It has ended since it was listed.
                Err(error) if error.kind.is_gone() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    if let Some(profile) = &app.account.profile {
        rows.retain(|row| row.profile == *profile);
    }
    app.out.record(&json!({
        "running": running,
        "accounts": rows.iter().map(record).collect::<Vec<_>>(),
    }))?;
    if !running {
        app.out.line(
            "The connection manager does not run. It starts with the first command that needs it.",
        )?;
    } else if rows.is_empty() {
        app.out
            .line("The connection manager runs. No account is online.")?;
    }
    for row in rows {
        let style = match row.status {
            Status::Connected => Style::Good,
            Status::Connecting => Style::Warn,
            Status::Disconnected => Style::Dim,
        };
        let mut lines = vec![vec![
            "Status".to_owned(),
            app.out.paint(style, row.status.as_str()),
        ]];
        lines.push(vec!["Profile".to_owned(), safe(&row.profile)]);
        if row.account.is_some() {
            lines.push(vec!["Managed by".to_owned(), "Mission Control".to_owned()]);
        }
        if row.status == Status::Connected {
            lines.push(vec!["Id".to_owned(), safe(&row.id)]);
            lines.push(vec!["Key".to_owned(), fingerprint(&row.fingerprint)]);
            let found_by = match row.responder.as_str() {
                "avahi" => "by the Avahi daemon of this machine",
                "built-in" => "built in",
                other => other,
            };
            lines.push(vec!["Discovery".to_owned(), safe(found_by)]);
            lines.push(vec![
                "Contacts".to_owned(),
                format!("{}, {} on the network", row.contacts, row.present),
            ]);
            lines.push(vec!["Tubes".to_owned(), row.tubes.to_string()]);
        }
        // The head would only repeat what stands below it.
        for line in table(&["", ""], &lines).iter().skip(1) {
            app.out.line(line)?;
        }
    }
    Ok(())
}

async fn read(bus: &Bus, connection: &Connection) -> client::Result<Row> {
    let status = connection.status().await?;
    let profile = connection.profile().await?;
    let account = managing(bus, &profile, Some(connection)).await?;
    let mut row = Row {
        profile,
        account: account.map(|account| account.path().to_string()),
        status,
        id: String::new(),
        fingerprint: String::new(),
        responder: String::new(),
        contacts: 0,
        present: 0,
        tubes: 0,
    };
    if status == Status::Connected {
        let contacts = connection.contacts().await?;
        row.id = connection.self_id().await?;
        row.fingerprint = connection.own_fingerprint().await?;
        row.responder = connection.responder().await?;
        row.contacts = contacts.iter().filter(|c| c.trust.is_pinned()).count();
        row.present = contacts.iter().filter(|c| c.show.is_online()).count();
        row.tubes = connection.tubes().await?.len();
    }
    Ok(row)
}

/// The account that has this connection, if Mission Control runs and manages it.
async fn managing(
    bus: &Bus,
    profile: &str,
    connection: Option<&Connection>,
) -> client::Result<Option<ManagedAccount>> {
    match ManagedAccount::of_profile(bus, profile, false).await? {
        Some(account) if account.has(connection).await? => Ok(Some(account)),
        _ => Ok(None),
    }
}

fn record(row: &Row) -> serde_json::Value {
    json!({
        "profile": row.profile,
        "account": row.account,
        "status": row.status.as_str(),
        "id": row.id,
        "fingerprint": row.fingerprint,
        "discovery": row.responder,
        "contacts": row.contacts,
        "present": row.present,
        "tubes": row.tubes,
    })
}

/// Takes the profile's account offline, whoever brought it online.
///
/// # Errors
/// Code 6 when the bus or the connection manager does not answer.
pub async fn disconnect(app: &App) -> Outcome {
    let profile = app.account.profile();
    let mut found = false;
    if let Some(bus) = app.bus().await? {
        let connection = Connection::of_profile(&bus, profile).await?;
        found = connection.is_some();
        match managing(&bus, profile, connection.as_ref()).await? {
            // It would bring the account online again if only the connection ended.
            Some(account) => account.go_offline().await?,
            None => {
                if let Some(connection) = &connection {
                    connection.disconnect().await?;
                }
            }
        }
    }
    app.out
        .record(&json!({ "profile": profile, "disconnected": found }))?;
    app.out.line(if found {
        "Offline."
    } else {
        "The account is not online."
    })
}
