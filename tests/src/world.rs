//! A machine with a way out: a namespace that stands for the host, with a resolver of its own, and one for the world, with a cable
//! between them.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result};
use rustix::{
    fd::AsFd,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    eventually,
    lan::{batch, ip, output},
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The host is 10.77.0.2 and fd00:77::2; all its ways lead to the world, which is 10.77.0.1, 10.77.0.3, fd00:77::1 and fd00:77::3. The
/// host's resolver, at its loopback, knows `web.test` and `www.web.test` as the world, `other.test` as its second addresses, and
/// `loop.test` as the loopback.
pub struct World {
    host: String,
    world: String,
    resolver: Child,
}

impl World {
    pub fn new() -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |what| format!("sctr-test-{}-{number}-{what}", std::process::id());
        let (host, world) = (name("host"), name("outside"));
        for namespace in [&host, &world] {
            ip(&["netns", "add", namespace])?;
        }
        batch(
            &world,
            &format!(
                "link set lo up\nlink add cable type veth peer name out netns {host}\n\
                 addr add 10.77.0.1/24 dev cable\naddr add 10.77.0.3/24 dev cable\naddr add fd00:77::1/64 dev cable nodad\n\
                 addr add fd00:77::3/64 dev cable nodad\nlink set cable up\n"
            ),
        )?;
        batch(
            &host,
            "link set lo up\naddr add 10.77.0.2/24 dev out\naddr add fd00:77::2/64 dev out nodad\nlink set out up\n\
             route add default via 10.77.0.1\nroute add default via fd00:77::1\n",
        )?;
        // ip-netns(8) lays it over the host's own.
        fs::create_dir_all(etc(&host))?;
        fs::write(etc(&host).join("resolv.conf"), "nameserver 127.0.0.53\n")?;
        let mut resolver = Command::new("dnsmasq");
        resolver.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
        ]);
        resolver.args([
            "--user=root",
            "--listen-address=127.0.0.53",
            "--bind-interfaces",
            "--log-facility=/dev/null",
        ]);
        for (name, addresses) in [
            ("web.test", ["10.77.0.1", "fd00:77::1"]),
            ("other.test", ["10.77.0.3", "fd00:77::3"]),
            ("loop.test", ["127.0.0.1", "::1"]),
        ] {
            resolver.args(addresses.map(|address| format!("--address=/{name}/{address}")));
        }
        let resolver =
            inside_command(&host, &resolver).stdin(Stdio::null()).spawn().context("start dnsmasq")?;
        let world = Self { host, world, resolver };
        eventually("the resolver listens", || {
            let sockets = output(Command::new("ip").args(["netns", "exec", &world.host, "ss", "-lun"]))?;
            Ok(sockets.contains("127.0.0.53:53"))
        })?;
        // An address of the link is in use at once, without one there is no IPv6 by passt.
        eventually("the link has an address", || {
            let out = ["-n", &world.host, "-6", "addr", "show", "dev", "out", "scope", "link", "-tentative"];
            Ok(!output(Command::new("ip").args(out))?.is_empty())
        })?;
        Ok(world)
    }

    /// The same on the host of this world.
    pub fn on_host(&self, command: &Command) -> Command {
        inside_command(&self.host, command)
    }

    /// Does something on the host.
    pub fn inside_host<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        inside(&self.host, work)
    }

    /// Does something in the world.
    pub fn outside<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        inside(&self.world, work)
    }

    /// Tells everybody who comes to a port of the world, by TCP, who they are, until this process ends.
    pub fn serve(&self, address: SocketAddr) -> Result<()> {
        let listener = self.outside(move || Ok(TcpListener::bind(address)?))?;
        thread::spawn(move || answer(&listener));
        Ok(())
    }

    /// The same on the host.
    pub fn serve_on_host(&self, address: SocketAddr) -> Result<()> {
        let listener = self.inside_host(move || Ok(TcpListener::bind(address)?))?;
        thread::spawn(move || answer(&listener));
        Ok(())
    }

    /// Sends back what comes to a port of the world by UDP.
    pub fn echo(&self, address: SocketAddr) -> Result<()> {
        let socket = self.outside(move || Ok(UdpSocket::bind(address)?))?;
        thread::spawn(move || {
            let mut datagram = [0; 2048];
            while let Ok((len, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(datagram.get(..len).unwrap_or_default(), from);
            }
        });
        Ok(())
    }

    /// The names of the programs that run on the host, but for its resolver.
    pub fn programs(&self) -> Result<Vec<String>> {
        let pids = output(Command::new("ip").args(["netns", "pids", &self.host]))?;
        let others = pids.lines().filter(|pid| *pid != self.resolver.id().to_string());
        Ok(others.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok()).collect())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.resolver.kill();
        let _ = self.resolver.wait();
        for namespace in [&self.host, &self.world] {
            let _ = ip(&["netns", "delete", namespace]);
        }
        let _ = fs::remove_dir_all(etc(&self.host));
    }
}

fn etc(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

fn answer(listener: &TcpListener) {
    use std::io::Write;
    while let Ok((mut stream, from)) = listener.accept() {
        let _ = writeln!(stream, "you are {}", from.ip());
    }
}

fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let namespace = File::open(Path::new("/run/netns").join(namespace))?;
    let thread = thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    });
    thread.join().ok().context("a thread")?
}

fn inside_command(namespace: &str, command: &Command) -> Command {
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", namespace]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    inside
}
