//! The command line as clap reads it.

use std::{path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValue, PossibleValuesParser},
};

use super::{
    address::Address,
    output::Colour,
    pages::Shell,
    policy::{self, Cap, Place},
    receive,
};
use crate::client::{Account, Decision};

/// What `pneuma --help` says at its end.
const AFTER_HELP: &str = "\
Exit codes:
  0  it worked; so did a tube, or `receive` while nothing arrives, that you end with Ctrl-C or SIGTERM
  1  it failed
  2  the command line cannot be understood
  3  the contact is unknown or not on the network
  4  refused: by the contact, by you, or because the contact is not trusted
  5  it did not happen in time
  6  no connection manager could be reached or started, on the session bus or without one
  130  stopped by Ctrl-C or SIGTERM before it was done

Contacts: a part of the name selects one of your own contacts, those you dealt with before.
Somebody new takes the whole id and a confirmation (or --yes).";

/// Tubes to people near you: offer a local service to a contact, use one that a contact offers; send and
/// receive files.
#[derive(Debug, Parser)]
#[command(name = "pneuma", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Write results as JSON: one value, or one per line for what goes on
    #[arg(long, global = true)]
    pub json: bool,
    /// Write results only, no remarks
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Colour the output
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        alias = "color"
    )]
    pub colour: Colour,
    /// How long to wait for contacts and offers (not for a person's answer): seconds, or 90s, 5m, 1h; 0 waits
    /// for ever
    #[arg(long, global = true, env = "PNEUMA_TIMEOUT", default_value = "30", value_parser = timeout)]
    pub timeout: Timeout,
    /// Leave the account online at the end; have the service keep the tube until `tubes --close`
    #[arg(long, global = true)]
    pub detach: bool,
    /// Do not ask; confirm
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// The account, where this command brings it online.
    #[command(flatten)]
    pub account: AccountArgs,
}

/// The account's parameters.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Account, where the command brings it online")]
pub struct AccountArgs {
    /// Which set of keys and contacts to use
    #[arg(long, global = true, env = "PNEUMA_PROFILE", value_name = "NAME")]
    pub profile: Option<String>,
    /// The part of your id before the @ (your login name if not given)
    #[arg(long, global = true, env = "PNEUMA_NAME", value_name = "NAME")]
    pub published_name: Option<String>,
    /// The name others see you under
    #[arg(long, global = true, env = "PNEUMA_NICKNAME", value_name = "NAME")]
    pub nickname: Option<String>,
    /// Your first name
    #[arg(long, global = true, env = "PNEUMA_FIRST_NAME", value_name = "NAME")]
    pub first_name: Option<String>,
    /// Your last name
    #[arg(long, global = true, env = "PNEUMA_LAST_NAME", value_name = "NAME")]
    pub last_name: Option<String>,
    /// Your e-mail address, told to everybody on the network
    #[arg(long, global = true, env = "PNEUMA_EMAIL", value_name = "ADDRESS")]
    pub email: Option<String>,
    /// Your Jabber id, told to everybody on the network
    #[arg(long, global = true, env = "PNEUMA_JID", value_name = "JID")]
    pub jid: Option<String>,
    /// Allow contacts you never dealt with to be spoken to without encryption
    #[arg(long, global = true)]
    pub allow_plaintext: bool,
    /// Be seen on this network interface only
    #[arg(long, global = true, env = "PNEUMA_INTERFACE", value_name = "NAME")]
    pub interface: Option<String>,
    /// Use another port for discovery than 5353, apart from everybody else
    #[arg(long, global = true, env = "PNEUMA_MDNS_PORT", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub mdns_port: Option<u16>,
    /// Who announces you and finds others: the Avahi daemon of this machine, Pneuma itself (built-in), or
    /// whichever is there (auto, unless said otherwise)
    #[arg(long, global = true, env = "PNEUMA_DISCOVERY", value_name = "WHO", value_parser = who())]
    pub discovery: Option<String>,
    /// Let connections go these ways only: socks5 (direct), ibb (inside the stream) or both
    #[arg(long, global = true, env = "PNEUMA_BYTESTREAMS", value_name = "WAYS")]
    pub bytestreams: Option<String>,
    /// Let other users of this machine use the sockets of your tubes and files
    #[arg(long, global = true)]
    pub any_local_user: bool,
}

/// Values of `--discovery`; an empty one is none.
fn who() -> PossibleValuesParser {
    let values = ["auto", "avahi", "built-in"].map(PossibleValue::new);
    let empty = PossibleValue::new("").hide(true);
    values.into_iter().chain([empty]).collect::<Vec<_>>().into()
}

impl AccountArgs {
    /// As connection parameters. Empty texts count as absent, so that an empty environment
    /// variable does no harm.
    pub fn account(&self) -> Account {
        let text = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        Account {
            published_name: text(&self.published_name),
            nickname: text(&self.nickname),
            first_name: text(&self.first_name),
            last_name: text(&self.last_name),
            email: text(&self.email),
            jid: text(&self.jid),
            require_encryption: self.allow_plaintext.then_some(false),
            profile: text(&self.profile),
            interface: text(&self.interface),
            mdns_port: self.mdns_port,
            discovery: text(&self.discovery),
            bytestreams: text(&self.bytestreams),
            any_local_user: self.any_local_user.then_some(true),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show whether you are online, and as whom
    Status,
    /// List your contacts and who else is on the network
    Contacts {
        /// Go on: show each change
        #[arg(short, long)]
        watch: bool,
    },
    /// Offer a local service to a contact, or share one of the session bus (dbus:NAME)
    Offer {
        /// What kind of service it is: http, rfb, x-ssh-contact, …; dbus:NAME shares the one with this name on
        /// the session bus
        service: String,
        /// Where it listens: 5900, host:port, [v6]:port, unix:/path or abstract:name; not for dbus:NAME
        address: Option<Address>,
        /// To whom
        #[arg(long, value_name = "CONTACT")]
        to: String,
        /// Offer it again each time the contact has used and closed it, as ssh does after a login
        #[arg(long, conflicts_with = "detach")]
        again: bool,
        /// Of dbus:NAME, share only what this says
        #[command(flatten)]
        shared: SharedArgs,
    },
    /// Use a service that a contact offers
    Accept {
        /// Whose
        #[arg(required_unless_present = "allowed")]
        contact: Option<String>,
        /// Which; dbus:NAME is a service of the contact's session bus
        #[arg(required_unless_present = "allowed")]
        service: Option<String>,
        /// Go on: take whatever your policy allows (see `pneuma policy`), from whoever offers it
        #[arg(long, conflicts_with_all = ["contact", "service", "listen", "stdio", "detach"])]
        allowed: bool,
        /// Listen at this address of yours: port, host:port, [v6]:port, unix:/path or abstract:name
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<Address>,
        /// One connection, on standard input and output; serves as ssh's ProxyCommand
        #[arg(long, conflicts_with_all = ["listen", "json", "detach"])]
        stdio: bool,
        /// Put dbus:NAME on your session bus, under this name, instead of on a bus of its own; its signals reach
        /// whoever listens there
        #[arg(long, value_name = "NAME", conflicts_with_all = ["allowed", "listen", "stdio"])]
        own: Option<String>,
        /// Which signals come along.
        #[command(flatten)]
        heard: HeardArgs,
    },
    /// Send files and folders to a contact; goes on after whatever breaks it
    ///
    /// What was stopped, by Ctrl-C too, goes on where it was when the same command is run again, as long
    /// as the file has not changed. Of several things, four are offered at a time.
    Send {
        /// Files and folders, or - for what comes by a pipe (with --name)
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// To whom
        #[arg(required = true)]
        contact: String,
        /// What it is to be called there
        #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
        name: Option<String>,
    },
    /// Receive files and folders that contacts send, until Ctrl-C
    ///
    /// Nothing that is there is overwritten. What is arriving is called NAME.part; what broke stays there,
    /// and goes on when the contact sends it again.
    Receive {
        /// Only what this contact sends
        #[arg(long, value_name = "CONTACT")]
        from: Option<String>,
        /// Where it goes
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
        /// What is taken without a question
        #[arg(long, value_enum, default_value_t, value_name = "WHOSE")]
        accept: receive::Accept,
        /// Take nothing larger: 500kB, 2MiB, 1.5GiB
        #[arg(long, value_name = "N", value_parser = size)]
        max_size: Option<u64>,
        /// End when so many have arrived
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// End when one has arrived
        #[arg(long, conflicts_with = "count")]
        once: bool,
    },
    /// Show what you let whom do, or change it
    Policy {
        /// What to change; without it, all rules are shown
        #[command(subcommand)]
        what: Option<PolicyCommand>,
    },
    /// List the tubes that are open, on offer or kept; close one
    Tubes {
        /// Go on: show them every second
        #[arg(short, long)]
        watch: bool,
        /// Close this one, for good: its id as listed, or CONTACT/SERVICE
        #[arg(long, value_name = "TUBE", conflicts_with = "watch")]
        close: Option<String>,
    },
    /// Compare codes with a contact, and trust its key from then on
    Verify {
        /// Whom
        contact: String,
        /// The code that the contact reads from its screen, instead of being asked
        #[arg(long)]
        code: Option<String>,
        /// Take the new key of a contact whose machine has really changed
        #[arg(long)]
        replace: bool,
    },
    /// Forget a contact and its key
    Forget {
        /// Whom
        contact: String,
    },
    /// Take the account offline
    Disconnect,
    /// Show or change how much the connection manager writes into its log
    LogLevel {
        /// error, warn, info, debug, trace or off; or for parts of it, as in warn,pneuma::session=debug
        levels: Option<String>,
    },
    /// Look for what is wrong: D-Bus, discovery, sockets, keys; changes nothing
    Doctor,
    /// Two people on this machine, for real: find, compare, offer, fetch, measure
    Demo {
        /// How much to download through the tube, in MiB
        #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=65536))]
        size: u64,
        /// Keep the folder with logs and keys
        #[arg(long)]
        keep: bool,
    },
    /// Install the programs and the files that D-Bus, systemd and Telepathy look for
    Install {
        /// Where things will live
        #[arg(long, default_value = "/usr/local", value_name = "DIR")]
        prefix: PathBuf,
        /// Put everything below this folder, as packagers do; it is no part of the paths in the files
        #[arg(long, env = "DESTDIR", value_name = "DIR")]
        destdir: Option<PathBuf>,
        /// Where the service's program will live; PREFIX/libexec if not given
        #[arg(long, value_name = "DIR")]
        libexecdir: Option<PathBuf>,
        /// Take the programs from this folder instead of the one this program is in
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Say what would be written, and write nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the script that completes command lines in a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page, or write all of them into a folder
    Man {
        /// The folder; made if there is none
        dir: Option<PathBuf>,
    },
    /// The ids of your own contacts, one a line, for the completion scripts
    #[command(hide = true)]
    CompleteContacts,
    /// The connection manager itself, as `telepathy-pneuma` runs it
    #[command(
        hide = true,
        disable_help_flag = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    Service {
        /// Handed on as they are.
        #[arg(allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
}

/// What of a service on the session bus is shared.
#[derive(Debug, Default, Args)]
pub struct SharedArgs {
    /// Of the program that has dbus:NAME, share only this object and those below it (/ is all, which a program
    /// with other names is not shared with otherwise); may be given more than once
    #[arg(long = "object", value_name = "PATH")]
    pub objects: Vec<String>,
    /// Of the program that has dbus:NAME, share only this interface; may be given more than once
    // `--interface` is the global option for a network interface.
    #[arg(long = "dbus-interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Let dbus:NAME be read and heard only: properties and signals; a call then starts no program
    #[arg(long)]
    pub read_only: bool,
}

impl SharedArgs {
    /// Whether it says anything.
    pub fn is_some(&self) -> bool {
        self.read_only || !self.objects.is_empty() || !self.interfaces.is_empty()
    }
}

/// Which signals of a contact's service come to the session bus.
#[derive(Debug, Default, Args)]
pub struct HeardArgs {
    /// With --own, let only signals of this object and those below it onto your session bus; may be given more
    /// than once
    #[arg(long = "object", value_name = "PATH")]
    pub objects: Vec<String>,
    /// With --own, let only signals of this interface onto your session bus; may be given more than once
    #[arg(long = "dbus-interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
}

impl HeardArgs {
    /// Whether it says anything.
    pub fn is_some(&self) -> bool {
        !self.objects.is_empty() || !self.interfaces.is_empty()
    }
}

/// What to change of the policy.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Make a rule or change it; of several that fit a tube the most specific counts
    Set {
        /// For whom and what.
        #[command(flatten)]
        place: PlaceArgs,
        /// What becomes of tubes.
        #[command(flatten)]
        decision: DecisionArgs,
        /// Most connections of a tube at once: a number, or none
        #[arg(long, value_name = "N", value_parser = policy::connections)]
        max_connections: Option<Cap<u32>>,
        /// Most bytes a second each way, all connections together: 500kB, 2MiB, or none
        #[arg(long, value_name = "RATE", value_parser = policy::rate)]
        max_rate: Option<Cap<u64>>,
    },
    /// Take a rule back
    Unset {
        /// For whom and what.
        #[command(flatten)]
        place: PlaceArgs,
    },
}

/// Whom a rule is for, and which service.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// A contact, `pinned` (everybody you dealt with), `everybody`, or a key's fingerprint
    contact: String,
    /// The service, `file-transfer` for files, dbus:NAME for one of the session bus; any if not given
    service: Option<String>,
}

impl PlaceArgs {
    /// The same for the command.
    pub fn place(&self) -> Place<'_> {
        Place {
            who: &self.contact,
            service: self.service.as_deref(),
        }
    }
}

/// One of three.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub struct DecisionArgs {
    /// You are asked about each
    #[arg(long)]
    ask: bool,
    /// You are not asked; `pneuma accept --allowed` takes such tubes, and `pneuma receive` such files
    #[arg(long)]
    allow: bool,
    /// There are none: offers are closed at once, and you cannot make any
    #[arg(long)]
    deny: bool,
}

impl DecisionArgs {
    /// Which, if one was named.
    pub fn decision(self) -> Option<Decision> {
        let named = |flag, decision| Option::filter(Some(decision), |_| flag);
        named(self.ask, Decision::Ask)
            .or(named(self.allow, Decision::Allow))
            .or(named(self.deny, Decision::Deny))
    }
}

/// How long to wait; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(pub Option<Duration>);

/// Reads `30`, `90s`, `5m`, `1h`, and `0` for ever.
fn timeout(text: &str) -> Result<Timeout, String> {
    let advice = || format!("`{text}` is no time; write seconds, or 90s, 5m, 1h");
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(advice());
    }
    let seconds = number
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(advice)?;
    Ok(Timeout(
        (seconds > 0).then(|| Duration::from_secs(seconds.into())),
    ))
}

/// Reads a number of bytes as [`policy::rate`] does.
fn size(text: &str) -> Result<u64, String> {
    match policy::rate(text) {
        Ok(Cap::Most(bytes)) if !text.ends_with("/s") => Ok(bytes),
        _ => Err(format!(
            "`{text}` is no size; write bytes, or 500kB, 2MiB, 1.5GiB"
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times() {
        let seconds = |text| timeout(text).map(|time| time.0.map(|time| time.as_secs()));
        assert_eq!(seconds("30"), Ok(Some(30)));
        assert_eq!(seconds("90s"), Ok(Some(90)));
        assert_eq!(seconds("5m"), Ok(Some(300)));
        assert_eq!(seconds("1h"), Ok(Some(3600)));
        assert_eq!(seconds("0"), Ok(None));
        for text in [
            "",
            "s",
            "-1",
            "1.5",
            "+3",
            "1d",
            "99999999999",
            "4000000h",
            "5€",
        ] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn options_stand_before_and_after_the_command() {
        let cli = parse("pneuma --json contacts --watch --profile work").expect("it is right");
        assert!(cli.global.json);
        assert_eq!(cli.global.account.account().profile(), "work");
        assert!(matches!(cli.command, Command::Contacts { watch: true }));
    }

    #[test]
    fn an_offer_has_all_its_parts() {
        let cli = parse("pneuma offer rfb [::1]:5900 --to bob").expect("it is right");
        let Command::Offer {
            service,
            address,
            to,
            again,
            shared,
        } = cli.command
        else {
            panic!("another command");
        };
        assert_eq!((service.as_str(), to.as_str()), ("rfb", "bob"));
        assert!(!again && !shared.is_some());
        assert_eq!(address.expect("an address").to_string(), "[::1]:5900");
        assert!(parse("pneuma offer rfb 5900").is_err());
        assert!(parse("pneuma offer rfb nonsense --to bob").is_err());
    }

    #[test]
    fn a_service_of_the_bus_is_shared_in_part() {
        let line = "pneuma offer dbus:a.b --to bob --object /a --object /b --read-only --dbus-interface a.b.C";
        let Command::Offer {
            address, shared, ..
        } = parse(line).expect("it is right").command
        else {
            panic!("another command");
        };
        assert_eq!(address, None);
        assert_eq!(shared.objects, ["/a", "/b"]);
        assert_eq!(shared.interfaces, ["a.b.C"]);
        assert!(shared.read_only && shared.is_some());
        assert!(parse("pneuma accept bob dbus:a.b --own c.d").is_ok());
        assert!(parse("pneuma accept bob dbus:a.b --own c.d --listen unix:/x").is_err());
        assert!(parse("pneuma accept bob dbus:a.b --own c.d --stdio").is_err());
    }

    #[test]
    fn standard_output_belongs_to_one() {
        assert!(parse("pneuma accept bob ssh --stdio").is_ok());
        assert!(parse("pneuma accept bob ssh --stdio --listen 80").is_err());
        assert!(parse("pneuma accept bob ssh --stdio --json").is_err());
        assert!(parse("pneuma accept bob ssh --stdio --detach").is_err());
        assert!(parse("pneuma accept bob ssh --listen 80 --detach").is_ok());
        assert!(parse("pneuma tubes --watch --close 3").is_err());
    }

    #[test]
    fn a_rule_has_a_place_and_one_decision() {
        let cli = parse("pneuma policy set bob http --allow --max-rate 2MiB").expect("it is right");
        let Command::Policy {
            what:
                Some(PolicyCommand::Set {
                    place,
                    decision,
                    max_connections,
                    max_rate,
                }),
        } = cli.command
        else {
            panic!("another command");
        };
        assert_eq!(
            (place.place().who, place.place().service),
            ("bob", Some("http"))
        );
        assert_eq!(decision.decision(), Some(Decision::Allow));
        assert_eq!(
            (max_connections, max_rate),
            (None, Some(Cap::Most(2 << 20)))
        );
        let cli = parse("pneuma policy set bob dbus:a.b --allow").expect("it is right");
        assert!(matches!(
            cli.command,
            Command::Policy { what: Some(PolicyCommand::Set { place, .. }) }
                if place.place().service == Some("dbus:a.b")
        ));
        assert!(parse("pneuma policy").is_ok());
        assert!(parse("pneuma policy unset pinned").is_ok());
        assert!(parse("pneuma policy set bob --allow --deny").is_err());
        assert!(parse("pneuma policy set bob --max-connections 0").is_err());
        assert!(parse("pneuma policy set").is_err());
        assert!(parse("pneuma accept --allowed").is_ok());
        assert!(parse("pneuma accept bob http --allowed").is_err());
        assert!(parse("pneuma accept bob").is_err());
    }

    #[test]
    fn the_last_of_what_is_sent_is_to_whom() {
        let cli = parse("pneuma send a b/c bob --quiet").expect("it is right");
        let Command::Send {
            paths,
            contact,
            name,
        } = cli.command
        else {
            panic!("another command");
        };
        assert_eq!(paths, [PathBuf::from("a"), PathBuf::from("b/c")]);
        assert_eq!((contact.as_str(), name), ("bob", None));
        assert!(parse("pneuma send - bob --name x").is_ok());
        assert!(parse("pneuma send a").is_err());
        assert!(parse("pneuma receive").is_ok());
        assert!(parse("pneuma receive --accept verified --max-size 2GiB --once").is_ok());
        assert!(parse("pneuma receive --accept allowed").is_ok());
        assert!(parse("pneuma receive --accept everybody").is_err());
        assert!(parse("pneuma receive --max-size none").is_err());
        assert!(parse("pneuma receive --once --count 2").is_err());
    }

    #[test]
    fn the_service_gets_its_arguments_untouched() {
        let cli = parse("pneuma service --persist --help -x y").expect("it is right");
        let Command::Service { arguments } = cli.command else {
            panic!("another command");
        };
        assert_eq!(arguments, ["--persist", "--help", "-x", "y"]);
    }

    #[test]
    fn empty_parameters_count_as_absent() {
        let cli = parse("pneuma status --allow-plaintext").expect("it is right");
        let mut account = cli.global.account;
        account.nickname = Some(String::new());
        assert_eq!(account.account().nickname, None);
        assert_eq!(account.account().require_encryption, Some(false));
    }
}
