//! What is to be changed for some engines, found out without changing anything.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{
    Wanted,
    args::Engine,
    change::{Change, Content, read_file, read_link, resolve},
    containerd, docker,
    effective::Effective,
    journal::{Entry, Journal},
    podman,
};

const JOURNAL: &str = "var/lib/securectr/install.json";
const SHIM: &str = "containerd-shim-securectr-v2";
const LINK: &str = "usr/local/bin/containerd-shim-securectr-v2";

/// Where systemd lets services look for programs.
const SERVICE_PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// This machine, or a directory that stands for it.
pub(super) struct Site {
    sysroot: PathBuf,
    /// Where this program lies, with its companions.
    programs: PathBuf,
    pub journal: Journal,
}

impl Site {
    pub(super) fn open(sysroot: &Path) -> Result<Self> {
        let failed = || format!("find {}", sysroot.display());
        let sysroot = sysroot.canonicalize().with_context(failed)?;
        let program = env::current_exe().and_then(|path| path.canonicalize()).context("find this program")?;
        let programs = program.parent().unwrap_or(Path::new("/")).to_owned();
        let journal = Journal::read(&sysroot.join(JOURNAL))?;
        Ok(Self { sysroot, programs, journal })
    }

    /// Whether this is the machine itself.
    pub(super) fn is_real(&self) -> bool {
        self.sysroot == Path::new("/")
    }

    /// A file, by its path from the root on.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.sysroot.join(path)
    }

    pub(super) fn journal_path(&self) -> PathBuf {
        self.path(JOURNAL)
    }

    pub(super) fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.join(name);
        ensure!(path.exists(), "there is no {}: build it, or install it with make install", path.display());
        Ok(path)
    }

    /// What a configuration file would hold without us.
    pub(super) fn base(&self, path: &Path) -> Result<Option<String>> {
        let path = resolve(path);
        let now = read_file(&path)?.map(Content::File);
        let base = match self.journal.entry(&path) {
            Some(entry) => entry.without_ours(now.as_ref())?,
            None => now,
        };
        Ok(base.and_then(|content| content.text().map(ToOwned::to_owned)))
    }

    /// A link where services find the shim, if it is not there already.
    fn shim_link(&self) -> Result<Option<Wanted>> {
        let shim = self.program(SHIM)?;
        let is_found = SERVICE_PATH.iter().any(|directory| self.programs == Path::new(directory));
        Ok((!is_found).then(|| Wanted { path: self.path(LINK), content: Content::Link(shim) }))
    }
}

pub(super) struct Plan {
    pub changes: Vec<Change>,
    /// As it will be.
    pub journal: Journal,
    pub notes: Vec<String>,
}

impl Plan {
    pub(super) fn install(site: &Site, engines: &BTreeSet<Engine>) -> Result<Self> {
        let mut plan = Self { changes: Vec::new(), journal: site.journal.clone(), notes: Vec::new() };
        for &engine in engines {
            let wanted = match engine {
                Engine::Containerd => plan.containerd(site)?,
                Engine::Docker => plan.docker(site)?,
                Engine::Podman => podman::wanted(site)?,
            };
            for each in wanted {
                plan.want(engine, each)?;
            }
        }
        if !plan.changes.is_empty() {
            let paths = plan.changes.iter().map(|change| change.path.clone()).chain([site.journal_path()]);
            paths.collect::<Vec<_>>().iter().for_each(|path| plan.journal.will_make(path));
        }
        Ok(plan)
    }

    fn containerd(&mut self, site: &Site) -> Result<Vec<Wanted>> {
        let mut wanted = containerd::wanted(site)?;
        let main = site.path(containerd::MAIN);
        if !super::programs::is_there("containerd") {
            self.notes
                .push("not tested: there is no containerd to ask what it makes of its configuration".into());
        } else if !Effective::ask(&main)?.has_cri() {
            wanted.clear();
            self.notes.push(format!(
                "CRI is switched off in {}: there the runtime is known by its type only, {}",
                main.display(),
                containerd::RUNTIME_TYPE
            ));
        }
        wanted.extend(site.shim_link()?);
        Ok(wanted)
    }

    fn docker(&mut self, site: &Site) -> Result<Vec<Wanted>> {
        let mut wanted = docker::wanted(site)?;
        if wanted.is_empty() {
            let path = site.path(docker::CONFIG);
            self.notes.push(format!("{} names a runtime securectr already: left as it is", path.display()));
        }
        wanted.extend(site.shim_link()?);
        Ok(wanted)
    }

    fn want(&mut self, engine: Engine, wanted: Wanted) -> Result<()> {
        let (path, now) = match wanted.content {
            Content::File(_) => {
                let path = resolve(&wanted.path);
                let now = read_file(&path)?.map(Content::File);
                (path, now)
            }
            Content::Link(_) => (wanted.path.clone(), read_link(&wanted.path)?),
        };
        let known = self.journal.entry(&path);
        if now.as_ref() == Some(&wanted.content) || self.changes.iter().any(|change| change.path == path) {
            // It is there, or will be; if it is ours, it is this engine's as well.
            if let Some(entry) = known.cloned() {
                self.journal.record(Entry { engines: [engine].into(), ..entry });
            }
            return Ok(());
        }
        let before = match known {
            Some(entry) => entry.without_ours(now.as_ref())?,
            None => now.clone(),
        };
        let (engines, after) = ([engine].into(), wanted.content);
        self.journal.record(Entry { path: path.clone(), engines, before, after: after.clone() });
        self.changes.push(Change { path, before: now, after: Some(after) });
        Ok(())
    }

    /// The way back for some engines; none are all.
    pub(super) fn uninstall(site: &Site, engines: &BTreeSet<Engine>) -> Result<Self> {
        let mut plan = Self { changes: Vec::new(), journal: Journal::default(), notes: Vec::new() };
        plan.journal.directories.clone_from(&site.journal.directories);
        for entry in &site.journal.files {
            let goes = |engine: &&Engine| engines.is_empty() || engines.contains(engine);
            let left: BTreeSet<_> = entry.engines.iter().filter(|engine| !goes(engine)).copied().collect();
            if !left.is_empty() {
                plan.journal.files.push(Entry { engines: left, ..entry.clone() });
                continue;
            }
            let now = match entry.after {
                Content::File(_) => read_file(&entry.path)?.map(Content::File),
                Content::Link(_) => read_link(&entry.path)?,
            };
            let after = entry.without_ours(now.as_ref())?;
            if now.is_some() && now.as_ref() != Some(&entry.after) && now != entry.before {
                let path = entry.path.display();
                plan.notes.push(match now {
                    Some(Content::Link(_)) => format!("{path} leads elsewhere by now: left as it is"),
                    _ => format!("{path} was edited since: only what install had added was taken out"),
                });
            }
            if now != after {
                plan.changes.push(Change { path: entry.path.clone(), before: now, after });
            }
        }
        if site.journal.files.is_empty() {
            plan.notes.push(format!("nothing was installed: there is no {}", site.journal_path().display()));
        }
        Ok(plan)
    }
}
