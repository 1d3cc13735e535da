//! What `receive` says while it goes on: to people, and as records.

use std::cell::RefCell;

use serde_json::json;

use super::{Receiving, Sender};
use crate::{
    cli::{
        bars::Bar,
        failure::Outcome,
        text::{bytes, fingerprint, quoted, quoted_short, safe},
    },
    client::{
        Error, TrustLevel,
        transfer::{Finished, Offer, Progress, Shape},
    },
};

impl Receiving<'_> {
    pub(super) fn begun(&self, from: Option<&str>) -> Outcome {
        let folder = self.wish.folder.display().to_string();
        self.app.out.record(&json!({
            "event": "ready",
            "folder": folder,
            "from": from,
        }))?;
        let whose = from.map_or_else(|| "anybody".to_owned(), safe);
        self.remark(format!(
            "Files of {whose} go to {}. Ctrl-C ends it.",
            safe(&folder)
        ));
        Ok(())
    }

    pub(super) fn offered(&self, sender: &Sender, offer: &Offer) -> Outcome {
        self.bars.aside(|| {
            self.app.out.record(&json!({
                "event": "offered",
                "contact": sender.id,
                "trust": sender.trust.level.as_str(),
                "name": offer.name,
                "size": offer.size,
                "folder": offer.shape == Shape::Folder,
                "id": offer.id.map(|id| id.to_string()),
            }))
        })
    }

    pub(super) fn tell(
        &self,
        sender: &Sender,
        offer: &Offer,
        bar: &RefCell<Bar>,
        progress: Progress,
    ) -> Outcome {
        let record = |event: &str, key: &str, value: u64| {
            self.app.out.record(&json!({
                "event": event,
                "contact": sender.id,
                "name": offer.name,
                "id": offer.id.map(|id| id.to_string()),
                "size": offer.size,
                key: value,
            }))
        };
        match progress {
            Progress::Offered => Ok(()),
            Progress::Agreed => {
                bar.borrow().wait("begins");
                record("accepted", "bytes", 0)
            }
            Progress::From(offset) => {
                bar.borrow_mut().flow(offset);
                if offset > 0 {
                    self.remark(format!(
                        "{} of {} goes on at {}.",
                        quoted_short(&offer.name),
                        safe(&sender.id),
                        bytes(offset)
                    ));
                }
                record("flowing", "offset", offset)
            }
            Progress::At(at) => {
                bar.borrow_mut().at(at);
                record("progress", "bytes", at)
            }
            Progress::Handed(taken) => record("ended", "taken", taken),
        }
    }

    pub(super) fn broken(&self, sender: &Sender, offer: &Offer, why: &Error, have: u64) -> Outcome {
        self.bars.aside(|| {
            self.app.out.record(&json!({
                "event": "broken",
                "contact": sender.id,
                "name": offer.name,
                "id": offer.id.map(|id| id.to_string()),
                "bytes": have,
                "message": why.message,
            }))?;
            let kept = if have > 0 {
                format!(
                    "; {} of it are kept, and it goes on when it is sent again",
                    bytes(have)
                )
            } else {
                String::new()
            };
            self.app.out.remark(format!(
                "{} of {} did not arrive: {}{kept}.",
                quoted_short(&offer.name),
                safe(&sender.id),
                safe(&why.message)
            ));
            Ok(())
        })
    }

    /// A folder whose archive has arrived and cannot be unpacked; `why` says where it is kept. It is one of those
    /// that were to come, and the command will say at its end that this one did not come whole.
    pub(super) fn not_unpacked(
        &self,
        sender: Option<&Sender>,
        offer: Option<&Offer>,
        why: &Error,
    ) -> Outcome {
        self.packed.set(true);
        self.one_less();
        self.bars.aside(|| {
            self.app.out.record(&json!({
                "event": "not-unpacked",
                "contact": sender.map(|sender| &sender.id),
                "name": offer.map(|offer| &offer.name),
                "id": offer.and_then(|offer| offer.id).map(|id| id.to_string()),
                "size": offer.and_then(|offer| offer.size),
                "message": why.message,
            }))
        })?;
        let what = offer.map_or_else(
            || "What came before".into(),
            |offer| quoted_short(&offer.name),
        );
        let of = sender.map_or_else(String::new, |sender| format!(" of {}", safe(&sender.id)));
        self.remark(format!(
            "{what}{of} is no folder here: {}.",
            safe(&why.message)
        ));
        Ok(())
    }

    /// What has arrived before, and its sender did not know.
    pub(super) fn confirmed(&self, sender: &Sender, offer: &Offer, size: u64) -> Outcome {
        self.bars.aside(|| {
            self.app.out.record(&json!({
                "event": "confirmed",
                "contact": sender.id,
                "name": offer.name,
                "id": offer.id.map(|id| id.to_string()),
                "size": size,
            }))?;
            self.app.out.remark(format!(
                "{} of {} has arrived before; its sender knows that now.",
                quoted_short(&offer.name),
                safe(&sender.id)
            ));
            Ok(())
        })
    }

    pub(super) fn finished(
        &self,
        sender: Option<&Sender>,
        offer: Option<&Offer>,
        finished: &Finished,
    ) -> Outcome {
        let path = finished.path.display().to_string();
        self.bars.aside(|| {
            let out = &self.app.out;
            let unpacked = finished.unpacked.as_ref();
            out.record(&json!({
                "event": "completed",
                "contact": sender.map(|sender| &sender.id),
                "name": offer.map(|offer| &offer.name),
                "id": offer.and_then(|offer| offer.id).map(|id| id.to_string()),
                "size": offer.and_then(|offer| offer.size),
                "path": path,
                "renamed": finished.renamed,
                "entries": unpacked.map(|unpacked| unpacked.entries),
                "left-out": unpacked.map(|unpacked| unpacked.left_out),
            }))?;
            let of = sender.map_or_else(String::new, |sender| format!(" of {}", safe(&sender.id)));
            out.line(format!("Received {}{of}.", quoted(&path)))?;
            if finished.renamed {
                out.remark("Its name was not one for a file here, and was changed.");
            }
            if let Some(unpacked) = unpacked {
                if unpacked.left_out > 0 {
                    let names: Vec<String> =
                        unpacked.examples.iter().map(|name| quoted_short(name)).collect();
                    out.remark(format!(
                        "{} things in it were left out, since they would lead out of the folder or are no files: {}.",
                        unpacked.left_out,
                        names.join(", ")
                    ));
                }
                if unpacked.renamed > 0 {
                    out.remark(format!(
                        "{} names in it were not ones for files here, and were changed.",
                        unpacked.renamed
                    ));
                }
            }
            Ok(())
        })
    }
}

/// What the user is asked.
pub(super) fn question(sender: &Sender, offer: &Offer) -> String {
    let who = safe(&sender.id);
    let trust = match sender.trust.level {
        TrustLevel::Verified => "verified",
        TrustLevel::Pinned => "one of your contacts, not verified",
        TrustLevel::Unpinned => "not one of your contacts yet",
        TrustLevel::NoKey => "without a key: nobody can tell who it is, and nothing is encrypted",
        TrustLevel::Blocked => "blocked",
    };
    let key = match (&sender.trust.fingerprint, sender.trust.level) {
        (Some(key), TrustLevel::Unpinned) => format!(
            "\nIts key is {}.\nIf you take it, this key and no other belongs to the name.",
            fingerprint(key)
        ),
        _ => String::new(),
    };
    let what = match offer.shape {
        Shape::File => "",
        Shape::Folder => "the folder ",
    };
    let size = offer
        .size
        .map_or_else(|| "of unknown size".to_owned(), bytes);
    format!(
        "{who} ({trust}) sends {what}{} ({size}).{key}\nTake it?",
        quoted_short(&offer.name)
    )
}
