//! A network of two: a namespace as a container's network, and one that stands for the world, with a cable between them.

use std::{
    fs::File,
    io::Write,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fd::AsFd,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Lan {
    container: String,
    world: String,
}

impl Lan {
    /// Makes both namespaces, without the cable.
    pub fn empty() -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |what| format!("sctr-test-{}-{number}-{what}", std::process::id());
        let lan = Self { container: name("container"), world: name("world") };
        for namespace in [&lan.container, &lan.world] {
            ip(&["netns", "add", namespace])?;
        }
        Ok(lan)
    }

    /// With the cable: `eth0` is 10.88.0.2/24 and fd00:88::2/64 with an MTU of 1400, and the world is 10.88.0.1 and fd00:88::1,
    /// through which all routes go.
    pub fn new() -> Result<Self> {
        let lan = Self::empty()?;
        lan.lay_cable()?;
        Ok(lan)
    }

    pub fn lay_cable(&self) -> Result<()> {
        let peer = &self.container;
        batch(
            &self.world,
            &format!(
                "link add cable mtu 1400 type veth peer name eth0 mtu 1400 address 02:88:00:00:00:02 netns {peer}\n\
                 addr add 10.88.0.1/24 dev cable\naddr add fd00:88::1/64 dev cable nodad\n\
                 addr add 192.0.2.1/32 dev cable\nlink set cable up\n"
            ),
        )?;
        batch(
            &self.container,
            "addr add 10.88.0.2/24 dev eth0\naddr add fd00:88::2/64 dev eth0 nodad\nlink set eth0 up\n\
             route add 198.51.100.1 dev eth0 scope link\nroute add default via 198.51.100.1 dev eth0 metric 700\n\
             route add 192.0.2.0/24 via 10.88.0.1\nroute add default via fd00:88::1\n\
             neigh add 198.51.100.1 lladdr 02:88:00:00:00:63 dev eth0 nud permanent\n",
        )
    }

    /// The container's namespace, for `--network`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.container)
    }

    /// What the container's namespace holds: interfaces, and how their packets are handled.
    pub fn holdings(&self) -> Result<String> {
        let links = output(Command::new("ip").args(["-n", &self.container, "-brief", "link"]))?;
        let disciplines = output(Command::new("tc").args(["-n", &self.container, "qdisc", "show"]))?;
        Ok(format!("{links}{disciplines}"))
    }

    /// Listens in the world.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        let world = File::open(PathBuf::from("/run/netns").join(&self.world))?;
        let listener = thread::spawn(move || -> Result<TcpListener> {
            move_into_link_name_space(world.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(TcpListener::bind(address)?)
        });
        listener.join().ok().context("a thread")?
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for namespace in [&self.container, &self.world] {
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

pub(crate) fn ip(words: &[&str]) -> Result<()> {
    output(Command::new("ip").args(words)).map(drop)
}

pub(crate) fn batch(namespace: &str, commands: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-n", namespace, "-batch", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().context("start ip")?;
    child.stdin.take().context("standard input")?.write_all(commands.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "{commands}: {status}");
    Ok(())
}

pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
