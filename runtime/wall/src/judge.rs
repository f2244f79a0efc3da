//! What passes. Each frame is read here as if its sender wanted us to read it otherwise than passt does: what has more than one
//! reading does not pass.
//!
//! A guest may begin what a rule allows. What others have begun at a published port, and what the guest was allowed to begin, goes on:
//! both are flows, and a flow is its two ends, so that a guest cannot use a published port to begin anything.

use std::{net::IpAddr, time::Instant};

use etherparse::{
    EtherType, IpNumber, NetSlice, PacketBuilder, SlicedPacket, TcpSlice, TransportSlice, UdpSlice,
};
use securectr_wall::{Denial, Host, Protocol, WallSpec};

use crate::{
    flows::{Budget, Recent},
    names::{Asked, Names},
};

const DNS_PORT: u16 = 53;
/// Flows that go on, at least.
const MOST_FLOWS: usize = 8192;
const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const HOPS: u8 = 64;

/// Router and neighbour solicitation and advertisement (RFC 4861).
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=136;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Drop,
    /// It does not pass, and the guest is told so by a frame.
    Answer(Vec<u8>),
}

pub(crate) struct Judge {
    spec: WallSpec,
    names: Names,
    flows: Recent<Flow, ()>,
    budget: Budget,
    /// That were not told.
    untold: u64,
    told: Vec<Denial>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    protocol: Protocol,
    guest_port: u16,
    peer: IpAddr,
    peer_port: u16,
}

/// A packet of one of the two protocols, with nothing unusual about it.
struct Packet<'f> {
    guest: IpAddr,
    peer: IpAddr,
    transport: Transport<'f>,
}

enum Transport<'f> {
    Tcp(TcpSlice<'f>),
    Udp(UdpSlice<'f>),
}

/// What a frame of the guest's is.
enum Read<'f> {
    /// Of the link's own business.
    Link,
    /// What a guest's kernel says by itself, and what nobody can answer.
    Idle,
    Packet(Packet<'f>),
    /// What is not let through, in a word, and to whom it would go.
    Unusual(String, Option<IpAddr>),
}

impl Judge {
    pub(crate) fn new(spec: WallSpec, now: Instant) -> Self {
        Self {
            spec,
            names: Names::new(),
            flows: Recent::new(MOST_FLOWS),
            budget: Budget::new(now),
            untold: 0,
            told: Vec::new(),
        }
    }

    /// What is to be told to the parent.
    pub(crate) fn take_denials(&mut self) -> Vec<Denial> {
        std::mem::take(&mut self.told)
    }

    /// A frame from the guest.
    pub(crate) fn outgoing(&mut self, frame: &[u8], now: Instant) -> Verdict {
        match read(frame) {
            Read::Link => Verdict::Pass,
            Read::Idle => Verdict::Drop,
            Read::Unusual(protocol, address) => {
                self.deny(Denial { protocol, name: None, address, port: None, count: 1 }, now);
                Verdict::Drop
            }
            Read::Packet(packet) => self.outgoing_packet(frame, &packet, now),
        }
    }

    fn outgoing_packet(&mut self, frame: &[u8], packet: &Packet<'_>, now: Instant) -> Verdict {
        let flow = packet.flow_out();
        let own = match packet.guest {
            IpAddr::V4(address) => address == self.spec.guest.0,
            IpAddr::V6(address) => address == self.spec.guest.1 || address.is_unicast_link_local(),
        };
        if !own {
            return Verdict::Drop;
        }
        if let Transport::Udp(udp) = &packet.transport {
            if Some(packet.peer) == self.spec.resolver && flow.peer_port == DNS_PORT {
                return self.question(frame, packet, udp, now);
            }
        }
        // The guest begins by TCP with a SYN alone: one that answers has an ACK, too.
        let begins = matches!(&packet.transport, Transport::Tcp(tcp) if tcp.syn() && !tcp.ack());
        if !begins && self.flows.find(flow).is_some() {
            return Verdict::Pass;
        }
        if self.is_allowed(flow, now) {
            self.flows.insert(flow, ());
            return Verdict::Pass;
        }
        let (address, port) = (Some(packet.peer), Some(flow.peer_port));
        let protocol = flow.protocol.name().to_owned();
        match &packet.transport {
            Transport::Tcp(tcp) if begins => {
                self.deny(Denial { protocol, name: None, address, port, count: 1 }, now);
                reset(frame, packet, tcp).map_or(Verdict::Drop, Verdict::Answer)
            }
            // What is left of a connection that is forgotten.
            Transport::Tcp(_) => Verdict::Drop,
            Transport::Udp(_) => {
                if !is_idle(packet.peer) {
                    self.deny(Denial { protocol, name: None, address, port, count: 1 }, now);
                }
                Verdict::Drop
            }
        }
    }

    fn question(&mut self, frame: &[u8], packet: &Packet<'_>, udp: &UdpSlice<'_>, now: Instant) -> Verdict {
        let denial = |name| Denial { protocol: "dns".to_owned(), name, address: None, port: None, count: 1 };
        match self.names.ask(udp.source_port(), udp.payload(), &self.spec.allowed) {
            Asked::Pass => Verdict::Pass,
            Asked::Malformed => {
                self.deny(denial(None), now);
                Verdict::Drop
            }
            Asked::Refused { answer, name } => {
                self.deny(denial(Some(name)), now);
                datagram(frame, packet, udp, &answer).map_or(Verdict::Drop, Verdict::Answer)
            }
        }
    }

    /// Whether a rule is for it. Names do not count for what an answer about them cannot have told of.
    fn is_allowed(&mut self, flow: Flow, now: Instant) -> bool {
        let Self { spec, names, .. } = self;
        spec.allowed.iter().enumerate().any(|(at, rule)| {
            rule.has_port(flow.peer_port)
                && match &rule.host {
                    Host::Network(network) => network.has(flow.peer) && !is_host(flow.peer),
                    Host::Name(_) | Host::Below(_) => names.knows(flow.peer, at, now),
                }
        })
    }

    /// A frame for the guest. passt is not the guest's: what it makes is well formed, but what it carries is the world's.
    pub(crate) fn incoming(&mut self, frame: &[u8], now: Instant) -> bool {
        let packet = match read(frame) {
            Read::Packet(packet) => packet,
            Read::Link => return true,
            Read::Idle | Read::Unusual(..) => return false,
        };
        let flow = packet.flow_in();
        let is_published = self.spec.published.contains(&(flow.protocol, flow.guest_port));
        match &packet.transport {
            Transport::Udp(udp) if Some(flow.peer) == self.spec.resolver && flow.peer_port == DNS_PORT => {
                self.names.learn(flow.guest_port, udp.payload(), &self.spec, now)
            }
            // Who comes to a port that is not published comes to a socket by which the guest has asked somebody else.
            Transport::Udp(_) if !is_published => self.flows.find(flow).is_some(),
            Transport::Udp(_) => {
                self.flows.insert(flow, ());
                true
            }
            Transport::Tcp(tcp) if tcp.syn() && !tcp.ack() => {
                if is_published {
                    self.flows.insert(flow, ());
                }
                is_published
            }
            Transport::Tcp(_) => true,
        }
    }

    fn deny(&mut self, denial: Denial, now: Instant) {
        self.untold += 1;
        if self.budget.take(now) {
            self.told.push(Denial { count: std::mem::take(&mut self.untold), ..denial });
        }
    }
}

impl Packet<'_> {
    fn protocol_and_ports(&self) -> (Protocol, u16, u16) {
        match &self.transport {
            Transport::Tcp(tcp) => (Protocol::Tcp, tcp.source_port(), tcp.destination_port()),
            Transport::Udp(udp) => (Protocol::Udp, udp.source_port(), udp.destination_port()),
        }
    }

    fn flow_out(&self) -> Flow {
        let (protocol, guest_port, peer_port) = self.protocol_and_ports();
        Flow { protocol, guest_port, peer: self.peer, peer_port }
    }

    /// The same with its ends changed: `guest` is who has sent it.
    fn flow_in(&self) -> Flow {
        let (protocol, peer_port, guest_port) = self.protocol_and_ports();
        Flow { protocol, guest_port, peer: self.guest, peer_port }
    }
}

/// `guest` of what is read is its source, and `peer` its destination.
fn read(frame: &[u8]) -> Read<'_> {
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else {
        return Read::Unusual("malformed".to_owned(), None);
    };
    let kind = frame.get(12..ETHERNET_LEN).and_then(|kind| kind.try_into().ok()).map(u16::from_be_bytes);
    let (source, destination, payload, protocol, is_plain) = match &sliced.net {
        Some(NetSlice::Arp(_)) => return Read::Link,
        Some(NetSlice::Ipv4(ip)) if kind == Some(EtherType::IPV4.0) => {
            let header = ip.header();
            let has_all = usize::from(header.total_len()) + ETHERNET_LEN == frame.len();
            let is_whole = !header.more_fragments() && header.fragments_offset().value() == 0;
            let has_options = usize::from(header.ihl()) * 4 != IPV4_LEN;
            let (from, to) = (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()));
            (
                from,
                to,
                frame.get(ETHERNET_LEN + IPV4_LEN..),
                header.protocol(),
                has_all && is_whole && !has_options,
            )
        }
        Some(NetSlice::Ipv6(ip)) if kind == Some(EtherType::IPV6.0) => {
            let header = ip.header();
            let has_all = usize::from(header.payload_length()) + ETHERNET_LEN + IPV6_LEN == frame.len();
            let (from, to) = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
            // Of extension headers there is none that a port is not behind.
            (from, to, frame.get(ETHERNET_LEN + IPV6_LEN..), header.next_header(), has_all)
        }
        _ => {
            return Read::Unusual(
                kind.map_or("malformed".to_owned(), |kind| format!("ethernet {kind:#06x}")),
                None,
            );
        }
    };
    let unusual = |protocol: &str| match is_idle(destination) {
        true => Read::Idle,
        false => Read::Unusual(protocol.to_owned(), Some(destination)),
    };
    if !is_plain {
        return unusual("fragment or options");
    }
    let transport = match (protocol, sliced.transport) {
        (IpNumber::TCP, Some(TransportSlice::Tcp(tcp))) => Transport::Tcp(tcp),
        (IpNumber::UDP, Some(TransportSlice::Udp(udp))) => Transport::Udp(udp),
        (IpNumber::IPV6_ICMP, _) => {
            let kind = payload.and_then(|payload| payload.first());
            return match kind.is_some_and(|kind| NEIGHBOUR_DISCOVERY.contains(kind)) {
                true => Read::Link,
                false => unusual("icmp"),
            };
        }
        (IpNumber::ICMP, _) => return unusual("icmp"),
        (other, _) => return unusual(&format!("ip protocol {}", other.0)),
    };
    Read::Packet(Packet { guest: source, peer: destination, transport })
}

/// For all, so for nobody that passt knows: names of the link, multicast membership.
fn is_idle(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// What connect(2) takes for the host itself.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.octets().starts_with(&[0]),
        IpAddr::V6(address) => matches!(address.segments(), [0, 0, 0, 0, 0, 0 | 0xffff, ..]),
    }
}

/// What the one to whom a frame was sent would answer: its addresses, the other way round.
fn ethernet_back(frame: &[u8]) -> Option<([u8; 6], [u8; 6])> {
    Some((frame.get(..6)?.try_into().ok()?, frame.get(6..12)?.try_into().ok()?))
}

/// The connection is refused (RFC 9293, section 3.5.2).
fn reset(frame: &[u8], packet: &Packet<'_>, tcp: &TcpSlice<'_>) -> Option<Vec<u8>> {
    let (from, to) = ethernet_back(frame)?;
    let link = PacketBuilder::ethernet2(from, to);
    let builder = match (packet.peer, packet.guest) {
        (IpAddr::V4(peer), IpAddr::V4(guest)) => link.ipv4(peer.octets(), guest.octets(), HOPS),
        (IpAddr::V6(peer), IpAddr::V6(guest)) => link.ipv6(peer.octets(), guest.octets(), HOPS),
        _ => return None,
    };
    let mut answer = Vec::new();
    let acknowledged = tcp.sequence_number().wrapping_add(1);
    let builder = builder.tcp(tcp.destination_port(), tcp.source_port(), 0, 0).rst().ack(acknowledged);
    builder.write(&mut answer, &[]).ok()?;
    Some(answer)
}

fn datagram(frame: &[u8], packet: &Packet<'_>, udp: &UdpSlice<'_>, payload: &[u8]) -> Option<Vec<u8>> {
    let (from, to) = ethernet_back(frame)?;
    let link = PacketBuilder::ethernet2(from, to);
    let builder = match (packet.peer, packet.guest) {
        (IpAddr::V4(peer), IpAddr::V4(guest)) => link.ipv4(peer.octets(), guest.octets(), HOPS),
        (IpAddr::V6(peer), IpAddr::V6(guest)) => link.ipv6(peer.octets(), guest.octets(), HOPS),
        _ => return None,
    };
    let mut answer = Vec::new();
    builder.udp(udp.destination_port(), udp.source_port()).write(&mut answer, payload).ok()?;
    Some(answer)
}

#[cfg(test)]
mod tests;
