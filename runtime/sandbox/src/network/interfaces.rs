//! What a namespace has: links, addresses, routes, neighbours, as the kernel lists them.

use std::{io, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType},
};

use super::{Interface, Neighbour, NetworkError, Prefix, Route, netlink::Netlink};

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

pub(super) fn links(netlink: &mut Netlink) -> Result<Vec<LinkMessage>, NetworkError> {
    let answers = netlink.list(RouteNetlinkMessage::GetLink(LinkMessage::default()));
    let one = |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    };
    collect("interfaces", answers, one)
}

pub(super) fn name(link: &LinkMessage) -> &str {
    fn name(attribute: &LinkAttribute) -> Option<&str> {
        match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        }
    }
    link.attributes.iter().find_map(name).unwrap_or_default()
}

pub(super) fn is_tap(link: &LinkMessage) -> bool {
    let kinds = link.attributes.iter().flat_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.as_slice(),
        _ => &[],
    });
    kinds.into_iter().any(|info| *info == LinkInfo::Kind(InfoKind::Tun))
}

/// The Ethernet interfaces among `links` that are up, no part of another one, and `wanted` by their index.
pub(super) fn read(
    netlink: &mut Netlink,
    links: &[LinkMessage],
    wanted: impl Fn(u32) -> bool,
) -> Result<Vec<Interface>, NetworkError> {
    let mut interfaces = Vec::new();
    for link in links.iter().filter(|link| wanted(link.header.index)) {
        interfaces.extend(interface(link)?);
    }
    for family in FAMILIES {
        for message in addresses(netlink, family)? {
            let owner = interfaces.iter_mut().find(|interface| interface.index == message.header.index);
            if let (Some(interface), Some(address)) = (owner, address(&message)) {
                interface.addresses.push(address);
            }
        }
        for message in routes(netlink, family)? {
            add_route(&mut interfaces, &message)?;
        }
        for message in neighbours(netlink, family)? {
            let owner = interfaces.iter_mut().find(|interface| interface.index == message.header.ifindex);
            if let (Some(interface), Some(neighbour)) = (owner, neighbour(&message)) {
                interface.neighbours.push(neighbour);
            }
        }
    }
    for interface in &mut interfaces {
        interface.routes.sort_by_key(|route| route.gateway.is_some());
    }
    Ok(interfaces)
}

fn interface(link: &LinkMessage) -> Result<Option<Interface>, NetworkError> {
    let name = name(link).to_owned();
    let (mut mac, mut mtu, mut is_port) = (None, 0, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            LinkAttribute::Controller(_) => is_port = true,
            _ => {}
        }
    }
    let is_ethernet = link.header.link_layer_type == LinkLayerType::Ether;
    let (true, false, true, Some(mac)) =
        (is_ethernet, is_port, link.header.flags.contains(LinkFlags::Up), mac)
    else {
        return Ok(None);
    };
    let mtu = u16::try_from(mtu)
        .map_err(|_| NetworkError::Unsupported { interface: name.clone(), property: "an MTU above 65535" })?;
    let index = link.header.index;
    Ok(Some(Interface {
        index,
        name,
        mac,
        mtu,
        addresses: Vec::new(),
        routes: Vec::new(),
        neighbours: Vec::new(),
    }))
}

/// The index of the interface by which the rest of the world is reached.
pub(super) fn default_interface(
    netlink: &mut Netlink,
    family: AddressFamily,
) -> Result<Option<u32>, NetworkError> {
    let is_default = |route: &&RouteMessage| {
        let header = &route.header;
        header.destination_prefix_length == 0
            && header.table == RouteHeader::RT_TABLE_MAIN
            && header.kind == RouteType::Unicast
    };
    let interface = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    };
    let routes = routes(netlink, family)?;
    Ok(routes.iter().find(is_default).and_then(|route| route.attributes.iter().find_map(interface)))
}

/// Not those of the link itself: the guest makes its own from the MAC address.
fn address(message: &AddressMessage) -> Option<Prefix> {
    if message.header.family == AddressFamily::Inet6 && message.header.scope == AddressScope::Link {
        return None;
    }
    let (mut address, mut local) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            _ => {}
        }
    }
    // On a line between two, the former is the other end's.
    Some(Prefix { address: local.or(address)?, length: message.header.prefix_len })
}

fn add_route(interfaces: &mut [Interface], message: &RouteMessage) -> Result<(), NetworkError> {
    let header = &message.header;
    let is_main = header.table == RouteHeader::RT_TABLE_MAIN;
    let is_learned = header.flags.contains(RouteFlags::Cloned) || header.protocol == RouteProtocol::Ra;
    if !is_main || is_learned || header.kind != RouteType::Unicast {
        return Ok(());
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let address = destination.unwrap_or(match header.address_family {
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => IpAddr::from([0; 4]),
    });
    let mut route = Route {
        destination: Prefix { address, length: header.destination_prefix_length },
        gateway: None,
        source: None,
        metric: 0,
        on_link: header.flags.contains(RouteFlags::Onlink),
    };
    let (mut index, mut unsupported) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(gateway) => route.gateway = ip(gateway),
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Via(_) => unsupported = Some("a gateway of another address family"),
            RouteAttribute::MultiPath(hops) => {
                index = hops.first().map(|hop| hop.interface_index);
                unsupported = Some("a route over several gateways");
            }
            _ => {}
        }
    }
    let Some(interface) = interfaces.iter_mut().find(|interface| Some(interface.index) == index) else {
        return Ok(());
    };
    if let Some(property) = unsupported {
        return Err(NetworkError::Unsupported { interface: interface.name.clone(), property });
    }
    if !is_link_local(route.destination) {
        interface.routes.push(route);
    }
    Ok(())
}

/// IPv6 has it on every interface, the guest's too.
fn is_link_local(prefix: Prefix) -> bool {
    matches!(prefix.address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::from(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::from(*ip)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    Some(Neighbour { address: address?, mac: mac? })
}

fn addresses(netlink: &mut Netlink, family: AddressFamily) -> Result<Vec<AddressMessage>, NetworkError> {
    let mut question = AddressMessage::default();
    question.header.family = family;
    let answers = netlink.list(RouteNetlinkMessage::GetAddress(question));
    let one = |message| match message {
        RouteNetlinkMessage::NewAddress(address) => Some(address),
        _ => None,
    };
    collect("addresses", answers, one)
}

fn routes(netlink: &mut Netlink, family: AddressFamily) -> Result<Vec<RouteMessage>, NetworkError> {
    let mut question = RouteMessage::default();
    question.header.address_family = family;
    let answers = netlink.list(RouteNetlinkMessage::GetRoute(question));
    let one = |message| match message {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    };
    collect("routes", answers, one)
}

fn neighbours(netlink: &mut Netlink, family: AddressFamily) -> Result<Vec<NeighbourMessage>, NetworkError> {
    let mut question = NeighbourMessage::default();
    question.header.family = family;
    let answers = netlink.list(RouteNetlinkMessage::GetNeighbour(question));
    let one = |message| match message {
        RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour),
        _ => None,
    };
    collect("neighbours", answers, one)
}

fn collect<T>(
    what: &'static str,
    answers: io::Result<Vec<RouteNetlinkMessage>>,
    one: impl Fn(RouteNetlinkMessage) -> Option<T>,
) -> Result<Vec<T>, NetworkError> {
    let answers = answers.map_err(|error| NetworkError::Read(what, error))?;
    Ok(answers.into_iter().filter_map(one).collect())
}

#[cfg(test)]
mod tests;
