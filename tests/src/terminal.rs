//! A program in a terminal: a person who types and looks at the screen.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// How long the screen may stay without what is looked for.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Terminal {
    master: File,
    child: Child,
    output: Receiver<Vec<u8>>,
    /// What has been shown and not yet been asked about.
    screen: String,
}

impl Terminal {
    /// Starts a program in a session of its own, with a terminal of the given size as its standard streams.
    pub fn spawn(program: &Command, columns: u16, rows: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        tcsetwinsize(&master, winsize(columns, rows))?;
        let slave = open(ptsname(&master, Vec::new())?, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(program.get_program()).args(program.get_args());
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = command.spawn().context("start setsid")?;
        // Our copies of the slave would keep the terminal open beyond the program.
        drop(command);
        let (sender, output) = channel();
        let mut reader = File::from(master.try_clone()?);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The master answers with an error when the last slave is closed.
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer.get(..length).unwrap_or_default().to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { master: master.into(), child, output, screen: String::new() })
    }

    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        self.master.write_all(keys.as_bytes()).context("type")
    }

    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        tcsetwinsize(&self.master, winsize(columns, rows)).context("resize")
    }

    /// Waits until the text is shown; what was shown before it counts as seen.
    pub fn expect(&mut self, text: &str) -> Result<()> {
        loop {
            if let Some(at) = self.screen.find(text) {
                self.screen.drain(..at + text.len());
                return Ok(());
            }
            match self.output.recv_timeout(PATIENCE) {
                Ok(bytes) => self.screen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no {text:?} within {PATIENCE:?} in {:?}", self.screen)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("no {text:?} before the end in {:?}", self.screen)
                }
            }
        }
    }

    /// Waits for the end and answers with the exit code.
    pub fn finish(mut self) -> Result<i32> {
        self.child.wait()?.code().context("ended by a signal")
    }
}

fn winsize(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}
