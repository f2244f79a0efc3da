//! The network of a sandbox. Without root it is one by passt(1), which makes a guest's connections its own (`nat`). Otherwise it is that
//! of a namespace of the host, as a CNI plugin or Docker has prepared it.
//!
//! Each of a namespace's interfaces is joined to a tap: what comes in on one goes out on the other, by tc(8)'s redirection, before the
//! namespace's own stack sees it. The guest gets the other end of the tap, and with it the interface's MAC address, addresses and
//! routes: for the world, it is the namespace.
//!
//! A tap is named after the interface that it serves, so the namespace itself tells what has been done and what is to be undone.

mod interfaces;
mod joined;
mod nat;
mod netlink;
mod passt;
mod places;
mod plan;
mod sys;
mod wall;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::IpAddr,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sched::{CloneFlags, setns},
};
use securectr_protocol::agent::ConfigureNetworkRequest;
use thiserror::Error;
use tokio::{
    sync::{broadcast, oneshot},
    time::timeout,
};

pub(crate) use self::places::device_mac;
use self::{nat::Nat, netlink::Netlink, places::Places};
pub use self::{
    nat::resolver,
    passt::PasstError,
    plan::{NatPlan, NetworkPlan, Published},
    wall::WallError,
};
use crate::{Installation, Sandbox, equipment::Equipment, vmm::Vmm};
pub use securectr_wall::{Allowed, Denial, Protocol};

#[derive(Debug, Error)]
pub enum NetworkError {
    #[error("open the network namespace {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{0} is the host's own network, which cannot be given to a guest")]
    Host(PathBuf),
    #[error("another sandbox uses this network namespace")]
    InUse,
    #[error("enter the network namespace")]
    Enter(#[source] io::Error),
    #[error("read the {0} of the network namespace")]
    Read(&'static str, #[source] io::Error),
    #[error("{operation} for the interface {interface}")]
    Join { operation: &'static str, interface: String, source: io::Error },
    #[error("the interface {interface} has {property}, which a guest cannot have")]
    Unsupported { interface: String, property: &'static str },
    #[error("the machine has no place for the interface {0}: it was started with too few")]
    NoPlace(String),
    #[error("give the interface {interface} to the machine")]
    Attach { interface: String, source: io::Error },
    #[error(transparent)]
    Passt(#[from] PasstError),
    #[error(transparent)]
    Wall(#[from] WallError),
}

/// The network of a machine. When this is dropped, the host is as it was.
#[derive(Debug)]
pub(crate) enum Network {
    Namespace(Places),
    Nat(Nat),
}

impl Network {
    /// Equips a machine with its network devices.
    pub(crate) async fn open(
        plan: &NetworkPlan,
        installation: &Installation,
        equipment: &mut Equipment,
    ) -> Result<Self, NetworkError> {
        Ok(match plan {
            NetworkPlan::Namespace(path) => Self::Namespace(Places::open(path, equipment).await?),
            NetworkPlan::Nat(plan) => Self::Nat(Nat::open(plan, &installation.wall, equipment).await?),
        })
    }

    /// Gives the machine what has appeared since, and says how the agent is to configure all there is.
    pub(crate) async fn refresh(&self, vmm: &Vmm) -> Result<ConfigureNetworkRequest, NetworkError> {
        match self {
            Self::Namespace(places) => places.refresh(vmm).await,
            Self::Nat(nat) => Ok(nat.configuration()),
        }
    }

    /// Where what the guest may not reach is told.
    pub(crate) fn denials(&self) -> Option<broadcast::Receiver<Denial>> {
        match self {
            Self::Namespace(_) => None,
            Self::Nat(nat) => nat.denials(),
        }
    }

    /// Answers, with the words for it, when the guest is cut off although nobody has wanted that.
    pub(crate) async fn lost(&self) -> String {
        match self {
            Self::Namespace(_) => std::future::pending().await,
            Self::Nat(nat) => nat.lost().await,
        }
    }
}

/// How long after its network's end a machine's own may be heard of, which was the cause.
const MACHINE_GRACE: Duration = Duration::from_secs(1);

impl Sandbox {
    /// Answers, with the words for it, when the guest has lost its network although nobody has wanted that; may be asked again.
    pub async fn network_lost(&self) -> String {
        let Some(network) = &self.booted.network else { return std::future::pending().await };
        let words = network.lost().await;
        match timeout(MACHINE_GRACE, self.booted.vmm.ended()).await {
            // The network went with its machine.
            Ok(_) => std::future::pending().await,
            Err(_) => words,
        }
    }

    /// Tells what the guest may not reach and has tried to; none where it may reach all, or nothing. Who is slow misses some.
    pub fn denials(&self) -> Option<broadcast::Receiver<Denial>> {
        self.booted.network.as_ref().and_then(Network::denials)
    }
}

/// A network interface as the guest is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interface {
    /// In the namespace.
    index: u32,
    name: String,
    mac: [u8; 6],
    mtu: u16,
    addresses: Vec<Prefix>,
    /// Those without a gateway come first: the others need them.
    routes: Vec<Route>,
    /// Which are known for good.
    neighbours: Vec<Neighbour>,
}

/// An address and how many bits of it are the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    address: IpAddr,
    length: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    destination: Prefix,
    gateway: Option<IpAddr>,
    /// The address that packets come from by default.
    source: Option<IpAddr>,
    /// 0 is the family's own default.
    metric: u32,
    /// The gateway is a neighbour although no address says so.
    on_link: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Neighbour {
    address: IpAddr,
    mac: [u8; 6],
}

/// A namespace whose interfaces are, or will be, a guest's. When this is dropped, the namespace is as it was.
#[derive(Debug)]
struct Namespace {
    /// Locked by flock(2), which ends with the process: a namespace serves one sandbox at a time.
    file: Arc<Flock<File>>,
    /// Indices of the interfaces that have, or had, a tap: a tap goes with the VMM, and leaves the redirection to it behind.
    served: Served,
}

type Served = Arc<Mutex<BTreeSet<u32>>>;

/// What is in the namespace now.
#[derive(Debug)]
struct Joined {
    interfaces: Vec<Interface>,
    /// For those that had none, in their order: which of the interfaces, and its tap.
    taps: Vec<(usize, OwnedFd)>,
}

impl Namespace {
    async fn open(path: &Path) -> Result<Self, NetworkError> {
        let open_error = |source| NetworkError::Open { path: path.to_owned(), source };
        let namespace = File::open(path).map_err(open_error)?;
        if is_hosts(&namespace).map_err(open_error)? {
            return Err(NetworkError::Host(path.to_owned()));
        }
        let locked = Flock::lock(namespace, FlockArg::LockExclusiveNonblock);
        let file = locked.map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => NetworkError::InUse,
            errno => open_error(errno.into()),
        })?;
        let namespace = Self { file: Arc::new(file), served: Served::default() };
        // What a sandbox has left whose process was killed.
        namespace.inside(joined::part).await?;
        Ok(namespace)
    }

    /// Gives a tap to each interface that has none. May be asked again, for those that have appeared since.
    async fn join(&self) -> Result<Joined, NetworkError> {
        self.inside(joined::join).await
    }

    /// Does something in the namespace, in a thread that ends with it: a thread that has been elsewhere is good for nothing else.
    async fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Netlink, &Served) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (done, is_done) = oneshot::channel();
        let (file, served) = (Arc::clone(&self.file), Arc::clone(&self.served));
        let thread = thread::Builder::new().spawn(move || done.send(enter(&file, &served, work)));
        thread.map_err(NetworkError::Enter)?;
        is_done.await.unwrap_or_else(|_| Err(NetworkError::Enter(io::ErrorKind::Interrupted.into())))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let (file, served) = (Arc::clone(&self.file), Arc::clone(&self.served));
        // A namespace that is not as it was is of no use to anybody, so there is nobody to tell.
        let _ = thread::spawn(move || enter(&file, &served, joined::part)).join();
    }
}

/// Our own, and that of PID 1, which may be another.
fn is_hosts(namespace: &File) -> io::Result<bool> {
    let asked = namespace.metadata()?;
    Ok(["/proc/self/ns/net", "/proc/1/ns/net"]
        .iter()
        .filter_map(|path| fs::metadata(path).ok())
        .any(|hosts| (hosts.dev(), hosts.ino()) == (asked.dev(), asked.ino())))
}

fn enter<T>(
    namespace: &File,
    served: &Served,
    work: impl FnOnce(&mut Netlink, &Served) -> Result<T, NetworkError>,
) -> Result<T, NetworkError> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| NetworkError::Enter(errno.into()))?;
    work(&mut Netlink::connect().map_err(NetworkError::Enter)?, served)
}
