//! `pneuma offer`: a local service to a contact, for as long as this command runs.

use serde_json::json;

use super::{
    address::Address,
    app::{App, Confirm, Need, still_online},
    failure::{Code, Failure, Outcome},
    text::safe,
};
use crate::client::{Event, Events, Kind, Tube, TubeState};

/// Offers until Ctrl-C, or until the contact closes the tube. With `--detach`, leaves the tube
/// with the connection manager and returns.
///
/// # Errors
/// Codes 3, 4 and 5, and what the service answers.
pub async fn run(app: &App, service: &str, address: &Address, to: &str) -> Outcome {
    let local = address.resolve().await.map_err(Failure::usage)?;
    app.with_connection(async |connection| {
        let contact = app
            .contact(connection, to, Need::Tubes, Confirm::Ask)
            .await?;
        let id = safe(&contact.id);
        let mut events = connection.events().await?;
        let tube = connection.create_tube(contact.handle, service).await?;
        let offered = app
            .interruptible(async {
                if !app.global.detach {
                    claim(app, &tube).await?;
                }
                Ok(tube.offer(&local).await?)
            })
            .await;
        if let Err(error) = offered {
            tube.close().await?;
            return Err(error);
        }
        app.out.record(&json!({
            "event": "offered",
            "contact": contact.id,
            "service": service,
            "address": address.to_string(),
            "channel": tube.path().as_str(),
        }))?;
        app.out
            .line(format!("Offered {} at {address} to {id}.", safe(service)))?;
        if app.global.detach {
            return Ok(());
        }
        app.out.remark("Ctrl-C ends it.");
        serve(app, &mut events, &tube, &id).await
    })
    .await
}

/// Ties a tube to our life, where the connection manager can do that.
///
/// # Errors
/// What the service answers, other than that it does not know how.
pub async fn claim(app: &App, tube: &Tube) -> Outcome {
    match tube.claim().await {
        Err(error) if error.kind == Kind::NotImplemented => {
            app.out.remark(
                "This connection manager cannot tie a tube to this command; `pneuma disconnect` closes what it leaves behind.",
            );
            Ok(())
        }
        answer => Ok(answer?),
    }
}

/// Tells of connections until the tube ends or the user ends it, and closes it in order.
///
/// # Errors
/// Code 4 when the contact turned it down, 6 when the service went away.
pub async fn serve(app: &App, events: &mut Events, tube: &Tube, id: &str) -> Outcome {
    let outcome = app.interruptible(follow(app, events, tube, id)).await;
    match outcome {
        Err(Failure::Interrupted) => {
            app.out.remark("Closing the tube.");
            tube.close().await?;
            app.out.record(&json!({ "event": "closed", "by": "user" }))
        }
        Err(error) => {
            // The service may be gone, which is then what went wrong in the first place.
            tube.close().await.unwrap_or_default();
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}

async fn follow(app: &App, events: &mut Events, tube: &Tube, id: &str) -> Outcome {
    let mut used = tube.state().await? == TubeState::Open;
    loop {
        let event = events.next().await?;
        still_online(&event)?;
        match event {
            Event::TubeState { channel, state } if channel == *tube.path() => {
                used |= state == TubeState::Open;
            }
            Event::Opened {
                channel,
                id: number,
            } if channel == *tube.path() => {
                used = true;
                app.out
                    .record(&json!({ "event": "connection-opened", "id": number }))?;
                app.out.remark(format!("Connection {number} opened."));
            }
            Event::Ended {
                channel,
                id: number,
                why,
            } if channel == *tube.path() => {
                app.out.record(&json!({
                    "event": "connection-closed",
                    "id": number,
                    "reason": reason(why.kind),
                    "message": why.message,
                }))?;
                app.out.remark(format!(
                    "Connection {number} closed: {}.",
                    safe(&why.message)
                ));
            }
            Event::Closed(channel) if channel == *tube.path() => {
                app.out
                    .record(&json!({ "event": "closed", "by": "contact" }))?;
                if used {
                    return app.out.line(format!("The tube with {id} was closed."));
                }
                return Err(closed_unused(tube.description().requested, id));
            }
            _ => {}
        }
    }
}

fn closed_unused(requested: bool, id: &str) -> Failure {
    Failure::new(
        Code::Refused,
        "declined",
        if requested {
            format!("{id} closed the tube without using it")
        } else {
            format!("{id} closed the tube before it was used")
        },
    )
}

/// A word for programs.
fn reason(kind: Kind) -> &'static str {
    match kind {
        Kind::Cancelled => "finished",
        Kind::ConnectionRefused => "refused",
        Kind::ConnectionLost => "lost",
        _ => "failed",
    }
}
