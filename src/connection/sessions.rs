//! Sessions of the protocol `local-xmpp` for the accounts that clients ask for.

use std::{path::PathBuf, sync::Arc};

use actors::{
    model::Error,
    runtime::{BoxFuture, Clock, Spawner},
};

use super::{
    parameters::Account,
    ports::{SessionFactory, StartedSession},
};
use crate::session::link_local::{self, LinkLocalConfig};

/// Starts link-local sessions (XEP-0174).
pub struct LinkLocalSessions {
    spawner: Spawner,
    clock: Arc<dyn Clock>,
    profiles: Option<PathBuf>,
}

impl LinkLocalSessions {
    /// Sessions whose profiles lie in this folder.
    pub fn in_folder(spawner: Spawner, clock: Arc<dyn Clock>, profiles: PathBuf) -> Self {
        LinkLocalSessions {
            spawner,
            clock,
            profiles: Some(profiles),
        }
    }

    /// Sessions whose tasks run through `spawner`. Profiles lie in `$XDG_STATE_HOME/pneuma`, or in
    /// `~/.local/state/pneuma` where that variable is not set (XDG base directories).
    pub fn new(spawner: Spawner, clock: Arc<dyn Clock>) -> Self {
        LinkLocalSessions {
            spawner,
            clock,
            profiles: profiles_folder(),
        }
    }
}

/// Where profiles lie if nobody says otherwise; see [`LinkLocalSessions::new`].
pub fn profiles_folder() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("pneuma"))
}

impl SessionFactory for LinkLocalSessions {
    fn start(&self, account: &Account) -> BoxFuture<'static, Result<StartedSession, Error>> {
        let (spawner, clock) = (self.spawner.clone(), self.clock.clone());
        let config = self.profiles.as_ref().map(|profiles| LinkLocalConfig {
            published_name: account.published_name.clone(),
            first_name: account.first_name.clone(),
            last_name: account.last_name.clone(),
            nickname: account.nickname.clone(),
            email: account.email.clone(),
            jid: account.jid.clone(),
            require_encryption: account.require_encryption,
            profile_dir: profiles.join(&account.profile),
            interface: account.interface.clone(),
            mdns_port: account.mdns_port,
            discovery: account.discovery,
            bytestreams: account.bytestreams,
        });
        Box::pin(async move {
            let config = config.ok_or_else(|| {
                Error::NotAvailable(
                    "there is no place for keys: neither XDG_STATE_HOME nor HOME is set".into(),
                )
            })?;
            // It reads and perhaps makes the profile, which takes as long as the disk does.
            smol::unblock(move || link_local::start(config, spawner, clock)).await
        })
    }
}
