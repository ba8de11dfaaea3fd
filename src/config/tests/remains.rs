//! What is read for `wayleave clean`.

use super::super::{Remains, remains};

#[test]
fn a_file_with_other_faults_is_enough_to_clean_up() {
    // (why, text, (state_dir, protocol, socket) or the keys that are wrong)
    type Case<'a> = (&'a str, &'a str, Result<(&'a str, u8, &'a str), &'a [&'a str]>);

    let defaults = ("/var/lib/wayleave", 87, "/run/wayleave/wayleave.sock");
    let cases: [Case<'_>; 7] = [
        ("nothing", "", Ok(defaults)),
        (
            "all of it",
            "state_dir = \"/srv/w\"\n[kernel]\nprotocol = 99\n[control]\nsocket = \"/run/w.sock\"\n",
            Ok(("/srv/w", 99, "/run/w.sock")),
        ),
        (
            "keys that only a newer one knows, a secret, no AS",
            "new = 1\n[kernel]\nnew = 1\nprotocol = 99\n[[bgp.peers]]\npassword_file = \"/none\"\n[newer]\n",
            Ok(("/var/lib/wayleave", 99, "/run/wayleave/wayleave.sock")),
        ),
        ("a value without its quotes elsewhere", "[bgp]\nhold_time = 9s\n", Ok(defaults)),
        ("what is needed", "[kernel]\nprotocol = 2\n", Err(&["kernel.protocol"])),
        ("a section that is none", "control = 1\n", Err(&["control"])),
        ("no TOML", "[kernel\nprotocol = 99\n", Err(&[""])),
    ];
    for (why, text, wanted) in cases {
        let found = remains(text).map_err(|found| found.into_iter().map(|found| found.key).collect::<Vec<_>>());
        let wanted = wanted
            .map(|(state_dir, protocol, socket)| Remains {
                state_dir: state_dir.into(),
                protocol,
                socket: socket.into(),
            })
            .map_err(|keys| keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>());
        assert_eq!(found, wanted, "{why}");
    }
}
