//! Asks the daemon over its control socket: HTTP/1.1, JSON.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{DaemonArgs, Error};
use crate::view::Problem;

/// Percent-encodes one query value.
pub fn query_value(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl DaemonArgs {
    /// Asks for `path`; prints the JSON as it comes, or hands the parsed answer to `show`.
    pub fn ask<T: DeserializeOwned, W: Write>(
        &self,
        path: &str,
        out: &mut W,
        show: impl FnOnce(&T, &mut W) -> std::io::Result<()>,
    ) -> Result<ExitCode, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            if self.json {
                send(&self.socket, get(path)?, Some(PATIENCE), &mut |part| out.write_all(part)).await?;
                writeln!(out)?;
            } else {
                let mut body = Vec::new();
                send(&self.socket, get(path)?, Some(PATIENCE), &mut |part| body.write_all(part)).await?;
                show(&serde_json::from_slice(&body)?, out)?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    /// GETs `path`.
    pub fn fetch<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.fetching(path))
    }

    /// GETs `path`.
    pub async fn fetching<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.exchange(get(path)?, Some(PATIENCE)).await
    }

    /// GETs `path`; hands each part of the answer to `sink` as it comes, until that fails.
    pub fn stream(&self, path: &str, sink: &mut impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(send(&self.socket, get(path)?, None, sink))
    }

    /// POSTs `what` to `path`; what is wanted may take its time.
    pub fn post<T: DeserializeOwned>(&self, path: &str, what: &impl Serialize) -> Result<T, Error> {
        let body = Full::from(serde_json::to_vec(what)?);
        let request = Request::post(path).header("host", "wayleave").header("content-type", "application/json");
        let request = request.body(body).map_err(|error| Error::Refused(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.exchange(request, None))
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        request: Request<Full<Bytes>>,
        patience: Option<Duration>,
    ) -> Result<T, Error> {
        let mut body = Vec::new();
        send(&self.socket, request, patience, &mut |part| body.write_all(part)).await?;
        Ok(serde_json::from_slice(&body)?)
    }
}

fn get(path: &str) -> Result<Request<Full<Bytes>>, Error> {
    let request = Request::get(path).header("host", "wayleave").body(Full::default());
    request.map_err(|error| Error::Refused(error.to_string()))
}

/// Why a part of what the daemon shows can't be had.
#[derive(Debug)]
pub enum Silence {
    /// It said so
    Refused(String),
    /// It isn't there, or hangs
    Dead(String),
}

/// How long the daemon may take for one answer; of a long one, for its beginning and between any two parts.
const PATIENCE: Duration = Duration::from_secs(10);

/// GETs `path`, as far as the first `most` bytes of the answer, within some seconds.
pub async fn part(socket: &Path, path: &str, most: usize) -> Result<Vec<u8>, Silence> {
    let mut body = Vec::new();
    let asked = async { send(socket, get(path)?, None, &mut |part| keep(&mut body, part, most)).await };
    let outcome = timeout(PATIENCE, asked).await;
    match outcome {
        Ok(Err(Error::Refused(why))) => Err(Silence::Refused(why)),
        // The end of what is wanted.
        _ if body.len() >= most => Ok(body),
        Ok(Ok(())) => Ok(body),
        Ok(Err(error)) => Err(Silence::Dead(error.to_string())),
        Err(_) => Err(Silence::Dead(format!("the daemon did not answer within {} s", PATIENCE.as_secs()))),
    }
}

/// GETs /metrics from its port.
pub async fn metrics(address: SocketAddr, most: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        exchange(stream, get("/metrics")?, None, &mut |part| keep(&mut body, part, most)).await
    };
    match timeout(PATIENCE, asked).await {
        _ if body.len() >= most => Ok(body),
        Ok(Ok(())) => Ok(body),
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Err(_) => Err(format!("{address} did not answer within {} s", PATIENCE.as_secs())),
    }
}

/// Takes what is wanted, and ends the exchange when there is enough.
fn keep(body: &mut Vec<u8>, part: &[u8], most: usize) -> std::io::Result<()> {
    body.extend_from_slice(part.get(..most - body.len()).unwrap_or(part));
    if body.len() < most { Ok(()) } else { Err(std::io::ErrorKind::FileTooLarge.into()) }
}

/// Sends a request and hands each part of the answer's body to `sink` as it comes.
async fn send(
    socket: &Path,
    request: Request<Full<Bytes>>,
    patience: Option<Duration>,
    sink: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), Error> {
    let stream =
        UnixStream::connect(socket).await.map_err(|source| Error::Unreachable { socket: socket.to_owned(), source })?;
    exchange(stream, request, patience, sink).await
}

/// Waits for an answer, or as long as one is patient.
async fn within<T>(patience: Option<Duration>, answer: impl Future<Output = T>) -> Result<T, Error> {
    match patience {
        Some(patience) => timeout(patience, answer).await.map_err(|_| Error::Silent(patience)),
        None => Ok(answer.await),
    }
}

/// The same over a connection.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    patience: Option<Duration>,
    sink: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = within(patience, sender.send_request(request)).await??;
    let refused = !response.status().is_success();
    let mut body = response.into_body();
    let mut problem = Vec::new();
    while let Some(frame) = within(patience, body.frame()).await? {
        if let Some(part) = frame?.data_ref() {
            if refused {
                problem.extend_from_slice(part);
            } else {
                sink(part)?;
            }
        }
    }
    if refused {
        let text = serde_json::from_slice::<Problem>(&problem)
            .map_or_else(|_| String::from_utf8_lossy(&problem).into_owned(), |problem| problem.error);
        return Err(Error::Refused(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What becomes of a GET when this is answered, and then nothing more.
    async fn asked(answer: &'static str, patience: Duration) -> Result<Vec<u8>, Error> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let _ = theirs.read(&mut [0; 1024]).await;
            let _ = AsyncWriteExt::write_all(&mut theirs, answer.as_bytes()).await;
            std::future::pending::<()>().await;
        });
        let mut body = Vec::new();
        let mut keep = |part: &[u8]| keep(&mut body, part, 1024);
        exchange(ours, get("/").unwrap(), Some(patience), &mut keep).await.map(|()| body)
    }

    #[tokio::test]
    async fn a_daemon_that_hangs_is_given_up() {
        assert_eq!(asked("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", PATIENCE).await.unwrap(), b"hi");
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi"] {
            let asked = asked(answer, Duration::from_millis(50)).await;
            assert!(matches!(asked, Err(Error::Silent(_))), "{answer:?}");
        }
    }
}
