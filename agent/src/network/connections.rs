//! The TCP connections that the guest has with others, ended where the other side is not there any more: sock_diag(7). Programs hear of it
//! at once (ECONNABORTED), where they would wait for answers for a quarter of an hour.

use std::{io, net::Ipv6Addr};

use super::netlink::{Message, Netlink};

/// Of linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// Of linux/tcp_states.h, as bits: all states but closed, listening and waiting for late packets.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Of `struct inet_diag_msg` and, with eight bytes before it, of `struct inet_diag_req_v2`: `struct inet_diag_sockid` with ports,
/// addresses of 16 bytes, the interface, and a number of the kernel's own.
const SOCKET: std::ops::Range<usize> = 4..52;
const SOURCE: std::ops::Range<usize> = 4..20;
const DESTINATION: std::ops::Range<usize> = 20..36;

pub(super) fn end() -> io::Result<()> {
    let mut netlink = Netlink::of_sockets()?;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let listed = netlink.list(SOCK_DIAG_BY_FAMILY, &request(family, &[0; 48]))?;
        for socket in listed.iter().filter_map(|told| told.get(SOCKET)) {
            if leads_out(family, socket) {
                // One that has ended meanwhile is what is wanted.
                let _ = netlink.change(Message::new(SOCK_DESTROY, 0, &request(family, socket)));
            }
        }
    }
    Ok(())
}

/// `struct inet_diag_req_v2`: family, protocol, what else is asked for, states, socket.
fn request(family: u8, socket: &[u8]) -> Vec<u8> {
    let header = [family, libc::IPPROTO_TCP as u8, 0, 0];
    [&header[..], &CONNECTED.to_ne_bytes(), socket].concat()
}

/// To others than the guest itself.
fn leads_out(family: u8, socket: &[u8]) -> bool {
    let (source, destination) = (socket.get(SOURCE), socket.get(DESTINATION));
    let Some(to) = destination.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()) else { return false };
    let is_loopback = if family == libc::AF_INET as u8 {
        to.first() == Some(&127)
    } else {
        let address = Ipv6Addr::from(to);
        address.is_loopback() || address.to_ipv4_mapped().is_some_and(|address| address.is_loopback())
    };
    !is_loopback && source != destination
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn socket(from: [u8; 16], to: [u8; 16]) -> Vec<u8> {
        [&[0; 4][..], &from, &to, &[0; 12]].concat()
    }

    #[test]
    fn only_what_leads_to_others_leads_out() {
        let v4 = |[a, b, c, d]: [u8; 4]| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&[a, b, c, d]);
            bytes
        };
        let (v4_family, v6_family) = (libc::AF_INET as u8, libc::AF_INET6 as u8);
        let own = v4([10, 0, 0, 2]);
        assert!(leads_out(v4_family, &socket(own, v4([10, 0, 0, 1]))));
        assert!(!leads_out(v4_family, &socket(own, own)));
        assert!(!leads_out(v4_family, &socket(v4([127, 0, 0, 1]), v4([127, 0, 0, 2]))));
        let mapped = "::ffff:127.0.0.1".parse::<Ipv6Addr>().unwrap().octets();
        assert!(!leads_out(v6_family, &socket([9; 16], mapped)));
        assert!(!leads_out(v6_family, &socket([9; 16], Ipv6Addr::LOCALHOST.octets())));
        assert!(leads_out(v6_family, &socket([9; 16], [8; 16])));
    }

    #[test]
    fn connections_are_found_by_the_kernels_own_words() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut ours = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut netlink = Netlink::of_sockets().unwrap();
        let family = libc::AF_INET as u8;
        let listed = netlink.list(SOCK_DIAG_BY_FAMILY, &request(family, &[0; 48])).unwrap();
        let to_it = |socket: &&[u8]| socket.get(2..4) == Some(&port.to_be_bytes()[..]);
        let found: Vec<_> = listed.iter().filter_map(|told| told.get(SOCKET)).filter(to_it).collect();
        assert_eq!(found.len(), 1);
        // Only root may end it, and the host's kernel may not know how.
        if netlink.change(Message::new(SOCK_DESTROY, 0, &request(family, found[0]))).is_ok() {
            assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        }
    }
}
