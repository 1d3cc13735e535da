//! `Connection.Interface.Pneuma.Policy1`, our own: what our user lets whom do. `connection/policy` says
//! what comes of it.

use std::{
    collections::HashMap,
    num::{NonZeroU32, NonZeroU64},
};

use actors::model::{Error, Result as Outcome, ServiceName};
use zbus::{Variant, object_server::SignalEmitter};

use super::{
    error::{Result, answered},
    held::Ordered,
    values::{self, Map, ReceivedMap},
};
use crate::{
    connection::ConnectionHandle,
    session::trust::{ParseDecisionError, ParseWhoError, Scope, Terms, Who},
};

/// `who` and `service` of a rule.
const WHO: &str = "who";
const SERVICE: &str = "service";
/// What a rule says.
const DECISION: &str = "decision";
const MAX_CONNECTIONS: &str = "max-connections";
const MAX_BYTES_PER_SECOND: &str = "max-bytes-per-second";

/// The interface.
#[derive(Debug)]
pub struct Policy {
    connection: ConnectionHandle,
}

impl Policy {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle) -> Self {
        Policy { connection }
    }
}

/// A rule's place, as callers write it. An empty service is any.
fn scope(who: &str, service: &str) -> Outcome<Scope> {
    let who: Who = who
        .parse()
        .map_err(|error: ParseWhoError| Error::InvalidArgument(error.to_string()))?;
    let service = match service {
        "" => None,
        name => Some(ServiceName::new(name)?),
    };
    Ok(Scope { who, service })
}

/// What a rule is to say. A key that is not known might be a demand that is not met, so there must be
/// none.
fn given_terms(map: &ReceivedMap) -> Outcome<Terms> {
    let mut terms = Terms::default();
    for (name, value) in values::given_map(map) {
        match name.as_str() {
            DECISION => {
                terms.decision =
                    value
                        .text(DECISION)?
                        .parse()
                        .map_err(|error: ParseDecisionError| {
                            Error::InvalidArgument(error.to_string())
                        })?;
            }
            MAX_CONNECTIONS => {
                let most = NonZeroU32::new(value.number(MAX_CONNECTIONS)?);
                terms.max_connections = Some(most.ok_or_else(|| zero(MAX_CONNECTIONS))?);
            }
            MAX_BYTES_PER_SECOND => {
                let most = NonZeroU64::new(value.number(MAX_BYTES_PER_SECOND)?);
                terms.max_bytes_per_second = Some(most.ok_or_else(|| zero(MAX_BYTES_PER_SECOND))?);
            }
            _ => {
                return Err(Error::InvalidArgument(format!(
                    "a rule has '{DECISION}', '{MAX_CONNECTIONS}' and '{MAX_BYTES_PER_SECOND}', and nothing else"
                )));
            }
        }
    }
    Ok(terms)
}

fn zero(what: &str) -> Error {
    Error::InvalidArgument(format!(
        "'{what}' cannot be 0: leave it out for no cap, or deny what should not be"
    ))
}

fn terms(terms: &Terms) -> Map {
    let mut map = Map::from([(DECISION.to_owned(), Variant::new(terms.decision.as_str()))]);
    if let Some(most) = terms.max_connections {
        map.insert(MAX_CONNECTIONS.to_owned(), Variant::new(most.get()));
    }
    if let Some(most) = terms.max_bytes_per_second {
        map.insert(MAX_BYTES_PER_SECOND.to_owned(), Variant::new(most.get()));
    }
    map
}

fn service(scope: &Scope) -> String {
    let name = scope.service.as_ref();
    name.map_or_else(String::new, |name| name.as_str().to_owned())
}

/// A rule as it is sent.
pub fn rule(scope: &Scope, says: &Terms) -> Map {
    let mut map = terms(says);
    map.insert(WHO.to_owned(), Variant::new(scope.who.to_string()));
    map.insert(SERVICE.to_owned(), Variant::new(service(scope)));
    map
}

/// Where a rule was, as it is sent.
pub fn place(scope: &Scope) -> (String, String) {
    (scope.who.to_string(), service(scope))
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Policy1",
    introspection_docs = false
)]
impl Policy {
    /// Each rule: `who` (s: a fingerprint, `pinned` or `everybody`), `service` (s; empty for any),
    /// `decision` (s: ask, allow, deny), `max-connections` (u) and `max-bytes-per-second` (t) where
    /// there are caps, and `contact-id` (s) where a contact with that key is known.
    #[zbus(out_args("Rules"))]
    async fn list_rules(&self) -> Result<Ordered<Vec<Map>>> {
        answered("ListRules", async move {
            let order = self.connection.order().read_arc().await;
            let view = self.connection.view.get();
            let ids: HashMap<_, _> = view
                .contacts
                .listed()
                .filter_map(|contact| Some((Who::Key(contact.key?), contact.id.clone())))
                .collect();
            let policy = self.connection.policy();
            let listed = policy.rules().iter().map(|(scope, says)| {
                let mut map = rule(scope, says);
                if let Some(id) = ids.get(&scope.who) {
                    let id = id.as_ref().to_owned();
                    map.insert("contact-id".to_owned(), Variant::new(id));
                }
                map
            });
            Ok(Ordered::new(listed.collect(), order))
        })
        .await
    }

    /// What holds for somebody and a service, whichever rule says so.
    #[zbus(out_args("Terms"))]
    async fn get_terms(&self, who: String, service: String) -> Result<Map> {
        answered("GetTerms", async move {
            let scope = scope(&who, &service)?;
            let found = self.connection.terms(scope.who, scope.service.as_ref())?;
            Ok(terms(&found))
        })
        .await
    }

    /// Makes a rule, or replaces it as a whole: without `decision` it says ask, without a cap there is
    /// none.
    async fn set_rule(&self, who: String, service: String, terms: ReceivedMap) -> Result<()> {
        answered("SetRule", async move {
            let (scope, terms) = (scope(&who, &service)?, given_terms(&terms)?);
            self.connection.set_rule(scope, Some(terms)).await
        })
        .await
    }

    async fn remove_rule(&self, who: String, service: String) -> Result<()> {
        answered("RemoveRule", async move {
            let scope = scope(&who, &service)?;
            self.connection.set_rule(scope, None).await
        })
        .await
    }

    /// Rules that are new or say something else, and where rules are gone.
    #[zbus(signal)]
    pub(super) async fn policy_changed(
        emitter: &SignalEmitter<'_>,
        set: Vec<Map>,
        removed: Vec<(String, String)>,
    ) -> zbus::Result<()>;
}

#[cfg(test)]
mod tests {
    use zbus::OwnedVariant;

    use super::*;
    use crate::session::trust::Decision;

    fn given(pairs: &[(&str, Variant<'static>)]) -> ReceivedMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let value = OwnedVariant::try_from(value.clone()).expect("no descriptors");
                ((*name).to_owned(), value)
            })
            .collect()
    }

    #[test]
    fn rules_are_read_as_they_are_sent() {
        let full = given(&[
            (DECISION, Variant::new("deny")),
            (MAX_CONNECTIONS, Variant::new(3_u32)),
            (MAX_BYTES_PER_SECOND, Variant::new(1_u64 << 40)),
        ]);
        let read = given_terms(&full).unwrap();
        assert_eq!(read.decision, Decision::Deny);
        let sent = terms(&read);
        assert_eq!(
            given_terms(&given(
                &sent
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.clone()))
                    .collect::<Vec<_>>()
            ))
            .unwrap(),
            read
        );
        assert_eq!(given_terms(&given(&[])).unwrap(), Terms::default());
        // Whatever integer type a binding makes of a number.
        let loose = given(&[(MAX_CONNECTIONS, Variant::new(3_i64))]);
        assert_eq!(
            given_terms(&loose).unwrap().max_connections,
            NonZeroU32::new(3)
        );
    }

    #[test]
    fn what_is_no_rule_is_an_invalid_argument() {
        for (name, value) in [
            (DECISION, Variant::new("perhaps")),
            (DECISION, Variant::new(1_u32)),
            (MAX_CONNECTIONS, Variant::new(0_u32)),
            (MAX_CONNECTIONS, Variant::new(-1_i32)),
            (MAX_CONNECTIONS, Variant::new(1_u64 << 40)),
            (MAX_CONNECTIONS, Variant::new("many")),
            (MAX_BYTES_PER_SECOND, Variant::new(0_u64)),
            (MAX_BYTES_PER_SECOND, Variant::new(1.5)),
            ("max-bytes", Variant::new(1_u64)),
        ] {
            let refused = given_terms(&given(&[(name, value.clone())]));
            assert!(
                matches!(refused, Err(Error::InvalidArgument(_))),
                "{name}: {value:?}: {refused:?}"
            );
        }
        for (who, service) in [("", ""), ("bob@desk", "http"), ("pinned", "\u{7}")] {
            assert!(matches!(
                scope(who, service),
                Err(Error::InvalidArgument(_))
            ));
        }
        assert_eq!(scope("pinned", "").unwrap().service, None);
    }
}
