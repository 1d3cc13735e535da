//! Fetches pages as a browser would: one kept connection, GET, whole answers.

use std::net::SocketAddr;

use async_net::TcpStream;
use futures_lite::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, io::BufReader};

use super::pattern::Pattern;
use crate::cli::failure::{Failure, Outcome};

/// Longest line of an answer's head.
const LONGEST_LINE: u64 = 8 * 1024;
/// Longest answer that is kept in memory.
const LONGEST_PAGE: u64 = 1024 * 1024;

/// A connection to a web server.
pub struct Site {
    answers: BufReader<TcpStream>,
    requests: TcpStream,
}

impl Site {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn open(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Site {
            answers: BufReader::with_capacity(256 * 1024, stream.clone()),
            requests: stream,
        })
    }

    /// Gets a page; calls `first` when the first byte of the answer is there.
    ///
    /// # Errors
    /// When the answer is not a whole page.
    pub async fn get(&mut self, path: &str, first: impl FnOnce()) -> Outcome<Vec<u8>> {
        let length = self.ask(path, first).await?;
        if length > LONGEST_PAGE {
            return Err(Failure::failed("the page is too long"));
        }
        let mut page = vec![0; usize::try_from(length).unwrap_or_default()];
        self.answers.read_exact(&mut page).await.map_err(failed)?;
        Ok(page)
    }

    /// Gets the pattern and compares every byte of it.
    ///
    /// # Errors
    /// When a byte is missing or wrong.
    pub async fn download(&mut self, path: &str, size: u64) -> Outcome {
        let pattern = Pattern::new();
        let length = self.ask(path, || ()).await?;
        if length != size {
            return Err(Failure::failed(format!(
                "the download has {length} bytes instead of {size}"
            )));
        }
        let mut place = 0;
        while place < size {
            let bytes = self.answers.fill_buf().await.map_err(failed)?;
            if bytes.is_empty() {
                return Err(Failure::failed(format!(
                    "the download ended after {place} bytes"
                )));
            }
            let most = usize::try_from(size - place).unwrap_or(usize::MAX);
            let bytes = &bytes[..bytes.len().min(most)];
            if !pattern.fits(place, bytes) {
                return Err(Failure::failed(format!(
                    "the download is wrong after {place} bytes"
                )));
            }
            let count = bytes.len();
            place += count as u64;
            self.answers.consume(count);
        }
        Ok(())
    }

    /// Asks for a path and reads the answer's head. Gives the length of what follows.
    async fn ask(&mut self, path: &str, first: impl FnOnce()) -> Outcome<u64> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: grace\r\n\r\n");
        self.requests
            .write_all(request.as_bytes())
            .await
            .map_err(failed)?;
        self.answers.fill_buf().await.map_err(failed)?;
        first();
        let mut status = None;
        let mut length = None;
        loop {
            let mut line = String::new();
            let mut limited = (&mut self.answers).take(LONGEST_LINE);
            if limited.read_line(&mut line).await.map_err(failed)? == 0 {
                return Err(Failure::failed("the connection ended before the answer"));
            }
            let line = line.trim_end();
            if status.is_none() {
                status = Some(line.to_owned());
            } else if line.is_empty() {
                break;
            } else if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
        let status = status.unwrap_or_default();
        if !status.starts_with("HTTP/1.1 200 ") {
            return Err(Failure::failed(format!("the web server said {status}")));
        }
        length.ok_or_else(|| Failure::failed("the answer has no length"))
    }
}

fn failed(error: std::io::Error) -> Failure {
    Failure::failed(format!("the web server could not be used: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actors::runtime::Spawner;

    use super::*;
    use crate::cli::demo::web;

    #[test]
    fn the_server_and_the_one_who_fetches_understand_each_other() {
        let executor = Arc::new(smol::Executor::new());
        let spawner = Spawner::new(executor.clone());
        smol::block_on(executor.run(async {
            let size = 3_000_017;
            let server = web::Server::start(&spawner, size).await.unwrap();
            let mut site = Site::open(server.address()).await.unwrap();
            let mut first = false;
            let page = site.get("/", || first = true).await.unwrap();
            assert_eq!(page, web::PAGE.as_bytes());
            assert!(first);
            site.download("/download", size).await.unwrap();
            assert_eq!(site.get("/ping", || ()).await.unwrap(), b"pong");
            assert!(site.get("/nothing", || ()).await.is_err());
            let mut other = Site::open(server.address()).await.unwrap();
            assert!(other.download("/download", size + 1).await.is_err());
        }));
    }
}
