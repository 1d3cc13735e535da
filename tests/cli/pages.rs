//! Completion in bash, for real: the shell runs the script that `pneuma completions` prints, as it does
//! when somebody presses Tab. The other shells and the manual are in `tests/interop`.

use support::{Person, World, service};

use crate::{Two, pneuma::Pneuma};

/// What bash offers for the last of these words.
fn tab(who: &Pneuma, words: &[&str]) -> Vec<String> {
    // Bash calls the function that is registered for the command with the command, the word and the
    // one before it, and with the whole line in COMP_WORDS.
    let line = r#"
        source <("$1" completions bash) || exit 1
        function=$(complete -p pneuma | sed 's/.*-F \([^ ]*\).*/\1/')
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        "$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let program = env!("CARGO_BIN_EXE_pneuma");
    let mut command = who.command_of("bash", &["--norc", "-c", line, "bash", program]);
    let output = command.args(words).output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .filter(|word| !word.is_empty())
        .collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let world = World::new();
    let alice = Pneuma::of(Person::new(&world, "alice", service!()));
    assert_eq!(tab(&alice, &["off"]), ["offer"]);
    assert_eq!(tab(&alice, &["dem"]), ["demo"]);
    assert_eq!(tab(&alice, &["tubes", "--cl"]), ["--close"]);
    let values = tab(&alice, &["--colour", "a"]);
    assert_eq!(values, ["auto", "always"]);
    let shells = tab(&alice, &["completions", ""]);
    for shell in ["bash", "zsh", "fish"] {
        assert!(shells.iter().any(|offered| offered == shell), "{shells:?}");
    }
    // What is hidden from people is hidden from Tab.
    assert_eq!(tab(&alice, &["comp"]), ["completions"]);
    assert!(tab(&alice, &["serv"]).is_empty());
}

#[test]
fn bash_completes_own_contacts_and_nobody_else() {
    let two = Two::online();
    let bob = two.bob.id();
    // A stranger takes the whole id, typed by a person.
    assert!(tab(&two.alice, &["verify", "b"]).is_empty());
    let code = two.alice.run(&["verify", &bob]).out;
    two.alice
        .run(&["verify", &bob, "--code", code.trim()])
        .succeeded();
    let is_bob = |words: &[&str]| assert_eq!(tab(&two.alice, words), [bob.as_str()]);
    is_bob(&["verify", "b"]);
    is_bob(&["accept", ""]);
    is_bob(&["offer", "http", "80", "--to", "bo"]);
    assert!(tab(&two.alice, &["forget", "carol"]).is_empty());
    // Offline there is nothing to ask, and no error at the prompt.
    two.alice.run(&["disconnect"]).succeeded();
    assert!(tab(&two.alice, &["verify", "b"]).is_empty());
}
