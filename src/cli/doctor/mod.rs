//! `pneuma doctor`: says in sentences what is wrong, and what to do about it. It looks and changes
//! nothing: no service is started, no account brought online, no file written.
//!
//! ```text
//!   bus ── is there a session bus, a connection manager, of our version, found by others?
//!    └─ account ── online? encrypted? is somebody posing as a contact?
//!   discovery ── interfaces, the port, what comes back of what is sent, our own announcement
//!   sockets ── the folder for Unix sockets, who connects to TCP ones, descriptors
//!   keys ── the profile: private, readable, whole, locked by whom, dates
//! ```
//!
//! Each check is a [`Finding`]; what cannot be checked because of what was found before is left out.

mod account;
mod bus;
mod discovery;
mod keys;
mod sockets;

use serde_json::json;

use super::{
    app::App,
    failure::{Failure, Outcome},
    output::Style,
    text::safe,
};

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Good,
    /// Nothing wrong, and worth knowing.
    Note,
    /// Wrong: something will not work.
    Wrong,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Verdict::Good => "ok",
            Verdict::Note => "note",
            Verdict::Wrong => "wrong",
        }
    }

    fn style(self) -> Style {
        match self {
            Verdict::Good => Style::Good,
            Verdict::Note => Style::Warn,
            Verdict::Wrong => Style::Bad,
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// A word for programs.
    check: &'static str,
    verdict: Verdict,
    /// A sentence without its full stop.
    what: String,
    /// What to do, a sentence without its full stop; empty for nothing.
    todo: String,
}

impl Finding {
    fn good(check: &'static str, what: impl Into<String>) -> Self {
        Finding::new(check, Verdict::Good, what, "")
    }

    fn note(check: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Finding::new(check, Verdict::Note, what, todo)
    }

    fn wrong(check: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Finding::new(check, Verdict::Wrong, what, todo)
    }

    fn new(
        check: &'static str,
        verdict: Verdict,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Finding {
            check,
            verdict,
            what: what.into(),
            todo: todo.into(),
        }
    }
}

/// Looks at everything.
///
/// # Errors
/// Code 1 when something is wrong.
pub async fn run(app: &App) -> Outcome {
    let mut all = Vec::new();
    let (found, bus) = bus::look(app).await;
    all.push(("D-Bus", found));
    let (found, account) = match &bus {
        Some(bus) => account::look(app, bus).await,
        None => (Vec::new(), account::Account::default()),
    };
    all.push(("Account", found));
    let online = account.online.as_ref();
    all.push(("Discovery", discovery::look(app, online).await));
    all.push(("Sockets", sockets::look(bus.as_ref()).await));
    all.push(("Keys", keys::look(app, account.in_use).await));
    show(app, &all)?;
    let wrong = all
        .iter()
        .flat_map(|(_, found)| found)
        .filter(|finding| finding.verdict == Verdict::Wrong)
        .count();
    match wrong {
        0 => Ok(()),
        1 => Err(Failure::failed(
            "one thing is wrong; what to do stands beside it",
        )),
        _ => Err(Failure::failed(format!(
            "{wrong} things are wrong; what to do stands beside each"
        ))),
    }
}

fn show(app: &App, all: &[(&str, Vec<Finding>)]) -> Outcome {
    let records: Vec<_> = all
        .iter()
        .flat_map(|(area, found)| found.iter().map(move |finding| (area, finding)))
        .map(|(area, finding)| {
            json!({
                "area": area,
                "check": finding.check,
                "verdict": finding.verdict.as_str(),
                "what": finding.what,
                "todo": (!finding.todo.is_empty()).then_some(&finding.todo),
            })
        })
        .collect();
    app.out.record(&records)?;
    for (area, found) in all.iter().filter(|(_, found)| !found.is_empty()) {
        app.out.line(app.out.paint(Style::Strong, area))?;
        for finding in found {
            let verdict = format!("{:5}", finding.verdict.as_str());
            let verdict = app.out.paint(finding.verdict.style(), &verdict);
            app.out
                .line(format!("  {verdict} {}.", safe(&finding.what)))?;
            if !finding.todo.is_empty() {
                app.out
                    .line(format!("        → {}.", safe(&finding.todo)))?;
            }
        }
    }
    Ok(())
}
