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
                send(&self.socket, get(path)?, &mut |part| out.write_all(part)).await?;
                writeln!(out)?;
            } else {
                let mut body = Vec::new();
                send(&self.socket, get(path)?, &mut |part| body.write_all(part)).await?;
                show(&serde_json::from_slice(&body)?, out)?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    /// GETs `path`.
    pub fn fetch<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.exchange(get(path)?)
    }

    /// GETs `path`; hands each part of the answer to `sink` as it comes, until that fails.
    pub fn stream(&self, path: &str, sink: &mut impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(send(&self.socket, get(path)?, sink))
    }

    /// POSTs `what` to `path`.
    pub fn post<T: DeserializeOwned>(&self, path: &str, what: &impl Serialize) -> Result<T, Error> {
        let body = Full::from(serde_json::to_vec(what)?);
        let request = Request::post(path).header("host", "wayleave").header("content-type", "application/json");
        self.exchange(request.body(body).map_err(|error| Error::Refused(error.to_string()))?)
    }

    fn exchange<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut body = Vec::new();
        runtime.block_on(send(&self.socket, request, &mut |part| body.write_all(part)))?;
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

/// How long the daemon may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// GETs `path`, as far as the first `most` bytes of the answer, within some seconds.
pub async fn part(socket: &Path, path: &str, most: usize) -> Result<Vec<u8>, Silence> {
    let mut body = Vec::new();
    let asked = async { send(socket, get(path)?, &mut |part| keep(&mut body, part, most)).await };
    let outcome = tokio::time::timeout(PATIENCE, asked).await;
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
        exchange(stream, get("/metrics")?, &mut |part| keep(&mut body, part, most)).await
    };
    match tokio::time::timeout(PATIENCE, asked).await {
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
    sink: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), Error> {
    let stream =
        UnixStream::connect(socket).await.map_err(|source| Error::Unreachable { socket: socket.to_owned(), source })?;
    exchange(stream, request, sink).await
}

/// The same over a connection.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    sink: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let refused = !response.status().is_success();
    let mut body = response.into_body();
    let mut problem = Vec::new();
    while let Some(frame) = body.frame().await {
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
