//! Names: which questions go to the resolver, and what is learned from its answers to them.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use securectr_wall::{Allowed, WallSpec};
use simple_dns::{CLASS, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, rdata::RData};

use crate::flows::Recent;

/// Questions that wait for their answer.
const MOST_QUESTIONS: usize = 256;
/// Addresses that were learned.
const MOST_ADDRESSES: usize = 4096;
/// Of an answer.
const MOST_RECORDS: usize = 128;

/// A program may use an address a while after it has asked for it.
const LEAST_LIFE: Duration = Duration::from_secs(60);
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Names {
    /// By the guest's port and the question's number: a hash of the question.
    questions: Recent<(u16, u16), u64>,
    /// By address and rule: until when.
    learned: Recent<(IpAddr, usize), Instant>,
}

/// What becomes of a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Pass,
    /// The answer to it, and the name that was asked for.
    Refused {
        answer: Vec<u8>,
        name: String,
    },
    /// It is none.
    Malformed,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self { questions: Recent::new(MOST_QUESTIONS), learned: Recent::new(MOST_ADDRESSES) }
    }

    /// A question that the guest asks the resolver from this port.
    pub(crate) fn ask(&mut self, from: u16, message: &[u8], allowed: &[Allowed]) -> Asked {
        let Ok(question) = Packet::parse(message) else { return Asked::Malformed };
        let is_plain = !question.has_flags(PacketFlag::RESPONSE)
            && question.opcode() == OPCODE::StandardQuery
            && question.answers.is_empty()
            && question.name_servers.is_empty()
            && question.additional_records.is_empty();
        let ([one], true) = (question.questions.as_slice(), is_plain) else { return Asked::Malformed };
        let is_transfer = !matches!(one.qtype, QTYPE::TYPE(_)) || one.qclass != QCLASS::CLASS(CLASS::IN);
        let name = one.qname.to_string().to_ascii_lowercase();
        if is_transfer || !allowed.iter().any(|allowed| allowed.has_name(&name)) {
            let mut answer = Packet::new_reply(question.id());
            *answer.rcode_mut() = RCODE::NameError;
            answer.set_flags(question_flags(&question) | PacketFlag::RECURSION_AVAILABLE);
            answer.questions.push(one.clone());
            return match answer.build_bytes_vec() {
                Ok(answer) => Asked::Refused { answer, name },
                Err(_) => Asked::Malformed,
            };
        }
        self.questions.insert((from, question.id()), fingerprint(&name, one.qtype));
        Asked::Pass
    }

    /// An answer of the resolver to this port of the guest. Whether the guest has asked for it.
    pub(crate) fn learn(&mut self, to: u16, message: &[u8], spec: &WallSpec, now: Instant) -> bool {
        let Ok(answer) = Packet::parse(message) else { return false };
        let [one] = answer.questions.as_slice() else { return false };
        let name = one.qname.to_string().to_ascii_lowercase();
        let asked = self.questions.remove(&(to, answer.id()));
        if !answer.has_flags(PacketFlag::RESPONSE) || asked != Some(fingerprint(&name, one.qtype)) {
            return false;
        }
        let rules: Vec<usize> =
            (0..).zip(&spec.allowed).filter(|(_, rule)| rule.has_name(&name)).map(|(at, _)| at).collect();
        // The name and those that it is another one for, which an answer tells in their order.
        let mut names = vec![name];
        for record in answer.answers.iter().take(MOST_RECORDS) {
            let owner = record.name.to_string().to_ascii_lowercase();
            if !names.contains(&owner) {
                continue;
            }
            let address = match &record.rdata {
                RData::CNAME(other) => {
                    names.push(other.0.to_string().to_ascii_lowercase());
                    continue;
                }
                RData::A(a) => IpAddr::V4(a.address.into()),
                RData::AAAA(aaaa) => IpAddr::V6(aaaa.address.into()),
                _ => continue,
            };
            if !may_be_learned(address, spec) {
                continue;
            }
            let life = Duration::from_secs(record.ttl.into()).clamp(LEAST_LIFE, LONGEST_LIFE);
            for &rule in &rules {
                self.learned.insert((address, rule), now + life);
            }
        }
        true
    }

    /// Whether an address is that of a name for which there is this rule.
    pub(crate) fn knows(&mut self, address: IpAddr, rule: usize, now: Instant) -> bool {
        self.learned.find((address, rule)).is_some_and(|until| now < until)
    }
}

fn question_flags(question: &Packet<'_>) -> PacketFlag {
    let wants_recursion = question.has_flags(PacketFlag::RECURSION_DESIRED);
    if wants_recursion { PacketFlag::RECURSION_DESIRED } else { PacketFlag::empty() }
}

fn fingerprint(name: &str, kind: QTYPE) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    let kind: u16 = kind.into();
    (name, kind).hash(&mut hasher);
    hasher.finish()
}

/// Who answers for a name must not open by it what is nobody's in the world: the host's own, its link's, the guest's.
fn may_be_learned(address: IpAddr, spec: &WallSpec) -> bool {
    let is_link = spec.link.0.has(address) || spec.link.1.has(address);
    let is_odd = match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets().starts_with(&[0])
        }
        IpAddr::V6(v6) => {
            let in_disguise = matches!(v6.segments(), [0, 0, 0, 0, 0, 0 | 0xffff, ..]);
            in_disguise || v6.is_unicast_link_local() || v6.is_multicast()
        }
    };
    !is_link && !is_odd
}
