//! The shim as containerd drives it when it asks for a sandbox, without containerd.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{
    protobuf::well_known_types::any::Any, sandbox_async::SandboxClient, shim_async::Client, ttrpc::context,
};
use k8s_cri::v1::PodSandboxConfig;
use prost::Message;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{Containerd, program};

/// A server that was started for a sandbox.
pub struct Shim {
    pub client: SandboxClient,
    /// Where its calls are made.
    pub runtime: Runtime,
    bundle: TempDir,
    /// Of its socket.
    pub address: String,
}

/// Calls one RPC, within a minute.
#[macro_export]
macro_rules! sandbox_call {
    ($shim:expr, $rpc:ident, $request:expr) => {{
        let shim: &$crate::shim::Shim = $shim;
        shim.runtime.block_on(shim.client.$rpc($crate::shim::limit(), &$request))
    }};
}

/// How long a call may take.
pub fn limit() -> context::Context {
    context::with_duration(std::time::Duration::from_secs(60))
}

impl Shim {
    /// Calls the action `start` in an empty bundle, as containerd does.
    pub fn start(id: &str) -> Result<Self> {
        let bundle = Containerd::new_place()?;
        let started = Self::command(id, bundle.path()).output()?;
        ensure!(started.status.success() && started.stderr.is_empty(), "start: {started:?}");
        let address = String::from_utf8(started.stdout)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(Client::connect(&address)).context("connect to the server")?;
        Ok(Self { client: SandboxClient::new(client), runtime, bundle, address })
    }

    /// The action `start`.
    pub fn command(id: &str, bundle: &Path) -> Command {
        let mut command = Command::new(program("containerd-shim-securectr-v2"));
        command.args(["-namespace", "tests", "-id", id, "-address", "/nowhere", "start"]);
        command.current_dir(bundle).stdin(Stdio::null());
        command
    }

    pub fn bundle(&self) -> String {
        self.bundle.path().to_string_lossy().into_owned()
    }

    /// Its socket goes with the server.
    pub fn has_ended(&self) -> bool {
        !Path::new(self.address.trim_start_matches("unix://")).exists()
    }
}

/// A pod as CRI describes it.
pub fn options(config: &PodSandboxConfig) -> Any {
    let type_url = "runtime.v1.PodSandboxConfig".to_owned();
    Any { type_url, value: config.encode_to_vec(), ..Default::default() }
}
