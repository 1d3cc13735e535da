//! Random bytes in random pieces through random pipes, and random ends: whatever happens, what
//! arrives is a prefix of what was written, all of it after an orderly end, and nothing hangs.

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};
use proptest::{collection::vec, prelude::*};

use super::Rig;
use crate::{ports::Duplex as _, relay::RelayEnd, testing::FakeStream};

/// Lets others run now and then.
async fn breathe(seed: &mut u32) {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    if *seed >> 31 == 1 {
        future::yield_now().await;
    }
}

async fn write_in_pieces(stream: &mut FakeStream, bytes: &[u8], pieces: &[usize], mut seed: u32) {
    let mut rest = bytes;
    for piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*piece).min(rest.len()));
        stream.write_all(now).await.unwrap();
        breathe(&mut seed).await;
        rest = later;
    }
    stream.close().await.unwrap();
}

async fn read_in_pieces(stream: &mut FakeStream, pieces: &[usize], mut seed: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces.iter().cycle() {
        let mut buffer = vec![0; *piece];
        let count = stream.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&buffer[..count]);
        breathe(&mut seed).await;
    }
    bytes
}

/// One side of the conversation: reads and writes at the same time over one stream.
async fn converse(stream: FakeStream, bytes: &[u8], pieces: &[usize], seed: u32) -> Vec<u8> {
    let (mut reader, mut writer) = futures_lite::io::split(stream);
    let write = async {
        let mut seed = seed;
        let mut rest = bytes;
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            writer.write_all(now).await.unwrap();
            breathe(&mut seed).await;
            rest = later;
        }
        writer.close().await.unwrap();
    };
    let read = async {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).await.unwrap();
        bytes
    };
    future::zip(write, read).await.1
}

/// What somebody does to a side, in the middle of things.
#[derive(Clone, Copy, Debug)]
enum Act {
    ApplicationWrites(u8),
    ContactWrites(u8),
    ApplicationReads(u8),
    ContactReads(u8),
    ApplicationCloses,
    ContactCloses,
    ApplicationResets,
    ContactResets,
    CarrierBreaks,
    Stops,
    Settles,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => any::<u8>().prop_map(Act::ApplicationWrites),
        6 => any::<u8>().prop_map(Act::ContactWrites),
        6 => any::<u8>().prop_map(Act::ApplicationReads),
        6 => any::<u8>().prop_map(Act::ContactReads),
        4 => Just(Act::Settles),
        1 => Just(Act::ApplicationCloses),
        1 => Just(Act::ContactCloses),
        1 => Just(Act::ApplicationResets),
        1 => Just(Act::ContactResets),
        1 => Just(Act::CarrierBreaks),
        1 => Just(Act::Stops),
    ]
}

/// Bytes that tell their own place: the `index`-th byte of every conversation.
fn byte(index: usize) -> u8 {
    (index * 31 + index / 256) as u8
}

/// One end as the test sees it.
struct Person {
    stream: FakeStream,
    written: usize,
    read: usize,
}

impl Person {
    fn write(&mut self, count: u8) {
        let bytes: Vec<u8> = (0..usize::from(count))
            .map(|i| byte(self.written + i))
            .collect();
        if let Some(Ok(count)) = future::block_on(future::poll_once(self.stream.write(&bytes))) {
            self.written += count;
        }
    }

    fn read(&mut self, count: usize) {
        let mut buffer = vec![0; count];
        if let Some(Ok(count)) = future::block_on(future::poll_once(self.stream.read(&mut buffer)))
        {
            for (i, found) in buffer[..count].iter().enumerate() {
                assert_eq!(*found, byte(self.read + i), "bytes out of order");
            }
            self.read += count;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn all_bytes_arrive_in_order_both_ways(
        to_contact in vec(any::<u8>(), 0..40_000),
        to_application in vec(any::<u8>(), 0..40_000),
        pieces in vec(1usize..5000, 1..20),
        capacity in 1usize..30_000,
        seed in any::<u32>(),
    ) {
        let rig = Rig::new(capacity);
        let meters = rig.meters.clone();
        let (application, contact) = (rig.application, rig.contact);
        let (answer, question) = rig.sim.run(future::zip(
            converse(application, &to_contact, &pieces, seed),
            converse(contact, &to_application, &pieces, !seed),
        ));
        prop_assert_eq!(rig.sim.run(rig.relay).unwrap(), RelayEnd::Finished);
        prop_assert!(question == to_contact && answer == to_application);
        prop_assert_eq!(meters.sent(), to_contact.len() as u64);
        prop_assert_eq!(meters.received(), to_application.len() as u64);
        prop_assert_eq!(rig.counter.open(), 0);
    }

    #[test]
    fn one_after_the_other_works_as_well(
        question in vec(any::<u8>(), 1..20_000),
        answer in vec(any::<u8>(), 0..20_000),
        pieces in vec(1usize..3000, 1..10),
        capacity in 1usize..10_000,
        seed in any::<u32>(),
    ) {
        let mut rig = Rig::new(capacity);
        let (application, contact) = (&mut rig.application, &mut rig.contact);
        let ((), heard) = rig.sim.run(future::zip(
            write_in_pieces(application, &question, &pieces, seed),
            read_in_pieces(contact, &pieces, !seed),
        ));
        prop_assert!(heard == question);
        let ((), heard) = rig.sim.run(future::zip(
            write_in_pieces(contact, &answer, &pieces, seed),
            read_in_pieces(application, &pieces, !seed),
        ));
        prop_assert!(heard == answer);
        prop_assert_eq!(rig.end().0, RelayEnd::Finished);
    }

    #[test]
    fn whatever_people_do_it_ends_when_they_have_gone(
        acts in vec(act(), 0..60),
        capacity in 1usize..300,
    ) {
        let rig = Rig::new(capacity);
        let person = |stream| Person { stream, written: 0, read: 0 };
        let mut application = person(rig.application);
        let mut contact = person(rig.contact);
        let mut violence = false;
        for act in acts {
            violence |= matches!(
                act,
                Act::ApplicationResets | Act::ContactResets | Act::CarrierBreaks | Act::Stops
            );
            match act {
                Act::ApplicationWrites(count) => application.write(count),
                Act::ContactWrites(count) => contact.write(count),
                Act::ApplicationReads(count) => application.read(count.into()),
                Act::ContactReads(count) => contact.read(count.into()),
                Act::ApplicationCloses => drop(future::block_on(application.stream.close())),
                Act::ContactCloses => drop(future::block_on(contact.stream.close())),
                Act::ApplicationResets => application.stream.reset(),
                Act::ContactResets => contact.stream.reset(),
                Act::CarrierBreaks => contact.stream.wire().lose(),
                Act::Stops => rig.stopper.stop(),
                Act::Settles => rig.sim.settle(),
            }
            prop_assert!(contact.read <= application.written);
            prop_assert!(application.read <= contact.written);
        }
        // Everybody closes and reads to the end.
        drop(future::block_on(application.stream.close()));
        drop(future::block_on(contact.stream.close()));
        for _ in 0..20_000 {
            if rig.relay.is_finished() {
                break;
            }
            rig.sim.settle();
            application.read(1000);
            contact.read(1000);
        }
        prop_assert!(rig.relay.is_finished(), "it hangs");
        let end = rig.sim.run(rig.relay).unwrap();
        application.read(100_000);
        contact.read(100_000);
        if end != RelayEnd::Finished {
            prop_assert!(violence, "{:?} without a reason", end);
        } else if !violence {
            prop_assert_eq!(contact.read, application.written);
            prop_assert_eq!(application.read, contact.written);
        }
        prop_assert_eq!(rig.counter.open(), 2);
    }
}
