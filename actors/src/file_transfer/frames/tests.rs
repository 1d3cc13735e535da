//! The codec byte for byte, its refusals, and that pieces make no difference to either.

use proptest::prelude::*;

use super::*;

const DIGEST: Sha256Digest = Sha256Digest([7; 32]);

/// A frame that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Begin(u64),
    Bytes(Vec<u8>),
    End(Sha256Digest),
    Abort(AbortReason),
}

fn write(frames: &[Owned]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        match frame {
            Owned::Begin(offset) => out.extend(header(*offset)),
            Owned::Bytes(bytes) => {
                out.extend(chunk_length(bytes.len()));
                out.extend(bytes);
            }
            Owned::End(digest) => out.extend(end(*digest)),
            Owned::Abort(why) => out.extend(abort(*why)),
        }
    }
    out
}

/// Reads in pieces of these sizes, the last of which goes on. Bytes that follow each other are joined.
fn read(mut all: &[u8], sizes: &[usize]) -> (Vec<Owned>, Option<Malformed>) {
    let mut reader = FrameReader::default();
    let mut frames = Vec::new();
    let mut sizes = sizes.iter().copied();
    while !all.is_empty() {
        let size = sizes.next().unwrap_or(all.len()).clamp(1, all.len());
        let (mut piece, rest) = all.split_at(size);
        all = rest;
        loop {
            match reader.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(Frame::Begin { offset })) => frames.push(Owned::Begin(offset)),
                Ok(Some(Frame::Bytes(bytes))) => {
                    assert!(!bytes.is_empty() && bytes.len() <= MOST_CHUNK);
                    match frames.last_mut() {
                        Some(Owned::Bytes(before)) => before.extend(bytes),
                        _ => frames.push(Owned::Bytes(bytes.to_vec())),
                    }
                }
                Ok(Some(Frame::End(digest))) => frames.push(Owned::End(digest)),
                Ok(Some(Frame::Abort(why))) => frames.push(Owned::Abort(why)),
                Err(what) => return (frames, Some(what)),
            }
        }
        assert!(piece.is_empty(), "everything is taken");
    }
    (frames, None)
}

/// The same for words.
fn hear(mut all: &[u8], sizes: &[usize]) -> (Vec<Word>, Option<Malformed>) {
    let mut reader = WordReader::default();
    let mut words = Vec::new();
    let mut sizes = sizes.iter().copied();
    while !all.is_empty() {
        let size = sizes.next().unwrap_or(all.len()).clamp(1, all.len());
        let (mut piece, rest) = all.split_at(size);
        all = rest;
        loop {
            match reader.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(word)) => words.push(word),
                Err(what) => return (words, Some(what)),
            }
        }
    }
    (words, None)
}

#[test]
fn a_file_on_the_wire_is_byte_for_byte_what_the_reference_says() {
    let frames = [
        Owned::Begin(0x0102_0304_0506_0708),
        Owned::Bytes(b"abc".to_vec()),
        Owned::End(DIGEST),
    ];
    let mut expected = vec![1, 1, 2, 3, 4, 5, 6, 7, 8];
    expected.extend([0, 0, 0, 3, b'a', b'b', b'c', 0, 0, 0, 0]);
    expected.extend([7; 32]);
    assert_eq!(write(&frames), expected);
    assert_eq!(abort(AbortReason::Stopped), [255, 255, 255, 255, 1]);
    assert_eq!(abort(AbortReason::Failed), [255, 255, 255, 255, 2]);
    let word = |word: Word| {
        let mut out = Vec::new();
        word.write(&mut out);
        assert!(out.len() <= MOST_WORD);
        out
    };
    assert_eq!(word(Word::Stored(258)), [1, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(word(Word::Verified), [2]);
    assert_eq!(word(Word::Mismatch), [3]);
    assert_eq!(word(Word::Abort(AbortReason::Stopped)), [4, 1]);
    assert_eq!(word(Word::Abort(AbortReason::Failed)), [4, 2]);
}

#[test]
fn what_is_not_of_this_protocol_is_said_to_be_wrong() {
    let begin = header(0);
    let after = |bytes: &[u8]| read(&[&begin[..], bytes].concat(), &[]).1;
    assert_eq!(read(&[2], &[]).1, Some(Malformed::Version(2)));
    let most = u32::try_from(MOST_CHUNK).unwrap();
    assert_eq!(after(&most.to_be_bytes()), None);
    assert_eq!(
        after(&(most + 1).to_be_bytes()),
        Some(Malformed::Chunk(most + 1))
    );
    assert_eq!(
        after(&(u32::MAX - 1).to_be_bytes()),
        Some(Malformed::Chunk(u32::MAX - 1))
    );
    assert_eq!(after(&[255, 255, 255, 255, 9]), Some(Malformed::Reason(9)));
    for mut last in [end(DIGEST).to_vec(), abort(AbortReason::Failed).to_vec()] {
        assert_eq!(after(&last), None);
        last.push(0);
        assert_eq!(after(&last), Some(Malformed::AfterTheEnd));
    }
    assert_eq!(hear(&[0], &[]).1, Some(Malformed::Word(0)));
    assert_eq!(hear(&[5], &[]).1, Some(Malformed::Word(5)));
    assert_eq!(hear(&[4, 0], &[]).1, Some(Malformed::Reason(0)));
    for last in [&[2][..], &[3], &[4, 1]] {
        assert_eq!(
            hear(&[last, &[1]].concat(), &[]).1,
            Some(Malformed::AfterTheEnd)
        );
    }
}

fn reason() -> impl Strategy<Value = AbortReason> {
    prop_oneof![Just(AbortReason::Stopped), Just(AbortReason::Failed)]
}

fn whole() -> impl Strategy<Value = Vec<Owned>> {
    let chunk = prop::collection::vec(any::<u8>(), 1..300).prop_map(Owned::Bytes);
    let last = prop_oneof![
        any::<[u8; 32]>().prop_map(|digest| Owned::End(Sha256Digest(digest))),
        reason().prop_map(Owned::Abort),
    ];
    (any::<u64>(), prop::collection::vec(chunk, 0..8), last).prop_map(|(offset, chunks, last)| {
        let mut frames = vec![Owned::Begin(offset)];
        frames.extend(chunks);
        frames.push(last);
        frames
    })
}

/// Bytes that follow each other, joined.
fn joined(frames: Vec<Owned>) -> Vec<Owned> {
    let mut joined: Vec<Owned> = Vec::new();
    for frame in frames {
        match (joined.last_mut(), frame) {
            (Some(Owned::Bytes(before)), Owned::Bytes(bytes)) => before.extend(bytes),
            (_, frame) => joined.push(frame),
        }
    }
    joined
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..40, 0..200)
}

fn words() -> impl Strategy<Value = Vec<Word>> {
    let stored = prop::collection::vec(any::<u64>().prop_map(Word::Stored), 0..6);
    let last = prop_oneof![
        Just(Word::Verified),
        Just(Word::Mismatch),
        reason().prop_map(Word::Abort)
    ];
    (stored, last).prop_map(|(mut words, last)| {
        words.push(last);
        words
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_whatever_pieces_it_comes(frames in whole(), sizes in sizes()) {
        let bytes = write(&frames);
        prop_assert_eq!(read(&bytes, &sizes), (joined(frames), None));
    }

    #[test]
    fn words_are_read_in_whatever_pieces_they_come(words in words(), sizes in sizes()) {
        let mut bytes = Vec::new();
        words.iter().for_each(|word| word.write(&mut bytes));
        prop_assert_eq!(hear(&bytes, &sizes), (words, None));
    }

    #[test]
    fn any_bytes_are_read_or_refused_the_same_in_whatever_pieces(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(1), Just(255)], 0..400),
        sizes in sizes(),
    ) {
        let begun = [&header(3)[..], &bytes].concat();
        for bytes in [&bytes, &begun] {
            prop_assert_eq!(read(bytes, &sizes), read(bytes, &[]));
        }
        prop_assert_eq!(hear(&bytes, &sizes), hear(&bytes, &[]));
    }
}
