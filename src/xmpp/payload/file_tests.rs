//! Offers of files and their answers as Gabble, Pidgin and we write them.

use actors::model::{BytestreamId, MAX_DESCRIPTION, MAX_FILE_NAME};
use proptest::prelude::*;

use super::*;
use crate::xmpp::{payload::si, write, xml::parse_element};

const PROFILE: &str = "http://jabber.org/protocol/si/profile/file-transfer";

fn elements(text: &str) -> Vec<Element> {
    let text = format!("<si xmlns='http://jabber.org/protocol/si'>{text}</si>");
    let si = parse_element(&text).unwrap();
    si.children().cloned().collect()
}

fn parse(text: &str) -> Result<Offer, Malformed> {
    Offer::parse(
        None,
        &elements(&text.replace("=P", &format!("='{PROFILE}'"))),
    )
}

fn over_the_wire(written: &[Element]) -> Vec<Element> {
    let text: Vec<u8> = written.iter().flat_map(write::element).collect();
    elements(&String::from_utf8(text).unwrap())
}

/// As a Gabble wrote it.
const GABBLE: &str = "<si id='1795414786-2296841949' \
    profile='http://jabber.org/protocol/si/profile/file-transfer' xmlns='http://jabber.org/protocol/si'>\
    <feature xmlns='http://jabber.org/protocol/feature-neg'><x type='form' xmlns='jabber:x:data'>\
    <field var='stream-method' type='list-single'>\
    <option><value>http://jabber.org/protocol/bytestreams</value></option>\
    <option><value>http://jabber.org/protocol/ibb</value></option></field></x></feature>\
    <si-multiple xmlns='http://telepathy.freedesktop.org/xmpp/si-multiple'/>\
    <file name='big file.bin' size='1000000' mime-type='application/octet-stream' \
    date='2023-11-14T22:13:20Z' xmlns='http://jabber.org/protocol/si/profile/file-transfer'>\
    <desc>e2e</desc><range/></file></si>";

#[test]
fn an_offer_as_gabble_writes_it_is_read_and_written() {
    let si = si::Offer::parse(&parse_element(GABBLE).unwrap()).unwrap();
    assert_eq!(si.profile, ns::SI_FILE_TRANSFER);
    let offer = Offer::parse(si.mime_type.as_deref(), &si.extra).unwrap();
    let mut file = FileOffer::new("big file.bin", Some(1_000_000));
    file.description = "e2e".into();
    file.date = Some(1_700_000_000);
    assert_eq!(
        offer,
        Offer {
            file,
            ranges: true,
            ours: false
        }
    );
    assert_eq!(offer.to_elements(), si.extra);
}

#[test]
fn what_applications_say_is_in_gabbles_forms() {
    let offer = parse(
        "<file xmlns=P name='a' size='3' hash='900150983CD24FB0D6963F7D28E17F72'>\
         <x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'>\
         <value>http://telepathy.freedesktop.org/xmpp/file-transfer-service</value></field>\
         <field var='ServiceName'><value>org.example.Album</value></field></x>\
         <x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'>\
         <value>http://telepathy.freedesktop.org/xmpp/file-transfer-metadata</value></field>\
         <field var='track'><value>1</value><value>2</value></field><field var='none'/></x></file>",
    )
    .unwrap();
    assert_eq!(offer.file.service, "org.example.Album");
    assert_eq!(offer.file.metadata["track"], ["1", "2"]);
    assert_eq!(offer.file.metadata["none"], Vec::<String>::new());
    assert_eq!(offer.file.metadata.len(), 2);
    let hash = offer.file.hash.clone().unwrap();
    assert_eq!(hash.kind(), HashKind::Md5);
    assert_eq!(hash.digits(), "900150983cd24fb0d6963f7d28e17f72");
    assert!(!offer.ranges);
    let again = over_the_wire(&offer.to_elements());
    assert_eq!(
        Offer::parse(Some(&offer.file.content_type), &again),
        Ok(offer)
    );
}

#[test]
fn an_offer_as_pidgins_bonjour_writes_it_is_read() {
    let text = "<si xmlns='http://jabber.org/protocol/si' \
        profile='http://jabber.org/protocol/si/profile/file-transfer' id='0'>\
        <file xmlns='http://jabber.org/protocol/si/profile/file-transfer' name='x.txt' size='12'/>\
        <feature xmlns='http://jabber.org/protocol/feature-neg'><x xmlns='jabber:x:data' type='form'>\
        <field var='stream-method' type='list-single'><option>\
        <value>http://jabber.org/protocol/bytestreams</value></option></field></x></feature></si>";
    let si = si::Offer::parse(&parse_element(text).unwrap()).unwrap();
    assert_eq!((si.id.as_str(), si.multiple), ("0", false));
    let offer = Offer::parse(None, &si.extra).unwrap();
    assert_eq!(offer.file, FileOffer::new("x.txt", Some(12)));
    assert!(!offer.ranges && !offer.ours);
    // And its answer, which holds nothing but the method.
    let all = Agreement::parse(&[]).unwrap();
    assert_eq!(
        (all.from, all.length, all.ours),
        (Resume::default(), None, false)
    );
}

#[test]
fn the_content_type_is_read_where_either_writes_it() {
    let inner = elements(&format!(
        "<file xmlns='{PROFILE}' name='a' size='1' mime-type='text/plain'/>"
    ));
    let kind = |outer| Offer::parse(outer, &inner).unwrap().file.content_type;
    assert_eq!(kind(None), "text/plain");
    assert_eq!(kind(Some("image/png")), "image/png");
}

#[test]
fn dates_are_read_with_their_zones_and_others_are_passed_over() {
    for (text, seconds) in [
        ("2023-11-14T22:13:20Z", Some(1_700_000_000)),
        ("2023-11-14T22:13:20.5Z", Some(1_700_000_000)),
        ("2023-11-15T00:13:20+02:00", Some(1_700_000_000)),
        ("1969-12-31T23:59:59Z", Some(-1)),
        ("20231114T22:13:20", None),
        ("yesterday", None),
        ("", None),
    ] {
        let offer = parse(&format!("<file xmlns=P name='a' size='1' date='{text}'/>")).unwrap();
        assert_eq!(offer.file.date, seconds, "{text}");
    }
    assert_eq!(written_date(i64::MAX), None);
    assert_eq!(written_date(0).as_deref(), Some("1970-01-01T00:00:00Z"));
}

#[test]
fn sizes_that_no_file_has_and_long_words_are_malformed() {
    let long = |most: usize| "x".repeat(most + 1);
    let most = MAX_SIZE.to_string();
    assert!(parse(&format!("<file xmlns=P name='a' size='{most}'/>")).is_ok());
    for text in [
        "<file xmlns=P name='a'/>",
        "<file xmlns=P size='1'/>",
        "<file xmlns=P name='' size='1'/>",
        "<file xmlns=P name='a' size=''/>",
        "<file xmlns=P name='a' size='+1'/>",
        "<file xmlns=P name='a' size='-1'/>",
        "<file xmlns=P name='a' size='1e3'/>",
        "<file xmlns=P name='a' size='9223372036854775808'/>",
        "<file xmlns=P name='a' size='18446744073709551615'/>",
        "<file xmlns=P name='a' size='99999999999999999999999999'/>",
        "<file xmlns=P name='a' size='1'/><file xmlns=P name='b' size='1'/>",
        "<file xmlns='other' name='a' size='1'/>",
        "",
        &format!("<file xmlns=P name='{}' size='1'/>", long(MAX_FILE_NAME)),
        &format!(
            "<file xmlns=P name='a' size='1' mime-type='{}'/>",
            long(255)
        ),
        &format!(
            "<file xmlns=P name='a' size='1'><desc>{}</desc></file>",
            long(MAX_DESCRIPTION)
        ),
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn our_element_carries_what_the_profile_cannot() {
    let id = BytestreamId([0xab; 16]);
    let mut file = FileOffer::new("a", None);
    file.id = Some(id);
    file.collection = "holiday".into();
    file.hash = ContentHash::new(HashKind::Sha256, &"0f".repeat(32)).ok();
    let offer = Offer {
        file,
        ranges: true,
        ours: true,
    };
    let written = over_the_wire(&offer.to_elements());
    assert_eq!(written[0].attr("size"), None);
    assert_eq!(Offer::parse(None, &written), Ok(offer));
    for bad in ["id='12'", "id=''"] {
        let text = format!(
            "<file xmlns=P name='a' size='1'/><transfer xmlns='urn:x-pneuma:secured:1' {bad}/>"
        );
        assert!(parse(&text).is_err(), "{bad}");
    }
    // A hash of a kind that is not known is none.
    let text = "<file xmlns=P name='a'/><transfer xmlns='urn:x-pneuma:secured:1' \
                hash-type='blake3' hash='00'/>";
    assert_eq!(parse(text).unwrap().file.hash, None);
    let twice = "<file xmlns=P name='a'/><transfer xmlns='urn:x-pneuma:secured:1'/>\
                 <transfer xmlns='urn:x-pneuma:secured:1'/>";
    assert!(parse(twice).is_err());
}

#[test]
fn an_answer_says_where_to_begin_once() {
    let read =
        |text: &str| Agreement::parse(&elements(&text.replace("=P", &format!("='{PROFILE}'"))));
    let gabble = read("<file xmlns=P/>").unwrap();
    assert_eq!(gabble.from.offset, 0);
    let range = read("<file xmlns=P><range offset='5' length='7'/></file>").unwrap();
    assert_eq!((range.from.offset, range.length), (5, Some(7)));
    let stored = "ab".repeat(32);
    for bad in [
        "<file xmlns=P><range offset='-5'/></file>".to_owned(),
        "<file xmlns=P><range offset='9223372036854775808'/></file>".to_owned(),
        "<file xmlns=P><range length='x'/></file>".to_owned(),
        "<file xmlns=P/><file xmlns=P/>".to_owned(),
        "<file xmlns=P/><transfer xmlns='urn:x-pneuma:secured:1' offset='5'/>".to_owned(),
        "<file xmlns=P><range offset='5'/></file><transfer xmlns='urn:x-pneuma:secured:1'/>"
            .to_owned(),
        format!("<transfer xmlns='urn:x-pneuma:secured:1' offset='0' stored='{stored}00'/>"),
        "<transfer xmlns='urn:x-pneuma:secured:1' offset='0' stored='nothing'/>".to_owned(),
    ] {
        assert!(read(&bad).is_err(), "{bad}");
    }
    let agreement = Agreement {
        from: Resume {
            offset: MAX_SIZE,
            stored: Some(Sha256Digest([0xab; 32])),
        },
        length: None,
        ours: true,
    };
    let written = over_the_wire(&agreement.to_elements());
    assert_eq!(written[1].attr("stored"), Some(&stored[..]));
    assert_eq!(Agreement::parse(&written), Ok(agreement));
}

#[test]
fn an_offer_is_taken_back_by_its_id() {
    assert_eq!(parse_cancel(&cancel("s1")), Ok("s1"));
    assert!(parse_cancel(&crate::xmpp::payload::tube::close(1)).is_err());
}

fn word() -> impl Strategy<Value = String> {
    "[^\\p{Cc}\u{fffe}\u{ffff}]{1,40}"
}

fn offer() -> impl Strategy<Value = Offer> {
    let hash = prop_oneof![
        Just(None),
        (
            prop::sample::select(HashKind::ALL.to_vec()),
            any::<[u8; 32]>()
        )
            .prop_map(|(kind, bytes)| {
                let digits = Sha256Digest(bytes).to_string();
                ContentHash::new(kind, &digits[..kind.digits()]).ok()
            }),
    ];
    let texts = (word(), word(), word(), word(), word());
    let metadata = prop::collection::btree_map(word(), prop::collection::vec(word(), 0..4), 0..6);
    (
        texts,
        prop::option::of(0..=MAX_SIZE),
        hash,
        prop::option::of(-62_000_000_000_i64..=253_000_000_000),
        metadata,
        any::<[u8; 16]>(),
        any::<(bool, bool)>(),
    )
        .prop_map(|(texts, size, hash, date, metadata, id, (ranges, ours))| {
            let (name, content_type, description, collection, service) = texts;
            let mut file = FileOffer {
                name,
                content_type,
                size,
                hash,
                description,
                date,
                collection,
                service,
                metadata,
                id: Some(BytestreamId(id)),
            };
            if !ours {
                file.size = size.or(Some(0));
                file.hash = file.hash.filter(|hash| hash.kind() == HashKind::Md5);
                file.id = None;
                file.collection.clear();
            }
            Offer { file, ranges, ours }
        })
}

proptest! {
    #[test]
    fn an_offer_survives_the_wire(offer in offer()) {
        let written = over_the_wire(&offer.to_elements());
        prop_assert_eq!(Offer::parse(None, &written), Ok(offer));
    }

    #[test]
    fn an_answer_survives_the_wire(
        offset in 0..=MAX_SIZE,
        length in prop::option::of(0..=MAX_SIZE),
        stored in prop::option::of(any::<[u8; 32]>()),
        ours: bool,
    ) {
        let stored = stored.filter(|_| ours).map(Sha256Digest);
        let agreement = Agreement { from: Resume { offset, stored }, length, ours };
        let written = over_the_wire(&agreement.to_elements());
        prop_assert_eq!(Agreement::parse(&written), Ok(agreement));
    }
}
