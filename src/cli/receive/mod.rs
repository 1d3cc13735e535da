//! `pneuma receive`: files and folders that contacts send.
//!
//! ```text
//!  offered ──► begun before? ──yes──────────────────────────┐
//!                  │ no                                     ▼
//!                  ├──► arrived before? ──yes──► its sender is told so, and nothing is written
//!                  └──► wanted? (by the rules, by trust, or asked) ──► taken ──► arrives ──► verified ──► its name
//!                          │ no                                       │
//!                          └──► declined          broken: it stays as NAME.part until it is offered again
//! ```
//!
//! Ctrl-C breaks what arrives, and does not decline it: the same command goes on as soon as it is offered
//! again, which a sending `pneuma` does by itself.
//!
//! What the rules deny is closed by the service, and never comes here.
//!
//! Bounds: [`AT_ONCE`] files at a time, the next ones wait ([`MOST_WAITING`]); one question at a time.

mod deciding;
mod told;

use std::{
    cell::{Cell, RefCell},
    collections::{HashSet, VecDeque},
    path::Path,
    time::Duration,
};

use actors::runtime::Stop;
use futures_lite::FutureExt as _;

use super::{
    again::Again,
    app::{App, can_ask},
    ask::Asker,
    bars::Bars,
    crowd::Crowd,
    failure::{Code, Failure, Outcome},
    select::{Selection, select},
    text::safe,
};
use crate::client::{
    Connection, Error, Expected, Kind, Trust,
    transfer::{
        Deliveries, End, FileTransferState, Partial, Records, Target, Transfer, confirm, receive,
    },
};

/// Most files that arrive at the same time.
const AT_ONCE: usize = 4;
/// So many offers wait before those are left out that do not stand any more, of which a contact can make
/// any number while a question is open; those that stand, the service bounds.
const MOST_WAITING: usize = 256;
/// When an offer is looked at again of which something is still in somebody's hands.
const LATER: Duration = Duration::from_secs(1);
/// How long what arrives may take to be put away when the user ends the command.
const LEAVING: Duration = Duration::from_secs(5);

/// What is taken without a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Accept {
    /// What your policy allows (`pneuma policy`); you are asked about the rest
    #[default]
    Ask,
    /// What your policy allows; nothing else
    Allowed,
    /// What your own contacts send; nobody else's
    Pinned,
    /// What contacts send whose codes you compared; nobody else's
    Verified,
}

/// What to receive.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// Only this contact's.
    pub from: Option<&'a str>,
    /// Into this folder.
    pub folder: &'a Path,
    /// What is taken without a question.
    pub accept: Accept,
    /// Nothing larger.
    pub most: Option<u64>,
    /// So many, and no more.
    pub count: Option<u64>,
}

/// What one connection came to.
enum Round {
    /// The user, or the count.
    Done,
    /// The connection ended.
    Again(Error),
}

/// Receives until Ctrl-C, or until so many have arrived.
///
/// # Errors
/// Code 1 when nothing can be written into the folder, 2 when there is nobody to ask, 130 for what Ctrl-C
/// stopped.
pub async fn run(app: &App, wish: &Wish<'_>) -> Outcome {
    if wish.accept == Accept::Ask && !app.global.yes && !can_ask() {
        return Err(Failure::usage(
            "there is no terminal to ask on; say what is taken with --accept allowed, pinned or verified",
        ));
    }
    let folder = wish.folder.to_owned();
    smol::unblock(move || Target::open(&folder)?.check_writable()).await?;
    let (profile, now) = (app.account.profile().to_owned(), app.clock.wall());
    let records = smol::unblock(move || Records::open(&profile, now)).await?;
    let receiving = Receiving {
        app,
        wish,
        records,
        bars: Bars::new(app, None),
        left: Cell::new(wish.count),
        all_of: RefCell::default(),
        broke: Cell::new(false),
        packed: Cell::new(false),
    };
    let mut tries = Again::new();
    let mut began = false;
    loop {
        receiving.unfinished().await?;
        // Mission Control knows nobody by a part of a name.
        let from = wish.from.filter(|from| from.contains('@'));
        let round = app
            .with_connection_expecting(Some(Expected::Files(from)), async |connection| {
                receiving.round(connection, &mut began).await
            })
            .await;
        let why = match round {
            Ok(Round::Done) => break,
            Ok(Round::Again(error)) => {
                tries.went_on();
                error.message
            }
            Err(failure) => tries.why(failure, began)?,
        };
        receiving.remark(format!("{}; trying again.", safe(&why)));
        app.interruptible(async {
            tries.wait(app).await;
            Ok(())
        })
        .await?;
    }
    if receiving.broke.get() {
        return Err(Failure::Interrupted);
    }
    if receiving.packed.get() {
        let why = "a folder could not be unpacked, and its archive is kept, as was said before";
        return Err(Failure::new(Code::Failed, "not-unpacked", why));
    }
    Ok(())
}

/// What all of it shares.
struct Receiving<'a> {
    app: &'a App,
    wish: &'a Wish<'a>,
    records: Records,
    bars: Bars,
    /// How many are still to come.
    left: Cell<Option<u64>>,
    /// The keys of contacts of whom everything is taken.
    all_of: RefCell<HashSet<String>>,
    /// Ctrl-C stopped something half way.
    broke: Cell<bool>,
    /// A folder could not be unpacked.
    packed: Cell<bool>,
}

/// Who sends, by id, key and trust.
struct Sender {
    id: String,
    trust: Trust,
}

/// What becomes of an offer.
enum Fate {
    /// It is taken, by the one who sends it as he was when the user was asked.
    Taken(Box<(Transfer, Sender, Partial)>),
    /// So many bytes of it have arrived before, which is all, and its sender has not heard so.
    Known(Box<(Transfer, Sender, u64)>),
    /// What has come of it is still in somebody's hands, most likely our own: its sender has noticed that
    /// it broke before we have, or has not heard that all is well.
    Later(Box<Transfer>),
    /// It is not ours, or not any more.
    Gone,
}

impl Receiving<'_> {
    fn remark(&self, text: String) {
        self.bars.aside(|| self.app.out.remark(text));
    }

    /// Gives what was verified, and whose taking ended too early for that, the name it was to have.
    async fn unfinished(&self) -> Outcome {
        let records = self.records.clone();
        let found = smol::unblock(move || Partial::unfinished(&records)).await;
        for partial in found {
            match smol::unblock(move || partial.finish()).await {
                Ok(finished) => {
                    self.finished(None, None, &finished)?;
                    self.one_less();
                }
                Err(error) if error.kind == Kind::BadAnswer => {
                    self.not_unpacked(None, None, &error)?;
                }
                // What lies there from before must not keep anything else from arriving.
                Err(error) => self.remark(format!("{}.", safe(&error.message))),
            }
        }
        Ok(())
    }

    fn one_less(&self) {
        self.left
            .set(self.left.get().map(|left| left.saturating_sub(1)));
    }

    /// Everything that comes over one connection.
    async fn round(&self, connection: &Connection, began: &mut bool) -> Outcome<Round> {
        let from = self.sender_wanted(connection).await?;
        let mut deliveries = connection.deliveries(from.as_deref()).await?;
        if !std::mem::replace(began, true) {
            self.begun(from.as_deref())?;
        }
        let outcome = self.take(connection, &mut deliveries).await;
        let ended = deliveries.end().await;
        match outcome {
            Ok(()) => ended.map(|()| Round::Done).map_err(Failure::from),
            Err(Ended::Connection(error)) => Ok(Round::Again(error)),
            Err(Ended::Failed(failure)) => Err(failure),
        }
    }

    /// The id of the one contact whose files are wanted, if there is one.
    async fn sender_wanted(&self, connection: &Connection) -> Outcome<Option<String>> {
        let Some(wanted) = self.wish.from else {
            return Ok(None);
        };
        let contacts = connection.contacts().await?;
        match select(wanted, &contacts) {
            Selection::Known(contact) | Selection::Stranger(contact) => {
                Ok(Some(contact.id.clone()))
            }
            // Whoever has exactly this id may still come.
            Selection::Nobody(_) if wanted.contains('@') => Ok(Some(wanted.to_owned())),
            Selection::Nobody(sentence) => Err(Failure::new(Code::NotFound, "not-found", sentence)),
            Selection::Ambiguous(sentence) => {
                Err(Failure::new(Code::NotFound, "ambiguous", sentence))
            }
        }
    }

    /// Takes what is offered until it is enough. What is half way is seen to its end, however this ends: it
    /// may be verified and have no name yet, and its sender will not offer it again.
    async fn take(
        &self,
        connection: &Connection,
        deliveries: &mut Deliveries,
    ) -> Result<(), Ended> {
        let mut crowd = Crowd::new();
        let followed = self.follow(connection, deliveries, &mut crowd).await;
        match &followed {
            Ok(()) => self.broke.set(crowd.len() > 0),
            // It comes over the same connection, and ends with it.
            Err(Ended::Connection(_)) => {}
            Err(Ended::Failed(_)) => return followed,
        }
        // What arrives is told of a stop by itself.
        let leave = async {
            while crowd.len() > 0 {
                if let Err(failed @ Ended::Failed(_)) = crowd.next().await {
                    return Err(failed);
                }
            }
            Ok(())
        };
        let late = async {
            self.app.stop.stopped().await;
            self.app.clock.sleep(LEAVING).await;
            Ok(())
        };
        leave.or(late).await?;
        followed
    }

    /// The same, until nothing more is to be taken; what arrives then is in the crowd.
    async fn follow<'a>(
        &'a self,
        connection: &'a Connection,
        deliveries: &mut Deliveries,
        crowd: &mut Crowd<'a, Result<(), Ended>>,
    ) -> Result<(), Ended> {
        enum Next {
            Offered(Box<Transfer>),
            Decided(Outcome<Fate>),
            Ended(Result<(), Ended>),
            Known(Result<(), Ended>),
            Again,
            Stop,
        }
        let stop = &self.app.stop;
        let clock = &self.app.clock;
        let mut waiting: VecDeque<Transfer> = VecDeque::new();
        // These wait until then.
        let mut later: VecDeque<Transfer> = VecDeque::new();
        let mut then = clock.now();
        let asker = smol::lock::Mutex::new(Asker::default());
        // Nothing arrives of what has arrived before.
        let mut knowing = Crowd::new();
        // One question at a time.
        let mut deciding = Crowd::new();
        loop {
            if self.left.get() == Some(0) && crowd.len() == 0 && knowing.len() == 0 {
                return Ok(());
            }
            let most = self
                .left
                .get()
                .and_then(|left| usize::try_from(left).ok())
                .map_or(AT_ONCE, |left| left.min(AT_ONCE));
            if deciding.len() == 0
                && crowd.len() < most
                && knowing.len() < AT_ONCE
                && let Some(transfer) = waiting.pop_front()
            {
                deciding.join(self.decide(connection, transfer, &asker));
            }
            let again = async {
                if later.is_empty() {
                    return std::future::pending().await;
                }
                clock.sleep_until(then).await;
                Ok(Next::Again)
            };
            let next = async {
                stop.stopped().await;
                Ok(Next::Stop)
            }
            .or(async { Ok(Next::Offered(Box::new(deliveries.next().await?))) })
            .or(async { Ok(Next::Decided(deciding.next().await)) })
            .or(async { Ok(Next::Ended(crowd.next().await)) })
            .or(async { Ok(Next::Known(knowing.next().await)) })
            .or(again)
            .await
            .map_err(Ended::of)?;
            match next {
                Next::Offered(transfer) => {
                    waiting.push_back(*transfer);
                    if waiting.len() > MOST_WAITING {
                        only_standing(&mut waiting).await.map_err(Ended::of)?;
                    }
                }
                Next::Decided(fate) => match fate.map_err(Ended::Failed)? {
                    Fate::Taken(taken) => {
                        let (transfer, sender, partial) = *taken;
                        crowd.join(self.arrive(connection, transfer, sender, partial, stop));
                    }
                    Fate::Known(known) => {
                        let (transfer, sender, size) = *known;
                        knowing.join(self.confirm(connection, transfer, sender, size));
                    }
                    Fate::Later(transfer) => {
                        if later.is_empty() {
                            then = clock.now().saturating_add(LATER);
                        }
                        later.push_back(*transfer);
                    }
                    Fate::Gone => {}
                },
                Next::Known(known) => known?,
                Next::Ended(ended) => ended?,
                Next::Again => waiting.append(&mut later),
                Next::Stop => return Ok(()),
            }
        }
    }

    /// Tells the sender that all of it has arrived before.
    async fn confirm(
        &self,
        connection: &Connection,
        transfer: Transfer,
        sender: Sender,
        size: u64,
    ) -> Result<(), Ended> {
        let offer = &transfer.description().offer;
        let told = match confirm(connection, &transfer, size).await {
            Ok(End::Completed) => self.confirmed(&sender, offer, size),
            // It will be offered again, and told again.
            Ok(end) => {
                tracing::debug!(%end, "a sender may not have heard that its file is here");
                Ok(())
            }
            Err(error) if error.kind == Kind::BadAnswer => {
                if let (Some(key), Some(id)) = (sender.trust.fingerprint.clone(), offer.id) {
                    let records = self.records.clone();
                    smol::unblock(move || records.forget_arrived(&key, id)).await;
                }
                self.broken(&sender, offer, &error, 0)
            }
            Err(error) if error.kind == Kind::NotAvailable => Ok(()),
            Err(error) if is_ours(error.kind) => return Err(Ended::of(error)),
            Err(error) => self.broken(&sender, offer, &error, 0),
        };
        told.map_err(Ended::Failed)
    }

    /// One transfer that was taken, to its end.
    async fn arrive(
        &self,
        connection: &Connection,
        transfer: Transfer,
        sender: Sender,
        partial: Partial,
        stop: &Stop,
    ) -> Result<(), Ended> {
        let offer = transfer.description().offer.clone();
        let bar = RefCell::new(self.bars.file(&offer.name, offer.size));
        let output = RefCell::new(Ok(()));
        let watch = |progress| {
            let told = self.tell(&sender, &offer, &bar, progress);
            if output.borrow().is_ok() {
                *output.borrow_mut() = told;
            }
        };
        let most = self.wish.most;
        let received = receive(connection, &transfer, partial, most, stop, watch).await;
        drop(bar);
        output.into_inner().map_err(Ended::Failed)?;
        let (partial, why) = match received {
            Ok((partial, End::Completed)) => {
                let finished = smol::unblock(move || partial.finish()).await;
                let finished = match finished {
                    Ok(finished) => finished,
                    // A folder that is none. The next one may do better.
                    Err(error) if error.kind == Kind::BadAnswer => {
                        return self
                            .not_unpacked(Some(&sender), Some(&offer), &error)
                            .map_err(Ended::Failed);
                    }
                    Err(error) => return Err(Ended::Failed(error.into())),
                };
                self.one_less();
                return self
                    .finished(Some(&sender), Some(&offer), &finished)
                    .map_err(Ended::Failed);
            }
            Ok((partial, End::Stopped)) => (
                partial,
                Error::new(Kind::Cancelled, "the contact stopped it"),
            ),
            Ok((partial, End::Broken(error))) => (partial, error),
            // It is as if it had never been.
            Err((partial, error)) if error.kind == Kind::TooLarge => {
                partial.discard();
                return self
                    .broken(&sender, &offer, &error, 0)
                    .map_err(Ended::Failed);
            }
            Err((partial, error)) => {
                let place = partial.place();
                partial.leave();
                return Err(match error.kind {
                    Kind::Io => Ended::Failed(kept(error, &place)),
                    kind if is_ours(kind) => Ended::of(error),
                    // Whatever it was, the next one may do better, and this one when it is offered again.
                    _ => {
                        return self
                            .broken(&sender, &offer, &error, 0)
                            .map_err(Ended::Failed);
                    }
                });
            }
        };
        let have = if partial.lasts() {
            partial.length().unwrap_or(0)
        } else {
            0
        };
        partial.leave();
        self.broken(&sender, &offer, &why, have)
            .map_err(Ended::Failed)
    }
}

/// Leaves out what is not on offer any more. The service bounds what is.
async fn only_standing(waiting: &mut VecDeque<Transfer>) -> Result<(), Error> {
    for transfer in std::mem::take(waiting) {
        match transfer.state().await {
            Ok(FileTransferState::Pending) => waiting.push_back(transfer),
            Ok(_) => transfer.close_if_cancelled().await?,
            Err(error) if error.kind.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether what went wrong is between us and the service, and not of one transfer.
fn is_ours(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::ServiceGone | Kind::NoService | Kind::Disconnected | Kind::NoBus
    )
}

/// Why a round ends.
enum Ended {
    Connection(Error),
    Failed(Failure),
}

impl Ended {
    fn of(error: Error) -> Self {
        match error.kind {
            Kind::ServiceGone | Kind::NoService | Kind::Disconnected => Ended::Connection(error),
            _ => Ended::Failed(error.into()),
        }
    }
}

/// What went wrong on the disk, and that nothing is lost.
fn kept(error: Error, place: &Path) -> Failure {
    let message = format!(
        "{}; what has arrived is kept as {}, and goes on when the command is run again",
        error.message,
        place.display()
    );
    Failure::new(Code::Failed, "io", message)
}
