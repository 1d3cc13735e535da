//! A very small web server, as somebody might have running: HTTP/1.1 with kept connections, GET of
//! three paths, on the loopback interface.

use std::net::SocketAddr;

use actors::runtime::{Spawner, Task};
use async_net::{TcpListener, TcpStream};
use futures_lite::{AsyncBufReadExt as _, AsyncWriteExt as _, io::BufReader};

use super::pattern::Pattern;
use crate::cli::failure::{Failure, Outcome};

/// The page.
pub const PAGE: &str = "<!doctype html>\n<title>Grace's page</title>\n<p>If you can read this, it came through the tube.\n";

/// Longest line of a request that is read.
const LONGEST_LINE: u64 = 8 * 1024;

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    _accepting: Task<()>,
}

impl Server {
    /// Starts one at a port of the kernel's choice. `/download` has `size` bytes.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(spawner: &Spawner, size: u64) -> Outcome<Self> {
        let failed =
            |error: std::io::Error| Failure::failed(format!("the web server failed: {error}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let spawn = spawner.clone();
        let accepting = spawner.spawn("web server", async move {
            // An error here shows at the client, which then has no answer.
            while let Ok((stream, _)) = listener.accept().await {
                spawn
                    .spawn("web connection", async move {
                        if let Err(error) = serve(stream, size).await {
                            tracing::debug!(%error, "a web connection broke");
                        }
                    })
                    .detach();
            }
        });
        Ok(Server {
            address,
            _accepting: accepting,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Answers requests on one connection until its end.
async fn serve(mut stream: TcpStream, size: u64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let pattern = Pattern::new();
    let mut requests = BufReader::new(stream.clone());
    while let Some(path) = request(&mut requests).await? {
        match path.as_str() {
            "/" => answer(&mut stream, "200 OK", PAGE.as_bytes()).await?,
            "/ping" => answer(&mut stream, "200 OK", b"pong").await?,
            "/download" => {
                stream.write_all(head("200 OK", size).as_bytes()).await?;
                let mut place = 0;
                while place < size {
                    let bytes = pattern.from(place, (size - place).min(256 * 1024));
                    stream.write_all(bytes).await?;
                    place += bytes.len() as u64;
                }
            }
            _ => answer(&mut stream, "404 Not Found", b"nothing here").await?,
        }
    }
    Ok(())
}

/// The path of the next request; `None` at the end.
async fn request(from: &mut BufReader<TcpStream>) -> std::io::Result<Option<String>> {
    let mut path = None;
    loop {
        let mut line = String::new();
        let mut limited = futures_lite::AsyncReadExt::take(&mut *from, LONGEST_LINE);
        if limited.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        match (line.trim_end(), &path) {
            ("", Some(_)) => return Ok(path),
            (first, None) => path = Some(first.split(' ').nth(1).unwrap_or_default().to_owned()),
            // Headers change nothing here.
            _ => {}
        }
    }
}

fn head(status: &str, length: u64) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n")
}

async fn answer(stream: &mut TcpStream, status: &str, body: &[u8]) -> std::io::Result<()> {
    let mut bytes = head(status, body.len() as u64).into_bytes();
    bytes.extend_from_slice(body);
    stream.write_all(&bytes).await
}
