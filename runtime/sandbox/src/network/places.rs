//! The machine's network devices, and what the agent is told of the interfaces that they become.

use std::{net::IpAddr, path::Path};

use securectr_protocol::agent::{self, ConfigureNetworkRequest};
use securectr_vmm::spec::{NetSpec, Wire};

use super::{Interface, Namespace, Neighbour, NetworkError, Prefix, Route};
use crate::vmm::{Equipment, Vmm};

/// How many devices a machine has whose namespace is still empty. Docker lays interfaces into it between create and start, and
/// a machine cannot get devices while it runs. Each costs the guest little as long as it is down.
const SPARES: u8 = 2;

/// The devices of a machine for what is in a namespace. When this is dropped, the namespace is as it was.
#[derive(Debug)]
pub(crate) struct Places {
    namespace: Namespace,
    /// The MAC addresses of the machine's devices. They become interfaces in this order.
    devices: Vec<[u8; 6]>,
}

impl Places {
    /// Equips a machine with what is in a network namespace, or with devices for what will be.
    pub(crate) async fn open(path: &Path, equipment: &mut Equipment) -> Result<Self, NetworkError> {
        let namespace = Namespace::open(path).await?;
        let joined = namespace.join().await?;
        let mut nets = Vec::new();
        for (interface, (_, tap)) in joined.interfaces.iter().zip(joined.taps) {
            let wire = Some(Wire::Tap(equipment.lay(tap)));
            nets.push(NetSpec { wire, mac: interface.mac, mtu: interface.mtu });
        }
        if nets.is_empty() {
            nets.extend((0..SPARES).map(|number| NetSpec { wire: None, mac: spare(number), mtu: u16::MAX }));
        }
        let devices = nets.iter().map(|net| net.mac).collect();
        equipment.spec.nets = nets;
        Ok(Self { namespace, devices })
    }

    /// Gives the machine what has appeared in the namespace, and says how the agent is to configure all there is.
    pub(crate) async fn refresh(&self, vmm: &Vmm) -> Result<ConfigureNetworkRequest, NetworkError> {
        let joined = self.namespace.join().await?;
        let mut interfaces: Vec<agent::Interface> = joined.interfaces.iter().map(interface).collect();
        // As many devices as there were taps are in use.
        for (number, (place, tap)) in (joined.had_taps..).zip(joined.taps) {
            let Some(told) = interfaces.get_mut(place) else { continue };
            let mac = self.devices.get(number).ok_or_else(|| NetworkError::NoPlace(told.name.clone()))?;
            vmm.attach_net(number, &tap)
                .map_err(|source| NetworkError::Attach { interface: told.name.clone(), source })?;
            told.device_mac = mac.to_vec();
        }
        Ok(ConfigureNetworkRequest { interfaces, ..Default::default() })
    }
}

/// Locally administered; none of the world's, since the interface gets another with its tap.
fn spare(number: u8) -> [u8; 6] {
    let [_, s, c, t, r, _] = *b"\x02sctr\0";
    [2, s, c, t, r, number]
}

/// As the agent is told of it.
pub(super) fn interface(interface: &Interface) -> agent::Interface {
    agent::Interface {
        mac: interface.mac.to_vec(),
        device_mac: interface.mac.to_vec(),
        name: interface.name.clone(),
        mtu: interface.mtu.into(),
        addresses: interface.addresses.iter().map(prefix).collect(),
        routes: interface.routes.iter().map(route).collect(),
        neighbours: interface.neighbours.iter().map(neighbour).collect(),
        ..Default::default()
    }
}

fn prefix(prefix: &Prefix) -> agent::Prefix {
    agent::Prefix { address: bytes(prefix.address), length: prefix.length.into(), ..Default::default() }
}

fn route(of: &Route) -> agent::Route {
    agent::Route {
        destination: Some(prefix(&of.destination)).into(),
        gateway: of.gateway.map(bytes).unwrap_or_default(),
        source: of.source.map(bytes).unwrap_or_default(),
        metric: of.metric,
        on_link: of.on_link,
        ..Default::default()
    }
}

fn neighbour(of: &Neighbour) -> agent::Neighbour {
    agent::Neighbour { address: bytes(of.address), mac: of.mac.to_vec(), ..Default::default() }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
