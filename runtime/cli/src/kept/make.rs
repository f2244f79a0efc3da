//! `run -d` and `start`: leave a monitor behind, and wait until it has started the container.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::Spec;
use securectr_sandbox::{Bundle, GivenFile, SandboxId, plan};

use crate::{
    args::{Global, Run},
    bundle::{self, Source},
    container::{
        self, Action, Incarnation, Journal, Kept, Logging, NotBegun, Place, Record, Records, Status, again,
        spawn_and_hear,
    },
    copies::Copies,
    output, paths, ports,
    report::Report,
    run::{Root, root, settings, volumes, warn_of_limits},
};

/// How long a container may take after its signal, in seconds, as with docker.
pub(super) const STOP_TIMEOUT_S: u64 = 10;

pub(crate) fn detach(run: &Run, global: &Global, report: &Report) -> Result<u8> {
    let root = root(run, global, report)?;
    let id = SandboxId::random().context("make an id")?;
    if let Some(path) = run.cidfile.as_ref().filter(|path| path.exists()) {
        bail!("the file for the id is there already: {}", path.display());
    }
    if root.digest.is_none() {
        bail!("a directory is not kept: -d takes an image");
    }
    let records = Records::kept(&paths::store(global)?);
    let volumes = volumes(run, global)?;
    let place = make(&records, &id, &Made { run, root: &root, volumes, report }, global)?;
    if let Err(error) = start(&records, &id, global) {
        place.remove()?;
        let code = error.downcast_ref().map(|NotBegun { code, .. }| *code);
        report.error(&error);
        return Ok(code.unwrap_or(crate::OWN_FAILURE));
    }
    tell_id(run, &id)?;
    Ok(0)
}

/// To who has asked for the container, and to the file that they have named.
pub(crate) fn tell_id(run: &Run, id: &SandboxId) -> Result<()> {
    if let Some(path) = &run.cidfile {
        fs::write(path, id.as_str()).with_context(|| format!("write {}", path.display()))?;
    }
    output::lines([id.to_string()])
}

/// What a container that stays is made of.
struct Made<'a> {
    run: &'a Run,
    root: &'a Root<'a>,
    volumes: Vec<PathBuf>,
    report: &'a Report,
}

/// Writes down all that a start needs.
fn make(records: &Records, id: &SandboxId, made: &Made<'_>, global: &Global) -> Result<Place> {
    let Made { run, root, volumes, report } = made;
    let ports = ports::wanted(run, &root.config)?;
    let network = ports::plan(run, Vec::new(), !ports.is_empty())?;
    let source = Source {
        id,
        run,
        command: root.command,
        image: &root.config,
        user: &root.user,
        root: root.source.clone(),
        network: network.as_ref(),
        volumes: volumes.clone(),
        copies: Copies::of(global)?.place(id),
    };
    let bundle = bundle::bundle(&source)?;
    let plan = plan(id.clone(), bundle.clone(), &settings(global))?;
    // The container's own disk will be in the store.
    let files = root.image.iter().map(File::metadata).chain([fs::metadata(paths::store(global)?)]);
    warn_of_limits(&plan.container, files, report)?;
    let Bundle { spec, files, .. } = bundle;
    let kept = Kept { network, ports, ..kept(run, root, id, &spec, files)? };
    let place = records.create(id)?;
    let made = || -> Result<()> {
        let _alone = records.lock()?;
        container::is_free(global, &kept.name)?;
        let record = first_record(id, &place, kept)?;
        write_spec(&place, &spec)?;
        place.write(&record)?;
        Journal::of(&paths::store(global)?).note(&record, &Action::Create);
        Ok(())
    };
    made().inspect_err(|_| drop(place.remove()))?;
    Ok(place)
}

/// What is written of a container of `run` before it runs.
pub(crate) fn first_record(id: &SandboxId, place: &Place, kept: Kept) -> Result<Record> {
    Ok(Record {
        id: id.to_string(),
        bundle: place.path().to_owned(),
        rootfs: place.path().to_owned(),
        monitor: Incarnation::of(std::process::id()).context("find the own process in /proc")?,
        status: Status::Creating,
        created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        annotations: Default::default(),
        cgroup: None,
        poststop: Vec::new(),
        kept: Some(kept),
    })
}

pub(crate) fn write_spec(place: &Place, spec: &Spec) -> Result<()> {
    let json = serde_json::to_vec(spec)?;
    fs::write(place.path().join("config.json"), json).context("write the container's spec")
}

/// All but its network.
pub(crate) fn kept(
    run: &Run,
    root: &Root<'_>,
    id: &SandboxId,
    spec: &Spec,
    files: Vec<GivenFile>,
) -> Result<Kept> {
    Ok(Kept {
        name: run.name.as_ref().unwrap_or(id).to_string(),
        image: root.typed.clone(),
        image_id: root.digest.clone(),
        command: spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default(),
        user: run.user.clone(),
        tty: run.tty,
        interactive: run.interactive,
        is_in_foreground: !run.detach,
        read_only: run.read_only,
        remove: run.rm || !run.detach,
        kernel: run.kernel.as_ref().map(std::path::absolute).transpose().context("find the kernel")?,
        network: None,
        ports: Vec::new(),
        cut_off: None,
        stop_signal: stop_signal(run, root)?,
        stop_timeout: Duration::from_secs(run.stop_timeout.unwrap_or(STOP_TIMEOUT_S)),
        budget: run.budget(),
        logging: Logging::new(run.log_driver, &run.log_opt),
        disk_bytes: run.disk_bytes(),
        restart: run.restart,
        labels: run.label.clone(),
        files,
        restarts: 0,
        timings: Default::default(),
        started: None,
        ended: None,
    })
}

fn stop_signal(run: &Run, root: &Root<'_>) -> Result<u32> {
    match (&run.stop_signal, &root.config.stop_signal) {
        (Some(asked), _) => Ok(*asked),
        (None, Some(image)) => {
            crate::signals::number(image).map_err(anyhow::Error::msg).context("understand the image")
        }
        (None, None) => Ok(libc::SIGTERM.unsigned_abs()),
    }
}

/// Returns when its program runs.
pub(super) fn start(records: &Records, id: &SandboxId, global: &Global) -> Result<()> {
    let mut monitor = again(records, global)?;
    monitor.arg("keep").current_dir("/");
    spawn_and_hear(&mut monitor, |command| command.arg(id.as_str())).map(drop)
}
