//! Verbs that only look.

use std::{
    fs::File,
    io::{self, Write},
};

use anyhow::{Context, Result};
use securectr_sandbox::{SandboxId, features as features_of_runtime};
use serde_json::{Value, json};

use super::args::{Format, List, Ps, Spec};
use crate::{
    args::Global,
    bundle::DEFAULT_SPEC,
    container::{OCI_VERSION, Record, Records, Status, locate},
    kept, output,
};

/// The state document of the runtime spec, with what runc adds.
pub(super) fn state(records: &Records, id: &SandboxId) -> Result<u8> {
    let record = records.find(id)?.read()?;
    print(&document(&record))
}

fn document(record: &Record) -> Value {
    json!({
        "ociVersion": OCI_VERSION,
        "id": record.id,
        "pid": pid(record),
        "status": record.status,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": record.annotations,
        "owner": "",
    })
}

/// One that has ended has none.
fn pid(record: &Record) -> u32 {
    if record.status == Status::Stopped { 0 } else { record.monitor.pid }
}

pub(super) fn list(records: &Records, list: &List) -> Result<u8> {
    let all = records.all()?;
    if list.quiet {
        return lines(all.iter().map(|record| record.id.clone()));
    }
    if list.format == Format::Json {
        return print(&all.iter().map(document).collect());
    }
    let width = all.iter().map(|record| record.id.len()).chain(["ID".len()]).max().unwrap_or_default();
    let line = |id: &str, pid: &str, status: &str, created: &str, bundle: &str| {
        format!("{id:width$}  {pid:>7}  {status:8}  {created:30}  {bundle}")
    };
    let rows = all.iter().map(|record| {
        line(
            &record.id,
            &pid(record).to_string(),
            record.status.name(),
            &record.created,
            &record.bundle.display().to_string(),
        )
    });
    lines([line("ID", "PID", "STATUS", "CREATED", "BUNDLE")].into_iter().chain(rows))
}

/// The guest's processes have no pids here: what is told of a container is what stands for all of them.
pub(super) fn ps(ps: &Ps, global: &Global) -> Result<u8> {
    let Some(name) = &ps.name else {
        let wanted = kept::Wanted {
            all: ps.all,
            quiet: ps.quiet,
            whole: ps.no_trunc,
            filters: &ps.filter,
            format: &ps.format,
        };
        return kept::list(&wanted, global);
    };
    let record = locate(global, name)?.place()?.read()?;
    let pids: Vec<_> = Some(pid(&record)).filter(|&pid| pid != 0).into_iter().collect();
    match ps.format {
        output::Format::Json => print(&json!(pids)),
        _ => lines(["PID".to_owned()].into_iter().chain(pids.iter().map(ToString::to_string))),
    }
}

pub(super) fn features() -> Result<u8> {
    print(&features_of_runtime())
}

/// As runc's: a shell on a terminal, in a root that is read-only.
pub(super) fn spec(spec: &Spec) -> Result<u8> {
    let mut document: Value = serde_json::from_str(DEFAULT_SPEC).context("the built-in default spec")?;
    if let Some(members) = document.as_object_mut() {
        members.insert("root".into(), json!({"path": "rootfs", "readonly": true}));
        members.insert("hostname".into(), json!("securectr"));
    }
    if let Some(process) = document.get_mut("process").and_then(Value::as_object_mut) {
        process.insert("terminal".into(), json!(true));
        process.insert("env".into(), json!([crate::bundle::DEFAULT_PATH, "TERM=xterm"]));
    }
    if let Some(namespaces) = document.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut) {
        namespaces.push(json!({"type": "network"}));
    }
    let path = spec.bundle.join("config.json");
    let failed = || format!("write {}", path.display());
    let mut file = File::create_new(&path).with_context(failed)?;
    file.write_all(serde_json::to_string_pretty(&document)?.as_bytes()).with_context(failed)?;
    Ok(0)
}

fn print(document: &Value) -> Result<u8> {
    lines([serde_json::to_string_pretty(document)?])
}

fn lines(lines: impl IntoIterator<Item = String>) -> Result<u8> {
    let mut stdout = io::stdout().lock();
    for line in lines {
        writeln!(stdout, "{line}").context("write to standard output")?;
    }
    Ok(0)
}
