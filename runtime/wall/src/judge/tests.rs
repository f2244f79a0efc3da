use std::{net::Ipv4Addr, time::Duration};

use securectr_wall::Network;
use simple_dns::{
    CLASS, Name, Packet as Message, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
    rdata::{A, CNAME, RData},
};

use super::*;

const GUEST: [u8; 4] = [10, 193, 86, 2];
const RESOLVER: [u8; 4] = [10, 193, 86, 3];
const GATEWAY: [u8; 4] = [10, 193, 86, 1];
const WEB: [u8; 4] = [192, 0, 2, 1];
const OTHER: [u8; 4] = [192, 0, 2, 2];
const TTL_S: u32 = 300;

fn judge(allowed: &[&str]) -> Judge {
    let network = |address: &str, length| Network { address: address.parse().unwrap(), length };
    let spec = WallSpec {
        allowed: allowed.iter().map(|allowed| allowed.parse().unwrap()).collect(),
        published: vec![(Protocol::Tcp, 80), (Protocol::Udp, 53)],
        resolver: Some(RESOLVER.into()),
        guest: (GUEST.into(), "fd73::2".parse().unwrap()),
        link: (network("10.193.86.2", 29), network("fd73::2", 64)),
    };
    Judge::new(spec, Instant::now())
}

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
}

fn tcp(from: [u8; 4], ports: (u16, u16), to: [u8; 4], flags: &str) -> Vec<u8> {
    let mut builder = ethernet().ipv4(from, to, 64).tcp(ports.0, ports.1, 1000, 65_535);
    if flags.contains('S') {
        builder = builder.syn();
    }
    if flags.contains('A') {
        builder = builder.ack(1);
    }
    written(|frame| builder.write(frame, &[]).unwrap())
}

fn udp(from: [u8; 4], ports: (u16, u16), to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let builder = ethernet().ipv4(from, to, 64).udp(ports.0, ports.1);
    written(|frame| builder.write(frame, payload).unwrap())
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    frame
}

fn question(id: u16, name: &str) -> Message<'_> {
    let mut message = Message::new_query(id);
    message.set_flags(PacketFlag::RECURSION_DESIRED);
    let (kind, class) = (QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN));
    message.questions.push(Question::new(Name::new_unchecked(name), kind, class, false));
    message
}

fn ask(judge: &mut Judge, id: u16, name: &str) -> Verdict {
    let message = question(id, name).build_bytes_vec().unwrap();
    judge.outgoing(&udp(GUEST, (4000, 53), RESOLVER, &message), Instant::now())
}

fn record<'a>(owner: &'a str, data: RData<'a>) -> ResourceRecord<'a> {
    ResourceRecord::new(Name::new_unchecked(owner), CLASS::IN, TTL_S, data)
}

fn address(address: [u8; 4]) -> RData<'static> {
    RData::A(A { address: Ipv4Addr::from(address).to_bits() })
}

/// Whether the resolver's answer passes.
fn answer(judge: &mut Judge, id: u16, name: &str, records: Vec<ResourceRecord<'_>>) -> bool {
    let mut message = question(id, name).into_reply();
    message.answers = records;
    let message = message.build_bytes_vec().unwrap();
    judge.incoming(&udp(RESOLVER, (53, 4000), GUEST, &message), Instant::now())
}

fn begins(judge: &mut Judge, to: [u8; 4], port: u16) -> bool {
    judge.outgoing(&tcp(GUEST, (5000, port), to, "S"), Instant::now()) == Verdict::Pass
}

#[test]
fn what_is_named_by_address_and_port_passes_and_nothing_else() {
    let mut judge = judge(&["192.0.2.1:443", "198.51.100.0/24"]);
    for (to, port, passes) in [
        (WEB, 443, true),
        (WEB, 80, false),
        (OTHER, 443, false),
        ([198, 51, 100, 9], 1, true),
        ([198, 51, 101, 9], 1, false),
        (GATEWAY, 443, false),
        ([127, 0, 0, 1], 443, false),
    ] {
        assert_eq!(begins(&mut judge, to, port), passes, "{to:?}:{port}");
        let datagram = udp(GUEST, (5000, port), to, b"x");
        assert_eq!(judge.outgoing(&datagram, Instant::now()) == Verdict::Pass, passes, "{to:?}:{port}");
    }
    let told = judge.take_denials();
    assert_eq!(
        (told[0].address, told[0].port, told[0].protocol.as_str()),
        (Some(WEB.into()), Some(80), "tcp")
    );
    assert_eq!(told[0].to_string(), "192.0.2.1:80/tcp");
}

#[test]
fn the_loopback_is_never_reached_whatever_is_allowed() {
    let mut judge = judge(&["0.0.0.0/0", "::/0"]);
    assert!(begins(&mut judge, WEB, 80));
    for to in [[127, 0, 0, 1], [0, 0, 0, 0]] {
        assert!(!begins(&mut judge, to, 80), "{to:?}");
    }
    for to in ["::1", "::ffff:127.0.0.1", "::127.0.0.1"] {
        let to: std::net::Ipv6Addr = to.parse().unwrap();
        let guest: std::net::Ipv6Addr = "fd73::2".parse().unwrap();
        let builder = ethernet().ipv6(guest.octets(), to.octets(), 64).udp(1, 2);
        let frame = written(|frame| builder.write(frame, b"x").unwrap());
        assert_eq!(judge.outgoing(&frame, Instant::now()), Verdict::Drop, "{to}");
    }
}

#[test]
fn a_refused_connection_is_refused_at_once() {
    let mut judge = judge(&[]);
    let Verdict::Answer(frame) = judge.outgoing(&tcp(GUEST, (5000, 80), WEB, "S"), Instant::now()) else {
        panic!("no answer");
    };
    let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(TransportSlice::Tcp(reset)) = sliced.transport else { panic!("{sliced:?}") };
    assert!(reset.rst() && reset.ack() && reset.acknowledgment_number() == 1001);
    assert_eq!((reset.source_port(), reset.destination_port()), (80, 5000));
    let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!() };
    assert_eq!((ip.header().source(), ip.header().destination()), (WEB, GUEST));
}

#[test]
fn a_name_opens_what_the_resolver_says_and_only_its_ports() {
    let mut judge = judge(&["web.test:443"]);
    assert!(!begins(&mut judge, WEB, 443));
    assert_eq!(ask(&mut judge, 7, "WEB.test"), Verdict::Pass);
    let alias = RData::CNAME(CNAME(Name::new_unchecked("cdn.other")));
    // One that is not about what was asked for does not count.
    let records =
        vec![record("web.test", alias), record("cdn.other", address(WEB)), record("x.test", address(OTHER))];
    assert!(answer(&mut judge, 7, "web.test", records));
    assert!(begins(&mut judge, WEB, 443));
    assert!(!begins(&mut judge, WEB, 80) && !begins(&mut judge, OTHER, 443));
}

#[test]
fn other_names_do_not_exist_and_are_told() {
    let mut judge = judge(&["*.web.test"]);
    assert_eq!(ask(&mut judge, 7, "www.web.test"), Verdict::Pass);
    let Verdict::Answer(frame) = ask(&mut judge, 8, "secrets.evil.test") else { panic!("no answer") };
    let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(TransportSlice::Udp(datagram)) = sliced.transport else { panic!("{sliced:?}") };
    let message = Message::parse(datagram.payload()).unwrap();
    assert_eq!((message.id(), message.rcode()), (8, RCODE::NameError));
    assert!(message.has_flags(PacketFlag::RESPONSE) && message.questions.len() == 1);
    assert_eq!(judge.take_denials()[0].to_string(), "the name secrets.evil.test");
}

#[test]
fn an_answer_that_was_not_asked_for_teaches_nothing() {
    let mut judge = judge(&["web.test"]);
    let records = || vec![record("web.test", address(WEB))];
    assert!(!answer(&mut judge, 7, "web.test", records()), "no question");
    assert_eq!(ask(&mut judge, 7, "web.test"), Verdict::Pass);
    assert!(!answer(&mut judge, 9, "web.test", records()), "another number");
    assert!(!answer(&mut judge, 7, "evil.test", vec![record("evil.test", address(WEB))]), "another name");
    assert!(!begins(&mut judge, WEB, 80));
    // The guest's own, forged to look like the resolver's.
    let mut message = question(7, "web.test").into_reply();
    message.answers = records();
    let forged = udp(RESOLVER, (53, 4000), GUEST, &message.build_bytes_vec().unwrap());
    assert_eq!(judge.outgoing(&forged, Instant::now()), Verdict::Drop);
    assert!(!begins(&mut judge, WEB, 80));
}

#[test]
fn a_name_does_not_open_what_is_the_hosts_or_the_links() {
    let mut judge = judge(&["web.test"]);
    for inside in [[127, 0, 0, 1], [169, 254, 169, 254], GATEWAY, RESOLVER, [0, 0, 0, 0], [224, 0, 0, 1]] {
        assert_eq!(ask(&mut judge, 7, "web.test"), Verdict::Pass);
        assert!(answer(&mut judge, 7, "web.test", vec![record("web.test", address(inside))]));
        assert!(!begins(&mut judge, inside, 80), "{inside:?}");
    }
}

#[test]
fn what_was_learned_is_forgotten_in_time_and_what_goes_on_goes_on() {
    let mut judge = judge(&["web.test"]);
    ask(&mut judge, 7, "web.test");
    answer(&mut judge, 7, "web.test", vec![record("web.test", address(WEB))]);
    assert!(begins(&mut judge, WEB, 80));
    let later = Instant::now() + Duration::from_secs(u64::from(TTL_S) + 1);
    let rest = tcp(GUEST, (5000, 80), WEB, "A");
    assert_eq!(judge.outgoing(&rest, later), Verdict::Pass);
    assert_ne!(judge.outgoing(&tcp(GUEST, (5001, 80), WEB, "S"), later), Verdict::Pass);
}

#[test]
fn who_comes_to_a_published_port_is_answered_and_not_called() {
    let mut judge = judge(&[]);
    let now = Instant::now();
    let answer = tcp(GUEST, (80, 6000), OTHER, "SA");
    assert_eq!(judge.outgoing(&answer, now), Verdict::Drop);
    assert!(!judge.incoming(&tcp(OTHER, (6000, 81), GUEST, "S"), now), "a port that is not published");
    assert!(judge.incoming(&tcp(OTHER, (6000, 80), GUEST, "S"), now));
    assert_eq!(judge.outgoing(&answer, now), Verdict::Pass);
    assert_ne!(judge.outgoing(&tcp(GUEST, (80, 6000), OTHER, "S"), now), Verdict::Pass, "it begins nothing");
    assert_ne!(judge.outgoing(&tcp(GUEST, (80, 6001), OTHER, "SA"), now), Verdict::Pass);
    assert!(judge.incoming(&udp(OTHER, (6000, 53), GUEST, b"x"), now));
    assert_eq!(judge.outgoing(&udp(GUEST, (53, 6000), OTHER, b"x"), now), Verdict::Pass);
    assert!(!judge.incoming(&udp(OTHER, (6000, 5353), GUEST, b"x"), now));
}

#[test]
fn what_has_two_readings_does_not_pass() {
    let mut judge = judge(&["0.0.0.0/0", "::/0"]);
    let plain = udp(GUEST, (5000, 80), WEB, b"hello");
    assert_eq!(judge.outgoing(&plain, Instant::now()), Verdict::Pass);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = plain.clone();
        change(&mut frame);
        frame
    };
    let frames = [
        ("a tagged frame", changed(&|frame| drop(frame.splice(12..12, [0x81, 0, 0, 1])))),
        ("another protocol of the link", changed(&|frame| frame[12..14].copy_from_slice(&[0x88, 0xb5]))),
        ("a first fragment", changed(&|frame| frame[20] = 0x20)),
        ("a last fragment", changed(&|frame| frame[21] = 1)),
        (
            "options",
            changed(&|frame| {
                frame[14] = 0x46;
                frame.splice(34..34, [1, 1, 1, 1]);
                frame[17] += 4;
            }),
        ),
        ("more than its length says", changed(&|frame| frame.push(0))),
        ("less than its length says", changed(&|frame| frame.truncate(plain.len() - 1))),
        ("another protocol", changed(&|frame| frame[23] = 47)),
        ("nobody's source", changed(&|frame| frame[29] = 77)),
        ("nothing", vec![0; 14]),
    ];
    for (what, frame) in &frames {
        assert_ne!(judge.outgoing(frame, Instant::now()), Verdict::Pass, "{what}");
    }
    for end in 0..plain.len() {
        assert_ne!(judge.outgoing(&plain[..end], Instant::now()), Verdict::Pass, "{end}");
    }
    // An IPv6 packet whose port is behind an extension header.
    let guest: std::net::Ipv6Addr = "fd73::2".parse().unwrap();
    let builder = ethernet().ipv6(guest.octets(), [0x20; 16], 64).udp(1, 2);
    let mut frame = written(|frame| builder.write(frame, b"x").unwrap());
    frame[20] = 60;
    frame[19] += 8;
    frame.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
    assert_eq!(judge.outgoing(&frame, Instant::now()), Verdict::Drop);
}

#[test]
fn noise_of_any_kind_is_judged_without_a_panic() {
    let mut judge = judge(&["0.0.0.0/0", "web.test"]);
    let mut state: u64 = 42;
    let mut frames =
        vec![udp(GUEST, (5000, 53), RESOLVER, &question(7, "web.test").build_bytes_vec().unwrap())];
    frames.push(tcp(GUEST, (5000, 80), WEB, "S"));
    for round in 0..20_000 {
        let mut frame = frames[round % frames.len()].clone();
        for _ in 0..4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 33) as usize % frame.len();
            frame[at] = (state >> 24) as u8;
        }
        judge.outgoing(&frame, Instant::now());
        judge.incoming(&frame, Instant::now());
    }
    assert!(judge.take_denials().len() < 100);
}
