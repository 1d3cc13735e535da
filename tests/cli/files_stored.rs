//! When a sender is told that all is well: only once the receiver has all of it on the disk; and once it has, no
//! loss of that word brings a second copy.
//!
//! A transfer is caught between its last byte and the verdict by stopping the receiving command while the
//! sender's pipe is still open, and then closing the pipe.

use std::{fs, io::Write as _, path::Path, process::Stdio, sync::Arc};

use actors::{
    model::BytestreamId,
    runtime::{Spawner, SystemClock},
};
use futures_lite::FutureExt as _;
use pneuma::client::{
    Bus, Connection,
    transfer::{End, Shape, Source, send},
};
use rustix::process::{Pid, Signal, kill_process};
use smol::{Executor, Timer, block_on};
use support::{PATIENCE, Person, name};

use crate::{
    files::Files,
    pneuma::{Running, noise},
};

const SIZE: usize = 100_000;

/// The file transfer that this person's service has.
fn channel(person: &Person) -> String {
    let mut paths = vec!["/org/freedesktop/Telepathy/Connection/pneuma".to_owned()];
    while let Some(path) = paths.pop() {
        if path.contains("/FileTransfer") {
            return path;
        }
        paths.extend(person.objects_below(&path));
    }
    person.fail("there is no file transfer")
}

fn state(person: &Person, channel: &str) -> u32 {
    let state = person.property(channel, name::FILE_TRANSFER, "State");
    let state = state.unwrap_or_else(|error| person.fail(&format!("State: {error}")));
    state.try_into().expect("a number")
}

/// All of `piped` is on its way through Bob's command, which is stopped and has not said that it is stored.
struct Stalled {
    files: Files,
    bytes: Vec<u8>,
    sending: Running,
    receiving: Running,
}

impl Stalled {
    fn new(more: &[&str]) -> Self {
        let files = Files::new();
        let bytes = noise(SIZE);
        let mut receiving = files.receiving(more);
        let arguments = ["send", "-", &files.bob, "--name", "piped", "--json"];
        let mut command = files.two.alice.command(&arguments);
        command.stdin(Stdio::piped());
        let mut sending = Running::start(command);
        let mut input = sending.input();
        input.write_all(&bytes).expect("the pipe takes it");
        receiving.event("flowing");
        let (alice, bob) = (files.two.alice.person(), files.two.bob.person());
        let part = files.inn.join("piped.part");
        bob.until("every byte is written", || {
            let length = fs::metadata(&part).map_or(0, |metadata| metadata.len());
            (length == SIZE as u64).then_some(())
        });
        receiving.signal(Signal::STOP);
        // The end of the pipe.
        drop(input);
        let theirs = channel(bob);
        bob.until("the service has verified it", || {
            let answer = bob.on_object(&theirs, name::TRANSFER, "IsVerified", &());
            let answer = answer.unwrap_or_else(|error| bob.fail(&format!("IsVerified: {error}")));
            let said: (bool, u64) = answer.body().deserialize().expect("a flag and a size");
            (said == (true, SIZE as u64)).then_some(())
        });
        // And yet nobody says that it is completed.
        assert_eq!(state(bob, &theirs), 3);
        assert_eq!(state(alice, &channel(alice)), 3);
        assert_eq!(files.has(), ["piped.part"]);
        Stalled {
            files,
            bytes,
            sending,
            receiving,
        }
    }
}

#[test]
fn a_receiver_killed_before_all_was_stored_is_sent_it_again() {
    let mut stalled = Stalled::new(&["--once"]);
    stalled.receiving.signal(Signal::KILL);
    assert_eq!(stalled.receiving.finish().code, None);
    stalled.sending.event("broken");
    assert_eq!(stalled.files.has(), ["piped.part"]);
    let mut receiving = stalled.files.receiving(&["--once"]);
    // What was written is there, and is compared.
    assert_eq!(receiving.event("flowing")["offset"], SIZE);
    stalled.sending.event("completed");
    stalled.sending.finish().succeeded();
    receiving.finish().succeeded();
    stalled.files.is_there("piped", &stalled.bytes);
    assert_eq!(stalled.files.has(), ["piped"]);
}

#[test]
fn a_receiver_s_service_killed_before_all_was_stored_is_sent_it_again() {
    let mut stalled = Stalled::new(&["--once"]);
    stalled.files.two.bob.person().kill_manager();
    stalled.receiving.signal(Signal::CONT);
    // An end of the bytes without a verdict is none.
    stalled.sending.event("broken");
    stalled.sending.event("completed");
    stalled.sending.finish().succeeded();
    stalled.receiving.finish().succeeded();
    stalled.files.is_there("piped", &stalled.bytes);
    assert_eq!(stalled.files.has(), ["piped"]);
}

#[test]
fn a_sender_that_did_not_hear_the_verdict_is_told_again_and_there_is_one_copy() {
    let mut stalled = Stalled::new(&[]);
    let alice = stalled.files.two.alice.person();
    let service = Pid::from_raw(alice.manager_id().cast_signed()).expect("a process");
    kill_process(service, Signal::STOP).expect("it is ours");
    stalled.receiving.signal(Signal::CONT);
    let first = stalled.receiving.event("completed");
    stalled.files.is_there("piped", &stalled.bytes);
    alice.kill_manager();
    let confirmed = stalled.receiving.event("confirmed");
    assert_eq!(confirmed["id"], first["id"]);
    assert_eq!(confirmed["size"], SIZE);
    stalled.sending.event("completed");
    stalled.sending.finish().succeeded();
    assert_eq!(stalled.receiving.interrupt().code, Some(0));
    assert_eq!(stalled.files.has(), ["piped"]);
}

#[test]
fn what_is_offered_again_while_it_is_put_away_is_confirmed_then() {
    let mut stalled = Stalled::new(&[]);
    stalled.files.two.alice.person().kill_manager();
    stalled.sending.event("broken");
    stalled.sending.event("offered");
    // It finds the last words of the one transfer and the offer of the other at once.
    stalled.receiving.signal(Signal::CONT);
    stalled.receiving.event("completed");
    stalled.receiving.event("confirmed");
    stalled.sending.event("completed");
    stalled.sending.finish().succeeded();
    assert_eq!(stalled.receiving.interrupt().code, Some(0));
    stalled.files.is_there("piped", &stalled.bytes);
    assert_eq!(stalled.files.has(), ["piped"]);
}

/// A file of Alice's that has arrived, of which she has not heard so; and Bob's command, which goes on.
fn with_the_verdict_lost(bytes: &[u8]) -> (Files, Running) {
    let files = Files::new();
    files.file("a", bytes);
    let mut receiving = files.receiving(&[]);
    receiving.signal(Signal::STOP);
    let mut sending = files.sending(&["a"]);
    sending.event("offered");
    let alice = files.two.alice.person();
    let records = || {
        let mut paths = alice.files();
        paths.retain(|path| path.to_string_lossy().contains("/transfers/out-"));
        paths
    };
    let [record] = &records()[..] else {
        panic!("one record, not {:?}", records());
    };
    let remembered = fs::read(record).expect("it is ours");
    receiving.signal(Signal::CONT);
    receiving.event("completed");
    sending.finish().succeeded();
    assert_eq!(records(), Vec::<std::path::PathBuf>::new());

    // What a sender leaves behind that was killed before it heard.
    fs::write(record, remembered).expect("it is ours");
    (files, receiving)
}

#[test]
fn the_same_command_run_again_after_a_lost_verdict_makes_no_second_copy() {
    let bytes = noise(SIZE);
    let (files, mut receiving) = with_the_verdict_lost(&bytes);
    let mut again = files.sending(&["a"]);
    assert_eq!(receiving.event("confirmed")["name"], "a");
    assert_eq!(again.event("completed")["handed"], 0);
    again.finish().succeeded();
    // It has heard now, so that the next time it is sent anew.
    files.sending(&["a"]).finish().succeeded();
    receiving.event("completed");
    assert_eq!(receiving.interrupt().code, Some(0));
    files.is_there("a", &bytes);
    files.is_there("a (2)", &bytes);
    assert_eq!(files.has(), ["a", "a (2)"]);
}

#[test]
fn what_has_arrived_is_not_confirmed_to_a_contact_that_was_forgotten() {
    let (files, mut receiving) = with_the_verdict_lost(&noise(SIZE));
    files.two.bob.run(&["forget", "alice", "--yes"]).succeeded();
    let again = files.sending(&["a"]);
    receiving.event("declined");
    again.finish().failed_with_json(4, "declined");
    assert_eq!(receiving.interrupt().code, Some(0));
    let contacts = files
        .two
        .bob
        .run(&["contacts", "--json"])
        .succeeded()
        .json();
    assert_eq!(contacts[0]["trust"], "unpinned", "nothing was pinned");
    assert_eq!(files.has(), ["a"]);
}

/// Sends what says that it is a folder and is none, as no `pneuma send` does.
async fn send_as_a_folder(
    files: &Files,
    path: &Path,
    spawner: Spawner,
) -> pneuma::client::Result<()> {
    let address = files.two.alice.person().bus().address();
    let bus = Bus::at(address, spawner, SystemClock::new()).await?;
    let connection = Connection::all(&bus).await?.remove(0);
    let mut events = connection.events().await?;
    let bob = loop {
        let mut contacts = connection.contacts().await?.into_iter();
        if let Some(bob) = contacts.find(|contact| contact.id == files.bob && contact.files) {
            break bob;
        }
        events.next().await?;
    };
    let source = Arc::new(Source::open(path)?);
    let mut offer = source.offer(Some("tree.tar"), BytestreamId([7; 16]));
    offer.shape = Shape::Folder;
    let end = send(&connection, bob.handle, &offer, &source, |_| ()).await?;
    assert_eq!(end, End::Completed);
    Ok(())
}

/// Bob's command takes what says that it is a folder and is none, and keeps it as it came.
fn took_what_is_no_folder(more: &[&str]) -> (Files, Running) {
    let files = Files::new();
    let bytes = noise(2000);
    let path = files.file("no archive", &bytes);
    let mut receiving = files.receiving(more);
    let executor = Arc::new(Executor::new());
    let sending = send_as_a_folder(&files, &path, Spawner::new(executor.clone()));
    let late = async {
        Timer::after(PATIENCE).await;
        panic!("it was not sent in time")
    };
    let sent = block_on(executor.run(sending.or(late)));
    sent.expect("it was sent");
    let event = receiving.event("not-unpacked");
    let kept = files.inn.join("tree.tar");
    let said = format!("; its archive is kept as {}", kept.display());
    let message = event["message"].as_str().expect("a sentence");
    assert!(message.ends_with(&said), "{message}");
    files.is_there("tree.tar", &bytes);
    (files, receiving)
}

#[test]
fn a_folder_that_cannot_be_unpacked_keeps_the_next_file_from_nothing() {
    let (files, receiving) = took_what_is_no_folder(&["--count", "2"]);
    files.file("another", b"another");
    files.sending(&["another"]).finish().succeeded();
    receiving.finish().failed_with_json(1, "not-unpacked");
    files.is_there("another", b"another");
    assert_eq!(files.has(), ["another", "tree.tar"]);
}

#[test]
fn a_folder_that_cannot_be_unpacked_is_the_one_that_was_to_come_and_an_error() {
    let (files, receiving) = took_what_is_no_folder(&["--once"]);
    receiving.finish().failed_with_json(1, "not-unpacked");
    assert_eq!(files.has(), ["tree.tar"]);
}
