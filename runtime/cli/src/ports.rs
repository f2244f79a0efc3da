//! Ports of a container that this machine has, too: as docker's words ask for them, and as docker shows them.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    ops::RangeInclusive,
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use securectr_image::ImageConfig;
use securectr_sandbox::{Allowed, NatPlan, NetworkPlan, Protocol, Published};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::args::{Network, Run};

/// Each is a socket of passt's.
const MOST_PORTS: usize = 4096;

/// What is to be published: as many ports of this machine as of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    /// Of this machine.
    address: IpAddr,
    /// Without, free ones are taken.
    host: Option<RangeInclusive<u16>>,
    guest: RangeInclusive<u16>,
    protocol: Protocol,
}

impl FromStr for Ports {
    type Err = String;

    /// `[[ADDRESS:]HOSTPORT:]PORT[/PROTOCOL]`; an IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "not ports: {text} (as in 80, 8080:80, 127.0.0.1:8080:80, [::1]:8000-8010:80-90 or 5353:53/udp)"
            )
        };
        let (rest, protocol) = with_protocol(text).ok_or_else(wrong)?;
        let (host_side, guest) =
            rest.rsplit_once(':').map_or((None, rest), |(host, guest)| (Some(host), guest));
        let (address, host) = match host_side {
            None => (None, ""),
            Some(host_side) => match host_side.rsplit_once(':') {
                Some((address, host)) => (Some(address), host),
                None => (None, host_side),
            },
        };
        let address = address.filter(|address| !address.is_empty()).map(|address| {
            let inside = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
            match inside {
                Some(address) => address.parse().map(IpAddr::V6),
                None => address.parse().map(IpAddr::V4),
            }
        });
        let address = address.transpose().map_err(|_| wrong())?;
        // A program that listens to IPv4 alone would be lost to who comes by IPv6 to a port that is open to both.
        let address = address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let host = Some(host).filter(|host| !host.is_empty()).map(|host| range(host).ok_or_else(wrong));
        let host = host.transpose()?;
        let guest = range(guest).ok_or_else(wrong)?;
        if host.as_ref().is_some_and(|host| host.len() != guest.len()) {
            return Err(format!("as many ports of this machine as of the container: {text}"));
        }
        Ok(Self { address, host, guest, protocol })
    }
}

/// As `port` takes it: `80` or `80/udp`.
pub(crate) fn guest_port(text: &str) -> Result<(u16, Protocol), String> {
    let parsed = with_protocol(text).and_then(|(port, protocol)| Some((port.parse().ok()?, protocol)));
    parsed.ok_or_else(|| format!("not a port: {text} (as in 80 or 53/udp)"))
}

fn with_protocol(text: &str) -> Option<(&str, Protocol)> {
    match text.split_once('/') {
        None => Some((text, Protocol::Tcp)),
        Some((rest, "tcp")) => Some((rest, Protocol::Tcp)),
        Some((rest, "udp")) => Some((rest, Protocol::Udp)),
        Some(_) => None,
    }
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}

/// All that is to be published, by what was typed and what the image exposes.
pub(crate) fn wanted(run: &Run, image: &ImageConfig) -> Result<Vec<Ports>> {
    let mut all = run.publish.clone();
    if run.publish_all {
        for exposed in &image.exposed_ports {
            let ports: Ports = exposed
                .parse()
                .map_err(anyhow::Error::msg)
                .context("understand the image's exposed ports")?;
            let is_typed = |typed: &Ports| (&typed.guest, typed.protocol) == (&ports.guest, ports.protocol);
            if !run.publish.iter().any(is_typed) {
                all.push(ports);
            }
        }
    }
    let count: usize = all.iter().map(|ports| ports.guest.len()).sum();
    if count > MOST_PORTS {
        bail!("{count} ports are too many to publish: the most is {MOST_PORTS}");
    }
    Ok(all)
}

/// The network of a container that starts now.
pub(crate) fn network(run: &Run, image: &ImageConfig) -> Result<Option<NetworkPlan>> {
    let wanted = wanted(run, image)?;
    plan(run, choose(&wanted)?, !wanted.is_empty())
}

/// The network that was asked for.
pub(crate) fn plan(run: &Run, published: Vec<Published>, publishes: bool) -> Result<Option<NetworkPlan>> {
    let publishes = publishes || run.publish_all;
    let allowed = Some(run.allow_net.clone()).filter(|allowed| !allowed.is_empty());
    if !run.dns.is_empty() && run.allow_net.iter().any(Allowed::is_name) {
        bail!(
            "what a name means is learned from this machine's resolver: leave out --dns, or allow addresses"
        );
    }
    Ok(match &run.network {
        None if !publishes && allowed.is_none() => None,
        None | Some(Network::Nat) => {
            Some(NetworkPlan::Nat(NatPlan { published, allowed, resolver: run.dns.is_empty() }))
        }
        Some(_) if publishes => bail!("ports are published with --network nat only"),
        Some(_) if allowed.is_some() => bail!("--allow-net is for --network nat only"),
        Some(Network::None) => None,
        Some(Network::Namespace(path)) => Some(NetworkPlan::Namespace(path.clone())),
    })
}

/// Says of each port which of this machine's it is, and finds free ones. Somebody else may take these before they are bound, who is
/// told of as for all others.
pub(crate) fn choose(wanted: &[Ports]) -> Result<Vec<Published>> {
    let (mut all, mut held) = (Vec::new(), Vec::new());
    for ports in wanted {
        let Ports { address, protocol, .. } = *ports;
        for (index, guest_port) in ports.guest.clone().enumerate() {
            let host_port = match ports.host.clone().and_then(|mut host| host.nth(index)) {
                Some(port) => port,
                None => {
                    let (port, socket) = free_port(address, protocol)
                        .with_context(|| format!("find a free port for {guest_port}/{protocol}"))?;
                    held.push(socket);
                    port
                }
            };
            all.push(Published { address, host_port, guest_port, protocol });
        }
    }
    let mut seen = HashSet::new();
    for port in &all {
        // passt knows a port by its number alone.
        if !seen.insert((port.protocol, port.host_port)) {
            bail!("the port {}/{} is published twice", port.host_port, port.protocol);
        }
    }
    Ok(all)
}

/// Held until all are found.
enum Held {
    Tcp { _socket: TcpListener },
    Udp { _socket: UdpSocket },
}

fn free_port(address: IpAddr, protocol: Protocol) -> std::io::Result<(u16, Held)> {
    let any = (address, 0);
    Ok(match protocol {
        Protocol::Tcp => {
            let socket = TcpListener::bind(any)?;
            (socket.local_addr()?.port(), Held::Tcp { _socket: socket })
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(any)?;
            (socket.local_addr()?.port(), Held::Udp { _socket: socket })
        }
    })
}

/// `0.0.0.0:8080`
pub(crate) fn host_side(published: &Published) -> String {
    match published.address {
        IpAddr::V4(address) => format!("{address}:{}", published.host_port),
        IpAddr::V6(address) => format!("[{address}]:{}", published.host_port),
    }
}

/// `0.0.0.0:8080->80/tcp`
pub(crate) fn arrow(published: &Published) -> String {
    format!("{}->{}/{}", host_side(published), published.guest_port, published.protocol)
}

/// As `inspect` tells it.
pub(crate) fn by_guest_port(published: &[Published]) -> Value {
    let mut all = Map::new();
    for port in published {
        let sides = all.entry(format!("{}/{}", port.guest_port, port.protocol)).or_insert_with(|| json!([]));
        if let Value::Array(sides) = sides {
            sides.push(json!({"HostIp": port.address, "HostPort": port.host_port.to_string()}));
        }
    }
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::typed as run;

    fn ports(text: &str) -> Ports {
        text.parse().unwrap()
    }

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        let [any, v4, v6] = ["0.0.0.0", "127.0.0.1", "::1"].map(|address| address.parse().unwrap());
        for (text, address, host, guest, protocol) in [
            ("80", any, None, 80..=80, Protocol::Tcp),
            ("8080:80", any, Some(8080..=8080), 80..=80, Protocol::Tcp),
            ("127.0.0.1:8080:80/tcp", v4, Some(8080..=8080), 80..=80, Protocol::Tcp),
            ("127.0.0.1::53/udp", v4, None, 53..=53, Protocol::Udp),
            ("[::1]:8000-8002:80-82", v6, Some(8000..=8002), 80..=82, Protocol::Tcp),
            (":8080:80", any, Some(8080..=8080), 80..=80, Protocol::Tcp),
        ] {
            assert_eq!(ports(text), Ports { address, host, guest, protocol }, "{text}");
        }
        for text in [
            "",
            ":",
            "0",
            "80/sctp",
            "1-0",
            "1:2:3:4",
            "::1:80:80",
            "x:80:80",
            "8000-8001:80",
            "70000",
            "80:",
        ] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_port_is_found_a_place_of_its_own() {
        let chosen = choose(&[ports("80"), ports("81"), ports("127.0.0.1:9000-9001:82-83/udp")]).unwrap();
        let hosts: Vec<_> = chosen.iter().map(|port| port.host_port).collect();
        assert!(hosts[0] > 0 && hosts[1] > 0 && hosts[0] != hosts[1], "{hosts:?}");
        assert_eq!((hosts[2], hosts[3], chosen[3].guest_port), (9000, 9001, 83));
        let twice = choose(&[ports("127.0.0.1:80:80"), ports("80:81")]).unwrap_err().to_string();
        assert_eq!(twice, "the port 80/tcp is published twice");
        assert!(choose(&[ports("80:80"), ports("80:80/udp")]).is_ok());
    }

    #[test]
    fn publishing_takes_a_network_that_can() {
        let network = |words: &[&str], exposed: &[&str]| {
            let exposed_ports = exposed.iter().map(|&port| port.to_owned()).collect();
            network(&run(words), &ImageConfig { exposed_ports, ..Default::default() })
        };
        assert_eq!(network(&["i"], &["80/tcp"]).unwrap(), None);
        let nat = |words: &[&str]| match network(words, &["80/tcp", "53/udp"]).unwrap() {
            Some(NetworkPlan::Nat(nat)) => nat,
            other => panic!("{other:?}"),
        };
        assert_eq!(nat(&["--network", "nat", "i"]).published, []);
        assert_eq!(nat(&["-P", "-p", "8080:80", "i"]).published.len(), 2);
        assert!(nat(&["-p", "8080:80", "i"]).resolver);
        assert!(!nat(&["--network", "nat", "--dns", "192.0.2.1", "i"]).resolver);
        let allowed = nat(&["--allow-net", "example.org:443", "--allow-net", "192.0.2.0/24", "i"]).allowed;
        assert_eq!(allowed.map(|allowed| allowed.len()), Some(2));
        assert!(network(&["--allow-net", "example.org", "--dns", "192.0.2.1", "i"], &[]).is_err());
        assert!(network(&["--allow-net", "example.org", "--network", "none", "i"], &[]).is_err());
        for other in ["none", "/run/netns/x"] {
            assert!(network(&["--network", other, "-p", "80", "i"], &[]).is_err(), "{other}");
        }
    }

    #[test]
    fn ports_are_shown_as_docker_shows_them() {
        let port = Published {
            address: Ipv4Addr::UNSPECIFIED.into(),
            host_port: 8080,
            guest_port: 80,
            protocol: Protocol::Tcp,
        };
        assert_eq!(arrow(&port), "0.0.0.0:8080->80/tcp");
        let local = Published { address: "::1".parse().unwrap(), ..port };
        assert_eq!(arrow(&local), "[::1]:8080->80/tcp");
        let expected = json!({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::1", "HostPort": "8080"}]});
        assert_eq!(by_guest_port(&[port, local]), expected);
        assert_eq!(
            (guest_port("80"), guest_port("53/udp")),
            (Ok((80, Protocol::Tcp)), Ok((53, Protocol::Udp)))
        );
    }
}
