//! Manual pages and completion scripts: made from the very definition that reads the command line, so
//! that they cannot say anything else. `pneuma man`, `pneuma completions` and `pneuma install` write
//! them.
//!
//! The scripts complete the ids of our user's own contacts too, which the service is asked for where
//! it runs and the account is online; nothing is started for that. An id with a character that means
//! something to a shell is left out: a contact chooses its id, and scripts are not the place to be
//! clever about quoting.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

use super::{
    Outside,
    app::App,
    args::Cli,
    failure::{Failure, Outcome},
    text::safe,
};
use crate::client::Connection;

/// The section of the manual for programs that people run.
const PROGRAMS: &str = "1";
/// And for those that serve.
const SERVICES: &str = "8";
/// Most ids that a script is given.
const MOST_IDS: usize = 256;

/// Which shell a script is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// The GNU shell, with bash-completion or without.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly shell.
    Fish,
}

impl Shell {
    /// All of them.
    const ALL: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

    /// Where such a script lies below a prefix.
    fn place(self) -> &'static str {
        match self {
            Shell::Bash => "share/bash-completion/completions/pneuma",
            Shell::Zsh => "share/zsh/site-functions/_pneuma",
            Shell::Fish => "share/fish/vendor_completions.d/pneuma.fish",
        }
    }
}

/// Everything there is, with the place where it belongs below `prefix`.
///
/// # Errors
/// In practice none.
pub fn files(prefix: &Path, outside: Outside) -> Outcome<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for (name, text) in manuals(outside)? {
        let section = name.rsplit('.').next().unwrap_or(PROGRAMS);
        let folder = prefix.join(format!("share/man/man{section}"));
        files.push((folder.join(name), text));
    }
    for shell in Shell::ALL {
        files.push((prefix.join(shell.place()), script(shell)?));
    }
    Ok(files)
}

/// `pneuma completions`.
///
/// # Errors
/// When the output cannot be written.
pub fn completions(app: &App, shell: Shell) -> Outcome {
    app.out.text(&script(shell)?)
}

/// `pneuma man`.
///
/// # Errors
/// When the output or the files cannot be written.
pub fn manual(app: &App, outside: Outside, folder: Option<&Path>) -> Outcome {
    let Some(folder) = folder else {
        return app.out.text(&page(Cli::command(), PROGRAMS)?);
    };
    let failed = |path: &Path, error| {
        Failure::failed(format!("{} cannot be written: {error}", path.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    for (name, text) in manuals(outside)? {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
        app.out.line(safe(&path.display().to_string()))?;
    }
    Ok(())
}

/// `pneuma complete-contacts`: whom the scripts offer. Nobody where there is no bus, no service, no
/// account online: a shell's prompt is no place for errors.
///
/// # Errors
/// When the output cannot be written.
pub async fn contacts(app: &App) -> Outcome {
    let known = async {
        let Some(bus) = app.bus().await? else {
            return Ok(Vec::new());
        };
        let Some(connection) = Connection::of_profile(&bus, app.account.profile()).await? else {
            return Ok(Vec::new());
        };
        Ok::<_, Failure>(connection.contacts().await?)
    };
    let ids = known.await.unwrap_or_default();
    ids.iter()
        .filter(|contact| contact.trust.is_pinned() && is_plain(&contact.id))
        .take(MOST_IDS)
        .try_for_each(|contact| app.out.text(&format!("{}\n", contact.id)))
}

/// Whether every shell takes it as one word that means itself.
fn is_plain(id: &str) -> bool {
    !id.starts_with('-')
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"@._-+".contains(&byte))
}

/// All manual pages, by the names of their files: the command line, each of its commands, the service.
fn manuals(outside: Outside) -> Outcome<Vec<(String, String)>> {
    let mut whole = shown();
    whole.build();
    let mut pages = vec![("pneuma.1".to_owned(), page(Cli::command(), PROGRAMS)?)];
    for command in whole.get_subcommands() {
        let name = format!("pneuma-{}.{PROGRAMS}", command.get_name());
        pages.push((name, page(command.clone(), PROGRAMS)?));
    }
    let service = (outside.service_command)();
    let name = format!("{}.{SERVICES}", service.get_name());
    pages.push((name, page(service, SERVICES)?));
    Ok(pages)
}

/// The command line's definition, without the commands that are hidden from people: clap's generators
/// do not leave them out by themselves.
fn shown() -> clap::Command {
    let whole = Cli::command();
    let commands = whole.get_subcommands().filter(|one| !one.is_hide_set());
    clap::Command::new("pneuma")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .args(whole.get_arguments().cloned())
        .subcommands(commands.cloned())
}

/// One manual page.
fn page(command: clap::Command, section: &str) -> Outcome<String> {
    let after = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let command = command
        .disable_help_subcommand(true)
        .after_help(clap::builder::Resettable::Reset)
        // clap_mangen's own title for a subcommand's version would be the whole line.
        .version(env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command)
        .section(section)
        .source(concat!("Pneuma ", env!("CARGO_PKG_VERSION")))
        .manual("Pneuma");
    let mut text = Vec::new();
    let written = man.render(&mut text).and_then(|()| {
        let mut roff = clap_mangen::roff::Roff::new();
        paragraphs(&mut roff, &after);
        roff.to_writer(&mut text)
    });
    written.map_err(|error| Failure::failed(format!("a manual page cannot be made: {error}")))?;
    let text = String::from_utf8(text)
        .map_err(|error| Failure::failed(format!("a manual page cannot be made: {error}")))?;
    // No date is written as nothing at all, and what follows would stand in its place.
    Ok(text.replacen(
        &format!(" {section}  \""),
        &format!(" {section} \"\" \""),
        1,
    ))
}

/// What `--help` says at its end: each part a section, its lines as they are.
fn paragraphs(roff: &mut clap_mangen::roff::Roff, after: &str) {
    for part in after.split("\n\n").filter(|part| !part.is_empty()) {
        let (title, rest) = part.split_once(':').unwrap_or(("Notes", part));
        roff.control("SH", [title.to_uppercase().as_str()]);
        roff.control("nf", []);
        for line in rest.trim_start_matches('\n').lines() {
            roff.text([clap_mangen::roff::roman(line.trim())]);
        }
        roff.control("fi", []);
    }
}

/// A shell's script, contacts included.
fn script(shell: Shell) -> Outcome<String> {
    use clap_complete::Shell as Known;
    let known = match shell {
        Shell::Bash => Known::Bash,
        Shell::Zsh => Known::Zsh,
        Shell::Fish => Known::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(known, &mut shown(), "pneuma", &mut text);
    let mut text = String::from_utf8(text)
        .map_err(|error| Failure::failed(format!("a script cannot be made: {error}")))?;
    match shell {
        Shell::Bash => text.push_str(BASH),
        Shell::Fish => text.push_str(FISH),
        Shell::Zsh => {
            // A contact is what these arguments are, and not a file.
            for what in ["Whose", "Whom", "To whom"] {
                text = text.replace(
                    &format!("{what}:_default"),
                    &format!("{what}:_pneuma_contacts"),
                );
            }
            text = text.replace("CONTACT:_default", "CONTACT:_pneuma_contacts");
            text = text.replacen("#compdef pneuma\n", ZSH, 1);
        }
    }
    Ok(text)
}

/// What is put around clap's own function in bash.
const BASH: &str = r#"
_pneuma_or_contacts() {
    # Whom to send to comes after what to send: where no file is called so, it is meant.
    if [ "${COMP_WORDS[1]}" = send ] && [ "$COMP_CWORD" -ge 3 ] \
        && ! compgen -f -- "$2" >/dev/null; then
        COMPREPLY=( $(compgen -W "$("$1" complete-contacts 2>/dev/null)" -- "$2") )
        [ "${#COMPREPLY[@]}" -gt 0 ] && return 0
    fi
    case "$3" in
        --to|--from|accept|verify|forget)
            COMPREPLY=( $(compgen -W "$("$1" complete-contacts 2>/dev/null)" -- "$2") )
            [ "${#COMPREPLY[@]}" -gt 0 ] && return 0
            ;;
    esac
    _pneuma "$@"
}
complete -F _pneuma_or_contacts -o bashdefault -o default pneuma
"#;

/// What is put before clap's own function in zsh.
const ZSH: &str = r#"#compdef pneuma

_pneuma_contacts() {
    local -a contacts
    contacts=(${(f)"$(_call_program contacts pneuma complete-contacts 2>/dev/null)"})
    _describe 'contact' contacts
}
"#;

/// What is put after clap's own rules in fish.
const FISH: &str = r#"
complete -c pneuma -n "__fish_seen_subcommand_from receive" -l from -x -a "(pneuma complete-contacts 2>/dev/null)"
complete -c pneuma -n "__fish_seen_subcommand_from send" -a "(pneuma complete-contacts 2>/dev/null)"
complete -c pneuma -n "__fish_seen_subcommand_from offer" -l to -x -a "(pneuma complete-contacts 2>/dev/null)"
complete -c pneuma -n "__fish_seen_subcommand_from accept verify forget" -f -a "(pneuma complete-contacts 2>/dev/null)"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_mean_something_to_a_shell_are_left_out() {
        assert!(is_plain("bob@pluto") && is_plain("bob.b-1_x+y@pluto"));
        for id in [
            "bob #2@x",
            "$(reboot)@x",
            "a;b",
            "-rf@x",
            "`x`",
            "b\u{202e}b",
            "a\nb",
            "a*",
        ] {
            assert!(!is_plain(id), "{id}");
        }
    }

    #[test]
    fn every_command_has_a_page_and_hidden_ones_have_none() {
        let outside = Outside {
            service: |_| std::process::ExitCode::SUCCESS,
            service_command: || clap::Command::new("telepathy-pneuma").about("It serves"),
        };
        let pages = manuals(outside).expect("pages");
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in [
            "pneuma.1",
            "pneuma-offer.1",
            "pneuma-tubes.1",
            "telepathy-pneuma.8",
        ] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        assert!(
            !names.iter().any(|name| name.contains("service.1")),
            "{names:?}"
        );
        let (_, whole) = &pages[0];
        assert!(
            whole.contains("EXIT CODES") && whole.contains("PNEUMA_TIMEOUT"),
            "{whole}"
        );
    }

    #[test]
    fn zsh_completes_contacts_where_a_contact_is_meant() {
        let text = script(Shell::Zsh).expect("a script");
        // offer --to, accept, verify, forget, and the function itself twice.
        assert!(text.matches("_pneuma_contacts").count() >= 5, "{text}");
    }
}
