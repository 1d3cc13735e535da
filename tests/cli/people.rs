//! Who is who: contacts, codes, partial names, strangers.

use crate::Two;

#[test]
fn strangers_are_seen_and_not_dealt_with_by_accident() {
    let two = Two::online();
    let bob = two.bob.id();
    let contacts = two.alice.run(&["contacts", "--json"]).succeeded().json();
    assert_eq!(contacts[0]["id"], bob.as_str());
    assert_eq!(contacts[0]["trust"], "unpinned");
    let key = contacts[0]["fingerprint"].as_str().map(str::len);
    assert_eq!(key, Some(64));

    // A part of the name of somebody new selects nobody, and the sentence names the whole id.
    two.alice
        .run(&["offer", "x-test", "9", "--to", "bob"])
        .failed(3, &["not one of your contacts", &bob]);
    // The whole id takes a confirmation, which nobody can give here.
    two.alice
        .run(&["offer", "x-test", "9", "--to", &bob])
        .failed(4, &[&bob, "--yes"]);
    two.alice
        .run(&["accept", &bob, "x-test"])
        .failed(4, &[&bob, "--yes"]);
    let contacts = two.alice.run(&["contacts", "--json"]).succeeded().json();
    assert_eq!(contacts[0]["trust"], "unpinned", "nothing was pinned");
    two.alice.run(&["tubes", "--json"]).succeeded();
}

#[test]
fn codes_are_compared_and_forgotten() {
    let two = Two::online();
    let (alice, bob) = (two.alice.id(), two.bob.id());
    let code = |ran: crate::pneuma::Ran| {
        let ran = ran.failed(4, &["--code"]);
        ran.out.trim().to_owned()
    };
    let at_alice = code(two.alice.run(&["verify", &bob]));
    let at_bob = code(two.bob.run(&["verify", &alice]));
    assert_eq!(at_alice, at_bob, "both see the same");
    assert!(
        at_alice.bytes().filter(u8::is_ascii_digit).count() >= 31,
        "100 bits"
    );
    two.alice
        .run(&["verify", &bob, "--code", "12345 67890"])
        .failed(4, &["not the code"]);
    let done = two
        .alice
        .run(&["verify", &bob, "--code", &at_bob, "--json"])
        .succeeded()
        .json();
    assert_eq!(done["trust"], "verified");

    // Now a part of the name is enough, whatever its case.
    two.alice.run(&["forget", "BOB"]).failed(4, &["--yes"]);
    two.alice.run(&["forget", "bob", "--yes"]).succeeded();
    let contacts = two.alice.run(&["contacts", "--json"]).succeeded().json();
    assert_eq!(contacts[0]["trust"], "unpinned");
    two.alice.run(&["forget", "bob", "--yes"]).failed(3, &[]);
}

#[test]
fn a_contact_that_is_away_is_listed_and_waited_for() {
    let two = Two::verified();
    two.bob.run(&["disconnect"]).succeeded();
    let away = || {
        let contacts = two.alice.run(&["contacts", "--json"]).succeeded().json();
        (contacts[0]["presence"] == "offline").then_some(contacts)
    };
    let contacts = two.alice.person().until("Bob is seen to be gone", away);
    assert_eq!(contacts[0]["trust"], "verified");
    two.alice
        .run(&["offer", "x-test", "9", "--to", "bob", "--timeout", "1"])
        .failed(3, &["not on the network"]);
    // One that waits goes on when he is back.
    let mut offer = two
        .alice
        .start(&["offer", "x-test", "9", "--to", "bob", "--json"]);
    two.bob.stay_online();
    offer.event("offered");
    assert_eq!(offer.interrupt().code, Some(0));
}

#[test]
fn nobody_is_an_error_that_says_so() {
    let two = Two::new();
    two.alice.stay_online();
    two.alice
        .run(&["accept", "nobody", "x-test"])
        .failed(3, &["`nobody`", "pneuma contacts"]);
    let ran = two.alice.run(&[
        "accept",
        "nobody@nowhere",
        "x-test",
        "--timeout",
        "1",
        "--json",
    ]);
    assert_eq!(ran.code, Some(3));
    let error: serde_json::Value = serde_json::from_str(&ran.err).expect("JSON");
    assert_eq!(error["error"], "not-found");
    assert_eq!(error["code"], 3);
}

#[test]
fn what_a_contact_calls_itself_cannot_trick_the_terminal() {
    let two = Two::new();
    let nickname = "Alice\u{202e}]eciohc ruoy[\u{2066}";
    two.bob
        .run(&["contacts", "--detach", "--nickname", nickname])
        .succeeded();
    let bob = two.bob.id();
    two.alice.stay_online();
    let shown = || {
        let list = two
            .alice
            .run(&["contacts", "--colour", "always"])
            .succeeded();
        list.out.contains(&bob).then_some(list.out)
    };
    let list = two.alice.person().until("Bob is listed", shown);
    assert!(
        !list.contains('\u{202e}') && !list.contains('\u{2066}'),
        "{list}"
    );
    assert!(list.contains("ruoy"), "the rest is shown: {list}");
    assert!(list.contains("\u{1b}["), "colour was wanted");
    let plain = two.alice.run(&["contacts"]).succeeded();
    assert!(!plain.out.contains('\u{1b}'), "no terminal, no colour");
}
