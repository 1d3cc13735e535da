//! Which names a program has on a bus besides the one that is asked about. Pure.
//!
//! ```text
//!   begin ──► ListNames ──► GetNameOwner of each ──► done: those of the same owner
//! ```
//!
//! A bus tells who owns a name, not what somebody owns, so it is asked about every one.

use std::{collections::BTreeMap, num::NonZeroU32};

use zbus::Message;

use super::words::{BUS, BUS_PATH, Out};
use crate::client::error::{Error, Kind, Result};

/// Most names of a bus that are asked about; with more, nothing is known of a program.
pub const MOST_NAMES: usize = 2048;
/// Most that a sentence names.
const MOST_NAMED: usize = 4;

/// See the module's head.
#[derive(Debug)]
pub struct Looking {
    name: String,
    owner: String,
    listing: Option<NonZeroU32>,
    /// The names that were asked about, by the question's number.
    asked: BTreeMap<NonZeroU32, String>,
    others: Vec<String>,
}

impl Looking {
    /// Begins: for what `owner` has besides `name`.
    ///
    /// # Errors
    /// When a message cannot be built.
    pub fn begin(name: &str, owner: &str) -> Result<(Self, Out)> {
        let (serial, out) = ask("ListNames", &())?;
        let looking = Looking {
            name: name.to_owned(),
            owner: owner.to_owned(),
            listing: Some(serial),
            asked: BTreeMap::new(),
            others: Vec::new(),
        };
        Ok((looking, out))
    }

    /// Whether everything has been answered.
    pub fn is_done(&self) -> bool {
        self.listing.is_none() && self.asked.is_empty()
    }

    /// The other names.
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// Takes an answer of the bus; what is asked next. `None` when it answers none of our questions.
    ///
    /// # Errors
    /// When the bus does not say its names, or has more than [`MOST_NAMES`].
    pub fn answered(&mut self, serial: NonZeroU32, message: &Message) -> Option<Result<Vec<Out>>> {
        if self.listing == Some(serial) {
            self.listing = None;
            return Some(self.listed(message));
        }
        let name = self.asked.remove(&serial)?;
        // An error says that nobody has it any more.
        let body = message.body();
        if body.deserialize::<&str>().ok() == Some(&self.owner) {
            self.others.push(name);
        }
        Some(Ok(vec![]))
    }

    fn listed(&mut self, message: &Message) -> Result<Vec<Out>> {
        let body = message.body();
        let names = body.deserialize::<Vec<&str>>().map_err(|_| {
            Error::new(
                Kind::BadAnswer,
                "the session bus does not say which names there are",
            )
        })?;
        let others = names
            .into_iter()
            .filter(|name| !name.starts_with(':') && *name != BUS && *name != self.name);
        let mut out = Vec::new();
        for name in others {
            if out.len() == MOST_NAMES {
                return Err(Error::new(
                    Kind::ResourceUnavailable,
                    format!(
                        "there are too many names on the session bus to know what the program that has {} is: say with --object which of its objects are shared",
                        self.name
                    ),
                ));
            }
            let (serial, question) = ask("GetNameOwner", &name)?;
            self.asked.insert(serial, name.to_owned());
            out.push(question);
        }
        Ok(out)
    }
}

/// Why a program's objects are not all shared under one of its names.
pub fn has_others(name: &str, others: &[String]) -> Error {
    let named = others[..others.len().min(MOST_NAMED)].join(", ");
    let more = match others.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Error::new(
        Kind::NotAvailable,
        format!(
            "the program that has {name} has {named}{more} too, and a contact would reach all of its objects: say with --object which are shared, or --object / for all"
        ),
    )
}

/// A question to the bus, and its number.
pub(super) fn ask<B>(member: &str, body: &B) -> Result<(NonZeroU32, Out)>
where
    B: serde::Serialize + zbus::DynamicType,
{
    let call = Message::method_call(BUS_PATH, member)
        .interface(BUS)
        .destination(BUS)
        .build(body)?;
    Ok((call.primary_header().serial_num(), Out::Bus(call)))
}
