//! `pneuma accept`: use a service that a contact offers: at a socket of the connection manager's
//! choice, at an address of the user's choice, or on standard input and output; or kept by the service
//! (`--detach`). For `--allowed` there is `standing`.

use actors::model::{AddressType, SocketAddress};
use serde_json::json;

use super::{
    address::Address,
    app::{App, Confirm, Need},
    failure::{Failure, Outcome},
    offer::{claim, kept_id, kept_remark, serve},
    stdio,
    text::safe,
};
use crate::client::{
    Bridge, Connection, Contact, Events, Expected, Kind, Tube, TubeKind, TubeState, from_ip,
};

/// How the bytes get to the user.
#[derive(Clone, Debug)]
pub enum Way {
    /// At a TCP port of the connection manager's choice on this machine.
    Socket,
    /// At this address.
    Listen(Address),
    /// One connection on standard input and output.
    Stdio,
}

/// Accepts, and serves until Ctrl-C or until the contact closes the tube; with `--stdio`, until the
/// one connection ends. With `--detach`, leaves the tube to the connection manager, which takes the
/// contact's offers of this service again and again, and returns.
///
/// # Errors
/// Codes 3, 4 and 5, and what the service answers.
pub async fn run(app: &App, contact: &str, service: &str, way: Way) -> Outcome {
    let listen = match &way {
        Way::Listen(address) => Some(address.resolve().await.map_err(Failure::usage)?),
        _ => None,
    };
    // Before anything is accepted: an address that is taken must not cost the contact's offer.
    let bridge = match &listen {
        // Bound by the connection manager, which keeps it.
        Some(_) if app.global.detach => None,
        Some(address) => Some(Bridge::bind(
            address,
            app.account.any_local_user == Some(true),
        )?),
        None => None,
    };
    // A part of a name selects nobody before there are contacts; it selects known ones only, who are there
    // as soon as the account is online.
    let expected =
        contact
            .contains('@')
            .then_some(Expected::Tube(contact, TubeKind::Stream, service));
    app.with_connection_expecting(expected, async |connection| {
        if app.global.detach && connection.account().is_some() {
            return Err(Failure::usage(
                "Mission Control manages this account, and closes what a program has accepted when that program ends; leave `pneuma accept` running instead of using --detach",
            ));
        }
        let contact = app
            .contact(
                connection,
                contact,
                Need::Present,
                Confirm::Service(service),
            )
            .await?;
        let id = safe(&contact.id);
        let mut events = connection.events().await?;
        let wanted = (TubeKind::Stream, service);
        let tube = offered(app, connection, &mut events, &contact.id, wanted).await?;
        if app.global.detach {
            let address = match listen {
                Some(address) => address,
                None => from_ip((std::net::Ipv4Addr::LOCALHOST, 0).into()),
            };
            return keep(app, connection, &contact, &tube, &address).await;
        }
        let socket = match way {
            Way::Socket => AddressType::Ipv4,
            Way::Listen(_) | Way::Stdio => AddressType::Unix,
        };
        let accepted = app
            .interruptible(async {
                app.same_key(connection, &contact).await?;
                Ok(tube.accept(socket).await?)
            })
            .await;
        let address = match accepted {
            Ok(address) => address,
            Err(error) => {
                tube.close().await?;
                return Err(error);
            }
        };
        match (way, bridge) {
            (Way::Stdio, _) => {
                let outcome = stdio::run(app, &mut events, &tube, &address).await;
                tube.close().await?;
                outcome
            }
            (_, Some(bridge)) => {
                let shown = bridge.address().to_string();
                told(app, &tube, &contact.id, &shown, None)?;
                let served = serve(app, &mut events, &tube, &id);
                let bridged = async {
                    match bridge.run(connection.bus(), &address, &app.stop).await {
                        // Stopped by the user, like the other, which closes the tube in order.
                        error if error.kind == Kind::Cancelled => std::future::pending().await,
                        error => Err(error.into()),
                    }
                };
                let outcome = futures_lite::future::or(served, bridged).await.map(drop);
                tube.close().await.unwrap_or_default();
                outcome
            }
            (_, None) => {
                told(app, &tube, &contact.id, &address.to_string(), None)?;
                serve(app, &mut events, &tube, &id).await.map(drop)
            }
        }
    })
    .await
}

/// Says where the service is now.
///
/// # Errors
/// When nobody reads it.
pub fn told(app: &App, tube: &Tube, id: &str, address: &str, kept: Option<u32>) -> Outcome {
    let service = &tube.description().service;
    app.out.record(&json!({
        "event": "accepted",
        "contact": id,
        "service": service,
        "address": address,
        "channel": tube.path().as_str(),
        "id": kept.map(kept_id),
    }))?;
    app.out.line(format!(
        "{} of {} is at {}",
        safe(service),
        safe(id),
        safe(address)
    ))?;
    app.out.remark(match kept {
        Some(number) => kept_remark(number),
        None => "Ctrl-C ends it.".to_owned(),
    });
    Ok(())
}

/// Leaves the accepted tube, and its address, to the connection manager, for good. An address that is
/// taken costs no offer: the connection manager binds it first.
async fn keep(
    app: &App,
    connection: &Connection,
    contact: &Contact,
    tube: &Tube,
    address: &SocketAddress,
) -> Outcome {
    let accepting = async {
        app.same_key(connection, contact).await?;
        Ok(connection.keep_accept(tube.path(), address).await?)
    };
    let (number, bound) = app.interruptible(accepting).await?;
    told(app, tube, &contact.id, &bound.to_string(), Some(number))
}

/// The tube that the contact offers for this service, claimed; waits for it.
///
/// # Errors
/// Code 5 when there is none in time, and what the service answers.
pub async fn offered(
    app: &App,
    connection: &Connection,
    events: &mut Events,
    contact: &str,
    (kind, service): (TubeKind, &str),
) -> Outcome<Tube> {
    let deadline = app.deadline();
    let id = safe(contact);
    let mut offers = connection.offers(contact, kind, service).await?;
    let mut said = false;
    loop {
        let tube = match offers.ready() {
            Some(tube) => tube,
            None => {
                if !said {
                    said = true;
                    app.out
                        .remark(format!("Waiting for {id} to offer {} …", safe(service)));
                }
                let next = async { Ok(offers.next(events).await?) };
                match app.before(deadline, next).await? {
                    Some(tube) => tube,
                    None => {
                        return Err(Failure::timed_out(format!(
                            "{id} did not offer {}; ask for it, or wait longer with --timeout",
                            safe(service)
                        )));
                    }
                }
            }
        };
        if take(app, &tube).await? {
            return Ok(tube);
        }
    }
}

/// Whether the tube is ours to accept: still on offer, and claimed by nobody else.
///
/// # Errors
/// What the service answers.
pub async fn take(app: &App, tube: &Tube) -> Outcome<bool> {
    match tube.state().await {
        Ok(TubeState::LocalPending) => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind.is_gone() => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    if app.global.detach {
        return Ok(true);
    }
    match tube.claim().await {
        Ok(()) => Ok(true),
        Err(error) if error.kind == Kind::NotYours => Ok(false),
        Err(error) if error.kind == Kind::NotAvailable => Ok(false),
        Err(error) if error.kind == Kind::NotImplemented => {
            claim(app, tube).await?;
            Ok(true)
        }
        Err(error) => Err(error.into()),
    }
}
