//! `io::etcd` alone, against a real etcd that is killed, frozen, cut off, compacted, wiped and set back.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use wayleave::cluster::{Entry, Event, Expect, Outcome, Write};
use wayleave::io::etcd::{Alive, Error, Follower, News, Options, Standing, Store, Tls, User};

use super::harness::etcd::{Certs, Etcd};
use super::harness::{Lab, Netns, holds};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A runtime whose sockets are in a namespace.
struct Inside {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    fn new(space: &Netns) -> Self {
        let (sender, receiver) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let space = space.clone();
        let thread = std::thread::spawn(move || {
            space.run(|| {
                // Namespaces belong to threads: this is the one that all tasks run on.
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                sender.send(runtime.handle().clone()).unwrap();
                let _ = runtime.block_on(stopped);
            });
        });
        Self { handle: receiver.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    /// What comes of `future` there.
    fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.handle.spawn(async move { sender.send(future.await).unwrap() });
        receiver.recv_timeout(LIMIT).expect("an answer")
    }

    fn follow(&self, store: &Store, prefix: &str) -> Follower {
        let _inside = self.handle.enter();
        store.follow(prefix)
    }

    fn alive(&self, store: &Store, key: &str, value: &str, ttl: u64) -> Alive {
        let _inside = self.handle.enter();
        store.alive(key, value.into(), Duration::from_secs(ttl), |value| value.starts_with(b"me"))
    }

    fn list(&self, store: &Store, prefix: &'static str) -> Result<(Vec<Entry>, i64), Error> {
        let store = store.clone();
        self.run(async move { store.list(prefix).await.map(|listing| (listing.entries, listing.revision)) })
    }

    fn commit(&self, store: &Store, write: Write) -> Result<Outcome, Error> {
        let store = store.clone();
        self.run(async move { store.commit(&write).await })
    }

    /// The next news.
    fn next(&self, follower: &mut Follower) -> News {
        let next = async { tokio::time::timeout(LIMIT, follower.next()).await };
        self.handle.block_on(next).expect("news in time").expect("the follower runs")
    }

    /// The next news but [`News::Confirmed`].
    fn news(&self, follower: &mut Follower) -> News {
        loop {
            match self.next(follower) {
                News::Confirmed { .. } => {}
                news => return news,
            }
        }
    }

    /// All events up to the one that put `key`; in between there may be a loss, but no listing.
    fn until(&self, follower: &mut Follower, key: &str) -> Vec<Event> {
        let mut seen = Vec::new();
        loop {
            match self.news(follower) {
                News::Events { events, revision } => {
                    assert_eq!(events.last().unwrap().revision(), revision);
                    seen.extend(events);
                }
                News::Lost { .. } => {}
                other => panic!("{other:?}"),
            }
            if seen.iter().any(|event| matches!(event, Event::Put(entry) if entry.key == key)) {
                return seen;
            }
        }
    }

    /// Waits for a listing; what it holds.
    fn listed(&self, follower: &mut Follower) -> (Vec<Entry>, i64) {
        loop {
            match self.news(follower) {
                News::Listed { entries, revision } => return (entries, revision),
                News::Lost { .. } | News::Events { .. } => {}
                News::Confirmed { .. } => unreachable!(),
            }
        }
    }

    /// Waits until it hears again.
    fn confirmed(&self, follower: &mut Follower) {
        loop {
            match self.next(follower) {
                News::Confirmed { .. } => return,
                News::Lost { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn lost(&self, follower: &mut Follower) -> Error {
        match self.news(follower) {
            News::Lost { why } => why,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().unwrap().join();
    }
}

fn options(endpoints: Vec<String>) -> Options {
    Options { endpoints, tls: Tls::default(), user: None, timeout: Duration::from_secs(5) }
}

fn write(key: &str, expect: Expect, value: Option<&str>) -> Write {
    Write { key: key.to_owned(), expect, value: value.map(|value| value.as_bytes().to_vec()) }
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

fn stands(alive: &Alive, wanted: impl Fn(&Standing) -> bool) {
    let standing = alive.standing();
    holds(&format!("the key stands as wanted, not {:?}", *standing.borrow()), LIMIT, || wanted(&standing.borrow()));
}

#[test]
fn all_there_is_then_each_change() {
    let lab = Lab::new();
    let space = lab.netns("etcd");
    let etcd = Etcd::start(&lab, &space, "127.0.0.1");
    let inside = Inside::new(&space);
    let store = Store::new(options(etcd.endpoints()));

    // More than one portion, and keys beside the prefix that are none of it.
    let writer = store.clone();
    inside.run(async move {
        for number in 0..2300 {
            let write = write(&format!("/n/{number:04}"), Expect::Absent, Some("x"));
            assert!(matches!(writer.commit(&write).await, Ok(Outcome::Done(_))));
        }
    });
    etcd.put("/n", "not below");
    etcd.put("/n0", "not below either");
    let (entries, revision) = inside.list(&store, "/n/").unwrap();
    let wanted: Vec<String> = (0..2300).map(|number| format!("/n/{number:04}")).collect();
    assert_eq!(keys(&entries), wanted);
    assert_eq!(revision, etcd.revision());
    assert!(entries.iter().all(|entry| entry.value == b"x" && entry.created == entry.modified));

    let mut follower = inside.follow(&store, "/n/");
    assert_eq!(inside.listed(&mut follower), (entries, revision));

    let commit = |key: &str, expect, value| inside.commit(&store, write(key, expect, value)).unwrap();
    let Outcome::Done(made) = commit("/n/a", Expect::Absent, Some("1")) else { panic!() };
    assert_eq!(commit("/n/a", Expect::Absent, Some("2")), Outcome::Refused(made), "it is there");
    assert_eq!(commit("/n/a", Expect::Modified(made - 1), Some("2")), Outcome::Refused(made), "another revision");
    assert_eq!(commit("/n/a", Expect::Modified(made), Some("2")), Outcome::Done(made + 1));
    assert_eq!(commit("/n/a", Expect::Modified(made), None), Outcome::Refused(made + 1), "no more");
    assert_eq!(commit("/n/a", Expect::Modified(made + 1), None), Outcome::Done(made + 2));
    assert_eq!(commit("/n/none", Expect::Modified(made + 1), None), Outcome::Refused(made + 2), "nothing is there");
    etcd.put("/n0", "of no interest");
    etcd.put("/n/end", "");
    let entry = |value: &str, modified| Entry { key: "/n/a".into(), value: value.into(), created: made, modified };
    let seen = inside.until(&mut follower, "/n/end");
    let wanted = [
        Event::Put(entry("1", made)),
        Event::Put(entry("2", made + 1)),
        Event::Delete { key: "/n/a".into(), revision: made + 2 },
    ];
    assert_eq!(seen[..3], wanted);
    assert_eq!(seen.len(), 4);

    // Asked for, all is told anew; and what happens behind that too.
    follower.relist();
    let (entries, revision) = inside.listed(&mut follower);
    assert_eq!((entries.len(), revision), (2301, made + 4));
    etcd.put("/n/more", "");
    inside.until(&mut follower, "/n/more");
}

#[test]
fn a_member_that_is_killed_or_frozen() {
    let lab = Lab::new();
    let space = lab.netns("etcd");
    let mut etcd = Etcd::start(&lab, &space, "127.0.0.1");
    let inside = Inside::new(&space);
    let store = Store::new(options(etcd.endpoints()));
    let health = store.health();
    let mut follower = inside.follow(&store, "/n/");
    inside.listed(&mut follower);
    inside.confirmed(&mut follower);
    assert!(health.borrow().reachable);
    etcd.put("/n/before", "");
    inside.until(&mut follower, "/n/before");

    etcd.kill(0);
    assert!(matches!(inside.lost(&mut follower), Error::Unreachable { .. }));
    // Nobody listens there: it surely was not done.
    let why = inside.commit(&store, write("/n/x", Expect::Absent, Some(""))).unwrap_err();
    assert_eq!(why.to_string(), "http://127.0.0.1:2379 can't be reached: Connection refused (os error 111)");
    assert!(!health.borrow().reachable);
    assert_eq!(health.borrow().error, Some(why));
    etcd.launch(0);
    etcd.ready();
    inside.confirmed(&mut follower);
    assert!(health.borrow().reachable);
    etcd.put("/n/after", "");
    // It went on where it was: the last it heard still stands.
    assert_eq!(inside.until(&mut follower, "/n/after").len(), 1);

    // A frozen member takes the request and says nothing.
    etcd.freeze(0);
    let start = Instant::now();
    assert_eq!(inside.commit(&store, write("/n/y", Expect::Absent, Some(""))), Ok(Outcome::Unknown));
    assert!(start.elapsed() < Duration::from_secs(20), "within the timeout, but for a busy machine");
    assert!(matches!(inside.lost(&mut follower), Error::Timeout { .. } | Error::Unreachable { .. }));
    assert!(!health.borrow().reachable);
    etcd.thaw(0);
    inside.confirmed(&mut follower);
    etcd.put("/n/thawed", "");
    let seen = inside.until(&mut follower, "/n/thawed");
    // Done or not, the events tell.
    let told = seen.iter().any(|event| matches!(event, Event::Put(entry) if entry.key == "/n/y"));
    assert_eq!(told, etcd.get("/n/y").is_some());
}

#[test]
fn what_was_missed_and_is_gone() {
    let lab = Lab::new();
    let (server, client) = (lab.netns("etcd"), lab.netns("client"));
    lab.link((&server, "a", &["192.0.2.5/24"]), (&client, "b", &["192.0.2.11/24"]));
    let mut etcd = Etcd::start(&lab, &server, "192.0.2.5");
    let inside = Inside::new(&client);
    let store = Store::new(options(etcd.endpoints()));
    let mut follower = inside.follow(&store, "/n/");
    inside.listed(&mut follower);
    etcd.put("/n/gone", "");
    etcd.put("/n/last", "");
    inside.until(&mut follower, "/n/last");

    // Compacted while we could not hear.
    client.silence(2379);
    inside.lost(&mut follower);
    etcd.delete("/n/gone");
    for number in 0..5 {
        etcd.put("/n/new", &number.to_string());
    }
    etcd.compact();
    client.unsilence();
    let (entries, revision) = inside.listed(&mut follower);
    assert_eq!((keys(&entries), revision), (vec!["/n/last", "/n/new"], etcd.revision()));

    // Set back: the revision is smaller.
    etcd.save("early");
    for number in 0..5 {
        etcd.put("/n/later", &number.to_string());
    }
    inside.until(&mut follower, "/n/later");
    etcd.set_back("early");
    let (entries, earlier) = inside.listed(&mut follower);
    assert_eq!((keys(&entries), earlier), (vec!["/n/last", "/n/new"], revision));
    etcd.put("/n/fine", "");
    inside.until(&mut follower, "/n/fine");

    // Set back and moved on before we came: revisions alone would not show it.
    client.silence(2379);
    inside.lost(&mut follower);
    etcd.set_back("early");
    for number in 0..9 {
        etcd.put("/n/other", &number.to_string());
    }
    client.unsilence();
    let (entries, later) = inside.listed(&mut follower);
    assert_eq!(keys(&entries), ["/n/last", "/n/new", "/n/other"]);
    assert_eq!(later, etcd.revision());

    // Wiped.
    etcd.wipe();
    assert_eq!(inside.listed(&mut follower), (vec![], 1));
    etcd.put("/n/first", "");
    inside.until(&mut follower, "/n/first");
}

#[test]
fn three_members() {
    type Act = fn(&mut Etcd, usize);

    let lab = Lab::new();
    let space = lab.netns("etcd");
    let places = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|address| (&space, address));
    let mut etcd = Etcd::cluster(&lab, &places, None);
    let inside = Inside::new(&space);
    let store = Store::new(options(etcd.endpoints()));
    let health = store.health();
    let mut follower = inside.follow(&store, "/n/");
    inside.listed(&mut follower);
    etcd.put("/n/first", "");
    inside.until(&mut follower, "/n/first");

    // The one that serves us dies, and then the one that does so after that: no request fails.
    let cases: [(Act, Act); 2] = [(Etcd::kill, Etcd::launch), (Etcd::freeze, Etcd::thaw)];
    for (end, mend) in cases {
        let served = health.borrow().endpoint.clone().unwrap();
        let number = etcd.at(&served);
        // Without a leader there are no requests for a while, whoever one asks.
        etcd.lead((number + 1) % 3);
        end(&mut etcd, number);
        inside.list(&store, "/n/").unwrap();
        let key = format!("/n/without-{number}");
        assert!(matches!(inside.commit(&store, write(&key, Expect::Absent, Some(""))), Ok(Outcome::Done(_))));
        assert_ne!(health.borrow().endpoint.clone().unwrap(), served);
        inside.until(&mut follower, &key);
        mend(&mut etcd, number);
        etcd.ready();
    }

    // The leader dies: as soon as there is another, all goes on.
    let served = health.borrow().endpoint.clone().unwrap();
    let first = etcd.at(&served);
    etcd.lead(first);
    etcd.kill(first);
    holds("a write", LIMIT, || {
        let outcome = inside.commit(&store, write("/n/a", Expect::Absent, Some("")));
        matches!(outcome, Ok(Outcome::Done(_) | Outcome::Refused(_)))
    });
    inside.until(&mut follower, "/n/a");
    etcd.launch(first);
    etcd.ready();

    // No quorum: said so, and over when it is.
    let others: Vec<usize> = (0..3).filter(|number| *number != first).collect();
    for other in &others {
        etcd.kill(*other);
    }
    holds("no quorum", LIMIT, || matches!(inside.list(&store, "/n/"), Err(Error::NoQuorum { .. })));
    inside.lost(&mut follower);
    assert!(!health.borrow().reachable);
    etcd.launch(others[0]);
    inside.confirmed(&mut follower);
    etcd.ready();
    etcd.put("/n/quorum", "");
    inside.until(&mut follower, "/n/quorum");
    assert!(health.borrow().reachable);
}

#[test]
fn certificates() {
    let lab = Lab::new();
    let space = lab.netns("etcd");
    let mut certs = Certs::new(&lab, "ca", "IP:127.0.0.1");
    certs.clients = true;
    let others = Certs::new(&lab, "other", "IP:127.0.0.1");
    let mut etcd = Etcd::cluster(&lab, &[(&space, "127.0.0.1")], Some(certs.clone()));
    let inside = Inside::new(&space);
    let here = lab.path("files");
    std::fs::create_dir(&here).unwrap();
    let install = |certs: &Certs, from: &str, to: &str| std::fs::copy(certs.path(from), here.join(to)).unwrap();
    let mut options = options(etcd.endpoints());
    options.tls =
        Tls { ca_file: Some(here.join("ca.pem")), identity: Some((here.join("client.pem"), here.join("client.key"))) };
    // One store through it all: what is mended is noticed.
    let store = Store::new(options);
    let mut follower = inside.follow(&store, "/n/");
    let says = |wanted: &str| {
        let why = inside.list(&store, "/n/").unwrap_err().to_string();
        assert!(why.contains(wanted), "{why}");
    };

    says("store.ca_file: ");
    says("/files/ca.pem can't be read: No such file or directory");
    std::fs::write(here.join("ca.pem"), "hello\n").unwrap();
    says("ca.pem has no \"-----BEGIN CERTIFICATE-----\"");
    install(&others, "ca.pem", "ca.pem");
    install(&others, "client.pem", "client.pem");
    install(&others, "client.key", "client.key");
    says("https://127.0.0.1:2379: its certificate is not accepted: no CA of store.ca_file has signed it");
    install(&certs, "ca.pem", "ca.pem");
    // With TLS 1.3 the server says so behind our request, and whether we hear it before the connection is gone is chance.
    holds("it says what it minds", LIMIT, || {
        says("certificate");
        inside.list(&store, "/n/").unwrap_err().to_string().contains("our certificate is not accepted (")
    });
    install(&certs, "client.pem", "client.pem");
    install(&certs, "client.key", "client.key");
    inside.list(&store, "/n/").unwrap();
    inside.listed(&mut follower);

    // etcd reads its certificate anew at each connection.
    certs.sign("server", "IP:127.0.0.1", -1);
    etcd.restart(0);
    says("its certificate is not accepted: it has expired");
    certs.sign("server", "IP:127.0.0.9,DNS:etcd-9", 9);
    says("its certificate is not accepted: certificate not valid for name \"127.0.0.1\"");
    assert!(matches!(inside.lost(&mut follower), Error::Unreachable { .. }), "the restart");
    // Between the two files the pair does not match, which is another error.
    while !matches!(inside.lost(&mut follower), Error::Certificate { .. }) {}
    certs.sign("server", "IP:127.0.0.1", 9);
    inside.listed(&mut follower);
    etcd.put("/n/a", "");
    inside.until(&mut follower, "/n/a");

    let plain = Store::new(self::options(vec!["http://127.0.0.1:2379".to_owned()]));
    let why = inside.list(&plain, "/n/").unwrap_err();
    assert!(why.to_string().contains("perhaps it wants https://"), "{why}");
    let plain = lab.netns("plain");
    let etcd = Etcd::start(&lab, &plain, "127.0.0.1");
    let inside = Inside::new(&plain);
    let tls = Tls { ca_file: Some(here.join("ca.pem")), identity: None };
    let store = Store::new(Options { tls, ..self::options(vec![etcd.endpoints()[0].replace("http:", "https:")]) });
    let why = inside.list(&store, "/n/").unwrap_err();
    assert!(why.to_string().contains("perhaps it wants http://"), "{why}");
}

#[test]
fn users() {
    let lab = Lab::new();
    let space = lab.netns("etcd");
    let mut etcd = Etcd::start(&lab, &space, "127.0.0.1");
    etcd.wants_users("wayleave", "right", "/n/");
    let inside = Inside::new(&space);
    let user = |password: &str| Some(User { name: "wayleave".to_owned(), password: password.to_owned() });
    let store_of = |user| Store::new(Options { user, ..options(etcd.endpoints()) });

    let why = inside.list(&store_of(None), "/n/").unwrap_err().to_string();
    assert_eq!(why, "http://127.0.0.1:2379 wants a user; set store.username and store.password_file");

    let store = store_of(user("wrong"));
    let mut follower = inside.follow(&store, "/n/");
    let why = inside.lost(&mut follower);
    assert!(matches!(&why, Error::Login { user, .. } if user == "wayleave"), "{why}");
    etcd.password("wayleave", "wrong");
    inside.listed(&mut follower);
    let commit = |key: &str| inside.commit(&store, write(key, Expect::Absent, Some("")));
    assert!(matches!(commit("/n/a"), Ok(Outcome::Done(_))));
    inside.until(&mut follower, "/n/a");
    assert!(matches!(commit("/elsewhere"), Err(Error::Denied { .. })));
    assert!(store.health().borrow().error.is_some());

    // Its tokens die with the member.
    etcd.restart(0);
    holds("a write", LIMIT, || matches!(commit("/n/b"), Ok(Outcome::Done(_) | Outcome::Refused(_))));
    inside.until(&mut follower, "/n/b");
    let alive = inside.alive(&store, "/n/alive", "me", 10);
    stands(&alive, |standing| *standing == Standing::Held);

    // The right to read is taken away, and given back.
    etcd.ctl(&["role", "revoke-permission", "--prefix=true", "wayleave", "/n/"]);
    assert!(matches!(inside.list(&store, "/n/"), Err(Error::Denied { .. })));
    etcd.ctl(&["role", "grant-permission", "--prefix=true", "wayleave", "readwrite", "/n/"]);
    inside.list(&store, "/n/").unwrap();
    follower.relist();
    loop {
        if let News::Listed { entries, .. } = inside.news(&mut follower) {
            assert_eq!(keys(&entries), ["/n/a", "/n/alive", "/n/b"]);
            break;
        }
    }
}

#[test]
fn a_sign_of_life() {
    let lab = Lab::new();
    let space = lab.netns("etcd");
    let mut etcd = Etcd::start(&lab, &space, "127.0.0.1");
    let inside = Inside::new(&space);
    let store = Store::new(options(etcd.endpoints()));
    let created = |inside: &Inside| {
        let store = store.clone();
        inside.run(async move { store.get("/n/alive").await.unwrap().0.map(|entry| entry.created) })
    };

    // Of our last run: replaced.
    etcd.put("/n/alive", "me, before");
    let alive = inside.alive(&store, "/n/alive", "me 1", 2);
    stands(&alive, |standing| *standing == Standing::Held);
    assert_eq!(etcd.get("/n/alive").as_deref(), Some("me 1"));
    let since = created(&inside);

    // Longer than it would live without us, and through a restart of etcd.
    etcd.restart(0);
    let start = Instant::now();
    holds("life goes on", LIMIT, || start.elapsed() > Duration::from_secs(5));
    assert_eq!(created(&inside), since, "the key never went away");

    // Deleted by somebody: written again as soon as we hear of it.
    etcd.delete("/n/alive");
    alive.check();
    holds("it is back", LIMIT, || etcd.get("/n/alive").is_some());

    // Closed: gone at once, for good.
    inside.run(alive.close());
    assert_eq!(etcd.get("/n/alive"), None);

    // Dropped, as by a crash: gone after its time, not before somebody else could miss us.
    let alive = inside.alive(&store, "/n/alive", "me 2", 2);
    stands(&alive, |standing| *standing == Standing::Held);
    drop(alive);
    assert!(etcd.get("/n/alive").is_some());
    holds("it goes", LIMIT, || etcd.get("/n/alive").is_none());

    // Somebody else's: left alone, until it is gone.
    etcd.put("/n/alive", "you");
    let alive = inside.alive(&store, "/n/alive", "me 3", 2);
    stands(&alive, |standing| matches!(standing, Standing::Taken(entry) if entry.value == b"you"));
    assert_eq!(etcd.get("/n/alive").as_deref(), Some("you"));
    etcd.delete("/n/alive");
    stands(&alive, |standing| *standing == Standing::Held);

    // The store forgets everything.
    etcd.wipe();
    holds("it is back", LIMIT, || etcd.get("/n/alive").as_deref() == Some("me 3"));

    // Without a store there is nothing to hold; closing doesn't wait for one.
    etcd.kill(0);
    stands(&alive, |standing| matches!(standing, Standing::Lost(Error::Unreachable { .. })));
    inside.run(alive.close());
}
