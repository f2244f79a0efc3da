//! netlink(7), as far as one has to write it: changes, and the kernel's yes or no; lists, as the kernel tells them.
//!
//! By hand, since this is PID 1, which every boot copies: with netlink-packet-route a small static program that makes these four
//! messages grows by 540 KiB, the agent with all of this by 21.

use std::{io, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use securectr_protocol::agent::{Neighbour, Prefix, Route};

/// Of a message of netlink(7), and of an attribute of rtnetlink(7), in bytes.
const HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Where the errno is in the kernel's answer, `struct nlmsgerr`.
const ERRNO: std::ops::Range<usize> = HEADER_LEN..HEADER_LEN + 4;
/// The answer repeats the question, which is shorter.
const ANSWER_LEN: usize = 4096;
/// A list comes in parts, of which the kernel makes none longer.
const LIST_LEN: usize = 64 << 10;

/// Of linux/rtnetlink.h; `libc` has it not.
const RTNH_F_ONLINK: u32 = 4;

const REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: &[u8]) -> Option<Self> {
        match address.len() {
            4 => Some(Self::V4),
            16 => Some(Self::V6),
            _ => None,
        }
    }

    pub(super) fn bits(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }
}

/// What of an interface is to change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link<'a> {
    pub name: Option<&'a str>,
    pub mac: Option<&'a [u8]>,
    pub mtu: Option<u32>,
    pub up: bool,
}

/// A socket in this process's network namespace.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        // The default protocol is NETLINK_ROUTE.
        let flags = SocketFlags::CLOEXEC;
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?))
    }

    /// For questions about sockets.
    pub(super) fn of_sockets() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?))
    }

    pub(super) fn set_link(&mut self, index: u32, link: &Link<'_>) -> io::Result<()> {
        self.change(set_link(index, link))
    }

    pub(super) fn add_address(&mut self, index: u32, family: Family, prefix: &Prefix) -> io::Result<()> {
        self.change(add_address(index, family, prefix))
    }

    pub(super) fn add_neighbour(&mut self, index: u32, family: Family, of: &Neighbour) -> io::Result<()> {
        self.change(add_neighbour(index, family, of))
    }

    pub(super) fn add_route(&mut self, index: u32, family: Family, route: &Route) -> io::Result<()> {
        self.change(add_route(index, family, route))
    }

    pub(super) fn change(&mut self, message: Message) -> io::Result<()> {
        send(&self.0, &message.finish(), SendFlags::empty())?;
        let mut answer = [0; ANSWER_LEN];
        recv(&self.0, answer.as_mut_slice(), RecvFlags::empty())?;
        // Nothing else is sent to a socket that listens to no group.
        let errno = answer.get(ERRNO).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
        if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-errno)) }
    }

    /// All that the kernel tells of a kind: each message without its header.
    pub(super) fn list(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        send(&self.0, &Message::new(kind, libc::NLM_F_DUMP as u16, body).finish(), SendFlags::empty())?;
        let (mut all, mut buffer) = (Vec::new(), vec![0; LIST_LEN]);
        loop {
            let (len, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = buffer.get(..len).unwrap_or_default();
            while let Some((kind, body, behind)) = next_message(rest) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(all),
                    libc::NLMSG_ERROR => return Err(io::ErrorKind::InvalidInput.into()),
                    _ => all.push(body.to_owned()),
                }
                rest = behind;
            }
        }
    }
}

/// Its kind, what is behind its header, and what is behind it.
fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let behind = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, bytes.get(HEADER_LEN..len)?, behind))
}

/// `struct ifinfomsg`: family, type, index, flags and which of them change.
fn set_link(index: u32, link: &Link<'_>) -> Message {
    let up = if link.up { libc::IFF_UP as u32 } else { 0 };
    let body = [[0; 4], index.to_ne_bytes(), up.to_ne_bytes(), up.to_ne_bytes()];
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &body.concat());
    if let Some(name) = link.name {
        message.attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    }
    if let Some(mac) = link.mac {
        message.attribute(libc::IFLA_ADDRESS, mac);
    }
    if let Some(mtu) = link.mtu {
        message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
    }
    message
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index. Nobody else has the address: the host's network has seen to it.
fn add_address(index: u32, family: Family, prefix: &Prefix) -> Message {
    let header = [family.code(), prefix.length as u8, libc::IFA_F_NODAD as u8, 0];
    let mut message = Message::new(libc::RTM_NEWADDR, REPLACE, &[header, index.to_ne_bytes()].concat());
    message.attribute(libc::IFA_LOCAL, &prefix.address);
    message.attribute(libc::IFA_ADDRESS, &prefix.address);
    if let (Family::V4, Some(broadcast)) = (family, broadcast(prefix)) {
        message.attribute(libc::IFA_BROADCAST, &broadcast);
    }
    message
}

/// `struct ndmsg`: family, index, state, flags, type.
fn add_neighbour(index: u32, family: Family, neighbour: &Neighbour) -> Message {
    let [low, high] = libc::NUD_PERMANENT.to_ne_bytes();
    let body = [[family.code(), 0, 0, 0], index.to_ne_bytes(), [low, high, 0, 0]].concat();
    let mut message = Message::new(libc::RTM_NEWNEIGH, REPLACE, &body);
    message.attribute(libc::NDA_DST, &neighbour.address);
    message.attribute(libc::NDA_LLADDR, &neighbour.mac);
    message
}

/// `struct rtmsg`: family, lengths of the prefixes, type of service, table, protocol, scope, type, flags.
fn add_route(index: u32, family: Family, route: &Route) -> Message {
    let on_the_link = route.gateway.is_empty() && family == Family::V4;
    let scope = if on_the_link { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
    let flags = if route.on_link { RTNH_F_ONLINK } else { 0 };
    let header = [family.code(), route.destination.length as u8, 0, 0];
    let kind = [libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, scope, libc::RTN_UNICAST];
    let mut message =
        Message::new(libc::RTM_NEWROUTE, REPLACE, &[header, kind, flags.to_ne_bytes()].concat());
    let addresses = [
        (libc::RTA_DST, &route.destination.address),
        (libc::RTA_GATEWAY, &route.gateway),
        (libc::RTA_PREFSRC, &route.source),
    ];
    for (kind, address) in addresses {
        if !address.is_empty() {
            message.attribute(kind, address);
        }
    }
    message.attribute(libc::RTA_OIF, &index.to_ne_bytes());
    if route.metric != 0 {
        message.attribute(libc::RTA_PRIORITY, &route.metric.to_ne_bytes());
    }
    message
}

/// None for networks of one or two.
fn broadcast(prefix: &Prefix) -> Option<[u8; 4]> {
    let address = u32::from_be_bytes(prefix.address.as_slice().try_into().ok()?);
    let host_bits = u32::MAX.checked_shr(prefix.length).filter(|&bits| bits > 1)?;
    Some((address | host_bits).to_be_bytes())
}

pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        // The length comes last; the kernel knows the sender, and there is one question at a time.
        let mut bytes = [[0; 4].as_slice(), &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = ATTRIBUTE_HEADER_LEN + value.len();
        // An interface's name is the longest; the kernel refuses one that is too long.
        self.0.extend((len as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = self.0;
        let len = (bytes.len() as u32).to_ne_bytes();
        if let Some(field) = bytes.first_chunk_mut() {
            *field = len;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_the_kernel_reads_it() {
        let prefix = Prefix { address: vec![10, 0, 0, 2], length: 24, ..Default::default() };
        let bytes = add_address(7, Family::V4, &prefix).finish();
        let expected = [
            &48_u32.to_le_bytes()[..],
            // RTM_NEWADDR; REQUEST, ACK, REPLACE, CREATE
            &[20, 0, 0x05, 0x05, 0, 0, 0, 0, 0, 0, 0, 0],
            &[2, 24, 2, 0, 7, 0, 0, 0],
            &[8, 0, 2, 0, 10, 0, 0, 2],
            &[8, 0, 1, 0, 10, 0, 0, 2],
            &[8, 0, 4, 0, 10, 0, 0, 255],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn attributes_begin_at_multiples_of_four() {
        let bytes = set_link(1, &Link { name: Some("eth0"), mtu: Some(1400), ..Link::default() }).finish();
        assert_eq!(
            bytes.get(32..),
            Some(&[9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0, 8, 0, 4, 0, 120, 5, 0, 0][..])
        );
    }

    #[test]
    fn small_networks_have_no_broadcast_address() {
        let of = |length| broadcast(&Prefix { address: vec![10, 1, 2, 3], length, ..Default::default() });
        assert_eq!((of(32), of(31)), (None, None));
        assert_eq!((of(30), of(8), of(0)), (Some([10, 1, 2, 3]), Some([10, 255, 255, 255]), Some([255; 4])));
    }
}
