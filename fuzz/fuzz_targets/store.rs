//! Keys and values of the store, as anybody who may write to it may write them: one entry, the key up to the first
//! zero octet. Never a panic, and what bars a subnet or is handed out makes sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave::cluster::claim::Claim;
use wayleave::cluster::flannel::Network;
use wayleave::cluster::keys::Keys;
use wayleave::cluster::lease::Memory;
use wayleave::cluster::mirror::Mirror;
use wayleave::cluster::{Entry, Event};

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (key, value) = (String::from_utf8_lossy(&data[..end]).into_owned(), data.get(end + 1..).unwrap_or_default());
    let mut mirror = Mirror::new(Keys::new("/n"));
    mirror.listed(Vec::new(), 1);
    mirror.apply(vec![Event::Put(Entry { key: key.clone(), value: value.to_vec(), created: 2, modified: 2 })], 2);
    mirror.apply(vec![Event::Delete { key, revision: 3 }], 3);
    assert!(mirror.is_virgin());
    if let Ok(claim) = Claim::read(value) {
        let again = Claim::read(&claim.write()).expect("our own claim is refused");
        assert_eq!(again, claim);
    }
    for range in Network::read(value).map_or_else(|_| Vec::new(), |network| network.ranges) {
        let last = range.nth(range.count() - 1).expect("a last subnet");
        assert!(range.pool.covers(&last) && last.addr() == range.last);
        assert!(range.nth(0).is_some_and(|first| first.addr() == range.first));
    }
    let _ = serde_json::from_slice::<Memory>(value);
});
