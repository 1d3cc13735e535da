//! Addresses as people write them: `5900`, `host:port`, `[v6]:port`, `unix:/path`, `abstract:name`.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use actors::model::SocketAddress;

use crate::client::from_ip;

/// An address that was understood and not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A Unix socket in Linux's abstract namespace, by its name without the leading zero.
    Abstract(String),
    /// A TCP port of a host: a literal address or a name.
    Tcp {
        /// Without brackets.
        host: String,
        /// Not 0, except for listening.
        port: u16,
    },
}

/// Longest path a Unix socket can have on Linux, 108 bytes with the NUL at its end; and the longest
/// abstract name, with the NUL at its beginning.
const MOST_PATH: usize = 107;

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.len() > MOST_PATH || path.contains('\0') {
                return Err(format!(
                    "a socket's path has 1 to {MOST_PATH} bytes, as in unix:/run/user/1000/service"
                ));
            }
            return Ok(Address::Unix(PathBuf::from(path)));
        }
        if let Some(name) = text.strip_prefix("abstract:") {
            if name.is_empty() || name.len() > MOST_PATH {
                return Err(format!(
                    "an abstract socket's name has 1 to {MOST_PATH} bytes, as in abstract:service"
                ));
            }
            return Ok(Address::Abstract(name.into()));
        }
        let port = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or_else(|| format!("`{text}` is no port; a port is a number up to 65535"))
        };
        if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            return Ok(Address::Tcp {
                host: "127.0.0.1".into(),
                port: port(text)?,
            });
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest
                .split_once("]:")
                .ok_or("an IPv6 address and its port are written [::1]:5900")?;
            let literal = host.split_once('%').map_or(host, |(literal, _)| literal);
            if literal.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("`{host}` is no IPv6 address"));
            }
            return Ok(Address::Tcp {
                host: host.into(),
                port: port(rest)?,
            });
        }
        let (host, rest) = text
            .rsplit_once(':')
            .ok_or("write a port, host:port, [v6]:port, unix:/path or abstract:name")?;
        if host.contains(':') {
            return Err(format!(
                "an IPv6 address stands in brackets: [{host}]:{rest}"
            ));
        }
        if host.is_empty() || host.contains(char::is_whitespace) || host.contains('/') {
            return Err(format!("`{host}` is no host"));
        }
        Ok(Address::Tcp {
            host: host.into(),
            port: port(rest)?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "abstract:{name}"),
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Address {
    /// Looks a host's name up. A relative path is taken from the current folder, since the
    /// service that uses it has another one. Of several addresses the first counts, IPv4 before
    /// IPv6 for a loopback name, since that is where most local services listen.
    ///
    /// # Errors
    /// A sentence.
    pub async fn resolve(&self) -> Result<SocketAddress, String> {
        let (host, port) = match self {
            Address::Unix(path) => {
                let path = std::path::absolute(path)
                    .map_err(|error| format!("the current folder cannot be read: {error}"))?;
                if path.as_os_str().len() > MOST_PATH {
                    return Err(format!(
                        "{} is longer than the {MOST_PATH} bytes a socket's path can have",
                        path.display()
                    ));
                }
                return Ok(SocketAddress::Unix(path));
            }
            Address::Abstract(name) => {
                return Ok(SocketAddress::AbstractUnix(name.clone().into_bytes()));
            }
            Address::Tcp { host, port } => (host, *port),
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(from_ip((ip, port).into()));
        }
        let found = async_net::resolve((host.as_str(), port))
            .await
            .map_err(|error| format!("the host {host} cannot be found: {error}"))?;
        let loopback_v4 = found
            .iter()
            .find(|address| address.is_ipv4() && address.ip().is_loopback());
        loopback_v4
            .or(found.first())
            .copied()
            .map(from_ip)
            .ok_or_else(|| format!("the host {host} has no address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Result<Address, String> {
        Ok(Address::Tcp {
            host: host.into(),
            port,
        })
    }

    #[test]
    fn the_forms_people_write() {
        assert_eq!("5900".parse(), tcp("127.0.0.1", 5900));
        assert_eq!("localhost:80".parse(), tcp("localhost", 80));
        assert_eq!("10.0.0.7:22".parse(), tcp("10.0.0.7", 22));
        assert_eq!("[::1]:80".parse(), tcp("::1", 80));
        assert_eq!("[fe80::1%eth0]:80".parse(), tcp("fe80::1%eth0", 80));
        assert_eq!(
            "unix:/run/x".parse(),
            Ok(Address::Unix(PathBuf::from("/run/x")))
        );
        assert_eq!(
            "abstract:a:b/c".parse(),
            Ok(Address::Abstract("a:b/c".into()))
        );
    }

    #[test]
    fn everything_else_is_refused_with_advice() {
        for text in [
            "",
            "65536",
            "host",
            ":80",
            "host:",
            "host:x",
            "host:+5",
            "::1:80",
            "[::1]",
            "[x]:80",
            "unix:",
            "abstract:",
            "a b:80",
            "http://x:80",
            "host:80:90",
            "-5",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        for kind in ["unix:/", "abstract:x"] {
            let long = format!("{kind}{}", "x".repeat(107));
            assert!(long.parse::<Address>().is_err(), "{long}");
        }
        let advice = "::1:80".parse::<Address>().unwrap_err();
        assert!(advice.contains("[::1]:80"), "{advice}");
    }

    #[test]
    fn what_is_shown_can_be_written_again() {
        for text in [
            "127.0.0.1:5900",
            "[::1]:80",
            "unix:/run/x",
            "abstract:x",
            "host:1",
        ] {
            assert_eq!(
                text.parse::<Address>().map(|a| a.to_string()),
                Ok(text.into())
            );
        }
    }

    #[test]
    fn addresses_are_looked_up() {
        smol::block_on(async {
            let at = |text: &str| text.parse::<Address>();
            assert_eq!(
                at("localhost:80").unwrap().resolve().await,
                Ok(SocketAddress::Ipv4("127.0.0.1:80".parse().unwrap()))
            );
            assert_eq!(
                at("[::1]:80").unwrap().resolve().await,
                Ok(SocketAddress::Ipv6("[::1]:80".parse().unwrap()))
            );
            let relative = at("unix:service").unwrap().resolve().await;
            let Ok(SocketAddress::Unix(path)) = relative else {
                panic!("{relative:?}");
            };
            assert!(path.is_absolute() && path.ends_with("service"));
            let unknown = at("no-such-host.invalid:1").unwrap().resolve().await;
            assert!(unknown.unwrap_err().contains("no-such-host.invalid"));
        });
    }
}
