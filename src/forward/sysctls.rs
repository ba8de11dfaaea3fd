//! The kernel settings a routed host needs, as a table. Reading and writing them is `io::sysctl`.

/// One kernel setting and the value it should have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    /// Name as sysctl(8) writes it: dots between parts, a dot inside a device's name as `/`.
    pub key: String,
    /// Wanted value.
    pub value: &'static str,
    /// Present value that this replaces; `None`: whatever it is. A value that is neither this
    /// one nor the wanted one is left alone.
    pub instead_of: Option<&'static str>,
}

impl Setting {
    fn always(key: impl Into<String>, value: &'static str) -> Self {
        Self { key: key.into(), value, instead_of: None }
    }

    /// Whether this present value is to be replaced.
    pub fn replaces(&self, present: &str) -> bool {
        present != self.value && self.instead_of.is_none_or(|old| present == old)
    }

    fn instead_of(key: impl Into<String>, old: &'static str, value: &'static str) -> Self {
        Self { key: key.into(), value, instead_of: Some(old) }
    }
}

/// Whether the kernel tells of every route again when a nexthop object changes; 1 by default.
pub const NEXTHOP_COMPAT_MODE: &str = "net.ipv4.nexthop_compat_mode";

/// Settings in the order in which they must be written.
///
/// `tunnel` is the name of the tunnel device, if one is used; it must exist by then. `ipv6` says
/// whether IPv6 is routed, `objects` whether routes refer to nexthop objects. `uplinks` are the devices a router may advertise a default route on:
/// they keep it although the host becomes a router. Container devices must not be among them,
/// or a container could become the host's default router.
pub fn wanted<'a>(
    tunnel: Option<&str>,
    ipv6: bool,
    objects: bool,
    uplinks: impl IntoIterator<Item = &'a str>,
) -> Vec<Setting> {
    let mut list = vec![
        // First: writing it resets other settings to the defaults of a router (ip-sysctl: ip_forward).
        Setting::always("net.ipv4.ip_forward", "1"),
        // Hash over ports too: by addresses alone all flows between two containers share one path.
        Setting::always("net.ipv4.fib_multipath_hash_policy", "1"),
        // Skip hops that don't answer ARP, and hops whose carrier is lost; the latter counts only if
        // set before the loss.
        Setting::always("net.ipv4.fib_multipath_use_neigh", "1"),
        Setting::always("net.ipv4.conf.all.ignore_routes_with_linkdown", "1"),
        // Strict filtering drops what returns by another uplink. The larger of `all` and the
        // device counts, so a strict `all` must become loose; other values are the operator's.
        Setting::instead_of("net.ipv4.conf.all.rp_filter", "1", "2"),
    ];
    if objects {
        // By default a changed object costs as much as all routes that use it, for programs that know
        // no objects. The one setting counts for IPv6 too.
        list.push(Setting::always(NEXTHOP_COMPAT_MODE, "0"));
    }
    if let Some(tunnel) = tunnel {
        let tunnel = device(tunnel);
        list.push(Setting::always(format!("net.ipv4.conf.{tunnel}.rp_filter"), "0"));
        // New devices take it from `default`, which need not follow ip_forward for ever.
        list.push(Setting::always(format!("net.ipv4.conf.{tunnel}.forwarding"), "1"));
    }
    if ipv6 {
        // Before forwarding: a router with accept_ra=1 drops its learned default route at once.
        list.extend(
            uplinks
                .into_iter()
                .map(|name| Setting::instead_of(format!("net.ipv6.conf.{}.accept_ra", device(name)), "1", "2")),
        );
        list.push(Setting::always("net.ipv6.conf.all.forwarding", "1"));
        list.push(Setting::always("net.ipv6.fib_multipath_hash_policy", "1"));
        list.push(Setting::always("net.ipv6.conf.all.ignore_routes_with_linkdown", "1"));
    }
    list
}

/// A device's name as a part of a key: sysctl(8) swaps the two separators.
fn device(name: &str) -> String {
    name.replace('.', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(list: &[Setting]) -> Vec<&str> {
        list.iter().map(|setting| setting.key.as_str()).collect()
    }

    #[test]
    fn forwarding_comes_first_and_ipv6_only_where_it_is_routed() {
        let ipv4 = wanted(Some("wayleave0"), false, true, ["eth0"]);
        assert_eq!(keys(&ipv4)[0], "net.ipv4.ip_forward");
        assert!(keys(&ipv4).contains(&"net.ipv4.conf.wayleave0.rp_filter"));
        assert!(keys(&ipv4).contains(&NEXTHOP_COMPAT_MODE));
        assert!(keys(&ipv4).iter().all(|key| key.starts_with("net.ipv4.")));
        let least = wanted(None, false, false, []);
        assert!(!keys(&least).iter().any(|key| key.contains("wayleave0") || *key == NEXTHOP_COMPAT_MODE));
    }

    #[test]
    fn a_learned_default_route_survives() {
        let both = wanted(None, true, false, ["eth0.100"]);
        let keys = keys(&both);
        let accept = keys.iter().position(|key| *key == "net.ipv6.conf.eth0/100.accept_ra").unwrap();
        let forward = keys.iter().position(|key| *key == "net.ipv6.conf.all.forwarding").unwrap();
        assert!(accept < forward);
        assert_eq!(both[accept].instead_of, Some("1"), "0 means that somebody else handles advertisements");
    }
}
