//! The process of passt(1): started, asked whether it is there, and heard of when it ends. It confines itself before it reads a
//! frame; with root it becomes nobody.
//!
//! It ends when the other end of its socket is closed, so also when everybody else was killed.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    process::Stdio,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, ChildStderr, Command},
    sync::{oneshot, watch},
    time::timeout,
};

use securectr_wall::Protocol;

use super::{
    Published,
    nat::{GATEWAY, GATEWAY_MAC, GATEWAY_V6, GUEST, GUEST_MAC, GUEST_V6, LENGTH},
};

const PROGRAM: &str = "passt";

/// In which it has bound its ports and answered.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Room for several of the longest frames on their way, in bytes: Debian 12's passt loses its place in a stream that is full.
const SOCKET_BUFFER_LEN: usize = 4 << 20;

/// What is kept of its words, in bytes.
const MAX_WORDS_LEN: u64 = 8 << 10;

const MAX_FRAME_LEN: usize = 65_550;
const ARP_LEN: usize = 42;
const ARP_REPLY: [u8; 2] = [0, 2];

#[derive(Debug, Error)]
pub enum PasstError {
    #[error("passt is missing, which makes a network without root: install the Debian package passt")]
    Missing,
    #[error("start passt")]
    Start(#[source] io::Error),
    #[error("publish the port {port}: {}", advice(.source))]
    Publish { port: Published, source: io::Error },
    #[error("publish the port {0}: this host has no way out by IPv6")]
    NoIpv6(Published),
    #[error("passt refused: {0}")]
    Refused(String),
    #[error("passt did not answer within {} s", START_LIMIT.as_secs())]
    Silent,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => "another program has it",
        ErrorKind::PermissionDenied => {
            "ports below 1024 are root's, unless net.ipv4.ip_unprivileged_port_start says otherwise"
        }
        ErrorKind::AddrNotAvailable => "the address is none of this host",
        _ => "the kernel refused it",
    }
}

/// What a passt is to do.
pub(super) struct Wanted<'a> {
    pub published: &'a [Published],
    /// By which the host reaches the world, if it does.
    pub ipv6_interface: Option<&'a str>,
    /// At which the guest finds the host's.
    pub resolver: Option<IpAddr>,
}

/// A started passt. When this is dropped, it is killed.
#[derive(Debug)]
pub(super) struct Passt {
    end: watch::Receiver<Option<String>>,
    _alive: oneshot::Sender<()>,
}

impl Passt {
    /// Returns when it serves, with the other end of its socket.
    pub(super) async fn start(wanted: &Wanted<'_>) -> Result<(Self, OwnedFd), PasstError> {
        for port in wanted.published {
            if port.address.is_ipv6() && wanted.ipv6_interface.is_none() {
                return Err(PasstError::NoIpv6(*port));
            }
            try_port(port).map_err(|source| PasstError::Publish { port: *port, source })?;
        }
        let (ours, theirs) = StdUnixStream::pair().map_err(PasstError::Start)?;
        for socket in [&ours, &theirs] {
            // Root may have more than others; the default is room for one frame at least.
            let _ = setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER_LEN)
                .or_else(|_| setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER_LEN));
        }
        let mut child = spawn(wanted, theirs.into())?;
        let stderr = child.stderr.take();
        let mut socket = connect(ours).map_err(PasstError::Start)?;
        let answer = tokio::select! {
            answer = timeout(START_LIMIT, is_there(&mut socket)) => answer,
            _ = child.wait() => Ok(Err(ErrorKind::UnexpectedEof.into())),
        };
        match answer {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(PasstError::Refused(last_words(stderr).await)),
            Err(_) => return Err(PasstError::Silent),
        }
        let (alive, gone) = oneshot::channel();
        let (said_end, end) = watch::channel(None);
        tokio::spawn(async move {
            // It dies with this task, which ends when nobody wants it any more.
            tokio::select! {
                status = child.wait() => {
                    let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    let _ = said_end.send(Some(format!("passt has ended ({how})")));
                }
                _ = gone => {}
            }
        });
        let socket = socket.into_std().map_err(PasstError::Start)?;
        Ok((Self { end, _alive: alive }, socket.into()))
    }

    /// Answers when it has ended.
    pub(super) async fn ended(&self) -> String {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(words)) => words.clone(),
            // The task that watches is gone only with its runtime.
            _ => std::future::pending().await,
        }
    }
}

fn connect(ours: StdUnixStream) -> io::Result<UnixStream> {
    ours.set_nonblocking(true)?;
    UnixStream::from_std(ours)
}

fn spawn(wanted: &Wanted<'_>, socket: OwnedFd) -> Result<Child, PasstError> {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments(wanted))
        .stdin(socket)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C at the terminal is for the container.
        .process_group(0)
        .kill_on_drop(true);
    command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => PasstError::Missing,
        _ => PasstError::Start(error),
    })
}

/// The guest is told its addresses by its agent: passt need not.
fn arguments(wanted: &Wanted<'_>) -> Vec<String> {
    let mac: Vec<String> = GATEWAY_MAC.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut words: Vec<String> =
        ["--foreground", "--quiet", "--fd", "0", "--no-map-gw", "--no-dhcp", "--no-dhcpv6"]
            .into_iter()
            .chain(["--no-ra", "--mac-addr", &mac.join(":"), "--netmask", &LENGTH.to_string()])
            .map(str::to_owned)
            .collect();
    let mut say = |option: &str, value: String| words.extend([option.to_owned(), value]);
    say("--address", GUEST.to_string());
    say("--gateway", GATEWAY.to_string());
    match wanted.ipv6_interface {
        Some(name) => {
            say("--address", GUEST_V6.to_string());
            say("--gateway", GATEWAY_V6.to_string());
            say("--interface", name.to_owned());
        }
        // Nothing is taken from it, but passt wants one, and the host need not have another.
        None => say("--interface", "lo".to_owned()),
    }
    if let Some(resolver) = wanted.resolver {
        say("--dns-forward", resolver.to_string());
    }
    for port in wanted.published {
        let Published { host_port, guest_port, .. } = port;
        let address = match port.address {
            // Without an address, a port is both protocols'.
            IpAddr::V6(any) if any.is_unspecified() => String::new(),
            address => format!("{address}/"),
        };
        let option = match port.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        say(option, format!("{address}{host_port}:{guest_port}"));
    }
    if wanted.ipv6_interface.is_none() {
        words.push("--ipv4-only".to_owned());
    }
    words
}

/// passt says only that it could not; this says why. What happens to the port in between, passt tells.
fn try_port(port: &Published) -> io::Result<()> {
    let address = SocketAddr::new(port.address, port.host_port);
    match port.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    }
}

/// Asks for the gateway's address as the guest would (RFC 826), and waits for the answer: it comes when passt has all that it is to
/// have. From then on it knows the guest's address, too.
async fn is_there(socket: &mut UnixStream) -> io::Result<()> {
    // Ethernet for IPv4, addresses of 6 and 4 bytes, a question.
    let kind: &[u8] = &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1];
    let question =
        [&[0xff; 6], &GUEST_MAC, kind, &GUEST_MAC, &GUEST.octets(), &[0; 6], &GATEWAY.octets()].concat();
    socket.write_all(&(question.len() as u32).to_be_bytes()).await?;
    socket.write_all(&question).await?;
    let mut frame = vec![0; MAX_FRAME_LEN];
    loop {
        let len = socket.read_u32().await? as usize;
        let frame = frame.get_mut(..len).ok_or(ErrorKind::InvalidData)?;
        socket.read_exact(frame).await?;
        let is_arp = len >= ARP_LEN && frame.get(12..14) == Some(&[0x08, 0x06]);
        if is_arp && frame.get(20..22) == Some(&ARP_REPLY) {
            return Ok(());
        }
    }
}

/// What it said last, in one line.
async fn last_words(stderr: Option<ChildStderr>) -> String {
    let mut words = Vec::new();
    if let Some(stderr) = stderr {
        let _ = stderr.take(MAX_WORDS_LEN).read_to_end(&mut words).await;
    }
    let words = String::from_utf8_lossy(&words);
    let last = words.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
    last.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::nat::{RESOLVER, RESOLVER_V6},
        *,
    };

    fn published(address: &str, host_port: u16, protocol: Protocol) -> Published {
        Published { address: address.parse().unwrap(), host_port, guest_port: 80, protocol }
    }

    #[test]
    fn ports_are_named_as_passt_reads_them() {
        let ports = [
            published("0.0.0.0", 8080, Protocol::Tcp),
            published("::", 8081, Protocol::Tcp),
            published("127.0.0.1", 53, Protocol::Udp),
        ];
        let wanted = Wanted { published: &ports, ipv6_interface: None, resolver: Some(RESOLVER.into()) };
        let words = arguments(&wanted).join(" ");
        for part in [
            "--tcp-ports 0.0.0.0/8080:80",
            "--tcp-ports 8081:80",
            "--udp-ports 127.0.0.1/53:80",
            "--ipv4-only",
            "--dns-forward 10.193.86.3",
        ] {
            assert!(words.contains(part), "no {part} in {words}");
        }
        let wanted =
            Wanted { published: &[], ipv6_interface: Some("eth0"), resolver: Some(RESOLVER_V6.into()) };
        let words = arguments(&wanted).join(" ");
        assert!(words.contains("--interface eth0") && !words.contains("ipv4-only"), "{words}");
    }

    #[test]
    fn a_port_that_somebody_has_is_told_with_its_reason() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = published("127.0.0.1", taken.local_addr().unwrap().port(), Protocol::Tcp);
        assert_eq!(try_port(&port).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(advice(&try_port(&port).unwrap_err()), "another program has it");
        drop(taken);
        assert!(try_port(&port).is_ok());
        let foreign = published("192.0.2.1", 8080, Protocol::Udp);
        assert_eq!(try_port(&foreign).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    }

    #[tokio::test]
    async fn it_serves_when_it_is_started_and_goes_with_its_socket() {
        let wanted = Wanted { published: &[], ipv6_interface: None, resolver: None };
        let (passt, socket) = Passt::start(&wanted).await.unwrap();
        drop(socket);
        assert_eq!(passt.ended().await, "passt has ended (exit status: 0)");
    }

    #[tokio::test]
    async fn its_own_words_for_a_refusal_are_told() {
        let wanted = Wanted { published: &[], ipv6_interface: Some("no such"), resolver: None };
        let error = Passt::start(&wanted).await.unwrap_err().to_string();
        assert!(error.starts_with("passt refused: ") && error.contains("no such"), "{error}");
    }
}
