//! Messages keep their body and lose everything that an envelope does not say.

use proptest::prelude::*;
use zbus::{Variant, wire::Endian};

use super::*;

fn envelope() -> Envelope<'static> {
    Envelope {
        serial: NonZeroU32::new(77).unwrap(),
        reply_serial: None,
        sender: Some(":1.1"),
        destination: Some("org.example.There"),
        answered: false,
        starts_nothing: false,
    }
}

#[test]
fn a_call_keeps_what_it_says_in_both_byte_orders() {
    for endian in [Endian::Little, Endian::Big] {
        let call = Message::method_call("/a/b", "Do")
            .interface("org.example.I")
            .sender(":9.9")
            .destination("org.example.Here")
            .with_flags(Flags::NO_AUTO_START | Flags::ALLOW_INTERACTIVE_AUTH)
            .endian(endian)
            .build(&("x", 5u64, vec![Variant::from(1u8)]))
            .unwrap();
        let new = rewrap(&call, &envelope()).unwrap();
        let header = new.header();
        assert_eq!(header.primary().serial_num().get(), 77);
        assert_eq!(header.primary().flags(), Flags::NO_AUTO_START);
        assert_eq!(header.path().unwrap().as_str(), "/a/b");
        assert_eq!(header.interface().unwrap().as_str(), "org.example.I");
        assert_eq!(header.member().unwrap().as_str(), "Do");
        assert_eq!(header.sender().unwrap().as_str(), ":1.1");
        assert_eq!(header.destination().unwrap().as_str(), "org.example.There");
        assert_eq!(new.body().signature(), call.body().signature());
        assert_eq!(new.body().data().bytes(), call.body().data().bytes());
        let body = new.body();
        let (text, number, values): (&str, u64, Vec<Variant<'_>>) = body.deserialize().unwrap();
        assert_eq!((text, number, values.len()), ("x", 5, 1));
    }
}

#[test]
fn an_answer_finds_another_question() {
    let call = Message::method_call("/", "Do").build(&()).unwrap();
    let answer = Message::method_return(&call.header()).build(&true).unwrap();
    let serial = NonZeroU32::new(4242);
    let new = rewrap(
        &answer,
        &Envelope {
            reply_serial: serial,
            destination: None,
            ..envelope()
        },
    )
    .unwrap();
    assert_eq!(new.header().reply_serial(), serial);
    assert_eq!(new.header().destination(), None);
    assert!(new.body().deserialize::<bool>().unwrap());
}

#[test]
fn an_invalid_name_in_an_envelope_is_refused() {
    let call = Message::method_call("/", "Do").build(&()).unwrap();
    for name in ["", "no name", "a\0b"] {
        let envelope = Envelope {
            destination: Some(name),
            ..envelope()
        };
        assert!(rewrap(&call, &envelope).is_err(), "{name:?}");
    }
}

#[test]
fn what_a_library_tells_its_own_program_nobody_sends() {
    for (path, interface) in [(LOCAL_PATH, "org.example.I"), ("/", LOCAL)] {
        let lie = Message::signal(path, interface, "Disconnected")
            .build(&())
            .unwrap();
        assert!(rewrap(&lie, &envelope()).is_err(), "{path} {interface}");
    }
}

#[test]
fn a_message_is_as_long_as_one_may_be() {
    let of = |length: usize| {
        let call = Message::method_call("/", "Do").build(&"x".repeat(length));
        rewrap(&call.unwrap(), &envelope())
    };
    let fits = of(MOST_BYTES - 256).unwrap();
    assert!(fits.data().len() <= MOST_BYTES);
    // The body alone would fit.
    assert!(of(MOST_BYTES - 16).is_err());
    assert!(of(MOST_BYTES).is_err());
}

#[test]
fn a_field_that_stands_there_twice_is_refused() {
    let call = Message::method_call("/", "Do")
        .interface("org.example.Good")
        .build(&())
        .unwrap();
    let mut bytes = call.data().bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend_from_slice(&[2, 1, b's', 0, 15, 0, 0, 0]);
    bytes.extend_from_slice(b"org.example.Bad\0");
    let length = u32::try_from(bytes.len() - HEAD).unwrap();
    bytes[FIELDS_LENGTH..HEAD].copy_from_slice(&length.to_le_bytes());
    // Whichever of the two a reader takes, nobody after us may take the other.
    let refused = parse(bytes).and_then(|twice| rewrap(&twice, &envelope()));
    assert!(refused.is_err());
}

proptest! {
    #[test]
    fn whatever_comes_is_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = parse(bytes) {
            let _ = rewrap(&message, &envelope());
        }
    }

    #[test]
    fn a_damaged_message_never_says_more_than_it_did(
        at in 0usize..200, value in any::<u8>(), text in ".{0,40}"
    ) {
        let call = Message::method_call("/a", "Do")
            .interface("org.example.I")
            .build(&(text.as_str(), 1u32))
            .unwrap();
        let mut bytes = call.data().bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = value;
        if let Ok(message) = parse(bytes)
            && let Ok(new) = rewrap(&message, &envelope())
        {
            let (old, new_header) = (message.header(), new.header());
            prop_assert_eq!(old.path(), new_header.path());
            prop_assert_eq!(old.interface(), new_header.interface());
            prop_assert_eq!(old.member(), new_header.member());
            let (old_body, new_body) = (message.body(), new.body());
            prop_assert_eq!(old_body.signature(), new_body.signature());
            prop_assert_eq!(new_header.sender().unwrap().as_str(), ":1.1");
        }
    }
}
