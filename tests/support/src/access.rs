//! Access control as clients and services have it: `Localhost`, `Port`, `Credentials`.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketType, UCred, bind, connect, getsockname, recvmsg,
        sendmsg, socket, sockopt::set_socket_passcred,
    },
    process::{getegid, geteuid, getpid},
};
use zbus::Variant;

use crate::{Address, PATIENCE, server::Socket};

/// `Socket_Access_Control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// 0
    Localhost = 0,
    /// 1
    Port = 1,
    /// 3
    Credentials = 3,
}

/// What a service saw of one who connected to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its address, over TCP.
    pub from: Option<SocketAddr>,
    /// The byte it said, and whose credentials were attached, where the service waits for one.
    pub byte: Option<(u8, Option<u32>)>,
}

/// The forms in which clients name their port to Accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortForm {
    /// `(sq)`, the address that they are bound to.
    Exact,
    /// `(sq)`, with an unspecified address.
    AnyAddress,
    /// `u`, as telepathy-glib does it.
    Bare,
}

/// Who is about to connect. With `Port` it has a port already.
pub struct Caller {
    access: Access,
    bound: Option<(OwnedFd, SocketAddr)>,
}

impl Caller {
    /// One who will connect to a socket of this `Socket_Address_Type`.
    ///
    /// # Panics
    /// When the kernel has no port.
    pub fn new(kind: u32, access: Access) -> Self {
        let bound = (access == Access::Port).then(|| {
            let (family, address) = match kind {
                2 => (AddressFamily::INET, "127.0.0.1:0"),
                _ => (AddressFamily::INET6, "[::1]:0"),
            };
            let address: SocketAddr = address.parse().expect("an address");
            let client = socket(family, SocketType::STREAM, None).expect("a socket");
            bind(&client, &address).expect("a free port");
            let name = getsockname(&client).expect("its address");
            (client, name.try_into().expect("an IP address"))
        });
        Caller { access, bound }
    }

    /// `access_control_param`. Where it means nothing it is something strange.
    pub fn parameter(&self, form: PortForm) -> Variant<'static> {
        let Some((_, address)) = &self.bound else {
            return Variant::from("ignored");
        };
        match form {
            PortForm::Exact => Variant::new((address.ip().to_string(), address.port())),
            PortForm::AnyAddress if address.is_ipv4() => Variant::new(("0.0.0.0", address.port())),
            PortForm::AnyAddress => Variant::new(("::", address.port())),
            PortForm::Bare => Variant::from(u32::from(address.port())),
        }
    }

    /// Connects; with `Credentials` the byte is still to be said.
    ///
    /// # Errors
    /// The kernel's.
    pub fn connect(self, door: &Address) -> io::Result<Box<dyn Socket>> {
        let Some((client, _)) = self.bound else {
            return door.connect();
        };
        match door {
            Address::Ipv4(address) => connect(&client, address)?,
            Address::Ipv6(address) => connect(&client, address)?,
            Address::Unix(_) | Address::Abstract(_) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
        }
        let stream = TcpStream::from(client);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Box::new(stream))
    }

    /// Connects and says what there is to say.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(self, door: &Address) -> io::Result<Box<dyn Socket>> {
        let greets = self.access == Access::Credentials;
        let stream = self.connect(door)?;
        if greets {
            say_byte(&*stream, 77, true)?;
        }
        Ok(stream)
    }
}

/// Says a byte, with our credentials or without.
///
/// # Errors
/// The kernel's.
pub fn say_byte(stream: &dyn Socket, byte: u8, credentials: bool) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    if credentials {
        attached.push(SendAncillaryMessage::ScmCredentials(UCred {
            pid: getpid(),
            uid: geteuid(),
            gid: getegid(),
        }));
    }
    let flags = SendFlags::NOSIGNAL;
    sendmsg(
        stream.as_fd(),
        &[IoSlice::new(&[byte])],
        &mut attached,
        flags,
    )?;
    Ok(())
}

/// Takes the byte that a service behind `Credentials` is told first, as such services do it.
pub(crate) fn hear_byte(stream: &UnixStream) -> io::Result<Option<(u8, Option<u32>)>> {
    set_socket_passcred(stream, true)?;
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let heard = recvmsg(
        stream.as_fd(),
        &mut [IoSliceMut::new(&mut byte)],
        &mut attached,
        RecvFlags::empty(),
    )?;
    set_socket_passcred(stream, false)?;
    let writer = attached.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.uid.as_raw()),
        _ => None,
    });
    Ok((heard.bytes == 1).then_some((byte[0], writer)))
}
