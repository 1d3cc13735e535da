//! One end by itself, and two ends joined by queues.

use proptest::prelude::*;

use super::*;

fn state(secured: bool) -> State {
    State::new(4, 3, secured)
}

fn block(next: Option<Next>) -> Vec<u8> {
    match next {
        Some(Next::Block { bytes, .. }) => bytes,
        other => panic!("{other:?}"),
    }
}

const CLOSE: Option<Next> = Some(Next::Close { reset: false });

#[test]
fn a_block_that_is_not_full_waits_for_an_answer_or_a_flush() {
    let mut state = state(true);
    assert_eq!(state.write(b"a"), Ok(1));
    assert_eq!(block(state.next()), b"a");
    state.write(b"bc").unwrap();
    assert!(!state.has_next());
    state.write(b"def").unwrap();
    assert_eq!(block(state.next()), b"bcde");
    assert!(!state.has_next());
    assert_eq!(state.flush(), Ok(false));
    assert_eq!(block(state.next()), b"f");
    assert_eq!(state.flush(), Ok(true));
    // Three are on their way.
    state.write(b"ghij").unwrap();
    assert!(!state.has_next());
    state.answered(Ticket::Block(1), true);
    assert_eq!(block(state.next()), b"ghij");
}

#[test]
fn no_more_bytes_fly_than_the_window_holds() {
    let mut state = State::new(u16::MAX, 100, true);
    assert_eq!(state.write(&vec![0; 2 * OUT]), Ok(OUT));
    assert_eq!(state.write(b"x"), Ok(0));
    let mut flying = 0;
    loop {
        state.write(&vec![0; OUT]).unwrap();
        if !state.has_next() {
            break;
        }
        flying += block(state.next()).len();
    }
    assert_eq!(flying, WINDOW_BYTES / 65535 * 65535);
    assert_eq!(state.out.len(), OUT);
}

#[test]
fn a_reader_that_stalls_leaves_blocks_unanswered_and_then_there_is_no_room() {
    let mut state = State::new(16 * 1024, 1, true);
    let bytes = vec![7; 16 * 1024];
    let mut came = 0;
    for number in 0..4 {
        assert_eq!(state.take(number, &bytes), Ok(Taken::Now));
    }
    for number in 4..16 {
        assert_eq!(state.take(number, &bytes), Ok(Taken::Later));
        came += state.acknowledged();
    }
    assert_eq!(came, 0);
    let mut out = vec![0; 16 * 1024];
    assert_eq!(state.read(&mut out[1..]), Read::Bytes(16 * 1024 - 1));
    assert_eq!(state.acknowledged(), 0);
    assert_eq!(state.read(&mut out[..1]), Read::Bytes(1));
    assert_eq!(state.acknowledged(), 1);
    assert_eq!(state.take(16, &bytes), Ok(Taken::Later));
    assert_eq!(state.take(17, &bytes), Err(Refusal::Room));
    // The end of this bytestream; what came is acknowledged, and read.
    assert_eq!(state.acknowledged(), 12);
    assert_eq!(state.next(), CLOSE);
    assert_eq!(state.read(&mut out), Read::Bytes(16 * 1024));
}

#[test]
fn blocks_are_counted_too() {
    let mut state = State::new(4, 1, true);
    let fill = vec![0; 4];
    let mut number = 0_u16;
    for _ in 0..ROOM / 4 {
        state.take(number, &fill).unwrap();
        number = number.wrapping_add(1);
    }
    for _ in 0..MOST_BLOCKS {
        assert_eq!(state.take(number, b"x"), Ok(Taken::Later));
        number = number.wrapping_add(1);
    }
    assert_eq!(state.take(number, b"x"), Err(Refusal::Room));
}

#[test]
fn what_breaks_the_order_or_the_size_is_the_end() {
    for (number, bytes, refusal) in [
        (1, &b"ab"[..], Refusal::Number),
        (65535, b"ab", Refusal::Number),
        (0, b"abcde", Refusal::Size),
    ] {
        let mut state = state(true);
        assert_eq!(state.take(number, bytes), Err(refusal));
        assert_eq!(
            state.read(&mut [0; 9]),
            Read::Broken(ErrorKind::InvalidData)
        );
        assert_eq!(state.write(b"x"), Err(ErrorKind::InvalidData));
        assert_eq!(state.next(), CLOSE);
        assert_eq!(state.next(), None);
        state.answered(Ticket::Close, true);
        assert!(state.is_over());
    }
    // The same number twice.
    let mut state = state(true);
    state.take(0, b"a").unwrap();
    assert_eq!(state.take(0, b"a"), Err(Refusal::Number));
}

#[test]
fn the_numbers_begin_anew_after_65535() {
    let (mut here, mut there) = (State::new(1, 16, true), State::new(1, 16, true));
    let mut out = [0; 16];
    for count in 0..70_000_u32 {
        let byte = [count.to_le_bytes()[0]];
        assert_eq!(here.write(&byte), Ok(1));
        let Some(Next::Block { seq, bytes }) = here.next() else {
            panic!("nothing is sent");
        };
        assert_eq!(u32::from(seq), count % 65_536);
        assert_eq!(there.take(seq, &bytes), Ok(Taken::Now));
        assert_eq!(there.read(&mut out), Read::Bytes(1));
        assert_eq!(out[0], byte[0]);
        here.answered(Ticket::Block(1), true);
    }
}

#[test]
fn under_tls_the_carrier_stays_open_until_it_is_dropped() {
    let mut state = state(true);
    state.write(b"bye").unwrap();
    state.flush().unwrap();
    block(state.next());
    state.close();
    assert!(!state.has_next());
    assert_eq!(state.take(0, b"more"), Ok(Taken::Now));
    assert_eq!(state.read(&mut [0; 9]), Read::Bytes(4));
    state.drop_carrier(false);
    assert_eq!(state.next(), CLOSE);
}

#[test]
fn in_plaintext_the_first_end_is_the_end_but_what_was_written_arrives() {
    let mut ends = [state(false), state(false)];
    ends[1].write(b"late").unwrap();
    ends[0].close();
    assert_eq!(ends[0].next(), CLOSE);
    assert_eq!(ends[1].closed(false), Closed::Later);
    assert_eq!(ends[1].write(b"x"), Err(ErrorKind::BrokenPipe));
    assert_eq!(ends[1].read(&mut [0; 9]), Read::End);
    let bytes = block(ends[1].next());
    assert!(ends[1].is_over());
    ends[0].take(0, &bytes).unwrap();
    ends[0].answered(Ticket::Close, true);
    assert_eq!(ends[0].read(&mut [0; 9]), Read::Bytes(4));
    assert_eq!(ends[0].read(&mut [0; 9]), Read::End);
}

#[test]
fn both_ends_may_close_at_once() {
    let mut state = state(true);
    state.drop_carrier(false);
    assert_eq!(state.next(), CLOSE);
    assert_eq!(state.closed(false), Closed::Now);
    assert!(!state.is_over());
    state.answered(Ticket::Close, false);
    assert!(state.is_over());
    // Before ours is sent it need not be.
    let mut state = State::new(4, 3, true);
    state.drop_carrier(false);
    assert_eq!(state.closed(false), Closed::Now);
    assert!(state.is_over() && !state.has_next());
}

#[test]
fn what_is_given_up_gives_its_memory_back() {
    let ends: [fn(&mut State); 4] = [
        |state| state.drop_carrier(false),
        |state| state.lost(),
        |state| state.fail(ErrorKind::InvalidData),
        |state| assert_eq!(state.closed(false), Closed::Now),
    ];
    for end in ends {
        let mut state = state(true);
        state.write(&[1; OUT]).unwrap();
        state.take(0, b"in").unwrap();
        end(&mut state);
        assert_eq!(state.out.capacity(), 0);
        // What came can be read while there is somebody who reads.
        if state.held {
            assert_eq!(state.read(&mut [0; 9]), Read::Bytes(2));
        } else {
            assert_eq!(state.ring.capacity(), 0);
        }
    }
}

#[test]
fn a_reset_is_told_from_an_end_only_under_tls() {
    for secured in [true, false] {
        let mut here = state(secured);
        here.write(b"lost").unwrap();
        here.drop_carrier(true);
        assert_eq!(here.next(), Some(Next::Close { reset: secured }));
        let mut there = state(secured);
        there.take(0, b"abc").unwrap();
        there.closed(true);
        let read = there.read(&mut [0; 9]);
        if secured {
            assert_eq!(read, Read::Broken(ErrorKind::ConnectionReset));
        } else {
            assert_eq!(read, Read::Bytes(3));
        }
    }
}

#[test]
fn the_end_of_the_xml_stream_is_no_end_of_file() {
    for secured in [true, false] {
        let mut state = state(secured);
        state.take(0, b"abc").unwrap();
        state.write(b"x").unwrap();
        state.lost();
        assert!(state.is_over() && !state.has_next());
        assert_eq!(state.read(&mut [0; 9]), Read::Bytes(3));
        let broken = Read::Broken(ErrorKind::UnexpectedEof);
        assert_eq!(state.read(&mut [0; 9]), broken);
        assert_eq!(state.write(b"x"), Err(ErrorKind::UnexpectedEof));
    }
}

#[test]
fn a_peer_that_knows_nothing_of_it_ends_it() {
    let mut state = state(true);
    state.write(b"abc").unwrap();
    block(state.next());
    state.answered(Ticket::Block(3), false);
    let broken = Read::Broken(ErrorKind::ConnectionAborted);
    assert_eq!(state.read(&mut [0; 9]), broken);
    assert_eq!(state.next(), CLOSE);
}

/// What happens next to the two.
#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize),
    Flush(usize),
    Send(usize),
    Arrive(usize),
    Read(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..2_usize, 1..40_000_usize).prop_map(|(end, count)| Step::Write(end, count)),
        (0..2_usize).prop_map(Step::Flush),
        (0..2_usize).prop_map(Step::Send),
        (0..2_usize).prop_map(Step::Send),
        (0..2_usize).prop_map(Step::Arrive),
        (0..2_usize).prop_map(Step::Arrive),
        (0..2_usize, 1..40_000_usize).prop_map(|(end, count)| Step::Read(end, count)),
    ]
}

/// One end with what is on its way to it.
struct Side {
    state: State,
    towards: VecDeque<Word>,
    unanswered: VecDeque<usize>,
    written: u64,
    read: u64,
}

enum Word {
    Block(u16, Vec<u8>),
    Result(usize),
}

fn answer(sides: &mut [Side; 2], here: usize) {
    for _ in 0..sides[here].state.acknowledged() {
        let size = sides[here].unanswered.pop_front().unwrap();
        sides[1 - here].towards.push_back(Word::Result(size));
    }
}

fn walk(sides: &mut [Side; 2], step: Step) {
    match step {
        Step::Write(here, count) => {
            let side = &mut sides[here];
            let bytes: Vec<u8> = (side.written..)
                .map(|n| (n % 251) as u8)
                .take(count)
                .collect();
            side.written += side.state.write(&bytes).unwrap() as u64;
        }
        Step::Flush(here) => drop(sides[here].state.flush().unwrap()),
        Step::Send(here) => {
            if let Some(Next::Block { seq, bytes }) = sides[here].state.next() {
                sides[1 - here].towards.push_back(Word::Block(seq, bytes));
            }
        }
        Step::Arrive(here) => match sides[here].towards.pop_front() {
            Some(Word::Block(seq, bytes)) => match sides[here].state.take(seq, &bytes) {
                Ok(Taken::Now) => sides[1 - here].towards.push_back(Word::Result(bytes.len())),
                Ok(Taken::Later) => sides[here].unanswered.push_back(bytes.len()),
                Err(refusal) => panic!("{refusal:?}"),
            },
            Some(Word::Result(size)) => sides[here].state.answered(Ticket::Block(size), true),
            None => {}
        },
        Step::Read(here, count) => {
            let mut out = vec![0; count];
            let side = &mut sides[here];
            if let Read::Bytes(count) = side.state.read(&mut out) {
                for byte in &out[..count] {
                    assert_eq!(*byte, (side.read % 251) as u8);
                    side.read += 1;
                }
            }
        }
    }
    answer(sides, 0);
    answer(sides, 1);
    for side in sides {
        assert!(side.state.ring.len() <= ROOM + WINDOW_BYTES);
        assert!(side.state.out.len() <= OUT);
        assert!(side.state.flying <= side.state.window);
        assert_eq!(side.unanswered.len(), side.state.unanswered.len());
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_bytes_arrive_and_nothing_grows(
        steps in prop::collection::vec(step(), 0..400),
        block in 1000..16_384_u16,
        window in 1..16_usize,
    ) {
        let side = || Side {
            state: State::new(block, window, true),
            towards: VecDeque::new(),
            unanswered: VecDeque::new(),
            written: 0,
            read: 0,
        };
        let mut sides = [side(), side()];
        for step in steps {
            walk(&mut sides, step);
        }
        // Everything that was written arrives once both read.
        for _ in 0..2000 {
            for here in 0..2 {
                walk(&mut sides, Step::Flush(here));
                walk(&mut sides, Step::Send(here));
                walk(&mut sides, Step::Arrive(here));
                walk(&mut sides, Step::Read(here, 20_000));
            }
        }
        prop_assert_eq!(sides[0].written, sides[1].read);
        prop_assert_eq!(sides[1].written, sides[0].read);
    }
}
