//! Rules for contacts: in force once they are stored, and no sooner; they go and change with the keys.

use actors::model::{Error, ServiceName};

use super::lan::{Lan, Person, Trouble};
use crate::session::{
    ContactId,
    trust::{ComparisonCode, Decision, Identity, KeyId, Scope, Terms, Who},
};

fn denied(key: KeyId) -> (Scope, Option<Terms>) {
    let scope = Scope {
        who: Who::Key(key),
        service: ServiceName::new("rfb").ok(),
    };
    let terms = Terms {
        decision: Decision::Deny,
        ..Terms::default()
    };
    (scope, Some(terms))
}

fn set(lan: &Lan, person: &Person, (scope, terms): (Scope, Option<Terms>)) -> Result<(), Error> {
    lan.sim.run(person.side.session.set_rule(scope, terms))
}

fn rules(person: &Person) -> Vec<Scope> {
    let stored = person.store.table.lock().unwrap().policy().clone();
    assert_eq!(*person.side.session.policy(), stored);
    stored.rules().keys().cloned().collect()
}

#[test]
fn a_rule_that_cannot_be_stored_is_not_in_force() {
    let lan = Lan::new();
    let romeo = lan.person("romeo");
    let rule = denied(KeyId([7; 32]));
    for trouble in [Trouble::Full, Trouble::Panic] {
        *romeo.store.trouble.lock().unwrap() = trouble;
        let refused = set(&lan, &romeo, rule.clone());
        assert!(matches!(refused, Err(Error::Confused(_))), "{refused:?}");
        assert_eq!(rules(&romeo), []);
    }
    *romeo.store.trouble.lock().unwrap() = Trouble::Nothing;
    set(&lan, &romeo, rule.clone()).unwrap();
    assert_eq!(rules(&romeo), std::slice::from_ref(&rule.0));
    *romeo.store.trouble.lock().unwrap() = Trouble::Full;
    assert!(set(&lan, &romeo, (rule.0.clone(), None)).is_err());
    assert_eq!(rules(&romeo), std::slice::from_ref(&rule.0));
    *romeo.store.trouble.lock().unwrap() = Trouble::Nothing;
    set(&lan, &romeo, (rule.0.clone(), None)).unwrap();
    assert_eq!(rules(&romeo), []);
    let again = set(&lan, &romeo, (rule.0, None));
    assert!(matches!(again, Err(Error::NotAvailable(_))), "{again:?}");
    let everybody = Scope {
        who: Who::Everybody,
        service: None,
    };
    let allow = Terms {
        decision: Decision::Allow,
        ..Terms::default()
    };
    let refused = set(&lan, &romeo, (everybody, Some(allow)));
    assert!(
        matches!(refused, Err(Error::InvalidArgument(_))),
        "{refused:?}"
    );
}

#[test]
fn rules_go_with_a_forgotten_key_and_stay_with_a_replaced_one() {
    let lan = Lan::new();
    let (romeo, juliet) = (lan.person("romeo"), lan.person("juliet"));
    romeo.discovers(&lan, &juliet.id);
    let session = &romeo.side.session;
    lan.sim.run(session.pin(&juliet.id, None)).unwrap();
    set(&lan, &romeo, denied(juliet.key)).unwrap();
    // Another key under her name, and our user says that it is hers.
    let other = Identity::generate().unwrap();
    lan.host().announce(&juliet.id.0, Some(other.id()));
    let second = ContactId(format!("{} ({})", juliet.id, other.id().short()));
    romeo.sees(&lan, &second, |_| true);
    let code = ComparisonCode::of(romeo.key, other.id()).to_string();
    lan.sim.run(session.verify(&second, &code, true)).unwrap();
    assert_eq!(rules(&romeo), [denied(other.id()).0]);
    lan.sim.run(session.forget(&juliet.id)).unwrap();
    assert_eq!(rules(&romeo), []);
}
