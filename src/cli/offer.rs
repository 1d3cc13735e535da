//! `pneuma offer`: a local service to a contact, for as long as this command runs, or kept by the
//! service (`--detach`).

use actors::model::SocketAddress;
use serde_json::json;

use super::{
    address::Address,
    again::rounds,
    app::{App, Confirm, Need, still_online},
    failure::{Code, Failure, Outcome},
    text::safe,
};
use crate::client::{Connection, Contact, Event, Events, Kind, Tube, TubeKind, TubeState};

/// What to offer, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// What kind of service it is.
    pub service: &'a str,
    /// Where it listens.
    pub address: &'a Address,
    /// Whom the user means.
    pub to: &'a str,
    /// Offer it again each time the contact has used and closed it.
    pub again: bool,
}

/// Who ended a tube that was in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// Ours.
    User,
    /// The other side, or its absence.
    Contact,
}

/// Offers until Ctrl-C, or until the contact closes the tube. With `--detach`, leaves the offer to
/// the connection manager, which makes it again and again, and returns.
///
/// # Errors
/// Codes 3, 4 and 5, and what the service answers.
pub async fn run(app: &App, wish: &Wish<'_>) -> Outcome {
    let local = wish.address.resolve().await.map_err(Failure::usage)?;
    app.with_connection(async |connection| {
        let round = async || once(app, connection, wish, &local).await;
        rounds(app, wish.again, round).await
    })
    .await
}

/// Offers one tube and serves it to its end.
async fn once(
    app: &App,
    connection: &Connection,
    wish: &Wish<'_>,
    local: &SocketAddress,
) -> Outcome<EndedBy> {
    let contact = app
        .contact(
            connection,
            wish.to,
            Need::Tubes,
            Confirm::Service(wish.service),
        )
        .await?;
    let id = safe(&contact.id);
    if app.global.detach {
        return keep(app, connection, wish, local, &contact).await;
    }
    let mut events = connection.events().await?;
    let tube = if app.global.detach {
        connection
            .directly()
            .create_tube(contact.handle, TubeKind::Stream, wish.service)
            .await?
    } else {
        connection
            .create_tube(contact.handle, TubeKind::Stream, wish.service)
            .await?
    };
    let offered = app
        .interruptible(async {
            claim(app, &tube).await?;
            app.same_key(connection, &contact).await?;
            Ok(tube.offer(local).await?)
        })
        .await;
    if let Err(error) = offered {
        tube.close().await?;
        return Err(error);
    }
    app.out.record(&json!({
        "event": "offered",
        "contact": contact.id,
        "service": wish.service,
        "address": wish.address.to_string(),
        "channel": tube.path().as_str(),
    }))?;
    app.out.line(format!(
        "Offered {} at {} to {id}.",
        safe(wish.service),
        wish.address
    ))?;
    app.out.remark("Ctrl-C ends it.");
    serve(app, &mut events, &tube, &id).await
}

/// Leaves the offer with the connection manager, for good.
async fn keep(
    app: &App,
    connection: &Connection,
    wish: &Wish<'_>,
    local: &SocketAddress,
    contact: &Contact,
) -> Outcome<EndedBy> {
    let offering = async {
        app.same_key(connection, contact).await?;
        let kept = connection.keep_offer(contact.handle, wish.service, local);
        Ok(kept.await?)
    };
    let (number, channel) = app.interruptible(offering).await?;
    app.out.record(&json!({
        "event": "offered",
        "contact": contact.id,
        "service": wish.service,
        "address": wish.address.to_string(),
        "channel": channel.as_str(),
        "id": kept_id(number),
    }))?;
    app.out.line(format!(
        "Offered {} at {} to {}, for good.",
        safe(wish.service),
        wish.address,
        safe(&contact.id)
    ))?;
    app.out.remark(kept_remark(number));
    Ok(EndedBy::User)
}

/// What a kept tube is called on the command line.
pub fn kept_id(number: u32) -> String {
    format!("k{number}")
}

/// What a user should know who has left a tube to the connection manager.
pub fn kept_remark(number: u32) -> String {
    let id = kept_id(number);
    format!(
        "`pneuma tubes --close {id}` ends it. It comes back with the connection manager; `systemctl --user enable telepathy-pneuma` has that start when you log in."
    )
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
pub async fn serve(app: &App, events: &mut Events, tube: &Tube, id: &str) -> Outcome<EndedBy> {
    let outcome = app.interruptible(follow(app, events, tube, id)).await;
    match outcome {
        Err(Failure::Interrupted) => {
            app.out.remark("Closing the tube.");
            tube.close().await?;
            app.out
                .record(&json!({ "event": "closed", "by": "user" }))?;
            Ok(EndedBy::User)
        }
        Err(error) => {
            // The service may be gone, which is then what went wrong in the first place.
            tube.close().await.unwrap_or_default();
            Err(error)
        }
        Ok(()) => Ok(EndedBy::Contact),
    }
}

async fn follow(app: &App, events: &mut Events, tube: &Tube, id: &str) -> Outcome {
    let mut used = match tube.state().await {
        Ok(state) => state == TubeState::Open,
        // A contact whose policy denies it closes it before we look; the event tells of that.
        Err(error) if error.kind.is_gone() => false,
        Err(error) => return Err(error.into()),
    };
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
                    "Connection {number} has ended: {}.",
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

/// The contact closed a tube, or somebody for it, before anything went through.
pub fn closed_unused(requested: bool, id: &str) -> Failure {
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
