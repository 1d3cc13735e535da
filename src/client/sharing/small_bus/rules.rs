//! What one client of the small bus asked to hear.

use std::cell::OnceCell;

use zbus::{
    MatchRule, Message, ObjectPath, Structure, Variant, match_rule::PathSpec, names::BusName,
};

use crate::client::sharing::{filter::is_below, words::Refusal};

/// Most rules of one client.
pub const MAX_RULES: usize = 512;
/// Longest rule in bytes; dbus-daemon has the same.
pub const MAX_RULE: usize = 1024;
/// A message with a longer body is not looked into: a rule on its arguments does not match it.
pub const MAX_LOOKED_INTO: usize = 16 * 1024;
/// So many arguments can a rule name.
const MAX_ARGUMENTS: usize = 64;

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

    /// Whether a signal to everybody is for this client.
    pub fn match_signal(&self, signal: &Signal<'_>) -> bool {
        self.0.iter().any(|rule| matches(rule, signal))
    }
}

/// A signal that many rules are asked about. Its body is read once, if at all.
#[derive(Debug)]
pub struct Signal<'s> {
    message: &'s Message,
    /// All names of whoever sent it.
    senders: &'s [&'s str],
    arguments: OnceCell<Vec<Argument>>,
}

/// What a rule may say of an argument.
#[derive(Debug)]
enum Argument {
    Text(String),
    Path(String),
    Other,
}

impl<'s> Signal<'s> {
    /// One of somebody who has these names.
    pub fn new(message: &'s Message, senders: &'s [&'s str]) -> Self {
        Signal {
            message,
            senders,
            arguments: OnceCell::new(),
        }
    }

    /// None, where the body is too long to be looked into.
    fn argument(&self, at: usize) -> Option<&Argument> {
        self.arguments
            .get_or_init(|| arguments(self.message))
            .get(at)
    }
}

fn arguments(message: &Message) -> Vec<Argument> {
    let body = message.body();
    if body.len() > MAX_LOOKED_INTO {
        return vec![];
    }
    let Ok(structure) = body.deserialize::<Structure<'_>>() else {
        return vec![];
    };
    let fields = structure.fields().iter().take(MAX_ARGUMENTS);
    fields.map(Argument::of).collect()
}

impl Argument {
    fn of(value: &Variant<'_>) -> Self {
        if let Ok(text) = <&str>::try_from(value) {
            Argument::Text(text.to_owned())
        } else if let Ok(path) = <&ObjectPath<'_>>::try_from(value) {
            Argument::Path(path.as_str().to_owned())
        } else {
            Argument::Other
        }
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

/// Not zbus's `matches`: that compares a sender with the header only, and lets every well-known name pass;
/// takes `path_namespace` for any prefix of the path, `/a` for one of `/ab`; and reads the whole body for each
/// rule.
fn matches(rule: &MatchRule<'_>, signal: &Signal<'_>) -> bool {
    let header = signal.message.header();
    let sent_by = |name: &BusName<'_>| signal.senders.contains(&name.as_str());
    let of_type = rule
        .msg_type()
        .is_none_or(|wanted| wanted == signal.message.message_type());
    let of_sender = rule.sender().is_none_or(sent_by) && rule.destination().is_none();
    let of_interface = rule
        .interface()
        .is_none_or(|wanted| header.interface() == Some(wanted));
    let of_member = rule
        .member()
        .is_none_or(|wanted| header.member() == Some(wanted));
    let path = header.path().map_or("", |path| path.as_str());
    let of_path = match rule.path_spec() {
        None => true,
        Some(PathSpec::Path(wanted)) => path == wanted.as_str(),
        Some(PathSpec::PathNamespace(above)) => is_below(path, above.as_str()),
    };
    of_type && of_sender && of_interface && of_member && of_path && has_arguments(rule, signal)
}

fn has_arguments(rule: &MatchRule<'_>, signal: &Signal<'_>) -> bool {
    let is_text = |at: u8, fits: &dyn Fn(&str) -> bool| match signal.argument(usize::from(at)) {
        Some(Argument::Text(text)) => fits(text),
        _ => false,
    };
    let texts = || {
        let mut args = rule.args().iter();
        args.all(|(at, wanted)| is_text(*at, &|text| text == wanted.as_str()))
    };
    let paths = || {
        let mut paths = rule.arg_paths().iter();
        paths.all(|(at, wanted)| match signal.argument(usize::from(*at)) {
            Some(Argument::Path(path)) => path == wanted.as_str(),
            _ => false,
        })
    };
    let namespace = rule.arg0ns().is_none_or(|above| {
        is_text(0, &|text| {
            text.strip_prefix(above.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    });
    namespace && texts() && paths()
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
        rules.match_signal(&Signal::new(&signal(), &[":1.1", "org.example.Player"]))
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
        assert!(!rules.match_signal(&Signal::new(&beside, &[])));
    }

    #[test]
    fn a_single_argument_and_paths_are_arguments_too() {
        let path = ObjectPath::try_from("/a/b").unwrap();
        for (signal, rule, fits) in [
            (
                Message::signal("/", "a.b", "C").build(&"one"),
                "arg0='one'",
                true,
            ),
            (
                Message::signal("/", "a.b", "C").build(&"one"),
                "arg0='two'",
                false,
            ),
            (
                Message::signal("/", "a.b", "C").build(&"one"),
                "arg1='one'",
                false,
            ),
            (
                Message::signal("/", "a.b", "C").build(&()),
                "arg0='one'",
                false,
            ),
            (
                Message::signal("/", "a.b", "C").build(&(1u8, path.clone())),
                "arg1path='/a/b'",
                true,
            ),
            (
                Message::signal("/", "a.b", "C").build(&(1u8, path.clone())),
                "arg1path='/a'",
                false,
            ),
            (
                Message::signal("/", "a.b", "C").build(&(1u8, path)),
                "arg1='/a/b'",
                false,
            ),
        ] {
            let mut rules = Rules::default();
            rules.add(rule).unwrap();
            let signal = signal.unwrap();
            assert_eq!(
                rules.match_signal(&Signal::new(&signal, &[])),
                fits,
                "{rule}"
            );
        }
    }

    #[test]
    fn a_body_is_read_once_for_all_rules() {
        let message = signal();
        let signal = Signal::new(&message, &[]);
        let mut rules = Rules::default();
        rules.add("member='Did'").unwrap();
        assert!(rules.match_signal(&signal));
        assert!(signal.arguments.get().is_none(), "nobody asked");
        let mut rules = Rules::default();
        for other in 0..MAX_RULES {
            rules.add(&format!("arg0='{other}'")).unwrap();
        }
        assert!(!rules.match_signal(&signal));
        let read = signal.arguments.get().map(|all| all.as_ptr());
        assert!(!rules.match_signal(&signal));
        assert!(read.is_some() && read == signal.arguments.get().map(|all| all.as_ptr()));
    }

    #[test]
    fn a_rule_is_removed_as_often_as_it_was_added() {
        let mut rules = Rules::default();
        rules.add("member='Did'").unwrap();
        rules.add("member='Did'").unwrap();
        rules.remove("member=Did").unwrap();
        assert!(rules.match_signal(&Signal::new(&signal(), &[])));
        rules.remove("member='Did'").unwrap();
        assert!(!rules.match_signal(&Signal::new(&signal(), &[])));
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
        assert!(!rules.match_signal(&Signal::new(&large, &[])));
        rules.add("member='Did'").unwrap();
        assert!(rules.match_signal(&Signal::new(&large, &[])));
    }
}
