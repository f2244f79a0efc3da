//! The emulated machine's serial console and QEMU's own messages: kept in memory, shown when something went wrong.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

const KEPT_BYTES: usize = 64 * 1024;
const SHOWN_LINES: usize = 30;
const PANIC: &str = "Kernel panic - not syncing: ";
/// QEMU names each feature of the processor that it leaves out, for each CPU.
const NOISE: &str = "warning: TCG doesn't support requested feature";

pub(crate) struct Console {
    reader: JoinHandle<Vec<u8>>,
}

impl Console {
    /// Reads until the machine is gone; `verbose` shows it all as it comes.
    pub(crate) fn read(mut stream: UnixStream, verbose: bool) -> Self {
        let reader = thread::spawn(move || {
            let mut kept = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                let new = buffer.get(..count).unwrap_or_default();
                if verbose {
                    // Losing the console's echo is no reason to lose the job.
                    let _ = io::stderr().write_all(new);
                }
                kept.extend_from_slice(new);
                let surplus = kept.len().saturating_sub(KEPT_BYTES);
                kept.drain(..surplus);
            }
            kept
        });
        Self { reader }
    }

    pub(crate) fn tail(self) -> Tail {
        let kept = self.reader.join().unwrap_or_default();
        Tail(String::from_utf8_lossy(&kept).replace('\r', ""))
    }
}

/// The end of what the console said.
pub(crate) struct Tail(String);

impl Tail {
    /// The last lines; of a panic those that led to it, not the call trace that follows.
    pub(crate) fn lines(&self) -> String {
        let lines: Vec<&str> = self.0.lines().filter(|line| !line.contains(NOISE)).collect();
        let end = lines.iter().position(|line| line.contains(PANIC)).map_or(lines.len(), |index| index + 1);
        let shown = lines.get(end.saturating_sub(SHOWN_LINES)..end).unwrap_or_default();
        shown.join("\n")
    }

    /// The reason for a panic, as the kernel gives it.
    pub(crate) fn panic(&self) -> Option<&str> {
        let (_, reason) = self.0.split_once(PANIC)?;
        reason.lines().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_bounded_and_ends_with_the_newest_line() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let console = Console::read(reader, false);
        for number in 0..20_000 {
            writeln!(writer, "line {number}\r").unwrap();
        }
        drop(writer);
        let tail = console.tail();
        assert!(tail.0.len() <= KEPT_BYTES);
        assert_eq!(tail.lines().lines().count(), SHOWN_LINES);
        assert!(tail.lines().ends_with("line 19999"));
    }

    #[test]
    fn a_panic_is_recognized_by_its_reason() {
        let tail =
            Tail("[ 1.0] Kernel panic - not syncing: Attempted to kill init!\n[ 1.1] CPU: 0".to_owned());
        assert_eq!(tail.panic(), Some("Attempted to kill init!"));
        assert_eq!(Tail("all well".to_owned()).panic(), None);
    }
}
