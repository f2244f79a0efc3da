//! The process that a container is on this side: it holds the machine, has the pid that engines record, carries the streams, and ends
//! as the container ends.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::{Hooks, Spec};
use rustix::process::setsid;
use securectr_sandbox::{
    Anchor, Bundle, Config, ContainerPlan, Disks, HookState, Host, HostCgroup, Installation, MachinePlan,
    Process, ProcessName, Reach, RootSource, Sandbox, Scope, Settings, StateRoot, Streams, StreamsWanted,
    Writable, container, find_program, network_source, run_all, run_before_create,
};
use tokio::{net::UnixListener, task::JoinSet, time::timeout};

use super::{args::Monitor, console::Console};
use crate::{
    args::Global,
    container::{
        Book, Incarnation, LAST_WORDS_LIMIT, Record, Records, Status, hook_state, inherited, report, serve,
        turn,
    },
    report::Report,
    run,
    signals::{self, Outside},
    streams::{self, Ends, Output},
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
                if let Some(console) = &container.console {
                    let _ = console.let_go_of_streams();
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

/// A container with everything that is needed while it lives.
struct Watched {
    sandbox: Arc<Sandbox>,
    plan: ContainerPlan,
    init: Arc<Process>,
    output: Output,
    console: Option<Console>,
    listener: UnixListener,
    hooks: Option<Hooks>,
    /// Its network may be the container's.
    _anchor: Anchor,
    book: Arc<Mutex<Book>>,
}

async fn make(args: &Monitor, records: &Records, global: &Global) -> Result<Watched> {
    let place = records.find(&args.id)?;
    let bundle = std::env::current_dir().context("find the bundle")?;
    let config = Config::read(&bundle)?;
    let report = Report::new(global.log_format, global.oci.log.as_deref());
    for name in &config.unknown_capabilities {
        report.warning(&format!("there is no capability {name}"));
    }
    let spec = config.spec;
    let mut book = Book { record: first_record(args, &bundle, &spec)?, place };
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
    async fn make(self, args: &Monitor, global: &Global) -> Result<Watched> {
        let Self { mut book, console, anchor, spec, settings } = self;
        run_before_create(&spec, &hook_state(&book.record, anchor.pid())).await?;
        let hooks = spec.hooks().clone();
        let terminal = console.is_some();
        let plan = plan(args, &book.record, spec)?;
        let limits = plan.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let machine = MachinePlan::limited(limits, true, &settings)?.with_device_places(plan.device_count());
        let host = Host {
            installation: Installation::find()?,
            state: StateRoot::open()?,
            echo_console: global.debug,
        };
        let sandbox = Arc::new(Sandbox::boot(&args.id, &machine, &host, Disks::default()).await?);
        let wanted = StreamsWanted { stdin: true, stdout: true, stderr: !terminal };
        let streams = sandbox.create(&plan, wanted).await?;
        let init = Process::watch(Arc::clone(&sandbox), ProcessName::init(&plan.id));
        let output = join(streams, console.as_ref())?;
        let listener = book
            .place
            .with_socket(|path| UnixListener::bind(path))
            .context("listen on the monitor's socket")?;
        book.turn(Status::Created)?;
        let book = Arc::new(Mutex::new(book));
        Ok(Watched { sandbox, plan, init, output, console, listener, hooks, _anchor: anchor, book })
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
    let ends = match console {
        None => Ends::standard(),
        Some(console) => console.clones().map(|(stdin, stdout)| Ends { stdin, stderr: None, stdout }),
    };
    let joined = ends.and_then(|ends| streams::join(streams, ends, &Timeline::begin()));
    joined.context("join the container's streams")
}

impl Watched {
    /// Until its end, whose code is answered.
    async fn watch(self) -> Result<u8> {
        let mut outside = signals::listen().context("listen to signals")?;
        let mut connections = JoinSet::new();
        let exit = loop {
            tokio::select! {
                exit = self.init.wait() => break exit,
                Ok((connection, _)) = self.listener.accept() => {
                    connections.spawn(serve::serve(connection, self.served()));
                }
                Some(event) = outside.recv() => self.hear(event).await,
            }
        };
        // Who finds it stopped may want its devices back.
        self.sandbox.take_back_devices(&self.plan).await;
        turn(&self.book, Status::Stopped)?;
        let _ = timeout(LAST_WORDS_LIMIT, self.output.written()).await;
        let _ = timeout(LAST_WORDS_LIMIT, async { while connections.join_next().await.is_some() {} }).await;
        if let Some(cause) = &exit.cause {
            eprintln!("securectr: the machine of {} ended: {cause}", self.plan.id);
        }
        Ok(exit.status.shell_code())
    }

    fn served(&self) -> serve::Container {
        serve::Container {
            sandbox: Arc::clone(&self.sandbox),
            init: Arc::clone(&self.init),
            id: self.plan.id.clone(),
            book: Arc::clone(&self.book),
            poststart: self.hooks.as_ref().and_then(|hooks| hooks.poststart().clone()).unwrap_or_default(),
        }
    }

    /// A signal to the container's pid is one to the container.
    async fn hear(&self, event: Outside) {
        match event {
            Outside::Signal(number) => {
                let _ = self.init.kill(number.unsigned_abs(), Reach::Process).await;
            }
            Outside::Resized => {
                if let Some((columns, rows)) = self.console.as_ref().and_then(Console::size) {
                    let _ = self.init.resize(columns, rows).await;
                }
            }
        }
    }
}
