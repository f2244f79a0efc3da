//! The life of a container's process before its program: a copy of the agent that gives up one thing after the other.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::thread::{ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};

use super::{
    channel::ProcessEnd,
    credentials, devices,
    failure::{During, Failure},
    files, first, hooks,
    job::Work,
    mounts,
    root::{self, Kind, Root},
    rootfs::{self, RootfsPlan},
    sys,
    terminal::{self, Terminal},
    user,
};
use crate::{
    plan::{ContainerPlan, ProcessPlan},
    stdio::ProcessStreams,
    sys::exit,
};

/// Exit codes of a process whose program never ran, as a shell gives them.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
pub(super) const NOT_PREPARED: i32 = 125;

/// Where programs are looked for when the process has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A container's init.
pub(super) struct Init<'a> {
    pub id: &'a str,
    pub plan: &'a ContainerPlan,
    pub rootfs: &'a RootfsPlan,
    pub streams: ProcessStreams,
}

/// A further process of a container.
pub(super) struct Exec<'a> {
    pub plan: &'a ProcessPlan,
    /// In place of the plan's, to be looked up in the container.
    pub user: Option<&'a str>,
    /// A pidfd of the container's init.
    pub init: OwnedFd,
    pub streams: ProcessStreams,
}

/// Work of the agent's own, in the place of a further process.
pub(super) struct Worker<'a> {
    pub work: Work<'a>,
    pub streams: ProcessStreams,
}

impl Init<'_> {
    pub(super) fn live(self, channel: &ProcessEnd) -> ! {
        let process = &self.plan.process;
        let prepared = self.prepare();
        // Not by returning: what `self` owns is closed by then.
        if !stand_by(prepared, channel) {
            exit(NOT_PREPARED);
        }
        if !assume(process, channel, || hooks::run_all(&self.plan.hooks, self.id, process)) {
            exit(NOT_PREPARED);
        }
        exit(if self.plan.has_init {
            first::live(channel, || run(process, channel))
        } else {
            run(process, channel)
        })
    }

    fn prepare(&self) -> Result<Option<OwnedFd>, Failure> {
        let plan = self.plan;
        begin(&plan.process)?;
        enter_namespaces(plan)?;
        let root = rootfs::assemble(self.rootfs)?;
        let root_readonly = plan.root_readonly || self.rootfs.is_read_only();
        mounts::mount_all(&root, &plan.mounts)?;
        files::lay_all(&root, &self.rootfs.files, root_readonly)?;
        devices::make_all(&root, &plan.devices)?;
        let cwd = Path::new(std::ffi::OsStr::new(plan.process.cwd.to_str().unwrap_or("/")));
        root.find_or_make(cwd, Kind::Directory).during(|| format!("make the directory {}", cwd.display()))?;
        for (key, value) in &plan.sysctls {
            fs::write(format!("/proc/sys/{key}"), value).during(|| format!("set sysctl {key}"))?;
        }
        mounts::make_read_only(&root, &plan.readonly_paths)?;
        mounts::mask(&root, &plan.masked_paths)?;
        let terminal = open_terminal(&root, &plan.process)?;
        if let Some(terminal) = &terminal {
            mounts::bind_file(&terminal.slave, &root, "/dev/console", false)
                .during(|| "bind /dev/console".into())?;
        }
        set_names(plan)?;
        rootfs::enter(&root).during(|| "enter the root".into())?;
        rootfs::seal(&root, root_readonly, plan.propagation)?;
        take_streams(terminal, &self.streams)
    }
}

impl Exec<'_> {
    pub(super) fn live(self, channel: &ProcessEnd) -> ! {
        let mut plan = self.plan.clone();
        let prepared = self.prepare(&mut plan);
        if !stand_by(prepared, channel) || !assume(&plan, channel, || Ok(())) {
            exit(NOT_PREPARED);
        }
        exit(run(&plan, channel))
    }

    fn prepare(&self, plan: &mut ProcessPlan) -> Result<Option<OwnedFd>, Failure> {
        begin(plan)?;
        let all = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::CONTROL_GROUP;
        move_into_thread_name_spaces(self.init.as_fd(), all)
            .during(|| "enter the container's namespaces".into())?;
        let root = Root::new(root::guest("/").during(|| "open the container's root".into())?);
        if let Some(asked) = self.user {
            user::assign(plan, asked, &root)?;
            self.streams.give(plan.uid, plan.gid).during(|| "give the streams away".into())?;
        }
        let terminal = open_terminal(&root, plan)?;
        take_streams(terminal, &self.streams)
    }
}

impl Worker<'_> {
    pub(super) fn live(self, channel: &ProcessEnd) -> ! {
        let prepared = self.prepare();
        if !stand_by(prepared, channel) {
            exit(NOT_PREPARED);
        }
        channel.begun();
        let _ = sys::close_others(&mut []);
        exit(self.work.run())
    }

    fn prepare(&self) -> Result<Option<OwnedFd>, Failure> {
        rustix::process::umask(rustix::fs::Mode::empty());
        terminal::new_session().during(|| "make a session".into())?;
        self.work.enter()?;
        take_streams(None, &self.streams)
    }
}

/// While `/proc` is still the guest's.
fn begin(plan: &ProcessPlan) -> Result<(), Failure> {
    rustix::process::umask(rustix::fs::Mode::empty());
    terminal::new_session().during(|| "make a session".into())?;
    match plan.oom_score_adj {
        Some(score) => {
            fs::write("/proc/self/oom_score_adj", score.to_string()).during(|| "set oom_score_adj".into())
        }
        None => Ok(()),
    }
}

fn enter_namespaces(plan: &ContainerPlan) -> Result<(), Failure> {
    for joined in &plan.namespaces.joined {
        fs::File::open(&joined.path)
            .and_then(|file| Ok(move_into_link_name_space(file.as_fd(), Some(joined.kind))?))
            .during(|| format!("join the namespace {}", joined.path.display()))?;
    }
    if plan.namespaces.new_cgroup {
        sys::new_cgroup_namespace().during(|| "make a cgroup namespace".into())?;
    }
    Ok(())
}

fn open_terminal(root: &Root, plan: &ProcessPlan) -> Result<Option<Terminal>, Failure> {
    let Some(size) = plan.terminal else { return Ok(None) };
    terminal::open(root, size, plan.uid).map(Some).during(|| "open a terminal in /dev/pts".into())
}

fn set_names(plan: &ContainerPlan) -> Result<(), Failure> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes()).during(|| format!("set the host name {name}"))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes()).during(|| format!("set the domain name {name}"))?;
    }
    Ok(())
}

/// The terminal's master side goes to the agent.
fn take_streams(terminal: Option<Terminal>, streams: &ProcessStreams) -> Result<Option<OwnedFd>, Failure> {
    let taken = match (&terminal, streams) {
        (Some(terminal), _) => terminal::control(&terminal.slave),
        (None, ProcessStreams::Files(files)) => terminal::take_streams(files.each_ref()),
        (None, ProcessStreams::Terminal) => Err(io::ErrorKind::InvalidInput.into()),
    };
    taken.during(|| "take the streams".into())?;
    Ok(terminal.map(|terminal| terminal.master))
}

/// Reports, and waits for the word to go. Whether it came.
fn stand_by(prepared: Result<Option<OwnedFd>, Failure>, channel: &ProcessEnd) -> bool {
    let ready = prepared.and_then(|master| {
        let told = channel.close_others(master.as_ref()).and_then(|()| channel.ready(master));
        told.during(|| "report to the agent".into())
    });
    match ready {
        Ok(()) => channel.wait(),
        Err(failure) => {
            channel.failed(&failure.line());
            false
        }
    }
}

/// Does what comes first, and becomes who the program is to be. Whether it could.
fn assume(plan: &ProcessPlan, channel: &ProcessEnd, first: impl FnOnce() -> Result<(), Failure>) -> bool {
    sys::reset_signals();
    let assumed = first().and_then(|()| credentials::assume(plan));
    if let Err(failure) = &assumed {
        channel.failed(&failure.line());
    }
    assumed.is_ok()
}

/// Becomes the program. What it returns is the exit code of a process that did not.
fn run(plan: &ProcessPlan, channel: &ProcessEnd) -> i32 {
    let errno = execute(plan);
    channel.not_executed(errno, plan.args.first().map_or(b"", |program| program.to_bytes()));
    if errno == libc::ENOENT { NOT_FOUND } else { NOT_EXECUTABLE }
}

/// As execvp(3) looks for programs, in the container's own `PATH`. Returns only when it fails.
fn execute(plan: &ProcessPlan) -> i32 {
    let Some(name) = plan.args.first() else { return libc::ENOENT };
    if name.to_bytes().contains(&b'/') {
        return sys::execve(name, &plan.args, &plan.env);
    }
    let path = plan.env.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
    let mut errno = libc::ENOENT;
    for directory in path.unwrap_or(DEFAULT_PATH).split(|&byte| byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let Ok(candidate) = std::ffi::CString::new([directory, b"/", name.to_bytes()].concat()) else {
            continue;
        };
        match sys::execve(&candidate, &plan.args, &plan.env) {
            libc::ENOENT | libc::ENOTDIR => {}
            // Another directory may have one that can be executed.
            libc::EACCES => errno = libc::EACCES,
            other => return other,
        }
    }
    errno
}
