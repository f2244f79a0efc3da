//! Runs `securectr` as a user does.

use std::{
    env,
    ffi::OsStr,
    fmt,
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, Result};

use crate::{image, program};

/// What a finished program left.
pub struct Finished {
    /// As a shell would say it: 128 + the signal for a program that a signal ended.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Finished {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}, stdout {:?}, stderr {:?}", self.code, self.out(), self.err())
    }
}

/// A running program; its streams are collected meanwhile.
pub struct Started(Child);

/// `securectr` with a store that all tests share, so that each image is unpacked once.
pub fn securectr() -> Command {
    let mut command = Command::new(program("securectr"));
    command.arg("--store").arg(shared_store());
    command
}

fn shared_store() -> PathBuf {
    env::temp_dir().join("securectr-tests-store")
}

/// `securectr run` of the busybox image.
pub fn run<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Result<Finished> {
    run_in(&[], words)
}

/// The same with options before the image.
pub fn run_in<W: AsRef<OsStr>>(options: &[&str], words: impl IntoIterator<Item = W>) -> Result<Finished> {
    Started::spawn(securectr().arg("run").args(options).arg(image("busybox")).args(words))?.finish(b"")
}

impl Started {
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Ok(Self(child.with_context(|| format!("start {command:?}"))?))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal to the program, by name.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").arg("-s").arg(name).arg(self.pid().to_string()).status()?;
        anyhow::ensure!(status.success(), "kill -s {name}: {status}");
        Ok(())
    }

    pub fn write(&mut self, input: &[u8]) -> Result<()> {
        let stdin = self.0.stdin.as_mut().context("standard input")?;
        stdin.write_all(input).and_then(|()| stdin.flush()).context("write to the program")
    }

    /// Reads standard output until it has held `text`.
    pub fn wait_for_output(&mut self, text: &str) -> Result<()> {
        let stdout = self.0.stdout.as_mut().context("standard output")?;
        let mut seen = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&seen).contains(text) {
            anyhow::ensure!(
                stdout.read(&mut byte)? == 1,
                "no {text:?} in {:?}",
                String::from_utf8_lossy(&seen)
            );
            seen.extend(byte);
        }
        Ok(())
    }

    /// Writes all of the input, closes it, and collects what comes until the program ends.
    pub fn finish(mut self, input: &[u8]) -> Result<Finished> {
        let mut stdin = self.0.stdin.take().context("standard input")?;
        let input = input.to_vec();
        // The program may end without reading everything: a broken pipe is its right.
        let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
        let output = self.0.wait_with_output()?;
        let _ = feeder.join();
        use std::os::unix::process::ExitStatusExt;
        let code =
            output.status.code().or_else(|| Some(128 + output.status.signal()?)).context("exit status")?;
        Ok(Finished { code, stdout: output.stdout, stderr: output.stderr })
    }
}
