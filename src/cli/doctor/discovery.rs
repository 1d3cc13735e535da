//! What finding each other takes: an interface, the port of multicast DNS, packets that come back, and
//! our own announcement heard as others hear it.

use super::{Finding, account::Online};
use crate::{
    cli::app::App,
    inspection::{self, Interface},
};

/// Interfaces that are looked at; a machine with more has them for containers.
const MOST: usize = 8;

/// The checks; `online`, where the account is so.
pub(super) async fn look(app: &App, online: Option<&Online>) -> Vec<Finding> {
    let only = app
        .account
        .interface
        .clone()
        .filter(|name| !name.is_empty());
    let port = app.account.mdns_port.unwrap_or(inspection::MDNS_PORT);
    let by_avahi = match online {
        Some(online) => online.responder == "avahi",
        None => would_be_avahi(app, port).await,
    };
    let online = online.cloned();
    // It waits for packets.
    smol::unblock(move || {
        let (mut found, interfaces) = interfaces(only.as_deref());
        let mut works = !interfaces.is_empty();
        match inspection::beside(port, true) {
            Ok(_) => {
                found.push(Finding::good(
                    "port",
                    format!("UDP port {port} can be shared with whoever uses it"),
                ));
                found.extend(others(port));
            }
            Err(error) => {
                works = false;
                found.push(taken(port, &error, by_avahi));
            }
        }
        if works {
            found.extend(interfaces.iter().take(MOST).map(|one| echo(one, port)));
        }
        if let Some(online) = online.filter(|_| works) {
            found.push(announced(&online.id, port, only.as_deref()));
        }
        found
    })
    .await
}

/// Whether the Avahi daemon would find contacts for us, were the account online.
async fn would_be_avahi(app: &App, port: u16) -> bool {
    let wanted = app.account.discovery.as_deref().unwrap_or("auto");
    port == inspection::MDNS_PORT
        && matches!(wanted, "auto" | "avahi")
        && inspection::avahi_runs(&app.spawner, &app.clock).await
}

fn interfaces(only: Option<&str>) -> (Vec<Finding>, Vec<Interface>) {
    let all = match inspection::interfaces(only) {
        Ok(all) => all,
        Err(error) => {
            let wrong = Finding::wrong(
                "interfaces",
                format!("the network interfaces cannot be listed: {error}"),
                "look whether something confines this program",
            );
            return (vec![wrong], Vec::new());
        }
    };
    if let Some(only) = only {
        let finding = if all.is_empty() {
            Finding::wrong(
                "interfaces",
                format!("the interface {only} is not there, not up, or has no address"),
                "leave --interface (PNEUMA_INTERFACE) out, or name one that `ip addr` shows as UP",
            )
        } else {
            Finding::good("interfaces", format!("the interface {only} is up"))
        };
        return (vec![finding], all);
    }
    let (usable, rest): (Vec<_>, Vec<_>) = all
        .into_iter()
        .filter(|one| one.name != "lo")
        .partition(|one| multicasts(&one.name));
    let mut found = Vec::new();
    let names = |list: &[Interface]| {
        let names: Vec<&str> = list.iter().map(|one| one.name.as_str()).collect();
        names.join(", ")
    };
    found.push(if usable.is_empty() {
        Finding::wrong(
            "interfaces",
            "no network interface is up that can multicast, so nobody but people on this machine is found",
            "connect this machine to a network",
        )
    } else {
        Finding::good("interfaces", format!("up, and able to multicast: {}", names(&usable)))
    });
    if !rest.is_empty() {
        found.push(Finding::note(
            "interfaces",
            format!(
                "nobody is found over {}, which cannot multicast",
                names(&rest)
            ),
            "",
        ));
    }
    (found, usable)
}

/// Whether an interface has the flag IFF_MULTICAST (0x1000).
fn multicasts(name: &str) -> bool {
    let flags = std::fs::read_to_string(format!("/sys/class/net/{name}/flags"));
    let flags = flags.unwrap_or_default();
    let number = flags.trim().trim_start_matches("0x");
    // Where nothing is told, the attempt will tell.
    u32::from_str_radix(number, 16).map_or(true, |flags| flags & 0x1000 != 0)
}

/// The port cannot be had; `by_avahi`: contacts are found by that, or would be.
fn taken(port: u16, error: &std::io::Error, by_avahi: bool) -> Finding {
    // A daemon that was told `disallow-other-stacks` shares it with nobody, and we need not.
    if by_avahi {
        return Finding::note(
            "port",
            format!("UDP port {port} is Avahi's alone, which finds contacts for us"),
            "",
        );
    }
    let users = inspection::at_udp_port(port).unwrap_or_default();
    let whose = match users.first() {
        Some(user) => format!(", by a program of user {user} that shares it with nobody"),
        None => String::new(),
    };
    Finding::wrong(
        "port",
        format!("UDP port {port}, which discovery needs, cannot be used: {error}{whose}"),
        format!("end the program that `ss -ulpn sport = {port}` shows"),
    )
}

/// Who else is at the port.
fn others(port: u16) -> Option<Finding> {
    let users = inspection::at_udp_port(port).ok()?;
    let own = rustix::process::geteuid().as_raw();
    let others: Vec<u32> = users.into_iter().filter(|user| *user != own).collect();
    let first = others.first()?;
    Some(Finding::note(
        "responders",
        format!(
            "another program of user {first} is at UDP port {port} too (Avahi, systemd-resolved); the port is shared"
        ),
        "",
    ))
}

fn echo(interface: &Interface, port: u16) -> Finding {
    let name = &interface.name;
    match inspection::comes_back(interface, port) {
        Ok(true) => Finding::good(
            "multicast",
            format!("multicast on {name} comes back to this machine"),
        ),
        Ok(false) => Finding::wrong(
            "multicast",
            format!(
                "what is sent to everybody on {name} does not come back; a firewall on this machine probably drops it"
            ),
            format!("allow UDP port {port} in and out on {name}, and TCP from the local network"),
        ),
        Err(error) => Finding::wrong(
            "multicast",
            format!("nothing can be sent to everybody on {name}: {error}"),
            format!("look at `ip addr show {name}` and at the firewall"),
        ),
    }
}

fn announced(id: &str, port: u16, only: Option<&str>) -> Finding {
    match inspection::is_announced(id, port, only) {
        Ok(true) => Finding::good("announcement", format!("others hear of {id}")),
        Ok(false) => Finding::wrong(
            "announcement",
            format!("{id} is online and its announcement is not heard, so others do not see it"),
            "look at the firewall; if that lets UDP port 5353 through, `pneuma disconnect` and try again",
        ),
        Err(error) => Finding::wrong(
            "announcement",
            format!("announcements cannot be listened to: {error}"),
            "look at the other findings about discovery",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_port_that_avahi_has_for_us_is_not_wrong() {
        let error = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let verdict = |by_avahi| {
            let finding = taken(inspection::MDNS_PORT, &error, by_avahi);
            (finding.verdict, finding.todo.is_empty())
        };
        assert_eq!(verdict(true), (Verdict::Note, true));
        assert_eq!(verdict(false), (Verdict::Wrong, false));
    }
}
