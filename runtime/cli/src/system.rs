//! `system`, `info` and `container prune`: what is kept on this machine, and how to be rid of it.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, Subcommand};
use securectr_image::{Digest, Store};
use securectr_sandbox::Installation;
use serde_json::{Value, json};

use crate::{
    args::Global,
    container::{OfRun, Status, of_run},
    copies::Copies,
    images, kept,
    output::{self, Format},
    paths, templates, terminal,
    volumes::Volumes,
};

#[derive(Debug, ClapArgs)]
pub(crate) struct Group {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show how much room images, containers and volumes take
    Df(Df),
    /// Remove containers that have ended, and images that nobody uses
    Prune(Prune),
    /// The same as info
    Info(Info),
}

#[derive(Debug, ClapArgs)]
struct Df {
    /// table, json, or a template as in '{{.Type}} {{.Size}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Debug, ClapArgs)]
struct Prune {
    /// All images that no container has, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Volumes that no container has, too
    #[arg(long)]
    volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Info {
    /// json, or a template as in '{{.KernelVersion}}'
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Containers {
    #[command(subcommand)]
    verb: OfContainers,
}

#[derive(Debug, Subcommand)]
enum OfContainers {
    /// Remove all containers that have ended
    Prune(PruneContainers),
}

#[derive(Debug, ClapArgs)]
struct PruneContainers {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn act(group: &Group, global: &Global) -> Result<u8> {
    match &group.verb {
        Verb::Df(df) => self::df(df, global),
        Verb::Prune(prune) => self::prune(prune, global),
        Verb::Info(info) => self::info(info, global),
    }
}

pub(crate) fn containers(group: &Containers, global: &Global) -> Result<u8> {
    let OfContainers::Prune(prune) = &group.verb;
    if !prune.force && !confirmed("all stopped containers")? {
        return Ok(1);
    }
    let freed_bytes = prune_containers(global)?;
    say_freed(freed_bytes)
}

/// Nobody who could say yes is a no.
pub(crate) fn confirmed(which: &str) -> Result<bool> {
    if !terminal::stdin_is_terminal() {
        bail!("this would remove {which}: use --force");
    }
    eprint!("This will remove {which}. Are you sure? [y/N] ");
    std::io::stderr().flush().context("ask")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn say_freed(bytes: u64) -> Result<u8> {
    output::lines([format!("Total reclaimed space: {}", output::size(bytes))])?;
    Ok(0)
}

fn prune_containers(global: &Global) -> Result<u64> {
    let ended: Vec<_> = of_run(global)?.into_iter().filter(has_ended).collect();
    let mut freed_bytes = 0;
    let mut removed = Vec::new();
    for listed in ended {
        let bytes = bytes_of(&listed.record.bundle);
        kept::remove(&listed.record.id, false, global)?;
        freed_bytes += bytes;
        removed.push(listed.record.id);
    }
    if !removed.is_empty() {
        output::lines(std::iter::once("Deleted Containers:".to_owned()).chain(removed))?;
    }
    Ok(freed_bytes)
}

fn has_ended(listed: &OfRun) -> bool {
    listed.record.status == Status::Stopped
}

fn prune(prune: &Prune, global: &Global) -> Result<u8> {
    let mut what = vec!["all stopped containers"];
    what.push(if prune.all { "all images without a container" } else { "all images without a name" });
    if prune.volumes {
        what.push("all volumes without a container");
    }
    if !prune.force && !confirmed(&what.join(", "))? {
        return Ok(1);
    }
    let mut freed_bytes = prune_containers(global)?;
    let users = of_run(global)?;
    if prune.volumes {
        freed_bytes += prune_volumes(&Volumes::of(global)?, &users)?;
    }
    let store = Store::open(&paths::store(global)?)?;
    let used = images_of(&users);
    let removed = store.prune(|_| prune.all, |id| used.contains(id))?;
    images::say(&removed)?;
    say_freed(freed_bytes + removed.freed_bytes)
}

fn prune_volumes(volumes: &Volumes, users: &[OfRun]) -> Result<u64> {
    let mut freed_bytes = 0;
    let mut removed = Vec::new();
    for name in volumes.all()? {
        let content = volumes.content(&name);
        if volumes.user_of(&name, users).is_none() {
            let bytes = bytes_of(&content);
            volumes.remove(&name, false, users)?;
            freed_bytes += bytes;
            removed.push(name.to_string());
        }
    }
    if !removed.is_empty() {
        output::lines(std::iter::once("Deleted Volumes:".to_owned()).chain(removed))?;
    }
    Ok(freed_bytes)
}

/// The images that containers have.
pub(crate) fn images_of(users: &[OfRun]) -> BTreeSet<Digest> {
    users.iter().filter_map(|user| user.kept.image_id.clone()).collect()
}

fn df(df: &Df, global: &Global) -> Result<u8> {
    let directory = paths::store(global)?;
    let store = Store::open(&directory)?;
    let users = of_run(global)?;
    let used = images_of(&users);
    let listed = store.list()?;
    let all: BTreeSet<_> = listed.iter().map(|image| image.id.clone()).collect();
    let unused: BTreeSet<_> = listed
        .iter()
        .filter(|image| !used.contains(&image.id))
        .map(|image| (&image.id, image.bytes))
        .collect();
    let volumes = Volumes::of(global)?;
    let names = volumes.all()?;
    let bytes_of_volumes: Vec<_> = names
        .iter()
        .map(|name| (bytes_of(&volumes.content(name)), volumes.user_of(name, &users).is_some()))
        .collect();
    let bytes_of_containers: Vec<_> =
        users.iter().map(|user| (bytes_of(&user.record.bundle), !has_ended(user))).collect();
    let copies = Copies::of(global)?;
    let (copies_count, place) = copies.count()?;
    let copies_bytes = if copies_count == 0 { 0 } else { bytes_of(place) };
    let bytes_of_templates: Vec<_> =
        templates::of(global)?.list()?.iter().map(|template| (template.bytes, false)).collect();
    let rows = [
        row(
            "Images",
            (all.len(), all.len().saturating_sub(unused.len())),
            bytes_of(&directory.join("v1")),
            unused.iter().map(|(_, bytes)| bytes).sum(),
        ),
        row_of("Containers", &bytes_of_containers),
        row_of("Local Volumes", &bytes_of_volumes),
        row("Private Copies", (copies_count, 0), copies_bytes, copies_bytes),
        row_of("Templates", &bytes_of_templates),
    ];
    let columns = [
        ("TYPE", "Type"),
        ("TOTAL", "TotalCount"),
        ("ACTIVE", "Active"),
        ("SIZE", "Size"),
        ("RECLAIMABLE", "Reclaimable"),
    ];
    output::rows(&df.format, &columns, &rows)?;
    Ok(0)
}

/// Each with its bytes, and whether it is in use.
fn row_of(kind: &str, all: &[(u64, bool)]) -> Value {
    let active = all.iter().filter(|(_, is_active)| *is_active).count();
    let unused = all.iter().filter(|(_, is_active)| !is_active).map(|(bytes, _)| bytes).sum();
    row(kind, (all.len(), active), all.iter().map(|(bytes, _)| bytes).sum(), unused)
}

fn row(kind: &str, (total, active): (usize, usize), bytes: u64, unused_bytes: u64) -> Value {
    json!({
        "Type": kind,
        "TotalCount": total,
        "Active": active,
        "Size": output::size(bytes),
        "Reclaimable": output::size(unused_bytes.min(bytes)),
    })
}

/// What a tree takes of its disk; what cannot be seen takes nothing. Holes take nothing either.
fn bytes_of(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let below = match fs::read_dir(path) {
        Ok(entries) if metadata.is_dir() => entries.flatten().map(|entry| bytes_of(&entry.path())).sum(),
        _ => 0,
    };
    metadata.blocks() * 512 + below
}

pub(crate) fn info(info: &Info, global: &Global) -> Result<u8> {
    let facts = facts(global)?;
    if let Some(format) = &info.format {
        output::document(format, facts)?;
        return Ok(0);
    }
    let Value::Object(facts) = facts else { bail!("describe this machine") };
    output::lines(facts.iter().map(|(name, value)| match value {
        Value::String(text) => format!("{name}: {text}"),
        other => format!("{name}: {other}"),
    }))?;
    Ok(0)
}

fn facts(global: &Global) -> Result<Value> {
    let directory = paths::store(global)?;
    let store = Store::open(&directory)?;
    let users = of_run(global)?;
    let count = |status| users.iter().filter(|user| user.record.status == status).count();
    let images: BTreeSet<_> = store.list()?.into_iter().map(|image| image.id).collect();
    let host = rustix::system::uname();
    let kernel = Installation::find().ok().map(|installation| installation.kernel);
    Ok(json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Containers": users.len(),
        "ContainersRunning": count(Status::Running),
        "ContainersPaused": count(Status::Paused),
        "ContainersStopped": count(Status::Stopped),
        "Images": images.len(),
        "StoreDir": directory,
        "GuestKernel": kernel,
        "KernelVersion": host.release().to_string_lossy(),
        "Architecture": host.machine().to_string_lossy(),
        "NCPU": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "MemTotal": rustix::system::sysinfo().totalram,
        "Rootless": !rustix::process::geteuid().is_root(),
        "KVM": Path::new("/dev/kvm").exists(),
    }))
}
