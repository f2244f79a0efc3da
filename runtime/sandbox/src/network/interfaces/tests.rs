use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_route::route::RouteNextHop;

use super::*;

const INDEX: u32 = 4;

fn link(change: impl FnOnce(&mut LinkMessage)) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = INDEX;
    link.header.link_layer_type = LinkLayerType::Ether;
    link.header.flags = LinkFlags::Up;
    link.attributes = vec![
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 4]),
        LinkAttribute::Mtu(1450),
    ];
    change(&mut link);
    link
}

fn route(attributes: Vec<RouteAttribute>, change: impl FnOnce(&mut RouteHeader)) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.kind = RouteType::Unicast;
    route.attributes = attributes;
    change(&mut route.header);
    route
}

fn added(message: &RouteMessage) -> Result<Vec<Route>, NetworkError> {
    let mut interfaces = vec![interface(&link(|_| {})).unwrap().unwrap()];
    add_route(&mut interfaces, message)?;
    Ok(interfaces.remove(0).routes)
}

#[test]
fn only_ethernet_interfaces_that_are_up_and_stand_alone_are_the_guests() {
    let taken = |change: fn(&mut LinkMessage)| interface(&link(change)).unwrap().is_some();
    assert!(taken(|_| {}));
    assert!(!taken(|link| link.header.flags = LinkFlags::empty()));
    assert!(!taken(|link| link.header.link_layer_type = LinkLayerType::Loopback));
    assert!(!taken(|link| link.attributes.push(LinkAttribute::Controller(9))));
    let large = interface(&link(|link| link.attributes.push(LinkAttribute::Mtu(65_536))));
    assert!(matches!(large, Err(NetworkError::Unsupported { property: "an MTU above 65535", .. })));
}

#[test]
fn a_tap_is_told_by_its_kind_and_not_by_its_name_alone() {
    assert!(!is_tap(&link(|_| {})));
    let kind = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Tun)]);
    assert!(is_tap(&link(|link| link.attributes.push(kind))));
}

#[test]
fn an_address_on_a_line_between_two_is_our_own() {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.attributes = vec![
        AddressAttribute::Address(Ipv4Addr::new(10, 0, 0, 1).into()),
        AddressAttribute::Local(Ipv4Addr::new(10, 0, 0, 2).into()),
    ];
    let own = Prefix { address: Ipv4Addr::new(10, 0, 0, 2).into(), length: 32 };
    assert_eq!(address(&message), Some(own));
}

#[test]
fn link_local_addresses_and_routes_are_the_guests_to_make() {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.scope = AddressScope::Link;
    message.attributes = vec![AddressAttribute::Address("fe80::1".parse::<Ipv6Addr>().unwrap().into())];
    assert_eq!(address(&message), None);
    let destination = RouteAttribute::Destination(RouteAddress::Inet6("fe80::".parse().unwrap()));
    let message = route(vec![RouteAttribute::Oif(INDEX), destination], |header| {
        header.address_family = AddressFamily::Inet6;
    });
    assert_eq!(added(&message).unwrap(), []);
}

#[test]
fn a_default_route_has_its_gateway_metric_and_flags() {
    let gateway = Ipv4Addr::new(10, 0, 0, 1);
    let attributes = vec![
        RouteAttribute::Oif(INDEX),
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
        RouteAttribute::Priority(100),
    ];
    let default = Route {
        destination: Prefix { address: Ipv4Addr::UNSPECIFIED.into(), length: 0 },
        gateway: Some(gateway.into()),
        source: None,
        metric: 100,
        on_link: true,
    };
    assert_eq!(added(&route(attributes, |header| header.flags = RouteFlags::Onlink)).unwrap(), [default]);
}

#[test]
fn routes_that_are_not_the_interfaces_own_are_left_out() {
    let through = |index, change: fn(&mut RouteHeader)| {
        added(&route(vec![RouteAttribute::Oif(index)], change)).unwrap().len()
    };
    assert_eq!(through(INDEX, |_| {}), 1);
    assert_eq!(through(INDEX + 1, |_| {}), 0);
    assert_eq!(through(INDEX, |header| header.table = 255), 0);
    assert_eq!(through(INDEX, |header| header.protocol = RouteProtocol::Ra), 0);
    assert_eq!(through(INDEX, |header| header.kind = RouteType::Broadcast), 0);
}

#[test]
fn a_route_that_cannot_be_told_is_refused_by_name() {
    let mut hop = RouteNextHop::default();
    hop.interface_index = INDEX;
    let refused = added(&route(vec![RouteAttribute::MultiPath(vec![hop])], |_| {}));
    assert!(
        matches!(&refused, Err(NetworkError::Unsupported { interface, .. }) if interface == "eth0"),
        "{refused:?}"
    );
}

#[test]
fn only_neighbours_known_for_good_are_told() {
    let mut message = NeighbourMessage::default();
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::new(169, 254, 1, 1))),
        NeighbourAttribute::LinkLayerAddress(vec![0xee; 6]),
    ];
    message.header.state = NeighbourState::Reachable;
    assert_eq!(neighbour(&message), None);
    message.header.state = NeighbourState::Permanent;
    let known = Neighbour { address: Ipv4Addr::new(169, 254, 1, 1).into(), mac: [0xee; 6] };
    assert_eq!(neighbour(&message), Some(known));
}
