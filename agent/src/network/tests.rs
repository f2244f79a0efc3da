use super::*;

fn present(index: u32, name: &str) -> Present {
    Present { index, name: name.to_owned(), mac: [2, 0, 0, 0, 0, index as u8] }
}

fn wanted(index: u32, name: &str) -> Interface {
    Interface { mac: vec![2, 0, 0, 0, 0, index as u8], name: name.to_owned(), ..Default::default() }
}

fn renamed(present: &[Present], wanted: &[Interface]) -> Vec<(u32, String)> {
    let found: Vec<_> = wanted.iter().map(|wanted| find(present, wanted).unwrap()).collect();
    renames(present, wanted, &found).into_iter().map(|(from, to)| (from.index, to)).collect()
}

#[test]
fn names_can_change_places() {
    let present = [present(2, "eth0"), present(3, "eth1")];
    let to = |index: u32, name: &str| (index, name.to_owned());
    assert_eq!(
        renamed(&present, &[wanted(2, "eth1"), wanted(3, "eth0")]),
        [to(2, "spare2"), to(3, "spare3"), to(2, "eth1"), to(3, "eth0")]
    );
    assert_eq!(renamed(&present, &[wanted(3, "eth0")]), [to(2, "spare2"), to(3, "eth0")]);
    assert_eq!(renamed(&present, &[wanted(2, "eth0"), wanted(3, "eth1")]), []);
}

#[test]
fn a_device_is_found_by_its_old_address_until_it_has_the_new_one() {
    let present = [present(2, "eth0"), present(3, "eth1")];
    let mut interface = wanted(9, "eth0");
    assert!(matches!(find(&present, &interface), Err(NetworkError::Missing(name)) if name == "eth0"));
    interface.device_mac = vec![2, 0, 0, 0, 0, 3];
    assert_eq!(find(&present, &interface).unwrap().index, 3);
    interface.mac = vec![2, 0, 0, 0, 0, 2];
    assert_eq!(find(&present, &interface).unwrap().index, 2);
}

#[test]
fn addresses_of_impossible_lengths_are_refused() {
    let prefix = |len: usize, length| Prefix { address: vec![0; len], length, ..Default::default() };
    assert_eq!(family(&prefix(4, 32)), Some(Family::V4));
    assert_eq!(family(&prefix(16, 128)), Some(Family::V6));
    for (len, length) in [(0, 0), (4, 33), (5, 8), (16, 129)] {
        assert_eq!(family(&prefix(len, length)), None);
    }
    let route = Route { destination: Some(prefix(4, 0)).into(), gateway: vec![0; 16], ..Default::default() };
    assert_eq!(route_family(&route), None);
}

#[test]
fn a_mac_address_is_read_as_sysfs_writes_it() {
    assert_eq!(parse_mac("02:00:00:00:00:1f\n"), Some([2, 0, 0, 0, 0, 0x1f]));
    for text in ["", "02:00", "02:00:00:00:00:xx", "00:00:00:00:00:00:00:00"] {
        assert_eq!(parse_mac(text), None, "{text}");
    }
}
