//! `pneuma send`: files, folders and pipes to a contact.
//!
//! ```text
//!            ┌────────────── the service ended, the account went offline ◄──┐
//!            ▼                                                              │
//!  online ──► the contact is there ──► offered ──► flows ──► arrived        │
//!                   ▲                     └──── broke ─┘ └──────────────────┘
//!                   └──── a growing pause ◄──────┘
//! ```
//!
//! It goes on until everything has arrived or was declined, for as long as its user lets it. The same
//! command, run again, goes on where this one was stopped: the id of what is sent lasts as long as the
//! file, as far as its path, size and date show it.
//!
//! Bounds: [`AT_ONCE`] files at a time.

use std::{
    cell::{Cell, RefCell},
    ffi::OsStr,
    io::Read as _,
    path::PathBuf,
    sync::Arc,
};

use serde_json::json;

use super::{
    again::Again,
    app::{App, Confirm, Need, next_change_of_contacts},
    bars::{Bar, Bars},
    crowd::Crowd,
    failure::{Code, Failure, Outcome},
    text::{bytes, quoted, safe},
};
use crate::client::{
    Connection, Contact, Error, Kind,
    transfer::{End, Progress, Records, Source, TransferId, send},
};

/// Most files that are offered at the same time.
const AT_ONCE: usize = 4;

/// What to send, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Files, folders, and `-`.
    pub paths: &'a [PathBuf],
    /// Whom the user means.
    pub contact: &'a str,
    /// What the one of them is to be called.
    pub name: Option<&'a str>,
}

/// One thing to send.
struct Item {
    source: Arc<Source>,
    name: Option<String>,
    /// Under which it is known to the contact; a pipe's is made once.
    id: Cell<Option<TransferId>>,
    /// What became of it.
    done: RefCell<Option<Outcome>>,
    /// Whether it was ever offered.
    offered: Cell<bool>,
    /// Bytes that were handed over by all attempts.
    handed: Cell<u64>,
}

/// What one connection came to.
enum Round {
    /// Everything has ended.
    Done,
    /// The connection has.
    Again(Error),
}

/// Sends until everything has arrived, or was declined, or cannot be sent.
///
/// # Errors
/// Code 1 for what cannot be read, 3, 4 and 5, 130 for what Ctrl-C stopped. Of several, what happened to
/// the first that did not arrive.
pub async fn run(app: &App, wish: &Wish<'_>) -> Outcome {
    let profile = app.account.profile().to_owned();
    let now = app.clock.wall();
    let records = smol::unblock(move || Records::open(&profile, now)).await?;
    let items = items(app, wish, &records).await?;
    let total = (items.len() > 1)
        .then(|| {
            items
                .iter()
                .map(|item| item.source.size())
                .sum::<Option<u64>>()
        })
        .flatten();
    let bars = Bars::new(app, total);
    let sending = Sending {
        app,
        wish,
        records,
        bars,
        chosen: RefCell::new(None),
    };
    let mut tries = Again::new();
    while items.iter().any(|item| item.done.borrow().is_none()) {
        let round = app
            .with_connection(async |connection| {
                app.interruptible(sending.round(connection, &items)).await
            })
            .await;
        let began = sending.chosen.borrow().is_some();
        let why = match round {
            Ok(Round::Done) => break,
            Ok(Round::Again(error)) => {
                tries.went_on();
                error.message
            }
            Err(failure) => tries.why(failure, began)?,
        };
        sending.remark(format!("{}; trying again.", safe(&why)));
        app.interruptible(async {
            tries.wait(app).await;
            Ok(())
        })
        .await?;
    }
    let ended = items.into_iter().filter_map(|item| item.done.into_inner());
    let mut failures = ended.filter_map(Result::err);
    let Some(first) = failures.next() else {
        return Ok(());
    };
    // What is returned is said last.
    failures.for_each(|failure| app.out.failure(&failure));
    Err(first)
}

/// Opens what is to be sent, before anybody is told of anything.
async fn items(app: &App, wish: &Wish<'_>, records: &Records) -> Outcome<Vec<Item>> {
    let is_pipe = |path: &PathBuf| path.as_os_str() == OsStr::new("-");
    if wish.name.is_some() && wish.paths.len() > 1 {
        return Err(Failure::usage(
            "--name names one thing, and several are sent",
        ));
    }
    if wish.paths.iter().any(is_pipe) && (wish.name.is_none() || wish.paths.len() > 1) {
        return Err(Failure::usage(
            "a pipe is sent by itself, and has no name of its own: write `pneuma send - CONTACT --name NAME`",
        ));
    }
    let mut items = Vec::new();
    for path in wish.paths {
        let source = if is_pipe(path) {
            let folder = records.folder().to_owned();
            smol::unblock(move || Source::pipe(std::io::stdin().take(u64::MAX), &folder)).await?
        } else {
            let opening = path.clone();
            smol::unblock(move || Source::open(&opening)).await?
        };
        if let Some((_, left_out)) = source.counts()
            && left_out > 0
        {
            app.out.remark(format!(
                "{left_out} sockets, pipes and devices in {} are not sent.",
                safe(&path.display().to_string())
            ));
        }
        items.push(Item {
            source: Arc::new(source),
            name: wish.name.map(str::to_owned),
            id: Cell::new(None),
            done: RefCell::new(None),
            offered: Cell::new(false),
            handed: Cell::new(0),
        });
    }
    Ok(items)
}

/// What all of it shares.
struct Sending<'a> {
    app: &'a App,
    wish: &'a Wish<'a>,
    records: Records,
    bars: Bars,
    /// Who it was the first time: the id and the key.
    chosen: RefCell<Option<(String, Option<String>)>>,
}

impl Sending<'_> {
    fn remark(&self, text: String) {
        self.bars.aside(|| self.app.out.remark(text));
    }

    /// Everything that has not ended, over one connection.
    async fn round(&self, connection: &Connection, items: &[Item]) -> Outcome<Round> {
        let contact = match self.again(connection).await {
            Ok(Some(contact)) => contact,
            Ok(None) => {
                let chosen = self
                    .app
                    .contact(connection, self.wish.contact, Need::Files, Confirm::Ask)
                    .await?;
                self.app.same_key(connection, &chosen).await?;
                *self.chosen.borrow_mut() =
                    Some((chosen.id.clone(), chosen.trust.fingerprint.clone()));
                chosen
            }
            Err(error) => return again(error),
        };
        let mut waiting = items.iter().filter(|item| item.done.borrow().is_none());
        let mut crowd = Crowd::new();
        loop {
            while crowd.len() < AT_ONCE
                && let Some(item) = waiting.next()
            {
                crowd.join(self.item(connection, &contact, item));
            }
            if crowd.len() == 0 {
                return Ok(Round::Done);
            }
            if let Err(error) = crowd.next().await {
                return again(error);
            }
        }
    }

    /// The contact of the time before, once it takes files again, however long that takes; nothing the
    /// first time.
    async fn again(&self, connection: &Connection) -> Result<Option<Contact>, Error> {
        let Some((id, key)) = self.chosen.borrow().clone() else {
            return Ok(None);
        };
        let mut events = connection.events().await?;
        loop {
            // By its key, under whatever name: a contact is its key.
            let found = connection.contacts().await?.into_iter().find(|contact| {
                let same = match &key {
                    Some(_) => contact.trust.fingerprint == key,
                    None => contact.id == id,
                };
                same && contact.show.is_online() && contact.files
            });
            if found.is_some() {
                return Ok(found);
            }
            next_change_of_contacts(&mut events).await?;
        }
    }

    /// One thing, until it has ended or the connection has.
    async fn item(
        &self,
        connection: &Connection,
        contact: &Contact,
        item: &Item,
    ) -> Result<(), Error> {
        let app = self.app;
        let key = contact.trust.fingerprint.as_deref();
        let id = match self.id_of(item, key).await {
            Ok(id) => id,
            Err(error) => {
                *item.done.borrow_mut() = Some(Err(error.into()));
                return Ok(());
            }
        };
        let offer = item.source.offer(item.name.as_deref(), id);
        let shown = quoted(&offer.name);
        let whom = safe(&contact.id);
        let mut contact = contact.clone();
        let mut tries = Again::new();
        let bar = RefCell::new(self.bars.file(&offer.name, offer.size));
        loop {
            let mut output = Ok(());
            let moved = Cell::new(false);
            let handed = Cell::new(0);
            let watch = |progress| {
                let told = self.tell(&offer.name, &contact, item, id, &bar, progress);
                match progress {
                    Progress::At(_) => moved.set(true),
                    Progress::Handed(bytes) => handed.set(bytes),
                    _ => {}
                }
                if output.is_ok() {
                    output = told;
                }
            };
            bar.borrow().wait("is being offered");
            let end = send(connection, contact.handle, &offer, &item.source, watch).await;
            item.handed.set(item.handed.get() + handed.get());
            if let Err(failure) = output {
                *item.done.borrow_mut() = Some(Err(failure));
                return Ok(());
            }
            let error = match end {
                Ok(End::Completed) => {
                    *item.done.borrow_mut() = Some(self.arrived(&contact, item, id, &offer.name));
                    self.forget(item, key).await;
                    return Ok(());
                }
                Ok(End::Stopped) => {
                    let stopped = self.stopped(&contact, id, &offer.name, moved.get());
                    *item.done.borrow_mut() = Some(Err(stopped));
                    return Ok(());
                }
                Ok(End::Broken(error)) => error,
                Err(error) if connection_ended(&error) => return Err(error),
                Err(error) => error,
            };
            if !error.kind.is_passing() || !item.offered.get() {
                *item.done.borrow_mut() = Some(Err(failed(&shown, &whom, error)));
                return Ok(());
            }
            if moved.get() {
                tries.went_on();
            }
            self.bars
                .aside(|| {
                    app.out.record(&json!({
                        "event": "broken",
                        "contact": contact.id,
                        "name": offer.name,
                        "id": id.to_string(),
                        "message": error.message,
                    }))?;
                    app.out.remark(format!(
                        "{shown} is not with {whom} yet: {}; trying again.",
                        safe(&error.message)
                    ));
                    Outcome::Ok(())
                })
                .unwrap_or_default();
            bar.borrow().wait(&format!("waits for {whom}"));
            tries.wait(app).await;
            if let Some(again) = self.again(connection).await? {
                contact = again;
            }
        }
    }

    async fn id_of(&self, item: &Item, key: Option<&str>) -> Result<TransferId, Error> {
        if let Some(id) = item.id.get() {
            return Ok(id);
        }
        let identity = item.source.identity();
        let (records, key) = (self.records.clone(), key.map(str::to_owned));
        let id = smol::unblock(move || {
            let identity = identity.unwrap_or_default();
            let what: Vec<&[u8]> = identity.iter().map(Vec::as_slice).collect();
            // A pipe is never the same again.
            let key = key.filter(|_| !what.is_empty());
            records.sending(&what, key.as_deref())
        })
        .await?;
        item.id.set(Some(id));
        Ok(id)
    }

    async fn forget(&self, item: &Item, key: Option<&str>) {
        let Some(identity) = item.source.identity() else {
            return;
        };
        let (records, key) = (self.records.clone(), key.map(str::to_owned));
        smol::unblock(move || {
            let what: Vec<&[u8]> = identity.iter().map(Vec::as_slice).collect();
            records.sent(&what, key.as_deref());
        })
        .await;
    }

    fn tell(
        &self,
        name: &str,
        contact: &Contact,
        item: &Item,
        id: TransferId,
        bar: &RefCell<Bar>,
        progress: Progress,
    ) -> Outcome {
        let out = &self.app.out;
        let mut bar = bar.borrow_mut();
        let size = item.source.size();
        let record = |event: &str, key: &str, value: serde_json::Value| {
            out.record(&json!({
                "event": event,
                "contact": contact.id,
                "name": name,
                "id": id.to_string(),
                "size": size,
                key: value,
            }))
        };
        match progress {
            Progress::Offered => {
                bar.wait(&format!("waits for {} to take it", safe(&contact.id)));
                if !item.offered.replace(true) {
                    let size = size.map_or_else(|| "of unknown size".to_owned(), bytes);
                    self.remark(format!(
                        "Offered {} ({size}) to {}. Ctrl-C stops it; the same command goes on.",
                        quoted(name),
                        safe(&contact.id)
                    ));
                }
                let path = item.source.path().display().to_string();
                record("offered", "path", path.into())
            }
            Progress::Agreed => record("accepted", "bytes", 0.into()),
            Progress::From(offset) => {
                bar.flow(offset);
                record("flowing", "offset", offset.into())
            }
            Progress::At(at) => {
                bar.at(at);
                record("progress", "bytes", at.into())
            }
            Progress::Handed(_) => Ok(()),
        }
    }

    fn arrived(&self, contact: &Contact, item: &Item, id: TransferId, name: &str) -> Outcome {
        self.bars.aside(|| {
            let out = &self.app.out;
            out.record(&json!({
                "event": "completed",
                "contact": contact.id,
                "name": name,
                "id": id.to_string(),
                "size": item.source.size(),
                "handed": item.handed.get(),
            }))?;
            let size = item.source.size();
            let size = size.map_or_else(String::new, |size| format!(" ({})", bytes(size)));
            out.line(format!(
                "Sent {}{size} to {}.",
                quoted(name),
                safe(&contact.id)
            ))
        })
    }

    fn stopped(&self, contact: &Contact, id: TransferId, name: &str, had_begun: bool) -> Failure {
        let (whom, name_shown) = (safe(&contact.id), quoted(name));
        let message = if had_begun {
            format!("{whom} stopped {name_shown}; the same command goes on where it was")
        } else {
            format!("{whom} does not want {name_shown}")
        };
        self.bars.aside(|| {
            let told = self.app.out.record(&json!({
                "event": "declined",
                "contact": contact.id,
                "name": name,
                "id": id.to_string(),
            }));
            match told {
                Ok(()) => Failure::new(Code::Refused, "declined", message),
                Err(failure) => failure,
            }
        })
    }
}

fn again(error: Error) -> Outcome<Round> {
    if connection_ended(&error) {
        Ok(Round::Again(error))
    } else {
        Err(error.into())
    }
}

/// Whether everything has to begin with getting online again.
fn connection_ended(error: &Error) -> bool {
    matches!(
        error.kind,
        Kind::ServiceGone | Kind::NoService | Kind::Disconnected
    )
}

/// Why something cannot be sent.
fn failed(name: &str, whom: &str, error: Error) -> Failure {
    if error.kind == Kind::NotCapable {
        return Failure::new(
            Code::NotFound,
            "not-capable",
            format!(
                "{whom} does not take files now; ask for `pneuma receive` to be run there, or wait longer with --timeout"
            ),
        );
    }
    match Failure::from(error) {
        Failure::Error {
            code,
            word,
            message,
        } => Failure::new(code, word, format!("{name} was not sent: {message}")),
        failure => failure,
    }
}
