//! `pneuma accept --stdio`: one connection on standard input and output, byte for byte, so that it
//! serves as ssh's ProxyCommand.
//!
//! ```text
//!   standard input  ──up──►  connection manager's socket  ──► contact
//!   standard output ◄─down─
//! ```
//!
//! An end of file is passed on in each direction by itself: the end of standard input half-closes
//! the socket, the socket's end closes standard output. The command ends when both have ended, or
//! when the tube says that the connection has. What the tube says decides the exit code: a broken
//! link reads like an end of file on a Unix socket, and must not look like success.

use std::{fs::File, io, time::Duration};

use actors::{
    endpoint::{EndpointConfig, Introduction, dial},
    model::SocketAddress,
};
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _};
use smol::Unblock;

use super::{
    app::{App, still_online},
    failure::{Failure, Outcome},
};
use crate::client::{self, Event, Events, Kind, Tube};

/// Bytes read and written at a time.
const CHUNK: usize = 64 * 1024;
/// Bytes that may lie between a blocking descriptor and us.
const PIPE: usize = 256 * 1024;
/// How long the tube may take to say how the connection ended once its bytes have.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Carries one connection.
///
/// # Errors
/// How the tube says that the connection ended, unless in order.
pub async fn run(app: &App, events: &mut Events, tube: &Tube, address: &SocketAddress) -> Outcome {
    let failed = |what: &str, error: &io::Error| Failure::failed(format!("{what}: {error}"));
    let input = File::from(
        rustix::io::dup(io::stdin())
            .map_err(|error| failed("standard input cannot be used", &error.into()))?,
    );
    let output = take_stdout().map_err(|error| failed("standard output cannot be used", &error))?;
    let config = EndpointConfig {
        socket_directory: std::path::PathBuf::new(),
        any_local_user: false,
    };
    let socket = dial(address, Introduction::None, &config, &*app.clock)
        .await
        .map_err(|error| Failure::failed(error.to_string()))?
        .stream;
    let (mut from_contact, mut to_contact) = futures_lite::io::split(socket);

    let up = async {
        let mut input = Unblock::with_capacity(PIPE, input);
        // An error of ours to read is an end like any other; one to write means that the other
        // side takes no more, and the tube says why.
        if let Err(error) = carry(&mut input, &mut to_contact).await {
            tracing::debug!(%error, "standard input was not carried to its end");
        }
        if let Err(error) = to_contact.close().await {
            tracing::debug!(%error, "the end of standard input was not passed on");
        }
    };
    let down = async {
        let mut output = Unblock::with_capacity(PIPE, output);
        match carry(&mut from_contact, &mut output).await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Err(Failure::BrokenPipe);
            }
            // The socket broke: the tube says why.
            Err(error) => tracing::debug!(%error, "the connection broke"),
            Ok(()) => {}
        }
        // The last descriptor of it: whoever reads our output sees its end.
        drop(output.into_inner().await);
        Ok(())
    };
    app.interruptible(async {
        // The connection's end makes standard input pointless, but not what still arrives.
        let up = async {
            up.await;
            None
        };
        let up_or_end = up.or(async { Some(end(events, tube).await) });
        let ((), told) = futures_lite::future::try_zip(down, async { Ok(up_or_end.await) }).await?;
        match told {
            Some(outcome) => outcome,
            None => {
                let last = app.clock.now().saturating_add(LAST_WORD);
                app.before(Some(last), end(events, tube)).await.map(drop)
            }
        }
    })
    .await
}

/// The next event that says how our connection ended.
async fn end(events: &mut Events, tube: &Tube) -> Outcome {
    loop {
        let event = events.next().await?;
        still_online(&event)?;
        match event {
            Event::Ended { channel, why, .. } if channel == *tube.path() => {
                return verdict(why);
            }
            Event::Closed(channel) if channel == *tube.path() => {
                return Err(client::Error::new(
                    Kind::ConnectionLost,
                    "the contact closed the tube",
                )
                .into());
            }
            _ => {}
        }
    }
}

/// An orderly end is no failure.
fn verdict(why: client::Error) -> Outcome {
    match why.kind {
        Kind::Cancelled => Ok(()),
        _ => Err(why.into()),
    }
}

/// Copies until the end of file, handing on what has been read before it waits for more.
async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
    }
}

/// Standard output as the only descriptor of it, so that dropping it closes it; whatever else
/// writes to standard output in this process writes nowhere from now on.
fn take_stdout() -> io::Result<File> {
    let output = rustix::io::dup(io::stdout())?;
    let nowhere = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(nowhere)?;
    Ok(File::from(output))
}
