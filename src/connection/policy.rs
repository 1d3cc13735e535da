//! Where our user's rules are enforced; [`Policy`] says which one counts for whom.
//!
//! | | an offer of theirs | an offer of ours |
//! | --- | --- | --- |
//! | ask | a channel appears, and a client decides | as our client wants |
//! | allow | the same; a client that asks [`ConnectionHandle::terms`] need not ask a person | the same |
//! | deny | closed at once; no channel appears | Offer is answered `PermissionDenied`, and so is CreateChannel for a file |
//!
//! Files are a service of their own here ([`ServiceName::of_files`]), whatever the sender says that they
//! are for: who may send what is not for the sender to choose.
//!
//! A deny that comes later closes what is open or on offer, in order, and Accept is answered
//! `PermissionDenied` meanwhile. The caps are those of the [`Limits`] that every channel of one contact
//! and service is opened with: set when the first one is, and again whenever the rules change or the
//! contact's key or trust does. Bytes and connections are counted where they pass, in `actors`.
//!
//! Everything that changes the rules goes through the [`ConnectionHandle`], which has the session store
//! them and then tells the actor; so whoever is answered knows that they are in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use actors::{
    limits::{Caps, Limits},
    model::{ContactHandle, Error, FileTransferState, Result, ServiceName, TubeState},
    ports::ChannelObject,
    runtime::{Clock, Reply},
};

use super::{
    actor::Connection,
    channels::News,
    contacts::Contact,
    message::{ConnectionHandle, ConnectionMessage},
    table::Place,
    view::ConnectionSignal,
};
use crate::session::trust::{Decision, KeyId, Policy, Scope, Terms, Who};

/// What holds for this contact and service.
pub(super) fn terms_of(policy: &Policy, contact: &Contact, service: &ServiceName) -> Terms {
    policy.terms(contact.key, contact.is_pinned(), Some(service))
}

/// Whether there may be channels with this contact for this service.
///
/// # Errors
/// `PermissionDenied`.
pub(super) fn permitted(policy: &Policy, contact: &Contact, service: &ServiceName) -> Result<()> {
    if terms_of(policy, contact, service).decision == Decision::Deny {
        return Err(Error::PermissionDenied(format!(
            "your policy denies {} the service {service}; change the rule first",
            contact.id
        )));
    }
    Ok(())
}

fn caps(terms: &Terms) -> Caps {
    Caps {
        connections: terms
            .max_connections
            .map(|most| usize::try_from(most.get()).unwrap_or(usize::MAX)),
        bytes_per_second: terms.max_bytes_per_second,
    }
}

/// What is enforced: for each contact and service with channels, the limits they share and what they
/// were last set by. As many as there are channels at most.
pub(super) struct Enforced {
    /// The rules that were last told of.
    told: Arc<Policy>,
    limits: BTreeMap<(ContactHandle, ServiceName), (Limits, Terms)>,
}

impl Enforced {
    /// Nothing yet, by these rules.
    pub(super) fn new(policy: Arc<Policy>) -> Self {
        Enforced {
            told: policy,
            limits: BTreeMap::new(),
        }
    }

    /// The limits of a channel that is being opened: those of the others of its kind, or new ones.
    pub(super) fn limits(
        &mut self,
        clock: &Arc<dyn Clock>,
        contact: ContactHandle,
        service: &ServiceName,
        terms: Terms,
    ) -> Limits {
        let (limits, _) = self
            .limits
            .entry((contact, service.clone()))
            .or_insert_with(|| {
                let limits = Limits::new(clock);
                limits.set(caps(&terms));
                (limits, terms)
            });
        limits.clone()
    }

    /// A channel is gone; `more`: there are others with the same limits.
    pub(super) fn closed(&mut self, contact: ContactHandle, service: &ServiceName, more: bool) {
        if !more {
            self.limits.remove(&(contact, service.clone()));
        }
    }
}

impl Connection {
    /// The rules have changed, perhaps: tells of that, and enforces them.
    pub(super) fn policy_changed(&mut self, reply: Reply<()>) {
        let now = self.session().policy();
        let before = std::mem::replace(&mut self.enforced.told, now.clone());
        let set: BTreeMap<Scope, Terms> = now
            .rules()
            .iter()
            .filter(|(scope, terms)| before.rules().get(scope) != Some(terms))
            .map(|(scope, terms)| (scope.clone(), *terms))
            .collect();
        let removed: Vec<Scope> = before
            .rules()
            .keys()
            .filter(|scope| !now.rules().contains_key(scope))
            .cloned()
            .collect();
        if !set.is_empty() || !removed.is_empty() {
            self.enforce(|_| true);
            self.signal(ConnectionSignal::PolicyChanged { set, removed });
        }
        reply.answer(());
    }

    /// Enforces the rules on contacts whose key or trust may have changed.
    pub(super) fn enforce_on_touched(&mut self) {
        if !self.touched.is_empty() && !self.enforced.limits.is_empty() {
            let touched: BTreeSet<ContactHandle> = self.touched.clone();
            self.enforce(|contact| touched.contains(&contact));
        }
    }

    fn enforce(&mut self, on: impl Fn(ContactHandle) -> bool) {
        let policy = self.session().policy();
        let mut denied = Vec::new();
        for ((handle, service), (limits, last)) in &mut self.enforced.limits {
            if !on(*handle) {
                continue;
            }
            let Ok(contact) = self.contacts.get(*handle) else {
                continue;
            };
            // Who is gone has the key and the trust that it had: its tubes end in their own time.
            if !contact.listed {
                continue;
            }
            let terms = terms_of(&policy, contact, service);
            if terms == *last {
                continue;
            }
            *last = terms;
            limits.set(caps(&terms));
            if terms.decision == Decision::Deny {
                denied.push((*handle, service.clone()));
            }
        }
        for (handle, service) in denied {
            for channel in self.table.of_service(handle, &service) {
                self.deny(channel);
            }
        }
    }

    /// Closes a channel that has opened, if it has been denied meanwhile. A tube of ours that is not
    /// offered yet stays: its Offer is refused.
    pub(super) fn deny_what_opened(&self, place: &Place, channel: &ChannelObject) {
        let policy = self.session().policy();
        let denied = self
            .contacts
            .get(place.contact)
            .is_ok_and(|contact| permitted(&policy, contact, &place.service).is_err());
        let offered = match channel {
            ChannelObject::StreamTube(tube) => tube.view.get().state != TubeState::NotOffered,
            ChannelObject::DBusTube(tube) => tube.view.get().state != TubeState::NotOffered,
            ChannelObject::FileTransfer(_) => true,
        };
        if denied && offered {
            self.deny(channel);
        }
    }

    fn deny(&self, channel: &ChannelObject) {
        if let Some(transfer) = channel.file_transfer()
            && matches!(
                transfer.view.get().state,
                FileTransferState::Completed | FileTransferState::Cancelled
            )
        {
            // It is over, and says only what has become of it.
            return;
        }
        self.tell(channel, News::Close);
        tracing::info!(channel = channel.id().0, "closed: the policy denies it");
    }
}

impl ConnectionHandle {
    /// `Policy1.ListRules`
    pub fn policy(&self) -> Arc<Policy> {
        self.session.policy()
    }

    /// `Policy1.GetTerms`: what holds for somebody and a service; without one, for services that no
    /// rule names.
    ///
    /// # Errors
    /// `Disconnected`: before that nobody is known.
    pub fn terms(&self, who: Who, service: Option<&ServiceName>) -> Result<Terms> {
        let view = self.view.get();
        view.connected()?;
        let has = |contact: &Contact, key: KeyId| contact.key == Some(key) && contact.is_pinned();
        let (key, pinned) = match who {
            Who::Key(key) => (
                Some(key),
                view.contacts.listed().any(|contact| has(contact, key)),
            ),
            Who::Pinned => (None, true),
            Who::Everybody => (None, false),
        };
        Ok(self.session.policy().terms(key, pinned, service))
    }

    /// `Policy1.SetRule` and, with `None`, `RemoveRule`. It is stored and in force when this is done.
    ///
    /// # Errors
    /// What [`Session::set_rule`](crate::session::Session::set_rule) answers, `Disconnected`.
    pub async fn set_rule(&self, scope: Scope, terms: Option<Terms>) -> Result<()> {
        self.session.set_rule(scope, terms).await?;
        self.policy_changed().await
    }

    /// Has the rules enforced as they are now.
    ///
    /// # Errors
    /// `Disconnected`.
    pub(super) async fn policy_changed(&self) -> Result<()> {
        self.address
            .ask_first(|reply| ConnectionMessage::PolicyChanged { reply })
            .await
            .map_err(|_| Error::Disconnected("the connection is closed".into()))
    }
}
