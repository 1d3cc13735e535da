//! Where commands write: results on standard output, for people or as JSON, remarks on standard
//! error. Colour only on terminals. Everything a peer may have written is made safe by the
//! commands with [`super::text::safe`] before it comes here; JSON escapes it by itself.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::{
    failure::{Failure, Outcome},
    text::{safe, table},
};

/// Whether to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On terminals, unless NO_COLOR is set or the terminal is dumb.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How something stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Good: verified, online.
    Good,
    /// Look twice: unknown keys.
    Warn,
    /// Bad: blocked, errors.
    Bad,
    /// Less important.
    Dim,
    /// A heading, or what the eye looks for.
    Strong,
}

/// The place to write to.
#[derive(Clone, Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
    colour_out: bool,
    colour_err: bool,
}

/// Whether colours are wanted on a stream.
fn coloured(choice: Colour, terminal: bool, no_color: Option<&str>, term: Option<&str>) -> bool {
    match choice {
        Colour::Always => true,
        Colour::Never => false,
        // NO_COLOR counts when it is there and not empty (no-color.org).
        Colour::Auto => {
            terminal
                && no_color.is_none_or(str::is_empty)
                && term.is_some_and(|term| term != "dumb")
        }
    }
}

impl Output {
    /// Output as the options and the environment have it.
    pub fn new(json: bool, quiet: bool, colour: Colour) -> Self {
        let no_color = std::env::var("NO_COLOR").ok();
        let term = std::env::var("TERM").ok();
        let on = |terminal| coloured(colour, terminal, no_color.as_deref(), term.as_deref());
        Output {
            json,
            quiet,
            colour_out: !json && on(io::stdout().is_terminal()),
            colour_err: on(io::stderr().is_terminal()),
        }
    }

    /// Whether results are JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The text in a style, for standard output.
    pub fn paint(&self, style: Style, text: &str) -> String {
        paint(self.colour_out, style, text)
    }

    /// A line of the result, for people. Nothing with `--json`.
    ///
    /// # Errors
    /// [`Failure::BrokenPipe`] when the reader left.
    pub fn line(&self, text: impl AsRef<str>) -> Outcome {
        if self.json {
            return Ok(());
        }
        self.write(text.as_ref().as_bytes())
    }

    /// Rows for people, under a head that stands out.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn table(&self, head: &[&str], rows: &[Vec<String>]) -> Outcome {
        for (number, line) in table(head, rows).iter().enumerate() {
            if number == 0 {
                self.line(self.paint(Style::Strong, line))?;
            } else {
                self.line(line)?;
            }
        }
        Ok(())
    }

    /// A result, for programs: one JSON value on one line. Nothing without `--json`.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn record(&self, value: &impl Serialize) -> Outcome {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::failed(format!("the result cannot be written: {error}")))?;
        self.write(text.as_bytes())
    }

    /// A text that is the result itself, such as a script, as it is: with `--json` too.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn text(&self, text: &str) -> Outcome {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    fn write(&self, line: &[u8]) -> Outcome {
        let mut out = io::stdout().lock();
        out.write_all(line)?;
        out.write_all(b"\n")?;
        // Whoever reads a pipe wants to know now.
        out.flush()?;
        Ok(())
    }

    /// A remark for people, on standard error. Nothing with `--quiet` or `--json`. A standard
    /// error that is gone loses remarks and nothing else.
    pub fn remark(&self, text: impl AsRef<str>) {
        if !self.quiet && !self.json {
            to_stderr(&paint(self.colour_err, Style::Dim, text.as_ref()));
        }
    }

    /// Something the user must see even with `--quiet`, on standard error.
    pub fn prompt(&self, text: impl AsRef<str>) {
        to_stderr(text.as_ref());
    }

    /// Says why a command failed, on standard error.
    pub fn failure(&self, failure: &Failure) {
        let Failure::Error {
            code,
            word,
            message,
        } = failure
        else {
            return;
        };
        if self.json {
            let value = serde_json::json!({
                "error": word,
                "code": *code as u8,
                "message": message,
            });
            to_stderr(&value.to_string());
        } else {
            let head = paint(self.colour_err, Style::Bad, "pneuma:");
            to_stderr(&format!("{head} {}.", safe(message)));
        }
    }
}

/// A line to standard error, wherever that goes. Nobody is left to be told when it goes nowhere.
fn to_stderr(line: &str) {
    io::stderr()
        .lock()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap_or_default();
}

fn paint(colour: bool, style: Style, text: &str) -> String {
    if !colour || text.is_empty() {
        return text.to_owned();
    }
    let code = match style {
        Style::Good => "32",
        Style::Warn => "33",
        Style::Bad => "31;1",
        Style::Dim => "2",
        Style::Strong => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_only_where_it_is_wanted() {
        let xterm = Some("xterm");
        assert!(coloured(Colour::Auto, true, None, xterm));
        assert!(coloured(Colour::Auto, true, Some(""), xterm));
        assert!(!coloured(Colour::Auto, true, Some("1"), xterm));
        assert!(!coloured(Colour::Auto, false, None, xterm));
        assert!(!coloured(Colour::Auto, true, None, Some("dumb")));
        assert!(!coloured(Colour::Auto, true, None, None));
        assert!(coloured(Colour::Always, false, Some("1"), None));
        assert!(!coloured(Colour::Never, true, None, xterm));
    }

    #[test]
    fn paint_is_nothing_without_colour() {
        assert_eq!(paint(false, Style::Bad, "x"), "x");
        assert_eq!(paint(true, Style::Bad, "x"), "\x1b[31;1mx\x1b[0m");
        assert_eq!(paint(true, Style::Bad, ""), "");
    }
}
