//! What our user does about keys.

use std::time::SystemTime;

use actors::{model::Error, runtime::Time};

use crate::session::{
    ContactId, Trust,
    trust::{ComparisonCode, KeyId, TableError, TrustRow},
};

use super::{Change, Contacts, PROTOCOL, blocked};

impl Contacts {
    /// The contact's key needs no more proof: it is pinned already, or there is none to prove.
    ///
    /// # Errors
    /// As [`Contacts::route`].
    pub fn needs_proof(&self, id: &ContactId) -> Result<bool, Error> {
        let entry = self.entry(id)?;
        match &entry.trust {
            Trust::Pinned { .. } | Trust::Verified { .. } => Ok(false),
            Trust::Blocked { pinned } => Err(blocked(id, *pinned, entry.key)),
            Trust::NoKey if self.require_encryption => Err(Error::EncryptionNotAvailable(format!(
                "{id} offers no encryption, and this account requires it"
            ))),
            Trust::NoKey => Ok(false),
            Trust::Unpinned => Ok(true),
        }
    }

    /// Pins the key the contact has proved.
    ///
    /// # Errors
    /// `CertFingerprintMismatch` when the contact has another key by now, `ResourceUnavailable` when
    /// the table is full.
    pub fn pin(
        &mut self,
        id: &ContactId,
        key: KeyId,
        when: SystemTime,
        now: Time,
    ) -> Result<Vec<Change>, Error> {
        let entry = self.entry(id)?;
        if entry.key != Some(key) {
            return Err(Error::CertFingerprintMismatch(format!(
                "{id} has another key now; look at it again"
            )));
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
                let old = self.trust.forget(PROTOCOL, &name.0);
                if let Err(error) = self.pin_row(&name, key, when) {
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

    /// Our user wants a contact's key forgotten.
    ///
    /// # Errors
    /// `NotAvailable` when nothing is pinned.
    pub fn forget(&mut self, id: &ContactId, now: Time) -> Result<Vec<Change>, Error> {
        if self.trust.forget(PROTOCOL, &id.0).is_none() {
            return Err(Error::NotAvailable(format!("no key is pinned for {id}")));
        }
        Ok(self.refresh(now))
    }
}
