//! QEMU's command line, its process, and the channels into the emulated machine.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::programs;

/// `no_timer_check`: under load the kernel may otherwise take a late timer for a broken one, and panic.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=5 panic=-1 no_timer_check";

/// An AMD processor, because TCG emulates nested SVM but not VMX. Without `erms` and `fsrm` the kernel does not copy with
/// string instructions, of which TCG counts each byte as one instruction.
const CPU: &str = "EPYC-Milan,+svm,+npt,-erms,-fsrm";

const STOP_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Machine {
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u8,
    /// Virtual time counts instructions: a nanosecond each.
    pub(crate) icount: bool,
    pub(crate) shares: Vec<PathBuf>,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: OwnedFd,
    /// The machine gets the caller's terminal as `hvc0`.
    pub(crate) terminal: bool,
}

/// A running QEMU, which ends with this process however that ends.
pub(crate) struct Qemu {
    child: Child,
}

/// The caller's ends. Each reads as ended once QEMU is gone.
pub(crate) struct Channels {
    pub(crate) control: UnixStream,
    pub(crate) stdout: UnixStream,
    pub(crate) stderr: UnixStream,
    /// The serial console, and what QEMU itself says.
    pub(crate) console: UnixStream,
}

impl Machine {
    pub(crate) fn boot(&self) -> Result<(Qemu, Channels)> {
        let (control, control_end) = channel()?;
        let (stdout, stdout_end) = channel()?;
        let (stderr, stderr_end) = channel()?;
        let (console, console_end) = channel()?;
        let mut command = isolated()?;
        command.args(self.args()?);
        command.args(["-serial", "chardev:console"]);
        command.args(["-device", "virtio-serial-pci"]);
        command.args(socket("console", &console_end));
        for (name, end) in [("control", &control_end), ("stdout", &stdout_end), ("stderr", &stderr_end)] {
            command.args(socket(name, end));
            command.args(["-device", &format!("virtserialport,chardev={name},name={name}")]);
        }
        if self.terminal {
            // QEMU makes the terminal raw, passes on what Ctrl-C sends, and puts it back at its end.
            command.args(["-chardev", "stdio,id=terminal,signal=off"]);
            command.args(["-device", "virtconsole,chardev=terminal,name=terminal"]);
        } else {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        command.stderr(OwnedFd::from(console_end.try_clone().context("share the console")?));
        let child = command.spawn().context("start QEMU")?;
        Ok((Qemu { child }, Channels { control, stdout, stderr, console }))
    }

    fn args(&self) -> Result<Vec<OsString>> {
        let accelerator =
            if self.icount { "tcg,thread=single,tb-size=1024" } else { "tcg,thread=multi,tb-size=1024" };
        let mut args: Vec<OsString> =
            ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-accel", accelerator]
                .map(OsString::from)
                .to_vec();
        let options = [
            ("-cpu", CPU.to_owned()),
            ("-smp", self.cpus.to_string()),
            ("-m", self.memory_mib.to_string()),
            ("-initrd", format!("/proc/self/fd/{}", self.initrd.as_raw_fd())),
            ("-append", KERNEL_COMMAND_LINE.to_owned()),
        ];
        args.extend(options.into_iter().flat_map(|(name, value)| [OsString::from(name), value.into()]));
        args.extend(["-kernel".into(), self.kernel.clone().into_os_string()]);
        if self.icount {
            args.extend(["-icount", "shift=0"].map(OsString::from));
        }
        args.extend(nine_p("machine", OsStr::new("/"), ",readonly=on"));
        for (index, dir) in self.shares.iter().enumerate() {
            args.extend(nine_p(&format!("share{index}"), dir.as_os_str(), ""));
        }
        Ok(args)
    }
}

/// QEMU with a death signal, and where the caller may make one, in a mount namespace of its own: its 9p server would
/// otherwise see file systems come and go while the machine has their files open.
fn isolated() -> Result<Command> {
    let unshare = programs::find("unshare")?;
    let may_unshare = Command::new(&unshare)
        .args(["--mount", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let mut command = Command::new(programs::find("setpriv")?);
    command.args(["--pdeathsig", "KILL", "--"]);
    if may_unshare {
        command.arg(unshare).args(["--mount", "--"]);
    }
    command.arg(programs::find("qemu-system-x86_64")?);
    Ok(command)
}

/// A connected pair, whose second end a child process inherits.
fn channel() -> Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair().context("create a channel to QEMU")?;
    fcntl(theirs.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).context("let QEMU inherit a channel")?;
    Ok((ours, theirs))
}

fn socket(id: &str, end: &UnixStream) -> [String; 2] {
    let fd: RawFd = end.as_raw_fd();
    ["-chardev".to_owned(), format!("socket,id={id},fd={fd}")]
}

fn nine_p(tag: &str, dir: &OsStr, more: &str) -> [OsString; 2] {
    let mut value =
        OsString::from(format!("local,mount_tag={tag},security_model=none,multidevs=remap{more},path="));
    value.push(escaped(dir));
    ["-virtfs".into(), value]
}

/// A comma within an option's value is written twice.
fn escaped(value: &OsStr) -> OsString {
    let bytes =
        value.as_bytes().iter().flat_map(|&byte| std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 }));
    OsString::from_vec(bytes.collect())
}

impl Qemu {
    /// Lets QEMU put the terminal back, and kills it when it takes too long about it.
    pub(crate) fn stop(mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait().context("wait for QEMU")? {
            return Ok(status);
        }
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("QEMU's process id")?);
        kill(pid, Signal::SIGTERM).context("stop QEMU")?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("wait for QEMU")? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.child.kill().context("kill QEMU")?;
        self.child.wait().context("wait for QEMU")
    }
}
