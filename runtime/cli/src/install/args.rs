//! What was typed behind `install` and `uninstall`.

use std::{collections::BTreeSet, fmt, path::PathBuf};

use clap::Args as ClapArgs;
use serde::{Deserialize, Serialize};

use crate::args::LogFormat;

#[derive(Debug, ClapArgs)]
pub(crate) struct Install {
    #[command(flatten)]
    pub setup: Setup,
    /// Do not try afterwards whether it works
    #[arg(long)]
    pub no_check: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Setup {
    /// containerd, with or without Kubernetes
    #[arg(long)]
    pub containerd: bool,
    /// docker
    #[arg(long)]
    pub docker: bool,
    /// podman
    #[arg(long)]
    pub podman: bool,
    /// Print each change as a unified diff, and make none
    #[arg(long)]
    pub dry_run: bool,
    /// Let the engines read their configuration again, by systemctl
    #[arg(long)]
    pub restart: bool,
    /// How what was done is written to standard output
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: LogFormat,
    /// The directory that stands for /
    #[arg(long, hide = true, value_name = "DIR", default_value = "/")]
    pub sysroot: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    Containerd,
    Docker,
    Podman,
}

impl Engine {
    pub(super) const ALL: [Self; 3] = [Self::Containerd, Self::Docker, Self::Podman];

    /// The program by which it is found.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "dockerd",
            Self::Podman => "podman",
        }
    }

    /// What makes a running one read its configuration again, for systemctl. Containers go on running.
    pub(super) fn refresh(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Containerd => Some(["restart", "containerd"]),
            Self::Docker => Some(["reload", "docker"]),
            Self::Podman => None,
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman => "podman",
        })
    }
}

impl Setup {
    /// Those that were named; none when none was.
    pub(super) fn engines(&self) -> BTreeSet<Engine> {
        let named = [self.containerd, self.docker, self.podman];
        Engine::ALL
            .into_iter()
            .zip(named)
            .filter(|&(_, is_named)| is_named)
            .map(|(engine, _)| engine)
            .collect()
    }
}
