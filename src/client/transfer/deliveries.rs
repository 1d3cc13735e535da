//! The files that contacts send, as they come. Where Mission Control manages the account, those it hands
//! to a Handler of ours; otherwise all that the connection manager has.
//!
//! The connection manager tells contacts that files are taken here only while somebody says so. Mission
//! Control does it for its Handlers; otherwise it is said under a name of ours that lasts as long as this
//! value, or, where the program is killed, as the connection.

use std::{collections::VecDeque, sync::Arc};

use futures_lite::FutureExt as _;
use zbus::Variant;

use super::{Transfer, TransferDescription};
use crate::{
    client::{
        connection::Connection,
        error::Result,
        event::{Event, Events},
        managed::{Handed, Handler, Wish},
    },
    names,
};

/// See the module's head.
#[derive(Debug)]
pub struct Deliveries {
    connection: Connection,
    events: Events,
    wish: Wish,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// What was there when it began, and came since; and the name under which we said so.
    Direct(VecDeque<Transfer>, String),
    Handed(Arc<Handler>),
}

impl Deliveries {
    pub(in crate::client) async fn of(
        connection: &Connection,
        contact: Option<&str>,
    ) -> Result<Self> {
        let wish = Wish::files(contact);
        let events = connection.events().await?;
        let way = match connection.account() {
            Some(account) => {
                let early = connection.early().filter(|early| *early.wish() == wish);
                Way::Handed(match early {
                    Some(early) => early.clone(),
                    None => Handler::register(account, wish.clone()).await?,
                })
            }
            None => {
                let unique = connection.bus().connection().unique_name();
                let unique = unique.map(|name| name.as_str().replace([':', '.'], "_"));
                let name = format!(
                    "{}files{}",
                    names::CLIENT_PREFIX,
                    unique.unwrap_or_default()
                );
                announce(connection, &name, wish.filter()).await?;
                Way::Direct(connection.transfers().await?.into(), name)
            }
        };
        Ok(Deliveries {
            connection: connection.clone(),
            events,
            wish,
            way,
        })
    }

    /// The next. Cancel-safe.
    ///
    /// # Errors
    /// When the connection ends first.
    pub async fn next(&mut self) -> Result<Transfer> {
        loop {
            match &mut self.way {
                Way::Direct(waiting, _) => {
                    let wish = &self.wish;
                    let next = std::iter::from_fn(|| waiting.pop_front())
                        .find(|transfer| wish.fits_transfer(transfer.description()));
                    if let Some(transfer) = next {
                        return Ok(transfer);
                    }
                    let new = next_transfers(&mut self.events).await?.into_iter();
                    waiting.extend(new.map(|new| self.connection.transfer(new)));
                }
                Way::Handed(handler) => {
                    let handed = async { Ok(Some(handler.next().await)) };
                    // Whether new ones are for us is Mission Control's to say.
                    let others = async { next_transfers(&mut self.events).await.map(|_| None) };
                    if let Some(Handed::Transfer(transfer)) = handed.or(others).await? {
                        return Ok(transfer);
                    }
                }
            }
        }
    }

    /// Takes back that files are taken here.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn end(self) -> Result<()> {
        match self.way {
            Way::Direct(_, name) => match announce(&self.connection, &name, Vec::new()).await {
                // What is no more announces nothing.
                Err(error) if error.kind.is_gone() => Ok(()),
                answer => answer,
            },
            Way::Handed(_) => Ok(()),
        }
    }
}

type Filter = std::collections::HashMap<String, Variant<'static>>;

/// Says what is taken here, under a name.
async fn announce(connection: &Connection, name: &str, filters: Vec<Filter>) -> Result<()> {
    let tokens: Vec<String> = Vec::new();
    connection
        .remote()
        .call(
            names::CONTACT_CAPABILITIES,
            "UpdateCapabilities",
            &vec![(name, filters, tokens)],
        )
        .await
}

/// The next transfers that come to be, whoever they are for.
async fn next_transfers(events: &mut Events) -> Result<Vec<TransferDescription>> {
    loop {
        let event = events.next().await?;
        event.still_online()?;
        if let Event::NewTransfers(transfers) = event {
            return Ok(transfers);
        }
    }
}
