//! Messages in pieces, and what is no message.

use proptest::prelude::*;

use super::*;

/// Writes one message, padding as the format wants it.
struct Writer {
    big_endian: bool,
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        });
    }

    fn field(&mut self, code: u8, signature: &str) {
        self.align(8);
        self.bytes.extend([code, signature.len() as u8]);
        self.bytes.extend(signature.as_bytes());
        self.bytes.push(0);
    }

    fn text(&mut self, code: u8, kind: &str, text: &str) {
        self.field(code, kind);
        self.number(text.len() as u32);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }
}

fn message(big_endian: bool, body: &[u8], fields: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer {
        big_endian,
        bytes: vec![if big_endian { b'B' } else { b'l' }, 1, 0, 1],
    };
    writer.number(body.len() as u32);
    writer.number(77);
    writer.number(0);
    fields(&mut writer);
    let length = (writer.bytes.len() - PREFIX) as u32;
    let length = if big_endian {
        length.to_be_bytes()
    } else {
        length.to_le_bytes()
    };
    writer.bytes[12..16].copy_from_slice(&length);
    writer.align(8);
    writer.bytes.extend(body);
    writer.bytes
}

/// A method call as libraries write it.
pub(in crate::dbus_tube) fn call(big_endian: bool, member: &str, body: &[u8]) -> Vec<u8> {
    message(big_endian, body, |fields| {
        fields.text(1, "o", "/org/example/Object");
        fields.field(8, "g");
        fields.bytes.extend([1, b's', 0]);
        fields.text(3, "s", member);
        fields.text(2, "s", "org.example.Interface");
        fields.field(5, "u");
        fields.number(7);
    })
}

/// Feeds it in pieces of this size; the lengths of the messages found.
fn split(bytes: &[u8], piece: usize) -> Result<Vec<usize>, Malformed> {
    let mut splitter = Splitter::default();
    let (mut lengths, mut current) = (Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = splitter.feed(rest)?;
            assert!(taken > 0, "it stands still");
            rest = &rest[taken..];
            current += taken;
            if splitter.is_between() {
                lengths.push(std::mem::take(&mut current));
            }
        }
    }
    assert_eq!(current == 0, splitter.is_between());
    Ok(lengths)
}

#[test]
fn messages_are_found_however_they_come() {
    let messages = [
        call(false, "Ping", b""),
        call(true, "Frobnicate", &[7; 1001]),
        message(false, b"x", |_| {}),
        call(false, "X", &[0; 8]),
    ];
    let lengths: Vec<_> = messages.iter().map(Vec::len).collect();
    let all = messages.concat();
    for piece in [1, 2, 3, 7, 16, 100, all.len()] {
        assert_eq!(split(&all, piece), Ok(lengths.clone()), "by {piece}");
    }
}

#[test]
fn unknown_fields_are_passed_over() {
    for big_endian in [false, true] {
        let odd = message(big_endian, b"body", |fields| {
            fields.field(200, "y");
            fields.bytes.push(9);
            fields.field(201, "t");
            fields.align(8);
            fields.bytes.extend([9; 8]);
            fields.field(202, "n");
            fields.align(2);
            fields.bytes.extend([9; 2]);
            fields.field(203, "ax");
            fields.number(16);
            fields.align(8);
            fields.bytes.extend([9; 16]);
            fields.field(204, "ay");
            fields.number(0);
            fields.text(3, "s", "");
        });
        assert_eq!(split(&odd, 1), Ok(vec![odd.len()]));
    }
}

/// Fields of types that no field has today.
fn odd_fields(fields: &mut Writer) {
    // An array is as long as it says, whatever is in it.
    for signature in ["a{sv}", "a(ia(yv))", "aaas"] {
        fields.field(205, signature);
        fields.number(13);
        fields.align(if signature == "aaas" { 4 } else { 8 });
        fields.bytes.extend([9; 13]);
    }
    fields.field(206, "a{sv}");
    fields.number(0);
    // A structure in a structure; an array of none is padded all the same.
    fields.field(207, "(y(na(tt)s)gd)");
    fields.align(8);
    fields.bytes.push(9);
    fields.align(8);
    fields.bytes.extend([9; 2]);
    fields.number(0);
    fields.align(8);
    fields.number(3);
    fields.bytes.extend(b"abc\0");
    fields.bytes.extend(b"\x02ss\0");
    fields.align(8);
    fields.bytes.extend([9; 8]);
    // A variant in a structure in a variant.
    fields.field(208, "v");
    fields.bytes.extend(b"\x05(vix)\0");
    fields.align(8);
    fields.bytes.extend(b"\x01v\0\x01s\0");
    fields.number(2);
    fields.bytes.extend(b"ab\0");
    fields.number(9);
    fields.align(8);
    fields.bytes.extend([9; 8]);
}

#[test]
fn a_field_may_be_of_any_type_and_the_next_is_found_behind_it() {
    for big_endian in [false, true] {
        let odd = message(big_endian, b"body", odd_fields);
        for piece in [1, 3, 8, odd.len()] {
            assert_eq!(split(&odd, piece), Ok(vec![odd.len()]));
        }
        let smuggling = message(big_endian, b"body", |fields| {
            odd_fields(fields);
            fields.field(9, "u");
            fields.number(1);
        });
        assert_eq!(split(&smuggling, 1), Err(Malformed::Descriptors));
    }
}

#[test]
fn what_is_no_type_is_in_no_field() {
    let deep = "a".repeat(33) + "y";
    let wide = "(".repeat(33) + "y" + &")".repeat(33);
    for signature in [
        "", "(", "()", "(i", "i)", "(i}", "ii", "a", "a)", "(a)", "{sv}", "a{", "a{}", "h", "ah",
        "r", "z", &deep, &wide,
    ] {
        let strange = message(false, b"", |fields| {
            fields.field(200, signature);
            fields.bytes.extend([0; 64]);
        });
        assert_eq!(split(&strange, 1), Err(Malformed::Fields), "{signature}");
    }
}

#[test]
fn variants_may_bring_variants_but_not_ever_more() {
    let chain = message(false, b"", |fields| {
        fields.field(200, "v");
        for _ in 0..10_000 {
            fields.bytes.extend(b"\x01v\0");
        }
        fields.bytes.extend(b"\x01y\0\x09");
    });
    assert_eq!(split(&chain, 1000), Ok(vec![chain.len()]));
    let many = format!("({})", "v".repeat(253));
    let growing = |generations| {
        message(false, b"", |fields| {
            fields.field(200, &many);
            for _ in 0..generations {
                fields.align(8);
                fields.bytes.push(255);
                fields.bytes.extend(many.as_bytes());
                fields.bytes.push(0);
            }
            fields.bytes.resize(fields.bytes.len() + 64, 0);
        })
    };
    // What is to come has a bound.
    let mut splitter = Splitter::default();
    assert_eq!(splitter.feed(&growing(1000)), Err(Malformed::Fields));
    assert!(splitter.types.len() <= MAX_TYPES);
}

#[test]
fn descriptors_do_not_go_through() {
    let with = |count, big_endian| {
        message(big_endian, b"", |fields| {
            fields.text(3, "s", "TakeIt");
            fields.field(9, "u");
            fields.number(count);
        })
    };
    assert_eq!(split(&with(1, false), 5), Err(Malformed::Descriptors));
    assert_eq!(
        split(&with(0x0100_0000, true), 500),
        Err(Malformed::Descriptors)
    );
    assert_eq!(split(&with(0, true), 500).unwrap().len(), 1);
    let disguised = message(false, b"", |fields| {
        fields.field(9, "t");
        fields.align(8);
        fields.bytes.extend([1; 8]);
    });
    assert_eq!(split(&disguised, 500), Err(Malformed::Fields));
}

#[test]
fn what_is_no_message_is_said_at_once() {
    let good = call(false, "Ping", b"body");
    let with = |place: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[place..place + bytes.len()].copy_from_slice(bytes);
        split(&bad[..PREFIX.min(place + bytes.len())], 1)
    };
    assert_eq!(with(0, b"x"), Err(Malformed::Endianness));
    assert_eq!(with(1, &[0]), Err(Malformed::Type));
    assert_eq!(with(1, &[5]), Err(Malformed::Type));
    assert_eq!(with(3, &[2]), Err(Malformed::Version));
    let prefix = |place: usize, value: u32| {
        let mut bad = good.clone();
        bad[place..place + 4].copy_from_slice(&value.to_le_bytes());
        Splitter::default().feed(&bad[..PREFIX])
    };
    assert_eq!(prefix(8, 0), Err(Malformed::Serial));
    assert_eq!(prefix(12, MAX_FIELDS + 1), Err(Malformed::TooLarge));
    assert_eq!(prefix(4, MAX_MESSAGE), Err(Malformed::TooLarge));
    assert_eq!(prefix(4, u32::MAX), Err(Malformed::TooLarge));
    assert_eq!(prefix(12, MAX_FIELDS), Ok(PREFIX));
}

#[test]
fn the_largest_message_goes_through() {
    let mut largest = message(false, b"", |_| {});
    largest[4..8].copy_from_slice(&(MAX_MESSAGE - PREFIX as u32).to_le_bytes());
    // One byte more is too many, however it is made up.
    for (fields, body) in [
        (0, MAX_MESSAGE - 15),
        (MAX_FIELDS, MAX_MESSAGE - MAX_FIELDS - 15),
    ] {
        let mut larger = largest.clone();
        larger[4..8].copy_from_slice(&body.to_le_bytes());
        larger[12..16].copy_from_slice(&fields.to_le_bytes());
        let mut splitter = Splitter::default();
        assert_eq!(splitter.feed(&larger), Err(Malformed::TooLarge));
        // And stays so.
        assert_eq!(splitter.feed(&largest), Err(Malformed::TooLarge));
    }
    let mut splitter = Splitter::default();
    assert_eq!(splitter.feed(&largest), Ok(PREFIX));
    assert_eq!(splitter.length(), Some(MAX_MESSAGE));
    let piece = vec![1; 1 << 20];
    let mut left = MAX_MESSAGE as usize - PREFIX;
    while left > 0 {
        assert!(!splitter.is_between());
        left -= splitter.feed(&piece[..piece.len().min(left)]).unwrap();
    }
    assert!(splitter.is_between());
}

#[test]
fn fields_that_do_not_fit_are_refused() {
    let shortened = |by: u32| {
        let mut bad = call(false, "Ping", b"");
        let fields = u32::from_le_bytes(bad[12..16].try_into().unwrap()) - by;
        bad[12..16].copy_from_slice(&fields.to_le_bytes());
        split(&bad, 1000)
    };
    // The last is a number.
    for by in 1..8 {
        assert_eq!(shortened(by), Err(Malformed::Fields), "{by}");
    }
    let endless = message(false, b"", |fields| {
        fields.field(3, "s");
        fields.number(u32::MAX);
    });
    assert_eq!(split(&endless, 1), Err(Malformed::Fields));
    let strange = message(false, b"", |fields| fields.field(3, "("));
    assert_eq!(split(&strange, 1), Err(Malformed::Fields));
    let unending = message(false, b"", |fields| {
        fields.field(3, "s");
        fields.bytes.pop();
        fields.bytes.push(7);
    });
    assert_eq!(split(&unending, 1), Err(Malformed::Fields));
}

proptest! {
    #[test]
    fn whatever_comes_is_judged_the_same_in_any_pieces(
        mut bytes in proptest::collection::vec(any::<u8>(), 16..200),
        fields in 0u32..150,
        body in 0u32..50,
        piece in 1usize..40,
    ) {
        bytes[0] = b'l';
        bytes[1] = 1;
        bytes[3] = 1;
        bytes[4..8].copy_from_slice(&body.to_le_bytes());
        bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&fields.to_le_bytes());
        prop_assert_eq!(split(&bytes, piece), split(&bytes, 1000));
    }
}
