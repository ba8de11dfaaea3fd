//! Segments that the kernel's TCP drops without a word, by its own counters.

use crate::explain::peer::Drops;

/// How the counters of this network namespace stand; all zero where the kernel shows none.
pub fn tcp() -> Drops {
    parse(&std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap_or_default())
}

/// Pairs of lines, `TcpExt: name …` and `TcpExt: value …`.
fn parse(text: &str) -> Drops {
    let mut drops = Drops::default();
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        for (name, value) in names.split(' ').zip(values.split(' ')).skip(1) {
            let slot = match name {
                "TCPMD5NotFound" => &mut drops.unsigned,
                "TCPMD5Unexpected" => &mut drops.unexpected,
                "TCPMD5Failure" => &mut drops.other_key,
                "TCPMinTTLDrop" => &mut drops.ttl,
                _ => continue,
            };
            *slot = value.parse().unwrap_or_default();
        }
    }
    drops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_stand_in_two_lines() {
        let text = "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure TCPMinTTLDrop\n\
                    TcpExt: 9 1 2 3 4\nIpExt: InNoRoutes TCPMinTTLDrop\n";
        assert_eq!(parse(text), Drops { unsigned: 1, unexpected: 2, other_key: 3, ttl: 4 });
        assert_eq!(parse(""), Drops::default());
    }
}
