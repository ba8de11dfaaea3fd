//! The Debian package and the container image, made of the program under test and used as an operator would.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::agent::{ROUTE, SESSION, WAYLEAVE, password_file};
use crate::harness::docker::Docker;
use crate::harness::netns::done;
use crate::harness::{Lab, Process, holds};
use crate::story::Config;

const TOP: &str = env!("CARGO_MANIFEST_DIR");

/// Runs one of the builders with the program under test; the file it names.
pub fn build(script: &str, out: &Path, version: &str) -> PathBuf {
    let mut build = Command::new(format!("{TOP}/packaging/{script}"));
    build.arg(out).env("BIN", WAYLEAVE).env("VERSION", version).env("COMPRESSION", "none");
    done(&mut build).trim().into()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn debian_package_from_install_to_purge() {
    let dir = TempDir::with_prefix("wl-deb-").unwrap();
    let version = env!("CARGO_PKG_VERSION");
    // A tilde sorts before the end: an older one.
    let old = build("debian/build", dir.path(), &format!("{version}~old"));
    let new = build("debian/build", dir.path(), version);
    let output =
        Command::new(format!("{TOP}/tests/packaging/debian")).arg(old).arg(new).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    // A script that stops in the midst and says that all is well would pass too.
    assert!(text(&output).contains("ok: and is not tried again and again"), "{}", text(&output));
}

#[test]
fn container_image() {
    let lab = Lab::new();
    let archive = build("image/build", &lab.path("image"), env!("CARGO_PKG_VERSION"));
    let (image, root) = (lab.path("unpacked"), lab.path("root"));
    for (archive, to) in [(&archive, &image), (&image.join("layer.tar"), &root)] {
        fs::create_dir(to).unwrap();
        done(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(to));
    }
    let json = |name: &str| -> Value { serde_json::from_slice(&fs::read(image.join(name)).unwrap()).unwrap() };

    // What `docker load` follows: the manifest names a description by its hash, that the layer by its own.
    let manifest = json("manifest.json");
    let config = manifest[0]["Config"].as_str().unwrap();
    let hash = |name: &str| done(Command::new("sha256sum").arg(image.join(name)))[..64].to_owned();
    assert_eq!(config, format!("{}.json", hash(config)));
    assert_eq!(manifest[0]["Layers"], serde_json::json!(["layer.tar"]));
    assert_eq!(json(config)["rootfs"]["diff_ids"][0], format!("sha256:{}", hash("layer.tar")));
    assert_eq!(json(config)["config"]["Entrypoint"][0], "/usr/bin/wayleave");
    let size = fs::metadata(&archive).unwrap().len();
    // Of the debug build; the release is 18 MB.
    assert!(size < 60_000_000, "{size} bytes");

    // It runs on its own files alone.
    let host = lab.netns("host");
    lab.link((&lab.netns("peer"), "eth0", &[]), (&host, "eth0", &["10.0.0.2/24"]));
    let inside = |program: &str, args: &[&str]| {
        let mut command = host.command("chroot");
        command.arg(&root).arg(program).args(args);
        text(&command.output().unwrap())
    };
    assert_eq!(inside("/usr/bin/wayleave", &["--version"]).trim(), concat!("wayleave ", env!("CARGO_PKG_VERSION")));
    for (program, args, wanted) in [
        ("/usr/sbin/nft", &["--version"][..], "nftables v"),
        ("/usr/sbin/ip", &["-V"], "ip utility"),
        ("/usr/sbin/iptables", &["--version"], "(nf_tables)"),
        ("/usr/sbin/iptables-legacy", &["--version"], "(legacy)"),
    ] {
        let said = inside(program, args);
        assert!(said.contains(wanted), "{program}: {said}");
    }
    assert_eq!(
        inside("/usr/sbin/iptables", &["-A", "FORWARD", "-m", "comment", "--comment", "x", "-j", "ACCEPT"]),
        "",
        "with the extensions that are opened by name"
    );

    let config = Config::host().text().replace("masquerade = false", "masquerade = true\nsubnet_file = \"\"");
    let key = password_file(&lab, "tor.key", "sesame");
    fs::copy(key, root.join("etc/wayleave/tor.key")).unwrap();
    fs::set_permissions(root.join("etc/wayleave/tor.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let peer = "[[bgp.peers]]\naddress = \"10.0.0.1\"\nasn = 65001\npassword_file = \"/etc/wayleave/tor.key\"\n";
    fs::write(root.join("etc/wayleave/wayleave.toml"), format!("{config}{peer}")).unwrap();
    assert_eq!(inside("/usr/bin/wayleave", &["check"]).trim(), "/etc/wayleave/wayleave.toml: ok");
    let script = format!("mount -t proc proc {0}/proc && exec chroot {0} /usr/bin/wayleave run", root.display());
    let args = ["-m", "--propagation=private", "sh", "-c", &script];
    let mut daemon = Process::start(&lab, &host, "container", "unshare", &args, &[("PATH", "/usr/sbin:/usr/bin")]);
    holds("it is up", ROUTE, || inside("/usr/bin/wayleave", &["status"]).contains("node-10.0.0.2"));
    holds("with its firewall", ROUTE, || inside("/usr/sbin/nft", &["list", "tables"]).contains("inet wayleave"));
    holds("with its routes, by name", ROUTE, || inside("/usr/sbin/ip", &["route"]).contains("proto wayleave"));
    assert!(daemon.terminate(ROUTE).success());
}

/// What `docker run` must be told for a service of a Compose file to be as the file says; volumes lie in `dir` instead of
/// on this host.
fn docker_run(service: &Value, dir: &Path) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
    let each =
        |value: &Value| value.as_array().unwrap_or_else(|| panic!("{value}")).iter().map(text).collect::<Vec<_>>();
    let mut args = Vec::new();
    for (key, value) in service.as_object().unwrap() {
        let (option, values) = match key.as_str() {
            "image" => continue,
            "container_name" => ("--name", vec![text(value)]),
            "restart" => ("--restart", vec![text(value)]),
            "network_mode" => ("--network", vec![text(value)]),
            "cap_drop" => ("--cap-drop", each(value)),
            "cap_add" => ("--cap-add", each(value)),
            "security_opt" => ("--security-opt", each(value)),
            "tmpfs" => ("--tmpfs", each(value)),
            "stop_grace_period" => ("--stop-timeout", vec![text(value).trim_end_matches('s').to_owned()]),
            "logging" => ("--log-driver", vec![text(&value["driver"])]),
            "volumes" => ("--volume", each(value).iter().map(|volume| format!("{}{volume}", dir.display())).collect()),
            "read_only" => {
                assert_eq!(value, true);
                args.push("--read-only".to_owned());
                continue;
            }
            _ => panic!("{key}: what is it for `docker run`?"),
        };
        args.extend(values.into_iter().flat_map(|value| [option.to_owned(), value]));
    }
    args
}

#[test]
fn container_of_docker() {
    let lab = Lab::new();
    let archive = build("image/build", &lab.path("image"), env!("CARGO_PKG_VERSION"));
    let compose = Command::new("/usr/bin/python3")
        .args(["-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"])
        .arg(format!("{TOP}/packaging/image/compose.yml"))
        .output()
        .unwrap();
    assert!(compose.status.success(), "{}", text(&compose));
    let compose: Value = serde_json::from_slice(&compose.stdout).unwrap();
    let service = &compose["services"]["wayleave"];

    // Who has no Compose types the same.
    let install = fs::read_to_string(format!("{TOP}/docs/install.md")).unwrap();
    let typed = install.split("docker run").nth(1).unwrap().split("```").next().unwrap().replace('\\', " ");
    let typed: Vec<&str> = typed.split_whitespace().collect();
    let mut wanted = docker_run(service, Path::new(""));
    wanted.extend(["--detach".to_owned(), service["image"].as_str().unwrap().to_owned()]);
    let sorted = |mut words: Vec<String>| {
        words.sort();
        words
    };
    assert_eq!(sorted(typed.iter().map(|&word| word.to_owned()).collect()), sorted(wanted), "docs/install.md");

    let host = lab.netns("host");
    lab.link((&lab.netns("peer"), "eth0", &[]), (&host, "eth0", &["10.0.0.2/24"]));
    let docker = Docker::start(&lab, &host, &["--bip=10.244.7.1/24"], true);
    docker.succeed(&["load", "-i", archive.to_str().unwrap()]);
    let dir = lab.path("volumes");
    fs::create_dir_all(dir.join("etc/wayleave")).unwrap();
    fs::write(dir.join("etc/wayleave/wayleave.toml"), Config::host().text()).unwrap();
    let options = docker_run(service, &dir);
    let image = service["image"].as_str().unwrap();
    let args: Vec<&str> =
        ["run", "--detach"].into_iter().chain(options.iter().map(String::as_str)).chain([image]).collect();
    docker.succeed(&args);
    let inside = |args: &[&str]| docker.docker(&[&["exec", "wayleave"][..], args].concat());
    holds("it is ready", SESSION, || {
        let status = inside(&["wayleave", "status", "--json"]);
        serde_json::from_slice::<Value>(&status.stdout).is_ok_and(|status| status["ready"] == true)
    });
    let routes = || host.ip("route show proto 87");
    holds("routes are the host's", ROUTE, || routes().contains("blackhole 10.244.7.0/24"));
    holds("the rule for Docker, by the older iptables", ROUTE, || {
        docker.iptables("-S DOCKER-USER").contains("--comment wayleave")
    });
    let problems = text(&inside(&["wayleave", "status"]));
    assert!(!problems.contains("could not be set"), "{problems}");
    docker.succeed(&["stop", "wayleave"]);
    assert_eq!(docker.succeed(&["inspect", "-f", "{{.State.ExitCode}}", "wayleave"]), "0");
    assert!(routes().contains("blackhole 10.244.7.0/24"), "stopped, it leaves routes");
}
