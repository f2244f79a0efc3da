//! Stands for the host: an agent on the other end of a socket pair, and an image of Debian's busybox.

use std::{collections::HashMap, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use securectr_agent::Streams;
use securectr_protocol::{
    agent::{
        ContainerRequest, CreateRequest, DeleteRequest, Empty, ExecRequest, LaunchFailure, MakePodRequest,
        PidsResponse, ProcessId, ResizeRequest, Rootfs, SignalRequest, StartRequest, StatsResponse, Stdio,
        UpdateRequest, WaitOomRequest, WaitRequest, WaitResponse,
        exec_request::What,
        rootfs::{Lower, Upper},
    },
    agent_ttrpc::AgentClient,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use ttrpc::{Code, asynchronous::transport::Socket, context::Context as RpcContext};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Guest {
    client: AgentClient,
    streams: Streams,
    image_device: String,
    next: u32,
}

/// A created process with the host's ends of its streams.
pub(crate) struct Running {
    pub id: ProcessId,
    pub pid: u32,
    pub stdin: Option<UnixStream>,
    stdout: UnixStream,
    stderr: Option<UnixStream>,
}

#[derive(Debug)]
pub(crate) struct Output {
    pub stdout: String,
    pub stderr: String,
    pub end: WaitResponse,
}

impl Guest {
    pub(crate) async fn prepare() -> Result<Self> {
        securectr_agent::stages()?;
        let image_device = image()?;
        let (ours, theirs) = UnixStream::pair()?;
        let streams = Streams::default();
        tokio::spawn(securectr_agent::serve(theirs, streams.clone()));
        let client = AgentClient::new(ttrpc::asynchronous::Client::new(Socket::new(ours)));
        Ok(Self { client, streams, image_device, next: 1 })
    }

    fn stream(&mut self) -> Result<(u32, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        self.next += 1;
        self.streams.arrive(self.next, theirs);
        Ok((self.next, ours))
    }

    fn streams(&mut self, terminal: bool) -> Result<(Stdio, Running)> {
        let (stdin_port, stdin) = self.stream()?;
        let (stdout_port, stdout) = self.stream()?;
        let mut stdio = Stdio { stdin_port, stdout_port, ..Default::default() };
        let mut stderr = None;
        if !terminal {
            let (port, stream) = self.stream()?;
            stdio.stderr_port = port;
            stderr = Some(stream);
        }
        let running = Running { id: ProcessId::default(), pid: 0, stdin: Some(stdin), stdout, stderr };
        Ok((stdio, running))
    }

    pub(crate) async fn make_pod(
        &self,
        hostname: &str,
        sysctls: HashMap<String, String>,
        shm_bytes: u64,
    ) -> Result<Empty> {
        let hostname = hostname.to_owned();
        let request = MakePodRequest { hostname, sysctls, shm_bytes, ..Default::default() };
        Ok(self.client.make_pod(limit(), &request).await?)
    }

    pub(crate) async fn create(&mut self, spec: &Value) -> Result<Running> {
        self.create_on(spec, Upper::TmpfsBytes(64 << 20)).await
    }

    pub(crate) async fn create_on(&mut self, spec: &Value, upper: Upper) -> Result<Running> {
        self.next += 1;
        let id = ProcessId { container_id: format!("c{}", self.next), ..Default::default() };
        let (stdio, mut running) = self.streams(spec["process"]["terminal"] == true)?;
        let image_device = self.image_device.clone();
        let request = CreateRequest {
            container_id: id.container_id.clone(),
            spec_json: serde_json::to_vec(spec)?,
            rootfs: Some(Rootfs {
                lower: Some(Lower::ImageDevice(image_device)),
                upper: Some(upper),
                ..Default::default()
            })
            .into(),
            stdio: Some(stdio).into(),
            ..Default::default()
        };
        running.pid = self.client.create(limit(), &request).await?.pid;
        running.id = id;
        Ok(running)
    }

    pub(crate) async fn exec(&mut self, container: &ProcessId, process: &Value) -> Result<Running> {
        let id = format!("e{}", self.next + 1);
        self.exec_as(id, container, process).await
    }

    pub(crate) async fn exec_as(
        &mut self,
        exec_id: String,
        container: &ProcessId,
        process: &Value,
    ) -> Result<Running> {
        let id = ProcessId { exec_id, ..container.clone() };
        let (stdio, mut running) = self.streams(process["terminal"] == true)?;
        let request = ExecRequest {
            process: Some(id.clone()).into(),
            what: Some(What::ProcessJson(serde_json::to_vec(process)?)),
            stdio: Some(stdio).into(),
            ..Default::default()
        };
        running.pid = self.client.exec(limit(), &request).await?.pid;
        running.id = id;
        Ok(running)
    }

    pub(crate) async fn start(&self, running: &Running) -> Result<Option<LaunchFailure>> {
        let request = StartRequest { process: Some(running.id.clone()).into(), ..Default::default() };
        Ok(self.client.start(limit(), &request).await?.failure.into_option())
    }

    pub(crate) async fn signal(&self, id: &ProcessId, signal: u32, all: bool) -> Result<Empty> {
        let request = SignalRequest { process: Some(id.clone()).into(), signal, all, ..Default::default() };
        Ok(self.client.signal(limit(), &request).await?)
    }

    pub(crate) async fn resize(&self, id: &ProcessId, columns: u32, rows: u32) -> Result<Empty> {
        let request = ResizeRequest { process: Some(id.clone()).into(), columns, rows, ..Default::default() };
        Ok(self.client.resize(limit(), &request).await?)
    }

    pub(crate) async fn wait(&self, id: &ProcessId) -> Result<WaitResponse> {
        let request = WaitRequest { process: Some(id.clone()).into(), ..Default::default() };
        Ok(timeout(LIMIT, self.client.wait(RpcContext::default(), &request)).await??)
    }

    pub(crate) async fn pause(&self, id: &ProcessId) -> Result<Empty> {
        Ok(self.client.pause(limit(), &container(id)).await?)
    }

    pub(crate) async fn resume(&self, id: &ProcessId) -> Result<Empty> {
        Ok(self.client.resume(limit(), &container(id)).await?)
    }

    pub(crate) async fn update(&self, id: &ProcessId, resources: &Value) -> Result<Empty> {
        let request = UpdateRequest {
            container_id: id.container_id.clone(),
            resources_json: serde_json::to_vec(resources)?,
            ..Default::default()
        };
        Ok(self.client.update(limit(), &request).await?)
    }

    pub(crate) async fn stats(&self, id: &ProcessId) -> Result<StatsResponse> {
        Ok(self.client.stats(limit(), &container(id)).await?)
    }

    pub(crate) async fn pids(&self, id: &ProcessId) -> Result<PidsResponse> {
        Ok(self.client.pids(limit(), &container(id)).await?)
    }

    /// Waits for so long at most.
    pub(crate) async fn wait_oom(&self, id: &ProcessId, seen: u64, patience: Duration) -> Result<u64> {
        let container_id = id.container_id.clone();
        let request = WaitOomRequest { container_id, seen, ..Default::default() };
        Ok(self.client.wait_oom(ttrpc::context::with_duration(patience), &request).await?.count)
    }

    pub(crate) async fn delete(&self, id: &ProcessId) -> Result<Empty> {
        let request = DeleteRequest { process: Some(id.clone()).into(), ..Default::default() };
        Ok(self.client.delete(limit(), &request).await?)
    }

    /// Reads all that a started process writes, and waits for its end.
    pub(crate) async fn finish(&self, mut running: Running) -> Result<Output> {
        drop(running.stdin.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let read_stderr = async {
            match &mut running.stderr {
                Some(stream) => stream.read_to_end(&mut stderr).await,
                None => Ok(0),
            }
        };
        let all = async { tokio::try_join!(running.stdout.read_to_end(&mut stdout), read_stderr) };
        timeout(LIMIT, all).await.context("the output has no end")??;
        let end = self.wait(&running.id).await?;
        self.delete(&running.id).await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Output { stdout: text(stdout), stderr: text(stderr), end })
    }

    /// A container from its creation to its removal.
    pub(crate) async fn run(&mut self, spec: &Value) -> Result<Output> {
        let running = self.create(spec).await?;
        let failure = self.start(&running).await?;
        ensure!(failure.is_none(), "not started: {failure:?}");
        self.finish(running).await
    }

    /// What a shell in a usual container says, when it ends well.
    pub(crate) async fn say(&mut self, script: &str) -> Result<String> {
        self.say_in(&spec(script)).await
    }

    pub(crate) async fn say_in(&mut self, spec: &Value) -> Result<String> {
        let output = self.run(spec).await?;
        ensure!(output.end.exit_code == 0 && output.end.signal == 0, "{output:?}");
        Ok(output.stdout)
    }
}

impl Running {
    /// Reads what is written until it holds some words.
    pub(crate) async fn read_until(&mut self, words: &str) -> Result<String> {
        let mut text = String::new();
        let mut buffer = [0; 1024];
        while !text.contains(words) {
            let len = timeout(LIMIT, self.stdout.read(&mut buffer)).await.with_context(|| text.clone())??;
            ensure!(len > 0, "the output has ended: {text:?}");
            text.push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
        Ok(text)
    }

    pub(crate) async fn write(&mut self, words: &str) -> Result<()> {
        Ok(self.stdin.as_mut().context("stdin is closed")?.write_all(words.as_bytes()).await?)
    }
}

fn container(id: &ProcessId) -> ContainerRequest {
    ContainerRequest { container_id: id.container_id.clone(), ..Default::default() }
}

/// The code of an answer that must be an error.
pub(crate) fn code<T>(answer: Result<T>) -> Result<Code> {
    let error = answer.err().context("it was done")?;
    match error.downcast::<ttrpc::Error>()? {
        ttrpc::Error::RpcStatus(status) => Ok(status.code()),
        other => Err(other.into()),
    }
}

fn limit() -> RpcContext {
    ttrpc::context::with_duration(LIMIT)
}

pub(crate) fn process(script: &str) -> Value {
    json!({
        "cwd": "/", "args": ["sh", "-c", script], "env": ["PATH=/bin"],
        "user": { "uid": 0, "gid": 0 },
        "capabilities": { "bounding": ["CAP_MKNOD", "CAP_SETUID"], "effective": ["CAP_MKNOD", "CAP_SETUID"],
            "permitted": ["CAP_MKNOD", "CAP_SETUID"] },
    })
}

/// As the command line makes them.
pub(crate) fn spec(script: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "hostname": "guest",
        "process": process(script),
        "root": { "path": "rootfs", "readonly": false },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        ],
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "cgroup" }],
            "resources": {},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/nowhere"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger", "/nowhere"],
        },
    })
}

/// An EROFS image of busybox on a loop device.
fn image() -> Result<String> {
    let work = tempfile::tempdir()?;
    let root = work.path().join("root");
    for place in ["bin", "etc", "tmp", "proc", "home"] {
        fs::create_dir_all(root.join(place))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    let applets = Command::new("/bin/busybox").arg("--list").output()?.stdout;
    for applet in String::from_utf8(applets)?.lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/not-executable"), "text")?;
    std::os::unix::fs::symlink("/run/elsewhere", root.join("etc/link"))?;
    let file = Path::new("/run/securectr/busybox.erofs");
    run(Command::new("mkfs.erofs").arg(file).arg(&root))?;
    let device = run(Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(file))?;
    Ok(device.trim().strip_prefix("/dev/").context("losetup names a device")?.to_owned())
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
