//! What the kernel counts of devices, and how full its neighbour tables are.

use std::collections::BTreeSet;
use std::io;

use super::encode::family_number;
use super::query::blocking;
use super::socket::Client;
use super::wire::{attributes, str_of, u32_at, u64_at};
use crate::net::{Family, PerFamily};

/// `RTM_NEWNEIGHTBL`, `RTM_GETNEIGHTBL` and their attributes (linux/neighbour.h).
const NEW_TABLE: u16 = 64;
const GET_TABLE: u16 = 66;
const TABLE_THRESHOLD_3: u16 = 4;
const TABLE_CONFIG: u16 = 5;

/// What has passed a device since it was made (`struct rtnl_link_stats64`).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Meter {
    /// Interface index
    pub device: u32,
    /// Its name
    pub name: String,
    /// Administratively up (`IFF_UP`)
    pub up: bool,
    /// Packets in
    pub rx_packets: u64,
    /// Packets out
    pub tx_packets: u64,
    /// Octets in
    pub rx_bytes: u64,
    /// Octets out
    pub tx_bytes: u64,
    /// Damaged packets in
    pub rx_errors: u64,
    /// Packets that could not be sent; a tunnel counts here what found no route
    pub tx_errors: u64,
    /// Packets in that found no room
    pub rx_dropped: u64,
    /// Packets out that found no room
    pub tx_dropped: u64,
    /// Of a tunnel: the way to its far end leads into itself
    pub collisions: u64,
    /// Packets out that were given up
    pub tx_aborted: u64,
    /// Of a tunnel: there is no way to its far end
    pub tx_carrier: u64,
}

/// The counters of these devices, in this order; of those that are gone none. One question for each: a
/// dump would have the kernel add up those of all containers.
pub async fn devices(devices: BTreeSet<u32>) -> io::Result<Vec<Meter>> {
    blocking(move |client| {
        let mut list = Vec::with_capacity(devices.len());
        for device in devices {
            // struct ifinfomsg: family, padding, type, index, flags, change.
            let mut header = [0; 16];
            header[4..8].copy_from_slice(&device.to_ne_bytes());
            let asked = client.ask(
                libc::RTM_GETLINK,
                0,
                |encoder| encoder.put(&header),
                |message| list.extend(meter(message.body)),
            );
            match asked {
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                asked => drop(asked?),
            }
        }
        Ok(list)
    })
    .await
}

fn meter(body: &[u8]) -> Option<Meter> {
    let up = u32_at(body, 8)? & libc::IFF_UP.unsigned_abs() != 0;
    let mut meter = Meter { device: u32_at(body, 4)?, up, ..Meter::default() };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => str_of(value)?.clone_into(&mut meter.name),
            libc::IFLA_STATS64 => {
                let field = |index: usize| u64_at(value, index * 8).unwrap_or_default();
                meter.rx_packets = field(0);
                meter.tx_packets = field(1);
                meter.rx_bytes = field(2);
                meter.tx_bytes = field(3);
                meter.rx_errors = field(4);
                meter.tx_errors = field(5);
                meter.rx_dropped = field(6);
                meter.tx_dropped = field(7);
                meter.collisions = field(9);
                meter.tx_aborted = field(16);
                meter.tx_carrier = field(17);
            }
            _ => {}
        }
    }
    (!meter.name.is_empty()).then_some(meter)
}

/// How full a neighbour table is. There is one for each family and kernel, whatever the namespaces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Table {
    /// Entries
    pub entries: u32,
    /// `gc_thresh3`
    pub limit: u32,
}

/// The neighbour tables; `None`: the kernel has none of that family.
pub async fn neighbour_tables() -> io::Result<PerFamily<Option<Table>>> {
    // A socket for each, as the rest of an answer is left unread.
    let of = |family| blocking(move |client| neighbour_table(client, family));
    let (v4, v6) = tokio::try_join!(of(Family::Ipv4), of(Family::Ipv6))?;
    Ok(PerFamily::new(v4, v6))
}

fn neighbour_table(client: &mut Client, family: Family) -> io::Result<Option<Table>> {
    // The table's own message is the first; one for each device of the host follows, of which none matters.
    client.first(
        GET_TABLE,
        |encoder| encoder.put(&[family_number(family), 0, 0, 0]),
        |message| if message.kind == NEW_TABLE { table(message.body) } else { None },
    )
}

fn table(body: &[u8]) -> Option<Table> {
    let (mut entries, mut limit) = (None, None);
    for (kind, value) in attributes(body.get(4..)?) {
        match kind {
            // struct ndt_config: two lengths of 16 bits, then the entries.
            TABLE_CONFIG => entries = u32_at(value, 4),
            TABLE_THRESHOLD_3 => limit = u32_at(value, 0),
            _ => {}
        }
    }
    Some(Table { entries: entries?, limit: limit? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_says_nothing() {
        for len in 0..16 {
            assert_eq!(meter(&[0; 16][..len]), None);
            assert_eq!(table(&[0; 16][..len]), None);
        }
    }
}
