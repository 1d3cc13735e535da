//! `pneuma demo`: two people on one machine, for real.
//!
//! ```text
//!   Ada: bus ── connection manager ◄══ loopback: mDNS, XML stream, ══► connection manager ── bus :Grace
//!                     ▲                SOCKS5, all encrypted                  │
//!                     │ accepted socket                                       ▼ dials
//!                 HTTP client                                             web server
//! ```
//!
//! Nothing is pretended: the two connection managers are processes of their own with folders, keys
//! and private buses of their own, and this process drives each through its bus as any client
//! would. They use the loopback interface and a port for discovery that nobody else has, so they
//! meet nobody else. At the end every process is stopped by its id and the folder removed, also
//! after an error or Ctrl-C.

mod fetch;
mod pattern;
mod person;
mod web;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use actors::{
    model::{AddressType, BytestreamId, SocketAddress},
    runtime::{Stopper, Time},
};
use serde_json::json;

use super::{
    app::{App, still_online},
    failure::{Failure, Outcome},
    output::Style,
    text::{safe, table},
};
use crate::client::{Connection, Contact, Event, TubeKind, from_ip};
use fetch::Site;
use person::Person;

/// How long the whole story may take, but for the download.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many round trips are measured.
const ROUND_TRIPS: usize = 200;

/// What was measured on one way to the web server.
struct Measured {
    first_byte: Duration,
    download: Duration,
    round_trip: Duration,
}

/// Plays the story and says what it measured.
///
/// # Errors
/// At the first step that does not go as it should; what the connection managers wrote is shown.
pub async fn run(app: &App, mebibytes: u64, keep: bool) -> Outcome {
    let folder = make_folder()?;
    // The web server and the one who fetches from it should not wait for each other's thread.
    let (stopper, stop) = Stopper::new();
    let executor = app.spawner.executor().clone();
    let second = std::thread::Builder::new()
        .name("demo".into())
        .spawn(move || smol::block_on(executor.run(stop.stopped())))
        .map_err(|error| Failure::failed(format!("no second thread can be had: {error}")))?;

    let mut people = Vec::new();
    let deadline = Some(app.clock.now().saturating_add(PATIENCE));
    let outcome = app
        .before(deadline, async {
            let port = person::free_discovery_port()?;
            app.out.line(app.out.paint(
                Style::Strong,
                "Two people on this machine, each with a bus, keys and a connection manager:",
            ))?;
            for name in ["ada", "grace"] {
                people.push(Person::start(&folder, name, port)?);
            }
            let (ada, grace) = match &mut people[..] {
                [ada, grace] => (ada, grace),
                _ => return Err(Failure::failed("there are not two people")),
            };
            let ada = ada.go_online(app).await?;
            let grace = grace.go_online(app).await?;
            story(app, &ada, &grace, mebibytes).await
        })
        .await
        .and_then(|told| {
            told.ok_or_else(|| {
                Failure::timed_out(format!(
                    "the story did not end within {} seconds",
                    PATIENCE.as_secs()
                ))
            })
        });

    let failed = matches!(&outcome, Err(Failure::Error { .. }));
    let mut left = Vec::new();
    for person in people {
        if failed {
            person.show_log(app);
        }
        left.extend(person.stop(app).await);
    }
    stopper.stop();
    if second.join().is_err() {
        left.push("the second thread panicked".into());
    }
    if keep {
        app.out
            .remark(format!("Kept: {}", safe(&folder.display().to_string())));
    } else if let Err(error) = std::fs::remove_dir_all(&folder) {
        left.push(format!("{} stays: {error}", folder.display()));
    }
    outcome?;
    match left.is_empty() {
        true => app
            .out
            .line("All of it was stopped and removed. It worked."),
        false => Err(Failure::failed(format!(
            "it worked, but not everything could be cleaned up: {}",
            left.join("; ")
        ))),
    }
}

/// The story itself, once both are online.
async fn story(app: &App, ada: &Connection, grace: &Connection, mebibytes: u64) -> Outcome {
    let (ada_id, grace_id) = (ada.self_id().await?, grace.self_id().await?);
    step(
        app,
        &format!("Online: {} and {}.", safe(&ada_id), safe(&grace_id)),
    )?;

    let began = app.clock.now();
    let (grace_seen, ada_seen) =
        futures_lite::future::try_zip(find(app, ada, &grace_id), find(app, grace, &ada_id)).await?;
    let found = app.clock.now() - began;
    step(
        app,
        &format!("They found each other on the network in {}.", span(found)),
    )?;

    let code = ada.comparison_code(grace_seen.handle).await?;
    let other = grace.comparison_code(ada_seen.handle).await?;
    if code != other {
        return Err(Failure::failed(format!(
            "the two see different codes: {code} and {other}"
        )));
    }
    ada.verify(grace_seen.handle, &other, false).await?;
    grace.verify(ada_seen.handle, &code, false).await?;
    step(
        app,
        "Both see the same code, so each trusts the other's key:",
    )?;
    app.out.line(format!(
        "       {}",
        app.out.paint(Style::Good, &safe(&code))
    ))?;

    let web = web::Server::start(&app.spawner, mebibytes * 1024 * 1024).await?;
    let mut events = ada.events().await?;
    let offer = grace
        .create_tube(ada_seen.handle, TubeKind::Stream, "http")
        .await?;
    offer.claim().await?;
    offer.offer(&from_ip(web.address())).await?;
    step(
        app,
        &format!(
            "Grace offers Ada her web server, {}, as the service `http`.",
            web.address()
        ),
    )?;
    let tube = loop {
        let event = events.next().await?;
        still_online(&event)?;
        if let Event::NewTubes(tubes) = event
            && let Some(tube) = tubes
                .into_iter()
                .find(|tube| tube.service == "http" && !tube.requested)
        {
            break ada.tube(tube);
        }
    };
    tube.claim().await?;
    let SocketAddress::Ipv4(near) = tube.accept(AddressType::Ipv4).await? else {
        return Err(Failure::failed("the tube listens at no IPv4 address"));
    };
    let near = SocketAddr::V4(near);
    step(
        app,
        &format!("Ada accepts; the web server is at {near} for her."),
    )?;

    let through = measure(app, near, mebibytes).await?;
    step(
        app,
        &format!(
            "Ada fetched http://{near}/ and {mebibytes} MiB more through the tube; every byte is right."
        ),
    )?;
    let directly = measure(app, web.address(), mebibytes).await?;
    let statistics = tube.statistics().await?;
    if !statistics.encrypted {
        return Err(Failure::failed("the tube was not encrypted"));
    }
    tube.close().await?;
    report(app, found, &through, &directly, mebibytes)
}

/// Waits until `connection` sees the contact, and knows that it can take tubes.
async fn find(app: &App, connection: &Connection, id: &str) -> Outcome<Contact> {
    let mut events = connection.events().await?;
    loop {
        let seen = connection
            .contacts()
            .await?
            .into_iter()
            .find(|contact| contact.id == id && contact.show.is_online() && contact.tubes);
        if let Some(contact) = seen {
            return Ok(contact);
        }
        app.interruptible(async {
            loop {
                let event = events.next().await?;
                still_online(&event)?;
                if event == Event::Contacts {
                    return Ok(());
                }
            }
        })
        .await?;
    }
}

async fn measure(app: &App, address: SocketAddr, mebibytes: u64) -> Outcome<Measured> {
    let began = app.clock.now();
    let mut site = Site::open(address).await?;
    let mut first_byte = None;
    let page = site
        .get("/", || first_byte = Some(app.clock.now() - began))
        .await?;
    if page != web::PAGE.as_bytes() {
        return Err(Failure::failed(
            "the page is not the one the web server has",
        ));
    }
    let mut trips: Vec<Time> = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let began = app.clock.now();
        site.get("/ping", || ()).await?;
        trips.push(app.clock.now() - began);
    }
    trips.sort();
    let began = app.clock.now();
    site.download("/download", mebibytes * 1024 * 1024).await?;
    Ok(Measured {
        first_byte: first_byte.unwrap_or_default(),
        download: app.clock.now() - began,
        round_trip: trips[trips.len() / 2],
    })
}

fn report(
    app: &App,
    found: Duration,
    through: &Measured,
    directly: &Measured,
    mebibytes: u64,
) -> Outcome {
    let rate = |measured: &Measured| {
        (mebibytes * 1024 * 1024) as f64 / 1e6 / measured.download.as_secs_f64().max(1e-9)
    };
    let of = |measured: &Measured| {
        json!({
            "first_byte_seconds": measured.first_byte.as_secs_f64(),
            "round_trip_seconds": measured.round_trip.as_secs_f64(),
            "megabytes_per_second": rate(measured),
        })
    };
    app.out.record(&json!({
        "found_seconds": found.as_secs_f64(),
        "download_bytes": mebibytes * 1024 * 1024,
        "tube": of(through),
        "direct": of(directly),
    }))?;
    let rows = vec![
        vec![
            "  first byte of a new connection".to_owned(),
            span(through.first_byte),
            span(directly.first_byte),
        ],
        vec![
            format!("  round trip, median of {ROUND_TRIPS}"),
            span(through.round_trip),
            span(directly.round_trip),
        ],
        vec![
            format!("  download of {mebibytes} MiB"),
            format!("{:.0} MB/s", rate(through)),
            format!("{:.0} MB/s", rate(directly)),
        ],
    ];
    app.out.line("")?;
    let head = ["Measured", "through the tube", "without it"];
    for (number, line) in table(&head, &rows).iter().enumerate() {
        app.out.line(if number == 0 {
            app.out.paint(Style::Strong, line)
        } else {
            line.clone()
        })?;
    }
    app.out.line("")
}

fn step(app: &App, text: &str) -> Outcome {
    app.out.line(format!("  •  {text}"))
}

/// A span of time with three digits.
fn span(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{:.2} ms", micros as f64 / 1e3),
        10_000..100_000 => format!("{:.1} ms", micros as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

/// A folder of our own. A socket's path may have 107 bytes, so it lies under /tmp where the usual
/// place has a long name.
fn make_folder() -> Outcome<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    const LONGEST: usize = 40;
    let usual = std::env::temp_dir();
    let base = if usual.as_os_str().len() > LONGEST {
        PathBuf::from("/tmp")
    } else {
        usual
    };
    let failed = |error: std::io::Error| {
        Failure::failed(format!(
            "no folder can be made in {}: {error}",
            base.display()
        ))
    };
    let name = BytestreamId::random().map_err(failed)?.to_string();
    let folder = base.join(format!("pneuma-demo-{}", &name[..8]));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(failed)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_three_digits() {
        for (micros, shown) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_000, "1.00 ms"),
            (12_345, "12.3 ms"),
            (123_456, "123 ms"),
            (1_234_567, "1.23 s"),
        ] {
            assert_eq!(span(Duration::from_micros(micros)), shown);
        }
    }
}
