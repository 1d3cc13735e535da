//! A world around one supervisor, and the checks every scenario ends with.

use std::{ops::Deref, sync::Arc, time::Duration};

use actors::{
    dbus_tube::DBusTubeMessage,
    model::{AccessControl, Error, ServiceName, SocketAddress, TubeParameters, TubeState},
    ports::{DBusTubeDescription, DBusTubeObject},
    runtime::Clock,
    supervisor::{DBusTubeRequest, DBusTubeWay},
    testing::{FakeDBusOffer, FakeDBusOffering, FakeIncomingDBusTube, FakeStream, Offered, Stage},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};

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
        World {
            stage: Stage::with(|_| {}),
        }
    }

    async fn open(&self, way: DBusTubeWay) -> DBusTubeObject {
        let requested = matches!(way, DBusTubeWay::Offer(_));
        let request = DBusTubeRequest {
            owner: Stage::OWNER,
            description: DBusTubeDescription {
                parties: self.parties(requested),
                service: service(),
                accesses: vec![AccessControl::Localhost, AccessControl::Credentials],
                parameters: TubeParameters::default(),
            },
            way,
            sockets: Arc::new(self.sockets.clone()),
            limits: self.limits.clone(),
        };
        self.supervisor.open_dbus_tube(request).await.unwrap()
    }

    /// A tube of ours, and where the contact finds what it is offered.
    pub async fn ours(&self) -> (DBusTubeObject, Arc<FakeDBusOffering>, Offered) {
        let (port, offered) = FakeDBusOffering::new();
        let channel = self.open(DBusTubeWay::Offer(port.clone())).await;
        (channel, port, offered)
    }

    /// A tube that the contact offers.
    pub async fn theirs(&self) -> (DBusTubeObject, FakeDBusOffer) {
        let (port, offer) = FakeIncomingDBusTube::offered();
        (self.open(DBusTubeWay::Accept(port)).await, offer)
    }

    /// A tube of ours that is open: its address, and the contact's end.
    pub async fn open_ours(&self, access: AccessControl) -> (DBusTubeObject, String, FakeStream) {
        let (channel, _, offered) = self.ours().await;
        let address = offer(&channel, access).await.unwrap();
        let (_, _, answering) = offered.recv().await.unwrap();
        let contact = answering.open(&self.counter);
        wait_state(&channel, TubeState::Open).await;
        (channel, address, contact)
    }

    /// A tube of the contact's that is open.
    pub async fn open_theirs(&self, access: AccessControl) -> (DBusTubeObject, String, FakeStream) {
        let (channel, offer) = self.theirs().await;
        let address = accept(&channel, access).await.unwrap();
        let contact = offer.accepted().await.unwrap().open(&self.counter);
        wait_state(&channel, TubeState::Open).await;
        (channel, address, contact)
    }

    /// An application that has connected and begun.
    pub async fn application(&self, address: &str) -> FakeStream {
        let mut application = self.sockets.connect(&socket_of(address)).unwrap();
        let hello = b"\0AUTH EXTERNAL 31303030\r\nBEGIN\r\n";
        application.write_all(hello).await.unwrap();
        let guid = address.split_once("guid=").unwrap().1;
        expect(&mut application, format!("OK {guid}\r\n").as_bytes()).await;
        application
    }

    pub async fn sleep(&self, seconds: u64) {
        self.sim.clock.sleep(Duration::from_secs(seconds)).await;
    }

    /// Shuts down, and checks that nothing is left. The test has dropped its own streams by now.
    pub fn finish(self) {
        self.shut_down();
        assert_eq!(self.counter.open(), 0, "streams are left");
    }
}

pub fn service() -> ServiceName {
    ServiceName::new("org.example.Service").unwrap()
}

pub fn socket_of(address: &str) -> SocketAddress {
    let path = address.strip_prefix("unix:path=").unwrap();
    SocketAddress::Unix(path.split_once(',').unwrap().0.into())
}

pub async fn offer(channel: &DBusTubeObject, access: AccessControl) -> Result<String, Error> {
    let ask = |reply| DBusTubeMessage::Offer {
        parameters: TubeParameters::default(),
        access,
        reply,
    };
    channel.address.ask(ask).await?
}

pub async fn accept(channel: &DBusTubeObject, access: AccessControl) -> Result<String, Error> {
    let ask = |reply| DBusTubeMessage::Accept { access, reply };
    channel.address.ask(ask).await?
}

pub async fn close(channel: &DBusTubeObject) {
    let ask = |reply| DBusTubeMessage::Close { reply };
    channel.address.ask_first(ask).await.unwrap();
}

pub async fn wait_state(channel: &DBusTubeObject, state: TubeState) {
    channel.view.wait_for(|view| view.state == state).await;
}

pub async fn expect(stream: &mut FakeStream, wanted: &[u8]) {
    let mut heard = vec![0; wanted.len()];
    stream.read_exact(&mut heard).await.unwrap();
    assert!(heard == wanted, "something else came");
}

/// Whatever comes until the end, and whether that was in order.
pub async fn hear_out(mut stream: FakeStream) -> bool {
    stream.read_to_end(&mut Vec::new()).await.is_ok()
}

/// A method call without header fields and with this body.
pub fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    let mut message = vec![b'l', 1, 0, 1];
    message.extend(length.to_le_bytes());
    message.extend(7u32.to_le_bytes());
    message.extend(0u32.to_le_bytes());
    message.extend(body);
    message
}
