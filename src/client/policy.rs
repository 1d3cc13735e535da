//! What our user lets whom do: `Policy1`, our own interface.

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant};

use super::contact::{number, text};

/// What becomes of tubes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Decision {
    /// A person decides each time.
    #[default]
    Ask,
    /// Our user has decided: nobody need be asked.
    Allow,
    /// There are none.
    Deny,
}

impl Decision {
    /// From the word on the bus. One that is not known allows nothing by itself.
    pub fn from_word(word: &str) -> Self {
        match word {
            "allow" => Decision::Allow,
            "deny" => Decision::Deny,
            _ => Decision::Ask,
        }
    }

    /// The word on the bus.
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Ask => "ask",
            Decision::Allow => "allow",
            Decision::Deny => "deny",
        }
    }
}

/// What a rule says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whether there are tubes.
    pub decision: Decision,
    /// Most connections of a tube at once.
    pub max_connections: Option<u32>,
    /// Most bytes a second, each way, of all connections of one contact and service.
    pub max_bytes_per_second: Option<u64>,
}

impl Terms {
    /// From the dictionary on the bus. What is missing or of another type is left out.
    pub fn from_map(map: &HashMap<String, OwnedVariant>) -> Self {
        let positive = |key| number(map, key).filter(|number| *number > 0);
        Terms {
            decision: text(map, "decision")
                .map(|word| Decision::from_word(&word))
                .unwrap_or_default(),
            max_connections: positive("max-connections").and_then(|n| u32::try_from(n).ok()),
            max_bytes_per_second: positive("max-bytes-per-second")
                .and_then(|n| u64::try_from(n).ok()),
        }
    }

    /// The dictionary on the bus.
    pub(super) fn to_map(self) -> HashMap<&'static str, Variant<'static>> {
        let mut map = HashMap::from([("decision", Variant::from(self.decision.as_str()))]);
        if let Some(most) = self.max_connections {
            map.insert("max-connections", Variant::from(most));
        }
        if let Some(most) = self.max_bytes_per_second {
            map.insert("max-bytes-per-second", Variant::from(most));
        }
        map
    }
}

/// A rule: for whom, for which service, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A fingerprint, `pinned` or `everybody`.
    pub who: String,
    /// The id of the contact with that fingerprint, where it is known.
    pub contact_id: Option<String>,
    /// The service; `None` for any.
    pub service: Option<String>,
    /// What it says.
    pub terms: Terms,
}

impl Rule {
    /// From the dictionary on the bus; `None` for what is no rule.
    pub(super) fn from_map(map: &HashMap<String, OwnedVariant>) -> Option<Self> {
        Some(Rule {
            who: text(map, "who").filter(|who| !who.is_empty())?,
            contact_id: text(map, "contact-id"),
            service: text(map, "service").filter(|service| !service.is_empty()),
            terms: Terms::from_map(map),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(map: HashMap<&'static str, Variant<'static>>) -> HashMap<String, OwnedVariant> {
        map.into_iter()
            .map(|(name, value)| {
                let value = OwnedVariant::try_from(value).expect("no descriptors");
                (name.to_owned(), value)
            })
            .collect()
    }

    #[test]
    fn terms_are_read_as_they_are_sent() {
        for terms in [
            Terms::default(),
            Terms {
                decision: Decision::Allow,
                max_connections: Some(3),
                max_bytes_per_second: Some(1 << 40),
            },
        ] {
            assert_eq!(Terms::from_map(&received(terms.to_map())), terms);
        }
    }

    #[test]
    fn what_is_not_understood_is_left_out() {
        let map = received(HashMap::from([
            ("decision", Variant::from("always")),
            ("max-connections", Variant::from("3")),
            ("max-bytes-per-second", Variant::from(-5_i64)),
        ]));
        assert_eq!(Terms::from_map(&map), Terms::default());
        assert_eq!(Rule::from_map(&map), None);
    }
}
