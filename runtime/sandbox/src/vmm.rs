//! The VMM's process: started, heard, and asked for the cause of its end.

use std::{
    ffi::CString,
    fs::File,
    io::{self, IoSlice},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        socket::{ControlMessage, MsgFlags, sendmsg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::{Gid, Uid, getegid, geteuid},
};
use securectr_vmm::{
    control::{Event, MAX_LINE_LEN, Request},
    spec::{IoLimits, PageRun, VmSpec},
};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{broadcast, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    end::{End, Evidence, ProcessExit},
    equipment::Equipment,
    files::FilesEnd,
    sys,
};

/// Where the ids begin under which VMMs run when root starts them: far above those of people, services and containers.
const FIRST_JAIL_ID: u32 = 2_000_000_000;

/// How long a VMM may take to close a disk, which waits for requests that are under way.
const DETACH_LIMIT: Duration = Duration::from_secs(30);

/// How long it may take to look at its pages.
const TOUCHED_LIMIT: Duration = Duration::from_secs(5);

/// As many disks can be taken out at once without one being overheard.
const DETACHED_BACKLOG: usize = 32;

/// How long after the VMM's failure the file server's end may come to be its cause.
const FILES_GRACE: Duration = Duration::from_millis(500);

#[derive(Debug, Error)]
pub enum SaveError {
    #[error("the machine cannot be saved: {0}")]
    Refused(String),
    #[error("the machine has ended: {0}")]
    Ended(End),
}

/// A started VMM. When this is dropped, the VMM is killed.
#[derive(Debug)]
pub(crate) struct Vmm {
    pid: i32,
    pidfd: Arc<OwnedFd>,
    end: watch::Receiver<Option<End>>,
    disk_full: Arc<AtomicBool>,
    /// Indices of disks that the VMM has closed.
    detached: broadcast::Sender<u8>,
    memory: watch::Receiver<PluggedMemory>,
    saved: watch::Receiver<Option<Result<(), String>>>,
    touched: watch::Receiver<Vec<PageRun>>,
    /// When its guest began to run.
    running: Arc<OnceLock<Instant>>,
    /// Stays open as long as the guest may run: the VMM ends when it is closed.
    control: OwnedFd,
}

/// What a guest has beside the memory that it was booted with, and what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PluggedMemory {
    pub plugged_mib: u32,
    requested_mib: u32,
}

/// What a VMM says while its guest runs, for those who want to know.
struct Said {
    disk_full: Arc<AtomicBool>,
    detached: broadcast::Sender<u8>,
    memory: watch::Sender<PluggedMemory>,
    saved: watch::Sender<Option<Result<(), String>>>,
    touched: watch::Sender<Vec<PageRun>>,
    running: Arc<OnceLock<Instant>>,
}

impl Vmm {
    /// Starts the VMM and hands it its spec; with it comes our end of the connection that the agent dials. What goes wrong from here
    /// on is told by [`Vmm::ended`].
    pub(crate) async fn start(
        program: &Path,
        spec: &VmSpec,
        equipment: Equipment,
    ) -> io::Result<(Self, UnixStream)> {
        let program = CString::new(program.as_os_str().as_bytes())?;
        let launched =
            sys::launch(&sys::Launch { program: &program, fds: &equipment.fds, identity: jail_identity() })?;
        // Our copies would keep the console open beyond the VMM's death.
        drop(equipment.fds);
        let pidfd = Arc::new(launched.pidfd);
        let (said_end, end) = watch::channel(None);
        let disk_full = Arc::new(AtomicBool::new(false));
        let detached = broadcast::Sender::new(DETACHED_BACKLOG);
        let (said_memory, memory) = watch::channel(PluggedMemory::default());
        let (said_saved, saved) = watch::channel(None);
        let (said_touched, touched) = watch::channel(Vec::new());
        let said = Said {
            disk_full: Arc::clone(&disk_full),
            detached: detached.clone(),
            memory: said_memory,
            saved: said_saved,
            touched: said_touched,
            running: Arc::default(),
        };
        let vmm = Self {
            pid: launched.pid,
            pidfd: Arc::clone(&pidfd),
            end,
            disk_full,
            detached,
            memory,
            saved,
            touched,
            running: Arc::clone(&said.running),
            control: equipment.control.as_fd().try_clone_to_owned()?,
        };
        equipment.control.set_nonblocking(true)?;
        let mut control = UnixStream::from_std(equipment.control)?;
        let mut line = serde_json::to_vec(spec)?;
        line.push(b'\n');
        // A VMM that has died already does not read: that is for the watch to explain.
        let _ = control.write_all(&line).await;
        tokio::spawn(async move {
            let files = files_broken(equipment.files);
            let end = watch(control, pidfd, equipment.console, &said, files).await;
            let _ = said_end.send(Some(end));
        });
        Ok((vmm, equipment.rpc))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// When its guest began to run, if it has said so.
    pub(crate) fn running_since(&self) -> Option<Instant> {
        self.running.get().copied()
    }

    /// Gives a network device of the spec that has none its tap.
    pub(crate) fn attach_net(&self, index: usize, tap: &OwnedFd) -> io::Result<()> {
        // A spec has fewer devices than a u8 can count.
        self.ask(Request::AttachNet(index as u8), Some(tap.as_fd()))
    }

    /// Lays a file into an empty disk of the spec. The VMM has a descriptor of its own from then on.
    pub(crate) fn attach_disk(&self, disk: u8, file: &File, limits: Option<IoLimits>) -> io::Result<()> {
        self.ask(Request::AttachDisk { disk, limits }, Some(file.as_fd()))
    }

    /// Frees it from its limits.
    pub(crate) fn unlimit_disk(&self, index: u8) -> io::Result<()> {
        self.ask(Request::UnlimitDisk(index), None)
    }

    /// Takes it out, and waits until the VMM has closed it. One that has ended has closed all.
    pub(crate) async fn detach_disk(&self, index: u8) -> io::Result<()> {
        let mut detached = self.detached.subscribe();
        if self.ask(Request::DetachDisk(index), None).is_err() {
            self.ended().await;
            return Ok(());
        }
        let closed = async {
            while detached.recv().await? != index {}
            Ok::<_, broadcast::error::RecvError>(())
        };
        tokio::select! {
            closed = timeout(DETACH_LIMIT, closed) => match closed {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
            _ = self.ended() => Ok(()),
        }
    }

    /// Saves the machine to an empty file; it stands still afterwards.
    pub(crate) async fn save(&self, to: &File) -> Result<(), SaveError> {
        let mut saved = self.saved.clone();
        saved.mark_unchanged();
        // What cannot be asked has ended.
        let _ = self.ask(Request::Save, Some(to.as_fd()));
        tokio::select! {
            Ok(()) = saved.changed() => match &*saved.borrow() {
                Some(Err(why)) => Err(SaveError::Refused(why.clone())),
                Some(Ok(())) | None => Ok(()),
            },
            end = self.ended() => Err(SaveError::Ended(end)),
        }
    }

    /// Which pages of what it goes on from its guest has touched; none where it does not say.
    pub(crate) async fn touched(&self) -> Option<Vec<PageRun>> {
        let mut touched = self.touched.clone();
        touched.mark_unchanged();
        self.ask(Request::TellTouched, None).ok()?;
        timeout(TOUCHED_LIMIT, touched.changed()).await.ok()?.ok()?;
        Some(touched.borrow().clone())
    }

    /// Lets it go on after that.
    pub(crate) fn resume(&self) -> io::Result<()> {
        self.ask(Request::Resume, None)
    }

    /// A line of a few bytes fits the socket or does not, as a whole.
    fn ask(&self, request: Request, with: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        let descriptors: Vec<RawFd> = with.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let with_it = if descriptors.is_empty() { &[][..] } else { &rights };
        let text = [IoSlice::new(&line)];
        sendmsg::<()>(self.control.as_raw_fd(), &text, with_it, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Asks the guest to have so many MiB beside those that it was booted with.
    pub(crate) fn resize_memory(&self, mib: u32) -> io::Result<()> {
        self.ask(Request::ResizeMemory(mib), None)
    }

    /// Lets so many vCPUs run. Nothing need wait for it: a guest that tells one of them to begin waits itself.
    pub(crate) fn allow_vcpus(&self, count: u8) -> io::Result<()> {
        self.ask(Request::AllowVcpus(count), None)
    }

    /// Answers when the guest has as much as it was asked to have; never, when the VMM ends before.
    pub(crate) async fn has_memory(&self, mib: u32) {
        let mut memory = self.memory.clone();
        let is_there = |now: &PluggedMemory| now.requested_mib == mib && now.plugged_mib >= mib;
        if memory.wait_for(is_there).await.is_err() {
            std::future::pending().await
        }
    }

    pub(crate) fn memory(&self) -> PluggedMemory {
        *self.memory.borrow()
    }

    /// Ends it at once; the cause will be the signal.
    pub(crate) fn kill(&self) {
        sys::kill(&self.pidfd);
    }

    /// Whether the host had no room for something that the guest wrote.
    pub(crate) fn disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    /// Answers when the VMM has ended, with the cause; may be asked by several and again.
    pub(crate) async fn ended(&self) -> End {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(end)) => end.clone(),
            // The task that watches is gone only with its runtime.
            _ => End::VmmKilled(Signal::SIGKILL as i32),
        }
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Root starts each VMM under ids of its own; others can only map themselves (user_namespaces(7)).
pub(crate) fn jail_identity() -> sys::Identity {
    if geteuid().is_root() {
        let id = FIRST_JAIL_ID + std::process::id() % 1_000_000;
        sys::Identity::Alone { uid: Uid::from_raw(id), gid: Gid::from_raw(id) }
    } else {
        sys::Identity::Alone { uid: geteuid(), gid: getegid() }
    }
}

/// Answers when the file server has ended in any way but by the VMM's leave; never when there is none.
async fn files_broken(files: Option<watch::Receiver<Option<FilesEnd>>>) -> FilesEnd {
    if let Some(mut files) = files {
        if let Ok(Some(end)) = files.wait_for(Option::is_some).await.as_deref() {
            if *end != FilesEnd::Left {
                return end.clone();
            }
        }
    }
    std::future::pending().await
}

/// Listens to the VMM until it is dead, then says why.
async fn watch(
    control: UnixStream,
    pidfd: Arc<OwnedFd>,
    console: JoinHandle<String>,
    said: &Said,
    files_broken: impl Future<Output = FilesEnd>,
) -> End {
    let mut files_broken = std::pin::pin!(files_broken);
    let last_event = tokio::select! {
        event = last_event(control, said) => event,
        end = &mut files_broken => {
            sys::kill(&pidfd);
            let _ = exit_of(&pidfd).await;
            return End::Files(end);
        }
    };
    // It has said its last word, or closed the socket, most likely by dying: either way it is at its end.
    sys::kill(&pidfd);
    let exit = exit_of(&pidfd).await.unwrap_or(ProcessExit::Signal(Signal::SIGKILL as i32));
    let console = console.await.unwrap_or_default();
    if let Some(Event::Failed(_)) = last_event {
        // A VMM that loses its file server says so before we hear of the loss.
        if let Ok(end) = timeout(FILES_GRACE, files_broken).await {
            return End::Files(end);
        }
    }
    End::of(Evidence { last_event, exit, console: &console })
}

/// Reads events until the last one or the end of the stream. A line that is no event counts as the end: the VMM is not to be
/// trusted once its guest runs.
async fn last_event(control: UnixStream, said: &Said) -> Option<Event> {
    let mut reader = BufReader::new(control);
    let mut last = None;
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(MAX_LINE_LEN as u64).read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            _ => return last,
        }
        match serde_json::from_slice(&line) {
            Ok(event @ (Event::Ended(_) | Event::Failed(_))) => return Some(event),
            Ok(Event::DiskFull(_)) => said.disk_full.store(true, Ordering::Relaxed),
            Ok(Event::Memory { plugged_mib, requested_mib }) => {
                said.memory.send_replace(PluggedMemory { plugged_mib, requested_mib });
            }
            Ok(Event::DiskDetached(index)) => drop(said.detached.send(index)),
            Ok(Event::Saved) => drop(said.saved.send_replace(Some(Ok(())))),
            Ok(Event::Touched(runs)) => drop(said.touched.send_replace(runs)),
            Ok(Event::NotSaved(why)) => drop(said.saved.send_replace(Some(Err(why)))),
            Ok(event @ Event::Running) => {
                said.running.get_or_init(Instant::now);
                last = Some(event);
            }
            Ok(
                event @ (Event::Paused
                | Event::Resumed
                | Event::NetAttached
                | Event::VcpusAllowed(_)
                | Event::DiskAttached(_)
                | Event::DiskUnlimited(_)),
            ) => last = Some(event),
            Err(_) => return last,
        }
    }
}

pub(crate) async fn exit_of(pidfd: &Arc<OwnedFd>) -> io::Result<ProcessExit> {
    // A pidfd becomes readable when its process ends (pidfd_open(2)).
    let readable = sys::watch(Arc::clone(pidfd))?;
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(ProcessExit::Code(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(ProcessExit::Signal(signal as i32)),
            Ok(_) | Err(Errno::EINTR) => readable.readable().await?.clear_ready(),
            Err(errno) => return Err(errno.into()),
        }
    }
}
