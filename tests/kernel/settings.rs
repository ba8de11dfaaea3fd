//! Kernel settings and nftables.

use std::fs;

use wayleave::forward::sysctls;
use wayleave::io::nft::{self, NftError};
use wayleave::io::sysctl::Sysctl;

use super::*;

fn read(key: &str) -> String {
    fs::read_to_string(format!("/proc/sys/{key}")).unwrap().trim().to_owned()
}

#[test]
fn settings_are_made_and_unmade() {
    in_netns(async || {
        ip("link add wl.0 type bridge");
        ip("link add eth0 type bridge");
        let keys = [
            ("net/ipv4/ip_forward", "0", "1"),
            ("net/ipv4/fib_multipath_hash_policy", "0", "1"),
            ("net/ipv4/nexthop_compat_mode", "1", "0"),
            ("net/ipv4/conf/all/rp_filter", "1", "2"),
            ("net/ipv4/conf/wl.0/rp_filter", "1", "0"),
            ("net/ipv6/conf/all/forwarding", "0", "1"),
            ("net/ipv6/conf/eth0/accept_ra", "1", "2"),
        ];
        for (key, before, _) in keys {
            fs::write(format!("/proc/sys/{key}"), before).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let wanted = sysctls::wanted(Some("wl.0"), true, true, ["eth0"]);
        for round in 0..2 {
            let report = Sysctl::new(dir.path()).apply(&wanted).unwrap();
            assert!(report.iter().all(|done| done.result.is_ok()), "{report:?}");
            for (key, before, now) in keys {
                assert_eq!(read(key), now, "{key}");
                // sysctl(8)'s name for it: the separators the other way round.
                let swapped = key.replace('.', "|").replace('/', ".").replace('|', "/");
                let shown = report.iter().find(|done| done.key == swapped).unwrap();
                let was = if round == 0 { before } else { now };
                assert_eq!((shown.was.as_deref(), shown.now.as_str()), (Some(was), now), "{key}");
            }
        }
        Sysctl::new(dir.path()).restore().unwrap();
        for (key, before, _) in keys {
            assert_eq!(read(key), before, "{key}");
        }
    });
}

#[tokio::test]
async fn a_kernel_without_a_setting_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = sysctls::wanted(Some("nosuchdevice"), false, false, []);
    let missing = wanted.into_iter().filter(|setting| setting.key.contains("nosuchdevice")).collect::<Vec<_>>();
    let report = Sysctl::new(dir.path()).apply(&missing).unwrap();
    assert_eq!(report[0].result.as_ref().unwrap_err().to_string(), "this kernel has no such setting");
}

#[test]
fn a_ruleset_holds_or_nothing_changes() {
    in_netns(async || {
        nft::apply("table inet t {\n chain c {\n type filter hook input priority 0\n counter\n }\n}\n").await.unwrap();
        let (_, shown) = run("nft", "list table inet t");
        assert!(shown.contains("hook input"), "{shown}");
        let bad = "delete table inet t\nadd table inet u\nadd rule inet none none accept\n";
        let error = nft::apply(bad).await.unwrap_err();
        assert!(matches!(&error, NftError::Refused(line) if line.contains("No such file")), "{error}");
        assert!(run("nft", "list table inet t").0, "the transaction as a whole was refused");
        let syntax = nft::apply("tabel inet t").await.unwrap_err();
        assert!(syntax.to_string().contains("syntax error"), "{syntax}");
    });
}
