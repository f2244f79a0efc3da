//! Interfaces and their taps. All here is done in the namespace.

use std::{io, os::fd::OwnedFd, sync::PoisonError};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    tc::{
        TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption,
        TcActionType, TcAttribute, TcFilterMatchAll, TcFilterMatchAllOption, TcHandle, TcMessage, TcMirror,
        TcMirrorActionType, TcOption,
    },
};

use super::{Interface, Joined, NetworkError, Served, interfaces, netlink::Netlink, sys};

/// Our taps are called this and the index of the interface that they serve.
const TAP_PREFIX: &str = "sctr";

/// The ingress queueing discipline's own handle (tc-ingress).
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// Of all protocols, as tc_filter's header wants it: ETH_P_ALL in network order, below a priority.
const ALL_PROTOCOLS: u32 = (1 << 16) | (libc::ETH_P_ALL as u16).to_be() as u32;

pub(super) fn join(netlink: &mut Netlink, served: &Served) -> Result<Joined, NetworkError> {
    let links = interfaces::links(netlink)?;
    let taps = taps(&links);
    let interfaces = interfaces::read(netlink, &links, |index| taps.iter().all(|tap| tap.index != index))?;
    let mut joined = Joined { interfaces, taps: Vec::new() };
    for (place, interface) in joined.interfaces.iter().enumerate() {
        if taps.iter().all(|tap| tap.serves != interface.index) {
            served.lock().unwrap_or_else(PoisonError::into_inner).insert(interface.index);
            joined.taps.push((place, join_one(netlink, interface)?));
        }
    }
    Ok(joined)
}

/// Takes all taps away, and the redirection from the interfaces that had them. What is gone already is gone.
pub(super) fn part(netlink: &mut Netlink, served: &Served) -> Result<(), NetworkError> {
    let mut redirected = std::mem::take(&mut *served.lock().unwrap_or_else(PoisonError::into_inner));
    let taps = taps(&interfaces::links(netlink)?);
    redirected.extend(taps.iter().map(|tap| tap.serves));
    for index in redirected {
        let _ = remove_ingress(netlink, index);
    }
    for tap in taps {
        let mut link = LinkMessage::default();
        link.header.index = tap.index;
        let _ = netlink.change(RouteNetlinkMessage::DelLink(link), 0);
    }
    Ok(())
}

struct Tap {
    index: u32,
    /// The interface's index.
    serves: u32,
}

fn taps(links: &[LinkMessage]) -> Vec<Tap> {
    let tap = |link: &LinkMessage| {
        let serves = interfaces::name(link).strip_prefix(TAP_PREFIX)?.parse().ok()?;
        interfaces::is_tap(link).then_some(Tap { index: link.header.index, serves })
    };
    links.iter().filter_map(tap).collect()
}

fn join_one(netlink: &mut Netlink, interface: &Interface) -> Result<OwnedFd, NetworkError> {
    let failed =
        |operation| move |source| NetworkError::Join { operation, interface: interface.name.clone(), source };
    let name = format!("{TAP_PREFIX}{}", interface.index);
    let tap = sys::make_tap(&name).map_err(failed("make a tap"))?;
    let index =
        nix::net::if_::if_nametoindex(name.as_str()).map_err(|errno| failed("find the tap")(errno.into()))?;
    // What a sandbox has left whose process was killed, and whose tap went with it.
    let _ = remove_ingress(netlink, interface.index);
    for (from, to) in [(interface.index, index), (index, interface.index)] {
        redirect(netlink, from, to).map_err(failed("redirect frames"))?;
    }
    // Last: before the redirection stands, nothing comes from the guest.
    bring_up(netlink, index, interface.mtu).map_err(failed("bring up the tap"))?;
    Ok(tap.into())
}

fn bring_up(netlink: &mut Netlink, index: u32, mtu: u16) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes.push(LinkAttribute::Mtu(mtu.into()));
    netlink.change(RouteNetlinkMessage::SetLink(link), 0)
}

/// What comes in on one interface goes out on another and nowhere else.
fn redirect(netlink: &mut Netlink, from: u32, to: u32) -> io::Result<()> {
    let discipline = RouteNetlinkMessage::NewQueueDiscipline(ingress(from));
    netlink.change(discipline, NLM_F_CREATE | NLM_F_EXCL)?;
    let mut mirror = TcMirror::default();
    mirror.generic = TcActionGeneric::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.tab = 1;
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    let mut filter = TcMessage::with_index(from as i32);
    filter.header.parent = INGRESS;
    filter.header.info = ALL_PROTOCOLS;
    filter.attributes = vec![
        TcAttribute::Kind(TcFilterMatchAll::KIND.to_owned()),
        TcAttribute::Options(vec![TcOption::MatchAll(TcFilterMatchAllOption::Action(vec![action]))]),
    ];
    netlink.change(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE | NLM_F_EXCL)
}

fn remove_ingress(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    netlink.change(RouteNetlinkMessage::DelQueueDiscipline(ingress(index)), 0)
}

fn ingress(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.handle = INGRESS;
    message.header.parent = TcHandle::INGRESS;
    message.attributes.push(TcAttribute::Kind("ingress".to_owned()));
    message
}
