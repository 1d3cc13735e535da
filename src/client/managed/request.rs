//! A channel by way of the channel dispatcher, handed to a Handler of our own.

use std::{collections::HashMap, time::Duration};

use futures_lite::{FutureExt as _, StreamExt as _};
use zbus::{MatchRule, MessageStream, OwnedObjectPath, Variant, message};

use super::{Handed, Handler, ManagedAccount, Wish, handler::What};
use crate::{
    client::{
        bus::{path, within},
        error::{Error, Kind, Result},
        transfer::{self, Offer, Transfer},
        tube::{Tube, TubeKind},
    },
    names,
};

/// How long Mission Control may take to make a channel and hand it over. It waits for nobody but the
/// connection manager.
const DEADLINE: Duration = Duration::from_secs(30);
/// `User_Action_Timestamp`: now.
const NOW: i64 = i64::MAX;

/// Requests a tube to a contact; nothing is offered yet.
///
/// # Errors
/// What the connection manager answers, as Mission Control passes it on; [`Kind::TimedOut`].
pub async fn create_tube(
    account: &ManagedAccount,
    contact: String,
    kind: TubeKind,
    service: &str,
) -> Result<Tube> {
    let properties = HashMap::from([
        (
            format!("{}.ChannelType", names::CHANNEL),
            kind.channel_type().into(),
        ),
        (format!("{}.TargetHandleType", names::CHANNEL), 1u32.into()),
        (kind.service_property(), service.into()),
    ]);
    match create(
        account,
        contact,
        What::Tube(kind, service.to_owned()),
        properties,
    )
    .await?
    {
        Handed::Tube(tube) => Ok(tube),
        Handed::Transfer(_) => Err(something_else()),
    }
}

/// Requests a file transfer to a contact.
///
/// # Errors
/// As [`create_tube`].
pub async fn create_transfer(
    account: &ManagedAccount,
    contact: String,
    offer: &Offer,
) -> Result<Transfer> {
    match create(account, contact, What::Files, transfer::request(offer)).await? {
        Handed::Transfer(transfer) => Ok(transfer),
        Handed::Tube(_) => Err(something_else()),
    }
}

fn something_else() -> Error {
    Error::new(
        Kind::BadAnswer,
        "Mission Control handed over something else than was asked for",
    )
}

async fn create(
    account: &ManagedAccount,
    contact: String,
    what: What,
    mut properties: HashMap<String, Variant<'_>>,
) -> Result<Handed> {
    let bus = account.bus();
    // Not by handle: Mission Control may ask a later connection, where it is somebody else's.
    properties.insert(
        format!("{}.TargetID", names::CHANNEL),
        contact.clone().into(),
    );
    let wish = Wish {
        requested: true,
        contact: Some(contact),
        what,
    };
    let handler = Handler::register(account, wish).await?;
    let dispatcher = names::CHANNEL_DISPATCHER;
    let object: OwnedObjectPath = bus
        .remote(dispatcher, path(names::CHANNEL_DISPATCHER_PATH)?)
        .call(
            dispatcher,
            "CreateChannel",
            &(account.path(), properties, NOW, handler.name()),
        )
        .await?;
    let owner = bus
        .owner(dispatcher)
        .await?
        .ok_or_else(|| Error::new(Kind::ServiceGone, "Mission Control is no longer on the bus"))?;
    let rule = MatchRule::builder()
        .msg_type(message::Type::Signal)
        .sender(owner.as_str())
        .path(&object)
        .interface(names::CHANNEL_REQUEST)
        .member("Failed")
        .build()?;
    let mut failures = MessageStream::for_match_rule(rule, bus.connection(), None).await?;
    let request = bus.remote(dispatcher, object);
    request
        .call::<_, ()>(names::CHANNEL_REQUEST, "Proceed", &())
        .await?;
    let failed = async {
        let message = failures
            .next()
            .await
            .ok_or_else(|| Error::new(Kind::NoBus, "the session bus is gone"))??;
        let (name, text): (String, String) = message.body().deserialize()?;
        Err(Error::from_reply(&name, &text))
    };
    let late = Error::new(
        Kind::TimedOut,
        "Mission Control did not hand over the channel in time",
    );
    let handed = async { Ok(handler.next().await) };
    match within(bus.clock(), DEADLINE, late, handed.or(failed)).await {
        Err(error) if error.kind == Kind::TimedOut => {
            // Whatever comes of it now has nobody to handle it.
            request
                .call::<_, ()>(names::CHANNEL_REQUEST, "Cancel", &())
                .await
                .ok();
            Err(error)
        }
        outcome => outcome,
    }
}
