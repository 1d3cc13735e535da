//! A world around one supervisor, and the checks every scenario ends with.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    ops::Deref,
    sync::Arc,
};

use actors::{
    model::{
        AccessControl, AccessRule, AddressType, ChannelId, ConnectionId, ConnectionParameter,
        ContactHandle, Error, OwnerId, ParameterValue, ServiceName, SocketAddress, TubeParameters,
        TubeState,
    },
    ports::{ChannelSignal, StreamTubeDescription, StreamTubeObject, StreamTubeSignal},
    runtime::Pending,
    stream_tube::StreamTubeMessage,
    supervisor::{StreamTubeRequest, SupervisorConfig},
    testing::{
        Answer, FakeConnector, FakeIncoming, FakeSignalling, FakeStream, FakeTree, IncomingOutcome,
        Stage, TreeEvent,
    },
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};

pub const CONTACT: ContactHandle = Stage::CONTACT;
pub const OWNER: OwnerId = Stage::OWNER;

pub struct World {
    stage: Stage,
    pub connector: Arc<FakeConnector>,
    pub signalling: Arc<FakeSignalling>,
}

impl Deref for World {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

/// Where the offered service of every test listens.
pub fn service_address() -> SocketAddress {
    SocketAddress::Ipv4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5900))
}

pub fn parameters() -> TubeParameters {
    let values = BTreeMap::from([("path".to_owned(), ParameterValue::Text("/music".into()))]);
    TubeParameters::new(values).unwrap()
}

impl World {
    pub fn new() -> World {
        World::with(|_| {})
    }

    pub fn with(adjust: impl FnOnce(&mut SupervisorConfig)) -> World {
        let stage = Stage::with(adjust);
        World {
            connector: FakeConnector::new(&stage.counter),
            signalling: FakeSignalling::new(),
            stage,
        }
    }

    pub fn request(&self, requested: bool) -> StreamTubeRequest {
        use actors::supervisor::LocalSockets as _;
        StreamTubeRequest {
            owner: OWNER,
            description: StreamTubeDescription {
                parties: self.parties(requested),
                service: ServiceName::new("rfb").unwrap(),
                sockets: self.sockets.supported(),
                parameters: if requested {
                    TubeParameters::default()
                } else {
                    parameters()
                },
            },
            connector: self.connector.clone(),
            signalling: self.signalling.clone(),
            sockets: Arc::new(self.sockets.clone()),
            limits: self.limits.clone(),
        }
    }

    pub async fn open(&self, requested: bool) -> StreamTubeObject {
        self.supervisor
            .open_stream_tube(self.request(requested))
            .await
            .unwrap()
    }

    /// A tube of ours, offered to the contact.
    pub async fn offered(&self) -> StreamTubeObject {
        let channel = self.open(true).await;
        offer(&channel).await.unwrap();
        channel
    }

    /// A tube of the contact's, accepted, and where applications connect to it.
    pub async fn accepted(&self) -> (StreamTubeObject, SocketAddress) {
        let channel = self.open(false).await;
        let address = accept(&channel).await.unwrap();
        (channel, address)
    }

    /// The contact asks for a connection.
    pub async fn incoming(
        &self,
        channel: &StreamTubeObject,
        id: u8,
        answer: Option<Answer>,
    ) -> Pending<IncomingOutcome> {
        let (incoming, outcome) = FakeIncoming::request(id, &self.counter, answer);
        channel
            .address
            .tell(StreamTubeMessage::Incoming(incoming))
            .await
            .unwrap();
        outcome
    }

    /// The contact asks for a connection and gets it: its end.
    pub async fn connected(&self, channel: &StreamTubeObject, id: u8) -> FakeStream {
        match self.incoming(channel, id, None).await.wait().await {
            Ok(IncomingOutcome::Accepted(stream)) => stream,
            other => panic!("the connection was not accepted: {other:?}"),
        }
    }

    /// Shuts down, and checks that nothing is left and that the signals made sense. The test has
    /// dropped its own streams by now.
    pub fn finish(self) {
        self.shut_down();
        self.check_signals();
        // Ends that opened and that no test looked at wait in the fakes.
        drop(self.connector);
        assert_eq!(self.stage.counter.open(), 0, "streams are left");
    }

    /// Every id once, in order; each opened, closed; nothing before an object is there or after.
    pub fn check_signals(&self) {
        let mut channels = BTreeSet::new();
        for event in self.tree.log() {
            if let TreeEvent::Published(object) = event {
                channels.insert(object.id());
            }
        }
        for channel in channels {
            let gone = !self.tree.present().contains(&channel);
            check_signals(&self.tree.signals(channel), gone);
        }
    }
}

fn check_signals(signals: &[StreamTubeSignal], gone: bool) {
    let mut open = BTreeSet::new();
    let mut last = 0;
    for signal in signals {
        match signal {
            StreamTubeSignal::NewLocalConnection(id)
            | StreamTubeSignal::NewRemoteConnection { id, .. } => {
                assert!(id.0 > last, "ids go up: {signals:?}");
                last = id.0;
                open.insert(*id);
            }
            StreamTubeSignal::ConnectionClosed { id, why } => {
                assert!(open.remove(id), "closed once, after opening: {signals:?}");
                assert!(
                    matches!(
                        why,
                        Error::Cancelled(_)
                            | Error::ConnectionLost(_)
                            | Error::ConnectionRefused(_)
                    ),
                    "{why:?}"
                );
            }
            StreamTubeSignal::TubeStateChanged(_) => {}
        }
    }
    assert!(
        !gone || open.is_empty(),
        "never closed: {open:?} in {signals:?}"
    );
}

pub async fn offer(channel: &StreamTubeObject) -> Result<(), Error> {
    offer_at(channel, service_address(), AccessControl::Localhost).await
}

pub async fn offer_at(
    channel: &StreamTubeObject,
    address: SocketAddress,
    access: AccessControl,
) -> Result<(), Error> {
    channel
        .address
        .ask(|reply| StreamTubeMessage::Offer {
            address,
            access,
            parameters: parameters(),
            reply,
        })
        .await?
}

pub async fn accept(channel: &StreamTubeObject) -> Result<SocketAddress, Error> {
    accept_with(channel, AddressType::Unix, AccessRule::Localhost).await
}

pub async fn accept_with(
    channel: &StreamTubeObject,
    address_type: AddressType,
    access: AccessRule,
) -> Result<SocketAddress, Error> {
    channel
        .address
        .ask(|reply| StreamTubeMessage::Accept {
            address_type,
            access,
            reply,
        })
        .await?
}

pub async fn close(channel: &StreamTubeObject) {
    channel
        .address
        .ask_first(|reply| StreamTubeMessage::Close { reply })
        .await
        .unwrap();
}

pub async fn say(stream: &mut FakeStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

pub async fn hear(stream: &mut FakeStream, text: &str) {
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), text);
}

/// Reads to the end, which must be an orderly one.
pub async fn hear_end(stream: &mut FakeStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    rest
}

/// Reads until the stream breaks, and says how.
pub async fn hear_break(stream: &mut FakeStream) -> std::io::ErrorKind {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap_err().kind()
}

pub fn new_local(id: u32) -> StreamTubeSignal {
    StreamTubeSignal::NewLocalConnection(ConnectionId(id))
}

pub fn new_remote(id: u32) -> StreamTubeSignal {
    StreamTubeSignal::NewRemoteConnection {
        contact: CONTACT,
        parameter: ConnectionParameter::Nothing,
        id: ConnectionId(id),
    }
}

pub fn state(state: TubeState) -> StreamTubeSignal {
    StreamTubeSignal::TubeStateChanged(state)
}

/// The name of the error one connection ended with, once it has.
pub fn closed_with(tree: &FakeTree, channel: ChannelId, wanted: u32) -> Option<&'static str> {
    tree.signals(channel)
        .into_iter()
        .find_map(|signal| match signal {
            StreamTubeSignal::ConnectionClosed { id, why } if id.0 == wanted => Some(name(&why)),
            _ => None,
        })
}

/// Waits until one connection has ended, and gives the name of its error.
pub async fn wait_closed(tree: &FakeTree, channel: ChannelId, id: u32) -> &'static str {
    tree.wait_for(|log| {
        log.iter().any(|event| {
            matches!(event, TreeEvent::Signal(of, ChannelSignal::StreamTube(StreamTubeSignal::ConnectionClosed { id: closed, .. }))
                if *of == channel && closed.0 == id)
        })
    })
    .await;
    closed_with(tree, channel, id).unwrap()
}

pub fn name(error: &Error) -> &'static str {
    match error {
        Error::Cancelled(_) => "Cancelled",
        Error::ConnectionLost(_) => "ConnectionLost",
        Error::ConnectionRefused(_) => "ConnectionRefused",
        Error::NotAvailable(_) => "NotAvailable",
        Error::NotImplemented(_) => "NotImplemented",
        Error::InvalidArgument(_) => "InvalidArgument",
        Error::ResourceUnavailable(_) => "ResourceUnavailable",
        Error::NotCapable(_) => "NotCapable",
        _ => "another error",
    }
}
