//! The Debian package and the container image, made of the program under test and used as an operator would.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::agent::{ROUTE, WAYLEAVE, password_file};
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
