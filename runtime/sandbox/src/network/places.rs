//! The machine's network devices, and what the agent is told of the interfaces that they become.

use std::{
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
};

use securectr_protocol::agent::{self, ConfigureNetworkRequest};
use securectr_vmm::spec::{NetSpec, Wire};

use super::{Interface, Namespace, Neighbour, NetworkError, Prefix, Route};
use crate::{equipment::Equipment, vmm::Vmm};

/// How many devices a machine has whose namespace is still empty. Docker lays interfaces into it between create and start, and
/// a machine cannot get devices while it runs. Each costs the guest little as long as it is down.
pub(super) const SPARES: usize = 2;

/// In bytes, of the devices' frames; that of the interface is the guest's to keep.
pub(super) const SPARE_MTU: u16 = u16::MAX;

/// The devices of a machine for what is in a namespace. When this is dropped, the namespace is as it was.
#[derive(Debug)]
pub(crate) struct Places {
    namespace: Namespace,
    /// How many devices the machine has.
    device_count: usize,
    /// The interfaces that have a device, by their indices in the namespace: the first has the first, and so on.
    served: Mutex<Vec<u32>>,
}

impl Places {
    /// Equips a machine with what is in a network namespace, or with devices for what will be.
    pub(crate) async fn open(path: &Path, equipment: &mut Equipment) -> Result<Self, NetworkError> {
        let namespace = Namespace::open(path).await?;
        let joined = namespace.join().await?;
        let mut nets = Vec::new();
        let mut served = Vec::new();
        for (interface, (_, tap)) in joined.interfaces.iter().zip(joined.taps) {
            let wire = Some(Wire::Tap(equipment.lay(tap)));
            nets.push(NetSpec { wire, mac: device_mac(nets.len()), mtu: interface.mtu });
            served.push(interface.index);
        }
        if nets.is_empty() {
            let spare = |number| NetSpec { wire: None, mac: device_mac(number), mtu: SPARE_MTU };
            nets.extend((0..SPARES).map(spare));
        }
        let device_count = nets.len();
        equipment.devices.nets = nets;
        Ok(Self { namespace, device_count, served: Mutex::new(served) })
    }

    /// Gives the machine what has appeared in the namespace, and says how the agent is to configure all there is.
    pub(crate) async fn refresh(&self, vmm: &Vmm) -> Result<ConfigureNetworkRequest, NetworkError> {
        let joined = self.namespace.join().await?;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, tap) in joined.taps {
            let Some(Interface { index, name, .. }) = joined.interfaces.get(place) else { continue };
            if served.len() == self.device_count {
                return Err(NetworkError::NoPlace(name.clone()));
            }
            vmm.attach_net(served.len(), &tap)
                .map_err(|source| NetworkError::Attach { interface: name.clone(), source })?;
            served.push(*index);
        }
        let with_device = |of: &Interface| {
            let device = served.iter().position(|index| *index == of.index)?;
            Some(interface(of, device_mac(device)))
        };
        let interfaces = joined.interfaces.iter().filter_map(with_device).collect();
        Ok(ConfigureNetworkRequest { interfaces, ..Default::default() })
    }
}

/// Of a machine's n-th device, until the guest gives it that of its interface: locally administered, and none of the world's. So machines
/// whose interfaces differ are alike.
pub(crate) fn device_mac(number: usize) -> [u8; 6] {
    let [_, s, c, t, r, _] = *b"\x02sctr\0";
    // The VMM has fewer devices than a u8 can count.
    [2, s, c, t, r, 0x80 | number as u8]
}

/// As the agent is told of it.
pub(super) fn interface(interface: &Interface, device_mac: [u8; 6]) -> agent::Interface {
    agent::Interface {
        mac: interface.mac.to_vec(),
        device_mac: device_mac.to_vec(),
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
