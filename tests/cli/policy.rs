//! What one lets whom do: rules shown and changed, denied tubes and files, standing acceptance, and caps on
//! real bytes through real tubes and of real files.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use serde_json::{Value, json};
use support::{Address, Echo, exchange};

use crate::{
    Two,
    files::Files,
    pneuma::{Pneuma, Running, noise},
};

const KIB: u64 = 1024;

fn rules(who: &Pneuma) -> Value {
    who.run(&["policy", "--json"]).succeeded().json()
}

fn set(who: &Pneuma, arguments: &[&str]) {
    who.run(&[&["policy", "set"], arguments].concat())
        .succeeded();
}

fn at(service: &Echo) -> String {
    match service.address() {
        Address::Ipv4(address) => address.to_string(),
        other => panic!("an IPv4 echo at {other:?}"),
    }
}

fn offer(who: &Pneuma, service: &str, at: &str, to: &str) -> Running {
    let mut offer = who.start(&["offer", service, at, "--to", to, "--json"]);
    offer.event("offered");
    offer
}

/// Alice takes what Bob offers. Gives her command and where the service is.
fn accept(two: &Two) -> (Running, SocketAddr) {
    let mut accept = two.alice.start(&["accept", "bob", "x-test", "--json"]);
    let address = address(&accept.event("accepted"));
    (accept, address)
}

fn address(accepted: &Value) -> SocketAddr {
    let text = accepted["address"].as_str().expect("an address");
    text.parse().expect("an IP address")
}

#[test]
fn rules_are_made_shown_changed_and_taken_back() {
    let two = Two::verified();
    let bob = two.bob.id();
    let said = two.alice.run(&["policy"]).succeeded().out;
    assert!(said.contains("no rules"), "{said}");
    let made = two
        .alice
        .run(&[
            "policy",
            "set",
            "bob",
            "http",
            "--allow",
            "--max-rate",
            "2MiB",
            "--json",
        ])
        .succeeded()
        .json();
    assert_eq!(made["contact"], bob.as_str());
    assert_eq!(made["max_bytes_per_second"], 2 << 20);
    // What is not named stays.
    set(&two.alice, &["bob", "http", "--max-connections", "3"]);
    // What held for the service until now is what the rule for it begins with.
    set(&two.alice, &["pinned", "--deny"]);
    set(&two.alice, &["bob", "--max-rate", "500kB"]);
    let key = made["who"].as_str().expect("a fingerprint");
    assert_eq!(
        rules(&two.alice),
        json!([
            { "who": "pinned", "contact": null, "service": null, "decision": "deny",
              "max_connections": null, "max_bytes_per_second": null },
            { "who": key, "contact": bob, "service": null, "decision": "deny",
              "max_connections": null, "max_bytes_per_second": 500_000 },
            { "who": key, "contact": bob, "service": "http", "decision": "allow",
              "max_connections": 3, "max_bytes_per_second": 2 << 20 },
        ])
    );
    let listed = two.alice.run(&["policy"]).succeeded().out;
    for part in [&*bob, "allow", "2.00 MiB/s", "deny", "any"] {
        assert!(listed.contains(part), "{part} is not in {listed}");
    }
    set(&two.alice, &["bob", "http", "--max-rate", "none", "--ask"]);
    two.alice.run(&["policy", "unset", "pinned"]).succeeded();
    two.alice.run(&["policy", "unset", key]).succeeded();
    let left = rules(&two.alice);
    assert_eq!(left.as_array().map(Vec::len), Some(1));
    assert_eq!(left[0]["decision"], "ask");
    assert_eq!(left[0]["max_bytes_per_second"], Value::Null);
    two.alice
        .run(&["policy", "unset", "bob", "rfb"])
        .failed(1, &["no rule", &bob, "rfb"]);

    // They are there again after going offline, and go with the contact.
    two.alice.run(&["disconnect"]).succeeded();
    assert_eq!(rules(&two.alice), left);
    two.alice.run(&["forget", "bob", "--yes"]).succeeded();
    assert_eq!(rules(&two.alice), json!([]));
}

#[test]
fn what_makes_no_rule_is_said_in_a_sentence() {
    let two = Two::online();
    let bob = two.bob.id();
    two.alice
        .run(&["policy", "set", "pinned"])
        .failed(2, &["nothing to set", "--deny"]);
    two.alice
        .run(&["policy", "set", "everybody", "--allow"])
        .failed(1, &["everybody", "pinned"]);
    two.alice
        .run(&["policy", "set", "pinned", "--max-rate", "100"])
        .failed(1, &["bytes per second", "1024"]);
    let ran = two
        .alice
        .run(&["policy", "set", "pinned", "--max-rate", "fast"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    // People are chosen as everywhere else.
    two.alice
        .run(&["policy", "set", "bob", "--deny"])
        .failed(3, &["not one of your contacts", &bob]);
    two.alice
        .run(&["policy", "set", &bob, "--allow"])
        .failed(4, &[&bob, "--yes"]);
    assert_eq!(rules(&two.alice), json!([]));
}

#[test]
fn what_is_denied_appears_nowhere_and_cannot_be_offered() {
    let two = Two::verified();
    let service = Echo::ipv4();
    set(&two.alice, &["bob", "x-test", "--deny"]);
    two.bob
        .run(&["offer", "x-test", &at(&service), "--to", "alice"])
        .failed(4, &["closed the tube"]);
    let tubes = two.alice.run(&["tubes", "--json"]).succeeded().json();
    assert_eq!(tubes, json!([]));
    two.alice
        .run(&["offer", "x-test", &at(&service), "--to", "bob"])
        .failed(4, &["your policy denies", "x-test"]);
    // Another service is none of that rule's business, until it is denied too: then it closes.
    let other = offer(&two.bob, "x-other", &at(&service), "alice");
    let mut accept = two.alice.start(&["accept", "bob", "x-other", "--json"]);
    let there = address(&accept.event("accepted"));
    assert_eq!(exchange(&there.into(), b"bytes").expect("bytes"), b"bytes");
    set(&two.alice, &["bob", "--deny"]);
    accept.event("closed");
    assert_eq!(other.finish().code, Some(0));
}

#[test]
fn a_capped_download_takes_its_time_and_a_lifted_cap_counts_at_once() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let offer = offer(&two.bob, "x-test", &at(&service), "alice");
    let (accept, address) = accept(&two);
    set(&two.bob, &["alice", "x-test", "--max-rate", "256KiB"]);
    let bytes = noise(512 * 1024);
    let timed = || {
        let before = Instant::now();
        assert!(exchange(&address.into(), &bytes).expect("bytes") == bytes);
        before.elapsed().as_secs_f64()
    };
    let rate = bytes.len() as f64 / timed();
    // Never faster than the cap and what may come at once; how much slower is the machine's affair.
    let cap = (256 * KIB) as f64;
    println!("one: {rate:.0} of {cap:.0} bytes/s");
    assert!((cap / 20.0..cap * 1.1).contains(&rate), "{rate} bytes/s");

    // Several together are no faster than one.
    let before = Instant::now();
    let part = noise(128 * 1024);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert!(exchange(&address.into(), &part).expect("bytes") == part);
            });
        }
    });
    let rate = 4.0 * part.len() as f64 / before.elapsed().as_secs_f64();
    println!("four: {rate:.0} of {cap:.0} bytes/s");
    assert!((cap / 20.0..cap * 1.1).contains(&rate), "{rate} bytes/s");

    // This would take eight hours.
    set(&two.bob, &["alice", "x-test", "--max-rate", "1KiB"]);
    let bytes = noise(30 << 20);
    let mut stream = TcpStream::connect(address).expect("the tube's socket");
    let mut writer = stream.try_clone().expect("a second handle");
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            writer.write_all(&bytes).expect("bytes");
            writer
                .shutdown(std::net::Shutdown::Write)
                .expect("a half-close");
        });
        let mut first = [0; 512];
        stream.read_exact(&mut first).expect("the first bytes");
        set(&two.bob, &["alice", "x-test", "--max-rate", "none"]);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the rest");
        assert!(first == bytes[..512] && rest == bytes[512..]);
        writing.join().expect("the writer");
    });
    assert_eq!(accept.interrupt().code, Some(0));
    assert_eq!(offer.finish().code, Some(0));
}

#[test]
fn a_connection_too_many_is_refused_until_one_ends() {
    let two = Two::verified();
    let service = Echo::ipv4();
    set(&two.bob, &["alice", "--max-connections", "1"]);
    let mut offer = offer(&two.bob, "x-test", &at(&service), "alice");
    let (mut accept, address) = accept(&two);
    let mut first = TcpStream::connect(address).expect("the tube's socket");
    first.write_all(b"x").expect("a byte");
    first.read_exact(&mut [0]).expect("its echo");
    let second = TcpStream::connect(address).expect("the tube's socket");
    let closed = accept.event("connection-closed");
    assert_eq!(closed["reason"], "refused", "{closed}");
    drop((first, second));
    offer.event("connection-closed");
    assert_eq!(
        exchange(&address.into(), b"again").expect("bytes"),
        b"again"
    );
    assert_eq!(service.connections(), 2);
}

#[test]
fn what_is_allowed_is_taken_unasked_and_nothing_else() {
    let two = Two::verified();
    let service = Echo::ipv4();
    set(&two.alice, &["bob", "x-test", "--allow"]);
    let other = offer(&two.bob, "x-other", &at(&service), "alice");
    let mut standing = two.alice.start(&["accept", "--allowed", "--json"]);
    let first = offer(&two.bob, "x-test", &at(&service), "alice");
    let accepted = standing.event("accepted");
    assert_eq!(accepted["service"], "x-test");
    let there = address(&accepted).into();
    assert_eq!(exchange(&there, b"bytes").expect("bytes"), b"bytes");
    // The next one too, while the first is open.
    let second = offer(&two.bob, "x-test", &at(&service), "alice");
    let there = address(&standing.event("accepted")).into();
    assert_eq!(exchange(&there, b"more").expect("bytes"), b"more");
    assert_eq!(second.interrupt().code, Some(0));
    standing.event("closed");
    // What has just closed is listed for a moment.
    let left = json!([["x-other", "local-pending"], ["x-test", "open"]]);
    let seen = || {
        let tubes = two.alice.run(&["tubes", "--json"]).succeeded().json();
        let all = tubes.as_array().expect("tubes").iter();
        let mut pairs: Vec<Value> = all
            .map(|one| json!([one["service"], one["state"]]))
            .collect();
        pairs.sort_by_key(Value::to_string);
        (Value::from(pairs) == left).then_some(())
    };
    two.alice.person().until("these two are left", seen);
    // What becomes allowed is taken then.
    set(&two.alice, &["pinned", "x-other", "--allow"]);
    let accepted = standing.event("accepted");
    assert_eq!(accepted["service"], "x-other");
    assert_eq!(standing.interrupt().code, Some(0));
    for offer in [first, other] {
        offer.finish();
    }
}

#[test]
fn a_stranger_whose_key_is_allowed_takes_no_other_confirmation() {
    let two = Two::online();
    let (alice, bob) = (two.alice.id(), two.bob.id());
    let service = Echo::ipv4();
    two.alice
        .run(&["accept", &bob, "x-test"])
        .failed(4, &[&bob, "--yes"]);
    set(&two.alice, &[&bob, "x-test", "--allow", "--yes"]);
    let contacts = two.alice.run(&["contacts", "--json"]).succeeded().json();
    assert_eq!(contacts[0]["trust"], "unpinned", "a rule pins nobody");
    let mut offer = two.bob.start(&[
        "offer",
        "x-test",
        &at(&service),
        "--to",
        &alice,
        "--yes",
        "--json",
    ]);
    offer.event("offered");
    let mut accept = two.alice.start(&["accept", &bob, "x-test", "--json"]);
    let there = address(&accept.event("accepted")).into();
    assert_eq!(exchange(&there, b"bytes").expect("bytes"), b"bytes");
    let contacts = two.alice.run(&["contacts", "--json"]).succeeded().json();
    assert_eq!(contacts[0]["trust"], "pinned");
    // Another service of the same contact asks as ever; it is one's own contact by now.
    assert_eq!(accept.interrupt().code, Some(0));
    assert_eq!(offer.finish().code, Some(0));
}

#[test]
fn rules_for_files_say_what_is_taken_unasked_and_what_is_never_shown() {
    let files = Files::new();
    let (alice, bob) = (&files.two.alice, &files.two.bob);
    let rule = |who: &Pneuma, whom: &str, decision: &str| {
        set(who, &[whom, "file-transfer", decision]);
    };
    for name in ["any", "allowed", "denied", "asked", "own"] {
        files.file(name, name.as_bytes());
    }
    let mut receiving = files.receiving(&["--accept", "allowed"]);
    // A verified contact alone is no rule.
    let sending = files.sending(&["any"]);
    let declined = receiving.event("declined");
    assert_eq!(declined["reason"], "no rule of your policy allows it");
    sending.finish().failed_with_json(4, "declined");
    rule(bob, "alice", "--allow");
    files.sending(&["allowed"]).finish().succeeded();
    receiving.event("completed");
    let listed = bob.run(&["policy"]).succeeded().out;
    for part in [&*alice.id(), "file-transfer", "allow"] {
        assert!(listed.contains(part), "{part} is not in {listed}");
    }

    rule(bob, "alice", "--deny");
    files
        .sending(&["denied"])
        .finish()
        .failed_with_json(4, "declined");
    rule(bob, "alice", "--ask");
    files
        .sending(&["asked"])
        .finish()
        .failed_with_json(4, "declined");
    // One's own rule holds for what one sends, too.
    rule(alice, "bob", "--deny");
    let own = files.sending(&["own"]).finish();
    assert!(own.err.contains("your policy denies"), "{own:?}");
    own.failed_with_json(4, "permission-denied");

    let ran = receiving.interrupt().succeeded();
    let offered: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .filter(|event: &Value| event["event"] == "offered")
        .map(|event| event["name"].clone())
        .collect();
    assert_eq!(offered, ["any", "allowed", "asked"], "{ran:?}");
    assert_eq!(files.has(), ["allowed"]);
}

#[test]
fn a_capped_file_takes_its_time() {
    let files = Files::new();
    let bytes = noise(512 * 1024);
    files.file("slow", &bytes);
    set(
        &files.two.alice,
        &["bob", "file-transfer", "--max-rate", "256KiB"],
    );
    let receiving = files.receiving(&["--once"]);
    let before = Instant::now();
    files.sending(&["slow"]).finish().succeeded();
    let rate = bytes.len() as f64 / before.elapsed().as_secs_f64();
    let cap = (256 * KIB) as f64;
    println!("{rate:.0} of {cap:.0} bytes/s");
    assert!((cap / 20.0..cap * 1.1).contains(&rate), "{rate} bytes/s");
    receiving.finish().succeeded();
    files.is_there("slow", &bytes);
}
