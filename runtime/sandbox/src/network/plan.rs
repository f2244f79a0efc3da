//! Where a guest's network leads, as it is planned and written down.

use std::{fmt, net::IpAddr, path::PathBuf};

use securectr_wall::{Allowed, Protocol};
use serde::{Deserialize, Serialize};

use super::{nat, places};
use crate::NetKind;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPlan {
    /// A namespace of the host, whose interfaces become the guest's.
    Namespace(PathBuf),
    /// passt(1): what the guest sends comes from the host.
    Nat(NatPlan),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatPlan {
    /// At most one for each protocol and port of the host.
    pub published: Vec<Published>,
    /// What the guest may reach, if that is not all.
    #[serde(default)]
    pub allowed: Option<Vec<Allowed>>,
    /// The guest may ask the host's resolver, at the address that [`resolver`](super::resolver) tells.
    pub resolver: bool,
}

impl NetworkPlan {
    /// What the machine's devices are, as far as that is known before a namespace is looked at.
    pub(crate) fn kinds(&self) -> Vec<NetKind> {
        match self {
            Self::Namespace(_) => {
                vec![NetKind { is_stream: false, mtu: places::SPARE_MTU }; places::SPARES]
            }
            Self::Nat(_) => vec![NetKind { is_stream: true, mtu: nat::MTU }],
        }
    }
}

/// A port of the guest that the host has, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Of the host. 0.0.0.0 is all that it has of IPv4's, and :: all that it has.
    pub address: IpAddr,
    pub host_port: u16,
    pub guest_port: u16,
    pub protocol: Protocol,
}

impl fmt::Display for Published {
    /// The host's side: `8080/tcp` or `127.0.0.1:8080/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host_port, protocol, .. } = self;
        match self.address {
            any if any.is_unspecified() => write!(f, "{host_port}/{protocol}"),
            IpAddr::V4(address) => write!(f, "{address}:{host_port}/{protocol}"),
            IpAddr::V6(address) => write!(f, "[{address}]:{host_port}/{protocol}"),
        }
    }
}
