//! What becomes of an offer: by whom it comes, what is there of it already, what was said of trust and size,
//! and by asking.

use actors::model::ServiceName;
use futures_lite::FutureExt as _;
use serde_json::json;

use super::{Accept, Fate, Receiving, Sender, told::question};
use crate::{
    cli::{
        ask::{Answer, Asker},
        failure::{Failure, Outcome},
        text::{bytes, quoted_short, safe},
    },
    client::{
        Connection, Decision, Kind, TrustLevel,
        transfer::{FileTransferState, Offer, Partial, Shape, Target, Transfer},
    },
};

/// The same, of an offer that the caller has.
enum Decided {
    Taken(Sender, Box<Partial>),
    Known(Sender, u64),
    Later,
    Gone,
}

impl Receiving<'_> {
    /// What becomes of an offer: the user is asked where that is wanted.
    pub(super) async fn decide(
        &self,
        connection: &Connection,
        transfer: Transfer,
        asker: &smol::lock::Mutex<Asker>,
    ) -> Outcome<Fate> {
        match self.decide_open(connection, &transfer, asker).await {
            Ok(Decided::Taken(sender, partial)) => {
                Ok(Fate::Taken(Box::new((transfer, sender, *partial))))
            }
            Ok(Decided::Known(sender, size)) => Ok(Fate::Known(Box::new((transfer, sender, size)))),
            // Where another command is at it, its offer stands no more in a moment.
            Ok(Decided::Later) => match transfer.state().await {
                Ok(FileTransferState::Pending) => Ok(Fate::Later(Box::new(transfer))),
                _ => Ok(Fate::Gone),
            },
            Ok(Decided::Gone) => Ok(Fate::Gone),
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
    ) -> Outcome<Decided> {
        let description = transfer.description();
        let offer = &description.offer;
        let sender = Sender {
            id: description.contact_id.clone(),
            trust: connection.trust(description.contact).await?,
        };
        let key = sender.trust.fingerprint.clone();
        let mut begun = match (&key, offer.id) {
            (Some(key), Some(id)) => {
                let (records, key) = (self.records.clone(), key.clone());
                match smol::unblock(move || Partial::resume(&records, &key, id)).await {
                    Err(error) if error.kind == Kind::NotYours => return Ok(Decided::Later),
                    begun => begun?,
                }
            }
            _ => None,
        };
        if let Some(partial) = begun.take_if(|partial| partial.is_verified()) {
            // The command that took it was killed before it could name it.
            self.put_away(&sender, offer, partial).await?;
        }
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
                    .map(|()| Decided::Gone);
            }
            // Whoever took it sees to it, or it is over.
            _ => return Ok(Decided::Gone),
        }
        if begun.is_none()
            // What was forgotten with its sender is asked about as anything else.
            && sender.trust.is_pinned()
            && let Some(size) = self.arrived(&sender, offer).await
        {
            return Ok(Decided::Known(sender, size));
        }
        let have = match &begun {
            Some(partial) => partial.length()?,
            None => 0,
        };
        self.offered(&sender, offer)?;
        let allowed = self.is_allowed(connection, &sender).await?;
        if let Some(why) = self.refused(&sender, offer, have, allowed)? {
            self.decline(transfer, &sender, &why).await?;
            return Ok(Decided::Gone);
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
                    return Ok(Decided::Gone);
                }
                Some(Answer::No) => {
                    self.decline(transfer, &sender, "you do not want it")
                        .await?;
                    return Ok(Decided::Gone);
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
        Ok(Decided::Taken(sender, Box::new(partial)))
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
        let partial = smol::unblock(move || partial.verified(reached).map(|()| partial)).await?;
        let offer = &transfer.description().offer;
        self.put_away(sender, offer, partial).await?;
        Ok(transfer.close().await?)
    }

    /// Gives what is verified its name. What has been cut short since is as if it had never been.
    async fn put_away(&self, sender: &Sender, offer: &Offer, partial: Partial) -> Outcome {
        if !partial.is_whole() {
            partial.discard();
            return Ok(());
        }
        let finished = match smol::unblock(move || partial.finish()).await {
            Err(error) if error.kind == Kind::BadAnswer => {
                return self.not_unpacked(Some(sender), Some(offer), &error);
            }
            finished => finished?,
        };
        self.finished(Some(sender), Some(offer), &finished)?;
        self.one_less();
        Ok(())
    }

    /// How long it was, if just this has arrived before.
    async fn arrived(&self, sender: &Sender, offer: &Offer) -> Option<u64> {
        let (records, key) = (self.records.clone(), sender.trust.fingerprint.clone()?);
        let id = offer.id?;
        let size = smol::unblock(move || records.arrived(&key, id)).await?;
        offer.size.is_none_or(|said| said == size).then_some(size)
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
                quoted_short(&offer.name),
                safe(&sender.id)
            ));
            Ok(())
        })
    }
}
