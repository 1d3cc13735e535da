//! The parameters of RequestConnection, checked and typed.

use actors::model::Error;

use crate::session::bytestreams::Methods;

use super::{
    protocol::{PARAMETERS, Parameter, ParameterDefault},
    value::{Given, GivenMap},
};
use crate::session::link_local::{MDNS_PORT, discovery::Method};

/// Most bytes `published-name` may have: an mDNS label's length, which leaves nothing for the
/// machine's name; the session shortens what does not fit.
pub const MAX_PUBLISHED_NAME: usize = 63;
/// Most bytes any other text may have: a TXT record's string holds 255 with its key.
pub const MAX_TEXT: usize = 240;
/// Most bytes a profile's name may have; it names a folder.
pub const MAX_PROFILE: usize = 64;

/// An account: what RequestConnection was given, with the defaults filled in. Written down with kept
/// tubes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// `published-name`: the part of our identifier before the `@`.
    pub published_name: String,
    /// `first-name`, TXT `1st`.
    pub first_name: String,
    /// `last-name`, TXT `last`.
    pub last_name: String,
    /// `nickname`, TXT `nick`.
    pub nickname: String,
    /// `email`, TXT `email`.
    pub email: String,
    /// `jid`, TXT `jid`.
    pub jid: String,
    /// `require-encryption`: no plaintext to anybody.
    pub require_encryption: bool,
    /// `pneuma-profile`: the folder with our key and whom we trust.
    pub profile: String,
    /// `pneuma-interface`: the one network interface to use; all of them if absent.
    pub interface: Option<String>,
    /// `pneuma-mdns-port`.
    pub mdns_port: u16,
    /// `pneuma-discovery`: `auto`, `avahi` or `built-in`.
    pub discovery: Method,
    /// `pneuma-bytestreams`: which ways the bytes may go.
    pub bytestreams: Methods,
    /// `pneuma-any-local-user`: sockets let in every user of this machine, as the specification's
    /// Localhost does.
    pub any_local_user: bool,
}

impl Account {
    /// Checks the parameters against the table of the protocol. `login` is what `published-name` is
    /// when it is not given.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown parameter, a value of the wrong type, and text that is too
    /// long or holds control characters.
    pub fn new(parameters: &GivenMap, login: &str) -> Result<Self, Error> {
        for (name, value) in parameters {
            let Some(parameter) = PARAMETERS.iter().find(|parameter| parameter.name == name) else {
                return Err(Error::InvalidArgument(format!(
                    "there is no connection parameter '{}'",
                    name.escape_debug()
                )));
            };
            check(parameter, value)?;
        }
        let text = |name: &str| match parameters.get(name) {
            Some(Given::Text(text)) => Some(text.clone()),
            _ => default(name).and_then(|default| match default {
                ParameterDefault::Text(text) => Some((*text).to_owned()),
                _ => None,
            }),
        };
        let bool = |name: &str| match (parameters.get(name), default(name)) {
            (Some(Given::Bool(value)), _) | (None, Some(ParameterDefault::Bool(value))) => *value,
            _ => false,
        };
        let mdns_port = match (
            parameters.get("pneuma-mdns-port"),
            default("pneuma-mdns-port"),
        ) {
            (Some(given), _) => given.number("pneuma-mdns-port")?,
            (None, Some(ParameterDefault::Port(port))) => *port,
            (None, _) => 0,
        };
        if mdns_port == 0 {
            return Err(Error::InvalidArgument(
                "pneuma-mdns-port cannot be 0".into(),
            ));
        }
        let discovery = method(&text("pneuma-discovery").unwrap_or_default())?;
        if discovery == Method::Avahi && mdns_port != MDNS_PORT {
            return Err(Error::InvalidArgument(format!(
                "Avahi uses port {MDNS_PORT} only: leave out pneuma-mdns-port, or set pneuma-discovery to built-in"
            )));
        }
        let profile = text("pneuma-profile").unwrap_or_default();
        check_profile(&profile)?;
        Ok(Account {
            published_name: text("published-name")
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| login_fit(login)),
            first_name: text("first-name").unwrap_or_default(),
            last_name: text("last-name").unwrap_or_default(),
            nickname: text("nickname").unwrap_or_default(),
            email: text("email").unwrap_or_default(),
            jid: text("jid").unwrap_or_default(),
            require_encryption: bool("require-encryption"),
            profile,
            interface: text("pneuma-interface").filter(|name| !name.is_empty()),
            mdns_port,
            discovery,
            bytestreams: methods(&text("pneuma-bytestreams").unwrap_or_default())?,
            any_local_user: bool("pneuma-any-local-user"),
        })
    }

    /// What IdentifyAccount answers: which parameters make it this account and no other.
    pub fn identifier(&self) -> &str {
        &self.published_name
    }
}

fn default(name: &str) -> Option<&'static ParameterDefault> {
    PARAMETERS
        .iter()
        .find(|parameter| parameter.name == name)
        .and_then(|parameter| parameter.default.as_ref())
}

fn check(parameter: &Parameter, value: &Given) -> Result<(), Error> {
    use super::protocol::ParameterKind;
    match parameter.kind {
        ParameterKind::Text => {
            let text = value.text(parameter.name)?;
            let most = if parameter.name == "published-name" {
                MAX_PUBLISHED_NAME
            } else {
                MAX_TEXT
            };
            if text.len() > most || text.chars().any(char::is_control) {
                return Err(Error::InvalidArgument(format!(
                    "{} has at most {most} bytes and no control characters",
                    parameter.name
                )));
            }
            Ok(())
        }
        ParameterKind::Bool => value.bool(parameter.name).map(drop),
        ParameterKind::Port => value.number::<u16>(parameter.name).map(drop),
    }
}

fn method(name: &str) -> Result<Method, Error> {
    match name {
        "auto" => Ok(Method::Auto),
        "avahi" => Ok(Method::Avahi),
        "built-in" => Ok(Method::BuiltIn),
        _ => Err(Error::InvalidArgument(
            "pneuma-discovery is auto, avahi or built-in".into(),
        )),
    }
}

/// A profile's name is a folder's name and must not lead anywhere else.
fn check_profile(profile: &str) -> Result<(), Error> {
    let fits = !profile.is_empty()
        && profile.len() <= MAX_PROFILE
        && !profile.starts_with('.')
        && profile
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits {
        Ok(())
    } else {
        Err(Error::InvalidArgument(format!(
            "pneuma-profile has 1 to {MAX_PROFILE} letters, digits, dots, dashes and underscores and does not begin with a dot"
        )))
    }
}

/// Words with commas between them; how they are ordered does not matter.
fn methods(words: &str) -> Result<Methods, Error> {
    let mut methods = Methods {
        socks5: false,
        in_band: false,
    };
    for word in words.split(',') {
        match word.trim() {
            "socks5" => methods.socks5 = true,
            "ibb" => methods.in_band = true,
            _ => {
                return Err(Error::InvalidArgument(
                    "pneuma-bytestreams is one or both of socks5 and ibb, with a comma between them"
                        .into(),
                ));
            }
        }
    }
    Ok(methods)
}

fn login_fit(login: &str) -> String {
    let mut fit = String::new();
    for c in login.chars().filter(|c| !c.is_control()) {
        if fit.len() + c.len_utf8() > MAX_PUBLISHED_NAME {
            break;
        }
        fit.push(c);
    }
    if fit.is_empty() { "user".into() } else { fit }
}

/// The login name of whoever runs this: what the session's environment says, else the user
/// database's files, else the number.
pub fn login_name() -> String {
    let from_environment = ["LOGNAME", "USER"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|name| !name.is_empty());
    from_environment.unwrap_or_else(|| {
        let uid = rustix::process::getuid().as_raw().to_string();
        std::fs::read_to_string("/etc/passwd")
            .ok()
            .and_then(|users| {
                users.lines().find_map(|line| {
                    let mut fields = line.split(':');
                    let name = fields.next()?;
                    (fields.nth(1)? == uid).then(|| name.to_owned())
                })
            })
            .unwrap_or_else(|| format!("user{uid}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(values: &[(&str, Given)]) -> GivenMap {
        values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    }

    fn refused(values: &[(&str, Given)]) -> String {
        match Account::new(&given(values), "ada") {
            Err(Error::InvalidArgument(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_required() {
        let account = Account::new(&GivenMap::new(), "ada").unwrap();
        assert_eq!(account.identifier(), "ada");
        assert!(account.require_encryption);
        assert!(!account.any_local_user);
        assert_eq!(account.bytestreams, Methods::ALL);
        assert_eq!(account.profile, "default");
        assert_eq!(account.mdns_port, 5353);
        assert_eq!(account.interface, None);
        assert_eq!(account.discovery, Method::Auto);
    }

    #[test]
    fn what_is_given_counts() {
        let account = Account::new(
            &given(&[
                ("published-name", Given::Text("grace".into())),
                ("require-encryption", Given::Bool(false)),
                ("pneuma-mdns-port", Given::Integer(15353)),
                ("pneuma-interface", Given::Text("lo".into())),
                ("pneuma-discovery", Given::Text("built-in".into())),
            ]),
            "ada",
        )
        .unwrap();
        assert_eq!(account.identifier(), "grace");
        assert!(!account.require_encryption);
        assert_eq!(account.mdns_port, 15353);
        assert_eq!(account.discovery, Method::BuiltIn);
        assert_eq!(account.interface.as_deref(), Some("lo"));
        let ways = |words: &str| {
            let words = Given::Text(words.into());
            let account = Account::new(&given(&[("pneuma-bytestreams", words)]), "ada");
            let ways = account.unwrap().bytestreams;
            (ways.socks5, ways.in_band)
        };
        assert_eq!(ways("ibb"), (false, true));
        assert_eq!(ways("socks5"), (true, false));
        assert_eq!(ways("ibb, socks5"), (true, true));
        let port = Account::new(&given(&[("pneuma-mdns-port", Given::Uint(7))]), "ada");
        assert_eq!(port.unwrap().mdns_port, 7);
    }

    #[test]
    fn what_is_wrong_is_refused_with_a_reason() {
        assert!(refused(&[("password", Given::Text("x".into()))]).contains("'password'"));
        assert!(refused(&[("published-name", Given::Uint(1))]).contains("must be text"));
        assert!(refused(&[("require-encryption", Given::Text("yes".into()))]).contains("true"));
        assert!(refused(&[("pneuma-mdns-port", Given::Integer(70_000))]).contains("70000"));
        assert!(refused(&[("pneuma-mdns-port", Given::Integer(-1))]).contains("-1"));
        assert!(refused(&[("pneuma-mdns-port", Given::Uint(0))]).contains('0'));
        assert!(refused(&[("nickname", Given::Other("a{sv}".into()))]).contains("a{sv}"));
        assert!(refused(&[("nickname", Given::Text("a\nb".into()))]).contains("control"));
        assert!(refused(&[("nickname", Given::Text("x".repeat(1 << 20)))]).contains("240"));
        assert!(refused(&[("pneuma-discovery", Given::Text("mdns".into()))]).contains("built-in"));
        let other_port = [
            ("pneuma-discovery", Given::Text("avahi".into())),
            ("pneuma-mdns-port", Given::Uint(5354)),
        ];
        assert!(refused(&other_port).contains("port 5353 only"));
        for words in ["", "sock5", "socks5,", "socks5 ibb"] {
            refused(&[("pneuma-bytestreams", Given::Text(words.into()))]);
        }
        for profile in ["../x", "a/b", ".hidden", "", "a\0", &"p".repeat(65)] {
            refused(&[("pneuma-profile", Given::Text(profile.into()))]);
        }
    }

    #[test]
    fn a_login_name_that_does_not_fit_is_cut() {
        let account = Account::new(&GivenMap::new(), &"ß".repeat(60)).unwrap();
        assert_eq!(account.published_name, "ß".repeat(31));
        assert_eq!(
            Account::new(&GivenMap::new(), "\n").unwrap().published_name,
            "user"
        );
    }
}
