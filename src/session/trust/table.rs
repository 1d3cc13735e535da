//! The table of pinned keys: pure, and bounded.
//!
//! One key for each contact of a protocol, and one contact for each key. Only what our user did gets
//! into it. The rules of the [`Policy`] lie in the same file: a table without any is written as version 1,
//! which has none, and any other as version 2, which a program that would not keep to them cannot read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{
    KeyId,
    policy::{Policy, StoredRule},
};

/// Most rows. A pin beyond it is refused with `ResourceUnavailable`: nothing pinned is ever dropped
/// to make room, because a dropped pin would let a stranger have the name.
pub const MAX_ROWS: usize = 4096;
/// Most bytes of a contact's name or a label.
const MAX_TEXT: usize = 1024;

/// One pinned key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRow {
    /// Telepathy's protocol name, `local-xmpp`.
    pub protocol: String,
    /// The contact's identifier when it was pinned.
    pub contact: String,
    /// The key.
    pub key: KeyId,
    /// What our user calls the contact; empty for nothing.
    pub label: String,
    /// When the key was pinned.
    pub first_seen: SystemTime,
    /// When our user compared codes.
    pub verified: Option<SystemTime>,
}

/// Why a row was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The contact has another key already.
    #[error("the contact is pinned to another key, {0}")]
    OtherKey(KeyId),
    /// The key belongs to another contact already.
    #[error("the key is pinned for {0}")]
    OtherContact(String),
    /// [`MAX_ROWS`].
    #[error("the table of trusted keys is full ({MAX_ROWS} contacts); forget some")]
    Full,
    /// A name is empty or longer than what is kept.
    #[error("the contact's name is too long to be remembered")]
    TooLong,
    /// What was read is not what was written.
    #[error("the table of trusted keys cannot be read: {0}")]
    Damaged(String),
}

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustTable {
    rows: Vec<TrustRow>,
    policy: Policy,
}

impl TrustTable {
    /// The rows, in the order they were pinned.
    pub fn rows(&self) -> &[TrustRow] {
        &self.rows
    }

    /// The row that holds a contact's name.
    pub fn by_contact(&self, protocol: &str, contact: &str) -> Option<&TrustRow> {
        self.rows
            .iter()
            .find(|row| row.protocol == protocol && row.contact == contact)
    }

    /// The row that holds a key.
    pub fn by_key(&self, protocol: &str, key: KeyId) -> Option<&TrustRow> {
        self.rows
            .iter()
            .find(|row| row.protocol == protocol && row.key == key)
    }

    /// Pins a key for a contact. Pinning the same again changes nothing.
    ///
    /// # Errors
    /// [`TableError`]; the table is then unchanged.
    pub fn pin(&mut self, row: TrustRow) -> Result<(), TableError> {
        if row.contact.is_empty() || row.contact.len() > MAX_TEXT || row.label.len() > MAX_TEXT {
            return Err(TableError::TooLong);
        }
        if let Some(known) = self.by_contact(&row.protocol, &row.contact) {
            return if known.key == row.key {
                Ok(())
            } else {
                Err(TableError::OtherKey(known.key))
            };
        }
        if let Some(known) = self.by_key(&row.protocol, row.key) {
            return Err(TableError::OtherContact(known.contact.clone()));
        }
        if self.rows.len() >= MAX_ROWS {
            return Err(TableError::Full);
        }
        self.rows.push(row);
        Ok(())
    }

    /// Marks a key as compared. Whether there is a row for it.
    pub fn verify(&mut self, protocol: &str, key: KeyId, when: SystemTime) -> bool {
        let row = self
            .rows
            .iter_mut()
            .find(|row| row.protocol == protocol && row.key == key);
        row.map(|row| row.verified = Some(when)).is_some()
    }

    /// What our user lets whom do.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The same, to be changed.
    pub fn policy_mut(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// Forgets a contact's key with the rules for it, and gives the row.
    pub fn forget(&mut self, protocol: &str, contact: &str) -> Option<TrustRow> {
        let position = self
            .rows
            .iter()
            .position(|row| row.protocol == protocol && row.contact == contact)?;
        let row = self.rows.remove(position);
        // Another protocol's contact may have the same key.
        if !self.rows.iter().any(|other| other.key == row.key) {
            self.policy.forget(row.key);
        }
        Some(row)
    }

    /// As the profile keeps it.
    ///
    /// # Errors
    /// [`TableError::Damaged`], in practice never.
    pub fn to_json(&self) -> Result<String, TableError> {
        let rules = self.policy.to_stored();
        let file = File {
            version: if rules.is_empty() { 1 } else { 2 },
            contacts: self.rows.iter().map(StoredRow::from).collect(),
            rules,
        };
        serde_json::to_string_pretty(&file).map_err(|error| TableError::Damaged(error.to_string()))
    }

    /// Reads what [`TrustTable::to_json`] wrote.
    ///
    /// # Errors
    /// [`TableError`] for anything else: half a table would let strangers have the other half's names.
    pub fn from_json(text: &str) -> Result<Self, TableError> {
        let file: File =
            serde_json::from_str(text).map_err(|error| TableError::Damaged(error.to_string()))?;
        match file.version {
            1 if file.rules.is_empty() => {}
            1 => return Err(TableError::Damaged("version 1 has no rules".into())),
            2 => {}
            other => {
                return Err(TableError::Damaged(format!(
                    "it has version {other}, this program knows versions 1 and 2"
                )));
            }
        }
        let mut table = TrustTable {
            rows: Vec::new(),
            policy: Policy::from_stored(file.rules)?,
        };
        for stored in file.contacts {
            let row = stored.into_row()?;
            let name = row.contact.clone();
            let before = table.rows.len();
            table.pin(row)?;
            if table.rows.len() == before {
                return Err(TableError::Damaged(format!("{name} is in it twice")));
            }
        }
        Ok(table)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    contacts: Vec<StoredRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<StoredRule>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRow {
    protocol: String,
    contact: String,
    key: String,
    #[serde(default)]
    label: String,
    /// Seconds since 1970.
    first_seen: u64,
    /// Seconds since 1970.
    verified: Option<u64>,
}

impl From<&TrustRow> for StoredRow {
    fn from(row: &TrustRow) -> Self {
        StoredRow {
            protocol: row.protocol.clone(),
            contact: row.contact.clone(),
            key: row.key.to_string(),
            label: row.label.clone(),
            first_seen: seconds(row.first_seen),
            verified: row.verified.map(seconds),
        }
    }
}

impl StoredRow {
    fn into_row(self) -> Result<TrustRow, TableError> {
        let key = self
            .key
            .parse()
            .map_err(|error: super::ParseKeyIdError| TableError::Damaged(error.to_string()))?;
        Ok(TrustRow {
            key,
            first_seen: time(self.first_seen)?,
            verified: self.verified.map(time).transpose()?,
            protocol: self.protocol,
            contact: self.contact,
            label: self.label,
        })
    }
}

/// A clock before 1970 counts as 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn time(seconds: u64) -> Result<SystemTime, TableError> {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .ok_or_else(|| TableError::Damaged("a date is out of range".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::trust::{
        Decision, Who,
        policy::tests::{scope, terms},
    };

    fn row(contact: &str, key: u8) -> TrustRow {
        TrustRow {
            protocol: "local-xmpp".into(),
            contact: contact.into(),
            key: KeyId([key; 32]),
            label: String::new(),
            first_seen: UNIX_EPOCH + Duration::from_secs(1000),
            verified: None,
        }
    }

    #[test]
    fn a_table_survives_being_written_and_read() {
        let mut table = TrustTable::default();
        table.pin(row("romeo@forza", 1)).unwrap();
        table.pin(row("juliet@forza #2", 2)).unwrap();
        assert!(table.verify(
            "local-xmpp",
            KeyId([2; 32]),
            UNIX_EPOCH + Duration::from_secs(5)
        ));
        let read = TrustTable::from_json(&table.to_json().unwrap()).unwrap();
        assert_eq!(read, table);
    }

    #[test]
    fn a_pinned_name_takes_no_other_key_and_a_pinned_key_no_other_name() {
        let mut table = TrustTable::default();
        table.pin(row("romeo@forza", 1)).unwrap();
        assert_eq!(
            table.pin(row("romeo@forza", 2)),
            Err(TableError::OtherKey(KeyId([1; 32])))
        );
        assert_eq!(
            table.pin(row("mercutio@forza", 1)),
            Err(TableError::OtherContact("romeo@forza".into()))
        );
        assert_eq!(table.pin(row("romeo@forza", 1)), Ok(()));
        assert_eq!(table.rows().len(), 1);
    }

    #[test]
    fn forgetting_frees_the_name() {
        let mut table = TrustTable::default();
        table.pin(row("romeo@forza", 1)).unwrap();
        assert!(table.forget("jabber", "romeo@forza").is_none());
        assert!(table.forget("local-xmpp", "romeo@forza").is_some());
        assert_eq!(table.pin(row("romeo@forza", 2)), Ok(()));
    }

    #[test]
    fn rules_are_kept_with_the_keys_and_go_with_them() {
        let mut table = TrustTable::default();
        table.pin(row("romeo@forza", 1)).unwrap();
        assert!(table.to_json().unwrap().contains("\"version\": 1"));
        let mut set = |who, service: &str, decision| {
            let terms = terms(decision, 3);
            table.policy_mut().set(scope(who, service), terms).unwrap();
        };
        set(Who::Key(KeyId([1; 32])), "http", Decision::Allow);
        set(Who::Pinned, "", Decision::Ask);
        set(Who::Everybody, "", Decision::Deny);
        let text = table.to_json().unwrap();
        assert!(text.contains("\"version\": 2"));
        assert_eq!(TrustTable::from_json(&text), Ok(table.clone()));
        for wrong in [
            text.replace("\"version\": 2", "\"version\": 1"),
            text.replace("\"pinned\"", "\"friends\""),
            text.replace("\"pinned\"", "\"everybody\""),
            text.replace("\"deny\"", "\"refuse\""),
            text.replace("\"deny\"", "\"allow\""),
            text.replace("\"http\"", "\"\""),
            text.replace("\"max_connections\": 3", "\"max_connections\": 0"),
            text.replace(
                "\"max_bytes_per_second\": null",
                "\"max_bytes_per_second\": 7",
            ),
            text.replace("max_connections", "max_doors"),
        ] {
            assert!(TrustTable::from_json(&wrong).is_err(), "{wrong}");
        }
        table.forget("local-xmpp", "romeo@forza");
        assert_eq!(table.policy().rules().len(), 2);
    }

    #[test]
    fn a_full_table_refuses_and_drops_nothing() {
        let mut table = TrustTable::default();
        for n in 0..MAX_ROWS {
            let mut one = row(&format!("contact-{n}"), 0);
            one.key.0[..8].copy_from_slice(&(n as u64).to_le_bytes());
            table.rows.push(one);
        }
        assert_eq!(table.pin(row("one more", 255)), Err(TableError::Full));
        assert_eq!(table.rows().len(), MAX_ROWS);
    }

    #[test]
    fn damage_is_an_error_and_not_a_shorter_table() {
        let mut table = TrustTable::default();
        table.pin(row("romeo@forza", 1)).unwrap();
        let text = table.to_json().unwrap();
        let twice = text.replace(
            "\"contacts\": [",
            &format!(
                "\"contacts\": [{},",
                serde_json::to_string(&StoredRow::from(&row("romeo@forza", 1))).unwrap()
            ),
        );
        for wrong in [
            "",
            "{}",
            &text[..text.len() / 2],
            &text.replace("\"version\": 1", "\"version\": 3"),
            &text.replace("01010101", "zz"),
            &twice,
        ] {
            assert!(TrustTable::from_json(wrong).is_err(), "{wrong}");
        }
    }
}
