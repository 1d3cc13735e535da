//! Text for terminals. What a peer wrote may hold control characters that move the cursor, or
//! bidirectional and invisible ones that make one name look like another; nothing of the kind
//! reaches a terminal.

pub use crate::plain::safe;

/// Most characters of a peer's free text (an alias, a presence message) that are shown.
const MOST_SHOWN: usize = 60;

/// As [`safe`], and cut after a line's worth of characters.
pub fn safe_short(text: &str) -> String {
    let mut short: String = text.chars().take(MOST_SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    safe(&short)
}

/// A file's name from a peer, made [`safe`] and in quotation marks, so that nothing in it can pose as a part
/// of the sentence around it: those of its own, and backslashes, have a backslash before them.
pub fn quoted(name: &str) -> String {
    let escaped = name.replace('\\', r"\\").replace('"', "\\\"");
    format!("\"{}\"", safe(&escaped))
}

/// As [`quoted`], and cut after a line's worth of characters.
pub fn quoted_short(name: &str) -> String {
    match name.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => quoted(&format!("{}…", &name[..end])),
        None => quoted(name),
    }
}

/// A number of bytes for people: three digits and a unit of 1024.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 999.5 would be shown with four digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A fingerprint in groups that people can follow with a finger.
pub fn fingerprint(hex: &str) -> String {
    let hex = safe(hex);
    let digits: Vec<char> = hex.chars().collect();
    digits
        .chunks(8)
        .map(|group| group.iter().collect::<String>())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A moment as `2026-11-24 02:10 UTC`, from seconds since 1970.
pub fn moment(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400);
    let minutes = seconds.rem_euclid(86_400) / 60;
    // Civil date from a day number: years begin in March, so that the leap day ends one.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC",
        minutes / 60,
        minutes % 60
    )
}

/// Rows under a head, in columns as wide as they need to be.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain(head.get(column).map(|cell| cell.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(cell);
            let pad = width.saturating_sub(cell.chars().count()) + 2;
            line.extend(std::iter::repeat_n(' ', pad));
        }
        line.truncate(line.trim_end().len());
        line
    };
    std::iter::once(line(head.to_vec()))
        .chain(
            rows.iter()
                .map(|row| line(row.iter().map(String::as_str).collect())),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pose_as_a_part_of_the_sentence() {
        assert_eq!(quoted("a b.txt"), "\"a b.txt\"");
        let hostile = "a.txt\" (1 B).\nTake it? \\\"";
        let shown = r#""a.txt\" (1 B).\u{a}Take it? \\\"""#;
        assert_eq!(quoted(hostile), shown);
        // Marks that look alike are none, and cutting leaves none open.
        assert_eq!(quoted("“a”"), "\"“a”\"");
        let long = quoted_short(&"\"".repeat(100));
        assert_eq!(long, format!("\"{}…\"", "\\\"".repeat(MOST_SHOWN)));
        assert_eq!(quoted_short("é"), "\"é\"");
    }

    #[test]
    fn what_could_deceive_is_written_out() {
        assert_eq!(safe("Bob Ünlü 李"), "Bob Ünlü 李");
        assert_eq!(safe("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(safe("a\u{202e}b\u{2066}"), "a\\u{202e}b\\u{2066}");
        assert_eq!(safe("a\nb\u{200b}\u{9b}"), "a\\u{a}b\\u{200b}\\u{9b}");
        assert_eq!(safe("\u{E0041}\u{FEFF}"), "\\u{e0041}\\u{feff}");
    }

    #[test]
    fn long_text_is_cut_before_it_is_made_safe() {
        let shown = safe_short(&"é".repeat(100));
        assert_eq!(shown.chars().count(), MOST_SHOWN + 1);
        assert!(shown.ends_with('…'));
        assert_eq!(safe_short("short"), "short");
    }

    #[test]
    fn bytes_have_three_digits() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 * 1024 - 1, "10.0 KiB"),
            (100 * 1024 - 1, "100 KiB"),
            (1024 * 1024 - 1, "1.00 MiB"),
            (64 * 1024 * 1024, "64.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), shown, "{count}");
        }
    }

    #[test]
    fn moments_are_dates() {
        assert_eq!(moment(0), "1970-01-01 00:00 UTC");
        assert_eq!(moment(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(moment(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(moment(1_795_486_200), "2026-11-24 02:10 UTC");
        assert_eq!(moment(-60), "1969-12-31 23:59 UTC");
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["bob@desk".to_owned(), "x".to_owned()],
            vec!["é".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["id", "trust"], &rows),
            ["id        trust", "bob@desk  x", "é"]
        );
    }

    #[test]
    fn fingerprints_are_grouped() {
        assert_eq!(fingerprint("0123456789abcdef01"), "01234567 89abcdef 01");
    }
}
