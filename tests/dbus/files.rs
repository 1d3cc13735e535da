//! File transfers as a client sees them: requests, offers, states, signals and errors.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use actors::{
    model::{Error, FileOffer, Resume, Sha256Digest},
    supervisor::SupervisorConfig,
    testing::{FakeIncomingFile, FakeOffer, FakeStream, StreamCounter, agreed, file_stream},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future::block_on};
use pneuma::session::SessionEvent;
use support::name;
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use crate::{
    fake::{capable, peer, plain, takes_files},
    world::{Account, Map, World, announced, get},
};

const BOB: &str = "bob@there";
const CLAIM: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Claim1";
const OPEN: (u32, u32) = (3, 0);
const COMPLETED: (u32, u32) = (4, 0);
const LOCAL_ERROR: (u32, u32) = (5, 4);

impl Account<'_> {
    /// A request for a file transfer with what must be said.
    pub fn file_request(&self, contact: u32, size: u64) -> HashMap<String, Variant<'static>> {
        let channel = |property: &str| format!("{}.{property}", name::CHANNEL);
        let file = |property: &str| format!("{}.{property}", name::FILE_TRANSFER);
        HashMap::from([
            (channel("ChannelType"), Variant::new(name::FILE_TRANSFER)),
            (channel("TargetHandleType"), Variant::new(1_u32)),
            (channel("TargetHandle"), Variant::new(contact)),
            (file("ContentType"), Variant::new("text/plain")),
            (file("Filename"), Variant::new("notes.txt")),
            (file("Size"), Variant::new(size)),
        ])
    }

    pub fn send_file(&self, request: HashMap<String, Variant<'static>>) -> (String, Map) {
        let answer = self.call(name::REQUESTS, "CreateChannel", &(request,));
        let (path, properties): (OwnedObjectPath, Map) =
            answer.unwrap().body().deserialize().unwrap();
        (path.to_string(), properties)
    }
}

/// Online, with Bob, who takes files.
fn online(world: &World) -> (Account<'_>, u32) {
    let account = world.online(vec![takes_files(BOB)]);
    let bob = account.handle(BOB);
    (account, bob)
}

/// A transfer to Bob of so many bytes.
fn sending<'w>(world: &'w World, size: u64) -> (Account<'w>, String) {
    let (account, bob) = online(world);
    let request = account.file_request(bob, size);
    let (path, _) = account.send_file(request);
    announced(world);
    (account, path)
}

/// One that Bob offers, as Bob has it.
fn offered<'w>(world: &'w World, file: FileOffer) -> (Account<'w>, String, Map, FakeOffer) {
    let (account, _) = online(world);
    let (incoming, offer) = FakeIncomingFile::offered(true);
    account.session.happens(SessionEvent::FileOffered {
        from: peer(BOB),
        file,
        incoming,
    });
    let (path, properties) = announced(world);
    (account, path, properties, offer)
}

fn picture() -> FileOffer {
    FileOffer::new("picture.png", Some(5))
}

/// Asks for an IPv4 socket on which every process of ours is welcome.
fn socket(world: &World, path: &str, method: &str, offset: Option<u64>) -> SocketAddr {
    let (interface, kind, access) = (name::FILE_TRANSFER, 2_u32, 0_u32);
    let nothing = Variant::new(0_u32);
    let answer = match offset {
        Some(offset) => world.call(path, interface, method, &(kind, access, nothing, offset)),
        None => world.call(path, interface, method, &(kind, access, nothing)),
    };
    address(answer.unwrap())
}

fn address(answer: zbus::Message) -> SocketAddr {
    let address: OwnedVariant = answer.body().deserialize().unwrap();
    let (host, port): (String, u16) = address.try_into().unwrap();
    SocketAddr::new(host.parse().unwrap(), port)
}

fn state(world: &World) -> (u32, u32) {
    world.wait("FileTransferStateChanged", |event| {
        event.arguments::<(u32, u32)>()
    })
}

/// The file as the contact gets it, which closes the bytestream then: nothing else says that it has it.
fn all_of(mut far: FakeStream, size: usize) -> Vec<u8> {
    let mut all = vec![0; size];
    block_on(far.read_exact(&mut all)).unwrap();
    block_on(far.close()).unwrap();
    all
}

fn refused<B>(world: &World, path: &str, interface: &str, method: &str, body: &B) -> String
where
    B: serde::Serialize + zbus::DynamicType,
{
    match world.call(path, interface, method, body) {
        Ok(answer) => panic!("{method} was answered {answer:?}"),
        Err(error) => error.short().to_owned(),
    }
}

#[test]
fn a_requested_transfer_has_the_properties_of_the_specification() {
    let world = World::new();
    let (account, bob) = online(&world);
    let mut request = account.file_request(bob, 12);
    let digits = "AB".repeat(16);
    let metadata = HashMap::from([("k", vec!["a", "b"])]);
    let file = |property: &str| format!("{}.{property}", name::FILE_TRANSFER);
    let data = |property: &str| format!("{}.{property}", name::FILE_TRANSFER_METADATA);
    request.extend([
        (file("ContentHashType"), Variant::new(1_u32)),
        (file("ContentHash"), Variant::new(digits.clone())),
        (file("Description"), Variant::new("what I wrote")),
        (file("Date"), Variant::new(1_000_000_000_i64)),
        (file("URI"), Variant::new("file:///home/ada/notes.txt")),
        (file("InitialOffset"), Variant::new(0_u64)),
        (data("ServiceName"), Variant::new("com.example.Notes")),
        (data("Metadata"), Variant::new(metadata)),
        (
            format!("{}.ID", name::TRANSFER),
            Variant::new("0f".repeat(16)),
        ),
    ]);
    let (path, properties) = account.send_file(request);
    assert_eq!(account.session.log().last().unwrap(), "pin bob@there");
    let text = |full: String| properties[&full].downcast_ref::<String>().unwrap();
    assert_eq!(text(file("Filename")), "notes.txt");
    assert_eq!(text(file("ContentType")), "text/plain");
    assert_eq!(text(file("ContentHash")), digits.to_lowercase());
    assert_eq!(text(file("Description")), "what I wrote");
    assert_eq!(text(file("FileCollection")), "");
    assert_eq!(text(file("URI")), "file:///home/ada/notes.txt");
    assert_eq!(text(data("ServiceName")), "com.example.Notes");
    let size = &properties[&file("Size")];
    assert_eq!(size.downcast_ref::<u64>().unwrap(), 12);
    let date = &properties[&file("Date")];
    assert_eq!(date.downcast_ref::<i64>().unwrap(), 1_000_000_000);
    let (announced_path, announced_properties) = announced(&world);
    assert_eq!(announced_path, path);
    assert_eq!(announced_properties, properties);
    // Each of them is also where its interface says.
    for (full, value) in &properties {
        let (interface, property) = full.rsplit_once('.').unwrap();
        let got: OwnedVariant = get(&world, &path, interface, property);
        assert_eq!(got, *value, "{full}");
    }
    let metadata: HashMap<String, Vec<String>> =
        get(&world, &path, name::FILE_TRANSFER_METADATA, "Metadata");
    assert_eq!(metadata["k"], ["a", "b"]);
    assert_eq!(get::<u32>(&world, &path, name::FILE_TRANSFER, "State"), 1);
    let offset: u64 = get(&world, &path, name::FILE_TRANSFER, "InitialOffset");
    assert_eq!(offset, 0);
    let error: (String, String) = get(&world, &path, name::TRANSFER, "Error");
    assert_eq!(error, Default::default());
    let (said, _contact) = account.session.files().remove(0);
    assert_eq!(said.name, "notes.txt");
    assert_eq!(said.id.unwrap().to_string(), "0f".repeat(16));
}

#[test]
fn a_file_goes_to_the_contact() {
    let world = World::new();
    let (account, path) = sending(&world, 5);
    let address = socket(&world, &path, "ProvideFile", None);
    assert_eq!(get::<u32>(&world, &path, name::FILE_TRANSFER, "State"), 1);
    let (near, far) = file_stream(1024, false, &StreamCounter::default());
    let contact = account.session.files().remove(0).1;
    contact
        .send_blocking(Ok(agreed(Resume::default(), near)))
        .unwrap();
    let mut application = TcpStream::connect(address).unwrap();
    application.write_all(b"hello").unwrap();
    // Open until it is over: who has gone again from a TCP socket cannot be told from somebody else.
    assert_eq!(all_of(far, 5), b"hello");
    // InitialOffsetDefined before Open, the bytes before Completed.
    let expected = [
        "NewChannel",
        "AskedDefined",
        "FileTransferStateChanged",
        "InitialOffsetDefined",
        "FileTransferStateChanged",
        "TransferredBytesChanged",
        "FileTransferStateChanged",
    ];
    world.until("all is told", || {
        (world.signals().len() >= expected.len()).then_some(())
    });
    assert_eq!(world.signals(), expected);
    assert_eq!(state(&world), (2, 0));
    assert_eq!(state(&world), OPEN);
    assert_eq!(state(&world), COMPLETED);
    let offset: u64 = get(&world, &path, name::FILE_TRANSFER, "InitialOffset");
    assert_eq!(offset, 0);
    let count: u64 = get(&world, &path, name::FILE_TRANSFER, "TransferredBytes");
    assert_eq!(count, 5);
    // It stays until it is closed.
    world.call(&path, name::CHANNEL, "Close", &()).unwrap();
    world.wait("Closed", |event| (event.path == path).then_some(()));
}

#[test]
fn an_application_that_writes_and_is_gone_at_once_is_not_waited_for() {
    let grace = Duration::from_secs(1);
    let planned = SupervisorConfig {
        vanished_grace: grace,
        ..SupervisorConfig::default()
    };
    let world = World::with(|builder| builder.persist(true).supervisor(planned));
    let (account, path) = sending(&world, 5);
    let address = socket(&world, &path, "ProvideFile", None);
    let (near, _far) = file_stream(1024, false, &StreamCounter::default());
    let contact = account.session.files().remove(0).1;
    contact
        .send_blocking(Ok(agreed(Resume::default(), near)))
        .unwrap();
    assert_eq!(state(&world), (2, 0));
    assert_eq!(state(&world), OPEN);
    let mut application = TcpStream::connect(address).unwrap();
    application.write_all(b"he").unwrap();
    drop(application);
    // One that was looked at before it had gone has ended before the size; that is its error, too.
    assert_eq!(state(&world), LOCAL_ERROR);
}

#[test]
fn a_file_comes_from_the_contact() {
    let world = World::new();
    let (account, path, properties, offer) = offered(&world, picture());
    let requested = &properties[&format!("{}.Requested", name::CHANNEL)];
    assert!(!requested.downcast_ref::<bool>().unwrap());
    assert!(!properties.contains_key(&format!("{}.URI", name::FILE_TRANSFER)));
    assert!(!account.session.has_pinned());
    let address = socket(&world, &path, "AcceptFile", Some(0));
    assert_eq!(account.session.log().last().unwrap(), "pin bob@there");
    assert_eq!(state(&world), (2, 0));
    let (from, mut far) = block_on(offer.open(1024, false, &StreamCounter::default()));
    assert_eq!(from, Resume::default());
    assert_eq!(state(&world), OPEN);
    block_on(far.write_all(b"image")).unwrap();
    // Late, and it has it all.
    let mut application = TcpStream::connect(address).unwrap();
    application
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut all = Vec::new();
    application.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"image");
    assert_eq!(state(&world), COMPLETED);
    assert!(!get::<bool>(&world, &path, name::TRANSFER, "Encrypted"));
}

#[test]
fn what_a_receiver_has_stored_is_asked_of_the_sender() {
    let world = World::new();
    let (_account, path, properties, offer) = offered(&world, picture());
    let ranges = &properties[&format!("{}.HasRanges", name::TRANSFER)];
    assert!(ranges.downcast_ref::<bool>().unwrap());
    let nothing = || Variant::new(0_u32);
    let digits = "0a".repeat(32);
    for (offset, hash) in [(3, "short"), (6, digits.as_str())] {
        let wrong = &(2_u32, 0_u32, nothing(), offset as u64, hash);
        let error = refused(&world, &path, name::TRANSFER, "AcceptFrom", wrong);
        assert_eq!(error, "InvalidArgument");
    }
    let right = &(2_u32, 0_u32, nothing(), 3_u64, digits.as_str());
    let answer = world.call(&path, name::TRANSFER, "AcceptFrom", right);
    address(answer.unwrap());
    let (from, reply) = block_on(offer.accepted()).unwrap();
    assert_eq!(
        from,
        Resume {
            offset: 3,
            stored: Some(Sha256Digest([0x0a; 32])),
        }
    );
    // The sender breaks.
    reply.answer(Err(Error::ConnectionFailed("no way to it".into())));
    assert_eq!(state(&world), (2, 0));
    assert_eq!(state(&world), (5, 5));
    let (name, sentence): (String, String) = get(&world, &path, name::TRANSFER, "Error");
    assert_eq!(name, "org.freedesktop.Telepathy.Error.ConnectionFailed");
    assert_eq!(sentence, "no way to it");
    let late = refused(&world, &path, name::TRANSFER, "ReportStored", &(3_u64,));
    assert_eq!(late, "NotAvailable");
}

#[test]
fn what_the_contact_has_stored_is_told_to_the_sender() {
    let world = World::new();
    let (account, path) = sending(&world, 5);
    let asked = || get::<(u64, String)>(&world, &path, name::TRANSFER, "Asked");
    assert_eq!(asked(), (0, String::new()));
    let (near, _far) = file_stream(1024, true, &StreamCounter::default());
    let contact = account.session.files().remove(0).1;
    let from = Resume {
        offset: 2,
        stored: Some(Sha256Digest([0x0b; 32])),
    };
    contact.send_blocking(Ok(agreed(from, near))).unwrap();
    let told = world.wait("AskedDefined", |event| event.arguments::<(u64, String)>());
    assert_eq!(told, (2, "0b".repeat(32)));
    assert_eq!(state(&world), (2, 0));
    assert_eq!(asked(), told);
    let provide = |offset: u64| {
        let body = &(2_u32, 0_u32, Variant::new(0_u32), offset);
        world.call(&path, name::TRANSFER, "ProvideFrom", body)
    };
    assert_eq!(provide(1).unwrap_err().short(), "InvalidArgument");
    address(provide(0).unwrap());
    let offset = world.wait("InitialOffsetDefined", |event| event.arguments::<(u64,)>());
    assert_eq!((offset, state(&world)), ((0,), OPEN));
    assert!(get::<bool>(&world, &path, name::TRANSFER, "Encrypted"));
    let stored = refused(&world, &path, name::TRANSFER, "ReportStored", &(3_u64,));
    assert_eq!(stored, "NotAvailable");
}

#[test]
fn a_contact_that_does_not_want_it_has_cancelled_it() {
    let world = World::new();
    let (account, path) = sending(&world, 5);
    let contact = account.session.files().remove(0).1;
    let why = Error::Rejected("no, thank you".into());
    contact.send_blocking(Err(why)).unwrap();
    assert_eq!(state(&world), (5, 3));
    let nothing = Variant::new(0_u32);
    let body = &(2_u32, 0_u32, nothing);
    let late = refused(&world, &path, name::FILE_TRANSFER, "ProvideFile", body);
    assert_eq!(late, "NotAvailable");
    world.call(&path, name::CHANNEL, "Close", &()).unwrap();
    world.wait("ChannelClosed", |event| {
        event.arguments::<(OwnedObjectPath,)>()
    });
    assert!(world.introspect(&path).is_err());
    assert!(world.objects(&account.path).is_empty());
}

#[test]
fn a_closed_channel_was_cancelled_here_and_the_contact_is_told() {
    let world = World::new();
    let (_account, path, _, offer) = offered(&world, picture());
    world.call(&path, name::CHANNEL, "Close", &()).unwrap();
    assert_eq!(state(&world), (5, 2));
    world.wait("Closed", |event| (event.path == path).then_some(()));
    assert!(block_on(offer.accepted()).is_none());
}

#[test]
fn a_contact_that_takes_its_offer_back_or_goes_has_cancelled_it() {
    let world = World::new();
    let (account, path, _, mut offer) = offered(&world, picture());
    offer.withdraw();
    assert_eq!(state(&world), (5, 3));
    world.call(&path, name::CHANNEL, "Close", &()).unwrap();
    let request = account.file_request(account.handle(BOB), 5);
    account.send_file(request);
    account
        .session
        .happens(SessionEvent::ContactLost(peer(BOB).contact));
    assert_eq!(state(&world), (5, 5));
}

#[test]
fn sockets_that_make_no_sense_are_refused() {
    let world = World::new();
    let (account, path) = sending(&world, 5);
    let provide = |kind: u32, access: u32, parameter: Variant<'_>| {
        let body = &(kind, access, parameter);
        refused(&world, &path, name::FILE_TRANSFER, "ProvideFile", body)
    };
    let nothing = || Variant::new(0_u32);
    assert_eq!(provide(9, 0, nothing()), "InvalidArgument");
    assert_eq!(provide(2, 9, nothing()), "InvalidArgument");
    assert_eq!(provide(2, 2, nothing()), "NotImplemented");
    assert_eq!(provide(2, 3, nothing()), "NotImplemented");
    assert_eq!(provide(0, 1, nothing()), "NotImplemented");
    assert_eq!(provide(2, 1, nothing()), "InvalidArgument");
    assert_eq!(provide(2, 1, Variant::new("x")), "InvalidArgument");
    // The wrong way, once it is asked for and twice.
    let accept = &(2_u32, 0_u32, nothing(), 0_u64);
    for interface in [name::FILE_TRANSFER, name::TRANSFER] {
        let (method, error) = match interface {
            name::TRANSFER => (
                "AcceptFrom",
                refused(
                    &world,
                    &path,
                    interface,
                    "AcceptFrom",
                    &(2_u32, 0_u32, nothing(), 0_u64, ""),
                ),
            ),
            _ => (
                "AcceptFile",
                refused(&world, &path, interface, "AcceptFile", accept),
            ),
        };
        assert_eq!(error, "NotAvailable", "{method}");
    }
    socket(&world, &path, "ProvideFile", None);
    assert_eq!(provide(2, 0, nothing()), "NotAvailable");
    let pins = account.session.log();
    assert_eq!(
        pins.iter().filter(|line| line.starts_with("pin")).count(),
        1
    );
}

#[test]
fn a_file_that_comes_is_accepted_once_from_where_it_can_begin() {
    let world = World::new();
    let (account, path, _, _offer) = offered(&world, picture());
    let accept = |offset: u64| {
        let body = &(2_u32, 0_u32, Variant::new(0_u32), offset);
        refused(&world, &path, name::FILE_TRANSFER, "AcceptFile", body)
    };
    assert_eq!(accept(6), "InvalidArgument");
    let provide = &(2_u32, 0_u32, Variant::new(0_u32));
    assert_eq!(
        refused(&world, &path, name::FILE_TRANSFER, "ProvideFile", provide),
        "NotAvailable"
    );
    assert!(!account.session.has_pinned());
    *account.session.refuse_pin.lock().unwrap() =
        Some(Error::CertFingerprintMismatch("another key".into()));
    assert_eq!(accept(0), "FingerprintMismatch");
    assert_eq!(get::<u32>(&world, &path, name::FILE_TRANSFER, "State"), 1);
    socket(&world, &path, "AcceptFile", Some(5));
    assert_eq!(accept(0), "NotAvailable");
}

#[test]
fn the_uri_is_set_once_and_before_the_file_is_accepted() {
    let world = World::new();
    let (account, path, _, _offer) = offered(&world, picture());
    let set = |path: &str, interface: &str, property: &str, value: Variant<'_>| {
        world.call(
            path,
            "org.freedesktop.DBus.Properties",
            "Set",
            &(interface, property, value),
        )
    };
    let uri = |path: &str, uri: &str| {
        set(
            path,
            name::FILE_TRANSFER,
            "URI",
            Variant::new(uri.to_owned()),
        )
    };
    let long = "x".repeat(1 << 16);
    assert_eq!(
        uri(&path, &long).unwrap_err().name,
        "org.freedesktop.Telepathy.Error.InvalidArgument"
    );
    uri(&path, "file:///tmp/picture.png").unwrap();
    let told = world.wait("URIDefined", |event| event.arguments::<(String,)>());
    assert_eq!(told.0, "file:///tmp/picture.png");
    let shown: String = get(&world, &path, name::FILE_TRANSFER, "URI");
    assert_eq!(shown, told.0);
    assert_eq!(uri(&path, "file:///x").unwrap_err().short(), "NotAvailable");
    // Another one, accepted without.
    let (incoming, _offer) = FakeIncomingFile::offered(true);
    account.session.happens(SessionEvent::FileOffered {
        from: peer(BOB),
        file: picture(),
        incoming,
    });
    let (second, _) = announced(&world);
    socket(&world, &second, "AcceptFile", Some(0));
    assert_eq!(
        uri(&second, "file:///x").unwrap_err().short(),
        "NotAvailable"
    );
    // And one of ours, whose URI is what the request said.
    let request = account.file_request(account.handle(BOB), 5);
    let (ours, _) = account.send_file(request);
    assert_eq!(uri(&ours, "file:///x").unwrap_err().short(), "NotAvailable");
    assert_eq!(get::<String>(&world, &ours, name::FILE_TRANSFER, "URI"), "");
    // What the specification calls writable and immutable is the latter.
    let metadata = name::FILE_TRANSFER_METADATA;
    let named = set(&ours, metadata, "ServiceName", Variant::new("x"));
    assert_eq!(named.unwrap_err().short(), "NotImplemented");
    let nothing: HashMap<String, Vec<String>> = HashMap::new();
    let said = set(&ours, metadata, "Metadata", Variant::new(nothing));
    assert_eq!(said.unwrap_err().short(), "NotImplemented");
}

#[test]
fn who_takes_files_is_known_by_what_it_says() {
    let world = World::new();
    let account = world.online(vec![
        capable("carol@there"),
        plain("dave@there"),
        takes_files(BOB),
    ]);
    let request = |id: &str, size| {
        let request = account.file_request(account.handle(id), size);
        account.refused(name::REQUESTS, "CreateChannel", &(request,))
    };
    assert_eq!(request("carol@there", 5), "NotCapable");
    assert_eq!(request("dave@there", 5), "NotCapable");
    let ensured = account.file_request(account.handle(BOB), 5);
    assert_eq!(
        account.refused(name::REQUESTS, "EnsureChannel", &(ensured,)),
        "NotImplemented"
    );
    assert!(!account.session.has_pinned());
    // A size that nobody knows is something for our own kind.
    let request = account.file_request(account.handle(BOB), u64::MAX);
    let (path, properties) = account.send_file(request);
    let size = &properties[&format!("{}.Size", name::FILE_TRANSFER)];
    assert_eq!(size.downcast_ref::<u64>().unwrap(), u64::MAX);
    assert_eq!(account.session.files()[0].0.size, None);
    assert!(path.ends_with("/FileTransfer1"), "{path}");
}

#[test]
fn without_encryption_a_program_that_says_nothing_takes_files() {
    let world = World::new();
    let account = world.account_with("ada", &[("require-encryption", Variant::new(false))]);
    let account = account.goes_online(vec![plain("pidgin@there")]);
    let pidgin = account.handle("pidgin@there");
    let request = account.file_request(pidgin, 5);
    account.send_file(request);
    assert_eq!(account.session.log().last().unwrap(), "pin pidgin@there");
    let unknown = account.file_request(pidgin, u64::MAX);
    assert_eq!(
        account.refused(name::REQUESTS, "CreateChannel", &(unknown,)),
        "NotCapable"
    );
    let tube = account.create(pidgin, "http");
    assert_eq!(tube.unwrap_err().short(), "NotCapable");
}

#[test]
fn files_are_announced_once_a_client_has_registered_them() {
    let world = World::new();
    let (account, bob) = online(&world);
    let classes = |handle: u32| -> usize {
        let capabilities: HashMap<u32, Vec<(Map, Vec<String>)>> = account
            .call(
                name::CONTACT_CAPABILITIES,
                "GetContactCapabilities",
                &(vec![handle],),
            )
            .unwrap()
            .body()
            .deserialize()
            .unwrap();
        let of_files = |class: &&(Map, Vec<String>)| {
            let kind = &class.0[&format!("{}.ChannelType", name::CHANNEL)];
            kind.downcast_ref::<String>().unwrap() == name::FILE_TRANSFER
        };
        capabilities[&handle].iter().filter(of_files).count()
    };
    assert_eq!(classes(bob), 4);
    let myself: u32 = account.property(name::CONNECTION, "SelfHandle");
    assert_eq!(classes(myself), 0);
    let filter = HashMap::from([(
        format!("{}.ChannelType", name::CHANNEL),
        Variant::new(name::FILE_TRANSFER),
    )]);
    let client = ("org.example.Files", vec![filter], Vec::<String>::new());
    account
        .call(
            name::CONTACT_CAPABILITIES,
            "UpdateCapabilities",
            &(vec![client],),
        )
        .unwrap();
    assert_eq!(
        account.session.log().last().unwrap(),
        "features http://jabber.org/protocol/si/profile/file-transfer"
    );
    assert_eq!(classes(myself), 4);
}

#[test]
fn a_peer_that_offers_a_thousand_files_gets_a_few() {
    let world = World::new();
    let (account, _) = online(&world);
    let offers: Vec<FakeOffer> = (0..1000)
        .map(|_| {
            let (incoming, offer) = FakeIncomingFile::offered(false);
            account.session.happens(SessionEvent::FileOffered {
                from: peer(BOB),
                file: picture(),
                incoming,
            });
            offer
        })
        .collect();
    let last = block_on(offers[999].declined());
    assert!(
        matches!(last, Some(Error::ResourceUnavailable(_))),
        "{last:?}"
    );
    world.until("they are there", || {
        (account.channels() >= 16).then_some(())
    });
    assert_eq!(account.channels(), 16);
}

#[test]
fn a_transfer_that_its_request_claims_goes_with_whoever_asked_before_the_answer() {
    let world = World::new();
    let (account, bob) = online(&world);
    for _ in 0..10 {
        let mut request = account.file_request(bob, 5);
        request.insert(format!("{CLAIM}.Claimed"), Variant::new(true));
        let client =
            block_on(zbus::connection::Builder::address(world.bus.address()).build()).unwrap();
        let call = zbus::Message::method_call(account.path.as_str(), "CreateChannel")
            .destination(support::CM_NAME)
            .interface(name::REQUESTS)
            .build(&(request,))
            .unwrap();
        block_on(client.send(&call)).unwrap();
        block_on(client.close()).unwrap();
        // Whether that is before it is announced, nobody can say.
        assert_eq!(state(&world), (5, 2));
    }
    world.until("all are gone", || (account.channels() == 0).then_some(()));
    let mut request = account.file_request(bob, 5);
    request.insert(format!("{CLAIM}.Claimed"), Variant::new(true));
    let ensured = account.call(name::REQUESTS, "EnsureChannel", &(request,));
    assert_eq!(ensured.unwrap_err().short(), "NotImplemented");
}

/// Somebody claims this channel and goes.
fn claimed_and_left(world: &World, path: &str) {
    let client = block_on(zbus::connection::Builder::address(world.bus.address()).build()).unwrap();
    let claim = client.call_method(Some(support::CM_NAME), path, Some(CLAIM), "Claim", &());
    block_on(claim).unwrap();
    block_on(client.close()).unwrap();
}

#[test]
fn an_offer_that_a_program_claimed_and_did_not_take_is_there_for_the_next_one() {
    let world = World::new();
    let (account, path, _, offer) = offered(&world, picture());
    claimed_and_left(&world, &path);
    world.until("the claim is nobody's", || {
        world.call(&path, CLAIM, "Claim", &()).ok()
    });
    assert_eq!(account.channels(), 1);
    socket(&world, &path, "AcceptFile", Some(0));
    assert_eq!(state(&world), (2, 0));
    let (from, _far) = block_on(offer.open(1024, false, &StreamCounter::default()));
    assert_eq!(from, Resume::default());
}

#[test]
fn a_claimed_transfer_goes_with_whoever_claimed_it() {
    let world = World::new();
    let (_account, path) = sending(&world, 5);
    claimed_and_left(&world, &path);
    assert_eq!(state(&world), (5, 2));
    world.wait("Closed", |event| (event.path == path).then_some(()));
}
