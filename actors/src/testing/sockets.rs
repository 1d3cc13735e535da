//! A machine's local sockets, in memory.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use async_channel::{Receiver, Sender};
use futures_lite::{AsyncRead as _, AsyncWriteExt as _, FutureExt as _};

use super::{Answer, FakeStream, StreamCounter, lock, pipe_counted};
use crate::{
    model::{
        AccessControl, AccessRule, AddressType, ConnectionParameter, Error, Result, SocketAddress,
    },
    ports::Duplex,
    runtime::{BoxFuture, Exit, Failure, FaultPoint, Faults},
    supervisor::{AcceptedSocket, DialledSocket, ListenJob, ListeningSocket, LocalSockets},
};

/// The user whose programs there are on a machine that is not there.
pub const FAKE_USER: u32 = 1000;
/// Bytes a fake socket buffers each way.
const CAPACITY: usize = 4096;

/// The sockets of a machine that is not there: Unix with Localhost and Credentials, IPv4 with
/// Localhost and Port. An IPv4 client that has gone before it is accepted is refused. With Credentials a byte goes first, as it does in the kernel's; but a listener
/// waits for one client's byte at a time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FakeSockets {
    inner: Arc<Mutex<Inner>>,
    counter: StreamCounter,
    faults: Faults,
}

#[derive(Debug, Default)]
struct Inner {
    next_port: u16,
    /// Where streams that connect to an address go.
    doors: HashMap<SocketAddress, Sender<FakeStream>>,
    bind_refusals: VecDeque<Error>,
    dial_answers: VecDeque<Answer>,
    dialled: usize,
    listeners: usize,
    /// What a listener waits for that is to end.
    lingering: Option<(Sender<()>, Receiver<()>)>,
}

/// A service that an application here offers.
#[derive(Debug)]
pub struct FakeService {
    queue: Receiver<FakeStream>,
}

impl Drop for FakeService {
    fn drop(&mut self) {
        self.queue.close();
        while self.queue.try_recv().is_ok() {}
    }
}

impl FakeService {
    /// Waits for the next connection to the service.
    ///
    /// # Panics
    /// When the address was taken by another service.
    pub async fn accept(&self) -> FakeStream {
        match self.queue.recv().await {
            Ok(stream) => stream,
            Err(_) => panic!("the service's address belongs to another one now"),
        }
    }

    /// The connections that wait to be accepted.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }
}

impl FakeSockets {
    /// A machine without sockets; streams are counted by `counter`.
    pub fn new(counter: &StreamCounter) -> Self {
        FakeSockets {
            inner: Arc::default(),
            counter: counter.clone(),
            faults: Faults::default(),
        }
    }

    /// The same, with the endpoint's places to die.
    #[must_use]
    pub fn with_faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Listens at an address, as the application does that offers a service.
    pub fn serve(&self, address: SocketAddress) -> FakeService {
        let (sender, queue) = async_channel::unbounded();
        lock(&self.inner).doors.insert(address, sender);
        FakeService { queue }
    }

    /// Connects, as an application does.
    ///
    /// # Errors
    /// `ConnectionRefused` where nobody listens.
    pub fn connect(&self, address: &SocketAddress) -> io::Result<FakeStream> {
        let door = lock(&self.inner).doors.get(address).cloned();
        let door = door.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, far) = pipe_counted(CAPACITY, &self.counter);
        door.try_send(far.like_a_socket())
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(near.like_a_socket())
    }

    /// Makes the next bind that has no refusal yet fail.
    pub fn refuse_bind(&self, why: Error) {
        lock(&self.inner).bind_refusals.push_back(why);
    }

    /// Makes listeners that are told to stop do so no sooner than the next socket is bound.
    pub fn linger(&self) {
        lock(&self.inner).lingering = Some(async_channel::bounded(1));
    }

    async fn lingered(&self) {
        let lingering = lock(&self.inner).lingering.clone();
        if let Some((_, over)) = lingering {
            over.recv().await.ok();
        }
    }

    /// Decides over the next dial that has no answer yet; the rest find who serves there.
    pub fn next_dial(&self, answer: Answer) {
        lock(&self.inner).dial_answers.push_back(answer);
    }

    /// How often a service was dialled.
    pub fn dialled(&self) -> usize {
        lock(&self.inner).dialled
    }

    /// Sockets that were bound and still exist.
    pub fn listeners(&self) -> usize {
        lock(&self.inner).listeners
    }
}

impl LocalSockets for FakeSockets {
    fn supported(&self) -> Vec<(AddressType, Vec<AccessControl>)> {
        vec![
            (
                AddressType::Unix,
                vec![AccessControl::Localhost, AccessControl::Credentials],
            ),
            (
                AddressType::Ipv4,
                vec![AccessControl::Localhost, AccessControl::Port],
            ),
        ]
    }

    fn check(&self, address: &SocketAddress, access: AccessControl) -> Result<()> {
        let kind = address.address_type();
        let supported = self
            .supported()
            .into_iter()
            .any(|(known, accesses)| known == kind && accesses.contains(&access));
        if !supported {
            return Err(Error::NotImplemented(format!("{kind:?} with {access:?}")));
        }
        match address {
            SocketAddress::Unix(path) if path.as_os_str().len() > 107 => {
                Err(Error::InvalidArgument("a path too long".into()))
            }
            _ => Ok(()),
        }
    }

    fn bind(&self, kind: AddressType, access: AccessRule) -> Result<Arc<dyn ListeningSocket>> {
        let mut inner = lock(&self.inner);
        if let Some(why) = inner.bind_refusals.pop_front() {
            return Err(why);
        }
        if let Some((lingering, _)) = inner.lingering.take() {
            lingering.close();
        }
        inner.next_port += 1;
        let address = match kind {
            AddressType::Unix => {
                SocketAddress::Unix(format!("/run/fake/{}", inner.next_port).into())
            }
            _ => SocketAddress::Ipv4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, inner.next_port)),
        };
        drop(inner);
        self.check(&address, access.control())?;
        let (sender, queue) = async_channel::unbounded();
        let mut inner = lock(&self.inner);
        inner.doors.insert(address.clone(), sender);
        inner.listeners += 1;
        Ok(Arc::new(FakeListening {
            sockets: self.clone(),
            address,
            wants_byte: access == AccessRule::Credentials,
            queue,
            in_hand: Mutex::new(None),
        }))
    }

    fn dial(
        &self,
        address: &SocketAddress,
        access: AccessControl,
    ) -> BoxFuture<'static, Result<DialledSocket>> {
        let sockets = self.clone();
        let address = address.clone();
        let (answer, dialled) = {
            let mut inner = lock(&self.inner);
            inner.dialled += 1;
            (inner.dial_answers.pop_front(), inner.dialled)
        };
        let own = SocketAddress::Ipv4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000));
        let parameter = match access {
            AccessControl::Localhost => ConnectionParameter::Nothing,
            AccessControl::Port => ConnectionParameter::From(own),
            AccessControl::Credentials => {
                ConnectionParameter::Byte(u8::try_from(dialled).unwrap_or(u8::MAX))
            }
        };
        Box::pin(async move {
            let dying = |failure: Failure| Error::ConnectionFailed(failure.to_string());
            let answered = sockets
                .faults
                .survive(FaultPoint::DiallerConnecting, Answer::carry_out(answer));
            answered.await.map_err(dying)??;
            let mut stream = sockets
                .connect(&address)
                .map_err(|error| Error::ConnectionRefused(error.to_string()))?;
            if let ConnectionParameter::Byte(byte) = parameter {
                let byte = [byte];
                let saying = stream.write_all(&byte);
                let said = sockets.faults.survive(FaultPoint::DiallerSaying, saying);
                said.await
                    .map_err(dying)?
                    .map_err(|error| Error::ConnectionFailed(error.to_string()))?;
            }
            let connected = sockets.faults.hit(FaultPoint::DiallerConnected);
            connected.map_err(dying)?;
            Ok(DialledSocket {
                stream: Box::new(stream),
                parameter,
            })
        })
    }
}

struct FakeListening {
    sockets: FakeSockets,
    address: SocketAddress,
    wants_byte: bool,
    queue: Receiver<FakeStream>,
    in_hand: Mutex<Option<InHand>>,
}

/// A client that was accepted, whether it was gone by then, and whether its byte is still to come.
struct InHand {
    accepted: AcceptedSocket,
    vanished: bool,
    wants_byte: bool,
}

impl FakeListening {
    /// Lets the client in hand go if it cannot be let in. Whether it was so.
    fn refuse(&self, vanished: Option<&Sender<()>>) -> bool {
        let mut in_hand = lock(&self.in_hand);
        if !in_hand.as_ref().is_some_and(|client| client.vanished) {
            return false;
        }
        *in_hand = None;
        if let Some(vanished) = vanished {
            vanished.try_send(()).ok();
        }
        true
    }

    /// Takes the byte of the client in hand. One that ends instead counts as having said it, and is
    /// delivered as it is.
    fn poll_byte(&self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(client) = &mut *lock(&self.in_hand)
            && client.wants_byte
        {
            let stream = Pin::new(&mut client.accepted.stream);
            if stream.poll_read(context, &mut [0]).is_pending() {
                return Poll::Pending;
            }
            client.wants_byte = false;
        }
        Poll::Ready(())
    }
}

impl Drop for FakeListening {
    fn drop(&mut self) {
        let mut inner = lock(&self.sockets.inner);
        inner.doors.remove(&self.address);
        inner.listeners -= 1;
    }
}

impl ListeningSocket for FakeListening {
    fn address(&self) -> &SocketAddress {
        &self.address
    }

    fn listen(self: Arc<Self>, mut job: ListenJob) -> BoxFuture<'static, Exit> {
        Box::pin(async move {
            let faults = self.sockets.faults.clone();
            let vanished = job.vanished.take();
            let work = async {
                loop {
                    if lock(&self.in_hand).is_none() {
                        let reserving = job.slots.reserve();
                        let slot = faults
                            .survive(FaultPoint::ListenerReserving, reserving)
                            .await?;
                        let accepting = self.queue.recv();
                        let accepting = faults.survive(FaultPoint::ListenerAccepting, accepting);
                        let Ok(stream) = accepting.await? else {
                            return Ok(Exit::Finished);
                        };
                        let by_tcp = matches!(self.address, SocketAddress::Ipv4(_));
                        let vanished = by_tcp && stream.is_left();
                        let stream: Box<dyn Duplex> = Box::new(stream);
                        *lock(&self.in_hand) = Some(InHand {
                            accepted: AcceptedSocket {
                                stream,
                                slot,
                                user: Some(FAKE_USER),
                            },
                            vanished,
                            wants_byte: self.wants_byte,
                        });
                        faults.hit(FaultPoint::ListenerAccepted)?;
                    }
                    // A second wait, as for the kernel's word about the client.
                    let checking = futures_lite::future::yield_now();
                    faults
                        .survive(FaultPoint::ListenerChecking, checking)
                        .await?;
                    faults.hit(FaultPoint::ListenerChecked)?;
                    if self.refuse(vanished.as_ref()) {
                        continue;
                    }
                    if self.wants_byte {
                        let hearing = poll_fn(|context| self.poll_byte(context));
                        faults.survive(FaultPoint::ListenerHearing, hearing).await?;
                        faults.hit(FaultPoint::ListenerHeard)?;
                    }
                    // A delivery outlives its listener, so what is in hand goes with it only when
                    // it is begun.
                    let delivery = async {
                        match lock(&self.in_hand).take() {
                            Some(client) => Some((job.deliver)(client.accepted)),
                            None => None,
                        }
                    };
                    let delivery = faults
                        .survive(FaultPoint::ListenerDelivering, delivery)
                        .await?;
                    if let Some(delivery) = delivery
                        && !delivery.await
                    {
                        return Ok(Exit::Finished);
                    }
                }
            };
            let work = async { work.await.unwrap_or_else(Exit::Failed) };
            let stopped = async {
                job.stop.stopped().await;
                self.sockets.lingered().await;
                Exit::Stopped
            };
            stopped.or(work).await
        })
    }
}
