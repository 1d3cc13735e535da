//! `pneuma offer dbus:NAME` and `pneuma accept CONTACT dbus:NAME`: one service of the session bus, shared
//! with a contact through a D-Bus tube, for as long as both commands run.
//!
//! ```text
//!   offered ─► open ─► shared: calls come, answers and signals go ──┐
//!   accepted ─► open ─► at a small bus, or under a name of ours ────┴─► closed by either, or Ctrl-C
//! ```

use futures_lite::future::or;
use serde_json::json;

use super::{
    accept::offered,
    address::Address,
    again::rounds,
    app::{App, Confirm, Need},
    failure::{Code, Failure, Outcome},
    offer::{EndedBy, claim, closed_unused, serve},
    text::safe,
};
use crate::{
    client::{
        self, Bus, Connection, Contact, Expected, Kind, Tube, TubeKind,
        sharing::{self, Filter, Serving, Standing},
    },
    place,
};

/// What stands before the name of a service that is shared.
const PREFIX: &str = "dbus:";

/// The name on the bus in a service as the user writes it, if it is one that is shared.
pub fn name_of(service: &str) -> Option<&str> {
    service.strip_prefix(PREFIX)
}

/// What to share, and with whom.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The service's name on the session bus.
    pub name: &'a str,
    /// Whom the user means.
    pub to: &'a str,
    /// Offer it again each time the contact has used and closed it.
    pub again: bool,
    /// Only these objects and those below them; none are all.
    pub objects: &'a [String],
    /// Only these interfaces; none are all.
    pub interfaces: &'a [String],
    /// Nothing that changes anything.
    pub read_only: bool,
}

/// What these options say of a service.
fn filter(name: &str, objects: &[String], interfaces: &[String]) -> Outcome<Filter> {
    let filter = || {
        let mut filter = Filter::of(name)?;
        for object in objects {
            filter = filter.object(object)?;
        }
        for interface in interfaces {
            filter = filter.interface(interface)?;
        }
        Ok(filter)
    };
    filter().map_err(|error: client::Error| Failure::usage(error.message))
}

/// Where a contact's service is to be for programs here.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// On a bus of its own, at a socket that nobody can guess or at this one.
    Small(Option<&'a Address>),
    /// On the session bus, under this name, with signals of these objects and interfaces; none are all.
    Named {
        /// The name.
        own: &'a str,
        /// Only of these objects and those below them.
        objects: &'a [String],
        /// Only of these interfaces.
        interfaces: &'a [String],
    },
}

/// Shares a service until Ctrl-C, or until the contact closes the tube.
///
/// # Errors
/// Codes 2 to 6, and what the service and the bus answer.
pub async fn offer(app: &App, wish: &Wish<'_>) -> Outcome {
    let filter = filter(wish.name, wish.objects, wish.interfaces)?.read_only(wish.read_only);
    refuse_detach(app)?;
    // Before anybody is offered what is not there.
    sharing::look(&session_bus(app).await?, &filter).await?;
    app.with_connection(async |connection| {
        let round = async || share_once(app, connection, wish, &filter).await;
        rounds(app, wish.again, round).await
    })
    .await
}

async fn share_once(
    app: &App,
    connection: &Connection,
    wish: &Wish<'_>,
    filter: &Filter,
) -> Outcome<EndedBy> {
    let ruled = format!("{PREFIX}{}", wish.name);
    let confirm = Confirm::Service(&ruled);
    let contact = app
        .contact(connection, wish.to, Need::Tubes, confirm)
        .await?;
    let id = safe(&contact.id);
    let mut events = connection.events().await?;
    let mut opening = connection.events().await?;
    let tube = connection
        .create_tube(contact.handle, TubeKind::DBus, wish.name)
        .await?;
    let offered = app
        .interruptible(async {
            claim(app, &tube).await?;
            app.same_key(connection, &contact).await?;
            Ok(tube.offer_share().await?)
        })
        .await;
    let address = match offered {
        Ok(address) => address,
        Err(error) => {
            tube.close().await?;
            return Err(error);
        }
    };
    let shown = tube.description().shown();
    app.out.record(&json!({
        "event": "offered",
        "contact": contact.id,
        "service": shown,
        "read_only": wish.read_only,
        "objects": wish.objects,
        "interfaces": wish.interfaces,
        "channel": tube.path().as_str(),
    }))?;
    let how = if wish.read_only { ", to read only" } else { "" };
    app.out
        .line(format!("Offered {} to {id}{how}.", safe(&shown)))?;
    app.out.remark("Ctrl-C ends it.");
    let sharing = async {
        tube.opened(&mut opening).await?;
        // Whoever does not listen any more must not hold up the bus.
        drop(opening);
        let bus = session_bus(app).await?;
        let wire = tube.join_share(&address).await?;
        app.out.record(&json!({ "event": "opened" }))?;
        app.out.remark(format!("{id} uses it."));
        match sharing::share(&bus, wire, filter.clone(), &contact.id).await {
            // Like one that closed the tube: it may read again.
            Err(late) if late.kind == Kind::TimedOut && wish.again => {
                app.out.remark(format!("{}.", safe(&late.message)));
                Ok(())
            }
            ended => Ok(ended?),
        }
    };
    let carried = carried(&tube, sharing);
    let outcome = or(serve(app, &mut events, &tube, &id), carried).await;
    tube.close().await.unwrap_or_default();
    outcome
}

/// Uses a service that a contact shares, until Ctrl-C or until the contact closes the tube.
///
/// # Errors
/// Codes 2 to 6, and what the service and the bus answer.
pub async fn accept(app: &App, contact: &str, name: &str, place: Place<'_>) -> Outcome {
    Filter::of(name).map_err(|error| Failure::usage(error.message))?;
    refuse_detach(app)?;
    // Before anything is accepted: what cannot be must not cost the contact's offer.
    let ready = Ready::at(app, name, place).await?;
    let expected = contact
        .contains('@')
        .then_some(Expected::Tube(contact, TubeKind::DBus, name));
    app.with_connection_expecting(expected, async |connection| {
        let ruled = format!("{PREFIX}{name}");
        let confirm = Confirm::Service(&ruled);
        let contact = app
            .contact(connection, contact, Need::Present, confirm)
            .await?;
        use_service(app, connection, &contact, name, &ready).await
    })
    .await
}

/// What stands before the tube does.
enum Ready<'a> {
    Small(Serving),
    Named(Bus, &'a str, Filter),
}

impl<'a> Ready<'a> {
    async fn at(app: &App, shared: &str, place: Place<'a>) -> Outcome<Self> {
        Ok(match place {
            Place::Small(None) => Ready::Small(Serving::bind_in(place::runtime_directory())?),
            Place::Small(Some(address)) => {
                let address = address.resolve().await.map_err(Failure::usage)?;
                let serving = Serving::bind(&address);
                Ready::Small(serving.map_err(|error| match error.kind {
                    Kind::InvalidArgument => Failure::usage(error.message),
                    _ => error.into(),
                })?)
            }
            Place::Named {
                own: name,
                objects,
                interfaces,
            } => {
                let signals = filter(shared, objects, interfaces)?;
                sharing::Owning::new(signals.clone(), name)
                    .map_err(|error| Failure::usage(error.message))?;
                let bus = session_bus(app).await?;
                if bus.owner(name).await?.is_some() {
                    return Err(Failure::failed(format!(
                        "{name} is somebody else's on the session bus; choose another name with --own"
                    )));
                }
                let startable: Vec<String> = bus.call_daemon("ListActivatableNames", &()).await?;
                if startable.iter().any(|startable| startable == name) {
                    return Err(sharing::startable(name).into());
                }
                Ready::Named(bus, name, signals)
            }
        })
    }

    /// Where programs find the service.
    fn address(&self) -> String {
        match self {
            Ready::Small(serving) => serving.address(),
            Ready::Named(_, name, _) => format!("{PREFIX}{name}"),
        }
    }
}

async fn use_service(
    app: &App,
    connection: &Connection,
    contact: &Contact,
    name: &str,
    ready: &Ready<'_>,
) -> Outcome {
    let id = safe(&contact.id);
    let mut events = connection.events().await?;
    let wanted = (TubeKind::DBus, name);
    let tube = offered(app, connection, &mut events, &contact.id, wanted).await?;
    if !tube.is_share().await? {
        // It stays on offer, for the program that it is for.
        tube.leave().await.unwrap_or_default();
        return Err(not_a_share(&id, name));
    }
    let mut opening = connection.events().await?;
    let accepted = app
        .interruptible(async {
            app.same_key(connection, contact).await?;
            let address = tube.accept_dbus().await?;
            match tube.opened(&mut opening).await {
                Err(error) if error.kind == Kind::Cancelled => {
                    app.out
                        .record(&json!({ "event": "closed", "by": "contact" }))?;
                    return Err(closed_unused(tube.description().requested, &id));
                }
                opened => opened?,
            }
            drop(opening);
            Ok(tube.join_share(&address).await?)
        })
        .await;
    let wire = match accepted {
        Ok(wire) => wire,
        Err(error) => {
            tube.close().await.unwrap_or_default();
            return Err(error);
        }
    };
    let address = ready.address();
    let shown = tube.description().shown();
    app.out.record(&json!({
        "event": "accepted",
        "contact": contact.id,
        "service": shown,
        "address": address,
        "channel": tube.path().as_str(),
    }))?;
    app.out
        .line(format!("{} of {id} is at {}", safe(&shown), safe(&address)))?;
    app.out.remark("Ctrl-C ends it.");
    let using = async {
        match ready {
            Ready::Small(serving) => {
                let (spawner, clock) = (&app.spawner, &app.clock);
                serving.run(name, wire, spawner, clock, &app.stop).await?;
            }
            Ready::Named(bus, own, signals) => {
                let told = |standing| say_name_state(app, own, standing);
                sharing::own(bus, signals.clone(), own, wire, told).await?;
            }
        }
        Ok(())
    };
    let carried = carried(&tube, using);
    let outcome = or(serve(app, &mut events, &tube, &id), carried).await;
    tube.close().await.unwrap_or_default();
    outcome.map(drop)
}

/// Carries until it ends: what went well is told by the end of the tube, which is waited for elsewhere. What
/// did not is said before the tube is closed: its end would be taken for the contact's.
async fn carried(tube: &Tube, carrying: impl Future<Output = Outcome>) -> Outcome<EndedBy> {
    match carrying.await {
        // `follow` reports the tube's end.
        Err(Failure::Error {
            word: "cancelled", ..
        })
        | Ok(()) => {
            // The service may be gone, or the tube, which is then what went wrong in the first place.
            tube.close().await.unwrap_or_default();
            std::future::pending().await
        }
        Err(error) => Err(error),
    }
}

/// Says whether the name on the session bus is there.
fn say_name_state(app: &App, name: &str, standing: Standing) {
    let (word, sentence) = match standing {
        Standing::Here => ("here", "is on the session bus"),
        Standing::Away => ("away", "is not there: the contact's service does not run"),
        Standing::Waiting => ("waiting", "is somebody else's on the session bus for now"),
    };
    let record = json!({ "event": "service", "name": name, "is": word });
    if let Err(error) = app.out.record(&record) {
        // A reader that left is noticed by what is written next.
        tracing::debug!(?error, "nobody reads what is said");
    }
    app.out.remark(format!("{} {sentence}.", safe(name)));
}

/// A connection to the session bus for sharing alone.
async fn session_bus(app: &App) -> Outcome<Bus> {
    let address = place::session_bus().ok_or_else(|| {
        Failure::from(client::Error::new(
            Kind::NoBus,
            "there is no session bus here",
        ))
    })?;
    let (spawner, clock) = (app.spawner.clone(), app.clock.clone());
    Ok(Bus::at(&address, spawner, clock).await?)
}

fn refuse_detach(app: &App) -> Outcome {
    if app.global.detach {
        return Err(Failure::usage(
            "a service is shared by this command, not by the connection manager; leave it running instead of using --detach",
        ));
    }
    Ok(())
}

fn not_a_share(id: &str, name: &str) -> Failure {
    Failure::new(
        Code::Refused,
        "not-shared",
        format!(
            "{id} offers D-Bus for {} to a program that knows what to do with it, and shares no service; ask it to run `pneuma offer {PREFIX}{}`",
            safe(name),
            safe(name)
        ),
    )
}
