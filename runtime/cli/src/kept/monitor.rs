//! The process that a container of `run -d` is on this side. It starts the container, keeps what that writes, serves those who come, and
//! starts it again where its policy says so.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use rustix::process::setsid;
use securectr_image::Store;
use securectr_sandbox::{
    Bundle, Config, ContainerPlan, Disks, Host, Installation, NetworkPlan, Plan, Process, ProcessName,
    RootSource, Sandbox, SandboxId, Saved, Scope, Settings, StartError, StateRoot, Streams, StreamsWanted,
    Writable, lasting_disk, plan,
};
use tokio::time::{sleep, timeout};

use super::{args::Keep, log::Log, verbs};
use crate::{
    args::Global,
    bundle::leave_volumes,
    checkpoints::Checkpoint,
    container::{
        Action, Book, DISK, Ended, Incarnation, Joined, Journal, KILLED, Kept, LastWords, LogDriver, Place,
        Records, Status, Watch, Watched, inherited, let_go_of_streams, locked, report,
    },
    copies::{Copies, Held},
    paths, ports,
    report::Report,
    run, signals,
    streams::{Ends, Sink},
    templates,
    timeline::Timeline,
};

/// Before another start: the first time, and at most. It doubles from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long its guest may take to let go of the disk.
pub(super) const UNMOUNT_LIMIT: Duration = Duration::from_secs(30);
/// Who has run for so long begins with the first pause again.
const LONG_LIFE: Duration = Duration::from_secs(10);

pub(super) fn keep(keep: &Keep, records: &Records, global: &Global) -> Result<u8> {
    let ready = inherited(keep.ready_fd).context("take over the pipe")?;
    let _ = setsid();
    let place = records.find(&keep.id)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let code = runtime.block_on(Life { id: &keep.id, place: &place, global }.live(keep, ready));
    runtime.shutdown_background();
    code
}

pub(super) struct Life<'a> {
    pub id: &'a SandboxId,
    pub place: &'a Place,
    pub global: &'a Global,
}

/// A container before it runs, or runs on.
struct Begun {
    sandbox: Arc<Sandbox>,
    plan: Arc<ContainerPlan>,
    init: Arc<Process>,
    streams: Streams,
    /// Of one that goes on.
    is_paused: Option<bool>,
}

struct Base {
    plan: Plan,
    host: Host,
    disks: Disks,
}

impl Life<'_> {
    /// From one start to the last end.
    async fn live(&self, keep: &Keep, ready: OwnedFd) -> Result<u8> {
        let (held, mut started) = match self.hold() {
            Ok(held) => (held, self.start(0, keep.from.as_deref().map(|from| (from, keep.paused))).await),
            Err(error) => (None, Err(error)),
        };
        if let Err(error) = &started {
            let ended = failed(error);
            let code = ended.code;
            // It may be the first start, of which nothing is to stay.
            self.note_end(ended)?;
            held.map_or(Ok(0), Held::settle)?;
            report(ready, Err(error));
            return Ok(code);
        }
        report(ready, Ok(()));
        let_go_of_streams().context("let go of the terminal")?;
        let (mut restarts, mut pause) = (0, FIRST_PAUSE);
        loop {
            let began = Instant::now();
            let ended = match started {
                Ok(watched) => ended(watched).await?,
                Err(error) => failed(&error),
            };
            let kept = self.note_end(ended.clone())?;
            if ended.asked.is_some() || !kept.restart.follows(ended.code, restarts) {
                if kept.remove {
                    verbs::take_away(self.place, &self.journal()?)?;
                }
                held.map_or(Ok(0), Held::settle)?;
                return Ok(ended.code);
            }
            pause = if began.elapsed() > LONG_LIFE { FIRST_PAUSE } else { pause };
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            restarts += 1;
            started = self.start(restarts, None).await;
        }
    }

    /// Its private copies, if it has some.
    pub(super) fn hold(&self) -> Result<Option<Held>> {
        let kept = self.place.read()?.kept.context("the record is not that of a kept container")?;
        let spec = Config::read(self.place.path())?.spec;
        Copies::of(self.global)?.hold(self.id, &kept.name, kept.started.is_none(), &spec)
    }

    /// Returns when its program runs, or goes on from the checkpoint in a directory: unless it is to be paused.
    async fn start(&self, restarts: u32, from: Option<(&Path, bool)>) -> Result<Watched> {
        let mut record = self.place.read()?;
        record.monitor = Incarnation::of(std::process::id()).context("find the own process in /proc")?;
        record.status = Status::Creating;
        self.place.write(&record)?;
        let mut kept = record.kept.take().context("the record is not that of a kept container")?;
        if let Some(NetworkPlan::Nat(nat)) = &mut kept.network {
            nat.published = ports::choose(&kept.ports)?;
        }
        kept.cut_off = None;
        let timeline = Timeline::begin();
        let wanted = StreamsWanted { stdin: kept.interactive, stdout: true, stderr: !kept.tty };
        let begun = match from {
            None => self.begin(&kept, wanted).await?,
            Some((directory, is_paused)) => self.go_on(&kept, wanted, directory, is_paused).await?,
        };
        let Begun { sandbox, plan, init, streams, is_paused } = begun;
        timeline.take_over(sandbox.steps());
        let denials = sandbox.denials();
        timeline.stamp("created");
        let joined = self.keep_output(streams, &kept)?;
        let listener = self.place.listen()?;
        // Who has made the namespace may have waited for the container.
        sandbox.refresh_network().await?;
        match is_paused {
            None => init.start().await?,
            Some(false) => sandbox.resume(&plan.id).await?,
            Some(true) => {}
        }
        timeline.stamp("started");
        kept.timings = timeline.in_us();
        kept.started = Some(humantime::format_rfc3339_nanos(SystemTime::now()).to_string());
        (kept.restarts, kept.ended) = (restarts, None);
        let budget = kept.budget.clone();
        record.kept = Some(kept);
        let journal = Some(self.journal()?);
        let mut book = Book::new(self.place.clone(), record, journal);
        book.turn(Status::Running)?;
        if is_paused == Some(true) {
            book.turn(Status::Paused)?;
        }
        let book = Arc::new(Mutex::new(book));
        Ok(Watched { sandbox, plan, init, joined, listener, poststart: Vec::new(), book, budget, denials })
    }

    fn journal(&self) -> Result<Journal> {
        Ok(Journal::of(&paths::store(self.global)?))
    }

    /// A container whose program waits for its start.
    async fn begin(&self, kept: &Kept, wanted: StreamsWanted) -> Result<Begun> {
        let (sandbox, plan) = self.boot(kept).await?;
        let streams = sandbox.create(&plan, wanted).await?;
        let init = Process::watch(Arc::clone(&sandbox), ProcessName::init(&plan.id));
        Ok(Begun { sandbox, plan: plan.into(), init, streams, is_paused: None })
    }

    /// One that stands still where it was saved.
    async fn go_on(
        &self,
        kept: &Kept,
        wanted: StreamsWanted,
        directory: &Path,
        is_paused: bool,
    ) -> Result<Begun> {
        let checkpoint = Checkpoint::read(directory)?;
        let saved = Saved { file: checkpoint.machine(directory)?, vcpu_count: checkpoint.moment.vcpu_count };
        let Base { plan, host, disks } = self.base(kept)?;
        let plan =
            Plan { container: ContainerPlan { id: checkpoint.moment.guest_id, ..plan.container }, ..plan };
        let sandbox = Arc::new(Sandbox::restore(self.id, &plan.machine, &host, disks, saved).await?);
        let plan = Arc::new(plan.container);
        let streams = sandbox.attach(&plan, wanted).await?;
        let init = Process::watch_started(Arc::clone(&sandbox), ProcessName::init(&plan.id));
        let is_paused = Some(is_paused || checkpoint.moment.is_paused);
        Ok(Begun { sandbox, plan, init, streams, is_paused })
    }

    /// A machine that has its disk, without the container.
    pub(super) async fn boot(&self, kept: &Kept) -> Result<(Arc<Sandbox>, ContainerPlan)> {
        let Base { plan, host, disks } = self.base(kept)?;
        let sandbox = Sandbox::boot(self.id, &plan.machine, &host, disks).await?;
        templates::warn_without(&sandbox, &Report::new(self.global.log_format, None));
        Ok((Arc::new(sandbox), plan.container))
    }

    /// What its machine is made with.
    fn base(&self, kept: &Kept) -> Result<Base> {
        let store = paths::store(self.global)?;
        let image_id = kept.image_id.as_ref().context("the record names no image")?;
        let image = Store::open(&store)?.image(image_id, &mut |_| {})?;
        let image = image.with_context(|| format!("its image {} is gone", kept.image))?;
        let plan = self.plan(kept)?;
        let writable = match kept.read_only {
            true => None,
            false => {
                let disk = self.place.path().join(DISK);
                Some(lasting_disk(&store.join("writable"), &disk, kept.disk_bytes)?)
            }
        };
        let mut installation = Installation::find()?;
        installation.kernel = kept.kernel.clone().unwrap_or(installation.kernel);
        let host = templates::host(installation, StateRoot::open()?, self.global)?;
        let io_limits = plan.container.io_limits.clone();
        Ok(Base { plan, host, disks: Disks { image: Some(image.rootfs), writable, io_limits } })
    }

    fn plan(&self, kept: &Kept) -> Result<Plan> {
        let mut spec = Config::read(self.place.path())?.spec;
        if kept.started.is_some() {
            leave_volumes(&mut spec);
        }
        let writable = if kept.read_only { Writable::Nothing } else { Writable::Disk };
        let scope = Scope::alone(&spec);
        let files = kept.files.clone();
        let bundle = Bundle { spec, root: RootSource::Image, writable, scope, files };
        let settings = Settings { network: kept.network.clone(), ..run::settings(self.global) };
        Ok(plan(self.id.clone(), bundle, &settings)?)
    }

    /// What it writes goes to its log. Its input is that of those who attach to it.
    fn keep_output(&self, streams: Streams, kept: &Kept) -> Result<Joined> {
        let log = match kept.logging.driver {
            LogDriver::JsonFile => Some(Log::open(self.place.path(), kept.logging)?),
            LogDriver::None => None,
        };
        let sink = |name| log.as_ref().map_or_else(|| Box::new(io::sink()) as Sink, |log| log.sink(name));
        let (stdout, stderr) = (sink("stdout"), Some(sink("stderr")));
        let ends = Ends { stdin: Box::new(io::empty()), lasts: true, stdout, stderr };
        Joined::new(streams, ends, &kept.budget, &Timeline::begin())
    }

    fn note_end(&self, ended: Ended) -> Result<Kept> {
        let mut record = self.place.read()?;
        let kept = record.kept.as_mut().context("the record is not that of a kept container")?;
        kept.ended = Some(ended);
        let kept = kept.clone();
        record.status = Status::Stopped;
        self.place.write(&record)?;
        let journal = self.journal()?;
        if kept.ended.as_ref().is_some_and(|ended| ended.oom_killed) {
            journal.note(&record, &Action::Oom);
        }
        journal.note(&record, &Action::Die { code: kept.ended.as_ref().map_or(KILLED, |ended| ended.code) });
        Ok(kept)
    }
}

/// As docker tells it: 126 and 127 for a program that could not be executed.
fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(StartError::Launch(failure)) => run::launch_code(failure),
        _ => crate::OWN_FAILURE,
    }
}

/// Watches it to its end.
async fn ended(watched: Watched) -> Result<Ended> {
    let book = Arc::clone(&watched.book);
    let (sandbox, plan) = (Arc::clone(&watched.sandbox), watched.plan.clone());
    let outside = signals::listen().context("listen to signals")?;
    let Watch { exit, spent } = watched.watch(outside, || None, LastWords::Bounded, |_| ()).await?;
    let saved_as = locked(&book).saved_as.clone();
    let saved_as = saved_as.map(|name| format!("it was saved as the checkpoint {name}"));
    // Its guest writes what it has to the disk. Of a machine that has ended there is nothing to be had.
    let _ = timeout(UNMOUNT_LIMIT, sandbox.delete(&plan)).await;
    let cause =
        saved_as.or_else(|| Some(spent?.to_string())).or_else(|| Some(exit.cause.as_ref()?.to_string()));
    Ok(Ended {
        code: exit.status.shell_code(),
        at: humantime::format_rfc3339_nanos(exit.at).to_string(),
        oom_killed: exit.oom_killed,
        cause,
        asked: locked(&book).asked,
    })
}

/// A start that went wrong.
fn failed(error: &anyhow::Error) -> Ended {
    Ended {
        code: code_of(error),
        at: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        oom_killed: false,
        cause: Some(format!("{error:#}")),
        asked: None,
    }
}
