//! `pneuma receive`: files and folders that contacts send.
//!
//! ```text
//!  offered ──► begun before? ──yes──────────────────────────┐
//!                  │ no                                     ▼
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

mod told;

use std::{
    cell::{Cell, RefCell},
    collections::{HashSet, VecDeque},
    path::Path,
    time::Duration,
};

use actors::{model::ServiceName, runtime::Stop};
use futures_lite::FutureExt as _;
use serde_json::json;

use told::question;

use super::{
    again::Again,
    app::{App, can_ask},
    ask::{Answer, Asker},
    bars::Bars,
    crowd::Crowd,
    failure::{Code, Failure, Outcome},
    select::{Selection, select},
    text::{bytes, safe, safe_short},
};
use crate::client::{
    Connection, Decision, Error, Expected, Kind, Trust, TrustLevel,
    transfer::{
        Deliveries, End, FileTransferState, Offer, Partial, Records, Shape, Target, Transfer,
        receive,
    },
};

/// Most files that arrive at the same time.
const AT_ONCE: usize = 4;
/// So many offers wait before those are left out that do not stand any more, of which a contact can make
/// any number while a question is open; those that stand, the service bounds.
const MOST_WAITING: usize = 256;
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
    };
    receiving.unfinished().await?;
    let mut tries = Again::new();
    let mut began = false;
    loop {
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
    /// It is not ours, or not any more.
    Gone,
}

impl Receiving<'_> {
    fn remark(&self, text: String) {
        self.bars.aside(|| self.app.out.remark(text));
    }

    /// Gives what was verified before this program was killed the name it was to have.
    async fn unfinished(&self) -> Outcome {
        let records = self.records.clone();
        let found = smol::unblock(move || Partial::unfinished(&records)).await;
        for partial in found {
            match smol::unblock(move || partial.finish()).await {
                Ok(finished) => {
                    self.finished(None, None, &finished)?;
                    self.one_less();
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

    async fn take(
        &self,
        connection: &Connection,
        deliveries: &mut Deliveries,
    ) -> Result<(), Ended> {
        enum Next {
            Offered(Box<Transfer>),
            Decided(Outcome<Fate>),
            Ended(Result<(), Ended>),
            Stop,
        }
        let stop = &self.app.stop;
        let mut waiting: VecDeque<Transfer> = VecDeque::new();
        let asker = smol::lock::Mutex::new(Asker::default());
        let mut crowd = Crowd::new();
        // One question at a time.
        let mut deciding = Crowd::new();
        loop {
            if self.left.get() == Some(0) && crowd.len() == 0 {
                return Ok(());
            }
            let most = self
                .left
                .get()
                .and_then(|left| usize::try_from(left).ok())
                .map_or(AT_ONCE, |left| left.min(AT_ONCE));
            if deciding.len() == 0
                && crowd.len() < most
                && let Some(transfer) = waiting.pop_front()
            {
                deciding.join(self.decide(connection, transfer, &asker));
            }
            let next = async {
                stop.stopped().await;
                Ok(Next::Stop)
            }
            .or(async { Ok(Next::Offered(Box::new(deliveries.next().await?))) })
            .or(async { Ok(Next::Decided(deciding.next().await)) })
            .or(async { Ok(Next::Ended(crowd.next().await)) })
            .await
            .map_err(Ended::of)?;
            match next {
                Next::Offered(transfer) => {
                    waiting.push_back(*transfer);
                    if waiting.len() > MOST_WAITING {
                        only_standing(&mut waiting).await.map_err(Ended::of)?;
                    }
                }
                Next::Decided(fate) => {
                    if let Fate::Taken(taken) = fate.map_err(Ended::Failed)? {
                        let (transfer, sender, partial) = *taken;
                        crowd.join(self.arrive(connection, transfer, sender, partial, stop));
                    }
                }
                Next::Ended(ended) => ended?,
                Next::Stop => break,
            }
        }
        // What arrives is told of the stop by itself.
        self.broke.set(crowd.len() > 0);
        let leave = async {
            while crowd.len() > 0 {
                crowd.next().await?;
            }
            Ok(())
        };
        let late = async {
            self.app.clock.sleep(LEAVING).await;
            Ok(())
        };
        leave.or(late).await
    }

    /// What becomes of an offer: the user is asked where that is wanted.
    async fn decide(
        &self,
        connection: &Connection,
        transfer: Transfer,
        asker: &smol::lock::Mutex<Asker>,
    ) -> Outcome<Fate> {
        match self.decide_open(connection, &transfer, asker).await {
            Ok(Some((sender, partial))) => Ok(Fate::Taken(Box::new((transfer, sender, partial)))),
            Ok(None) => Ok(Fate::Gone),
            // This machine's own trouble would be the next one's, too.
            Err(failure @ Failure::Error { word: "io", .. }) => Err(failure),
            // Whatever a contact did: the next offer may do better. That the service is gone is told by
            // what waits for offers.
            Err(Failure::Error { message, .. }) => {
                self.remark(format!("{}.", safe(&message)));
                Ok(Fate::Gone)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn decide_open(
        &self,
        connection: &Connection,
        transfer: &Transfer,
        asker: &smol::lock::Mutex<Asker>,
    ) -> Outcome<Option<(Sender, Partial)>> {
        let description = transfer.description();
        let offer = &description.offer;
        let sender = Sender {
            id: description.contact_id.clone(),
            trust: connection.trust(description.contact).await?,
        };
        let key = sender.trust.fingerprint.clone();
        let begun = match (&key, offer.id) {
            (Some(key), Some(id)) => {
                let (records, key) = (self.records.clone(), key.clone());
                smol::unblock(move || Partial::resume(&records, &key, id)).await?
            }
            _ => None,
        };
        let begun = match begun {
            Some(partial) if !partial.fits(offer) => {
                partial.discard();
                None
            }
            begun => begun,
        };
        match transfer.state().await? {
            FileTransferState::Pending => {}
            FileTransferState::Completed => {
                return self
                    .left_behind(transfer, &sender, begun)
                    .await
                    .map(|()| None);
            }
            // Whoever took it sees to it, or it is over.
            _ => return Ok(None),
        }
        let have = match &begun {
            Some(partial) => partial.length()?,
            None => 0,
        };
        self.offered(&sender, offer)?;
        let allowed = self.is_allowed(connection, &sender).await?;
        if let Some(why) = self.refused(&sender, offer, have, allowed)? {
            return self.decline(transfer, &sender, &why).await.map(|()| None);
        }
        // What was taken once is taken.
        if begun.is_none() && !allowed && !self.is_taken_unasked(&sender) {
            let question = question(&sender, offer);
            let asked = async {
                self.bars.hide(true);
                let answer = asker.lock().await.ask(&question).await;
                self.bars.hide(false);
                answer.map(Some)
            };
            let withdrawn = async {
                transfer.withdrawn(connection).await?;
                self.bars.hide(false);
                Ok(None)
            };
            match asked.or(withdrawn).await? {
                None => {
                    self.app.out.prompt("\nIt is not on offer any more.");
                    transfer.close_if_cancelled().await?;
                    return Ok(None);
                }
                Some(Answer::No) => {
                    return self
                        .decline(transfer, &sender, "you do not want it")
                        .await
                        .map(|()| None);
                }
                Some(Answer::Yes) => {}
                Some(Answer::All) => {
                    self.all_of.borrow_mut().extend(key.clone());
                }
            }
        }
        if let Some(key) = key.as_deref().filter(|_| !sender.trust.is_pinned()) {
            // The key that the user was shown, and no other that it may have by now.
            connection.pin(description.contact, key).await?;
        }
        let partial = match begun {
            Some(partial) => partial,
            None => {
                let (folder, offer) = (self.wish.folder.to_owned(), offer.clone());
                let records = self.records.clone();
                smol::unblock(move || {
                    let target = Target::open(&folder)?;
                    Partial::begin(target, &offer, key.as_deref(), &records)
                })
                .await?
            }
        };
        Ok(Some((sender, partial)))
    }

    /// What had arrived, and was verified, when the command that took it was killed.
    async fn left_behind(
        &self,
        transfer: &Transfer,
        sender: &Sender,
        begun: Option<Partial>,
    ) -> Outcome {
        let Some(mut partial) = begun else {
            return Ok(());
        };
        let reached = transfer.reached().await?;
        if partial.length()? != reached {
            return Ok(());
        }
        let finished = smol::unblock(move || {
            partial.verified(reached)?;
            partial.finish()
        })
        .await?;
        self.finished(Some(sender), Some(&transfer.description().offer), &finished)?;
        self.one_less();
        Ok(transfer.close().await?)
    }

    /// Whether a rule has answered the question. Who shows no key is nobody, and nobody is allowed
    /// anything unasked.
    async fn is_allowed(&self, connection: &Connection, sender: &Sender) -> Outcome<bool> {
        let (Accept::Ask | Accept::Allowed, Some(key)) =
            (self.wish.accept, &sender.trust.fingerprint)
        else {
            return Ok(false);
        };
        let service = ServiceName::of_files();
        let terms = connection.terms(key, Some(service.as_str())).await?;
        Ok(terms.decision == Decision::Allow)
    }

    /// Why it is not taken, if so, whatever anybody says.
    fn refused(
        &self,
        sender: &Sender,
        offer: &Offer,
        have: u64,
        allowed: bool,
    ) -> Outcome<Option<String>> {
        let level = sender.trust.level;
        if level == TrustLevel::Blocked {
            return Ok(Some(
                "its key is not the one that its name belongs to".into(),
            ));
        }
        let trusted = match self.wish.accept {
            Accept::Ask => true,
            Accept::Allowed => allowed,
            Accept::Pinned => level.is_pinned(),
            Accept::Verified => level == TrustLevel::Verified,
        };
        if !trusted {
            return Ok(Some(match self.wish.accept {
                Accept::Verified => "you never compared codes".into(),
                Accept::Allowed => "no rule of your policy allows it".into(),
                _ => "it is not one of your contacts".into(),
            }));
        }
        if let (Some(size), Some(most)) = (offer.size, self.wish.most)
            && size > most
        {
            return Ok(Some(format!(
                "it has {}, which is more than --max-size",
                bytes(size)
            )));
        }
        let room = Target::open(self.wish.folder)?.room();
        if let (Some(size), Ok(room)) = (offer.size, room) {
            // A folder is unpacked beside its archive.
            let needed = match offer.shape {
                Shape::File => size.saturating_sub(have),
                Shape::Folder => size.saturating_mul(2).saturating_sub(have),
            };
            if needed > room {
                return Ok(Some(format!(
                    "it needs {}, and the disk has room for {}",
                    bytes(needed),
                    bytes(room)
                )));
            }
        }
        Ok(None)
    }

    fn is_taken_unasked(&self, sender: &Sender) -> bool {
        let key = sender.trust.fingerprint.as_ref();
        self.wish.accept != Accept::Ask
            || self.app.global.yes
            || key.is_some_and(|key| self.all_of.borrow().contains(key))
    }

    async fn decline(&self, transfer: &Transfer, sender: &Sender, why: &str) -> Outcome {
        transfer.close().await?;
        let offer = &transfer.description().offer;
        self.bars.aside(|| {
            self.app.out.record(&json!({
                "event": "declined",
                "contact": sender.id,
                "name": offer.name,
                "reason": why,
            }))?;
            self.app.out.remark(format!(
                "Declined {} of {}: {why}.",
                safe_short(&offer.name),
                safe(&sender.id)
            ));
            Ok(())
        })
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
                    // A folder that is none. It is as if it had never been, and the next one may do better.
                    Err(error) if error.kind == Kind::BadAnswer => {
                        return self
                            .broken(&sender, &offer, &error, 0)
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
                    Kind::ServiceGone | Kind::NoService | Kind::Disconnected | Kind::NoBus => {
                        Ended::of(error)
                    }
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
