//! A shared service while somebody waits for its answer: a command is killed, on either side; the service
//! leaves its bus, and comes back.

use rustix::process::Signal;
use smol::future::block_on;
use support::PATIENCE;

use crate::{
    Two,
    pneuma::{Ran, Running},
    share::{NAME, PATH, busctl, joined, lamp, lamp_that_waits, start, wait_for_service},
};

/// What it is called on Alice's session bus, where it is there.
const OWN: &str = "com.example.BobsLamp";

/// A program on Alice's side that has called and has no answer yet.
fn waits(two: &Two, address: &str, name: &str) -> Running {
    let at = format!("--address={address}");
    // Longer than anybody waits here.
    let call = ["--timeout=600", "call", name, PATH, NAME, "Wait"];
    let all = [&[at.as_str(), "--no-pager"], &call[..]].concat();
    start(&two.alice, "busctl", address, &all)
}

/// What it hears then, in the end.
fn failed(caller: Running, sentences: &[&str]) {
    let ran = caller.finish();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let said = sentences.iter().any(|sentence| ran.err.contains(sentence));
    assert!(said, "{ran:?}");
}

fn closed(ran: Ran) {
    let ran = ran.succeeded();
    assert!(ran.out.contains("\"closed\""), "{ran:?}");
    assert!(ran.out.contains("\"contact\""), "{ran:?}");
}

/// Kills a command of one side, while somebody on Alice's waits for an answer.
fn kill(whose: &str, own: bool) {
    let two = Two::verified();
    let (_lamp, waiting) = lamp_that_waits(&two);
    let place: &[&str] = if own { &["--own", OWN] } else { &[] };
    let (offer, mut accept, address) = joined(&two, &[], place);
    let (address, name) = if own {
        assert_eq!(accept.event("service")["is"], "here");
        (two.alice.person().bus().address().to_owned(), OWN)
    } else {
        wait_for_service(&two.alice, &address);
        (address, NAME)
    };
    let caller = waits(&two, &address, name);
    waiting.recv_timeout(PATIENCE).expect("the call comes");
    let (killed, other) = match whose {
        "alice" => (accept, offer),
        _ => (offer, accept),
    };
    killed.signal(Signal::KILL);
    assert_eq!(killed.finish().code, None);
    // Its bus has gone, or it is told who has: by the bus, or before that by the command that is left.
    let without_a_bus = ["Remote peer disconnected", "Connection reset by peer"];
    let by_the_bus = ["Message recipient disconnected", "did not receive a reply"];
    let by_the_command = ["the contact has gone"];
    failed(
        caller,
        match (own, whose) {
            (false, _) => &without_a_bus,
            (true, "alice") => &by_the_bus,
            (true, _) => &by_the_command,
        },
    );
    closed(other.finish());
    for who in [&two.alice, &two.bob] {
        who.has_no_tubes();
    }
    // Nothing is left of it that would be in the way.
    let (_offer, _accept, address) = joined(&two, &[], &[]);
    wait_for_service(&two.alice, &address);
}

#[test]
fn the_command_that_shares_is_killed_in_the_middle_of_a_call() {
    kill("bob", false);
}

#[test]
fn the_command_that_accepts_is_killed_in_the_middle_of_a_call() {
    kill("alice", false);
}

#[test]
fn the_command_that_shares_is_killed_in_the_middle_of_a_call_with_own() {
    kill("bob", true);
}

#[test]
fn the_command_that_accepts_is_killed_in_the_middle_of_a_call_with_own() {
    kill("alice", true);
}

#[test]
fn the_service_leaves_in_the_middle_of_a_call_and_comes_back() {
    let two = Two::verified();
    let (first, waiting) = lamp_that_waits(&two);
    let (offer, accept, address) = joined(&two, &[], &[]);
    wait_for_service(&two.alice, &address);
    let listen = ["monitor", "--session", "--dest", NAME];
    let mut monitor = start(&two.alice, "gdbus", &address, &listen);
    monitor.wait_for("owner", |line| line.contains("is owned by").then_some(()));
    let caller = waits(&two, &address, NAME);
    waiting.recv_timeout(PATIENCE).expect("the call comes");
    block_on(first.close()).expect("closed");
    // In our own words: what a bus says may hold names of that machine.
    failed(caller, &["did not get an answer"]);
    monitor.wait_for("end", |line| {
        line.contains("does not have an owner").then_some(())
    });
    let dim = ["call", NAME, PATH, NAME, "Dim", "u", "7"];
    let ran = busctl(&two.alice, &address, &dim);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("the service is not there"), "{ran:?}");

    let _second = lamp(&two);
    monitor.wait_for("owner", |line| line.contains("is owned by").then_some(()));
    let said = busctl(&two.alice, &address, &dim).succeeded().out;
    assert!(said.contains("dimmed to 7"), "{said}");
    // Neither command thought anything of it.
    assert_eq!(accept.interrupt().code, Some(0));
    closed(offer.finish());
}
