//! The code two people compare, by voice or side by side, to know that nobody sits between them.
//!
//! Eight groups of five decimal digits, 132 bits over both keys in sorted order, so both sides see
//! the same. No secret goes into it and nothing is committed to beforehand, so somebody between the
//! two may search for a pair of keys that collide: that takes about 2⁶⁶ keys, which is why it is
//! longer than the hundred bits that a single forged key would ask for.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha512};

use super::KeyId;

const GROUPS: usize = 8;
const GROUP_DIGITS: usize = 5;
const CONTEXT: &[u8] = b"pneuma comparison code 1\0";

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComparisonCode([u32; GROUPS]);

impl ComparisonCode {
    /// The code of two keys, whichever is ours.
    pub fn of(one: KeyId, other: KeyId) -> Self {
        let mut hash = Sha512::new();
        hash.update(CONTEXT);
        hash.update(one.min(other).0);
        hash.update(one.max(other).0);
        let digest: [u8; 64] = hash.finalize().into();
        let mut groups = [0; GROUPS];
        for (group, bytes) in groups.iter_mut().zip(digest.chunks_exact(8)) {
            let number = bytes
                .iter()
                .fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
            *group = (number % 10_u64.pow(GROUP_DIGITS as u32)) as u32;
        }
        ComparisonCode(groups)
    }
}

impl fmt::Display for ComparisonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, group) in self.0.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{group:0width$}", width = GROUP_DIGITS)?;
        }
        Ok(())
    }
}

/// The text is not a comparison code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a code to compare has forty digits, in eight groups of five")]
pub struct ParseCodeError;

impl FromStr for ComparisonCode {
    type Err = ParseCodeError;

    /// Spaces, dashes, dots and colons between the digits do not matter.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut groups = [0; GROUPS];
        let mut count = 0;
        for c in text.chars() {
            if let Some(digit) = c.to_digit(10) {
                let group = groups.get_mut(count / GROUP_DIGITS).ok_or(ParseCodeError)?;
                *group = *group * 10 + digit;
                count += 1;
            } else if !(c.is_whitespace() || matches!(c, '-' | '.' | ':' | '\u{2010}'..='\u{2015}'))
            {
                return Err(ParseCodeError);
            }
        }
        if count == GROUPS * GROUP_DIGITS {
            Ok(ComparisonCode(groups))
        } else {
            Err(ParseCodeError)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: KeyId = KeyId([1; 32]);
    const TWO: KeyId = KeyId([2; 32]);

    #[test]
    fn both_sides_see_the_same_code() {
        assert_eq!(ComparisonCode::of(ONE, TWO), ComparisonCode::of(TWO, ONE));
        assert_ne!(
            ComparisonCode::of(ONE, TWO),
            ComparisonCode::of(ONE, KeyId([3; 32]))
        );
    }

    #[test]
    fn a_code_is_read_however_it_was_typed() {
        let code = ComparisonCode::of(ONE, TWO);
        let text = code.to_string();
        assert_eq!(text.len(), 8 * 5 + 7);
        assert_eq!(text.parse(), Ok(code));
        assert_eq!(text.replace(' ', "").parse(), Ok(code));
        assert_eq!(
            format!("\t{}\n", text.replace(' ', " - ")).parse(),
            Ok(code)
        );
    }

    #[test]
    fn what_is_no_code_is_refused() {
        let text = ComparisonCode::of(ONE, TWO).to_string();
        for wrong in [
            "",
            "yes",
            &text[1..],
            &format!("{text}0"),
            &format!("{text}x"),
        ] {
            assert_eq!(
                wrong.parse::<ComparisonCode>(),
                Err(ParseCodeError),
                "{wrong}"
            );
        }
    }
}
