//! `pneuma policy`: what our user lets whom do, shown and changed.

use serde_json::{Value, json};

use super::{
    app::{App, Confirm, Need},
    failure::{Code, Failure, Outcome},
    text::{bytes, safe},
};
use crate::client::{Connection, Decision, Kind, Rule, Terms};

/// Whom a rule is for and which service, as the user wrote them.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// A contact, a fingerprint, `pinned` or `everybody`.
    pub who: &'a str,
    /// A service, or any.
    pub service: Option<&'a str>,
}

/// What is to change; the rest stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// What becomes of tubes.
    pub decision: Option<Decision>,
    /// Most connections of a tube.
    pub connections: Option<Cap<u32>>,
    /// Most bytes a second.
    pub rate: Option<Cap<u64>>,
}

/// A number, or none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap<T> {
    /// At most so many.
    Most(T),
    /// Any number.
    None,
}

impl<T: Copy> Cap<T> {
    fn most(self) -> Option<T> {
        match self {
            Cap::Most(most) => Some(most),
            Cap::None => None,
        }
    }
}

/// Reads a number of connections, or `none`.
///
/// # Errors
/// A sentence for what is neither.
pub fn connections(text: &str) -> Result<Cap<u32>, String> {
    match text.parse() {
        Ok(0) => Err("no connections at all is what --deny is for".into()),
        Ok(most) => Ok(Cap::Most(most)),
        Err(_) if text == "none" => Ok(Cap::None),
        Err(_) => Err(format!(
            "`{text}` is no number of connections; write 3, or none"
        )),
    }
}

/// Reads `500000`, `500kB`, `512KiB`, `1.5 MiB/s`, or `none`.
///
/// # Errors
/// A sentence for what is neither.
pub fn rate(text: &str) -> Result<Cap<u64>, String> {
    let advice =
        || format!("`{text}` is no rate; write bytes a second as 500kB, 2MiB, 1.5MiB, or none");
    let written = text.strip_suffix("/s").unwrap_or(text).trim();
    if written == "none" {
        return Ok(Cap::None);
    }
    let end = written
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(written.len());
    let (number, unit) = written.split_at(end);
    let unit: u32 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => return Err(advice()),
    };
    let value: f64 = number.parse().map_err(|_| advice())?;
    let bytes = (value * f64::from(unit)).round();
    // Beyond this a number of this kind is not exact, and no network is.
    if !(1.0..=9e15).contains(&bytes) {
        return Err(advice());
    }
    Ok(Cap::Most(bytes as u64))
}

/// Lists the rules, the least specific first.
///
/// # Errors
/// What the service answers.
pub async fn list(app: &App) -> Outcome {
    app.with_connection(async |connection| {
        let rules = connection.rules().await?;
        app.out
            .record(&rules.iter().map(record).collect::<Vec<_>>())?;
        if rules.is_empty() {
            return app.out.line(
                "There are no rules: you are asked about every tube, and nothing is capped.",
            );
        }
        let cells: Vec<Vec<String>> = rules.iter().map(cells).collect();
        let head = ["WHO", "SERVICE", "TUBES", "CONNECTIONS", "RATE"];
        app.out.table(&head, &cells)
    })
    .await
}

/// Makes a rule or changes it. What is not named stays as it is for this contact and service, whichever
/// rule says so now.
///
/// # Errors
/// Code 2 when nothing is to change, 3 and 4 as for every contact.
pub async fn set(app: &App, place: Place<'_>, change: Change) -> Outcome {
    if change == Change::default() {
        return Err(Failure::usage(
            "there is nothing to set; add --ask, --allow, --deny, --max-connections or --max-rate",
        ));
    }
    app.with_connection(async |connection| {
        let (who, contact_id) = whom(app, connection, place.who, Confirm::Ask).await?;
        let before = connection.terms(&who, place.service).await?;
        let terms = changed(before, change);
        connection.set_rule(&who, place.service, terms).await?;
        let rule = Rule {
            who,
            contact_id,
            service: place.service.map(str::to_owned),
            terms,
        };
        app.out.record(&record(&rule))?;
        app.out.line(format!("{}.", sentence(&rule)))
    })
    .await
}

/// Takes a rule back.
///
/// # Errors
/// Code 1 when there is none, 3 as for every contact.
pub async fn unset(app: &App, place: Place<'_>) -> Outcome {
    app.with_connection(async |connection| {
        let (who, contact_id) = whom(app, connection, place.who, Confirm::Never).await?;
        let shown = for_whom(&who, contact_id.as_deref(), place.service);
        match connection.remove_rule(&who, place.service).await {
            Err(error) if error.kind == Kind::NotAvailable => {
                return Err(Failure::new(
                    Code::Failed,
                    "no-rule",
                    format!("there is no rule for {shown}; `pneuma policy` lists those there are"),
                ));
            }
            answer => answer?,
        }
        app.out.record(&json!({
            "who": who,
            "contact": contact_id,
            "service": place.service,
            "removed": true,
        }))?;
        app.out
            .line(format!("There is no rule for {shown} any more."))
    })
    .await
}

/// Whom the user means: the word or fingerprint that the service takes, and the contact's id.
async fn whom(
    app: &App,
    connection: &Connection,
    wanted: &str,
    confirm: Confirm<'_>,
) -> Outcome<(String, Option<String>)> {
    if matches!(wanted, "pinned" | "everybody") {
        return Ok((wanted.to_owned(), None));
    }
    if let Some(key) = fingerprint(wanted) {
        return Ok((key, None));
    }
    let contact = app
        .contact(connection, wanted, Need::Known, confirm)
        .await?;
    match contact.trust.fingerprint {
        Some(key) => Ok((key, Some(contact.id))),
        None => Err(Failure::new(
            Code::Refused,
            "no-key",
            format!(
                "{} shows no key, and rules go by keys; a rule for `everybody` is for such contacts too",
                safe(&contact.id)
            ),
        )),
    }
}

/// A fingerprint as people write it, in groups or not.
fn fingerprint(text: &str) -> Option<String> {
    let digits: String = text
        .chars()
        .filter(|c| !matches!(c, ' ' | ':'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    (digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(digits)
}

fn changed(before: Terms, change: Change) -> Terms {
    Terms {
        decision: change.decision.unwrap_or(before.decision),
        max_connections: change.connections.map_or(before.max_connections, Cap::most),
        max_bytes_per_second: change.rate.map_or(before.max_bytes_per_second, Cap::most),
    }
}

fn record(rule: &Rule) -> Value {
    json!({
        "who": rule.who,
        "contact": rule.contact_id,
        "service": rule.service,
        "decision": rule.terms.decision.as_str(),
        "max_connections": rule.terms.max_connections,
        "max_bytes_per_second": rule.terms.max_bytes_per_second,
    })
}

fn cells(rule: &Rule) -> Vec<String> {
    let nothing = || "–".to_owned();
    let terms = &rule.terms;
    vec![
        // A contact that nobody sees is told by its key, which `unset` takes.
        safe(rule.contact_id.as_deref().unwrap_or(&rule.who)),
        rule.service.as_deref().map_or_else(|| "any".into(), safe),
        terms.decision.as_str().to_owned(),
        terms
            .max_connections
            .map_or_else(nothing, |n| n.to_string()),
        terms
            .max_bytes_per_second
            .map_or_else(nothing, |rate| format!("{}/s", bytes(rate))),
    ]
}

fn for_whom(who: &str, contact_id: Option<&str>, service: Option<&str>) -> String {
    let whom = match (who, contact_id) {
        (_, Some(id)) => safe(id),
        ("pinned", None) => "your contacts".into(),
        (who, None) => safe(who),
    };
    match service {
        Some(service) => format!("{whom} and {}", safe(service)),
        None => format!("{whom} and any service"),
    }
}

fn sentence(rule: &Rule) -> String {
    let terms = &rule.terms;
    let mut text = for_whom(
        &rule.who,
        rule.contact_id.as_deref(),
        rule.service.as_deref(),
    );
    text.push_str(match terms.decision {
        Decision::Ask => ": you are asked",
        Decision::Allow => ": allowed",
        Decision::Deny => ": denied",
    });
    if let Some(most) = terms.max_connections {
        text.push_str(&format!(", at most {most} connections of a tube"));
    }
    if let Some(rate) = terms.max_bytes_per_second {
        text.push_str(&format!(", at most {}/s each way", bytes(rate)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("5000", 5000),
            ("2MiB", 2 << 20),
            ("2mib/s", 2 << 20),
            ("1.5 MiB", 3 << 19),
            ("500kB", 500_000),
            ("1k", 1000),
            ("512KiB/s", 512 << 10),
            ("1GiB", 1 << 30),
            ("7B", 7),
        ] {
            assert_eq!(rate(text), Ok(Cap::Most(bytes)), "{text}");
        }
        assert_eq!(rate("none"), Ok(Cap::None));
        for text in [
            "",
            "MiB",
            "-1",
            "0",
            "0.1",
            "1e3",
            "2 Mbit",
            "1.2.3",
            "inf",
            "nan",
            "99999999GiB",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert_eq!(connections("3"), Ok(Cap::Most(3)));
        assert_eq!(connections("none"), Ok(Cap::None));
        assert!(connections("0").is_err() && connections("-1").is_err());
    }

    #[test]
    fn a_fingerprint_may_be_written_in_groups() {
        let key = "0123456789abcdef".repeat(4);
        let grouped = super::super::text::fingerprint(&key).to_uppercase();
        assert_eq!(fingerprint(&grouped), Some(key.clone()));
        assert_eq!(fingerprint(&key[1..]), None);
        assert_eq!(fingerprint(&key.replace('0', "x")), None);
    }

    #[test]
    fn what_is_not_named_stays() {
        let before = Terms {
            decision: Decision::Allow,
            max_connections: Some(3),
            max_bytes_per_second: Some(1024),
        };
        let change = Change {
            connections: Some(Cap::None),
            ..Change::default()
        };
        let after = Terms {
            max_connections: None,
            ..before
        };
        assert_eq!(changed(before, change), after);
        let change = Change {
            decision: Some(Decision::Ask),
            rate: Some(Cap::Most(2048)),
            ..Change::default()
        };
        let after = Terms {
            decision: Decision::Ask,
            max_connections: Some(3),
            max_bytes_per_second: Some(2048),
        };
        assert_eq!(changed(before, change), after);
    }
}
