//! The VMM's parent, as far as tests need one.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, IoSlice, Read, Seek, SeekFrom, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::FileExt,
            net::{UnixListener, UnixStream},
        },
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use securectr_vmm::{
    control::{Event, Request},
    spec::{DiskSpec, Expected, Fd, Start, VmSpec, VsockSpec},
};

/// Far more than anything here takes, in an emulated host too.
const PATIENCE: Duration = Duration::from_secs(120);

/// A VMM's descriptors are inheritable while it is started, so that only one may be started at a time.
static STARTING: Mutex<()> = Mutex::new(());

/// What a test may choose.
pub(crate) struct Setup {
    pub kernel: File,
    pub initramfs: File,
    pub command_line: String,
    pub memory_mib: u32,
    pub hotplug_mib: u32,
    pub vcpu_count: u8,
    /// Without a number all run.
    pub allowed_vcpu_count: Option<u8>,
    pub disks: Vec<File>,
    /// Behind those.
    pub empty_disks: usize,
    /// It goes on where this one was saved: kernel, initramfs and command line are of no use then.
    pub restored: Option<Saved>,
    /// Start it in a user and a pid namespace of its own, as it demands.
    pub namespaces: bool,
}

/// A machine on its way through a file without a name.
pub(crate) struct Saved {
    pub file: File,
    memory_len: u64,
}

impl Saved {
    pub(crate) fn new(memory_mib: u32) -> Self {
        Self { file: tempfile::tempfile().unwrap(), memory_len: u64::from(memory_mib) << 20 }
    }

    /// The same, opened once more.
    pub(crate) fn again(&self) -> Self {
        let file = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd())).unwrap();
        Self { file, memory_len: self.memory_len }
    }

    pub(crate) fn state(&self) -> serde_json::Value {
        let mut file = &self.again().file;
        file.seek(SeekFrom::Start(self.memory_len)).unwrap();
        serde_json::from_reader(file).unwrap()
    }

    /// The same memory with another state, which is that of all from now on.
    pub(crate) fn with_state(&self, state: &[u8]) -> Self {
        self.file.set_len(self.memory_len).unwrap();
        self.file.write_all_at(state, self.memory_len).unwrap();
        self.again()
    }
}

impl Setup {
    pub(crate) fn new(kernel: File) -> Self {
        Self {
            kernel,
            initramfs: super::guest::temporary(b"initramfs"),
            command_line: String::new(),
            memory_mib: 64,
            hotplug_mib: 0,
            vcpu_count: 1,
            allowed_vcpu_count: None,
            disks: Vec::new(),
            empty_disks: 0,
            restored: None,
            namespaces: true,
        }
    }

    pub(crate) fn start(self) -> Vm {
        let (control, vmm_control) = UnixStream::pair().unwrap();
        let (console, vmm_console) = rustix::pipe::pipe().unwrap();
        let vsock = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(vsock.path().join("vsock")).unwrap();
        let kvm = File::options().read(true).write(true).open("/dev/kvm").expect("these tests need KVM");

        let starting = STARTING.lock().unwrap();
        let mut table = Table::default();
        let spec = VmSpec {
            kvm: table.lay(&kvm),
            start: match &self.restored {
                Some(saved) => Start::Restore { saved: table.lay(&saved.file), expected: Expected::Unknown },
                None => Start::Boot {
                    kernel: table.lay(&self.kernel),
                    initramfs: table.lay(&self.initramfs),
                    command_line: self.command_line,
                },
            },
            memory_mib: self.memory_mib,
            hotplug_mib: self.hotplug_mib,
            vcpu_count: self.vcpu_count,
            allowed_vcpu_count: self.allowed_vcpu_count.unwrap_or(self.vcpu_count),
            console: table.lay(&vmm_console),
            disks: self
                .disks
                .iter()
                .map(|file| DiskSpec { file: Some(table.lay(file)), read_only: false, limits: None })
                .chain((0..self.empty_disks).map(|_| DiskSpec { file: None, read_only: false, limits: None }))
                .collect(),
            nets: Vec::new(),
            filesystems: Vec::new(),
            vsock: VsockSpec { listener: table.lay(&listener), dial_out: Vec::new() },
        };
        let launcher = command(self.namespaces)
            .stdin(OwnedFd::from(vmm_control))
            .stdout(vmm_console.try_clone().unwrap())
            .stderr(vmm_console)
            .spawn()
            .unwrap();
        drop(table);
        drop(starting);

        let mut vm = Vm { launcher, events: BufReader::new(control), console: Console::drain(console) };
        vm.events.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        vm.write(&spec);
        vm
    }
}

/// The control socket comes as standard input and goes where the VMM expects it.
fn command(namespaces: bool) -> Command {
    let unshare = "unshare --user --map-root-user --pid --fork --kill-child";
    let wrapper = if namespaces { unshare } else { "" };
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("exec {wrapper} \"$0\" 3<&0 0</dev/null"))
        .arg(env!("CARGO_BIN_EXE_securectr-vmm"))
        .stdin(Stdio::null());
    command
}

/// Inheritable copies, by the numbers that the VMM finds them under.
#[derive(Default)]
struct Table(Vec<OwnedFd>);

impl Table {
    fn lay(&mut self, fd: &impl AsFd) -> Fd {
        let mut copy = rustix::io::dup(fd).unwrap();
        // Numbers that mean something else to the VMM are left to the others.
        while copy.as_raw_fd() <= 3 {
            self.0.push(copy);
            copy = rustix::io::dup(fd).unwrap();
        }
        let number = Fd(copy.as_raw_fd());
        self.0.push(copy);
        number
    }
}

/// A started VMM.
pub(crate) struct Vm {
    launcher: Child,
    events: BufReader<UnixStream>,
    pub(crate) console: Console,
}

impl Vm {
    pub(crate) fn event(&mut self) -> Event {
        let mut line = String::new();
        self.events.read_line(&mut line).unwrap();
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{error}: {line:?}; console: {}", self.console.text()))
    }

    /// Checks that the machine runs, and goes on to the next event.
    pub(crate) fn event_after_running(&mut self) -> Event {
        assert_eq!(self.event(), Event::Running);
        self.event()
    }

    pub(crate) fn ask(&mut self, request: Request) -> Event {
        self.write(&request);
        self.event()
    }

    /// The same, with a descriptor.
    pub(crate) fn give(&mut self, request: Request, fd: &impl AsFd) -> Event {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with_it = SendAncillaryBuffer::new(&mut space);
        let fds = [fd.as_fd()];
        assert!(with_it.push(SendAncillaryMessage::ScmRights(&fds)));
        let line = line(&request);
        sendmsg(self.events.get_ref(), &[IoSlice::new(&line)], &mut with_it, SendFlags::empty()).unwrap();
        self.event()
    }

    fn write(&mut self, document: &impl serde::Serialize) {
        self.events.get_mut().write_all(&line(document)).unwrap();
    }

    /// The VMM's process, seen from here.
    pub(crate) fn pid(&self) -> u32 {
        let launcher = self.launcher.id();
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    pub(crate) fn kill_launcher(&mut self) {
        self.launcher.kill().unwrap();
    }

    /// Closes the control socket and waits for the process's end.
    pub(crate) fn leave(self) -> (ExitStatus, Duration) {
        let Self { mut launcher, events, .. } = self;
        drop(events);
        let since = Instant::now();
        (launcher.wait().unwrap(), since.elapsed())
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.launcher.wait().unwrap()
    }
}

fn line(document: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(document).unwrap();
    line.push(b'\n');
    line
}

/// What the guest and the VMM have written.
pub(crate) struct Console {
    received: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Console {
    fn drain(pipe: OwnedFd) -> Self {
        let mut pipe = File::from(pipe);
        let received = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&received);
        let reader = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(len @ 1..) = pipe.read(&mut chunk) {
                sink.lock().unwrap().extend_from_slice(&chunk[..len]);
            }
        });
        Self { received, reader: Some(reader) }
    }

    pub(crate) fn len(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }

    /// All of it, when the VMM has ended.
    pub(crate) fn whole_text(&mut self) -> String {
        self.reader.take().map(JoinHandle::join);
        self.text()
    }

    /// Waits until this is in it.
    pub(crate) fn wait_for(&self, words: &str) {
        let since = Instant::now();
        while !self.text().contains(words) {
            assert!(since.elapsed() < PATIENCE, "no {words:?}: {}", self.text());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until there is more than this.
    pub(crate) fn wait_for_more(&self, than: usize) {
        let since = Instant::now();
        while self.len() <= than {
            assert!(since.elapsed() < PATIENCE, "the guest is silent: {}", self.text());
            thread::sleep(Duration::from_millis(10));
        }
    }
}
