//! The tubes that a contact offers for a service, as they come. Where Mission Control manages the
//! account, those it hands to a Handler of ours; otherwise all that the connection manager has.

use std::{collections::VecDeque, sync::Arc};

use futures_lite::FutureExt as _;

use super::{
    connection::Connection,
    error::Result,
    event::{Event, Events},
    managed::{Handed, Handler, Wish},
    tube::{Tube, TubeDescription, TubeKind},
};

/// See the module's head. While it lives, Mission Control hands over what it waits for.
#[derive(Debug)]
pub struct Offers {
    connection: Connection,
    wish: Wish,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// What was there when it began, and came since.
    Direct(VecDeque<Tube>),
    Handed(Arc<Handler>),
}

impl Offers {
    /// Of this contact, by its id, for this service.
    ///
    /// # Errors
    /// What the service and the bus answer.
    pub(super) async fn of(
        connection: &Connection,
        contact: &str,
        kind: TubeKind,
        service: &str,
    ) -> Result<Self> {
        let wish = Wish::offered(contact, kind, service);
        let way = match connection.account() {
            Some(account) => {
                let early = connection.early().filter(|early| *early.wish() == wish);
                Way::Handed(match early {
                    Some(early) => early.clone(),
                    None => Handler::register(account, wish.clone()).await?,
                })
            }
            None => Way::Direct(connection.tubes().await?.into()),
        };
        Ok(Offers {
            connection: connection.clone(),
            wish,
            way,
        })
    }

    /// One that need not be waited for.
    pub fn ready(&mut self) -> Option<Tube> {
        match &mut self.way {
            Way::Direct(waiting) => std::iter::from_fn(|| waiting.pop_front())
                .find(|tube| self.wish.fits(tube.description())),
            Way::Handed(handler) => handler.ready().and_then(tube_of),
        }
    }

    /// The next one. `events` are the connection's, from before these offers began.
    ///
    /// # Errors
    /// When the connection ends first.
    pub async fn next(&mut self, events: &mut Events) -> Result<Tube> {
        loop {
            if let Some(tube) = self.ready() {
                return Ok(tube);
            }
            match &mut self.way {
                Way::Direct(waiting) => {
                    let tubes = next_tubes(events).await?.into_iter();
                    waiting.extend(tubes.map(|tube| self.connection.tube(tube)));
                }
                Way::Handed(handler) => {
                    let handed = async { Ok(tube_of(handler.next().await)) };
                    // Whether new ones are for us is Mission Control's to say.
                    let others = async { next_tubes(events).await.map(|_| None) };
                    if let Some(tube) = handed.or(others).await? {
                        return Ok(tube);
                    }
                }
            }
        }
    }
}

/// A Handler for tubes is handed tubes.
fn tube_of(handed: Handed) -> Option<Tube> {
    match handed {
        Handed::Tube(tube) => Some(tube),
        Handed::Transfer(_) => None,
    }
}

/// The next tubes that come to be, whoever they are for.
async fn next_tubes(events: &mut Events) -> Result<Vec<TubeDescription>> {
    loop {
        let event = events.next().await?;
        event.still_online()?;
        if let Event::NewTubes(tubes) = event {
            return Ok(tubes);
        }
    }
}
