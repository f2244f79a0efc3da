//! The action `start`: leaves a server behind for the pod, or finds it, and prints its address.
//!
//! containerd reads standard output and standard error as one: nothing else may be printed.

use std::{
    env, fs,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::OpenOptionsExt,
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use containerd_shim_protos::{
    bootstrap_api::{BootstrapParams, BootstrapResult},
    protobuf::{self, Message},
};
use nix::{fcntl::OFlag, unistd::pipe2};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    args::Args,
    bundle::{self, BundleError},
    events::TTRPC_ADDRESS,
};

/// Where containerd's own shims have their sockets.
const SOCKETS: &str = "/run/containerd/s";

/// containerd sends no more than this, in bytes.
const MAX_PARAMS_LEN: u64 = 10 << 20;

/// A server is killed later than the containers' processes, and containerd later than it.
const OOM_SCORE_ADJ: &str = "-998";

#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error("read what containerd says on standard input")]
    Input(#[source] io::Error),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("{operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("start the server")]
    Spawn(#[source] io::Error),
    #[error("answer containerd")]
    Answer(#[source] io::Error),
    #[error("describe the answer")]
    Describe(#[source] protobuf::Error),
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::Io { operation, path, source }
}

pub(crate) fn start(args: &Args) -> Result<(), StartError> {
    let params = params(args)?;
    let bundle = args.bundle.clone().unwrap_or_else(|| PathBuf::from("."));
    let group = bundle::group(&args.id, bundle::spec_if_any(&bundle)?.as_ref())?;
    let directory = params.as_ref().and_then(|params| params.socket_dir.as_deref()).unwrap_or(SOCKETS);
    let socket = socket_path(Path::new(directory), args, &group);
    let address = format!("unix://{}", socket.display());
    let mut answered = None;
    if UnixStream::connect(&socket).is_err() {
        let listener = listen(&socket)?;
        let events = params.as_ref().map(|params| params.containerd_ttrpc_address.clone());
        let server = spawn(args, &bundle, listener, events).map_err(|error| {
            let _ = fs::remove_file(&socket);
            StartError::Spawn(error)
        })?;
        answered = Some(server);
    }
    // By this file, a restarted containerd finds the server again.
    let address_file = bundle.join("address");
    fs::write(&address_file, &address).map_err(io_error("write", &address_file))?;
    let answer = match params {
        Some(_) => {
            let result =
                BootstrapResult { version: 3, address, protocol: "ttrpc".to_owned(), ..Default::default() };
            result.write_to_bytes().map_err(StartError::Describe)?
        }
        None => address.into_bytes(),
    };
    let mut stdout = io::stdout();
    stdout.write_all(&answer).and_then(|()| stdout.flush()).map_err(StartError::Answer)?;
    answered.map_or(Ok(()), |mut server| server.write_all(b"\n").map_err(StartError::Answer))
}

/// containerd from 2.3 on describes the call on standard input, and wants an answer of the same kind. Earlier ones send the
/// runtime's options there, which decode as this, too, with a type's name in place of our id.
fn params(args: &Args) -> Result<Option<BootstrapParams>, StartError> {
    let mut input = Vec::new();
    io::stdin().lock().take(MAX_PARAMS_LEN).read_to_end(&mut input).map_err(StartError::Input)?;
    let params = BootstrapParams::parse_from_bytes(&input).ok();
    Ok(params.filter(|params| !args.id.is_empty() && params.instance_id == args.id))
}

/// The path of a Unix socket is at most 107 bytes (unix(7)), and names are longer: hence a digest of them.
fn socket_path(directory: &Path, args: &Args, group: &str) -> PathBuf {
    let mut digest = Sha256::new();
    for part in ["securectr", &args.address, &args.namespace, group] {
        digest.update(part);
        digest.update("/");
    }
    let name: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    directory.join(name)
}

/// Nobody answers on the socket: what lies there is a dead server's.
fn listen(socket: &Path) -> Result<UnixListener, StartError> {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(io_error("make", directory))?;
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove the dead server's", socket)(error));
        }
        _ => {}
    }
    UnixListener::bind(socket).map_err(io_error("listen on", socket))
}

/// Starts this program again as a server: the socket is its standard input and the end of a pipe its standard output, so that no
/// numbers have to be agreed on. It ends if nothing is written to the pipe: then nobody knows of it.
fn spawn(args: &Args, bundle: &Path, listener: UnixListener, events: Option<String>) -> io::Result<File> {
    let (answered, ours) = pipe2(OFlag::O_CLOEXEC)?;
    let mut server = Command::new(env::current_exe()?);
    server.args(["-namespace", &args.namespace, "-id", &args.id, "-address", &args.address]);
    if args.debug {
        server.arg("-debug");
    }
    if let Some(events) = events {
        server.env(TTRPC_ADDRESS, events);
    }
    server
        .current_dir(bundle)
        .process_group(0)
        .stdin(OwnedFd::from(listener))
        .stdout(answered)
        .stderr(log(bundle).map_or_else(|_| Stdio::null(), Stdio::from));
    let server = server.spawn()?;
    fs::write("shim.pid", server.id().to_string())?;
    // Lowering it takes a privilege that root may have given away.
    let _ = fs::write(format!("/proc/{}/oom_score_adj", server.id()), OOM_SCORE_ADJ);
    Ok(ours.into())
}

/// containerd's end of the log. Opened for both, it neither waits for a reader nor breaks when containerd restarts.
fn log(bundle: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK.bits();
    File::options().read(true).write(true).custom_flags(flags).open(bundle.join("log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_belongs_to_one_pod_of_one_namespace_and_fits() {
        let args = |namespace: &str| Args { namespace: namespace.to_owned(), ..Args::default() };
        let path = |namespace: &str, group: &str| socket_path(Path::new(SOCKETS), &args(namespace), group);
        assert_eq!(path("k8s.io", "web"), path("k8s.io", "web"));
        assert_ne!(path("k8s.io", "web"), path("moby", "web"));
        assert_ne!(path("k8s.io", "web"), path("k8s.io", "db"));
        assert!(path("k8s.io", &"x".repeat(200)).as_os_str().len() < 108);
    }
}
