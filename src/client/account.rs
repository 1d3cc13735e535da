//! Connection parameters: what the protocol `local-xmpp` takes, as a typed value.

use std::collections::HashMap;

use zbus::Variant;

/// What to go online with. Everything left out has the protocol's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// `published-name`: the part before the `@`. The login name by default.
    pub published_name: Option<String>,
    /// `nickname`
    pub nickname: Option<String>,
    /// `first-name`
    pub first_name: Option<String>,
    /// `last-name`
    pub last_name: Option<String>,
    /// `email`
    pub email: Option<String>,
    /// `jid`
    pub jid: Option<String>,
    /// `require-encryption`, true by default.
    pub require_encryption: Option<bool>,
    /// `pneuma-profile`: where keys and trust lie. `default` by default.
    pub profile: Option<String>,
    /// `pneuma-interface`: the one network interface to be seen on. All by default.
    pub interface: Option<String>,
    /// `pneuma-mdns-port`: another port than 5353, for tests.
    pub mdns_port: Option<u16>,
    /// `pneuma-discovery`: `auto`, `avahi` or `built-in`. `auto` by default.
    pub discovery: Option<String>,
    /// `pneuma-bytestreams`: which ways connections may go, `socks5`, `ibb` or both. Both by default.
    pub bytestreams: Option<String>,
    /// `pneuma-any-local-user`: let other users of this machine use the tubes' sockets.
    pub any_local_user: Option<bool>,
}

impl Account {
    /// The profile, by its default where none was named.
    pub fn profile(&self) -> &str {
        self.profile.as_deref().unwrap_or("default")
    }

    /// As `RequestConnection` takes them.
    pub fn parameters(&self) -> HashMap<&'static str, Variant<'_>> {
        let mut parameters = HashMap::new();
        let texts = [
            ("published-name", &self.published_name),
            ("nickname", &self.nickname),
            ("first-name", &self.first_name),
            ("last-name", &self.last_name),
            ("email", &self.email),
            ("jid", &self.jid),
            ("pneuma-profile", &self.profile),
            ("pneuma-interface", &self.interface),
            ("pneuma-discovery", &self.discovery),
            ("pneuma-bytestreams", &self.bytestreams),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                parameters.insert(name, Variant::from(value.as_str()));
            }
        }
        let flags = [
            ("require-encryption", self.require_encryption),
            ("pneuma-any-local-user", self.any_local_user),
        ];
        for (name, value) in flags {
            if let Some(value) = value {
                parameters.insert(name, Variant::from(value));
            }
        }
        if let Some(port) = self.mdns_port {
            parameters.insert("pneuma-mdns-port", Variant::from(port));
        }
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_named_is_sent() {
        assert!(Account::default().parameters().is_empty());
        let account = Account {
            published_name: Some("ada".into()),
            require_encryption: Some(false),
            mdns_port: Some(6000),
            ..Account::default()
        };
        let parameters = account.parameters();
        assert_eq!(parameters.len(), 3);
        assert_eq!(parameters["published-name"], Variant::from("ada"));
        assert_eq!(parameters["require-encryption"], Variant::from(false));
        assert_eq!(parameters["pneuma-mdns-port"], Variant::from(6000u16));
        assert_eq!(account.profile(), "default");
    }
}
