//! A network without root: passt(1) makes the guest's connections its own, so that they come from the host and its user.
//!
//! Addresses are the same in every guest, since no two of them share a wire: the gateway, which is passt, the guest, and the name by
//! which passt knows the host's resolver.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use netlink_packet_route::AddressFamily;
use securectr_protocol::agent::ConfigureNetworkRequest;
use securectr_vmm::spec::{NetSpec, Wire};
use securectr_wall::{Allowed, Denial, WallSpec};
use tokio::sync::broadcast;

use super::{
    Interface, NatPlan, Neighbour, NetworkError, Prefix, Published, Route, interfaces,
    netlink::Netlink,
    passt::{Passt, Wanted},
    places,
    wall::Wall,
};
use crate::equipment::Equipment;

/// A network as small as possible, so that it is unlikely to be one that the host wants to reach.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 193, 86, 1);
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 193, 86, 2);
pub(super) const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 193, 86, 3);
pub(super) const LENGTH: u8 = 29;

/// Unique local addresses (RFC 4193): the global ID spells "sectr".
pub(super) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6563, 0x7472, 0, 0, 0, 0, 1);
pub(super) const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6563, 0x7472, 0, 0, 0, 0, 2);
pub(super) const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6563, 0x7472, 0, 0, 0, 0, 3);
const LENGTH_V6: u8 = 64;

/// Locally administered.
pub(super) const GATEWAY_MAC: [u8; 6] = *b"\x02sctr\x01";
pub(super) const GUEST_MAC: [u8; 6] = *b"\x02sctr\x02";

/// A guest's data goes in few frames, each of which the socket takes as a whole or not at all: the kernel cuts what is longer than
/// 48,832 bytes. In one run in the test host, 3 MB went out
/// in 1.5 s with 32,000 bytes, in 2.7 s with passt's most, 65,520, and in 4.8 s with 1,500.
pub(super) const MTU: u16 = 32_768;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// When this is dropped, passt ends.
#[derive(Debug)]
pub(crate) struct Nat {
    passt: Passt,
    /// Between it and the guest, for one that may not reach all.
    wall: Option<Wall>,
    has_ipv6: bool,
}

impl Nat {
    /// Starts passt, which has all published ports when this returns, and gives the machine a device.
    pub(super) async fn open(
        plan: &NatPlan,
        wall: &Path,
        equipment: &mut Equipment,
    ) -> Result<Self, NetworkError> {
        let ipv6_interface = ipv6_interface()?;
        let resolver = resolver().filter(|_| plan.resolver);
        let wanted =
            Wanted { published: &plan.published, ipv6_interface: ipv6_interface.as_deref(), resolver };
        let (passt, mut socket) = Passt::start(&wanted).await?;
        let wall = match &plan.allowed {
            Some(allowed) => {
                let spec = wall_spec(allowed, &plan.published, resolver);
                let (wall, guest_side) = Wall::start(wall, spec, socket).await?;
                socket = guest_side;
                Some(wall)
            }
            None => None,
        };
        let wire = Some(Wire::Stream(equipment.lay(socket)));
        equipment.devices.nets = vec![NetSpec { wire, mac: places::device_mac(0), mtu: MTU }];
        Ok(Self { passt, wall, has_ipv6: ipv6_interface.is_some() })
    }

    /// The same at all times.
    pub(super) fn configuration(&self) -> ConfigureNetworkRequest {
        let interfaces = vec![places::interface(&interface(self.has_ipv6), places::device_mac(0))];
        ConfigureNetworkRequest { interfaces, ..Default::default() }
    }

    pub(super) fn denials(&self) -> Option<broadcast::Receiver<Denial>> {
        self.wall.as_ref().map(Wall::denials)
    }

    /// Answers when passt has ended before its guest, which it does when a wall does.
    pub(super) async fn lost(&self) -> String {
        self.passt.ended().await
    }
}

fn wall_spec(allowed: &[Allowed], published: &[Published], resolver: Option<IpAddr>) -> WallSpec {
    let network = |address: IpAddr, length| securectr_wall::Network { address, length };
    WallSpec {
        allowed: allowed.to_vec(),
        published: published.iter().map(|port| (port.protocol, port.guest_port)).collect(),
        resolver,
        guest: (GUEST, GUEST_V6),
        link: (network(GUEST.into(), LENGTH), network(GUEST_V6.into(), LENGTH_V6)),
    }
}

/// What the guest has.
fn interface(has_ipv6: bool) -> Interface {
    let families: [(IpAddr, IpAddr, u8); 2] =
        [(GUEST.into(), GATEWAY.into(), LENGTH), (GUEST_V6.into(), GATEWAY_V6.into(), LENGTH_V6)];
    let families: Vec<_> =
        families.into_iter().filter(|(address, ..)| has_ipv6 || address.is_ipv4()).collect();
    let default = |gateway: IpAddr| Route {
        destination: Prefix {
            address: if gateway.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            },
            length: 0,
        },
        gateway: Some(gateway),
        source: None,
        metric: 0,
        on_link: false,
    };
    Interface {
        index: 0,
        name: "eth0".to_owned(),
        mac: GUEST_MAC,
        mtu: MTU,
        addresses: families.iter().map(|&(address, _, length)| Prefix { address, length }).collect(),
        routes: families.iter().map(|&(_, gateway, _)| default(gateway)).collect(),
        // Nobody need be asked who the gateway is.
        neighbours: families.iter().map(|&(_, address, _)| Neighbour { address, mac: GATEWAY_MAC }).collect(),
    }
}

/// The interface by which the host reaches the world by IPv6, if it does.
fn ipv6_interface() -> Result<Option<String>, NetworkError> {
    let mut netlink = Netlink::connect().map_err(|error| NetworkError::Read("routes", error))?;
    let index = interfaces::default_interface(&mut netlink, AddressFamily::Inet6)?;
    let name = index.and_then(|index| nix::net::if_::if_indextoname(index).ok());
    Ok(name.and_then(|name| name.into_string().ok()))
}

/// The address at which a guest finds the host's resolver; none where the host has none.
pub fn resolver() -> Option<IpAddr> {
    resolver_of(&fs::read_to_string(RESOLV_CONF).unwrap_or_default())
}

/// passt forwards each protocol to the first resolver that is reached by it.
fn resolver_of(resolv_conf: &str) -> Option<IpAddr> {
    let addresses =
        resolv_conf.lines().filter_map(|line| line.strip_prefix("nameserver ")).filter_map(|rest| {
            let address = rest.trim().split('%').next()?;
            address.parse::<IpAddr>().ok()
        });
    let families: Vec<bool> = addresses.map(|address| address.is_ipv4()).collect();
    match families.contains(&true) {
        true => Some(RESOLVER.into()),
        false => families.first().map(|_| RESOLVER_V6.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_reached_as_the_host_reaches_its_own() {
        assert_eq!(resolver_of("search x\nnameserver 127.0.0.53\n"), Some(RESOLVER.into()));
        assert_eq!(resolver_of("nameserver ::1\nnameserver 192.0.2.1"), Some(RESOLVER.into()));
        assert_eq!(resolver_of("nameserver fe80::1%eth0\n"), Some(RESOLVER_V6.into()));
        assert_eq!(resolver_of("# nameserver 192.0.2.1\nnameserver x"), None);
    }

    #[test]
    fn a_guest_has_ipv6_where_its_host_has() {
        assert_eq!(interface(false).addresses, [Prefix { address: GUEST.into(), length: 29 }]);
        let both = interface(true);
        assert_eq!((both.addresses.len(), both.routes.len(), both.neighbours.len()), (2, 2, 2));
        assert_eq!(both.routes.last().and_then(|route| route.gateway), Some(GATEWAY_V6.into()));
    }
}
