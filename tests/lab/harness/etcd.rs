//! A real etcd: one member or several, with TLS and users, and all that can happen to it.
//!
//! Members run in namespaces of the lab and keep their data in memory: etcd waits for the disk at each write, and what a disk
//! does while a machine builds and tests is not what a test is about. What stands in the store is asked with etcdctl,
//! never through the code under test.
//!
//! ```ignore
//! let etcd = Etcd::start(&lab, &space, "192.0.2.5");     // space has that address
//! agent.config(&format!("[store]\nkind = \"etcd\"\nendpoints = {:?}\n", etcd.endpoints()));
//! etcd.put("/wayleave/network/config", r#"{"Network": "10.244.0.0/16"}"#);
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::netns::done;
use super::{Lab, Netns, Process, holds};

/// Until a member serves: an election and, on a machine that does much else, some patience.
const START: Duration = Duration::from_secs(60);

/// An etcd cluster. Its members are killed when it is dropped.
pub struct Etcd {
    /// The lab's folder
    dir: PathBuf,
    members: Vec<Member>,
    certs: Option<Certs>,
    /// Name and password that etcdctl uses
    user: Option<(String, String)>,
    /// Behind the members, so that it goes when they are gone
    _data: TempDir,
}

struct Member {
    name: String,
    space: Netns,
    address: String,
    data: PathBuf,
    process: Option<Process>,
}

impl Etcd {
    /// One member at `address`, which `space` has, serving.
    pub fn start(lab: &Lab, space: &Netns, address: &str) -> Self {
        Self::cluster(lab, &[(space, address)], None)
    }

    /// A member at each of these addresses, serving; with certificates they speak https and nothing else.
    pub fn cluster(lab: &Lab, places: &[(&Netns, &str)], certs: Option<Certs>) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { lab.path("") };
        let folder = TempDir::with_prefix_in("wl-", folder).unwrap();
        let member = |(number, (space, address)): (usize, &(&Netns, &str))| {
            let name = format!("{}-{number}", space.short());
            let data = folder.path().join(&name);
            Member { name, space: (*space).clone(), address: (*address).to_owned(), data, process: None }
        };
        let members = places.iter().enumerate().map(member).collect();
        let mut etcd = Self { dir: lab.path(""), members, certs, user: None, _data: folder };
        for number in 0..places.len() {
            etcd.launch(number);
        }
        etcd.ready();
        etcd
    }

    /// What stands in `store.endpoints`.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|number| self.endpoint(number)).collect()
    }

    fn endpoint(&self, number: usize) -> String {
        format!(
            "{}://{}:2379",
            if self.certs.is_some() { "https" } else { "http" },
            host(&self.members[number].address)
        )
    }

    /// The member at an endpoint.
    pub fn at(&self, endpoint: &str) -> usize {
        self.endpoints().iter().position(|other| other == endpoint).unwrap_or_else(|| panic!("{endpoint}"))
    }

    /// Starts a member that doesn't run, with the data it has; [`Self::ready`] waits for it.
    pub fn launch(&mut self, number: usize) {
        let peers: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}=http://{}:2380", member.name, host(&member.address)))
            .collect();
        let client = self.endpoint(number);
        let member = &self.members[number];
        let peer = format!("http://{}:2380", host(&member.address));
        let mut options = vec![
            format!("--name={}", member.name),
            format!("--data-dir={}", member.data.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", peers.join(",")),
            "--logger=zap".to_owned(),
            "--log-level=warn".to_owned(),
            // Tests log in often.
            "--bcrypt-cost=4".to_owned(),
        ];
        if let Some(certs) = &self.certs {
            options.push(format!("--cert-file={}", certs.path("server.pem").display()));
            options.push(format!("--key-file={}", certs.path("server.key").display()));
            if certs.clients {
                options.push(format!("--trusted-ca-file={}", certs.path("ca.pem").display()));
                options.push("--client-cert-auth".to_owned());
            }
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let log = self.dir.join(format!("{}.log", member.name));
        let process = Process::logging_to(log, &member.space, &member.name, "etcd", &options, &[]);
        self.members[number].process = Some(process);
    }

    /// Waits until each member that runs can write.
    pub fn ready(&self) {
        for number in 0..self.members.len() {
            if self.members[number].process.is_some() {
                holds(&format!("{} serves", self.members[number].name), START, || {
                    self.try_ctl_at(number, &["endpoint", "health"]).is_ok()
                });
            }
        }
    }

    fn process(&mut self, number: usize) -> &mut Process {
        let Member { name, process, .. } = &mut self.members[number];
        process.as_mut().unwrap_or_else(|| panic!("{name} does not run"))
    }

    /// SIGKILL.
    pub fn kill(&mut self, number: usize) {
        self.process(number).kill();
        self.members[number].process = None;
    }

    /// Kills a member and starts it again with the data it has.
    pub fn restart(&mut self, number: usize) {
        self.kill(number);
        self.launch(number);
        self.ready();
    }

    /// Makes a member the leader.
    pub fn lead(&self, number: usize) {
        let status = |number: usize| -> Value {
            let text = self.try_ctl_at(number, &["endpoint", "status", "-w", "json"]).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()[0]["Status"].take()
        };
        let id = |number: usize| status(number)["header"]["member_id"].as_u64().unwrap();
        let leader = status(number)["leader"].as_u64().unwrap();
        if leader != id(number) {
            let now = (0..self.members.len()).find(|other| id(*other) == leader).unwrap();
            self.try_ctl_at(now, &["move-leader", &format!("{:x}", id(number))]).unwrap();
        }
    }

    /// SIGSTOP, and waits until the last of its threads stands: its connections stay and nobody answers.
    pub fn freeze(&mut self, number: usize) {
        let process = self.process(number);
        process.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", process.id());
        let stands = |task: std::io::Result<fs::DirEntry>| {
            let status = task.and_then(|task| fs::read_to_string(task.path().join("status")));
            status.is_ok_and(|status| status.contains("State:\tT"))
        };
        holds("etcd stands still", Duration::from_secs(10), || fs::read_dir(&tasks).unwrap().all(stands));
    }

    /// SIGCONT.
    pub fn thaw(&mut self, number: usize) {
        self.process(number).signal(Signal::SIGCONT);
    }

    /// Takes away all data of a cluster of one member, and starts it anew: revision 1, no keys, no users.
    pub fn wipe(&mut self) {
        self.kill(0);
        fs::remove_dir_all(&self.members[0].data).unwrap();
        self.user = None;
        self.launch(0);
        self.ready();
    }

    /// Saves what stands in the store to a file of the lab.
    pub fn save(&self, name: &str) {
        self.ctl(&["snapshot", "save", self.dir.join(name).to_str().unwrap()]);
    }

    /// Sets a cluster of one member back to what [`Self::save`] saved. It is the same cluster with the same number.
    pub fn set_back(&mut self, name: &str) {
        self.stop_and_set_back(name);
        self.launch(0);
        self.ready();
    }

    /// The same; the member is left stopped.
    pub fn stop_and_set_back(&mut self, name: &str) {
        self.kill(0);
        let member = &self.members[0];
        fs::remove_dir_all(&member.data).unwrap();
        let peer = format!("http://{}:2380", host(&member.address));
        done(
            Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore"])
                .arg(self.dir.join(name))
                .arg(format!("--data-dir={}", member.data.display()))
                .arg(format!("--name={}", member.name))
                .arg(format!("--initial-cluster={}={peer}", member.name))
                .arg(format!("--initial-advertise-peer-urls={peer}")),
        );
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: &str) {
        self.ctl(&["put", "--", key, value]);
    }

    /// A key's value.
    pub fn get(&self, key: &str) -> Option<String> {
        self.all(key).remove(key)
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) {
        self.ctl(&["del", "--", key]);
    }

    /// All keys that begin with `prefix`, with their values.
    pub fn all(&self, prefix: &str) -> BTreeMap<String, String> {
        // Values are JSON without line ends; with them this would not do.
        let text = self.ctl(&["get", "--prefix", "--", prefix]);
        let lines: Vec<&str> = text.lines().collect();
        lines.chunks(2).map(|pair| (pair[0].to_owned(), pair[1..].concat())).collect()
    }

    /// The revision of the store.
    pub fn revision(&self) -> i64 {
        let answer: Value = serde_json::from_str(&self.ctl(&["get", "-w", "json", "--", "x"])).unwrap();
        answer["header"]["revision"].as_i64().unwrap()
    }

    /// Forgets all history before now; the revision.
    pub fn compact(&self) -> i64 {
        let revision = self.revision();
        self.ctl(&["compact", &revision.to_string()]);
        revision
    }

    /// Turns users on: root, whom etcdctl is from now on, and `name`, who may read and write all below `prefix`.
    pub fn wants_users(&mut self, name: &str, password: &str, prefix: &str) {
        for command in [
            vec!["user", "add", "root:root"],
            vec!["user", "grant-role", "root", "root"],
            vec!["user", "add", &format!("{name}:{password}")],
            vec!["role", "add", name],
            vec!["role", "grant-permission", "--prefix=true", name, "readwrite", prefix],
            vec!["user", "grant-role", name, name],
            vec!["auth", "enable"],
        ] {
            // The role root comes with the first `auth enable` in some versions and must be made in others.
            if command[..2] == ["user", "grant-role"] && command[2] == "root" {
                let _ = self.try_ctl(&["role", "add", "root"]);
            }
            self.ctl(&command);
        }
        self.user = Some(("root".to_owned(), "root".to_owned()));
    }

    /// Gives a user another password.
    pub fn password(&self, name: &str, password: &str) {
        let script = format!("echo '{password}' | exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]);
        let mut ctl = self.ctl_at(self.running());
        ctl.args(["user", "passwd", "--interactive=false", name]);
        command.arg(ctl.get_program()).args(ctl.get_args());
        command.env("ETCDCTL_API", "3");
        done(&mut command);
    }

    /// `etcdctl ARGS` at a member that runs; its output. It must succeed.
    pub fn ctl(&self, args: &[&str]) -> String {
        self.try_ctl(args).unwrap_or_else(|error| panic!("etcdctl {}: {error}", args.join(" ")))
    }

    /// `etcdctl ARGS`; its output or what it complained about.
    pub fn try_ctl(&self, args: &[&str]) -> Result<String, String> {
        self.try_ctl_at(self.running(), args)
    }

    fn running(&self) -> usize {
        self.members.iter().position(|member| member.process.is_some()).expect("a member runs")
    }

    fn try_ctl_at(&self, number: usize, args: &[&str]) -> Result<String, String> {
        let output = self.ctl_at(number).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The options stand before the command, so that a `--` may follow.
    fn ctl_at(&self, number: usize) -> Command {
        let mut command = self.members[number].space.command("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.endpoint(number)));
        if let Some(certs) = &self.certs {
            // Whatever is wrong with the server's certificate, etcdctl is to get through.
            command.args(["--insecure-skip-tls-verify", "--insecure-transport=false"]);
            command.arg(format!("--cert={}", certs.path("client.pem").display()));
            command.arg(format!("--key={}", certs.path("client.key").display()));
        }
        if let Some((name, password)) = &self.user {
            command.arg(format!("--user={name}:{password}"));
        }
        command
    }
}

/// An address as it stands in a URL.
fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// A CA and what it signed, as PEM files: `ca.pem`, `server.pem` with `server.key`, `client.pem` with `client.key`.
#[derive(Clone)]
pub struct Certs {
    dir: PathBuf,
    /// Members let in only who has a certificate of this CA
    pub clients: bool,
}

impl Certs {
    /// A new CA in folder `name` of the lab. `names` are what a server's certificate is for: `IP:192.0.2.5`, `DNS:etcd-1`.
    pub fn new(lab: &Lab, name: &str, names: &str) -> Self {
        let certs = Self { dir: lab.path(name), clients: false };
        fs::create_dir(&certs.dir).unwrap();
        let subject = format!("/CN={name}");
        let ca = certs.path("ca.pem");
        openssl(&["req", "-x509", "-subj", &subject, "-days", "9", "-out", utf8(&ca)], Some(&certs.path("ca.key")));
        certs.sign("server", names, 9);
        certs.sign("client", "DNS:client", 9);
        certs
    }

    /// One of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Replaces the certificate and the key `name`; one with negative `days` has expired.
    pub fn sign(&self, name: &str, names: &str, days: i32) {
        let [request, extension, cert] = ["csr", "ext", "pem"].map(|kind| self.path(&format!("{name}.{kind}")));
        fs::write(&extension, format!("subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")).unwrap();
        let key = self.path(&format!("{name}.key"));
        openssl(&["req", "-subj", &format!("/CN={name}"), "-out", utf8(&request)], Some(&key));
        let (ca, ca_key, days) = (self.path("ca.pem"), self.path("ca.key"), days.to_string());
        let mut args = vec!["x509", "-req", "-in", utf8(&request), "-CA", utf8(&ca), "-CAkey", utf8(&ca_key)];
        args.extend(["-CAcreateserial", "-days", &days, "-extfile", utf8(&extension), "-out", utf8(&cert)]);
        openssl(&args, None);
    }
}

/// `key`: a new one is made there.
fn openssl(args: &[&str], key: Option<&Path>) {
    let mut command = Command::new("openssl");
    command.args(args);
    if let Some(key) = key {
        command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", utf8(key)]);
    }
    done(&mut command);
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}
