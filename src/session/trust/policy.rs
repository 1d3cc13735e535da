//! What our user lets whom do: rules for contacts and services, pure and bounded.
//!
//! ```text
//!   more specific                                                      less specific
//!   ──────────────────────────────────────────────────────────────────────────────►
//!   this key,   this key,      pinned,     pinned,        everybody,   everybody,
//!   service     any service    service     any service    service      any service
//! ```
//!
//! The most specific rule that fits counts, as a whole; without one, the default: ask, no caps. Rules
//! go by keys, because a contact *is* its key: one that shows none has the rules for everybody. The
//! rules lie in the same file as the pinned keys, so that both change together or not at all.
//!
//! What the decisions do is said where they are enforced, in `connection/policy`.

use std::{
    collections::BTreeMap,
    fmt,
    num::{NonZeroU32, NonZeroU64},
    str::FromStr,
};

use actors::model::{Error, ServiceName};
use serde::{Deserialize, Serialize};

use super::{KeyId, TableError};

/// Most rules. One more is refused with `ResourceUnavailable`.
pub const MAX_RULES: usize = 1024;
/// The lowest cap on bytes per second: below it a handshake of whatever is carried takes minutes, and
/// a deny says better what is meant.
pub const MIN_RATE: u64 = 1024;
/// The highest: no machine comes near, and sums of it stay numbers.
pub const MAX_RATE: u64 = 1 << 40;

/// Whom a rule is for. In the order of how specific that is, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// Everybody on the network.
    Everybody,
    /// All contacts our user has dealt with.
    Pinned,
    /// One contact, pinned or not.
    Key(KeyId),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Everybody => f.write_str("everybody"),
            Who::Pinned => f.write_str("pinned"),
            Who::Key(key) => key.fmt(f),
        }
    }
}

/// The text names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rule is for 'everybody', for 'pinned', or for a fingerprint of 64 hexadecimal digits")]
pub struct ParseWhoError;

impl FromStr for Who {
    type Err = ParseWhoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "everybody" => Ok(Who::Everybody),
            "pinned" => Ok(Who::Pinned),
            text => text.parse().map(Who::Key).map_err(|_| ParseWhoError),
        }
    }
}

/// What a rule is about; there is one rule at most for each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// Whom it is for.
    pub who: Who,
    /// For which service; `None` for any.
    pub service: Option<ServiceName>,
}

/// What becomes of tubes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Decision {
    /// A channel appears, and a client decides.
    #[default]
    Ask,
    /// Our user has decided already: clients that look here need not ask.
    Allow,
    /// There are none.
    Deny,
}

impl Decision {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Ask => "ask",
            Decision::Allow => "allow",
            Decision::Deny => "deny",
        }
    }
}

/// The text is no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a decision is 'ask', 'allow' or 'deny'")]
pub struct ParseDecisionError;

impl FromStr for Decision {
    type Err = ParseDecisionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ask" => Ok(Decision::Ask),
            "allow" => Ok(Decision::Allow),
            "deny" => Ok(Decision::Deny),
            _ => Err(ParseDecisionError),
        }
    }
}

/// What a rule says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Whether there are tubes.
    pub decision: Decision,
    /// Most connections of a tube at once.
    pub max_connections: Option<NonZeroU32>,
    /// Most bytes a second, each way, of all connections of one contact and service together.
    pub max_bytes_per_second: Option<NonZeroU64>,
}

/// Why a rule was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// [`MAX_RULES`].
    #[error("there are {MAX_RULES} rules already; remove some")]
    Full,
    /// Anybody is somebody: whoever joins the network would be let in unasked, and pinned.
    #[error(
        "'allow' is for contacts: one, or those you dealt with ('pinned'), never for everybody"
    )]
    EverybodyAllowed,
    /// Outside of [`MIN_RATE`] to [`MAX_RATE`].
    #[error("a cap on bytes per second is at least {MIN_RATE} and at most {MAX_RATE}")]
    Rate,
}

impl From<PolicyError> for Error {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Full => Error::ResourceUnavailable(error.to_string()),
            PolicyError::EverybodyAllowed | PolicyError::Rate => {
                Error::InvalidArgument(error.to_string())
            }
        }
    }
}

/// All rules; see the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rules: BTreeMap<Scope, Terms>,
}

impl Policy {
    /// The rules, the least specific first.
    pub fn rules(&self) -> &BTreeMap<Scope, Terms> {
        &self.rules
    }

    /// Makes a rule, or replaces it.
    ///
    /// # Errors
    /// [`PolicyError`]; the rules are then unchanged.
    pub fn set(&mut self, scope: Scope, terms: Terms) -> Result<(), PolicyError> {
        if scope.who == Who::Everybody && terms.decision == Decision::Allow {
            return Err(PolicyError::EverybodyAllowed);
        }
        let rate = terms.max_bytes_per_second.map(NonZeroU64::get);
        if rate.is_some_and(|rate| !(MIN_RATE..=MAX_RATE).contains(&rate)) {
            return Err(PolicyError::Rate);
        }
        if self.rules.len() >= MAX_RULES && !self.rules.contains_key(&scope) {
            return Err(PolicyError::Full);
        }
        self.rules.insert(scope, terms);
        Ok(())
    }

    /// Removes a rule and gives what it said.
    pub fn remove(&mut self, scope: &Scope) -> Option<Terms> {
        self.rules.remove(scope)
    }

    /// Removes all rules for a key.
    pub fn forget(&mut self, key: KeyId) {
        self.rules.retain(|scope, _| scope.who != Who::Key(key));
    }

    /// The rules for one key are those for another from now on, which is the same person's.
    pub fn hand_over(&mut self, from: KeyId, to: KeyId) {
        let kept = self.rules.clone();
        self.forget(from);
        for (scope, terms) in kept {
            if scope.who == Who::Key(from) {
                let who = Who::Key(to);
                self.rules.entry(Scope { who, ..scope }).or_insert(terms);
            }
        }
    }

    /// What holds for a contact that has proved this key, or has none, and a service (`None`: one that
    /// no rule names).
    pub fn terms(&self, key: Option<KeyId>, pinned: bool, service: Option<&ServiceName>) -> Terms {
        let whom = [
            key.map(Who::Key),
            pinned.then_some(Who::Pinned),
            Some(Who::Everybody),
        ];
        let rule = |who, service: Option<&ServiceName>| {
            let service = service.cloned();
            self.rules.get(&Scope { who, service })
        };
        whom.into_iter()
            .flatten()
            .find_map(|who| {
                let named = service.and_then(|service| rule(who, Some(service)));
                named.or_else(|| rule(who, None))
            })
            .copied()
            .unwrap_or_default()
    }

    /// As the table of trusted keys keeps them.
    pub(super) fn to_stored(&self) -> Vec<StoredRule> {
        let stored = |(scope, terms): (&Scope, &Terms)| StoredRule {
            who: scope.who.to_string(),
            service: scope
                .service
                .as_ref()
                .map(|service| service.as_str().to_owned()),
            decision: terms.decision.as_str().to_owned(),
            max_connections: terms.max_connections,
            max_bytes_per_second: terms.max_bytes_per_second,
        };
        self.rules.iter().map(stored).collect()
    }

    /// Reads what [`Policy::to_stored`] gave.
    ///
    /// # Errors
    /// [`TableError::Damaged`] for anything else: half the rules would let in whom the other half
    /// denies.
    pub(super) fn from_stored(stored: Vec<StoredRule>) -> Result<Self, TableError> {
        let damaged = |error: &dyn fmt::Display| TableError::Damaged(format!("a rule: {error}"));
        let mut policy = Policy::default();
        for rule in stored {
            let service = rule.service.map(ServiceName::new).transpose();
            let scope = Scope {
                who: rule
                    .who
                    .parse()
                    .map_err(|error| damaged(&error as &ParseWhoError))?,
                service: service.map_err(|error| damaged(&error))?,
            };
            let decision = rule.decision.parse();
            let terms = Terms {
                decision: decision.map_err(|error: ParseDecisionError| damaged(&error))?,
                max_connections: rule.max_connections,
                max_bytes_per_second: rule.max_bytes_per_second,
            };
            if policy.rules.contains_key(&scope) {
                return Err(damaged(&format!("{} has two for one service", scope.who)));
            }
            policy.set(scope, terms).map_err(|error| damaged(&error))?;
        }
        Ok(policy)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredRule {
    who: String,
    service: Option<String>,
    decision: String,
    max_connections: Option<NonZeroU32>,
    max_bytes_per_second: Option<NonZeroU64>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const BOB: KeyId = KeyId([2; 32]);
    const EVE: KeyId = KeyId([3; 32]);

    pub fn scope(who: Who, service: &str) -> Scope {
        Scope {
            who,
            service: ServiceName::new(service).ok(),
        }
    }

    pub fn terms(decision: Decision, connections: u32) -> Terms {
        Terms {
            decision,
            max_connections: NonZeroU32::new(connections),
            max_bytes_per_second: None,
        }
    }

    #[test]
    fn the_most_specific_rule_counts_as_a_whole() {
        let order = [
            scope(Who::Key(BOB), "http"),
            scope(Who::Key(BOB), ""),
            scope(Who::Pinned, "http"),
            scope(Who::Pinned, ""),
            scope(Who::Everybody, "http"),
            scope(Who::Everybody, ""),
        ];
        let mut policy = Policy::default();
        for (n, scope) in order.iter().enumerate() {
            let n = n as u32 + 1;
            policy.set(scope.clone(), terms(Decision::Deny, n)).unwrap();
        }
        let http = ServiceName::new("http").unwrap();
        let count = |policy: &Policy, key, pinned, service| {
            let terms = policy.terms(key, pinned, service);
            terms.max_connections.map_or(0, NonZeroU32::get)
        };
        assert_eq!(count(&policy, Some(EVE), false, Some(&http)), 5);
        assert_eq!(count(&policy, None, false, None), 6);
        assert_eq!(count(&policy, Some(EVE), true, None), 4);
        assert_eq!(count(&policy, Some(BOB), true, None), 2);
        for (n, scope) in order.iter().enumerate() {
            assert_eq!(count(&policy, Some(BOB), true, Some(&http)), n as u32 + 1);
            assert!(policy.remove(scope).is_some());
        }
        assert_eq!(policy.remove(&order[0]), None);
        let nothing = policy.terms(Some(BOB), true, Some(&http));
        assert_eq!(nothing, Terms::default());
    }

    #[test]
    fn what_is_no_rule_is_refused_and_changes_nothing() {
        let mut policy = Policy::default();
        let everybody = policy.set(scope(Who::Everybody, "http"), terms(Decision::Allow, 0));
        assert_eq!(everybody, Err(PolicyError::EverybodyAllowed));
        for rate in [1, MIN_RATE - 1, MAX_RATE + 1, u64::MAX] {
            let terms = Terms {
                max_bytes_per_second: NonZeroU64::new(rate),
                ..Terms::default()
            };
            let refused = policy.set(scope(Who::Pinned, ""), terms);
            assert_eq!(refused, Err(PolicyError::Rate));
        }
        for n in 0..MAX_RULES {
            let scope = scope(Who::Pinned, &format!("x-{n}"));
            policy.set(scope, Terms::default()).unwrap();
        }
        let one_more = scope(Who::Pinned, "x");
        assert_eq!(
            policy.set(one_more, Terms::default()),
            Err(PolicyError::Full)
        );
        let known = scope(Who::Pinned, "x-7");
        assert_eq!(policy.set(known, terms(Decision::Deny, 1)), Ok(()));
        assert_eq!(policy.rules().len(), MAX_RULES);
    }

    #[test]
    fn a_key_that_takes_another_s_place_has_its_rules() {
        let mut policy = Policy::default();
        let mut set = |who, service: &str, decision| {
            policy.set(scope(who, service), terms(decision, 0)).unwrap();
        };
        set(Who::Key(BOB), "http", Decision::Deny);
        set(Who::Key(BOB), "", Decision::Ask);
        set(Who::Key(EVE), "", Decision::Deny);
        set(Who::Pinned, "", Decision::Allow);
        policy.hand_over(BOB, EVE);
        let rules: Vec<_> = policy
            .rules()
            .iter()
            .map(|(s, t)| (s, t.decision))
            .collect();
        assert_eq!(
            rules,
            [
                (&scope(Who::Pinned, ""), Decision::Allow),
                (&scope(Who::Key(EVE), ""), Decision::Deny),
                (&scope(Who::Key(EVE), "http"), Decision::Deny),
            ]
        );
        policy.forget(EVE);
        assert_eq!(policy.rules().len(), 1);
    }

    #[test]
    fn who_reads_what_it_writes() {
        for who in [Who::Everybody, Who::Pinned, Who::Key(BOB)] {
            assert_eq!(who.to_string().parse(), Ok(who));
        }
        for wrong in ["", "bob@desk", "Pinned", "02"] {
            assert_eq!(wrong.parse::<Who>(), Err(ParseWhoError), "{wrong}");
        }
    }
}
