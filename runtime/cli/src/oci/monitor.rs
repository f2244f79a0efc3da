//! The process that a container is on this side: it holds the machine, has the pid that engines record, carries the streams, and ends
//! as the container ends.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::Spec;
use rustix::process::setsid;
use securectr_sandbox::{
    Anchor, Bundle, Config, ContainerPlan, Disks, HookState, HostCgroup, Installation, MachinePlan, Process,
    ProcessName, RootSource, Sandbox, Scope, Settings, StateRoot, Streams, StreamsWanted, Writable,
    container, find_program, network_source, run_all, run_before_create,
};

use super::{args::Monitor, console::Console};
use crate::{
    args::Global,
    container::{
        Book, Budget, Incarnation, Joined, LastWords, Record, Records, Status, Watch, Watched, hook_state,
        inherited, let_go_of_streams, report,
    },
    report::Report,
    run, signals,
    streams::{self, Ends, Output},
    templates,
    timeline::Timeline,
};

/// Runs in the bundle. Nothing but the container's end ends it.
pub(super) fn monitor(args: &Monitor, records: &Records, global: &Global) -> Result<u8> {
    let ready = inherited(args.ready_fd).context("take over the pipe to create")?;
    let _ = setsid();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let watched = runtime.block_on(async {
        let made = make(args, records, global).await;
        report(ready, made.as_ref().map(drop));
        match made {
            Ok(container) => {
                if container.console.is_some() {
                    let _ = let_go_of_streams();
                }
                Some(container.watch().await)
            }
            Err(_) => None,
        }
    });
    // The thread that reads our standard input may wait for ever.
    runtime.shutdown_background();
    // What went wrong before has been told to create.
    watched.unwrap_or(Ok(1))
}

/// A container, and what it has on this side as long as it lives.
struct Made {
    watched: Watched,
    console: Option<Console>,
    /// Its network may be the container's.
    _anchor: Anchor,
}

async fn make(args: &Monitor, records: &Records, global: &Global) -> Result<Made> {
    let place = records.find(&args.id)?;
    let bundle = std::env::current_dir().context("find the bundle")?;
    let config = Config::read(&bundle)?;
    let report = Report::new(global.log_format, global.oci.log.as_deref());
    for name in &config.unknown_capabilities {
        report.warning(&format!("there is no capability {name}"));
    }
    let spec = config.spec;
    let record = first_record(args, &bundle, &spec)?;
    let mut book = Book::new(place, record, None);
    book.turn(Status::Creating)?;
    if let Some(cgroup) = &book.record.cgroup {
        cgroup.enter()?;
    }
    let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    let console = match (terminal, &args.console_socket) {
        (true, Some(socket)) => Some(Console::open(socket)?),
        (true, None) => bail!("cannot allocate tty if runc will detach without setting console socket"),
        (false, Some(_)) => bail!("cannot use console socket if runc will not detach or allocate tty"),
        (false, None) => None,
    };
    find_program(&book.record.rootfs, &spec).map_err(|failure| anyhow!(failure.in_runcs_words()))?;
    let source = network_source(&spec)?;
    let anchor = Anchor::drop_here(&source).context("start the container's anchor")?;
    let settings = Settings { network: anchor.network(source), ..run::settings(global) };
    let record = book.record.clone();
    let made = Begun { book, console, anchor, spec, settings }.make(args, global).await;
    if made.is_err() {
        after_stop(&record).await;
    }
    made
}

/// A container that nothing was done for yet. From here on an end has to be told to the host's hooks.
struct Begun {
    book: Book,
    console: Option<Console>,
    anchor: Anchor,
    spec: Spec,
    settings: Settings,
}

impl Begun {
    async fn make(self, args: &Monitor, global: &Global) -> Result<Made> {
        let Self { mut book, console, anchor, spec, settings } = self;
        run_before_create(&spec, &hook_state(&book.record, anchor.pid())).await?;
        let poststart = spec.hooks().as_ref().and_then(|hooks| hooks.poststart().clone()).unwrap_or_default();
        let terminal = console.is_some();
        let plan = plan(args, &book.record, spec)?;
        let report = Report::new(global.log_format, global.oci.log.as_deref());
        plan.limits_warnings(&[]).iter().for_each(|words| report.warning(words));
        let limits = plan.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let machine = MachinePlan::limited(limits, true, &settings)?.with_device_places(plan.device_count());
        let host = templates::host(Installation::find()?, StateRoot::open()?, global)?;
        let sandbox = Arc::new(Sandbox::boot(&args.id, &machine, &host, Disks::default()).await?);
        templates::warn_without(&sandbox, &report);
        let wanted = StreamsWanted { stdin: true, stdout: true, stderr: !terminal };
        let streams = sandbox.create(&plan, wanted).await?;
        let init = Process::watch(Arc::clone(&sandbox), ProcessName::init(&plan.id));
        let budget = Budget::default();
        let joined = Joined::new(streams, ends(console.as_ref())?, &budget, &Timeline::begin())?;
        let listener = book.place.listen()?;
        book.turn(Status::Created)?;
        let book = Arc::new(Mutex::new(book));
        let plan = Arc::new(plan);
        let watched =
            Watched { sandbox, plan, init, joined, listener, poststart, book, budget, denials: None };
        Ok(Made { watched, console, _anchor: anchor })
    }
}

/// Runs the host's hooks for a container that is gone. What they say changes nothing.
pub(super) async fn after_stop(record: &Record) {
    let state = HookState { status: Status::Stopped.name(), ..hook_state(record, 0) };
    for failure in run_all(Some(&record.poststop), &state).await {
        eprintln!("securectr: {:#}", anyhow::Error::from(failure));
    }
}

fn first_record(args: &Monitor, bundle: &Path, spec: &Spec) -> Result<Record> {
    let root = spec.root().as_ref().context("the bundle has no root file system")?;
    let rootfs: PathBuf = bundle.join(root.path());
    Ok(Record {
        id: args.id.to_string(),
        bundle: bundle.to_owned(),
        rootfs: rootfs
            .canonicalize()
            .with_context(|| format!("find the root file system {}", rootfs.display()))?,
        monitor: Incarnation::of(std::process::id()).context("find the own process in /proc")?,
        status: Status::Creating,
        created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        cgroup: HostCgroup::of(spec)?,
        kept: None,
        poststop: spec.hooks().as_ref().and_then(|hooks| hooks.poststop().clone()).unwrap_or_default(),
    })
}

fn plan(args: &Monitor, record: &Record, spec: Spec) -> Result<ContainerPlan> {
    let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    let writable = if read_only { Writable::Nothing } else { Writable::InPlace };
    let root = RootSource::Directory(record.rootfs.clone());
    let scope = Scope::alone(&spec);
    Ok(container(args.id.clone(), Bundle { spec, root, writable, scope, files: Vec::new() })?)
}

/// To a terminal of ours, or to our standard streams.
pub(super) fn join(streams: Streams, console: Option<&Console>) -> Result<Output> {
    streams::join(streams, ends(console)?, &Timeline::begin()).context("join the container's streams")
}

fn ends(console: Option<&Console>) -> Result<Ends> {
    let ends = match console {
        None => Ends::standard(),
        Some(console) => console.clones().map(|(stdin, stdout)| Ends {
            stdin: Box::new(stdin),
            lasts: false,
            stderr: None,
            stdout: Box::new(stdout),
        }),
    };
    ends.context("join the container's streams")
}

impl Made {
    /// Until its end, whose code is answered.
    async fn watch(self) -> Result<u8> {
        let id = self.watched.plan.id.clone();
        let size = || self.console.as_ref().and_then(Console::size);
        let outside = signals::listen().context("listen to signals")?;
        let Watch { exit, .. } = self.watched.watch(outside, size, LastWords::Bounded, |_| ()).await?;
        if let Some(cause) = &exit.cause {
            eprintln!("securectr: the machine of {id} ended: {cause}");
        }
        Ok(exit.status.shell_code())
    }
}
