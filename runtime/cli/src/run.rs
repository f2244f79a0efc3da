//! `securectr run`: a container from its image to its exit code.

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::Spec;
use securectr_image::{Digest, Image, ImageConfig, Reference, Store, User};
use securectr_sandbox::{
    Disks, End, ExitStatus, Host, Installation, LaunchFailure, Plan, Process, ProcessName, RootSource,
    Sandbox, SandboxError, SandboxId, Settings, StartError, StateRoot, StreamsWanted, Writable, plan,
    writable_disk,
};
use tokio::{net::UnixListener, sync::mpsc};

use crate::{
    args::{Global, Run},
    bundle::{self, Source},
    container::{
        self, Action, Book, Joined, Journal, Kept, LastWords, Records, Status, Watch, Watched, locked,
    },
    images, kept, paths,
    progress::Bar,
    report::Report,
    signals::{self, Outside},
    streams::Ends,
    terminal::{self, RawMode},
    timeline::Timeline,
    volumes::Volumes,
};

/// Memory of a guest without `--memory`, in MiB. It is backed as the guest touches it.
const DEFAULT_MEMORY_MIB: u32 = 512;

/// `execve` did not find it, as a shell says it.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

pub(crate) fn run(run: &Run, global: &Global, report: &Report) -> Result<u8> {
    let timeline = Timeline::begin();
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
    let source = Source {
        id: &id,
        run,
        command: root.command,
        image: &root.config,
        user: &root.user,
        root: root.source.clone(),
        volumes,
    };
    let network = run.network.namespace().map(Path::to_owned);
    let bundle = bundle::bundle(&source)?;
    let kept = kept::kept(run, &root, &id, &bundle.spec, Vec::new())?;
    let spec = bundle.spec.clone();
    let plan = plan(id.clone(), bundle, &Settings { network, ..settings(global) })?;
    timeline.stamp("plan");
    if run.dry_run {
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(0);
    }
    let host = Host { installation, state, echo_console: global.debug };
    let journal = paths::store(global).ok().map(|store| Journal::of(&store));
    let session = Session { plan: &plan, run, spec, kept, journal, report, timeline: &timeline };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let writable = match plan.container.writable {
        Writable::Disk => Some(writable_disk(&paths::store(global)?.join("writable"), run.disk_bytes())?),
        Writable::Memory { .. } | Writable::Nothing | Writable::InPlace => None,
    };
    let disks = Disks { image: root.image.take(), writable };
    timeline.stamp("disks");
    let code = runtime.block_on(session.run(&host, disks));
    // The thread that reads our standard input may wait for ever.
    runtime.shutdown_background();
    code.or_else(|error| match killed_by(&error) {
        Some(signal) => {
            report.error(&error);
            Ok(code_of_signal(signal))
        }
        None => Err(error),
    })
}

/// A VMM that was killed is a container that was killed.
fn killed_by(error: &anyhow::Error) -> Option<i32> {
    match error.downcast_ref() {
        Some(SandboxError::Ended { end: End::VmmKilled(signal), .. }) => Some(*signal),
        _ => None,
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
            user: User::by_number(run.user.as_deref().unwrap_or_default())?,
            command: &run.words,
        });
    }
    let (image, command) = image(run, global, report)?;
    let user = image.resolve_user(run.user.as_deref().unwrap_or(&image.config.user))?;
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

/// One container, and who looks at it.
struct Session<'a> {
    plan: &'a Plan,
    run: &'a Run,
    /// As it was before it became one for a guest: what is executed besides is made from it.
    spec: Spec,
    kept: Kept,
    journal: Option<Journal>,
    report: &'a Report,
    timeline: &'a Timeline,
}

impl Session<'_> {
    async fn run(&self, host: &Host, disks: Disks) -> Result<u8> {
        let mut outside = signals::listen().context("listen to signals")?;
        let sandbox = tokio::select! {
            sandbox = Sandbox::boot(&self.plan.id, &self.plan.machine, host, disks) => Arc::new(sandbox?),
            signal = ending_signal(&mut outside) => return Ok(code_of_signal(signal)),
        };
        self.timeline.stamp("agent");
        let container = &self.plan.container;
        let streams = sandbox.create(container, self.streams_wanted()).await?;
        let init = Process::watch(Arc::clone(&sandbox), ProcessName::init(&container.id));
        self.timeline.stamp("created");
        let raw = (self.run.tty && self.run.interactive)
            .then(RawMode::enter)
            .transpose()
            .context("set up the terminal")?;
        if let Some((columns, rows)) = self.size() {
            init.resize(columns, rows).await?;
        }
        // Who has made the namespace may have waited for the container.
        sandbox.refresh_network().await?;
        let budget = self.kept.budget.clone();
        let ends = Ends::standard().context("join the container's streams")?;
        let joined = Joined::new(streams, ends, &budget, self.timeline)?;
        let (mut book, listener) = self.be_found(host)?;
        match init.start().await {
            Ok(()) => {}
            Err(StartError::Launch(failure)) => return Ok(self.explain(failure)),
            Err(error) => return Err(error.into()),
        }
        self.timeline.stamp("started");
        book.turn(Status::Running)?;
        let (plan, poststart, book) = (container.clone(), Vec::new(), Arc::new(Mutex::new(book)));
        let watched = Watched {
            sandbox: Arc::clone(&sandbox),
            plan,
            init,
            joined,
            listener,
            poststart,
            book: Arc::clone(&book),
            budget,
        };
        let watch = watched.watch(outside, || self.size(), LastWords::UntilSignal).await?;
        self.timeline.stamp("exit");
        drop(raw);
        if sandbox.host_disk_full() {
            self.report.warning("the disk of this machine is full: what the container wrote is lost in part");
        }
        if self.run.timings {
            eprintln!("{}", self.timeline.to_json());
        }
        let code = self.code(watch)?;
        locked(&book).note(&Action::Die { code });
        Ok(code)
    }

    fn streams_wanted(&self) -> StreamsWanted {
        StreamsWanted { stdin: self.run.interactive, stdout: true, stderr: !self.run.tty }
    }

    /// From now on others find it, beside its machine's state.
    fn be_found(&self, host: &Host) -> Result<(Book, UnixListener)> {
        let place = Records::in_foreground(&host.state).find(&self.plan.id)?;
        let mut kept = self.kept.clone();
        kept.started = Some(humantime::format_rfc3339_nanos(SystemTime::now()).to_string());
        let record = kept::first_record(&self.plan.id, &place, kept)?;
        kept::write_spec(&place, &self.spec)?;
        let listener = place.listen()?;
        Ok((Book { place, record, asked: None, journal: self.journal.clone() }, listener))
    }

    /// Of its terminal.
    fn size(&self) -> Option<(u16, u16)> {
        if self.run.tty { terminal::size() } else { None }
    }

    fn explain(&self, failure: LaunchFailure) -> u8 {
        let code = launch_code(&failure);
        self.report.error(&failure.into());
        code
    }

    fn code(&self, Watch { exit, spent }: Watch) -> Result<u8> {
        if let Some(spent) = spent {
            self.report.warning(&format!("the container was killed: {spent}"));
            return Ok(exit.status.shell_code());
        }
        if let Some(end) = exit.cause {
            return Err(SandboxError::Ended { operation: "run the container", end }.into());
        }
        if exit.oom_killed && exit.status != ExitStatus::Code(0) {
            let limit =
                self.run.memory.map_or("the guest's memory".to_owned(), |limit| format!("{limit} bytes"));
            self.report
                .warning(&format!("the container ran out of memory ({limit}): its kernel killed a process"));
        }
        Ok(exit.status.shell_code())
    }
}

/// As a shell tells it.
pub(crate) fn launch_code(failure: &LaunchFailure) -> u8 {
    match failure.source.kind() {
        std::io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

/// The next signal from outside, by number.
async fn ending_signal(outside: &mut mpsc::Receiver<Outside>) -> i32 {
    loop {
        match outside.recv().await {
            Some(Outside::Signal(number)) => return number,
            Some(Outside::Resized) => {}
            // The listeners live as long as the runtime.
            None => std::future::pending().await,
        }
    }
}

fn code_of_signal(signal: i32) -> u8 {
    (128 + (signal & 0x7f)) as u8
}
