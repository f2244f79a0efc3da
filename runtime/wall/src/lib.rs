//! The contract with the parent of `securectr-wall`, which stands between a guest's network device and passt(1) and lets through what
//! the guest may reach.
//!
//! The parent lays three descriptors: the control socket (3), a stream socket to the VMM (4) and one to passt (5). It writes a
//! [`WallSpec`] to the control socket, one line of JSON; from then on it reads a [`Denial`] a line. The wall ends with any of the
//! three.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Where the guest's frames come from.
pub const GUEST_FD: i32 = 4;
/// Where passt's come from.
pub const WORLD_FD: i32 = 5;

/// No line on the control socket is longer, in bytes.
pub const MAX_LINE_LEN: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallSpec {
    pub allowed: Vec<Allowed>,
    /// Ports of the guest to which others may come.
    pub published: Vec<(Protocol, u16)>,
    /// Where the guest asks for names.
    pub resolver: Option<IpAddr>,
    /// All that the guest may send from.
    pub guest: (Ipv4Addr, Ipv6Addr),
    /// The guest's own network, in which there is nobody to allow.
    pub link: (Network, Network),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a guest may reach, by TCP and UDP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    pub host: Host,
    /// All, if none are named.
    pub ports: Option<RangeInclusive<u16>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Host {
    /// In lower case, without a dot at its end.
    Name(String),
    /// All names that end with this, behind a dot.
    Below(String),
    Network(Network),
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub address: IpAddr,
    pub length: u8,
}

impl Network {
    pub fn has(&self, other: IpAddr) -> bool {
        let shared = match (self.address, other) {
            (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => return false,
        };
        shared >= u32::from(self.length)
    }
}

/// Something that the guest was not let through with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// `tcp`, `udp`, `dns`, or what else it was.
    pub protocol: String,
    /// That was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How many there were since the last that was told, with this one.
    pub count: u64,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.address, self.port) {
            (Some(name), ..) => write!(f, "the name {name}")?,
            (None, Some(IpAddr::V6(address)), Some(port)) => {
                write!(f, "[{address}]:{port}/{}", self.protocol)?
            }
            (None, Some(address), Some(port)) => write!(f, "{address}:{port}/{}", self.protocol)?,
            (None, Some(address), None) => write!(f, "{address} ({})", self.protocol)?,
            (None, None, _) => f.write_str(&self.protocol)?,
        }
        if self.count > 1 {
            write!(f, " and {} more", self.count - 1)?;
        }
        Ok(())
    }
}

impl FromStr for Allowed {
    type Err = String;

    /// `HOST[:PORT[-PORT]]`, where HOST is a name, `*.` and a name, an address (IPv6 in brackets when a port follows) or a network as
    /// `192.0.2.0/24`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "not a host: {text} (as in example.org, *.example.org:443, 192.0.2.0/24 or [2001:db8::1]:80-90)"
            )
        };
        let (host, ports) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) })
        } else if text.matches(':').count() > 1 {
            (text, None)
        } else {
            text.split_once(':').map_or((text, None), |(host, ports)| (host, Some(ports)))
        };
        let ports = ports.map(|ports| parse_ports(ports).ok_or_else(wrong)).transpose()?;
        let host = parse_host(host).ok_or_else(wrong)?;
        Ok(Self { host, ports })
    }
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}

fn parse_host(text: &str) -> Option<Host> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Host::Network(Network { address, length: if address.is_ipv4() { 32 } else { 128 } }));
    }
    if let Some((address, length)) = text.split_once('/') {
        let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse().ok()?);
        let most = if address.is_ipv4() { 32 } else { 128 };
        return (length <= most).then_some(Host::Network(Network { address, length }));
    }
    let (name, below) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    // A number at its end would be an address that somebody has misspelt.
    let is_name =
        name.len() <= 253 && name.split('.').all(is_label) && !name.ends_with(|c: char| c.is_ascii_digit());
    is_name.then_some(if below { Host::Below(name) } else { Host::Name(name) })
}

impl Allowed {
    /// Whether a name is one of its host's. `name` is in lower case.
    pub fn has_name(&self, name: &str) -> bool {
        match &self.host {
            Host::Name(own) => own == name,
            Host::Below(own) => {
                name.strip_suffix(own).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            Host::Network(_) => false,
        }
    }

    /// Whether what it means has to be asked for.
    pub fn is_name(&self) -> bool {
        !matches!(self.host, Host::Network(_))
    }

    pub fn has_port(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str) -> Allowed {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_are_names_addresses_and_networks_with_ports_or_without() {
        let network =
            |address: &str, length| Host::Network(Network { address: address.parse().unwrap(), length });
        for (text, host, ports) in [
            ("example.org", Host::Name("example.org".into()), None),
            ("Example.ORG.:443", Host::Name("example.org".into()), Some(443..=443)),
            ("*.example.org:80-90", Host::Below("example.org".into()), Some(80..=90)),
            ("192.0.2.1", network("192.0.2.1", 32), None),
            ("192.0.2.0/24:53", network("192.0.2.0", 24), Some(53..=53)),
            ("2001:db8::1", network("2001:db8::1", 128), None),
            ("[2001:db8::]:80", network("2001:db8::", 128), Some(80..=80)),
            ("[2001:db8::/32]:80", network("2001:db8::", 32), Some(80..=80)),
            ("2001:db8::/32", network("2001:db8::", 32), None),
        ] {
            assert_eq!(allowed(text), Allowed { host, ports }, "{text}");
        }
        for text in [
            "",
            "*",
            "*.",
            "a..b",
            "a b",
            "example.org:",
            "example.org:0",
            "x:9-8",
            "10.0.0/8",
            "1.2.3.4/33",
            "[::1",
            "*.*.x",
        ] {
            assert!(text.parse::<Allowed>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_below_a_name_is_not_the_name_and_not_what_only_ends_alike() {
        let below = allowed("*.example.org");
        assert!(below.has_name("www.example.org") && below.has_name("a.b.example.org"));
        assert!(
            !below.has_name("example.org")
                && !below.has_name("badexample.org")
                && !below.has_name(".example.org")
        );
        assert!(
            allowed("example.org").has_name("example.org")
                && !allowed("example.org").has_name("www.example.org")
        );
    }

    #[test]
    fn a_network_has_those_that_begin_like_it() {
        let network = |text: &str| match allowed(text).host {
            Host::Network(network) => network,
            other => panic!("{other:?}"),
        };
        assert!(
            network("10.0.0.0/8").has([10, 1, 2, 3].into())
                && !network("10.0.0.0/8").has([11, 0, 0, 0].into())
        );
        assert!(
            network("0.0.0.0/0").has([1, 2, 3, 4].into())
                && !network("0.0.0.0/0").has("::1".parse().unwrap())
        );
        assert!(!network("10.0.0.1").has("::ffff:10.0.0.1".parse().unwrap()));
    }
}
