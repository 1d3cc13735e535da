//! `pneuma verify` and `pneuma forget`: whose key is whose, as our user says.

use serde_json::json;

use super::{
    app::{App, Confirm, Need, can_ask},
    failure::{Code, Failure, Outcome},
    output::Style,
    text::{fingerprint, moment, safe},
};
use crate::client::{Connection, Contact, Trust, TrustLevel};

/// Compares codes and, when they are the same, has the contact's key trusted.
///
/// # Errors
/// Code 4 when they are not, or nobody is there to say so.
pub async fn run(app: &App, wanted: &str, code: Option<&str>, replace: bool) -> Outcome {
    app.with_connection(async |connection| {
        // Comparing codes is the confirmation, so a stranger needs no other.
        let contact = app
            .contact(connection, wanted, Need::Present, Confirm::Never)
            .await?;
        let trust = connection.trust(contact.handle).await?;
        let id = safe(&contact.id);
        if contact.trust.level == TrustLevel::Blocked && !replace {
            return Err(Failure::new(
                Code::Refused,
                "fingerprint-mismatch",
                format!(
                    "{id} shows another key than the one its name belongs to; if the person's machine is really new, add --replace"
                ),
            ));
        }
        let right = connection.comparison_code(contact.handle).await?;
        let said = match code {
            Some(code) => code.to_owned(),
            None => compare(app, &contact, &trust, &right).await?,
        };
        connection
            .verify(contact.handle, &said, replace)
            .await
            .map_err(|error| match error.kind {
                crate::client::Kind::InvalidArgument if code.is_some() => Failure::new(
                    Code::Refused,
                    "wrong-code",
                    format!("this is not the code of {id}; if it was read out right, somebody is posing as one of you"),
                ),
                _ => error.into(),
            })?;
        let trust = connection.trust(contact.handle).await?;
        app.out.record(&json!({
            "contact": contact.id,
            "trust": trust.level.as_str(),
            "fingerprint": trust.fingerprint,
        }))?;
        app.out.line(format!(
            "{}: {id} is verified.",
            app.out.paint(Style::Good, "Done")
        ))
    })
    .await
}

/// Shows the code and asks. Gives the code back when the user says that it is the same.
async fn compare(app: &App, contact: &Contact, trust: &Trust, code: &str) -> Outcome<String> {
    let id = safe(&contact.id);
    if app.out.is_json() || !can_ask() {
        // Programs read the code here, have a person compare it, and come back with --code.
        app.out.record(&json!({
            "contact": contact.id,
            "trust": trust.level.as_str(),
            "fingerprint": trust.fingerprint,
            "code": code,
        }))?;
        app.out.line(safe(code))?;
        return Err(Failure::new(
            Code::Refused,
            "not-confirmed",
            format!(
                "there is no terminal to ask whether {id} sees the same code; once you know, run this with --code"
            ),
        ));
    }
    if let Some(since) = trust.verified_since {
        app.out
            .remark(format!("Codes were compared already, {}.", moment(since)));
    } else if let Some(since) = trust.pinned_since {
        app.out
            .remark(format!("You have known this key since {}.", moment(since)));
    }
    if let Some(key) = &trust.fingerprint {
        app.out.remark(format!("Key of {id}: {}", fingerprint(key)));
    }
    app.out.line(format!(
        "Your code with {id}:\n\n    {}\n",
        app.out.paint(Style::Strong, &safe(code))
    ))?;
    app.out.line(
        "Talk to the person, by telephone or face to face. There, `pneuma verify` shows the code for you.\nThe two must be the same, all of it.",
    )?;
    if app.ask("Are they the same?").await? {
        Ok(code.to_owned())
    } else {
        Err(Failure::new(
            Code::Refused,
            "not-confirmed",
            format!(
                "{id} is not verified; if the codes really differ, somebody is posing as one of you"
            ),
        ))
    }
}

/// Forgets a contact and its key.
///
/// # Errors
/// Code 3 when nobody is selected, 4 when it is not confirmed.
pub async fn forget(app: &App, wanted: &str) -> Outcome {
    app.with_connection(async |connection| {
        let contact = app
            .contact(connection, wanted, Need::Known, Confirm::Never)
            .await?;
        let id = safe(&contact.id);
        confirm_forgetting(app, connection, &contact).await?;
        connection.forget(contact.handle).await?;
        app.out
            .record(&json!({ "contact": contact.id, "forgotten": true }))?;
        app.out.line(format!(
            "{id} is forgotten. Its name may be taken by anybody from now on."
        ))
    })
    .await
}

/// The whole id is what one writes who means it; a part of it is confirmed.
async fn confirm_forgetting(app: &App, connection: &Connection, contact: &Contact) -> Outcome {
    if app.global.yes {
        return Ok(());
    }
    let id = safe(&contact.id);
    if !can_ask() {
        return Err(Failure::new(
            Code::Refused,
            "not-confirmed",
            format!("there is no terminal to ask whether to forget {id}; add --yes if you mean it"),
        ));
    }
    let trust = connection.trust(contact.handle).await?;
    if let Some(since) = trust.verified_since {
        app.out
            .prompt(format!("You compared codes with {id}, {}.", moment(since)));
    }
    if app.ask(&format!("Forget {id} and its key?")).await? {
        Ok(())
    } else {
        Err(Failure::new(
            Code::Refused,
            "not-confirmed",
            format!("{id} is not forgotten"),
        ))
    }
}
