//! `pneuma contacts`: our user's own contacts, and who else is on the network.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    app::{App, still_online},
    failure::Outcome,
    output::Style,
    text::{safe, safe_short},
};
use crate::client::{Connection, Contact, Event, Show, TrustLevel};

/// How long a list that was asked for once waits for the network after this command brought the
/// account online: peers answer within a second or so.
const LOOK_AROUND: Duration = Duration::from_secs(2);

/// Lists contacts; with `watch`, goes on with each change until Ctrl-C.
///
/// # Errors
/// What keeps the account from getting online.
pub async fn run(app: &App, watch: bool) -> Outcome {
    app.with_connection(async |connection| {
        if watch {
            follow(app, connection).await
        } else {
            look_around(app, connection).await?;
            let contacts = connection.contacts().await?;
            list(app, &contacts)
        }
    })
    .await
}

/// Gives the network a moment to answer when nobody is seen yet.
async fn look_around(app: &App, connection: &Connection) -> Outcome {
    let mut events = connection.events().await?;
    let deadline = app.clock.now().saturating_add(LOOK_AROUND);
    // Until the deadline, whatever happens: the second person to answer counts like the first.
    let nobody_yet = !connection
        .contacts()
        .await?
        .iter()
        .any(|contact| contact.show.is_online());
    if nobody_yet {
        app.before::<()>(Some(deadline), async {
            loop {
                still_online(&events.next().await?)?;
            }
        })
        .await?;
    }
    Ok(())
}

fn list(app: &App, contacts: &[Contact]) -> Outcome {
    if app.out.is_json() {
        return app
            .out
            .record(&contacts.iter().map(record).collect::<Vec<_>>());
    }
    let (own, others): (Vec<_>, Vec<_>) = contacts
        .iter()
        .partition(|contact| contact.trust.is_pinned());
    if own.is_empty() && others.is_empty() {
        return app.out.line(
            "You have no contacts, and nobody is on this network yet. `pneuma contacts --watch` waits.",
        );
    }
    section(app, "Your contacts", &own)?;
    if !own.is_empty() && !others.is_empty() {
        app.out.line("")?;
    }
    section(app, "Others on this network", &others)
}

fn section(app: &App, title: &str, contacts: &[&Contact]) -> Outcome {
    if contacts.is_empty() {
        return Ok(());
    }
    app.out.line(app.out.paint(Style::Strong, title))?;
    let width = contacts
        .iter()
        .map(|contact| safe(&contact.id).chars().count())
        .max()
        .unwrap_or(0);
    for contact in contacts {
        app.out
            .line(format!("  {}", describe(app, contact, width)))?;
    }
    Ok(())
}

/// One line for a contact. Columns first, then what the contact says of itself.
fn describe(app: &App, contact: &Contact, width: usize) -> String {
    let id = safe(&contact.id);
    let pad = " ".repeat(width.saturating_sub(id.chars().count()));
    let show = format!("{:<9}", contact.show.as_str());
    let show = match contact.show {
        Show::Available => app.out.paint(Style::Good, &show),
        Show::Away | Show::Busy => app.out.paint(Style::Warn, &show),
        Show::Offline | Show::Unknown => app.out.paint(Style::Dim, &show),
    };
    let word = format!("{:<8}", trust_word(contact.trust.level));
    let trust = match contact.trust.level {
        TrustLevel::Verified => app.out.paint(Style::Good, &word),
        TrustLevel::Pinned => word,
        TrustLevel::Unpinned => app.out.paint(Style::Dim, &word),
        TrustLevel::NoKey => app.out.paint(Style::Warn, &word),
        TrustLevel::Blocked => app.out.paint(Style::Bad, &word),
    };
    let mut line = format!("{id}{pad}  {show}  {trust}");
    if !contact.alias.is_empty() && contact.alias != contact.id {
        line.push_str(&format!("  “{}”", safe_short(&contact.alias)));
    }
    if !contact.message.is_empty() {
        line.push_str(&format!("  {}", safe_short(&contact.message)));
    }
    line.trim_end().to_owned()
}

/// A word that people understand without a manual.
fn trust_word(level: TrustLevel) -> &'static str {
    match level {
        TrustLevel::NoKey => "no key",
        TrustLevel::Unpinned => "new",
        TrustLevel::Pinned => "known",
        TrustLevel::Verified => "verified",
        TrustLevel::Blocked => "BLOCKED",
    }
}

/// A contact for programs.
fn record(contact: &Contact) -> Value {
    let trust = &contact.trust;
    json!({
        "id": contact.id,
        "alias": contact.alias,
        "presence": contact.show.as_str(),
        "message": contact.message,
        "trust": trust.level.as_str(),
        "fingerprint": trust.fingerprint,
        "pinned_since": trust.pinned_since,
        "verified_since": trust.verified_since,
        "pinned_fingerprint": trust.pinned_fingerprint,
        "tubes": contact.tubes,
        "services": contact.services,
    })
}

/// Shows the list, then each change.
async fn follow(app: &App, connection: &Connection) -> Outcome {
    let mut events = connection.events().await?;
    let mut shown: BTreeMap<u32, Contact> = BTreeMap::new();
    loop {
        let now: BTreeMap<u32, Contact> = connection
            .contacts()
            .await?
            .into_iter()
            .map(|contact| (contact.handle, contact))
            .collect();
        for contact in now.values() {
            let before = shown.get(&contact.handle);
            if before == Some(contact) {
                continue;
            }
            let what = if before.is_none() {
                "appeared"
            } else {
                "changed"
            };
            if app.out.is_json() {
                app.out
                    .record(&json!({ "event": what, "contact": record(contact) }))?;
            } else {
                let sign = if before.is_none() { "+" } else { "~" };
                app.out
                    .line(format!("{sign} {}", describe(app, contact, 0)))?;
            }
        }
        for contact in shown.values().filter(|c| !now.contains_key(&c.handle)) {
            app.out
                .record(&json!({ "event": "disappeared", "id": contact.id }))?;
            app.out.line(format!("- {}", safe(&contact.id)))?;
        }
        shown = now;
        let changed = app
            .before(None, async {
                loop {
                    let event = events.next().await?;
                    still_online(&event)?;
                    if event == Event::Contacts {
                        return Ok(());
                    }
                }
            })
            .await;
        match changed {
            // Ctrl-C is how watching ends.
            Err(super::failure::Failure::Interrupted) => return Ok(()),
            outcome => outcome?,
        };
    }
}
