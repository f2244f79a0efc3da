//! Machines that were booted once, and from which others go on: the verbs about them, and where this user's lie.

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, Subcommand};
use oci_spec::runtime::{LinuxMemory, LinuxResources};
use securectr_sandbox::{
    Host, Installation, Kind, Listed, MachinePlan, NatPlan, NetworkPlan, Sandbox, Settings, StateRoot,
    Templates,
};
use serde_json::{Value, json};

use crate::{
    args::{Global, Network, cpu_count, memory_size, network},
    bundle::cpu_of,
    output::{self, Format},
    paths,
    report::Report,
    run,
};

/// Manage the booted machines that containers start from
#[derive(Debug, ClapArgs)]
pub(crate) struct Group {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Boot a machine for containers with these options and keep it, as their first start would do
    Build(Build),
    /// List templates, the one that was used last first
    #[command(visible_alias = "list")]
    Ls(List),
    /// Remove templates; what runs goes on, and the next start makes what it needs
    #[command(visible_alias = "remove")]
    Rm(Chosen),
    /// Read templates as a whole and compare them with their checksums [default: all]
    Verify(Verify),
}

#[derive(Debug, ClapArgs)]
struct Build {
    /// Memory limit of the containers, in bytes or with b, k, m or g [default: none]
    #[arg(short, long, value_name = "SIZE", value_parser = memory_size)]
    memory: Option<i64>,
    /// How many CPUs the containers have [default: those of this machine, at most 8]
    #[arg(long, value_name = "NUMBER", value_parser = cpu_count)]
    cpus: Option<f64>,
    /// Network of the containers: none or nat
    #[arg(long, value_name = "NETWORK", value_parser = network, default_value = "none")]
    network: Network,
    /// For containers with volumes or other mounts of this machine
    #[arg(long)]
    volumes: bool,
    /// For containers without a writable disk (--read-only, --tmpfs-root)
    #[arg(long)]
    read_only: bool,
}

#[derive(Debug, ClapArgs)]
struct List {
    /// Keys only
    #[arg(short, long)]
    quiet: bool,
    /// table, json, or a template as in '{{.ID}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Debug, ClapArgs)]
struct Chosen {
    /// Keys, or how they begin
    #[arg(required_unless_present = "all", value_name = "KEY")]
    keys: Vec<String>,
    /// All there are
    #[arg(short, long, conflicts_with = "keys")]
    all: bool,
}

#[derive(Debug, ClapArgs)]
struct Verify {
    /// Keys, or how they begin
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
}

/// What a machine of this user is made with. Who wants to see how a guest boots sees one boot.
pub(crate) fn host(installation: Installation, state: StateRoot, global: &Global) -> Result<Host> {
    let templates = if global.debug { None } else { Templates::in_store(&paths::store(global)?) };
    Ok(Host { installation, state, echo_console: global.debug, templates })
}

/// Says why a machine has booted that should have come from its template.
pub(crate) fn warn_without(sandbox: &Sandbox, report: &Report) {
    if let Some(words) = sandbox.no_template() {
        report.warning(&format!("booted without a template: {words}"));
    }
}

pub(crate) fn act(group: &Group, global: &Global, report: &Report) -> Result<u8> {
    let templates = of(global)?;
    match &group.verb {
        Verb::Build(build) => self::build(build, &templates, global),
        Verb::Ls(list) => self::list(list, &templates),
        Verb::Rm(chosen) => {
            let keys = if chosen.all { keys(&templates)? } else { chosen.keys.clone() };
            Ok(report.each(&keys, |key| output::lines([block_on(templates.remove(key))??])))
        }
        Verb::Verify(verify) => {
            let keys = if verify.keys.is_empty() { keys(&templates)? } else { verify.keys.clone() };
            Ok(report.each(&keys, |key| output::lines([format!("{}: good", templates.verify(key)?)])))
        }
    }
}

/// Those of a store, whether starts use them or not.
pub(crate) fn of(global: &Global) -> Result<Templates> {
    Ok(Templates::kept_in(&paths::store(global)?))
}

fn keys(templates: &Templates) -> Result<Vec<String>> {
    Ok(templates.list()?.into_iter().map(|listed| listed.key).collect())
}

fn build(build: &Build, templates: &Templates, global: &Global) -> Result<u8> {
    let network = match &build.network {
        Network::None => None,
        Network::Nat => Some(NetworkPlan::Nat(NatPlan::default())),
        Network::Namespace(_) => bail!("a template is made for the network none or nat, not for a namespace"),
    };
    let settings = Settings { network, ..run::settings(global) };
    let machine = MachinePlan::limited(Some(&limits(build)), build.volumes, &settings)?;
    let kind = Kind::planned(&machine, true, !build.read_only);
    let host = host(Installation::find()?, StateRoot::open()?, global)?;
    let built = block_on(templates.build(&machine, &kind, &host))??;
    if !built.is_new {
        eprintln!("It was there already.");
    }
    output::lines([built.key])?;
    Ok(0)
}

fn limits(build: &Build) -> LinuxResources {
    let mut resources = LinuxResources::default();
    let mut memory = LinuxMemory::default();
    memory.set_limit(build.memory);
    resources.set_memory(Some(memory));
    resources.set_cpu(Some(cpu_of(build.cpus)));
    resources
}

fn list(list: &List, templates: &Templates) -> Result<u8> {
    let listed = templates.list()?;
    if list.quiet {
        output::lines(listed.into_iter().map(|listed| listed.key))?;
        return Ok(0);
    }
    let rows: Vec<_> = listed.iter().map(row).collect();
    let columns = [
        ("KEY", "ID"),
        ("MEMORY", "Memory"),
        ("CPUS", "CPUs"),
        ("DISKS", "Disks"),
        ("NETWORKS", "Networks"),
        ("VOLUMES", "Volumes"),
        ("CREATED", "CreatedSince"),
        ("USED", "UsedSince"),
        ("SIZE", "Size"),
    ];
    output::rows(&list.format, &columns, &rows)?;
    Ok(0)
}

fn row(listed: &Listed) -> Value {
    let Listed { key, kind, made, used, bytes } = listed;
    json!({
        "ID": key,
        "Memory": format!("{}MiB", kind.memory_mib),
        "CPUs": kind.vcpu_count,
        "Disks": kind.disks.len(),
        "Networks": kind.nets.len(),
        "Volumes": kind.has_shares,
        "CreatedAt": humantime::format_rfc3339_seconds(*made).to_string(),
        "CreatedSince": output::ago(*made),
        "UsedSince": output::ago(*used),
        "Bytes": bytes,
        "Size": output::size(*bytes),
    })
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("start tokio")?.block_on(work))
}
