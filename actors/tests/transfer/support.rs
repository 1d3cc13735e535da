//! A world around one supervisor, and the checks every scenario ends with.

use std::{collections::BTreeSet, ops::Deref, sync::Arc, time::Duration};

use actors::{
    file_transfer::{
        FileTransferMessage,
        frames::{self, AbortReason, Frame, FrameReader, Word, WordReader},
    },
    model::{
        AccessRule, AddressType, ChannelId, Error, FileOffer, FileTransferReason,
        FileTransferState, OwnerId, Resume, Sha256Digest, SocketAddress,
    },
    ports::{
        AgreedFile, ChannelSignal, FileTransferDescription, FileTransferObject, FileTransferSignal,
        IncomingFile,
    },
    runtime::Clock,
    supervisor::{FileTransferRequest, FileWay, LocalSockets as _, SupervisorConfig},
    testing::{
        FakeIncomingFile, FakeOffer, FakeSending, FakeStream, Stage, TreeEvent, agreed, file_stream,
    },
};
use async_channel::Sender;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};

pub const OWNER: OwnerId = Stage::OWNER;
/// What a bytestream holds each way.
pub const CAPACITY: usize = 64 * 1024;

pub type Answers = Sender<Result<AgreedFile, Error>>;

pub struct World {
    stage: Stage,
}

impl Deref for World {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl World {
    pub fn new() -> World {
        World::with(|_| {})
    }

    pub fn with(adjust: impl FnOnce(&mut SupervisorConfig)) -> World {
        World {
            stage: Stage::with(adjust),
        }
    }

    pub fn request(&self, file: FileOffer, way: FileWay) -> FileTransferRequest {
        let requested = matches!(way, FileWay::Send(_));
        FileTransferRequest {
            owner: OWNER,
            description: FileTransferDescription {
                parties: self.parties(requested),
                file: file.into(),
                sockets: self.sockets.supported(),
                uri: String::new(),
                has_ranges: requested,
            },
            way,
            sockets: Arc::new(self.sockets.clone()),
            limits: self.limits.clone(),
        }
    }

    async fn open(&self, file: FileOffer, way: FileWay) -> FileTransferObject {
        let request = self.request(file, way);
        self.supervisor.open_file_transfer(request).await.unwrap()
    }

    /// A file of ours, offered to a contact who answers what the test says.
    pub async fn send(&self, file: FileOffer) -> (FileTransferObject, Answers) {
        let (port, answers) = FakeSending::new();
        (self.open(file, FileWay::Send(port)).await, answers)
    }

    /// A file that a contact offers.
    pub async fn offered(&self, file: FileOffer) -> (FileTransferObject, FakeOffer) {
        self.offered_with(file, true).await
    }

    pub async fn offered_with(
        &self,
        file: FileOffer,
        has_ranges: bool,
    ) -> (FileTransferObject, FakeOffer) {
        let (port, offer) = FakeIncomingFile::offered(has_ranges);
        let port: Box<dyn IncomingFile> = port;
        (self.open(file, FileWay::Receive(port)).await, offer)
    }

    /// A file of ours that the contact wants and the application provides: the channel, the
    /// application's end, the contact's end.
    pub async fn sending(
        &self,
        file: FileOffer,
        framed: bool,
    ) -> (FileTransferObject, FakeStream, FakeStream) {
        let (channel, answers) = self.send(file).await;
        let (near, contact) = file_stream(CAPACITY, framed, &self.counter);
        answers
            .send(Ok(agreed(Resume::default(), near)))
            .await
            .unwrap();
        let address = provide(&channel).await.unwrap();
        let application = self.sockets.connect(&address).unwrap();
        wait_state(&channel, FileTransferState::Open).await;
        (channel, application, contact)
    }

    /// A file of the contact's that the application accepts, without frames or with the header
    /// written: the channel, the application's end, the contact's end.
    pub async fn receiving(
        &self,
        file: FileOffer,
        framed: bool,
    ) -> (FileTransferObject, FakeStream, FakeStream) {
        let (channel, offer) = self.offered(file).await;
        let address = accept(&channel, Resume::default()).await.unwrap();
        let application = self.sockets.connect(&address).unwrap();
        let (_, mut contact) = offer.open(CAPACITY, framed, &self.counter).await;
        if framed {
            let header = actors::file_transfer::frames::header(0);
            contact.write_all(&header).await.unwrap();
        }
        wait_state(&channel, FileTransferState::Open).await;
        (channel, application, contact)
    }

    pub async fn sim_sleep(&self, seconds: u64) {
        self.sim.clock.sleep(Duration::from_secs(seconds)).await;
    }

    /// The states a transfer has gone through, with their reasons.
    pub fn states(&self, channel: ChannelId) -> Vec<(FileTransferState, FileTransferReason)> {
        self.tree
            .file_signals(channel)
            .into_iter()
            .filter_map(|signal| match signal {
                FileTransferSignal::StateChanged(state, reason) => Some((state, reason)),
                _ => None,
            })
            .collect()
    }

    /// Shuts down, and checks that nothing is left and that the signals made sense. The test has
    /// dropped its own streams by now.
    pub fn finish(self) {
        self.shut_down();
        self.check_signals();
        assert_eq!(self.counter.open(), 0, "streams are left");
    }

    /// Each transfer: states only go on, one of them is final, the offset comes before Open and once.
    pub fn check_signals(&self) {
        let mut channels = BTreeSet::new();
        for event in self.tree.log() {
            if let TreeEvent::Published(object) = event {
                channels.insert(object.id());
            }
        }
        for channel in channels {
            check_signals(&self.tree.file_signals(channel));
        }
    }
}

fn check_signals(signals: &[FileTransferSignal]) {
    use FileTransferState::{Cancelled, Completed, Open, Pending};
    let mut last = Pending;
    let mut offsets = 0;
    let mut bytes = 0;
    let mut stored = 0;
    for signal in signals {
        assert!(
            !matches!(last, Completed | Cancelled)
                || matches!(signal, FileTransferSignal::StoredChanged(_)),
            "something after the end: {signals:?}"
        );
        match signal {
            FileTransferSignal::StateChanged(state, reason) => {
                assert!(*state > last, "states go on: {signals:?}");
                assert_eq!(
                    *state == Cancelled,
                    *reason != FileTransferReason::None,
                    "{signals:?}"
                );
                assert!(*state != Open || offsets == 1, "{signals:?}");
                assert!(*state != Completed || last == Open, "{signals:?}");
                last = *state;
            }
            FileTransferSignal::InitialOffsetDefined(_) => {
                offsets += 1;
                assert_eq!(offsets, 1, "{signals:?}");
            }
            FileTransferSignal::TransferredBytesChanged(count) => {
                assert!(*count > bytes && last == Open, "{signals:?}");
                bytes = *count;
            }
            FileTransferSignal::StoredChanged(count) => {
                assert!(*count > stored && last >= Open, "{signals:?}");
                stored = *count;
            }
            FileTransferSignal::AskedDefined(_) => assert_eq!(last, Pending, "{signals:?}"),
            FileTransferSignal::UriDefined(_) => assert_eq!(last, Pending, "{signals:?}"),
        }
    }
    assert!(matches!(last, Completed | Cancelled), "{signals:?}");
}

pub fn file(size: usize) -> FileOffer {
    FileOffer::new("monkey.pdf", Some(size as u64))
}

/// Bytes that are not all the same.
pub fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + i / 251) as u8).collect()
}

pub async fn provide(channel: &FileTransferObject) -> Result<SocketAddress, Error> {
    provide_from(channel, None).await
}

pub async fn provide_from(
    channel: &FileTransferObject,
    from: Option<u64>,
) -> Result<SocketAddress, Error> {
    channel
        .address
        .ask(|reply| FileTransferMessage::Provide {
            address_type: AddressType::Unix,
            access: AccessRule::Localhost,
            from,
            reply,
        })
        .await?
}

pub async fn accept(channel: &FileTransferObject, from: Resume) -> Result<SocketAddress, Error> {
    accept_as(channel, from, false).await
}

/// By an application that says what it stores, or by one that does not.
pub async fn accept_as(
    channel: &FileTransferObject,
    from: Resume,
    stores: bool,
) -> Result<SocketAddress, Error> {
    channel
        .address
        .ask(|reply| FileTransferMessage::Accept {
            address_type: AddressType::Unix,
            access: AccessRule::Localhost,
            from,
            stores,
            reply,
        })
        .await?
}

pub async fn close(channel: &FileTransferObject) {
    channel
        .address
        .ask_first(|reply| FileTransferMessage::Close { reply })
        .await
        .unwrap();
}

pub async fn wait_state(channel: &FileTransferObject, state: FileTransferState) {
    channel.view.wait_for(|view| view.state >= state).await;
    assert_eq!(channel.view.get().state, state, "{:?}", channel.view.get());
}

/// The same, and that it was announced.
pub async fn wait_said(world: &World, channel: &FileTransferObject, state: FileTransferState) {
    wait_state(channel, state).await;
    world
        .tree
        .wait_for(|log| {
            log.iter().any(|event| {
                matches!(event, TreeEvent::Signal(of, ChannelSignal::FileTransfer(FileTransferSignal::StateChanged(said, _)))
                    if *of == channel.id && *said == state)
            })
        })
        .await;
}

/// Waits until it is cancelled, and gives the reason.
pub async fn wait_cancelled(channel: &FileTransferObject) -> FileTransferReason {
    wait_state(channel, FileTransferState::Cancelled).await;
    let view = channel.view.get();
    assert!(view.error.is_some());
    view.reason
}

/// Writes it all and closes.
pub async fn pour(mut stream: FakeStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.close().await.unwrap();
    // Until the other side has read it all, as a program that exits has its bytes read.
    stream.read(&mut [0]).await.ok();
}

/// Reads to the orderly end.
pub async fn drain(stream: &mut FakeStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

/// What a sender wrote to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    pub offset: u64,
    pub bytes: Vec<u8>,
    /// With the digest of an end, or the reason of an abort.
    pub last: Result<Sha256Digest, AbortReason>,
}

/// Closes its side and waits for the other one to be closed, as who has said its last does.
pub async fn hang_up(mut contact: FakeStream) {
    contact.close().await.unwrap();
    drain(&mut contact).await;
}

/// Reads frames to the last.
pub async fn read_frames(contact: &mut FakeStream) -> Written {
    read_frames_slowly(contact, async || {}).await
}

/// The same, with a pause after each read.
pub async fn read_frames_slowly(contact: &mut FakeStream, pause: impl AsyncFn()) -> Written {
    let mut reader = FrameReader::default();
    let (mut offset, mut bytes) = (None, Vec::new());
    let mut buffer = vec![0; 8192];
    loop {
        let count = contact.read(&mut buffer).await.unwrap();
        pause().await;
        assert!(count > 0, "an end of file without a last frame");
        let mut input = &buffer[..count];
        while let Some(frame) = reader.next(&mut input).unwrap() {
            let last = match frame {
                Frame::Begin { offset: at } => {
                    offset = Some(at);
                    continue;
                }
                Frame::Bytes(more) => {
                    bytes.extend(more);
                    continue;
                }
                Frame::End(digest) => Ok(digest),
                Frame::Abort(why) => Err(why),
            };
            let offset = offset.expect("a header");
            return Written {
                offset,
                bytes,
                last,
            };
        }
    }
}

/// A word that a receiver says.
pub async fn say(contact: &mut FakeStream, word: Word) {
    let mut bytes = Vec::new();
    word.write(&mut bytes);
    contact.write_all(&bytes).await.unwrap();
}

/// Reads words to the end of file.
pub async fn hear_words(contact: &mut FakeStream) -> Vec<Word> {
    let all = drain(contact).await;
    let mut input = &all[..];
    let mut reader = WordReader::default();
    let mut words = Vec::new();
    while let Some(word) = reader.next(&mut input).unwrap() {
        words.push(word);
    }
    words
}

/// The application says that so much is stored.
pub async fn stored(channel: &FileTransferObject, offset: u64) -> Result<(), Error> {
    let ask = |reply| FileTransferMessage::Stored { offset, reply };
    channel.address.ask(ask).await?
}

/// Writes all of it in chunks, and the end.
pub async fn write_frames(contact: &mut FakeStream, bytes: &[u8]) {
    for part in bytes.chunks(10_000) {
        contact.write_all(&chunk(part)).await.unwrap();
    }
    contact.write_all(&end_of(bytes)).await.unwrap();
}

/// A chunk of a file, on the wire.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [&frames::chunk_length(bytes.len())[..], bytes].concat()
}

/// The end of a file of these bytes, on the wire.
pub fn end_of(bytes: &[u8]) -> Vec<u8> {
    frames::end(sha256(bytes)).to_vec()
}

pub fn sha256(bytes: &[u8]) -> Sha256Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    Sha256Digest(digest.as_ref().try_into().unwrap())
}
