//! The account of the profile: whether it is online, encrypted, and whether somebody poses as a contact.

use super::Finding;
use crate::{
    cli::app::App,
    client::{self, Bus, Connection, Status, TrustLevel},
};

/// What the other checks go by. Without a bus, as it is by default: there is no connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// The profile has a connection, online or not, or may have one that could not be looked at: it
    /// is in use as it should be.
    pub in_use: bool,
    /// Where it is online.
    pub online: Option<Online>,
}

/// An account that is online.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Online {
    /// Our own id.
    pub id: String,
    /// Who finds contacts for it: `avahi` or `built-in`.
    pub responder: String,
}

/// The checks, and what they found out for others.
pub(super) async fn look(app: &App, bus: &Bus) -> (Vec<Finding>, Account) {
    match connection(app, bus).await {
        Ok(looked) => looked,
        Err(error) => (
            vec![Finding::wrong(
                "account",
                format!("the account cannot be looked at: {error}"),
                "stop the connection manager; the next command starts it anew",
            )],
            Account {
                in_use: true,
                online: None,
            },
        ),
    }
}

async fn connection(app: &App, bus: &Bus) -> client::Result<(Vec<Finding>, Account)> {
    let profile = app.account.profile();
    let offline = format!(
        "the account of the profile {profile} is offline; commands bring it online while they run"
    );
    let Some(connection) = Connection::of_profile(bus, profile).await? else {
        return Ok((vec![Finding::good("account", offline)], Account::default()));
    };
    if connection.status().await? != Status::Connected {
        return Ok((
            vec![Finding::note(
                "account",
                "the account is not online yet",
                "",
            )],
            Account {
                in_use: true,
                online: None,
            },
        ));
    }
    let id = connection.self_id().await?;
    let responder = connection.responder().await?;
    let contacts = connection.contacts().await?;
    let mut found = vec![Finding::good(
        "account",
        format!("the account is online as {id}"),
    )];
    found.push(if connection.encryption_required().await? {
        Finding::good("encryption", "nobody is spoken to without encryption")
    } else {
        Finding::note(
            "encryption",
            "contacts you never dealt with may be spoken to without encryption",
            "leave --allow-plaintext out if you do not need them",
        )
    });
    let own = contacts.iter().filter(|one| one.trust.is_pinned()).count();
    let present = contacts.iter().filter(|one| one.show.is_online()).count();
    found.push(Finding::good(
        "contacts",
        format!("{present} people are on the network; {own} contacts are your own"),
    ));
    for blocked in contacts
        .iter()
        .filter(|one| one.trust.level == TrustLevel::Blocked)
        .take(5)
    {
        found.push(Finding::wrong(
            "blocked",
            format!("{} is blocked: its name belongs to another key", blocked.id),
            "ask the person by another way whether the machine is new; if so, `pneuma verify --replace` takes the new key, else somebody is posing",
        ));
    }
    for kept in connection
        .kept()
        .await?
        .iter()
        .filter(|kept| !kept.waiting.is_empty())
    {
        found.push(Finding::note(
            "kept",
            format!(
                "{} with {} is kept as k{} and waits: {}",
                kept.service, kept.contact, kept.number, kept.waiting
            ),
            "",
        ));
    }
    let account = Account {
        in_use: true,
        online: Some(Online { id, responder }),
    };
    Ok((found, account))
}
