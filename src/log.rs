//! What the service says while it works, as clients see it: the last messages and, if somebody wants
//! them, each new one; and the levels, which can be changed while it runs.
//!
//! ```text
//!  tracing ──┬── filter(), by the levels ──► the program's own output: a terminal, the journal
//!            └── layer() ──► the last messages ──► Debug.GetMessages
//!                               └── while enabled, ──► Debug.NewDebugMessage
//! ```
//!
//! A library installs no subscriber: a program that embeds the service adds [`Log::layer`] to its own,
//! if it wants the Debug interface. Only [`service_main`](crate::service_main) sets up a process.
//!
//! # What is kept
//! [`KEPT`] messages of at most [`LONGEST`] bytes each. Their text is what `tracing` was given, which is
//! no key and no bytes of a tube, but may be a name a contact chose: characters that control a terminal
//! or the direction of text are shown as their numbers. Of libraries nothing below Info is kept, and of
//! the D-Bus library nothing below Warning: it shows messages whole, and to send one would make more.
//!
//! # What it costs
//! An event that neither the output nor the kept messages want is decided once for each place in the
//! program (`tracing` caches it) and costs a load and a jump from then on.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::UNIX_EPOCH,
};

use actors::{
    model::{Error, Result},
    runtime::Clock,
};
use async_channel::{Receiver, Sender};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    subscriber::Interest,
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    layer::{Context, Filter},
    registry::LookupSpan,
};

use crate::plain::safe;

/// Messages that are kept; the oldest goes when there is one more.
pub const KEPT: usize = 512;
/// Most bytes of a message; longer ones are cut.
pub const LONGEST: usize = 1024;
/// Messages that wait to be told to clients; those that come while it is full are only kept.
const UNTOLD: usize = 256;
/// Most bytes of levels.
const LONGEST_LEVELS: usize = 4096;

/// The crates whose messages are ours.
const OURS: [&str; 2] = ["pneuma", "actors"];
/// The D-Bus library.
const BUS_LIBRARY: &str = "zbus";

/// A message as the Debug interface has it.
#[derive(Clone, Debug, PartialEq)]
pub struct LogMessage {
    /// Seconds since 1970.
    pub time: f64,
    /// `pneuma/` and the part of the program, or a library's name.
    pub domain: String,
    /// `Debug_Level`: 1 critical, 2 warning, 4 info, 5 debug.
    pub level: u32,
    /// Safe for a terminal.
    pub text: String,
}

/// Which messages are wanted: `info`, or `warn,pneuma=debug,pneuma::session=trace`.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    text: String,
    targets: Targets,
}

impl Default for Levels {
    fn default() -> Self {
        Levels {
            text: "info".into(),
            targets: Targets::new().with_default(LevelFilter::INFO),
        }
    }
}

impl FromStr for Levels {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::InvalidArgument(format!(
                "'{}' are no levels; write error, warn, info, debug, trace or off, or one for a part of the program as in warn,pneuma=debug",
                text.chars()
                    .take(80)
                    .filter(|c| !c.is_control())
                    .collect::<String>()
            ))
        };
        let trimmed = text.trim();
        if trimmed.is_empty() || trimmed.len() > LONGEST_LEVELS {
            return Err(bad());
        }
        // A word alone means everything of a part to the library; here it is a level, or a mistake.
        let words = trimmed.split(',').filter(|word| !word.contains('='));
        let is_level = |word: &str| !word.is_empty() && LevelFilter::from_str(word).is_ok();
        if !words.into_iter().all(is_level) {
            return Err(bad());
        }
        Ok(Levels {
            text: trimmed.to_owned(),
            targets: trimmed.parse().map_err(|_| bad())?,
        })
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Levels {
    fn want(&self, metadata: &Metadata<'_>) -> bool {
        self.targets
            .would_enable(metadata.target(), metadata.level())
    }

    fn most(&self) -> LevelFilter {
        let listed = self.targets.iter().map(|(_, level)| level).max();
        listed
            .max(self.targets.default_level())
            .unwrap_or(LevelFilter::OFF)
    }
}

/// The messages and the levels. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    levels: RwLock<Levels>,
    enabled: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    messages: VecDeque<LogMessage>,
    listeners: Vec<Sender<LogMessage>>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("levels", &self.levels().text)
            .field("enabled", &self.is_enabled())
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Nothing yet.
    pub fn new(levels: Levels, clock: Arc<dyn Clock>) -> Self {
        Log(Arc::new(Shared {
            clock,
            levels: RwLock::new(levels),
            enabled: AtomicBool::new(false),
            kept: Mutex::default(),
        }))
    }

    /// What keeps messages; for a subscriber of `tracing-subscriber`.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'s> LookupSpan<'s>,
    {
        Keeper(self.clone()).with_filter(Wanted {
            log: self.clone(),
            of: Of::Clients,
        })
    }

    /// What follows the levels; for a layer that is the program's own output.
    pub fn filter<S>(&self) -> impl Filter<S> + Send + Sync + use<S> {
        Wanted {
            log: self.clone(),
            of: Of::Output,
        }
    }

    /// The levels as they are.
    pub fn levels(&self) -> Levels {
        let levels = self.0.levels.read();
        levels.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the levels, for the output and for what is kept.
    pub fn set_levels(&self, levels: Levels) {
        *self
            .0
            .levels
            .write()
            .unwrap_or_else(PoisonError::into_inner) = levels;
        tracing::callsite::rebuild_interest_cache();
    }

    /// Whether clients are told of each message.
    pub fn is_enabled(&self) -> bool {
        self.0.enabled.load(Ordering::Relaxed)
    }

    /// Tells clients of each message, our own down to Debug whatever the levels say, or no longer.
    pub fn enable(&self, enabled: bool) {
        if self.0.enabled.swap(enabled, Ordering::Relaxed) != enabled {
            tracing::callsite::rebuild_interest_cache();
        }
    }

    /// What is kept, the oldest first.
    pub fn messages(&self) -> Vec<LogMessage> {
        self.kept().messages.iter().cloned().collect()
    }

    /// The messages from now on, while it is enabled.
    pub(crate) fn listen(&self) -> Receiver<LogMessage> {
        let (sender, receiver) = async_channel::bounded(UNTOLD);
        self.kept().listeners.push(sender);
        receiver
    }

    /// Each change is one insertion or one removal, so what is kept is whole whatever panicked.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, message: LogMessage) {
        let mut kept = self.kept();
        if self.is_enabled() {
            kept.listeners.retain(|listener| !listener.is_closed());
            for listener in &kept.listeners {
                // One that is behind can ask for what is kept.
                listener.try_send(message.clone()).ok();
            }
        }
        if kept.messages.len() == KEPT {
            kept.messages.pop_front();
        }
        kept.messages.push_back(message);
    }
}

/// For whom something is filtered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Output,
    Clients,
}

struct Wanted {
    log: Log,
    of: Of,
}

impl Wanted {
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let levels = self.log.0.levels.read();
        let listed = levels
            .unwrap_or_else(PoisonError::into_inner)
            .want(metadata);
        match self.of {
            Of::Output => listed,
            Of::Clients => {
                let level = *metadata.level();
                let crate_name = metadata.target().split("::").next().unwrap_or_default();
                if OURS.contains(&crate_name) {
                    listed || (self.log.is_enabled() && level <= Level::DEBUG)
                } else if crate_name == BUS_LIBRARY {
                    listed && level <= Level::WARN
                } else {
                    listed && level <= Level::INFO
                }
            }
        }
    }
}

impl<S> Filter<S> for Wanted {
    fn enabled(&self, metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Asked anew whenever something changes.
        if self.wants(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let most = self.log.levels().most();
        let enabled = self.of == Of::Clients && self.log.is_enabled();
        Some(if enabled {
            most.max(LevelFilter::DEBUG)
        } else {
            most
        })
    }
}

struct Keeper(Log);

impl<S: Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        let since = self.0.0.clock.wall().duration_since(UNIX_EPOCH);
        let domain = text.logged.take();
        self.0.keep(LogMessage {
            time: since.unwrap_or_default().as_secs_f64(),
            domain: domain.unwrap_or_else(|| domain_of(metadata.target())),
            level: level_of(*metadata.level()),
            text: text.finish(),
        });
    }
}

/// `pneuma::session::tls` is `pneuma/session`, `mdns_sd::service` is `mdns_sd`.
fn domain_of(target: &str) -> String {
    let mut parts = target.split("::");
    let first = parts.next().unwrap_or_default();
    match (first, parts.next()) {
        ("pneuma", Some(part)) => format!("pneuma/{}", safe(part)),
        ("actors", Some(part)) => format!("pneuma/actors/{}", safe(part)),
        _ => safe(first),
    }
}

/// `Debug_Level`. Nothing is its Error, which means that the service ends with it.
fn level_of(level: Level) -> u32 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 4,
        Level::DEBUG | Level::TRACE => 5,
    }
}

/// An event's message, and its other fields behind it.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
    /// Whose it is, where it came by the `log` crate.
    logged: Option<String>,
}

impl Text {
    fn finish(self) -> String {
        let mut text = safe(&(self.message + &self.fields));
        if text.len() > LONGEST {
            let mut end = LONGEST - '…'.len_utf8();
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push('…');
        }
        text
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "log.target" => self.logged = Some(domain_of(value)),
            _ => self.record_debug(field, &format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // To write into a string cannot fail.
        match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        }
        .unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use actors::runtime::SystemClock;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn levels(text: &str) -> Levels {
        text.parse().unwrap()
    }

    /// What is kept of what `say` says.
    fn kept(log: &Log, say: impl FnOnce()) -> Vec<LogMessage> {
        let subscriber = tracing_subscriber::registry().with(log.layer());
        tracing::subscriber::with_default(subscriber, say);
        log.messages()
    }

    fn log(text: &str) -> Log {
        Log::new(levels(text), SystemClock::new())
    }

    #[test]
    fn levels_are_read_and_said() {
        for text in [
            "info",
            "off",
            "warn,pneuma=debug",
            " pneuma::session=trace,error ",
        ] {
            assert_eq!(levels(text).to_string(), text.trim());
        }
        for text in [
            "",
            " ",
            "loud",
            "pneuma",
            "pneuma=loud",
            "info,",
            "a\u{1b}[m=info=x",
        ] {
            let error = text.parse::<Levels>().unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_)), "{text}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
        assert_eq!(levels("warn,pneuma=debug").most(), LevelFilter::DEBUG);
        assert_eq!(levels("error").most(), LevelFilter::ERROR);
        assert_eq!(levels("off").most(), LevelFilter::OFF);
    }

    #[test]
    fn messages_have_a_domain_a_level_and_safe_text() {
        let log = log("info");
        let peer = "b\u{1b}[2J\nob\u{202e}";
        let messages = kept(&log, || {
            tracing::info!(peer, count = 3, "somebody has come");
            tracing::error!(target: "actors::relay", "failed");
            tracing::warn!(target: "mdns_sd::service", "odd");
            tracing::debug!("not wanted");
        });
        let short: Vec<_> = messages
            .iter()
            .map(|m| (m.domain.as_str(), m.level, m.text.as_str()))
            .collect();
        assert_eq!(
            short,
            [
                (
                    "pneuma/log",
                    4,
                    "somebody has come peer=b\\u{1b}[2J\\u{a}ob\\u{202e} count=3"
                ),
                ("pneuma/actors/relay", 1, "failed"),
                ("mdns_sd", 2, "odd"),
            ]
        );
        assert!(messages[0].time > 1_700_000_000.0);
    }

    #[test]
    fn enabled_it_tells_our_own_down_to_debug_and_of_the_bus_library_nothing() {
        let log = log("info");
        let told = log.listen();
        let messages = kept(&log, || {
            tracing::info!("before");
            log.enable(true);
            tracing::debug!("ours");
            tracing::trace!("too much");
            tracing::debug!(target: "rustls::client", "theirs");
            tracing::info!(target: "zbus::connection", "the bus's");
            log.enable(false);
            tracing::debug!("after");
        });
        let texts = |messages: &[LogMessage]| -> Vec<String> {
            messages.iter().map(|m| m.text.clone()).collect()
        };
        assert_eq!(texts(&messages), ["before", "ours"]);
        let mut heard = Vec::new();
        while let Ok(message) = told.try_recv() {
            heard.push(message);
        }
        assert_eq!(texts(&heard), ["ours"]);
    }

    #[test]
    fn levels_change_while_it_runs() {
        let log = log("warn");
        let messages = kept(&log, || {
            for round in 0..3 {
                tracing::info!(round, "here");
                log.set_levels(levels(if round == 0 { "info" } else { "off" }));
            }
        });
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].text, "here round=1");
        assert_eq!(log.levels().to_string(), "off");
    }

    #[test]
    fn what_is_kept_has_bounds() {
        let log = log("info");
        log.enable(true);
        let told = log.listen();
        let messages = kept(&log, || {
            for number in 0..KEPT + 10 {
                tracing::info!(number, "{}", "ö".repeat(LONGEST));
            }
            tracing::info!("last");
        });
        assert_eq!(messages.len(), KEPT);
        assert_eq!(messages[KEPT - 1].text, "last");
        assert!(messages.iter().all(|m| m.text.len() <= LONGEST));
        assert!(messages[0].text.ends_with('…'));
        assert_eq!(told.len(), UNTOLD);
    }
}
