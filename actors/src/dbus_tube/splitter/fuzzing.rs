//! The fuzzing target of where messages end. See `pneuma::fuzzing`.
//!
//! What the splitter says is compared with a second reader, which has everything before it at once and
//! knows of no steps.

use super::{MAX_FIELDS, MAX_MESSAGE, Malformed, PREFIX, Splitter};

/// How large a value is that is as large as it is aligned, or how its text or its elements are.
fn size(letter: u8) -> Option<u64> {
    Some(match letter {
        b'y' | b'g' => 1,
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b's' | b'o' => 4,
        b'x' | b't' | b'd' => 8,
        _ => return None,
    })
}

/// What a second reader says of the first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// So many bytes, of which not all need be there.
    Long(u64),
    /// None that may go through.
    Bad,
    /// Not enough is there to know.
    Short,
}

fn first(bytes: &[u8]) -> First {
    let Some(prefix) = bytes.get(..PREFIX) else {
        return First::Short;
    };
    let number = |at: u64| {
        let at = at as usize;
        let four = bytes[at..at + 4].try_into().expect("four bytes");
        u64::from(match prefix[0] {
            b'B' => u32::from_be_bytes(four),
            _ => u32::from_le_bytes(four),
        })
    };
    let (body, serial, fields) = (number(4), number(8), number(12));
    let end = PREFIX as u64 + fields;
    let whole = end.next_multiple_of(8) + body;
    let known = b"lB".contains(&prefix[0]) && (1..=4).contains(&prefix[1]) && prefix[3] == 1;
    let small = fields <= u64::from(MAX_FIELDS) && whole <= u64::from(MAX_MESSAGE);
    if !known || serial == 0 || !small {
        return First::Bad;
    }
    if (bytes.len() as u64) < end {
        return First::Short;
    }
    let read = |at: u64| {
        let (code, long) = (bytes[at as usize], u64::from(bytes[at as usize + 1]));
        let signature = bytes.get(at as usize + 2..(at + 2 + long) as usize)?;
        let zero = at + 2 + long;
        let value = zero + 1;
        if value > end || bytes[zero as usize] != 0 {
            return None;
        }
        let counted = value.next_multiple_of(4);
        let count = || (counted + 4 <= end).then(|| number(counted));
        Some(match signature {
            b"u" if code == 9 => (count()? == 0).then_some(counted + 4)?,
            _ if code == 9 => return None,
            b"s" | b"o" => counted + 4 + count()? + 1,
            b"g" if value < end => value + 1 + u64::from(bytes[value as usize]) + 1,
            [b'a', element] => {
                let size = size(*element)?;
                match count()? {
                    0 => counted + 4,
                    elements => (counted + 4).next_multiple_of(size) + elements,
                }
            }
            [b'g'] => return None,
            [letter] => value.next_multiple_of(size(*letter)?) + size(*letter)?,
            _ => return None,
        })
    };
    let mut at = PREFIX as u64;
    while at < end {
        match (at + 1 < end).then(|| read(at)).flatten() {
            Some(next) if next <= end => at = next.next_multiple_of(8),
            _ => return First::Bad,
        }
    }
    First::Long(whole)
}

/// Where whole messages end, by the second reader, and whether what follows the last one is none.
pub(in crate::dbus_tube) fn ends(bytes: &[u8]) -> (Vec<usize>, bool) {
    let (mut ends, mut at) = (Vec::new(), 0);
    loop {
        match first(&bytes[at..]) {
            First::Long(whole) if whole <= (bytes.len() - at) as u64 => {
                at += whole as usize;
                ends.push(at);
            }
            First::Bad => return (ends, true),
            First::Long(_) | First::Short => return (ends, false),
        }
    }
}

/// The same bytes in pieces: all, one by one, and as they themselves say.
pub(in crate::dbus_tube) fn pieces(data: &[u8]) -> [Vec<&[u8]>; 3] {
    let (mut odd, mut rest) = (Vec::new(), data);
    while let Some(size) = rest.last() {
        let (piece, after) = rest.split_at(rest.len().min(usize::from(size % 24) + 1));
        odd.push(piece);
        rest = after;
    }
    [vec![data], data.chunks(1).collect(), odd]
}

/// Where messages end, and why nothing more is read.
fn split(pieces: &[&[u8]]) -> (Vec<usize>, Option<Malformed>) {
    let mut splitter = Splitter::default();
    let (mut ends, mut at) = (Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            match splitter.feed(rest) {
                Ok(taken) => {
                    assert!((1..=rest.len()).contains(&taken), "it stands still");
                    at += taken;
                    rest = &rest[taken..];
                }
                Err(why) => {
                    // For good, whatever comes.
                    for more in [rest, b"l", &[0; PREFIX]] {
                        assert_eq!(splitter.feed(more), Err(why));
                    }
                    return (ends, Some(why));
                }
            }
            assert!(splitter.length().is_none_or(|whole| whole <= MAX_MESSAGE));
            if splitter.is_between() {
                ends.push(at);
            }
        }
    }
    assert_eq!(
        ends.last().copied().unwrap_or(0) == at,
        splitter.is_between()
    );
    (ends, None)
}

/// Whether the splitter refuses these bytes, whatever follows.
pub(in crate::dbus_tube) fn is_refused(bytes: &[u8]) -> bool {
    split(&[bytes]).1.is_some()
}

/// One input: what somebody writes into a tube.
pub fn dbus_messages(data: &[u8]) {
    let [whole, others @ ..] = pieces(data);
    let (found, why) = split(&whole);
    for pieces in others {
        assert_eq!(split(&pieces), (found.clone(), why));
    }
    let (wanted, bad) = ends(data);
    assert_eq!(found, wanted);
    assert!(why.is_some() || !bad, "what is no message goes through");
    if why.is_some() && !bad {
        // It was said before all of it was there: so it is none whatever follows.
        let at = found.last().copied().unwrap_or(0);
        for more in [0, 1, 255] {
            let mut rest = data[at..].to_vec();
            rest.resize(rest.len() + 512, more);
            assert!(!matches!(first(&rest), First::Long(_)), "{why:?}");
        }
    }
}
