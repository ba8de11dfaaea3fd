//! The claim of a subnet, as it stands in the store: flannel's lease, with who holds it beside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What we write as `BackendType`.
pub const BACKEND: &str = "wayleave";

/// Who holds a subnet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// Who holds it
    pub holder: Holder,
    /// Where that node is; none: reserved for a node that has not come yet
    pub address: Option<IpAddr>,
    /// Where it is in IPv6 besides, which flannel says of hosts with both
    pub second: Option<IpAddr>,
}

/// Who holds a subnet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Holder {
    /// A node of ours
    Node(Owner),
    /// Another program, such as flannel: its `BackendType`
    Other(String),
}

/// A node of ours that holds a subnet, or is to have it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Owner {
    /// Its name
    #[serde(rename = "Node")]
    pub node: String,
    /// What tells it from another host of this name; empty: an operator reserved the subnet for whoever
    /// comes by this name
    #[serde(rename = "Id", default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Since when it is its subnet, in Unix seconds, by the clock of who wrote it
    #[serde(rename = "Since", default)]
    pub since: u64,
}

/// As it is written: flannel's `LeaseAttrs`.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(rename = "PublicIP", default, skip_serializing_if = "Option::is_none")]
    ipv4: Option<Ipv4Addr>,
    #[serde(rename = "PublicIPv6", default, skip_serializing_if = "Option::is_none")]
    ipv6: Option<Ipv6Addr>,
    #[serde(rename = "BackendType", default)]
    backend: String,
    #[serde(rename = "BackendData", default, skip_serializing_if = "serde_json::Value::is_null")]
    data: serde_json::Value,
}

impl Claim {
    /// What stands in the store; the error says what is wrong with it.
    pub fn read(value: &[u8]) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let holder = if written.backend == BACKEND {
            Holder::Node(serde_json::from_value(written.data).map_err(|error| format!("BackendData: {error}"))?)
        } else {
            Holder::Other(written.backend)
        };
        let ipv4 = written.ipv4.filter(|address| !address.is_unspecified()).map(IpAddr::V4);
        let ipv6 = written.ipv6.filter(|address| !address.is_unspecified()).map(IpAddr::V6);
        let (address, second) = if ipv4.is_some() { (ipv4, ipv6) } else { (ipv6, None) };
        Ok(Self { holder, address, second })
    }

    /// As it is written to the store.
    pub fn write(&self) -> Vec<u8> {
        let (backend, data) = match &self.holder {
            Holder::Node(owner) => (BACKEND, serde_json::to_value(owner).unwrap_or_default()),
            Holder::Other(backend) => (backend.as_str(), serde_json::Value::Null),
        };
        let (mut ipv4, mut ipv6) = (None, None);
        for address in self.address.into_iter().chain(self.second) {
            match address {
                IpAddr::V4(address) => ipv4 = Some(address),
                IpAddr::V6(address) => ipv6 = Some(address),
            }
        }
        let written = Written { ipv4, ipv6, backend: backend.to_owned(), data };
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// One that says nothing that we understand, and bars its subnet all the same.
    pub fn unreadable() -> Self {
        Self { holder: Holder::Other("unreadable".to_owned()), address: None, second: None }
    }

    /// That of a node of ours.
    pub fn of(owner: Owner, address: Option<IpAddr>) -> Self {
        Self { holder: Holder::Node(owner), address, second: None }
    }

    /// Whether its holder is there.
    pub fn is_at(&self, address: IpAddr) -> bool {
        self.address == Some(address) || self.second == Some(address)
    }

    /// For which node an operator has set it aside.
    pub fn reserved(&self) -> Option<&str> {
        self.owner().filter(|owner| owner.id.is_empty()).map(|owner| owner.node.as_str())
    }

    /// The node of ours that holds it or is to have it.
    pub fn owner(&self) -> Option<&Owner> {
        match &self.holder {
            Holder::Node(owner) => Some(owner),
            Holder::Other(_) => None,
        }
    }

    /// Who holds it, for people.
    pub fn holder(&self) -> String {
        match &self.holder {
            Holder::Node(owner) => owner.node.clone(),
            Holder::Other(backend) => match self.address {
                Some(address) => format!("{address} ({backend})"),
                None => backend.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(backend: &str, address: Option<&str>, second: Option<&str>) -> Claim {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        Claim { holder: Holder::Other(backend.to_owned()), address: address.map(parse), second: second.map(parse) }
    }

    fn ours(node: &str, id: &str, since: u64, address: Option<&str>) -> Claim {
        let owner = Owner { node: node.to_owned(), id: id.to_owned(), since };
        Claim::of(owner, address.map(|text| text.parse().unwrap()))
    }

    #[test]
    fn what_flannel_writes_is_read() {
        let cases = [
            // (why, value, claim)
            (
                "vxlan",
                r#"{"PublicIP":"192.0.2.11","PublicIPv6":null,"BackendType":"vxlan",
                    "BackendData":{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"}}"#,
                other("vxlan", Some("192.0.2.11"), None),
            ),
            (
                "vxlan in both families",
                r#"{"PublicIP":"192.0.2.11","PublicIPv6":"2001:db8::11","BackendType":"vxlan",
                    "BackendData":{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"},"BackendV6Data":{"VNI":1,"VtepMAC":"x"}}"#,
                other("vxlan", Some("192.0.2.11"), Some("2001:db8::11")),
            ),
            (
                "host-gw has no data",
                r#"{"PublicIP":"192.0.2.11","PublicIPv6":null,"BackendType":"host-gw"}"#,
                other("host-gw", Some("192.0.2.11"), None),
            ),
            (
                "IPv6 alone: the other address is zero",
                r#"{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::11","BackendType":"host-gw"}"#,
                other("host-gw", Some("2001:db8::11"), None),
            ),
            ("flannel's tests", r#"{ "PublicIP": "1.1.1.1" }"#, other("", Some("1.1.1.1"), None)),
            ("nothing said", "{}", other("", None, None)),
        ];
        for (why, value, claim) in cases {
            assert_eq!(Claim::read(value.as_bytes()), Ok(claim), "{why}");
        }
    }

    #[test]
    fn ours_stand_there_as_documented() {
        let cases = [
            // (why, claim, value)
            (
                "a node's",
                ours("host-a", "1f", 1_700_000_000, Some("192.0.2.11")),
                r#"{"PublicIP":"192.0.2.11","BackendType":"wayleave","BackendData":{"Id":"1f","Node":"host-a","Since":1700000000}}"#,
            ),
            (
                "a node's that is reached by IPv6",
                ours("host-a", "1f", 7, Some("2001:db8::11")),
                r#"{"PublicIPv6":"2001:db8::11","BackendType":"wayleave","BackendData":{"Id":"1f","Node":"host-a","Since":7}}"#,
            ),
            (
                "reserved",
                ours("host-b", "", 7, None),
                r#"{"BackendType":"wayleave","BackendData":{"Node":"host-b","Since":7}}"#,
            ),
        ];
        for (why, claim, value) in cases {
            assert_eq!(String::from_utf8(claim.write()).unwrap(), value, "{why}");
            assert_eq!(Claim::read(value.as_bytes()), Ok(claim), "{why}");
        }
        assert_eq!(ours("host-b", "", 7, None).reserved(), Some("host-b"));
        assert_eq!(ours("host-b", "1f", 7, None).reserved(), None);
    }

    #[test]
    fn fields_of_later_versions_are_left_alone() {
        let value = r#"{"PublicIP":"192.0.2.11","Zone":"b","BackendType":"wayleave",
            "BackendData":{"Node":"host-a","Id":"1f","Since":7,"Rack":[1]}}"#;
        assert_eq!(Claim::read(value.as_bytes()), Ok(ours("host-a", "1f", 7, Some("192.0.2.11"))));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            // (value, error)
            ("", "EOF while parsing a value at line 1 column 0"),
            (r#"{"PublicIP":"nowhere"}"#, "invalid IPv4 address syntax at line 1 column 21"),
            (r#"{"BackendType":"wayleave"}"#, "BackendData: invalid type: null, expected struct Owner"),
            (r#"{"BackendType":"wayleave","BackendData":{}}"#, "BackendData: missing field `Node`"),
        ];
        for (value, error) in cases {
            assert_eq!(Claim::read(value.as_bytes()), Err(error.to_owned()), "{value}");
        }
    }

    #[test]
    fn people_read_who_holds_it() {
        assert_eq!(ours("host-a", "1f", 7, None).holder(), "host-a");
        assert_eq!(other("vxlan", Some("192.0.2.11"), None).holder(), "192.0.2.11 (vxlan)");
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_again(
            node in "[a-z0-9.-]{1,20}", id in "[0-9a-f]{0,32}", since in 0_u64.., address: Option<IpAddr>,
        ) {
            let address = address.filter(|address| !address.is_unspecified());
            let claim = Claim::of(Owner { node, id, since }, address);
            proptest::prop_assert_eq!(Claim::read(&claim.write()), Ok(claim));
        }
    }
}
