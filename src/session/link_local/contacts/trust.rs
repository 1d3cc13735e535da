//! What our user does about keys.

use std::time::SystemTime;

use actors::{model::Error, runtime::Time};

use crate::session::{
    ContactId, Trust,
    trust::{ComparisonCode, KeyId, Scope, TableError, Terms, TrustRow},
};

use super::{Change, Contacts, PROTOCOL, blocked};

impl Contacts {
    /// Whether the contact's key has to be proved before it is pinned: not when it is pinned already,
    /// or when there is none to prove. `expected` is the key our user was shown, if one was.
    ///
    /// # Errors
    /// As [`Contacts::route`]; `CertFingerprintMismatch` when the contact has another key than the
    /// expected one.
    pub fn needs_proof(&self, id: &ContactId, expected: Option<KeyId>) -> Result<bool, Error> {
        let entry = self.entry(id)?;
        match &entry.trust {
            Trust::Blocked { pinned } => Err(blocked(id, *pinned, entry.key)),
            _ if expected.is_some() && entry.key != expected => Err(another_key(id)),
            Trust::Pinned { .. } | Trust::Verified { .. } => Ok(false),
            Trust::NoKey if self.require_encryption => Err(Error::EncryptionNotAvailable(format!(
                "{id} offers no encryption, and this account requires it"
            ))),
            Trust::NoKey => Ok(false),
            Trust::Unpinned => Ok(true),
        }
    }

    /// Pins the key the contact has proved, `None` on a stream in plaintext: then there is nothing to
    /// pin, if the contact says so too. `expected` is the key our user was shown, if one was.
    ///
    /// # Errors
    /// `CertFingerprintMismatch` when the contact has another key by now or proved another than the
    /// expected one, `EncryptionNotAvailable` when it has one and proved none, `ResourceUnavailable`
    /// when the table is full.
    pub fn pin(
        &mut self,
        id: &ContactId,
        proved: Option<KeyId>,
        expected: Option<KeyId>,
        when: SystemTime,
        now: Time,
    ) -> Result<Vec<Change>, Error> {
        let entry = self.entry(id)?;
        let Some(key) = proved else {
            if entry.key.is_none() && expected.is_none() {
                return Ok(Vec::new());
            }
            return Err(Error::EncryptionNotAvailable(format!(
                "{id} has a key and did not prove it"
            )));
        };
        if entry.key != proved || expected.is_some_and(|expected| expected != key) {
            return Err(another_key(id));
        }
        self.pin_row(id, key, when)?;
        Ok(self.refresh(now))
    }

    pub(super) fn pin_row(
        &mut self,
        id: &ContactId,
        key: KeyId,
        when: SystemTime,
    ) -> Result<(), Error> {
        self.trust
            .pin(TrustRow {
                protocol: PROTOCOL.into(),
                contact: id.0.clone(),
                key,
                label: String::new(),
                first_seen: when,
                verified: None,
            })
            .map_err(|error| match error {
                TableError::Full | TableError::TooLong => {
                    Error::ResourceUnavailable(error.to_string())
                }
                error => Error::CertFingerprintMismatch(format!("{id}: {error}")),
            })
    }

    /// Our user compared codes.
    ///
    /// # Errors
    /// See [`crate::session::Session::verify`].
    pub fn verify(
        &mut self,
        id: &ContactId,
        code: &str,
        replace: bool,
        when: SystemTime,
        now: Time,
    ) -> Result<Vec<Change>, Error> {
        let entry = self.entry(id)?;
        let Some(key) = entry.key else {
            return Err(Error::NotAvailable(format!("{id} has no key to compare")));
        };
        let trust = entry.trust.clone();
        let code: ComparisonCode =
            code.parse()
                .map_err(|error: crate::session::trust::ParseCodeError| {
                    Error::InvalidArgument(error.to_string())
                })?;
        if code != ComparisonCode::of(self.own_key, key) {
            return Err(Error::InvalidArgument(format!(
                "this is not the code of {id} and you: do not trust this contact"
            )));
        }
        match trust {
            Trust::Blocked { pinned } if !replace => return Err(blocked(id, pinned, Some(key))),
            Trust::Blocked { pinned } => {
                let row = self.trust.by_key(PROTOCOL, pinned);
                let Some(name) = row.map(|row| ContactId(row.contact.clone())) else {
                    return Err(Error::NotAvailable(format!("{id} is not known any more")));
                };
                let before = self.trust.policy().clone();
                let mut policy = before.clone();
                policy.hand_over(pinned, key);
                let old = self.trust.forget(PROTOCOL, &name.0);
                *self.trust.policy_mut() = policy;
                if let Err(error) = self.pin_row(&name, key, when) {
                    *self.trust.policy_mut() = before;
                    if let Some(old) = old {
                        self.trust
                            .pin(old)
                            .map_err(|error| Error::Confused(error.to_string()))?;
                    }
                    return Err(error);
                }
            }
            Trust::Unpinned => self.pin_row(id, key, when)?,
            Trust::NoKey | Trust::Pinned { .. } | Trust::Verified { .. } => {}
        }
        self.trust.verify(PROTOCOL, key, when);
        Ok(self.refresh(now))
    }

    /// Our user makes a rule, or, with `None`, takes it back.
    ///
    /// # Errors
    /// See [`crate::session::Session::set_rule`].
    pub fn set_rule(&mut self, scope: Scope, terms: Option<Terms>) -> Result<(), Error> {
        let policy = self.trust.policy_mut();
        match terms {
            Some(terms) => Ok(policy.set(scope, terms)?),
            None => match policy.remove(&scope) {
                Some(_) => Ok(()),
                None => Err(Error::NotAvailable(format!(
                    "there is no such rule for {}",
                    scope.who
                ))),
            },
        }
    }

    /// Our user wants a contact's key forgotten, and the rules for it. Its tubes close.
    ///
    /// # Errors
    /// `NotAvailable` when nothing is pinned.
    pub fn forget(&mut self, id: &ContactId, now: Time) -> Result<Vec<Change>, Error> {
        if self.trust.forget(PROTOCOL, &id.0).is_none() {
            return Err(Error::NotAvailable(format!("no key is pinned for {id}")));
        }
        // Tubes were agreed on with somebody who is a stranger now.
        let mut changes = vec![Change::Lost(id.clone())];
        changes.extend(self.refresh(now));
        Ok(changes)
    }
}

fn another_key(id: &ContactId) -> Error {
    Error::CertFingerprintMismatch(format!("{id} has another key now; look at it again"))
}
