//! The fuzzing targets of SOCKS5: both sides of the handshake, over a stream that brings the input.
//! See [`crate::fuzzing`].

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_lite::{AsyncRead, AsyncWrite, future::block_on};

use super::{
    socket::{HandshakeError, answer, ask},
    socks5::SocksError,
};
use crate::xmpp::fuzzing::cuts;

/// A destination as it is asked for: 40 digits.
const NAME: &str = "0123456789abcdef0123456789abcdef01234567";

/// A stream that brings pieces, then its end, and keeps what is written.
struct Wire<'a> {
    pieces: VecDeque<&'a [u8]>,
    written: Vec<u8>,
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(piece) = self.pieces.front_mut() else {
            return Poll::Ready(Ok(0));
        };
        let count = piece.len().min(out.len());
        out[..count].copy_from_slice(&piece[..count]);
        *piece = &piece[count..];
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Done,
    Failed(SocksError),
    /// The stream ended before.
    Short,
}

/// What one side came to: how it ended, how many bytes are left for what follows, what it wrote.
type Outcome = (End, usize, Vec<u8>);

/// Runs one side over an input that is cut in each way; all come to the same.
fn handshake(
    data: &[u8],
    side: impl AsyncFn(&mut Wire<'_>) -> Result<(), HandshakeError>,
) -> Outcome {
    let [whole, bytes, pieces] = cuts(data).map(|pieces| {
        let mut wire = Wire {
            pieces: pieces.into_iter().filter(|it| !it.is_empty()).collect(),
            written: Vec::new(),
        };
        let end = match block_on(side(&mut wire)) {
            Ok(()) => End::Done,
            Err(HandshakeError::Socks(error)) => End::Failed(error),
            Err(HandshakeError::Io(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                End::Short
            }
        };
        let left = wire.pieces.iter().map(|piece| piece.len()).sum();
        (end, left, wire.written)
    });
    assert_eq!(whole, bytes);
    assert_eq!(whole, pieces);
    whole
}

fn dialled(data: &[u8]) -> Outcome {
    handshake(data, async |wire| ask(wire, NAME.into()).await)
}

fn listened(data: &[u8]) -> Outcome {
    handshake(data, async |wire| answer(wire, NAME.into()).await)
}

/// How many bytes of an input the handshake is, when it is one for which a client is done.
fn welcomed(data: &[u8]) -> Option<usize> {
    let reply = data.strip_prefix(&[5, 0])?;
    let [5, 0, _, kind, address @ ..] = reply else {
        return None;
    };
    let address = match kind {
        1 => 4,
        3 => 1 + usize::from(*address.first()?),
        4 => 16,
        _ => return None,
    };
    let all = 2 + 4 + address + 2;
    (data.len() >= all).then_some(all)
}

/// How many bytes of an input the handshake is, when it is one that a server lets in.
fn let_in(data: &[u8]) -> Option<usize> {
    let [5, count @ (1..), rest @ ..] = data else {
        return None;
    };
    let (methods, request) = rest.split_at_checked(usize::from(*count))?;
    let named = request.strip_prefix(&[5, 1, 0, 3, 40])?;
    let fits = methods.contains(&0) && named.starts_with(NAME.as_bytes()) && named.len() >= 42;
    fits.then_some(2 + methods.len() + 5 + 42)
}

/// The side that dialled a streamhost; the input is what the streamhost writes.
pub fn socks5_client(data: &[u8]) {
    let (end, left, written) = dialled(data);
    assert_eq!(
        (end == End::Done).then_some(data.len() - left),
        welcomed(data)
    );
    assert!(written.starts_with(&[5, 1, 0]));
    // The request goes to whoever wants no authentication, and to nobody else.
    assert_eq!(written.len() > 3, data.starts_with(&[5, 0]));
    if end == End::Done {
        assert_eq!(listened(&written).0, End::Done);
    }
}

/// The side that listened; the input is what somebody who connected writes.
pub fn socks5_server(data: &[u8]) {
    let (end, left, written) = listened(data);
    assert_eq!(
        (end == End::Done).then_some(data.len() - left),
        let_in(data)
    );
    // The name is told to those only who knew it.
    let told = written.windows(8).any(|part| part == &NAME.as_bytes()[..8]);
    assert_eq!(told, end == End::Done);
    if end == End::Done {
        assert_eq!(dialled(&written).0, End::Done);
    }
}
