//! The tunnel device. Most kernels of test machines have no ipip, so each test runs again in
//! User-Mode Linux; on the kernel at hand only the error is looked at.

use std::path::Path;

use wayleave::io::tunnel::{self, Done, Tunnel, TunnelError};

use super::*;

/// Runs the test `name` of this executable in the guest. True: this is the guest, run the body.
fn in_uml(name: &str) -> bool {
    if std::env::var_os("WAYLEAVE_UML").is_some() {
        return true;
    }
    let me = std::env::current_exe().unwrap();
    let out = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/uml/run"))
        .args(["-t", "120", "--"])
        .arg(me)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    // A name that matches nothing would pass too.
    assert!(out.status.success() && text.contains("1 passed"), "in User-Mode Linux: {}\n{text}", out.status);
    false
}

fn wanted() -> Tunnel {
    Tunnel {
        name: "wayleave0".to_owned(),
        local: Ipv4Addr::new(192, 0, 2, 11),
        underlay_mtu: 1500,
        address: Some(Ipv4Addr::new(10, 244, 7, 1)),
    }
}

/// Device kind, ends, TTL, path MTU discovery, MTU, flags, IPv4 addresses as ip(8) shows them.
fn shown() -> (String, String, String, u64, bool, u64, bool, Vec<String>) {
    let link = ip_json("link show dev wayleave0").remove(0);
    let data = &link["linkinfo"]["info_data"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = ip_json("-4 address show dev wayleave0");
    let addresses = list.iter().flat_map(|dev| dev["addr_info"].as_array().into_iter().flatten());
    (
        text(&link["linkinfo"]["info_kind"]),
        text(&data["local"]),
        text(&data["remote"]),
        data["ttl"].as_u64().unwrap_or_default(),
        data["pmtudisc"].as_bool().unwrap_or_default(),
        link["mtu"].as_u64().unwrap(),
        link["flags"].as_array().unwrap().contains(&"UP".into()),
        addresses.map(|a| format!("{}/{}", text(&a["local"]), a["prefixlen"])).collect(),
    )
}

fn as_wanted(mtu: u64, address: &str) -> (String, String, String, u64, bool, u64, bool, Vec<String>) {
    ("ipip".into(), "192.0.2.11".into(), "any".into(), 64, true, mtu, true, vec![address.into()])
}

#[test]
fn tunnel_device_is_brought_to_what_is_wanted() {
    if !in_uml("tunnel::tunnel_device_is_brought_to_what_is_wanted") {
        return;
    }
    in_netns(async || {
        let wanted = wanted();
        assert!(!tunnel::remove("wayleave0").await.unwrap());
        let (first, done) = tunnel::ensure(&wanted).await.unwrap();
        assert_eq!(done, Done::Created);
        assert_eq!(shown(), as_wanted(1480, "10.244.7.1/32"));
        assert_eq!(index("wayleave0"), first);
        assert_eq!(tunnel::ensure(&wanted).await.unwrap(), (first, Done::Kept));

        // What somebody changed is set right, and routes over it stay.
        ip("route add 10.244.9.0/24 via 192.0.2.12 dev wayleave0 onlink proto 87");
        for change in [
            "link set wayleave0 mtu 1400",
            "link set wayleave0 type ipip local 192.0.2.99",
            "link set wayleave0 type ipip local 192.0.2.11 ttl 3",
            "address add 10.244.8.1/32 dev wayleave0",
            "address add 10.244.7.1/24 dev wayleave0",
        ] {
            ip(change);
            assert_eq!(tunnel::ensure(&wanted).await.unwrap(), (first, Done::Adjusted), "{change}");
            assert_eq!(shown(), as_wanted(1480, "10.244.7.1/32"), "{change}");
            assert!(ip("route show proto 87").contains("10.244.9.0/24"), "{change}");
        }
        ip("link set wayleave0 down");
        assert_eq!(tunnel::ensure(&wanted).await.unwrap(), (first, Done::Adjusted));
        assert_eq!(shown(), as_wanted(1480, "10.244.7.1/32"));

        let moved = Tunnel { underlay_mtu: 9000, address: Some(Ipv4Addr::new(10, 244, 8, 1)), ..wanted.clone() };
        assert_eq!(tunnel::ensure(&moved).await.unwrap(), (first, Done::Adjusted));
        assert_eq!(shown(), as_wanted(8980, "10.244.8.1/32"));

        assert!(tunnel::remove("wayleave0").await.unwrap());
        assert!(!tunnel::remove("wayleave0").await.unwrap());

        // What cannot be changed in place is made anew.
        for other in ["type ipip local 192.0.2.11 remote 192.0.2.12", "type ipip external"] {
            ip(&format!("link add wayleave0 {other}"));
            assert_eq!(tunnel::ensure(&wanted).await.unwrap().1, Done::Created, "{other}");
            assert_eq!(shown(), as_wanted(1480, "10.244.7.1/32"), "{other}");
            tunnel::remove("wayleave0").await.unwrap();
        }
        ip("link add wayleave0 type bridge");
        let error = tunnel::ensure(&wanted).await.unwrap_err();
        assert!(matches!(&error, TunnelError::NameTaken(name) if name == "wayleave0"), "{error}");
        assert!(!tunnel::remove("wayleave0").await.unwrap(), "not ours to remove");
        ip("link del wayleave0");

        ip("link add other type ipip local 192.0.2.11");
        let error = tunnel::ensure(&wanted).await.unwrap_err();
        assert!(matches!(error, TunnelError::EndTaken(_)), "{error}");
    });
}

#[test]
fn routes_over_the_tunnel_device_are_accepted() {
    if !in_uml("tunnel::routes_over_the_tunnel_device_are_accepted") {
        return;
    }
    in_netns(async || {
        ip("link add eth0 type dummy");
        ip("link set eth0 up");
        ip("address add 192.0.2.11/24 dev eth0");
        let (device, _) = tunnel::ensure(&wanted()).await.unwrap();
        let mut writer = writer::spawn(OURS, 1).unwrap();
        let hops = [Hop::tunnel(addr("198.51.100.9"), device), Hop::direct(addr("192.0.2.12"), index("eth0"))];
        assert_eq!(write_one(&mut writer, FibOp::Create(p("10.244.9.0/24"), via(hops))).await, Ok(()));
        let route = ip_json("route show 10.244.9.0/24").remove(0);
        let names: Vec<_> =
            route["nexthops"].as_array().unwrap().iter().map(|hop| hop["dev"].as_str().unwrap()).collect();
        assert_eq!(names, ["eth0", "wayleave0"]);
    });
}

#[test]
fn a_kernel_without_ipip_is_told_so() {
    in_netns(async || {
        let (has_ipip, _) = run("ip", "link add probe type ipip local 192.0.2.77");
        match tunnel::ensure(&wanted()).await {
            Ok((_, done)) => assert!(has_ipip && done == Done::Created),
            Err(error) => {
                assert!(!has_ipip && matches!(error, TunnelError::NoIpip), "{error}");
                assert!(error.to_string().contains("modprobe ipip"));
            }
        }
    });
}
