//! Why a request was not served, in the words of who has to mend it.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use tonic::{Code, ConnectError};

/// Why a request was not served. `endpoint` is the member's URL, as configured.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Nobody listens there, or the connection broke
    #[error("{endpoint} can't be reached: {why}")]
    Unreachable {
        /// The member
        endpoint: String,
        /// What the operating system said
        why: String,
    },
    /// The member's certificate is none that we trust
    #[error("{endpoint}: its certificate is not accepted: {why}")]
    Certificate {
        /// The member
        endpoint: String,
        /// What is wrong with it, and what to look at
        why: String,
    },
    /// The member doesn't accept our certificate, or wants one
    #[error("{endpoint}: our certificate is not accepted ({why}); look at store.cert_file and store.key_file")]
    OurCertificate {
        /// The member
        endpoint: String,
        /// What it said
        why: String,
    },
    /// A file of ours can't be used
    #[error("store.{key}: {} {why}", .path.display())]
    File {
        /// Its key in the configuration
        key: &'static str,
        /// The file
        path: PathBuf,
        /// What is wrong with it
        why: String,
    },
    /// The user is unknown or the password wrong
    #[error(
        "{endpoint}: user {user:?} does not exist or its password is another; look at store.username and store.password_file"
    )]
    Login {
        /// The member
        endpoint: String,
        /// The user
        user: String,
    },
    /// etcd wants to know who we are
    #[error("{endpoint} wants a user; set store.username and store.password_file")]
    NoLogin {
        /// The member
        endpoint: String,
    },
    /// The user may not do this
    #[error("{endpoint}: permission denied; the user's role needs readwrite on all keys below store.prefix ({why})")]
    Denied {
        /// The member
        endpoint: String,
        /// What it said
        why: String,
    },
    /// The member answers, but has no leader: too few members are there
    #[error("{endpoint} has no leader: most members of this etcd are down or cut off")]
    NoQuorum {
        /// The member
        endpoint: String,
    },
    /// The member didn't answer in time
    #[error("{endpoint} did not answer within {}", humantime::format_duration(*.after))]
    Timeout {
        /// The member
        endpoint: String,
        /// How long we waited
        after: Duration,
    },
    /// etcd has no room left
    #[error("{endpoint}: its database is full; compact and defragment etcd, then `etcdctl alarm disarm`")]
    Full {
        /// The member
        endpoint: String,
    },
    /// Anything else
    #[error("{endpoint} says: {why}")]
    Other {
        /// The member
        endpoint: String,
        /// What it said
        why: String,
    },
}

impl Error {
    /// What may be behind it where a member hung up before it ever served us.
    pub(super) fn at_first_contact(self) -> Self {
        match self {
            Self::Unreachable { endpoint, why }
                if ["closed", "reset", "roken pipe", "invalid size"].iter().any(|word| why.contains(word)) =>
            {
                let hint = if endpoint.starts_with("https://") {
                    "perhaps it wants http://, or asks for certificates (--client-cert-auth) and does not accept ours"
                } else {
                    "perhaps it wants https://"
                };
                Self::Unreachable { endpoint, why: format!("{why}; {hint}") }
            }
            other => other,
        }
    }

    /// Tells less than what a member said.
    const fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }
}

/// An error, and what follows from it for the request.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub error: Error,
    /// It was sent, and nobody said that it was not done
    pub maybe_done: bool,
    /// The revision that was asked for is no longer there
    pub compacted: bool,
}

impl Failure {
    /// It did not leave this host.
    pub const fn not_sent(error: Error) -> Self {
        Self { error, maybe_done: false, compacted: false }
    }

    pub const fn timeout(endpoint: String, after: Duration) -> Self {
        Self { error: Error::Timeout { endpoint, after }, maybe_done: true, compacted: false }
    }

    /// Another member would say the same.
    pub const fn is_final(&self) -> bool {
        self.compacted || matches!(self.error, Error::Denied { .. } | Error::Full { .. } | Error::File { .. })
    }

    /// The member is well, the request is not.
    pub const fn is_answer(&self) -> bool {
        self.compacted || matches!(self.error, Error::Denied { .. } | Error::Full { .. })
    }

    /// Whether `other` is the better one to show.
    pub const fn says_less_than(&self, other: &Self) -> bool {
        self.error.is_silence() && !other.error.is_silence()
    }

    /// What a member, or the way to it, made of a request. `user` is who we said we are.
    pub fn read(endpoint: String, user: Option<&str>, error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::of_status(endpoint, user, &status),
            etcd_client::Error::TransportError(error) => Self::not_sent(unreachable(endpoint, &chain(&error))),
            other => {
                Self { error: Error::Other { endpoint, why: other.to_string() }, maybe_done: true, compacted: false }
            }
        }
    }

    /// What a member said when it ended a watch: `cancel_reason` is the text of a status.
    pub fn canceled(endpoint: String, user: Option<&str>, reason: &str) -> Self {
        let code = if reason.contains("permission denied") { Code::PermissionDenied } else { Code::Unknown };
        Self::of_status(endpoint, user, &tonic::Status::new(code, reason))
    }

    /// The codes and texts are those of etcd's `rpctypes/error.go`.
    fn of_status(endpoint: String, user: Option<&str>, status: &tonic::Status) -> Self {
        let said = status.message();
        let why = said.strip_prefix("etcdserver: ").unwrap_or(said).to_owned();
        let causes = std::iter::successors(status.source(), |error| (*error).source());
        if causes.clone().any(<dyn std::error::Error>::is::<ConnectError>) {
            return Self::not_sent(unreachable(endpoint, &chain(status)));
        }
        let login = |endpoint| match user {
            Some(user) => Error::Login { endpoint, user: user.to_owned() },
            None => Error::NoLogin { endpoint },
        };
        let done = |error| Self { error, maybe_done: false, compacted: false };
        let maybe = |error| Self { error, maybe_done: true, compacted: false };
        match status.code() {
            // etcd's own are the texts with its name; without, it is the connection.
            _ if said.contains("no leader") => done(Error::NoQuorum { endpoint }),
            _ if said.contains("etcdserver: request timed out") || said.contains("leader changed") => {
                maybe(Error::NoQuorum { endpoint })
            }
            Code::PermissionDenied => done(Error::Denied { endpoint, why }),
            Code::Unauthenticated => done(login(endpoint)),
            _ if ["authentication failed", "user name is empty", "invalid auth token", "auth store is old"]
                .iter()
                .any(|text| said.contains(text)) =>
            {
                done(login(endpoint))
            }
            Code::ResourceExhausted if said.contains("space exceeded") => done(Error::Full { endpoint }),
            Code::OutOfRange if said.contains("compacted") => {
                Self { error: Error::Other { endpoint, why }, maybe_done: false, compacted: true }
            }
            Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::ResourceExhausted => {
                done(Error::Other { endpoint, why })
            }
            _ if causes.count() > 0 => maybe(unreachable(endpoint, &chain(status))),
            _ => maybe(Error::Other { endpoint, why }),
        }
    }
}

/// All that an error and its causes say, without what is said twice.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    for error in std::iter::successors(Some(error), |error| (*error).source()) {
        let text = match error.downcast_ref::<tonic::Status>() {
            Some(status) => status.message().to_owned(),
            None => error.to_string(),
        };
        // tonic names the phase; the cause behind it says it better.
        let empty = text.is_empty() || text == "transport error" || text == "tcp connect error";
        if !empty && !said.iter().any(|earlier| earlier.contains(&text)) {
            said.push(text);
        }
    }
    said.join(": ")
}

/// Why there is no connection, from the texts of rustls and the operating system.
fn unreachable(endpoint: String, why: &str) -> Error {
    if let Some((_, said)) = why.split_once("invalid peer certificate: ") {
        let meaning = [
            ("UnknownIssuer", "no CA of store.ca_file has signed it"),
            ("xpired", "it has expired"),
            ("NotValidYet", "it is not valid yet; look at the clocks"),
            ("not valid yet", "it is not valid yet; look at the clocks"),
        ];
        let meaning = meaning.iter().find(|(word, _)| said.contains(word));
        let why = meaning.map_or_else(|| said.to_owned(), |(_, why)| format!("{why} ({said})"));
        return Error::Certificate { endpoint, why };
    }
    if let Some((_, alert)) = why.split_once("received fatal alert: ")
        && ["ertificate", "UnknownCA", "AccessDenied"].iter().any(|word| alert.contains(word))
    {
        return Error::OurCertificate { endpoint, why: alert.to_owned() };
    }
    let no_tls = ["InvalidContentType", "tls handshake eof"].iter().any(|text| why.contains(text));
    let why = if no_tls { "it does not answer with TLS; perhaps it wants http://" } else { why };
    Error::Unreachable { endpoint, why: why.to_owned() }
}
