//! What the floors above ask of the keeper. The first making of a tube is done here, by whoever asks for
//! it, who hears what is wrong; the keeper takes over what is there.

use std::{path::PathBuf, sync::Arc, time::Duration};

use actors::{
    bridge::Bridge,
    model::{ContactHandle, Error, Result, ServiceName, SocketAddress},
    runtime::{Address, Clock, Exit, Mailbox, Reply, Snapshot, Spawner, Stopper, run, within},
};

use super::{
    Change, Condition, Keep, Kept, Message, View,
    keeper::Keeper,
    record::{KeptTube, Way},
    store::{Records, Store},
    tend::{self, Begun},
};
use crate::connection::{
    manager::ManagerHandle, message::ConnectionHandle, parameters::Account, view::ChannelDetails,
};

/// Questions that wait for the keeper; whoever asks one more waits.
const MAILBOX: usize = 64;
/// How often a client that wants a connection of its own tries to get ours out of the way.
const ATTEMPTS: u32 = 10;
/// Before it tries again.
const MOMENT: Duration = Duration::from_millis(200);
/// How long a closed tube's channel may take to be gone.
const CLOSING: Duration = Duration::from_secs(10);
/// Talks to the keeper. Cheap to clone.
#[derive(Clone)]
pub struct KeptHandle {
    address: Address<Message>,
    view: Snapshot<View>,
    manager: ManagerHandle,
    spawner: Spawner,
    clock: Arc<dyn Clock>,
    store: Option<Arc<dyn Records>>,
    stopper: Arc<Stopper>,
}

impl std::fmt::Debug for KeptHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptHandle")
            .field("profiles", &self.view.get().profiles.len())
            .finish_non_exhaustive()
    }
}

impl KeptHandle {
    /// Starts the keeper of the profiles in `folder`. Without a folder nothing can be kept. It makes
    /// nothing anew before [`KeptHandle::restore`].
    pub fn start(
        spawner: &Spawner,
        clock: &Arc<dyn Clock>,
        manager: &ManagerHandle,
        folder: Option<PathBuf>,
    ) -> Self {
        let store = folder.map(|folder| Arc::new(Store::new(folder)) as Arc<dyn Records>);
        KeptHandle::with(spawner, clock, manager, store)
    }

    /// The same with records that lie elsewhere.
    pub(super) fn with(
        spawner: &Spawner,
        clock: &Arc<dyn Clock>,
        manager: &ManagerHandle,
        store: Option<Arc<dyn Records>>,
    ) -> Self {
        let (mailbox, address) = Mailbox::new(MAILBOX);
        let (writer, view) = Snapshot::new(View::default());
        let (stopper, stop) = Stopper::new();
        let keeper = Keeper::new(
            spawner,
            clock,
            manager,
            store.clone(),
            (mailbox, address.clone()),
            writer,
        );
        let running = spawner.spawn("keeper", async move { run(keeper, &stop).await });
        let watch = async move {
            if let Ok(Exit::Failed(failure)) | Err(failure) = running.await {
                tracing::error!(%failure, "kept tubes are closed until the service is started again");
            }
        };
        spawner.spawn("watch over the keeper", watch).detach();
        KeptHandle {
            address,
            view,
            manager: manager.clone(),
            spawner: spawner.clone(),
            clock: clock.clone(),
            store,
            stopper: Arc::new(stopper),
        }
    }

    /// Has the keeper read what profiles keep, bring their accounts online, and go to work. For whoever
    /// is the one service of a session.
    pub fn restore(&self) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let keeper = self.address.clone();
        self.spawner
            .spawn("search for kept tubes", async move {
                for profile in store.profiles().await {
                    let load = Message::Change(Change::Load(profile, None));
                    // A keeper that is gone restores nothing.
                    keeper.tell(load).await.ok();
                }
            })
            .detach();
    }

    /// `ConnectionManager.RequestConnection`: a connection that is there for kept tubes only makes
    /// way. One with tubes of other clients does not: they would be cut.
    ///
    /// # Errors
    /// As [`ManagerHandle::request`].
    pub async fn request(&self, account: Account) -> Result<ConnectionHandle> {
        let profile = account.profile.clone();
        let mut attempts = 0;
        let mut made_way = None;
        let connection = loop {
            attempts += 1;
            let ours = self.ours(&profile).await;
            let none = ours.is_none();
            if let Some(ours) = ours
                && !tend::used_by_others(&ours, &self.of(&profile)).await
            {
                tracing::info!(profile = account.profile, "another connection takes over");
                ours.disconnect().await;
                made_way = Some(ours);
            }
            match self.manager.request(account.clone()).await {
                // Ours is just about to be there, or has come while we waited.
                Err(Error::NotAvailable(_))
                    if none
                        && attempts < ATTEMPTS
                        && (self.view.get().going_online.contains(&profile)
                            || self.ours(&profile).await.is_some()) =>
                {
                    self.clock.sleep(MOMENT).await;
                }
                Ok(connection) => break connection,
                Err(error) => {
                    if let Some(ours) = made_way {
                        // Without a keeper nothing goes online.
                        self.address.tell(Message::InVain(ours)).await.ok();
                    }
                    return Err(error);
                }
            }
        };
        let (known, pending) = Reply::new();
        let gained = Message::Gained {
            connection: connection.clone(),
            ours: false,
            known: Some(known),
        };
        // Without a keeper nothing is kept; connections are had all the same.
        if self.address.tell(gained).await.is_ok() {
            pending.wait().await.ok();
        }
        Ok(connection)
    }

    /// The connection of a profile, if it is there for kept tubes only.
    async fn ours(&self, profile: &str) -> Option<ConnectionHandle> {
        let profile = profile.to_owned();
        let ours = self
            .address
            .ask(|reply| Message::Ours { profile, reply })
            .await;
        // Without a keeper there is none.
        ours.ok().flatten()
    }

    /// Offers a local service to a contact and keeps doing so. Gives its number and the channel.
    ///
    /// # Errors
    /// As [`ConnectionHandle::offer`]; `NotAvailable` when the same is kept already, or for a contact
    /// without a key; `ResourceUnavailable` at the bound; and what the disk says. Nothing is kept then.
    pub async fn offer(
        &self,
        connection: &ConnectionHandle,
        contact: ContactHandle,
        service: ServiceName,
        address: SocketAddress,
    ) -> Result<(u32, Arc<ChannelDetails>)> {
        let held = tend::offer(connection, &self.spawner, contact, &service, &address).await?;
        let channel = held.id();
        let begun = Begun::Offered(held);
        let number = self
            .keep(connection, contact, service, Way::Offer(address), begun)
            .await?;
        let view = connection.view.get();
        let details = view.channels.get(&channel).cloned().ok_or_else(|| {
            Error::Cancelled(format!(
                "the contact closed it at once; it is kept as k{number}"
            ))
        })?;
        Ok((number, details))
    }

    /// Takes what a contact offers as a channel, at an address of this machine, and keeps doing so.
    /// Port 0 is one of the kernel's choice, which stays. Gives its number and the address.
    ///
    /// # Errors
    /// As [`KeptHandle::offer`]; `NotAvailable` also when the address is taken, before anything is
    /// accepted.
    pub async fn accept(
        &self,
        connection: &ConnectionHandle,
        channel: &str,
        address: &SocketAddress,
    ) -> Result<(u32, SocketAddress)> {
        let view = connection.view.get();
        let offered = |details: &Arc<ChannelDetails>| {
            let tube = details.stream_tube().filter(|_| details.path == channel)?;
            (!tube.parties.requested).then(|| {
                let service = tube.service.clone();
                (details.id, tube.parties.target, service)
            })
        };
        let (id, contact, service) = view.channels.values().find_map(offered).ok_or_else(|| {
            Error::InvalidArgument("there is no such channel that a contact offers".into())
        })?;
        let bridge = Bridge::bind(address, connection.account.any_local_user)?;
        let address = bridge.address().clone();
        let (held, target) = tend::accept(connection, &self.spawner, id).await?;
        let begun = Begun::Accepted(held, bridge, target);
        let way = Way::Accept(address.clone());
        let number = self.keep(connection, contact, service, way, begun).await?;
        Ok((number, address))
    }

    async fn keep(
        &self,
        connection: &ConnectionHandle,
        contact: ContactHandle,
        service: ServiceName,
        way: Way,
        begun: Begun,
    ) -> Result<u32> {
        let (contact, key) = tend::pinned(connection, &*self.clock, contact).await?;
        let tube = KeptTube {
            contact,
            key,
            service,
            way,
            any_local_user: connection.account.any_local_user,
        };
        let connection = connection.clone();
        self.address
            .ask(|reply| {
                let keep = Keep {
                    connection,
                    tube,
                    begun,
                    reply,
                };
                Message::Change(Change::Keep(Box::new(keep)))
            })
            .await?
    }

    /// Ends a kept tube for good.
    ///
    /// # Errors
    /// `NotAvailable` when there is none of this number, and what the disk says: it is kept then.
    pub async fn close(&self, connection: &ConnectionHandle, number: u32) -> Result<()> {
        let profile = connection.profile.to_string();
        let kept = self.of(&profile);
        self.address
            .ask(|reply| {
                Message::Change(Change::Drop {
                    profile,
                    number,
                    reply,
                })
            })
            .await??;
        let running = kept.iter().find(|kept| kept.number == number);
        if let Some(Condition::Running(channel)) = running.map(|kept| &kept.condition) {
            let closed = connection
                .view
                .wait_for(|view| !view.channels.contains_key(channel));
            // It closes by itself in any case.
            within(&*self.clock, CLOSING, closed).await;
        }
        Ok(())
    }

    /// What a profile keeps.
    pub fn of(&self, profile: &str) -> Vec<Kept> {
        let view = self.view.get();
        view.profiles.get(profile).cloned().unwrap_or_default()
    }

    /// Whether some account is being brought online: a service does not leave meanwhile. One that
    /// another service has is not.
    pub fn is_going_online(&self) -> bool {
        !self.view.get().going_online.is_empty()
    }

    /// Ends it, and closes what it holds; all stays written down.
    pub fn stop(&self) {
        self.stopper.stop();
    }
}
