//! `ps` and `inspect` of containers that stay.

use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use indicatif::HumanDuration;
use securectr_sandbox::{NetworkPlan, Published};
use serde_json::{Map, Value, json};

use super::args::Port;
use crate::{
    args::Global,
    container::{Ended, KILLED, Kept, OfRun, Record, Status, locate_of_run, of_run},
    output::{self, Format},
    ports,
};

/// As many digits of an id as Docker shows.
const SHORT_ID_LEN: usize = 12;
/// As much of a command as fits a line, in characters.
const SHORT_COMMAND_LEN: usize = 20;

/// What is asked of a list.
pub(crate) struct Wanted<'a> {
    pub all: bool,
    pub quiet: bool,
    pub whole: bool,
    /// `name=`, `id=`, `status=`, `label=`, `ancestor=`.
    pub filters: &'a [String],
    pub format: &'a Format,
}

pub(crate) fn list(wanted: &Wanted<'_>, global: &Global) -> Result<u8> {
    let mut all = of_run(global)?;
    all.retain(|listed| wanted.all || listed.record.status != Status::Stopped);
    all.sort_by(|one, other| other.record.created.cmp(&one.record.created));
    let mut rows = Vec::new();
    for OfRun { record, kept, .. } in &all {
        if fits(record, kept, wanted.filters)? {
            rows.push(row(record, kept, wanted.whole));
        }
    }
    if wanted.quiet {
        let ids = rows.iter().filter_map(|row| row.get("ID")?.as_str().map(str::to_owned));
        output::lines(ids)?;
        return Ok(0);
    }
    let columns = [
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("PORTS", "Ports"),
        ("NAMES", "Names"),
    ];
    output::rows(wanted.format, &columns, &rows)?;
    Ok(0)
}

fn fits(record: &Record, kept: &Kept, filters: &[String]) -> Result<bool> {
    let mut fits = true;
    for filter in filters {
        let (key, value) = filter.split_once('=').with_context(|| format!("not a filter: {filter}"))?;
        fits &= match key {
            "name" => kept.name.contains(value),
            "id" => record.id.starts_with(value),
            "status" => state(record) == value,
            "ancestor" => kept.image == value,
            "label" => kept.labels.iter().any(|(name, its)| {
                let (wanted, wanted_value) =
                    value.split_once('=').map_or((value, None), |(n, v)| (n, Some(v)));
                name == wanted && wanted_value.is_none_or(|wanted| wanted == its)
            }),
            _ => anyhow::bail!("not a filter: {filter} (name, id, status, ancestor and label are)"),
        };
    }
    Ok(fits)
}

fn row(record: &Record, kept: &Kept, whole: bool) -> Value {
    let command = format!("\"{}\"", kept.command.join(" "));
    let cut = command.char_indices().nth(SHORT_COMMAND_LEN).filter(|_| !whole);
    let command =
        cut.map_or(command.clone(), |(end, _)| format!("{}…\"", command.get(..end).unwrap_or_default()));
    let created = humantime::parse_rfc3339(&record.created).ok();
    let labels: Vec<_> = kept.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    json!({
        "ID": if whole { record.id.clone() } else { record.id.chars().take(SHORT_ID_LEN).collect() },
        "Image": kept.image,
        "Command": command,
        "CreatedAt": record.created,
        "RunningFor": created.map_or_else(String::new, output::ago),
        "Status": status(record, kept),
        "State": state(record),
        "Names": kept.name,
        "Labels": labels.join(","),
        "Ports": published(record, kept).iter().map(ports::arrow).collect::<Vec<_>>().join(", "),
    })
}

/// In Docker's words.
fn state(record: &Record) -> &'static str {
    match record.status {
        Status::Stopped => "exited",
        status => status.name(),
    }
}

fn status(record: &Record, kept: &Kept) -> String {
    let since = |time: Option<&String>| {
        let time = time.and_then(|time| humantime::parse_rfc3339(time).ok())?;
        Some(HumanDuration(SystemTime::now().duration_since(time).unwrap_or_default()).to_string())
    };
    let up = || format!("Up {}", since(kept.started.as_ref()).unwrap_or_default());
    match (record.status, &kept.ended) {
        (Status::Creating | Status::Created, _) => "Created".to_owned(),
        (Status::Running, _) => up(),
        (Status::Paused, _) => format!("{} (Paused)", up()),
        (Status::Stopped, Some(ended)) => {
            format!("Exited ({}) {} ago", ended.code, since(Some(&ended.at)).unwrap_or_default())
        }
        (Status::Stopped, None) => format!("Exited ({KILLED})"),
    }
}

/// For `inspect`, by Docker's names.
pub(super) fn document(record: &Record, kept: &Kept) -> Value {
    let is = |status| record.status == status;
    let ended = kept.ended.as_ref();
    let is_stopped = is(Status::Stopped);
    let code = if is_stopped { ended.map_or(KILLED, |ended| ended.code) } else { 0 };
    let labels: Map<String, Value> =
        kept.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    json!({
        "Id": record.id,
        "Name": format!("/{}", kept.name),
        "Created": record.created,
        "Path": kept.command.first(),
        "Args": kept.command.get(1..).unwrap_or_default(),
        "State": {
            "Status": state(record),
            "Running": is(Status::Running) || is(Status::Paused),
            "Paused": is(Status::Paused),
            "OOMKilled": ended.is_some_and(|ended| ended.oom_killed),
            "Pid": if is_stopped { 0 } else { record.monitor.pid },
            "ExitCode": code,
            "Error": cause(record, ended),
            "StartedAt": kept.started,
            "FinishedAt": ended.map(|ended| ended.at.clone()),
        },
        "Image": kept.image_id.as_ref().map(ToString::to_string),
        "RestartCount": kept.restarts,
        "Config": {
            "Image": kept.image,
            "Tty": kept.tty,
            "OpenStdin": kept.interactive,
            "Cmd": kept.command,
            "Labels": labels,
            "StopSignal": kept.stop_signal,
            "StopTimeout": kept.stop_timeout.as_secs(),
        },
        "HostConfig": {
            "RestartPolicy": { "Name": kept.restart.to_string() },
            "LogConfig": kept.logging.to_json(),
            "AutoRemove": kept.remove,
            "ReadonlyRootfs": kept.read_only,
            "NetworkMode": network_mode(kept),
        },
        "NetworkSettings": {
            "Ports": ports::by_guest_port(published(record, kept)),
            "CutOff": kept.cut_off,
        },
        "StartTimings": kept.timings,
        "LogPath": record.bundle.join("log.jsonl"),
    })
}

/// `port`, in docker's form.
pub(super) fn port(asked: &Port, global: &Global) -> Result<u8> {
    let OfRun { record, kept, .. } = locate_of_run(global, &asked.name)?;
    let published = published(&record, &kept);
    let Some((port, protocol)) = asked.port else {
        output::lines(published.iter().map(|published| {
            format!("{}/{} -> {}", published.guest_port, published.protocol, ports::host_side(published))
        }))?;
        return Ok(0);
    };
    let sides: Vec<_> = published
        .iter()
        .filter(|published| (published.guest_port, published.protocol) == (port, protocol))
        .map(ports::host_side)
        .collect();
    if sides.is_empty() {
        bail!("no public port '{port}/{protocol}' published for {}", asked.name);
    }
    output::lines(sides)?;
    Ok(0)
}

/// What is published now.
fn published<'a>(record: &Record, kept: &'a Kept) -> &'a [Published] {
    match &kept.network {
        Some(NetworkPlan::Nat(nat)) if record.status != Status::Stopped => &nat.published,
        _ => &[],
    }
}

fn network_mode(kept: &Kept) -> String {
    match &kept.network {
        None => "none".to_owned(),
        Some(NetworkPlan::Nat(_)) => "nat".to_owned(),
        Some(NetworkPlan::Namespace(path)) => path.display().to_string(),
    }
}

fn cause(record: &Record, ended: Option<&Ended>) -> String {
    match ended {
        Some(ended) => ended.cause.clone().unwrap_or_default(),
        None if record.status == Status::Stopped => "its monitor was killed".to_owned(),
        None => String::new(),
    }
}
