//! Questions that can be taken back: what was asked about may go away before it is answered. One thread
//! reads the terminal, and the line it reads then answers the next question that is asked.

use std::io::{self, Write as _};

use super::failure::{Failure, Outcome};

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This once.
    Yes,
    /// This, and whatever else this contact sends to this command.
    All,
    /// Anything else.
    No,
}

/// Who asks.
#[derive(Default)]
pub struct Asker {
    reading: Option<smol::Task<io::Result<String>>>,
}

impl Asker {
    /// Asks. Cancel-safe: a question that is dropped is taken back.
    ///
    /// # Errors
    /// When the terminal cannot be read.
    pub async fn ask(&mut self, question: &str) -> Outcome<Answer> {
        {
            let mut err = io::stderr().lock();
            err.write_all(
                format!("{question} [y/N, a for all that this contact sends] ").as_bytes(),
            )?;
            err.flush()?;
        }
        let reading = self.reading.get_or_insert_with(|| {
            // It may outlive us; it holds nothing and ends with the process.
            smol::unblock(|| {
                let mut line = String::new();
                io::stdin().read_line(&mut line).map(|_| line)
            })
        });
        let line = reading.await;
        self.reading = None;
        match line {
            Ok(line) => Ok(answer(&line)),
            Err(error) => Err(Failure::failed(format!(
                "the answer could not be read: {error}"
            ))),
        }
    }
}

fn answer(line: &str) -> Answer {
    match line.trim().to_lowercase().as_str() {
        "y" | "yes" => Answer::Yes,
        "a" | "all" => Answer::All,
        _ => Answer::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        for (line, expected) in [
            ("y\n", Answer::Yes),
            (" YES ", Answer::Yes),
            ("a\n", Answer::All),
            ("", Answer::No),
            ("yy\n", Answer::No),
            ("n\n", Answer::No),
        ] {
            assert_eq!(answer(line), expected, "{line:?}");
        }
    }
}
