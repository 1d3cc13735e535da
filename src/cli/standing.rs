//! `pneuma accept --allowed`: takes what our user's policy allows, whoever of those offers it and
//! whenever, without a question. Each tube gets a TCP port of its own on this machine.
//!
//! ```text
//!   offered ──► allowed? ──no──► left for others to decide; looked at again when the rules change
//!                  │ yes
//!                  └──► claimed, accepted, told of ──► closed by the contact, or by Ctrl-C with us
//! ```

use std::collections::BTreeMap;

use actors::model::AddressType;
use serde_json::json;

use super::{
    accept::{take, told},
    app::{App, still_online},
    failure::{Failure, Outcome},
    text::safe,
};
use crate::client::{Connection, Decision, Event, Events, Kind, Tube, TubeKind};

/// The tubes we have taken, by path, and whose they are.
type Taken = BTreeMap<String, Tube>;

/// Accepts until Ctrl-C.
///
/// # Errors
/// What the service answers, other than that one tube did not come about.
pub async fn run(app: &App) -> Outcome {
    app.with_connection(async |connection| {
        if connection.account().is_some() {
            return Err(Failure::usage(
                "Mission Control manages this account, and hands a program only the services it names; use `pneuma accept CONTACT SERVICE` for each",
            ));
        }
        let mut events = connection.events().await?;
        app.out
            .remark("Taking what your policy allows (`pneuma policy`). Ctrl-C ends it.");
        let mut taken = Taken::new();
        let following = follow(app, connection, &mut events, &mut taken);
        let outcome = app.interruptible(following).await;
        for tube in taken.into_values() {
            // The service may be gone, which is then what went wrong.
            tube.close().await.unwrap_or_default();
        }
        match outcome {
            Err(Failure::Interrupted) => Ok(()),
            outcome => outcome,
        }
    })
    .await
}

async fn follow(
    app: &App,
    connection: &Connection,
    events: &mut Events,
    taken: &mut Taken,
) -> Outcome {
    let mut offered = connection.tubes().await?;
    loop {
        for tube in offered.drain(..) {
            let path = tube.path().to_string();
            if !taken.contains_key(&path) && accept(app, connection, &tube).await? {
                taken.insert(path, tube);
            }
        }
        let event = events.next().await?;
        still_online(&event)?;
        match event {
            Event::NewTubes(tubes) => {
                offered.extend(tubes.into_iter().map(|tube| connection.tube(tube)));
            }
            Event::Policy => offered = connection.tubes().await?,
            Event::Closed(channel) => {
                if let Some(tube) = taken.remove(channel.as_str()) {
                    closed(app, &tube)?;
                }
            }
            _ => {}
        }
    }
}

/// Accepts a tube if it is one to be accepted by us; whether it was.
async fn accept(app: &App, connection: &Connection, tube: &Tube) -> Outcome<bool> {
    let description = tube.description();
    // What to do with D-Bus, nobody has said.
    if description.requested || description.kind != TubeKind::Stream {
        return Ok(false);
    }
    match attempt(app, connection, tube).await {
        Ok(Some(address)) => {
            told(app, tube, &description.contact_id, &address, None)?;
            Ok(true)
        }
        Ok(None) => Ok(false),
        // Somebody else's business from here on: the next one may do better.
        Err(Failure::Error { message, .. }) => {
            app.out.remark(format!(
                "{} of {} was not taken: {}.",
                safe(&description.service),
                safe(&description.contact_id),
                safe(&message)
            ));
            Ok(false)
        }
        Err(failure) => Err(failure),
    }
}

/// The address where the tube is now; `None` when it is not for us.
async fn attempt(app: &App, connection: &Connection, tube: &Tube) -> Outcome<Option<String>> {
    let description = tube.description();
    let trust = match connection.trust(description.contact).await {
        Err(error) if error.kind == Kind::NotAvailable => return Ok(None),
        answer => answer?,
    };
    // Who shows no key is nobody, and nobody is allowed anything unasked.
    let Some(key) = &trust.fingerprint else {
        return Ok(None);
    };
    let terms = connection.terms(key, Some(&description.ruled())).await?;
    if terms.decision != Decision::Allow || !take(app, tube).await? {
        return Ok(None);
    }
    let accepting = async {
        if !trust.is_pinned() {
            // The key that is allowed, and no other that it may have by now.
            connection.pin(description.contact, key).await?;
        }
        tube.accept(AddressType::Ipv4).await
    };
    match accepting.await {
        Ok(address) => Ok(Some(address.to_string())),
        Err(error) => {
            // We have claimed it, so nobody else can take it; and it may be gone.
            tube.close().await.unwrap_or_default();
            Err(error.into())
        }
    }
}

fn closed(app: &App, tube: &Tube) -> Outcome {
    let description = tube.description();
    app.out.record(&json!({
        "event": "closed",
        "contact": description.contact_id,
        "service": description.service,
        "channel": description.path.as_str(),
    }))?;
    app.out.line(format!(
        "{} of {} was closed.",
        safe(&description.service),
        safe(&description.contact_id)
    ))
}
