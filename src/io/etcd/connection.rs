//! One connection, to whichever member serves us.

use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::error::Failure;
use super::{Error, Health, Options};

/// gRPC ping of a connection that carries something and is silent. etcd takes pings more often than every 5 s for
/// an attack (`--grpc-keepalive-min-time`), and any on an idle connection.
const PING: Duration = Duration::from_secs(6);
const PONG: Duration = Duration::from_secs(3);

/// Pause before members that have no leader are asked again: they elect one in a second or two.
const ELECTION: Duration = Duration::from_millis(200);

/// Messages may be larger than the 4 MiB that tonic allows by default: thousands of events after an absence.
pub(super) const MESSAGE_LIMIT: usize = 64 << 20;

pub(super) struct Connection {
    options: Options,
    /// Locked while somebody connects, so that all who wait get the same connection.
    current: Mutex<Current>,
    health: watch::Sender<Health>,
}

/// The member in use.
struct Current {
    /// Index into the endpoints
    member: usize,
    client: Option<Client>,
    /// Which connection this is
    number: u64,
}

/// A connection to work with.
#[derive(Clone)]
struct Lent {
    client: Client,
    member: usize,
    number: u64,
    /// Made for this request
    fresh: bool,
}

/// What a member served.
pub(super) struct Served<T> {
    pub value: T,
    /// The connection it came over, for [`Connection::leave`]
    pub by: u64,
    /// The member
    pub endpoint: String,
}

/// Whether a request may be sent again that may have been done.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Repeat {
    Yes,
    No,
}

impl Connection {
    pub fn new(options: Options) -> Self {
        let health =
            Health { reachable: false, endpoint: None, since: Instant::now(), last_confirmed: None, error: None };
        // Nodes that start with one file begin at different members.
        let member = rand::random_range(0..options.endpoints.len().max(1));
        let current = Current { member, client: None, number: 0 };
        Self { options, current: Mutex::new(current), health: watch::Sender::new(health) }
    }

    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Most time that a request takes.
    pub fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Sends a request to one member after the other until one serves it, or time is over. While members elect a
    /// leader it waits for that.
    ///
    /// A member that is silent gets its share of the time and no more. One that refuses over a connection that was
    /// there before is asked again over a new one: it may have been started anew, a password or certificate replaced.
    pub async fn request<T, F>(&self, repeat: Repeat, once: impl Fn(Client) -> F) -> Result<Served<T>, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + self.options.timeout;
        let mut told: Option<Failure> = None;
        // Each member, and the one in use a second time.
        let mut tries = self.options.endpoints.len() + 1;
        loop {
            let Ok(lent) = timeout_at(deadline, self.lend()).await else { break };
            let failure = match lent {
                Err(failure) => failure,
                Ok(lent) => match self.attempt(&lent, deadline, Box::pin(once(lent.client.clone()))).await {
                    Ok(value) => {
                        let endpoint = self.endpoint(lent.member);
                        self.served(&endpoint);
                        return Ok(Served { value, by: lent.number, endpoint });
                    }
                    Err(failure) => failure,
                },
            };
            let stop = failure.is_final() || (failure.maybe_done && repeat == Repeat::No);
            // What a member said tells more than that another is not there; and what may have been done, may.
            told = Some(match told {
                Some(earlier) if !stop && !earlier.says_less_than(&failure) => earlier,
                _ => failure,
            });
            if stop || Instant::now() >= deadline {
                break;
            }
            tries -= 1;
            if tries == 0 {
                let electing = told.as_ref().is_some_and(|told| matches!(told.error, Error::NoQuorum { .. }));
                if !electing || timeout_at(deadline, sleep(ELECTION)).await.is_err() {
                    break;
                }
                tries = self.options.endpoints.len();
            }
        }
        let failure = told.unwrap_or_else(|| Failure::timeout(self.options.endpoints.concat(), self.options.timeout));
        self.not_served(&failure.error);
        Err(failure)
    }

    /// One request to one member; leaves it if it doesn't serve us.
    async fn attempt<T>(
        &self,
        lent: &Lent,
        deadline: Instant,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        let limit = self.share().min(deadline.saturating_duration_since(Instant::now()));
        let (mut failure, silent) = match timeout(limit, request).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => (self.failure(lent.member, error), false),
            Err(_) => (Failure::timeout(self.endpoint(lent.member), limit), true),
        };
        if lent.fresh {
            failure.error = failure.error.at_first_contact();
        }
        if !failure.is_answer() {
            self.leave(lent.number, lent.fresh || silent).await;
        }
        Err(failure)
    }

    /// What one member may use of the time for all.
    fn share(&self) -> Duration {
        self.options.timeout / u32::try_from(self.options.endpoints.len().clamp(1, 3)).unwrap_or(1)
    }

    /// The connection, made if there is none.
    async fn lend(&self) -> Result<Lent, Failure> {
        let mut current = self.current.lock().await;
        let member = current.member;
        if let Some(client) = &current.client {
            return Ok(Lent { client: client.clone(), member, number: current.number, fresh: false });
        }
        let share = self.share();
        let connected = match timeout(share, Box::pin(self.connect(member))).await {
            Ok(connected) => connected,
            Err(_) => Err(Failure::timeout(self.endpoint(member), share)),
        };
        match connected {
            Ok(client) => {
                current.client = Some(client.clone());
                current.number += 1;
                Ok(Lent { client, member, number: current.number, fresh: true })
            }
            Err(failure) => {
                current.member = self.after(member);
                // Nothing but a login was sent.
                Err(Failure { maybe_done: false, ..failure })
            }
        }
    }

    /// Drops a connection, unless it is another by now; `next`: turns to the next member.
    pub async fn leave(&self, number: u64, next: bool) {
        let mut current = self.current.lock().await;
        if current.number == number && current.client.take().is_some() && next {
            current.member = self.after(current.member);
        }
    }

    fn after(&self, member: usize) -> usize {
        (member + 1) % self.options.endpoints.len().max(1)
    }

    fn endpoint(&self, member: usize) -> String {
        self.options.endpoints.get(member).cloned().unwrap_or_default()
    }

    /// Nothing is sent before the first request, but for the login.
    async fn connect(&self, member: usize) -> Result<Client, Failure> {
        let endpoint = self.endpoint(member);
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.share())
            .with_keep_alive(PING, PONG)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = &self.options.user {
            options = options.with_user(&user.name, &user.password);
        }
        if endpoint.starts_with("https://") {
            options = options.with_tls(self.tls(&endpoint).await.map_err(Failure::not_sent)?);
        }
        Client::connect([&endpoint], Some(options)).await.map_err(|error| self.failure(member, error))
    }

    async fn tls(&self, endpoint: &str) -> Result<TlsOptions, Error> {
        // tonic would take the brackets of an IPv6 address for a part of the name.
        let mut tls = TlsOptions::new().domain_name(host_of(endpoint));
        if let Some(path) = &self.options.tls.ca_file {
            let pem = read("ca_file", path, "CERTIFICATE-----").await?;
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        if let Some((cert, key)) = &self.options.tls.identity {
            let cert = read("cert_file", cert, "CERTIFICATE-----").await?;
            let key = read("key_file", key, "PRIVATE KEY-----").await?;
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        Ok(tls)
    }

    fn failure(&self, member: usize, error: etcd_client::Error) -> Failure {
        Failure::read(self.endpoint(member), self.user(), error)
    }

    /// A stream that [`request`](Self::request) opened broke.
    pub fn broken<T>(&self, stream: &Served<T>, error: etcd_client::Error) -> Failure {
        Failure::read(stream.endpoint.clone(), self.user(), error)
    }

    /// The member ended a watch, and said why.
    pub fn canceled<T>(&self, stream: &Served<T>, reason: &str) -> Failure {
        Failure::canceled(stream.endpoint.clone(), self.user(), reason)
    }

    fn user(&self) -> Option<&str> {
        self.options.user.as_ref().map(|user| user.name.as_str())
    }

    /// A member answered.
    pub fn served(&self, endpoint: &str) {
        let now = Instant::now();
        self.health.send_if_modified(|health| {
            health.last_confirmed = Some(now);
            if health.reachable && health.endpoint.as_deref() == Some(endpoint) {
                return false;
            }
            if !health.reachable {
                health.since = now;
            }
            health.reachable = true;
            health.endpoint = Some(endpoint.to_owned());
            health.error = None;
            true
        });
    }

    fn not_served(&self, error: &Error) {
        self.health.send_if_modified(|health| {
            if !health.reachable && health.error.as_ref() == Some(error) {
                return false;
            }
            if health.reachable {
                health.since = Instant::now();
            }
            health.reachable = false;
            health.endpoint = None;
            health.error = Some(error.clone());
            true
        });
    }
}

/// `etcd-1` of `https://etcd-1:2379`, `2001:db8::1` of `https://[2001:db8::1]:2379`.
fn host_of(endpoint: &str) -> &str {
    let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    }
}

/// A PEM file that must hold something ending in `marker`: what is wrong with others rustls says only later, as
/// something else.
async fn read(key: &'static str, path: &std::path::Path, marker: &str) -> Result<String, Error> {
    let wrong = |why: String| Error::File { key, path: path.to_owned(), why };
    let pem = tokio::fs::read_to_string(path).await.map_err(|error| wrong(format!("can't be read: {error}")))?;
    if pem.contains("-----BEGIN ") && pem.contains(marker) {
        Ok(pem)
    } else {
        Err(wrong(format!("has no \"-----BEGIN {marker}\": it is not in PEM, or another file")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_endpoints() {
        for (endpoint, host) in [
            ("https://etcd-1:2379", "etcd-1"),
            ("https://etcd-1", "etcd-1"),
            ("https://192.0.2.5:2379", "192.0.2.5"),
            ("https://[2001:db8::1]:2379", "2001:db8::1"),
            ("https://[::1]", "::1"),
        ] {
            assert_eq!(host_of(endpoint), host);
        }
    }
}
