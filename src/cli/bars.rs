//! Progress of files, as bars on a terminal: one for each file that goes on, and one for all of them where
//! there are several. Nowhere else: with `--json` records tell, and a log is no place for bars.
//!
//! What else is written meanwhile goes through [`Bars::aside`], so that bars and lines do not mix.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{app::App, text::safe_short};

/// How often a bar that nothing is told of is drawn again.
const TICK: Duration = Duration::from_millis(500);
/// What a bar of a known length shows.
const SIZED: &str = "{prefix:20!} {bar:24} {percent:>3}%  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
/// And one of an unknown length.
const UNSIZED: &str = "{prefix:20!} {spinner}  {binary_bytes}  {binary_bytes_per_sec}";
/// And one that does not flow yet.
const WAITING: &str = "{prefix:20!} {msg}";

/// See the module's head.
pub struct Bars {
    multi: Option<MultiProgress>,
    all: Option<ProgressBar>,
}

/// The bar of one file. Dropping it takes it away.
pub struct Bar {
    bar: ProgressBar,
    all: Option<ProgressBar>,
    size: Option<u64>,
    /// What of this file is counted in the bar of all.
    counted: u64,
}

impl Bars {
    /// Where they are wanted; `total` is the size of all together, where there are several.
    pub fn new(app: &App, total: Option<u64>) -> Self {
        let shown = !app.global.json && !app.global.quiet && std::io::stderr().is_terminal();
        let multi = shown.then(MultiProgress::new);
        let all = multi.as_ref().zip(total).map(|(multi, total)| {
            let bar = multi.add(ProgressBar::new(total));
            bar.set_style(style(SIZED));
            bar.set_prefix("all");
            bar
        });
        Bars { multi, all }
    }

    /// A bar for a file of this name.
    pub fn file(&self, name: &str, size: Option<u64>) -> Bar {
        let bar = match &self.multi {
            Some(multi) => multi.insert(0, ProgressBar::no_length()),
            None => ProgressBar::hidden(),
        };
        bar.set_style(style(WAITING));
        bar.set_prefix(safe_short(name));
        Bar {
            bar,
            all: self.all.clone(),
            size,
            counted: 0,
        }
    }

    /// Writes something else.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.multi {
            Some(multi) => multi.suspend(write),
            None => write(),
        }
    }

    /// Hides all of them while a question stands on the terminal, or shows them again.
    pub fn hide(&self, hidden: bool) {
        if let Some(multi) = &self.multi {
            multi.set_draw_target(if hidden {
                multi.clear().unwrap_or_default();
                ProgressDrawTarget::hidden()
            } else {
                ProgressDrawTarget::stderr()
            });
        }
    }
}

impl Bar {
    /// It does not flow, and why.
    pub fn wait(&self, why: &str) {
        self.bar.set_style(style(WAITING));
        self.bar.set_message(why.to_owned());
    }

    /// It flows, from here on.
    pub fn flow(&mut self, from: u64) {
        match self.size {
            Some(size) => {
                self.bar.set_length(size);
                self.bar.set_style(style(SIZED));
            }
            None => self.bar.set_style(style(UNSIZED)),
        }
        self.at(from);
        // What was there before says nothing of how fast it is now.
        self.bar.reset_eta();
        if !self.bar.is_hidden() {
            self.bar.enable_steady_tick(TICK);
        }
    }

    /// So much is there.
    pub fn at(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        if let Some(all) = &self.all {
            if bytes >= self.counted {
                all.inc(bytes - self.counted);
            } else {
                // It had to begin before where it was.
                all.set_position(all.position().saturating_sub(self.counted - bytes));
            }
            self.counted = bytes;
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The templates are ours, and right: a test says so.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("█▌ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_understood() {
        for template in [SIZED, UNSIZED, WAITING] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn the_bar_of_all_follows_those_of_each_also_backwards() {
        let all = ProgressBar::hidden();
        let bars = Bars {
            multi: None,
            all: Some(all.clone()),
        };
        let mut one = bars.file("a", Some(10));
        let mut two = bars.file("b", None);
        one.flow(0);
        one.at(7);
        two.flow(0);
        two.at(5);
        assert_eq!(all.position(), 12);
        one.flow(2);
        assert_eq!(all.position(), 7);
    }
}
