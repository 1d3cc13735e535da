//! Two people who have compared their codes with the command line, for the benchmarks of what it does.

use std::{
    io,
    process::{Output, Stdio},
};

use serde_json::Value;

use crate::Person;

/// Brings both online, by the command line at that path, and has each confirm the other's code. Gives the
/// second one's id.
///
/// # Errors
/// When a command cannot be run, and what one that fails says.
pub fn befriend(pneuma: &str, alice: &Person, bob: &Person) -> io::Result<String> {
    let said = |person: &Person, arguments: &[&str]| -> io::Result<String> {
        let done = run(pneuma, person, arguments)?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            return Err(io::Error::other(format!("{arguments:?}: {said}")));
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let online = |person: &Person| -> io::Result<String> {
        said(person, &["contacts", "--detach"])?;
        let status: Value = serde_json::from_str(&said(person, &["status", "--json"])?)?;
        let id = status["accounts"][0]["id"].as_str();
        id.map(str::to_owned)
            .ok_or_else(|| io::Error::other("an account is not online"))
    };
    let (at_alice, at_bob) = (online(alice)?, online(bob)?);
    // Without an answer it shows the code and fails.
    let code = run(pneuma, alice, &["verify", &at_bob])?.stdout;
    let code = String::from_utf8_lossy(&code).trim().to_owned();
    for (who, whom) in [(alice, &at_bob), (bob, &at_alice)] {
        said(who, &["verify", whom, "--code", &code])?;
    }
    Ok(at_bob)
}

fn run(pneuma: &str, person: &Person, arguments: &[&str]) -> io::Result<Output> {
    let mut command = person.command(pneuma, arguments);
    command.stdin(Stdio::null()).output()
}
