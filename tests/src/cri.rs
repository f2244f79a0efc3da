//! CRI as a kubelet speaks it, with a containerd of the tests' own.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{self, runtime_service_client::RuntimeServiceClient};
use tonic::transport::{Channel, Endpoint};

use crate::{Containerd, Finished, Runtime, containerd::image_archive};

const IMAGE: &str = "docker.io/library/busybox:latest";
const PAUSE: &str = "docker.io/library/pause:latest";

type Client = RuntimeServiceClient<Channel>;

/// containerd with its CRI plugin, and what it needs: a network by CNI's own plugins, images, a handler for each runtime.
pub struct Cri {
    pub containerd: Containerd,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

/// The one that tests share.
pub fn cri() -> Result<&'static Cri> {
    static SHARED: OnceLock<Cri> = OnceLock::new();
    if SHARED.get().is_none() {
        let _ = SHARED.set(Cri::start()?);
    }
    SHARED.get().context("containerd with CRI")
}

/// Calls one RPC and takes its answer out of the envelope.
macro_rules! call {
    ($cri:expr, $rpc:ident, $request:expr) => {{
        let cri: &Cri = $cri;
        let mut client = cri.client.clone();
        let answer = cri.runtime.block_on(client.$rpc($request));
        answer.map(tonic::Response::into_inner).context(stringify!($rpc))
    }};
}

impl Cri {
    fn start() -> Result<Self> {
        let place = Containerd::new_place()?;
        let config = place.path().join("config.toml");
        fs::create_dir(place.path().join("cni"))?;
        fs::write(place.path().join("cni/10-pods.conflist"), network(place.path()))?;
        fs::write(
            &config,
            format!("version = 2\n{}{}", Containerd::places(place.path()), plugin(place.path())),
        )?;
        let containerd = Containerd::start_by(place, config, Containerd::programs())?;
        for (name, image) in [("busybox", IMAGE), ("pause", PAUSE)] {
            let archive = image_archive(name);
            let base = image.trim_end_matches(":latest");
            let words = ["-n", "k8s.io", "image", "import", "--base-name", base, &archive.to_string_lossy()];
            let imported = containerd.ctr(words)?;
            ensure!(imported.code == 0, "import {name}: {imported:?}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let socket = format!("unix://{}", containerd.place().join("sock").display());
        let channel = runtime.block_on(Endpoint::from_shared(socket)?.connect())?;
        Ok(Self { containerd, client: Client::new(channel), runtime })
    }

    /// Runs a pod that is as usual but for what `change` makes of it.
    pub fn pod(&self, runtime: Runtime, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Result<Pod<'_>> {
        self.pod_by(handler(runtime), change)
    }

    /// The same by the name of a RuntimeClass's handler.
    pub fn pod_by(&self, handler: &str, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Result<Pod<'_>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let logs = self.containerd.place().join(format!("logs-{number}"));
        fs::create_dir(&logs)?;
        let metadata = v1::PodSandboxMetadata {
            name: format!("pod-{number}"),
            uid: format!("uid-{number}"),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let mut config = v1::PodSandboxConfig {
            hostname: metadata.name.clone(),
            metadata: Some(metadata),
            log_directory: logs.to_string_lossy().into_owned(),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(own_processes()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut config);
        let runtime_handler = handler.to_owned();
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler };
        let id = call!(self, run_pod_sandbox, request)?.pod_sandbox_id;
        Ok(Pod { cri: self, id, config, logs })
    }
}

/// A kubelet's default, which is not CRI's.
fn own_processes() -> v1::NamespaceOption {
    v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() }
}

/// The name in a RuntimeClass.
fn handler(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Runc => "runc",
        Runtime::Securectr => "securectr",
    }
}

/// Handler, runtime, and what makes a pod: the shim by the sandbox API, where containerd has it (from 2 on), or containerd by a first
/// container.
const HANDLERS: [(&str, Runtime, &str); 3] = [
    ("runc", Runtime::Runc, "podsandbox"),
    ("securectr", Runtime::Securectr, "shim"),
    (BY_CONTAINER, Runtime::Securectr, "podsandbox"),
];

/// The handler of pods that containerd makes by a first container, whichever containerd it is.
pub const BY_CONTAINER: &str = "securectr-by-container";

fn plugin(place: &Path) -> String {
    let place = place.display();
    let runtimes = HANDLERS.map(|(handler, runtime, mode)| {
        format!(
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{handler}]\n\
             runtime_type = \"{}\"\nsandbox_mode = \"{mode}\"\n",
            runtime.name()
        )
    });
    let runtimes = runtimes.concat();
    format!(
        "[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{PAUSE}\"\ndisable_apparmor = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"{place}/cni\"\n{runtimes}"
    )
}

fn network(place: &Path) -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
            {{"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "mtu": 1450,
              "ipam": {{"type": "host-local", "dataDir": "{}/addresses",
                "ranges": [[{{"subnet": "10.222.0.0/16"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        place.display()
    )
}

/// A pod, removed with all that is left of it when this is dropped.
pub struct Pod<'a> {
    cri: &'a Cri,
    pub id: String,
    pub config: v1::PodSandboxConfig,
    logs: PathBuf,
}

impl Pod<'_> {
    /// Makes a container of the busybox image, which is as usual but for what `change` makes of it.
    pub fn create(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Result<Member<'_>> {
        let log_path = format!("{name}.log");
        let mut config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
            command: ["sh", "-c", script].map(str::to_owned).into(),
            log_path: log_path.clone(),
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(own_processes()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut config);
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = call!(self.cri, create_container, request)?.container_id;
        Ok(Member { cri: self.cri, id, log: self.logs.join(log_path) })
    }

    /// The same, and starts it.
    pub fn start(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Result<Member<'_>> {
        let member = self.create(name, script, change)?;
        member.start()?;
        Ok(member)
    }

    pub fn status(&self) -> Result<v1::PodSandboxStatus> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: false };
        call!(self.cri, pod_sandbox_status, request)?.status.context("a status")
    }

    pub fn is_ready(&self) -> Result<bool> {
        Ok(self.status()?.state() == v1::PodSandboxState::SandboxReady)
    }

    /// Its address in the network of the pods.
    pub fn address(&self) -> Result<String> {
        Ok(self.status()?.network.context("a network")?.ip)
    }

    pub fn stop(&self) -> Result<()> {
        call!(self.cri, stop_pod_sandbox, v1::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() })
            .map(drop)
    }

    pub fn remove(&self) -> Result<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        call!(self.cri, remove_pod_sandbox, request).map(drop)
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let _ = self.stop();
        let _ = self.remove();
    }
}

/// A container of a pod.
pub struct Member<'a> {
    cri: &'a Cri,
    pub id: String,
    log: PathBuf,
}

impl Member<'_> {
    pub fn start(&self) -> Result<()> {
        let request = v1::StartContainerRequest { container_id: self.id.clone() };
        call!(self.cri, start_container, request).map(drop)
    }

    /// Ends it as a kubelet does: politely, and after so many seconds not.
    pub fn stop(&self, timeout: i64) -> Result<()> {
        let request = v1::StopContainerRequest { container_id: self.id.clone(), timeout };
        call!(self.cri, stop_container, request).map(drop)
    }

    pub fn remove(&self) -> Result<()> {
        let request = v1::RemoveContainerRequest { container_id: self.id.clone() };
        call!(self.cri, remove_container, request).map(drop)
    }

    pub fn status(&self) -> Result<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest { container_id: self.id.clone(), verbose: false };
        call!(self.cri, container_status, request)?.status.context("a status")
    }

    /// Waits for its end.
    pub fn ended(&self) -> Result<v1::ContainerStatus> {
        crate::eventually("the container has ended", || {
            Ok(self.status()?.state() == v1::ContainerState::ContainerExited)
        })?;
        self.status()
    }

    /// Runs a command in it.
    pub fn exec(&self, words: &[&str]) -> Result<Finished> {
        let cmd = words.iter().map(|&word| word.to_owned()).collect();
        let request = v1::ExecSyncRequest { container_id: self.id.clone(), cmd, timeout: 60 };
        let answer = call!(self.cri, exec_sync, request)?;
        Ok(Finished { code: answer.exit_code, stdout: answer.stdout, stderr: answer.stderr })
    }

    pub fn update(&self, resources: v1::LinuxContainerResources) -> Result<()> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: self.id.clone(),
            linux: Some(resources),
            ..Default::default()
        };
        call!(self.cri, update_container_resources, request).map(drop)
    }

    pub fn stats(&self) -> Result<v1::ContainerStats> {
        let request = v1::ContainerStatsRequest { container_id: self.id.clone() };
        call!(self.cri, container_stats, request)?.stats.context("stats")
    }

    /// The lines of its log, each "stdout" or "stderr" and the text, as soon as there are so many.
    pub fn log(&self, lines: usize) -> Result<Vec<String>> {
        let mut seen = Vec::new();
        crate::eventually(&format!("{lines} lines of log"), || {
            // Time, stream, "F" for a full line, text.
            let line = |line: &str| {
                let mut words = line.splitn(4, ' ').skip(1);
                Some(format!("{} {}", words.next()?, words.nth(1)?))
            };
            seen = fs::read_to_string(&self.log)?.lines().filter_map(line).collect();
            Ok(seen.len() >= lines)
        })?;
        Ok(seen)
    }
}

/// A bind mount of the host's.
pub fn mount(host: &Path, container: &str, readonly: bool) -> v1::Mount {
    v1::Mount {
        host_path: host.to_string_lossy().into_owned(),
        container_path: container.to_owned(),
        readonly,
        ..Default::default()
    }
}
