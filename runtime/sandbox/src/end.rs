//! Why a sandbox ended: one true cause, found from what the VMM said, how it died, and the guest's last words.

use std::fmt;

use securectr_vmm::control;

use crate::files::FilesEnd;

/// The one cause for the end of a sandbox that was not asked to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest's kernel panicked; its own words.
    Panic(String),
    /// The agent could not go on; its own words.
    Agent(String),
    /// The guest reset itself and said nothing.
    Reset,
    /// The guest's CPU gave up.
    TripleFault,
    /// KVM could not run the guest.
    Kvm(String),
    /// The guest drove a device against its specification.
    DeviceAbuse(String),
    /// The VMM could not go on; its chain of causes.
    VmmFailed(String),
    /// A signal ended the VMM.
    VmmKilled(i32),
    /// The VMM exited and said nothing.
    VmmExited(i32),
    /// The file server ended while the guest needed it.
    Files(FilesEnd),
    /// The program securectr-vmm could not be executed.
    VmmNotExecuted(String),
}

/// How the VMM's process ended, and the last thing it said.
pub(crate) struct Evidence<'a> {
    pub last_event: Option<control::Event>,
    pub exit: ProcessExit,
    pub console: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessExit {
    Code(i32),
    Signal(i32),
}

impl End {
    pub(crate) fn of(evidence: Evidence<'_>) -> Self {
        use control::Event;
        match (evidence.last_event, evidence.exit) {
            (Some(Event::Failed(text)), _) => Self::VmmFailed(text),
            (Some(Event::Ended(end)), _) => Self::of_guest(end, evidence.console),
            (_, ProcessExit::Signal(signal)) => Self::VmmKilled(signal),
            // Before its first event a non-zero code is the errno of execve: see `sys::launch`.
            (None, ProcessExit::Code(code)) if code != 0 => {
                Self::VmmNotExecuted(std::io::Error::from_raw_os_error(code).to_string())
            }
            (_, ProcessExit::Code(code)) => Self::VmmExited(code),
        }
    }

    fn of_guest(end: control::End, console: &str) -> Self {
        // An agent that dies takes the kernel with it: its own words come first and say more.
        let agent = console.lines().rev().find_map(|line| after(line, "securectr-agent: "));
        let panic = console.lines().rev().find_map(|line| after(line, "Kernel panic - not syncing: "));
        match (end, agent, panic) {
            (_, Some(words), _) => Self::Agent(words),
            (_, None, Some(words)) => Self::Panic(words + &stumble(console)),
            (control::End::Reset, None, None) => Self::Reset,
            (control::End::TripleFault, None, None) => Self::TripleFault,
            (control::End::KvmError(text), None, None) => Self::Kvm(text),
            (control::End::DeviceAbuse(text), None, None) => Self::DeviceAbuse(text),
        }
    }
}

/// What a kernel has said before a panic of the fault that led to it, and where in its code that was.
fn stumble(console: &str) -> String {
    let first = |marker: &str| {
        let words = console.lines().find_map(|line| after(line, marker))?;
        Some(format!("{marker}{words}"))
    };
    let said: Vec<_> =
        [first("BUG: ").or_else(|| first("Oops: ")), first("RIP: 0010:")].into_iter().flatten().collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}

/// What follows a marker in a line of a hostile console: printable, and short enough for one line.
fn after(line: &str, marker: &str) -> Option<String> {
    let (_, words) = line.split_once(marker)?;
    Some(words.chars().filter(|c| !c.is_control()).take(200).collect())
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic(words) => write!(f, "the guest kernel panicked: {words}"),
            Self::Agent(words) => write!(f, "the agent in the guest failed: {words}"),
            Self::Reset => f.write_str("the guest reset itself"),
            Self::TripleFault => f.write_str("the guest's CPU gave up (triple fault)"),
            Self::Kvm(text) => write!(f, "KVM could not run the guest: {text}"),
            Self::DeviceAbuse(text) => write!(f, "the guest abused a device: {text}"),
            Self::VmmFailed(text) => write!(f, "the virtual machine monitor failed: {text}"),
            Self::VmmKilled(signal) => write!(f, "the virtual machine monitor was ended by signal {signal}"),
            Self::VmmExited(code) => write!(f, "the virtual machine monitor exited with code {code}"),
            Self::Files(end) => end.fmt(f),
            Self::VmmNotExecuted(reason) => write!(f, "securectr-vmm could not be executed: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset(console: &str) -> End {
        let last_event = Some(control::Event::Ended(control::End::Reset));
        End::of(Evidence { last_event, exit: ProcessExit::Code(0), console })
    }

    #[test]
    fn a_panic_is_told_in_the_kernels_words() {
        let console = "[    0.1] x\n[    0.2] Kernel panic - not syncing: VFS: no init\n[    0.3] rebooting";
        assert_eq!(reset(console).to_string(), "the guest kernel panicked: VFS: no init");
    }

    #[test]
    fn a_fault_is_told_with_its_place() {
        let console = "[ 1.0] Oops: general protection fault: 0000 [#1] SMP\n[ 1.1] CPU: 0\n[ 1.2] RIP: 0010:tick+0x1/0x2\n\
                       [ 1.3] RIP: 0010:other+0x1/0x2\n[ 1.4] Kernel panic - not syncing: Fatal exception in interrupt";
        let told = "Fatal exception in interrupt (Oops: general protection fault: 0000 [#1] SMP, RIP: 0010:tick+0x1/0x2)";
        assert_eq!(reset(console), End::Panic(told.into()));
    }

    #[test]
    fn the_agents_words_outrank_the_panic_that_follows() {
        let console =
            "securectr-agent: mount /proc: EINVAL\nKernel panic - not syncing: Attempted to kill init!";
        assert_eq!(reset(console), End::Agent("mount /proc: EINVAL".into()));
    }

    #[test]
    fn a_console_cannot_write_to_the_users_terminal() {
        let console = format!("Kernel panic - not syncing: \x1b]0;x\x07{}", "y".repeat(1000));
        let End::Panic(words) = reset(&console) else { panic!() };
        assert!(words.len() == 200 && !words.contains('\x1b'));
    }

    #[test]
    fn a_killed_vmm_is_told_by_its_signal() {
        let evidence = Evidence {
            last_event: Some(control::Event::Running),
            exit: ProcessExit::Signal(9),
            console: "Kernel panic - not syncing: a lie",
        };
        assert_eq!(End::of(evidence), End::VmmKilled(9));
    }

    #[test]
    fn a_vmm_that_cannot_be_executed_is_told_by_errno() {
        let evidence = Evidence { last_event: None, exit: ProcessExit::Code(2), console: "" };
        assert!(End::of(evidence).to_string().ends_with("executed: No such file or directory (os error 2)"));
    }
}
