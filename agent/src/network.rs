//! The guest's interfaces, as the host wants them: found by MAC address, renamed, given addresses and routes.
//!
//! They are those of the guest's own network namespace, where the agent lives: containers either share it or have none.

mod connections;
mod netlink;

use std::{fs, io};

use securectr_protocol::agent::{Interface, Neighbour, Prefix, Route};
use thiserror::Error;

use self::netlink::{Family, Link, Netlink};

/// Where the kernel tells of interfaces (sysfs of net).
const INTERFACES: &str = "/sys/class/net";

#[derive(Debug, Error)]
pub(crate) enum NetworkError {
    #[error("list the interfaces")]
    List(#[source] io::Error),
    #[error("open a netlink socket")]
    Netlink(#[source] io::Error),
    #[error("end connections")]
    Connections(#[source] io::Error),
    #[error("there is no device for the interface {0}")]
    Missing(String),
    #[error("{what} of the interface {interface} makes no sense")]
    Invalid { what: &'static str, interface: String },
    #[error("{operation} of the interface {interface}")]
    Change { operation: &'static str, interface: String, source: io::Error },
}

/// An interface that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Present {
    index: u32,
    name: String,
    mac: [u8; 6],
}

/// Makes what is there what is wanted. May be asked again: what is as it should be stays.
pub(crate) fn configure(wanted: &[Interface]) -> Result<(), NetworkError> {
    let present = present().map_err(NetworkError::List)?;
    let mut netlink = Netlink::open().map_err(NetworkError::Netlink)?;
    let found = wanted.iter().map(|interface| find(&present, interface)).collect::<Result<Vec<_>, _>>()?;
    for (from, to) in renames(&present, wanted, &found) {
        let named = Link { name: Some(&to), ..Link::default() };
        netlink.set_link(from.index, &named).map_err(failed("change the name", &from.name))?;
    }
    wanted.iter().zip(found).try_for_each(|(interface, device)| set_up(&mut netlink, interface, device.index))
}

/// Ends connections with others: those are not there any more in a machine that goes on with another network.
pub(crate) fn end_connections() -> Result<(), NetworkError> {
    connections::end().map_err(NetworkError::Connections)
}

fn present() -> io::Result<Vec<Present>> {
    let mut present = Vec::new();
    for entry in fs::read_dir(INTERFACES)? {
        let entry = entry?;
        let read = |file: &str| fs::read_to_string(entry.path().join(file));
        // Others may come and go meanwhile: a container can make them.
        let (Ok(index), Ok(mac)) = (read("ifindex"), read("address")) else { continue };
        let (Ok(index), Some(mac)) = (index.trim().parse(), parse_mac(&mac)) else { continue };
        present.push(Present { index, name: entry.file_name().to_string_lossy().into_owned(), mac });
    }
    Ok(present)
}

/// As "02:00:00:00:00:01\n".
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect::<Option<Vec<_>>>()?;
    bytes.try_into().ok()
}

/// One that has been configured before has its own address already.
fn find<'a>(present: &'a [Present], wanted: &Interface) -> Result<&'a Present, NetworkError> {
    let with = |mac: &[u8]| present.iter().find(|present| present.mac == *mac);
    with(&wanted.mac)
        .or_else(|| with(&wanted.device_mac))
        .ok_or_else(|| NetworkError::Missing(wanted.name.clone()))
}

/// Which are to be renamed, and how, in this order. First whatever is in the way of a name takes another one.
fn renames<'a>(
    present: &'a [Present],
    wanted: &[Interface],
    found: &[&'a Present],
) -> Vec<(&'a Present, String)> {
    let pairs =
        || wanted.iter().zip(found.iter().copied()).filter(|(wanted, found)| wanted.name != found.name);
    let is_in_the_way = |present: &&Present| pairs().any(|(wanted, _)| wanted.name == present.name);
    let away =
        present.iter().filter(is_in_the_way).map(|present| (present, format!("spare{}", present.index)));
    away.chain(pairs().map(|(wanted, found)| (found, wanted.name.clone()))).collect()
}

fn set_up(netlink: &mut Netlink, interface: &Interface, index: u32) -> Result<(), NetworkError> {
    let name = &interface.name;
    let mac =
        Some(&*interface.mac).filter(|mac| mac.len() == 6).ok_or_else(|| invalid("the MAC address", name))?;
    let link = Link { mac: Some(mac), mtu: Some(interface.mtu), up: true, ..Link::default() };
    netlink.set_link(index, &link).map_err(failed("set the MAC address and MTU", name))?;
    for prefix in &interface.addresses {
        let family = family(prefix).ok_or_else(|| invalid("an address", name))?;
        netlink.add_address(index, family, prefix).map_err(failed("add an address", name))?;
    }
    for neighbour in &interface.neighbours {
        let family = neighbour_family(neighbour).ok_or_else(|| invalid("a neighbour", name))?;
        netlink.add_neighbour(index, family, neighbour).map_err(failed("add a neighbour", name))?;
    }
    for route in &interface.routes {
        let family = route_family(route).ok_or_else(|| invalid("a route", name))?;
        netlink.add_route(index, family, route).map_err(failed("add a route", name))?;
    }
    Ok(())
}

fn invalid(what: &'static str, interface: &str) -> NetworkError {
    NetworkError::Invalid { what, interface: interface.to_owned() }
}

fn failed(operation: &'static str, interface: &str) -> impl FnOnce(io::Error) -> NetworkError {
    let interface = interface.to_owned();
    move |source| NetworkError::Change { operation, interface, source }
}

fn family(prefix: &Prefix) -> Option<Family> {
    Family::of(&prefix.address).filter(|family| prefix.length <= family.bits())
}

fn neighbour_family(neighbour: &Neighbour) -> Option<Family> {
    Family::of(&neighbour.address).filter(|_| neighbour.mac.len() == 6)
}

/// All addresses of a route are of one family.
fn route_family(route: &Route) -> Option<Family> {
    let family = family(&route.destination)?;
    let fits = |address: &[u8]| address.is_empty() || Family::of(address) == Some(family);
    Some(family).filter(|_| fits(&route.gateway) && fits(&route.source))
}

#[cfg(test)]
mod tests;
