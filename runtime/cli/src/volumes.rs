//! Volumes with names: directories in the store, shared with whoever asks for them by name, and never removed with a container.

use std::{fmt, fs, io, os::unix::fs::DirBuilderExt, path::PathBuf, str::FromStr};

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, Subcommand};
use serde_json::{Value, json};

use crate::{
    args::{Global, Volume, VolumeSource},
    container::{OfRun, of_run},
    output::{self, Format},
    paths,
    report::Report,
    tree,
};

/// No name is longer, in bytes.
const MAX_NAME_LEN: usize = 128;

/// A name that is safe as a path component: `[A-Za-z0-9][A-Za-z0-9_.-]*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VolumeName(String);

impl FromStr for VolumeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.len() <= MAX_NAME_LEN
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if is_good { Ok(Self(text.to_owned())) } else { Err(format!("not the name of a volume: {text:?}")) }
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Manage volumes with names
#[derive(Debug, ClapArgs)]
pub(crate) struct Group {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a volume
    Create(Create),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(List),
    /// Print all that is known of volumes, as JSON
    Inspect(Inspect),
    /// Remove volumes, and all that is in them
    #[command(visible_alias = "remove")]
    Rm(Remove),
}

#[derive(Debug, ClapArgs)]
struct Create {
    #[arg(value_name = "NAME")]
    name: VolumeName,
}

#[derive(Debug, ClapArgs)]
struct List {
    /// Names only
    #[arg(short, long)]
    quiet: bool,
    /// table, json, or a template as in '{{.Name}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Debug, ClapArgs)]
struct Inspect {
    /// json, or a template as in '{{.Mountpoint}}'
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    #[arg(required = true, value_name = "NAME")]
    names: Vec<VolumeName>,
}

#[derive(Debug, ClapArgs)]
struct Remove {
    /// Be content when there is none
    #[arg(short, long)]
    force: bool,
    #[arg(required = true, value_name = "NAME")]
    names: Vec<VolumeName>,
}

/// The volumes of a store.
pub(crate) struct Volumes(PathBuf);

impl Volumes {
    pub(crate) fn of(global: &Global) -> Result<Self> {
        Ok(Self(paths::store(global)?.join("volumes")))
    }

    fn place(&self, name: &VolumeName) -> PathBuf {
        self.0.join(&name.0)
    }

    /// What is shared.
    pub(crate) fn content(&self, name: &VolumeName) -> PathBuf {
        self.place(name).join("_data")
    }

    /// Makes it, unless it is there.
    fn create(&self, name: &VolumeName) -> Result<PathBuf> {
        let content = self.content(name);
        let made = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(self.place(name))?;
            match fs::DirBuilder::new().mode(0o755).create(&content) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
        };
        made().with_context(|| format!("make the volume {name}"))?;
        Ok(content)
    }

    /// Where a volume is on this machine.
    pub(crate) fn source(&self, volume: &Volume) -> Result<PathBuf> {
        match &volume.source {
            VolumeSource::Path(path) => Ok(path.clone()),
            VolumeSource::Named(name) => self.create(name),
        }
    }

    pub(crate) fn all(&self) -> Result<Vec<VolumeName>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("list {}", self.0.display()))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut names: Vec<VolumeName> = names.collect();
        names.sort();
        Ok(names)
    }

    fn document(&self, name: &VolumeName) -> Result<Value> {
        let content = self.content(name);
        let metadata = fs::metadata(&content).map_err(|_| anyhow::anyhow!("No such volume: {name}"))?;
        let created = metadata.created().ok().map(|time| humantime::format_rfc3339_seconds(time).to_string());
        Ok(json!({
            "Name": name.to_string(),
            "Driver": "local",
            "Mountpoint": content,
            "CreatedAt": created,
            "Scope": "local",
        }))
    }

    pub(crate) fn remove(&self, name: &VolumeName, force: bool, users: &[OfRun]) -> Result<()> {
        let content = self.content(name);
        if !content.exists() && force {
            return Ok(());
        }
        self.document(name)?;
        if let Some(user) = self.user_of(name, users) {
            bail!("volume {name} is used by the container {}", user.record.id);
        }
        tree::remove(&self.place(name)).with_context(|| format!("remove the volume {name}"))
    }

    /// The container that has it, running or not.
    pub(crate) fn user_of<'a>(&self, name: &VolumeName, users: &'a [OfRun]) -> Option<&'a OfRun> {
        let content = self.content(name);
        users.iter().find(|user| {
            let config = securectr_sandbox::Config::read(&user.record.bundle);
            let mounts = config.ok().and_then(|config| config.spec.mounts().clone()).unwrap_or_default();
            mounts.iter().any(|mount| mount.source().as_deref() == Some(&content))
        })
    }
}

pub(crate) fn act(group: &Group, global: &Global, report: &Report) -> Result<u8> {
    let volumes = Volumes::of(global)?;
    match &group.verb {
        Verb::Create(create) => {
            volumes.create(&create.name)?;
            output::lines([create.name.to_string()])?;
            Ok(0)
        }
        Verb::Ls(list) => self::list(list, &volumes),
        Verb::Inspect(inspect) => {
            let documents: Vec<_> =
                inspect.names.iter().map(|name| volumes.document(name)).collect::<Result<_>>()?;
            output::documents(inspect.format.as_ref(), documents)?;
            Ok(0)
        }
        Verb::Rm(remove) => {
            let users = of_run(global)?;
            Ok(report.each(&remove.names, |name| {
                volumes.remove(name, remove.force, &users)?;
                output::lines([name.to_string()])
            }))
        }
    }
}

fn list(list: &List, volumes: &Volumes) -> Result<u8> {
    let names = volumes.all()?;
    if list.quiet {
        output::lines(names.iter().map(ToString::to_string))?;
        return Ok(0);
    }
    let rows: Vec<_> = names.iter().map(|name| volumes.document(name)).collect::<Result<_>>()?;
    output::rows(&list.format, &[("DRIVER", "Driver"), ("VOLUME NAME", "Name")], &rows)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        for good in ["data", "pg-data_1.0", "0"] {
            assert!(good.parse::<VolumeName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", "a\nb", &"x".repeat(129)] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
        }
    }
}
