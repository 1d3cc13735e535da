//! What one client of the small bus asked to hear.

use zbus::{MatchRule, Message, match_rule::PathSpec, names::BusName};

use crate::client::sharing::filter::is_below;

/// Most rules of one client.
pub const MAX_RULES: usize = 512;
/// Longest rule in bytes; dbus-daemon has the same.
pub const MAX_RULE: usize = 1024;
/// A message with a longer body is not looked into: a rule on its arguments does not match it.
const MAX_LOOKED_INTO: usize = 256 * 1024;

/// Why a rule is not taken, as an error of D-Bus's and a sentence.
pub type Refusal = (&'static str, &'static str);

/// The rules of one client. The same rule may be there more than once.
#[derive(Debug, Default)]
pub struct Rules(Vec<MatchRule<'static>>);

impl Rules {
    /// Adds one.
    ///
    /// # Errors
    /// When it is none, or there are too many.
    pub fn add(&mut self, rule: &str) -> Result<(), Refusal> {
        if self.0.len() >= MAX_RULES {
            return Err(("LimitsExceeded", "there are too many match rules"));
        }
        self.0.push(parsed(rule)?);
        Ok(())
    }

    /// Removes one that is the same.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&mut self, rule: &str) -> Result<(), Refusal> {
        let rule = parsed(rule)?;
        let place = self.0.iter().position(|has| *has == rule);
        let none = ("MatchRuleNotFound", "there is no such match rule");
        self.0.swap_remove(place.ok_or(none)?);
        Ok(())
    }

    /// Whether a signal to everybody is for this client. `senders` are all names of whoever sent it.
    pub fn match_signal(&self, message: &Message, senders: &[&str]) -> bool {
        self.0.iter().any(|rule| matches(rule, message, senders))
    }
}

fn parsed(rule: &str) -> Result<MatchRule<'static>, Refusal> {
    let invalid = ("MatchRuleInvalid", "this is no match rule");
    if rule.len() > MAX_RULE {
        return Err(("LimitsExceeded", "the match rule is too long"));
    }
    let rule = MatchRule::try_from(rule).map_err(|_| invalid)?;
    Ok(rule.into_owned())
}

/// The library's matching knows of no names, takes a path that only begins alike for one below, and
/// reads the whole body.
fn matches(rule: &MatchRule<'_>, message: &Message, senders: &[&str]) -> bool {
    let sent_by = |name: &BusName<'_>| senders.contains(&name.as_str());
    if rule.sender().is_some_and(|name| !sent_by(name)) || rule.destination().is_some() {
        return false;
    }
    if let Some(PathSpec::PathNamespace(above)) = rule.path_spec()
        && !message
            .header()
            .path()
            .is_some_and(|path| is_below(path.as_str(), above.as_str()))
    {
        return false;
    }
    let looks_inside = !rule.args().is_empty() || !rule.arg_paths().is_empty();
    if looks_inside && message.body().len() > MAX_LOOKED_INTO {
        return false;
    }
    rule.matches(message).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal() -> Message {
        Message::signal("/a/b", "org.example.I", "Did")
            .sender(":1.1")
            .build(&("org.example.Player", 5u32))
            .unwrap()
    }

    fn hears(rule: &str) -> bool {
        let mut rules = Rules::default();
        rules.add(rule).unwrap();
        rules.match_signal(&signal(), &[":1.1", "org.example.Player"])
    }

    #[test]
    fn a_rule_is_matched_with_names_and_whole_paths() {
        for rule in [
            "",
            "type='signal'",
            "sender='org.example.Player'",
            "sender=':1.1',interface='org.example.I',member='Did'",
            "path='/a/b'",
            "path_namespace='/a'",
            "path_namespace='/'",
            "arg0='org.example.Player'",
            "arg0namespace='org.example'",
        ] {
            assert!(hears(rule), "{rule}");
        }
        for rule in [
            "type='method_call'",
            "sender='org.example.Other'",
            "sender='org.freedesktop.DBus'",
            "path='/a'",
            "path_namespace='/a/b/c'",
            "path_namespace='/a/bb'",
            "arg0='org.example'",
            "arg1='5'",
            "destination=':2.1'",
        ] {
            assert!(!hears(rule), "{rule}");
        }
        let beside = Message::signal("/ab", "org.example.I", "Did")
            .build(&())
            .unwrap();
        let mut rules = Rules::default();
        rules.add("path_namespace='/a'").unwrap();
        assert!(!rules.match_signal(&beside, &[]));
    }

    #[test]
    fn a_rule_is_removed_as_often_as_it_was_added() {
        let mut rules = Rules::default();
        rules.add("member='Did'").unwrap();
        rules.add("member='Did'").unwrap();
        rules.remove("member=Did").unwrap();
        assert!(rules.match_signal(&signal(), &[]));
        rules.remove("member='Did'").unwrap();
        assert!(!rules.match_signal(&signal(), &[]));
        assert_eq!(
            rules.remove("member='Did'").unwrap_err().0,
            "MatchRuleNotFound"
        );
    }

    #[test]
    fn rules_are_bounded() {
        let mut rules = Rules::default();
        assert_eq!(rules.add("nonsense").unwrap_err().0, "MatchRuleInvalid");
        let long = format!("arg0='{}'", "a".repeat(MAX_RULE));
        assert_eq!(rules.add(&long).unwrap_err().0, "LimitsExceeded");
        for _ in 0..MAX_RULES {
            rules.add("").unwrap();
        }
        assert_eq!(rules.add("").unwrap_err().0, "LimitsExceeded");
    }

    #[test]
    fn a_large_body_is_not_looked_into() {
        let large = Message::signal("/", "org.example.I", "Did")
            .build(&("a", vec![0u8; MAX_LOOKED_INTO]))
            .unwrap();
        let mut rules = Rules::default();
        rules.add("arg0='a'").unwrap();
        assert!(!rules.match_signal(&large, &[]));
        rules.add("member='Did'").unwrap();
        assert!(rules.match_signal(&large, &[]));
    }
}
