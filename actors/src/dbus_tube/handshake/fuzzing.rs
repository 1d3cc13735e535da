//! The fuzzing target of an application's greeting. See `pneuma::fuzzing`.

use super::{Admittance, Guid, Handshake, MAX_LINE, MAX_LINES, Refused};
use crate::dbus_tube::splitter::fuzzing::pieces;

const GUID: Guid = Guid([0x5a; 16]);
const OK: &str = "OK 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
const USER: u32 = 1000;

/// How a greeting ended: whether it is done or why not, how many bytes it took, what was answered.
type Outcome = (Result<bool, Refused>, usize, Vec<u8>);

fn greet(mut handshake: Handshake, pieces: &[&[u8]]) -> Outcome {
    let (mut answer, mut at) = (Vec::new(), 0);
    for piece in pieces {
        let done = handshake.is_done();
        match handshake.feed(piece, &mut answer) {
            Ok(taken) => {
                at += taken;
                assert!(taken == piece.len() || handshake.is_done());
                assert!(!done || taken == 0, "it swallows what follows");
            }
            Err(why) => {
                // For good, and without another word.
                let said = answer.clone();
                for more in [&b"\0"[..], b"AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"] {
                    assert_eq!(handshake.feed(more, &mut answer), Err(why));
                }
                assert!(!handshake.is_done() && answer == said);
                return (Err(why), 0, answer);
            }
        }
        assert!(handshake.line.len() <= MAX_LINE + 1);
        assert!(handshake.lines <= MAX_LINES);
    }
    (Ok(handshake.is_done()), at, answer)
}

/// Where the greeting ends by a second reading of the specification, which knows of no states: the last
/// thing that was said about who it is counts.
fn let_in(mut input: &[u8], admittance: Admittance, zero_is_taken: bool) -> Option<usize> {
    let all = input.len();
    if !zero_is_taken {
        input = input.strip_prefix(b"\0")?;
    }
    let claims = |claim: &[u8]| {
        let of = admittance.user.map(|user| {
            let digits = user.to_string();
            let hexadecimal: Vec<u8> = digits.bytes().flat_map(|digit| [b'3', digit]).collect();
            hexadecimal
        });
        of.is_some_and(|of| claim.is_empty() || claim == of)
    };
    // Known; asked for who it is.
    let (mut known, mut asked) = (false, false);
    for _ in 0..MAX_LINES {
        let end = input.windows(2).position(|two| two == b"\r\n")?;
        let line = &input[..end];
        input = &input[end + 2..];
        if end > MAX_LINE {
            return None;
        }
        if std::str::from_utf8(line).is_err() {
            continue;
        }
        let (command, rest) = match line.iter().position(|byte| *byte == b' ') {
            Some(place) => (&line[..place], &line[place + 1..]),
            None => (line, &b""[..]),
        };
        match command {
            b"BEGIN" => return known.then_some(all - input.len()),
            b"AUTH" if !known && !asked => {
                asked = rest == b"EXTERNAL";
                known = rest.strip_prefix(b"EXTERNAL ").is_some_and(claims)
                    || admittance.anonymous
                        && (rest == b"ANONYMOUS" || rest.starts_with(b"ANONYMOUS "));
            }
            b"DATA" if asked => (known, asked) = (claims(rest), false),
            b"CANCEL" | b"ERROR" => (known, asked) = (false, false),
            _ => {}
        }
    }
    None
}

/// One input: in the first byte who it is and what is asked of it, then what it writes.
pub fn dbus_handshake(data: &[u8]) {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let admittance = Admittance {
        user: (how & 1 == 0).then_some(USER),
        anonymous: how & 2 != 0,
    };
    let zero_is_taken = how & 4 != 0;
    let begin = || Handshake::new(GUID, admittance, zero_is_taken);
    let [whole, others @ ..] = pieces(data);
    let (end, taken, answer) = greet(begin(), &whole);
    for pieces in others {
        assert_eq!(greet(begin(), &pieces), (end, taken, answer.clone()));
    }
    let wanted = let_in(data, admittance, zero_is_taken);
    assert_eq!(wanted, (end == Ok(true)).then_some(taken));
    // Of all that there is to say; descriptors are not agreed to.
    let answer = String::from_utf8(answer).expect("text");
    let mut known = false;
    for line in answer.split_terminator("\r\n") {
        known = match line {
            OK => true,
            "DATA" => false,
            "REJECTED EXTERNAL" if !admittance.anonymous => false,
            "REJECTED EXTERNAL ANONYMOUS" if admittance.anonymous => false,
            "ERROR" => known,
            other => panic!("{other:?} is answered"),
        };
    }
    assert!(answer.lines().count() <= MAX_LINES);
    assert!(end != Ok(true) || known, "who was not told OK is let in");
}
