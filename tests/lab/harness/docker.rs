//! A host with a real Docker: dockerd, containerd and containers in namespaces of their own.
//!
//! dockerd runs with its default paths, over folders of the lab.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;

use super::capsule::Capsule;
use super::netns::done;
use super::{Lab, Netns, holds, wait_for};

/// As Debian installs them: another client may stand first in the PATH.
const DOCKER: &str = "/usr/bin/docker";
const DOCKERD: &str = "/usr/sbin/dockerd";
/// How long dockerd, or a container, may take to start on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Where they are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// sysfs shows the network namespace it was mounted in; the cgroups are below it.
const HOLDER: &str = r#"
mkdir -p "$1/cgroup" "$1/etc" "$1/lib"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /etc/docker /var/lib/docker
mount --bind "$1/etc" /etc/docker
mount --bind "$1/lib" /var/lib/docker
"#;

/// What containers do: say who asks, on each of these ports.
const SERVE: &str =
    "for port in $PORTS; do httpd -p $port -h /www; done; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

/// A host with Docker.
pub struct Docker {
    space: Netns,
    capsule: Option<Capsule>,
    /// Which iptables dockerd finds: a folder that comes first in its PATH
    tools: Option<PathBuf>,
    args: Vec<String>,
    dockerd: Option<Child>,
}

impl Docker {
    /// Starts dockerd with these further options, and imports the image `box`. `legacy`: its iptables is the older one.
    pub fn start(lab: &Lab, space: &Netns, options: &[&str], legacy: bool) -> Self {
        let capsule = Capsule::start(lab, space, "docker", HOLDER);
        let tools = legacy.then(|| legacy_tools(capsule.dir()));
        let options = options.iter().map(|option| (*option).to_owned());
        let parent = format!("--cgroup-parent=/{}", space.name());
        let args = options.chain([parent, "--shutdown-timeout=3".to_owned()]).collect();
        let mut docker = Self { space: space.clone(), capsule: Some(capsule), tools, args, dockerd: None };
        docker.launch();
        docker.import();
        docker
    }

    fn capsule(&self) -> &Capsule {
        self.capsule.as_ref().expect("it goes at the end")
    }

    /// A command line inside.
    fn inside(&self, program: &str) -> Command {
        let mut command = self.capsule().command(program);
        if let Some(tools) = &self.tools {
            command.env("PATH", format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default()));
        }
        command
    }

    fn launch(&mut self) {
        let log =
            OpenOptions::new().create(true).append(true).open(self.capsule().dir().with_extension("log")).unwrap();
        let mut command = self.inside(DOCKERD);
        command.args(&self.args).stdout(log.try_clone().unwrap()).stderr(log);
        self.dockerd = Some(command.spawn().unwrap());
        let space = self.space.short().to_owned();
        holds(&format!("{space}: dockerd answers"), LIMIT, || self.docker(&["version"]).status.success());
    }

    /// Stops dockerd and its containers, and starts them again.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    fn stop(&mut self) {
        let mut dockerd = self.dockerd.take().expect("dockerd runs");
        done(self.inside("sh").args(["-c", "kill -TERM $(cat /run/docker.pid)"]));
        wait_for(&format!("{}: dockerd ends", self.space.short()), LIMIT, || dockerd.try_wait().unwrap());
    }

    /// `docker ARGS`.
    pub fn docker(&self, args: &[&str]) -> Output {
        self.inside(DOCKER).args(args).output().unwrap()
    }

    /// An image with nothing but busybox and a page that says who asks for it.
    fn import(&self) {
        let dir = self.capsule().dir();
        let root = dir.join("box");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for tool in ["httpd", "ping", "sh", "sleep", "timeout", "wget"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
        }
        page(&root.join("www"));
        let tar = dir.join("box.tar");
        done(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."));
        done(self.inside(DOCKER).args(["import"]).arg(&tar).arg("box"));
    }

    /// Starts a container that serves on these ports, with more options of `docker run`; its address.
    pub fn run(&self, name: &str, ports: &str, options: &[&str]) -> String {
        let ports = format!("PORTS={ports}");
        let args =
            [&["run", "-d", "--restart=always", "--name", name, "-e", &ports], options, &["box", "sh", "-c", SERVE]]
                .concat();
        self.succeed(&args);
        self.succeed(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name])
    }

    /// What `docker ARGS` prints.
    pub fn succeed(&self, args: &[&str]) -> String {
        let output = self.docker(args);
        assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Whether a command in a container succeeds, and what it prints.
    pub fn exec(&self, name: &str, command: &str) -> Option<String> {
        let output = self.docker(&["exec", name, "sh", "-c", command]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// `iptables ARGS` as this host's dockerd would run it.
    pub fn iptables(&self, args: &str) -> String {
        done(self.inside("iptables").arg("-w").args(args.split(' ')))
    }
}

/// A folder for `httpd` with a page that says who asks.
pub fn page(www: &Path) {
    let script = www.join("cgi-bin/who");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    // busybox writes an IPv4 address as one of IPv6 in brackets.
    let text = "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'\na=${REMOTE_ADDR#*ffff:}\necho ${a%]}\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Links that make the older iptables the one that is found.
fn legacy_tools(dir: &Path) -> PathBuf {
    let tools = dir.join("tools");
    fs::create_dir_all(&tools).unwrap();
    for tool in ["iptables", "ip6tables", "iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"] {
        std::os::unix::fs::symlink("/usr/sbin/xtables-legacy-multi", tools.join(tool)).unwrap();
    }
    tools
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.capsule = None;
        if let Some(mut dockerd) = self.dockerd.take() {
            let _ = dockerd.wait();
        }
        remove_cgroups(|name| name == self.space.name());
    }
}

/// Removes what Docker leaves of the cgroups of its containers, of these names at the top; whether they are all gone.
pub fn remove_cgroups(ours: impl Fn(&str) -> bool) -> bool {
    // With cgroup v2 there is one hierarchy, and it is the folder itself.
    let tops = folders(Path::new(CGROUPS)).into_iter().chain([CGROUPS.into()]);
    let cgroups = tops.flat_map(|top| folders(&top));
    let cgroups = cgroups.filter(|path| path.file_name().is_some_and(|name| ours(&name.to_string_lossy())));
    // Each is tried, whatever became of the one before.
    cgroups.filter(|cgroup| !remove_cgroup(cgroup)).count() == 0
}

/// Cgroups are removed from the inside out; their files can't be.
fn remove_cgroup(path: &Path) -> bool {
    for folder in folders(path) {
        remove_cgroup(&folder);
    }
    fs::remove_dir(path).is_ok()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}
