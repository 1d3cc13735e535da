//! Finding each other (XEP-0174 sections 3 and 4): who is on the network, and telling it of us.
//!
//! [`Discovery`] is the trait; [`driver`] implements it, with mdns-sd ([`mdns`]) or the machine's own
//! Avahi daemon ([`avahi`]) under it, which see each other and whoever else speaks multicast DNS. The
//! session tells it what to announce and hears [`DiscoveryEvent`]s. Everything in an event was
//! written by strangers: names, keys and addresses are hints until a stream proves them.

use std::{collections::BTreeMap, net::SocketAddr};

use actors::{model::Error, runtime::BoxFuture};
use async_channel::Receiver;

use crate::session::trust::KeyId;

pub mod avahi;
pub mod driver;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod look;
mod mdns;
mod pending;
mod responder;
mod subnets;
mod txt;

pub use txt::{PresenceText, clean};

/// Most addresses that are kept of one sighting; more are ignored.
pub const MAX_ADDRESSES: usize = 8;
/// Most bytes of an instance's name: one DNS label (RFC 1035 section 2.3.4).
pub const MAX_INSTANCE: usize = 63;

/// Who speaks multicast DNS for us (`pneuma-discovery`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Avahi where a daemon answers, else mdns-sd.
    #[default]
    Auto,
    /// Avahi, or nobody.
    Avahi,
    /// mdns-sd.
    BuiltIn,
}

impl Method {
    /// As the parameter has it.
    pub fn name(self) -> &'static str {
        match self {
            Method::Auto => "auto",
            Method::Avahi => "avahi",
            Method::BuiltIn => "built-in",
        }
    }
}

/// What we announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// `user@machine`, before conflicts.
    pub name: String,
    /// The port of the XML stream listener.
    pub port: u16,
    /// The TXT record.
    pub text: PresenceText,
}

/// Somebody on the network, as its records say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The instance, `user@machine`. Not empty, no control characters, at most [`MAX_INSTANCE`] bytes
    /// unless it holds dots.
    pub instance: String,
    /// Where its XML streams listen, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<SocketAddr>,
    /// The TXT record.
    pub text: PresenceText,
}

/// What discovery tells the session. The channel is bounded; discovery coalesces while it is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoveryEvent {
    /// We are announced under this name; again whenever it changes because somebody else has it.
    Published(String),
    /// Somebody appeared or changed.
    Seen(Box<Sighting>),
    /// Somebody said goodbye or was not heard of for the lifetime of its records. Anybody can forge it.
    Gone(String),
    /// Discovery has broken down for good.
    Failed(Error),
}

/// See the module's head. Dropping it ends everything without a goodbye.
pub trait Discovery: Send + Sync + 'static {
    /// Begins to announce and to browse.
    ///
    /// # Errors
    /// `NetworkError` when nothing can be sent or heard, `InvalidArgument` for what DNS cannot carry.
    fn start(
        &self,
        announcement: Announcement,
    ) -> BoxFuture<'static, Result<Receiver<DiscoveryEvent>, Error>>;

    /// Replaces the TXT record. Does nothing before [`Discovery::start`]. Of several in a row only the
    /// last need ever be heard.
    fn update(&self, text: PresenceText);

    /// Who speaks for us now; nobody before [`Discovery::start`] has done its work. Never
    /// [`Method::Auto`].
    fn responder(&self) -> Option<Method>;

    /// Whose sightings are kept when there are too many: pinned keys, and the name that each was pinned
    /// under.
    fn set_pinned(&self, pinned: BTreeMap<KeyId, String>);

    /// Says goodbye and ends. Takes a second at most.
    fn stop(&self) -> BoxFuture<'static, ()>;
}

/// The name to try after `taken`, of which `base` was the beginning: `user@machine #2` and so on.
pub fn next_name(base: &str, attempt: u32) -> String {
    let suffix = format!(" #{attempt}");
    format!("{}{suffix}", truncated(base, MAX_INSTANCE - suffix.len()))
}

/// The longest beginning of `text` that has at most `bytes` bytes.
pub fn truncated(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_a_number_and_still_fits() {
        assert_eq!(next_name("romeo@forza", 2), "romeo@forza #2");
        let long = next_name(&"ö".repeat(40), 12);
        assert!(
            long.len() <= MAX_INSTANCE && long.ends_with("ö #12"),
            "{long}"
        );
    }
}
