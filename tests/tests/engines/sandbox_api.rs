//! The sandbox service, call by call. That containerd runs pods by it is for the tests of CRI, under a containerd that asks for it.

use std::{fs, path::Path, process::Command, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::{
    cgroups_v2::metrics::Metrics,
    protobuf::Message,
    sandbox_api::{
        CreateSandboxRequest, PingRequest, PlatformRequest, SandboxMetricsRequest, SandboxStatusRequest,
        SandboxStatusResponse, ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest,
        WaitSandboxRequest,
    },
    ttrpc::{Code, Error},
};
use k8s_cri::v1::{LinuxPodSandboxConfig, NamespaceMode, PodSandboxConfig, UserNamespace};
use rustix::pipe::pipe;
use securectr_tests::{
    Containerd, eventually, no_process_is_left, sandbox_call,
    shim::{Shim, limit, options},
};

const ID: &str = "sandbox-1";
const CGROUP: &str = "/sys/fs/cgroup/securectr-sandboxes/sandbox-1";

fn create(shim: &Shim, change: impl FnOnce(&mut PodSandboxConfig)) -> Result<(), Error> {
    let linux =
        LinuxPodSandboxConfig { cgroup_parent: "/securectr-sandboxes".to_owned(), ..Default::default() };
    let mut config =
        PodSandboxConfig { hostname: "web".to_owned(), linux: Some(linux), ..Default::default() };
    change(&mut config);
    let request = CreateSandboxRequest {
        sandbox_id: ID.to_owned(),
        bundle_path: shim.bundle(),
        options: Some(options(&config)).into(),
        ..Default::default()
    };
    sandbox_call!(shim, create_sandbox, request).map(drop)
}

fn start(shim: &Shim) -> Result<u32, Error> {
    let request = StartSandboxRequest { sandbox_id: ID.to_owned(), ..Default::default() };
    sandbox_call!(shim, start_sandbox, request).map(|answer| answer.pid)
}

fn status(shim: &Shim) -> Result<SandboxStatusResponse, Error> {
    let request = SandboxStatusRequest { sandbox_id: ID.to_owned(), verbose: true, ..Default::default() };
    sandbox_call!(shim, sandbox_status, request)
}

fn ping(shim: &Shim) -> Result<(), Error> {
    let request = PingRequest { sandbox_id: ID.to_owned(), ..Default::default() };
    sandbox_call!(shim, ping_sandbox, request).map(drop)
}

fn stop(shim: &Shim) -> Result<(), Error> {
    let request = StopSandboxRequest { sandbox_id: ID.to_owned(), timeout_secs: 30, ..Default::default() };
    sandbox_call!(shim, stop_sandbox, request).map(drop)
}

fn wait(shim: &Shim) -> Result<u32, Error> {
    let request = WaitSandboxRequest { sandbox_id: ID.to_owned(), ..Default::default() };
    let answer = sandbox_call!(shim, wait_sandbox, request)?;
    Ok(if answer.exited_at.is_some() { answer.exit_status } else { u32::MAX })
}

/// Shuts it down; nothing of it is left.
fn shut_down(shim: &Shim) -> Result<()> {
    let request = ShutdownSandboxRequest { sandbox_id: ID.to_owned(), ..Default::default() };
    sandbox_call!(shim, shutdown_sandbox, request)?;
    eventually("the server has ended", || Ok(shim.has_ended()))?;
    no_process_is_left()?;
    ensure!(!Path::new(CGROUP).exists(), "the cgroup is left");
    Ok(())
}

fn refusal<T>(answer: Result<T, Error>) -> Result<(Code, String)> {
    match answer.err().context("it was done")? {
        Error::RpcStatus(status) => Ok((status.code(), status.message)),
        other => Err(other.into()),
    }
}

#[test]
fn a_sandbox_is_created_started_asked_stopped_and_shut_down() -> Result<()> {
    let shim = Shim::start(ID)?;
    assert_eq!(refusal(status(&shim))?.0, Code::NOT_FOUND);
    create(&shim, |_| {})?;
    assert_eq!(refusal(create(&shim, |_| {}))?.0, Code::ALREADY_EXISTS);
    assert_eq!(status(&shim)?.state, "SANDBOX_NOTREADY");
    assert_eq!(refusal(ping(&shim))?.0, Code::FAILED_PRECONDITION);
    let pid = start(&shim)?;
    assert_eq!(refusal(start(&shim))?.0, Code::FAILED_PRECONDITION);
    let said = status(&shim)?;
    assert_eq!((said.state.as_str(), said.pid), ("SANDBOX_READY", pid));
    ensure!(said.created_at.is_some() && Path::new(&format!("/proc/{pid}")).exists());
    let vmm = said.info.get("vmmPid").context("the VMM's pid")?;
    assert_eq!(fs::read_to_string(format!("/proc/{vmm}/comm"))?, "securectr-vmm\n");
    let request = PlatformRequest { sandbox_id: ID.to_owned(), ..Default::default() };
    let platform = sandbox_call!(&shim, platform, request)?.platform.unwrap_or_default();
    assert_eq!((platform.os.as_str(), platform.architecture.as_str()), ("linux", "amd64"));
    ping(&shim)?;
    stop(&shim)?;
    stop(&shim)?;
    assert_eq!(wait(&shim)?, 0);
    let said = status(&shim)?;
    ensure!(said.state == "SANDBOX_NOTREADY" && said.exited_at.is_some(), "{said:?}");
    shut_down(&shim)
}

#[test]
fn what_a_sandbox_costs_the_host_is_told() -> Result<()> {
    let shim = Shim::start(ID)?;
    create(&shim, |_| {})?;
    start(&shim)?;
    let request = SandboxMetricsRequest { sandbox_id: ID.to_owned(), ..Default::default() };
    let told = sandbox_call!(&shim, sandbox_metrics, request)?.metrics.unwrap_or_default();
    let data = told.data.unwrap_or_default();
    assert_eq!((told.id.as_str(), data.type_url.as_str()), (ID, "io.containerd.cgroups.v2.Metrics"));
    let metrics = Metrics::parse_from_bytes(&data.value)?;
    // What the machine does not share with others of its template, and on the host its keepers.
    let used = metrics.memory.unwrap_or_default().usage;
    assert!((2 << 20..1 << 30).contains(&used), "{used} bytes");
    assert!(metrics.cpu.unwrap_or_default().usage_usec > 0 && metrics.pids.unwrap_or_default().current >= 3);
    shut_down(&shim)
}

#[test]
fn a_machine_that_dies_ends_the_wait_for_its_sandbox() -> Result<()> {
    let shim = Shim::start(ID)?;
    create(&shim, |_| {})?;
    start(&shim)?;
    let request = WaitSandboxRequest { sandbox_id: ID.to_owned(), ..Default::default() };
    let (client, asked) = (shim.client.clone(), request.clone());
    let waiting = shim.runtime.spawn(async move { client.wait_sandbox(limit(), &asked).await });
    sleep(Duration::from_millis(200));
    ensure!(!waiting.is_finished(), "the wait ended before the sandbox");
    ensure!(Command::new("pkill").args(["-KILL", "-x", "securectr-vmm"]).status()?.success());
    assert_eq!(shim.runtime.block_on(waiting)??.exit_status, 137);
    assert_eq!(status(&shim)?.state, "SANDBOX_NOTREADY");
    assert_eq!(refusal(ping(&shim))?.0, Code::UNAVAILABLE);
    shut_down(&shim)
}

#[test]
fn a_guest_that_hangs_is_told_from_one_that_answers() -> Result<()> {
    let shim = Shim::start(ID)?;
    create(&shim, |_| {})?;
    start(&shim)?;
    ensure!(Command::new("pkill").args(["-STOP", "-x", "securectr-vmm"]).status()?.success());
    let (code, words) = refusal(ping(&shim))?;
    assert!(code == Code::UNAVAILABLE && words.contains("does not answer"), "{words}");
    assert_eq!(status(&shim)?.state, "SANDBOX_READY");
    shut_down(&shim)
}

#[test]
fn what_was_never_started_can_be_stopped_and_shut_down() -> Result<()> {
    let shim = Shim::start(ID)?;
    create(&shim, |_| {})?;
    stop(&shim)?;
    shut_down(&shim)?;
    // Nor does one need to have been created.
    shut_down(&Shim::start(ID)?)
}

#[test]
fn what_a_guest_cannot_have_is_refused_and_nothing_is_left() -> Result<()> {
    let shim = Shim::start(ID)?;
    let (code, words) = refusal(create(&shim, |config| {
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.namespace_options.get_or_insert_default().userns_options = Some(UserNamespace::default());
    }))?;
    assert!(code == Code::INVALID_ARGUMENT && words.contains("user namespace"), "{words}");
    create(&shim, |config| {
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.namespace_options.get_or_insert_default().set_network(NamespaceMode::Node);
    })?;
    let (code, words) = refusal(start(&shim))?;
    assert!(code == Code::INVALID_ARGUMENT && words.contains("the host's network"), "{words}");
    shut_down(&shim)
}

#[test]
fn a_server_ends_when_its_start_could_not_tell_of_it() -> Result<()> {
    let bundle = Containerd::new_place()?;
    let (nobody_reads, answer) = pipe()?;
    drop(nobody_reads);
    let started = Shim::command(ID, bundle.path()).stdout(answer).output()?;
    ensure!(!started.status.success(), "{started:?}");
    let address = fs::read_to_string(bundle.path().join("address"))?;
    eventually("the server has ended", || Ok(!Path::new(address.trim_start_matches("unix://")).exists()))?;
    no_process_is_left()
}
