//! Runs untrusted programs in microVMs of their own, and hands back what they wrote.
//!
//! ```no_run
//! use std::time::Duration;
//! use securectr_sdk::{Cause, Sandbox};
//!
//! let done = Sandbox::new("oci-archive:busybox.tar")
//!     .file("add.sh", "echo $((40 + 2)) | tee sum")
//!     .time(Duration::from_secs(10))
//!     .run(["sh", "add.sh"])?;
//! assert_eq!((done.cause, done.stdout.as_slice()), (Cause::Exit, b"42\n".as_slice()));
//! assert_eq!(done.files.read("sum", 1 << 20)?, b"42\n");
//! # Ok::<(), securectr_sdk::Error>(())
//! ```
//!
//! Each run is a `securectr run` of the installation, which needs no daemon and no root: the program that calls has no part of a machine
//! in its own process.

mod files;
mod outcome;

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use thiserror::Error;

pub use files::Files;
pub use outcome::{Cause, Outcome};

/// Where the files are in the container; it is the working directory, too.
pub const DIRECTORY: &str = "/work";

/// What a program may write where nothing is said, in bytes.
const OUTPUT_BYTES: u64 = 16 << 20;

#[derive(Debug, Error)]
pub enum Error {
    #[error("{operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("the file {path} has more than {limit_bytes} bytes")]
    TooLarge { path: PathBuf, limit_bytes: u64 },
    #[error("{0} is no path below the directory of files")]
    Path(PathBuf),
    #[error("run {program}")]
    Program { program: PathBuf, source: io::Error },
    /// In the words of `securectr`.
    #[error("run the sandbox: {0}")]
    Sandbox(String),
    #[error("understand how the sandbox ended")]
    Outcome(#[source] serde_json::Error),
}

/// A container to be, with nothing but its image and the files that are given: no network, and no access to this machine.
#[derive(Clone, Debug)]
pub struct Sandbox {
    image: String,
    program: PathBuf,
    store: Option<PathBuf>,
    environment: Vec<(String, String)>,
    files: Vec<(PathBuf, Vec<u8>)>,
    input: Vec<u8>,
    options: Vec<OsString>,
    output_bytes: u64,
}

/// What is left of a run.
#[derive(Debug)]
pub struct Done {
    /// As a shell tells it: 128 and the signal's number for what a signal ended.
    pub code: u8,
    pub cause: Cause,
    /// The cause in words, where there is more to say than the code does.
    pub message: Option<String>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub files: Files,
}

impl Sandbox {
    /// `image` as `securectr run` takes it: the name of an image of this machine, or `oci-archive:FILE` and the like.
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            program: "securectr".into(),
            store: None,
            environment: Vec::new(),
            files: Vec::new(),
            input: Vec::new(),
            options: Vec::new(),
            output_bytes: OUTPUT_BYTES,
        }
    }

    /// The program `securectr`, where it is not found in `PATH`.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Where images are kept, if not where `securectr` keeps them for this user.
    pub fn store(mut self, store: impl Into<PathBuf>) -> Self {
        self.store = Some(store.into());
        self
    }

    /// A file that the program finds in [`DIRECTORY`], by a path below it.
    pub fn file(mut self, path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), content.into()));
        self
    }

    pub fn environment(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// What it reads from standard input.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// It is killed when it has run for so long; whole seconds, at least one.
    pub fn time(self, limit: Duration) -> Self {
        self.option("--timeout", seconds(limit))
    }

    /// It is killed when its machine has used so much of the CPUs; whole seconds, at least one.
    pub fn cpu_time(self, limit: Duration) -> Self {
        self.option("--cpu-seconds", seconds(limit))
    }

    /// Processes are killed when they need more.
    pub fn memory_bytes(self, limit: u64) -> Self {
        self.option("--memory", limit.to_string())
    }

    pub fn cpus(self, count: f64) -> Self {
        self.option("--cpus", count.to_string())
    }

    pub fn processes(self, limit: u64) -> Self {
        self.option("--pids-limit", limit.to_string())
    }

    /// The size of its own disk.
    pub fn disk_bytes(self, size: u64) -> Self {
        self.option("--disk", size.to_string())
    }

    /// It is killed when it has written so much to standard output and errors together; 16 MiB where nothing is said.
    pub fn output_bytes(mut self, limit: u64) -> Self {
        self.output_bytes = limit.max(1);
        self
    }

    fn option(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.options.extend([name.into(), value.into()]);
        self
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When no program ran: how a program ends is no error.
    pub fn run<W: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = W>) -> Result<Done, Error> {
        let files = Files::with(&self.files)?;
        let notes =
            tempfile::tempdir().map_err(file_error("make a directory for the outcome in", Path::new("")))?;
        let path = notes.path().join("outcome.json");
        let mut child = self
            .command(&files, &path)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Program { program: self.program.clone(), source })?;
        let (stdin, input) = (child.stdin.take(), self.input.clone());
        // The program may end without reading everything.
        let feeder = thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
        let output = child
            .wait_with_output()
            .map_err(|source| Error::Program { program: self.program.clone(), source })?;
        let _ = feeder.join();
        let json = std::fs::read(&path).map_err(|_| {
            let words = String::from_utf8_lossy(&output.stderr);
            Error::Sandbox(words.trim().to_owned())
        })?;
        let Outcome { code, cause, message } = serde_json::from_slice(&json).map_err(Error::Outcome)?;
        if cause == Cause::Failed {
            return Err(Error::Sandbox(message.unwrap_or_default()));
        }
        Ok(Done { code, cause, message, stdout: output.stdout, stderr: output.stderr, files })
    }

    fn command(&self, files: &Files, outcome: &Path) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(store) = &self.store {
            command.arg("--store").arg(store);
        }
        command.args(["run", "--interactive", "--workdir", DIRECTORY]).arg("--outcome").arg(outcome);
        let mut mount = OsString::from("type=bind,target=");
        mount.push(DIRECTORY);
        mount.push(",source=");
        mount.push(files.path());
        command.arg("--mount").arg(mount);
        command.arg("--output-limit").arg(self.output_bytes.to_string()).args(&self.options);
        for (name, value) in &self.environment {
            command.arg("--env").arg(format!("{name}={value}"));
        }
        command.arg(&self.image);
        command
    }
}

/// Rounded up.
fn seconds(limit: Duration) -> String {
    let whole = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
    whole.max(1).to_string()
}

fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_becomes_options() {
        let files = Files::with(&[]).unwrap();
        let sandbox = Sandbox::new("box")
            .program("/bin/securectr")
            .store("/s")
            .time(Duration::from_millis(1500))
            .memory_bytes(1 << 20)
            .environment("A", "1");
        let command = sandbox.command(&files, Path::new("/o"));
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let line = words.join(" ").replace(&files.path().display().to_string(), "DIR");
        assert_eq!(
            line,
            "--store /s run --interactive --workdir /work --outcome /o --mount type=bind,target=/work,source=DIR \
             --output-limit 16777216 --timeout 2 --memory 1048576 --env A=1 box"
        );
    }

    #[test]
    fn what_cannot_be_run_is_an_error_in_its_words() {
        let refusing = tempfile::tempdir().unwrap();
        let program = refusing.path().join("securectr");
        std::fs::write(&program, "#!/bin/sh\necho no such image >&2; exit 125\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let error = Sandbox::new("box").program(&program).run(["true"]).unwrap_err();
        assert_eq!(error.to_string(), "run the sandbox: no such image");
        assert!(matches!(Sandbox::new("box").program("/no/such").run(["true"]), Err(Error::Program { .. })));
    }
}
