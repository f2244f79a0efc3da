//! `securectr run`: a container from its image to its exit code.

mod session;

use std::{
    ffi::OsString,
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use securectr_image::{Digest, Image, ImageConfig, Reference, Store, User};
use securectr_sandbox::{
    ContainerPlan, Disks, End, Installation, LaunchFailure, RootSource, SandboxError, SandboxId, Settings,
    StateRoot, Writable, plan, writable_disk,
};
use securectr_sdk::{Cause, Outcome};

use crate::{
    args::{Global, Run},
    bundle::{self, Source},
    container::{self, Journal, Kept},
    copies::{Copies, Held},
    images, kept, paths, ports,
    progress::Bar,
    report::Report,
    templates, terminal,
    timeline::Timeline,
    volumes::Volumes,
};
use session::Session;

/// Memory of a guest without `--memory`, in MiB. It is backed as the guest touches it.
const DEFAULT_MEMORY_MIB: u32 = 512;

/// `execve` did not find it, as a shell says it.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// To the exit code. With `--outcome`, how it ended is written there as well, and nothing to standard error.
pub(crate) fn run(run: &Run, global: &Global, report: &Report, timeline: &Timeline) -> Result<u8> {
    let Some(path) = &run.outcome else {
        let ended = to_its_end(run, global, report, timeline).or_else(|error| match of_failure(&error) {
            // A VMM that was killed is a container that was killed.
            outcome if outcome.code != crate::OWN_FAILURE => {
                report.error(&error);
                Ok(outcome)
            }
            _ => Err(error),
        });
        return ended.map(|outcome| outcome.code);
    };
    let outcome =
        to_its_end(run, global, &report.silent(), timeline).unwrap_or_else(|error| of_failure(&error));
    let written =
        serde_json::to_vec(&outcome).map_err(io::Error::from).and_then(|json| fs::write(path, json));
    written.with_context(|| format!("write {}", path.display()))?;
    Ok(outcome.code)
}

fn of_failure(error: &anyhow::Error) -> Outcome {
    let (code, cause) = match error.downcast_ref() {
        Some(SandboxError::Ended { end: End::VmmKilled(signal), .. }) => {
            (code_of_signal(*signal), Cause::Machine)
        }
        Some(SandboxError::Ended { .. }) => (crate::OWN_FAILURE, Cause::Machine),
        _ => (crate::OWN_FAILURE, Cause::Failed),
    };
    Outcome { code, cause, message: Some(format!("{error:#}")) }
}

fn to_its_end(run: &Run, global: &Global, report: &Report, timeline: &Timeline) -> Result<Outcome> {
    if run.tty && run.interactive && !terminal::stdin_is_terminal() {
        bail!("give the container a terminal: standard input is not one; leave out -t or -i");
    }
    let state = StateRoot::open()?;
    let mut installation = Installation::find()?;
    if let Some(kernel) = &run.kernel {
        installation.kernel = kernel.clone();
    }
    let mut root = root(run, global, report)?;
    timeline.stamp("image");
    if let Some(name) = &run.name {
        container::is_free(global, name.as_str())?;
    }
    let id = run.name.clone().map_or_else(SandboxId::random, Ok).context("make a name")?;
    let volumes = volumes(run, global)?;
    let network = ports::network(run, &root.config)?;
    let source = Source {
        id: &id,
        run,
        command: root.command,
        image: &root.config,
        user: &root.user,
        root: root.source.clone(),
        network: network.as_ref(),
        volumes,
        copies: Copies::of(global)?.place(&id),
    };
    let bundle = bundle::bundle(&source)?;
    let kept = kept::kept(run, &root, &id, &bundle.spec, Vec::new())?;
    let kept = Kept { network: network.clone(), ..kept };
    let spec = bundle.spec.clone();
    let plan = plan(id.clone(), bundle, &Settings { network, ..settings(global) })?;
    timeline.stamp("plan");
    if run.dry_run {
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(Outcome { code: 0, cause: Cause::Exit, message: None });
    }
    let held = Copies::of(global)?.hold(&id, id.as_str(), true, &spec)?;
    let host = templates::host(installation, state, global)?;
    let journal = paths::store(global).ok().map(|store| Journal::of(&store));
    let session = Session { plan: &plan, run, spec, kept, journal, report, timeline };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let disks = disks(&plan.container, root.image.take(), run, global)?;
    let files = disks.image.iter().chain(&disks.writable).map(File::metadata);
    warn_of_limits(&plan.container, files, report)?;
    timeline.stamp("disks");
    let outcome = runtime.block_on(session.run(&host, disks));
    // The thread that reads our standard input may wait for ever.
    runtime.shutdown_background();
    if let Some(held) = held {
        settle(held, &id, report);
    }
    outcome
}

/// What the container has changed of its private copies waits for a decision.
fn settle(held: Held, id: &SandboxId, report: &Report) {
    match held.settle() {
        Ok(0) => {}
        Ok(count) => report.warning(&format!(
            "changes in private copies: {count} (securectr diff {id} shows them, then apply or discard)"
        )),
        Err(error) => report.error(&error),
    }
}

/// What a container is made from.
pub(crate) struct Root<'a> {
    pub source: RootSource,
    pub image: Option<File>,
    /// Of the image's configuration.
    pub digest: Option<Digest>,
    /// The image as it was typed.
    pub typed: String,
    pub config: ImageConfig,
    pub user: User,
    /// The words behind the image.
    pub command: &'a [OsString],
}

pub(crate) fn root<'a>(run: &'a Run, global: &Global, report: &Report) -> Result<Root<'a>> {
    if let (Some(directory), true) = (&run.rootfs, run.in_place) {
        let failed = || format!("cannot use the directory {} as a container's root", directory.display());
        return Ok(Root {
            source: RootSource::Directory(directory.canonicalize().with_context(failed)?),
            image: None,
            digest: None,
            typed: String::new(),
            config: ImageConfig::default(),
            user: User::by_number(run.user.as_deref().unwrap_or_default(), &run.group_add)?,
            command: &run.words,
        });
    }
    let (image, command) = image(run, global, report)?;
    let user = image.resolve_user(run.user.as_deref().unwrap_or(&image.config.user), &run.group_add)?;
    let typed = run.words.first().filter(|_| run.rootfs.is_none()).map(|word| word.to_string_lossy().into());
    Ok(Root {
        source: RootSource::Image,
        image: Some(image.rootfs),
        digest: image.digest,
        typed: typed.unwrap_or_default(),
        config: image.config,
        user,
        command,
    })
}

fn disks(container: &ContainerPlan, image: Option<File>, run: &Run, global: &Global) -> Result<Disks> {
    let writable = match container.writable {
        Writable::Disk => Some(writable_disk(&paths::store(global)?.join("writable"), run.disk_bytes())?),
        Writable::Memory { .. } | Writable::Nothing | Writable::InPlace => None,
    };
    Ok(Disks { image, writable, io_limits: container.io_limits.clone() })
}

/// Says which limits hold for nothing, its disks being these.
pub(crate) fn warn_of_limits(
    container: &ContainerPlan,
    disks: impl Iterator<Item = io::Result<Metadata>>,
    report: &Report,
) -> Result<()> {
    if container.io_limits.is_empty() {
        return Ok(());
    }
    let disks = disks.collect::<io::Result<Vec<_>>>().context("look at the disks")?;
    container.limits_warnings(&disks).iter().for_each(|words| report.warning(words));
    Ok(())
}

/// Opens the image, and tells it from the command behind it.
fn image<'a>(run: &'a Run, global: &Global, report: &Report) -> Result<(Image, &'a [OsString])> {
    let store = Store::open(&paths::store(global)?)?;
    let bar = Bar::new();
    let mut progress = |step| bar.show(step);
    if let Some(directory) = &run.rootfs {
        return Ok((store.pack_directory(Path::new(directory), &mut progress)?, &run.words));
    }
    let Some((reference, command)) = run.words.split_first() else {
        bail!("no image: see securectr run --help");
    };
    let wanted = reference.to_str().context("an image name that is not UTF-8")?;
    if Reference::is_meant_by(wanted) {
        return Ok((store.rootfs(&wanted.parse()?, &mut progress)?, command));
    }
    let listed = images::get(&store, wanted, run.pull, report)?;
    Ok((store.open_image(&listed, &mut progress)?, command))
}

/// Where each volume is on this machine; those with a name are made.
pub(crate) fn volumes(run: &Run, global: &Global) -> Result<Vec<PathBuf>> {
    let volumes = Volumes::of(global)?;
    run.volumes().map(|volume| volumes.source(volume)).collect()
}

/// What the host decides where nobody says anything.
pub(crate) fn settings(global: &Global) -> Settings {
    Settings { verbose_console: global.debug, ..Settings::with_memory_mib(DEFAULT_MEMORY_MIB) }
}

/// As a shell tells it.
pub(crate) fn launch_code(failure: &LaunchFailure) -> u8 {
    match failure.source.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

fn code_of_signal(signal: i32) -> u8 {
    (128 + (signal & 0x7f)) as u8
}
