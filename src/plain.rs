//! Text of others, made safe for whatever shows it: terminals, logs, viewers of messages.

/// The text with everything that does not show as itself written as `\u{…}`.
pub fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if shows_as_itself(c) {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

/// Whether a character is neither a control, nor invisible, nor changes the direction of others.
pub fn shows_as_itself(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            // soft hyphen, combining grapheme joiner, Arabic letter mark, Hangul fillers
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{3164}' | '\u{FFA0}'
            // Khmer and Mongolian characters that do not show
            | '\u{17B4}' | '\u{17B5}' | '\u{180B}'..='\u{180F}'
            // zero widths, directional marks, line and paragraph separators, embeddings
            | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            // word joiner, invisible operators, isolates, deprecated format characters
            | '\u{2060}'..='\u{206F}'
            // variation selectors, byte order mark, interlinear annotation
            | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}'
            // private use: whatever the terminal's font makes of it
            | '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..='\u{10FFFF}'
            // tags and more variation selectors
            | '\u{E0000}'..='\u{E0FFF}'))
}
