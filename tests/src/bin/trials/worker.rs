//! A process that has the file open in every way, and does with it what its parent says.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write, stdin, stdout},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::{FallocateFlags, copy_file_range, fallocate},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::{
    step::{Allocation, BLOCK_LEN, MAX_LEN, Step, Way, content},
    sys::{self, Mapping},
};

/// What follows a step: a line with this, then the bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub is_supported: bool,
    /// The file's, afterwards.
    pub file_len: u64,
    read_len: usize,
}

/// One, seen from its parent.
pub(crate) struct Worker {
    process: Child,
    steps: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    pub(crate) fn start(path: &Path) -> Result<Self> {
        let mut process = Command::new(env::current_exe()?)
            .arg("worker")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a worker")?;
        let steps = process.stdin.take().context("its standard input")?;
        let answers = BufReader::new(process.stdout.take().context("its standard output")?);
        Ok(Self { process, steps, answers })
    }

    pub(crate) fn perform(&mut self, step: &Step) -> Result<(Answer, Vec<u8>)> {
        let line = serde_json::to_string(step)? + "\n";
        self.steps.write_all(line.as_bytes()).context("tell a worker")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: Answer = serde_json::from_str(&line).context("a worker has gone")?;
        let mut bytes = vec![0; answer.read_len];
        self.answers.read_exact(&mut bytes)?;
        Ok((answer, bytes))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Until there are no more steps.
pub(crate) fn serve(path: &Path) -> Result<()> {
    let mut open = Open::new(path)?;
    for line in stdin().lines() {
        let step: Step = serde_json::from_str(&line?)?;
        let (is_supported, bytes) = match open.perform(&step) {
            Ok(bytes) => (true, bytes),
            Err(error) if error.downcast_ref() == Some(&Errno::OPNOTSUPP) => (false, Vec::new()),
            Err(error) => return Err(error.context(format!("{step:?}"))),
        };
        let file_len = open.buffered.metadata()?.len();
        let answer = Answer { is_supported, file_len, read_len: bytes.len() };
        let mut stdout = stdout().lock();
        writeln!(stdout, "{}", serde_json::to_string(&answer)?)?;
        stdout.write_all(&bytes)?;
        stdout.flush()?;
    }
    Ok(())
}

struct Open {
    path: PathBuf,
    buffered: File,
    direct: File,
    append: File,
    mapping: Mapping,
}

impl Open {
    fn new(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let buffered = options.open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            direct: options.clone().custom_flags(libc::O_DIRECT).open(path).context("open with O_DIRECT")?,
            append: OpenOptions::new().append(true).open(path).context("open with O_APPEND")?,
            mapping: Mapping::new(&buffered, MAX_LEN).context("map it")?,
            buffered,
        })
    }

    fn perform(&mut self, step: &Step) -> Result<Vec<u8>> {
        match *step {
            Step::Read { way, offset, len } => return self.read(way, offset, len),
            Step::Write { way, offset, len, seed, sync } => {
                self.write(way, offset, &content(seed, len))?;
                if sync && way == Way::Mapped {
                    self.mapping.sync()?;
                }
            }
            Step::Append { len, seed } => self.append.write_all(&content(seed, len))?,
            Step::Resize { len, by_path: true } => sys::truncate(&self.path, len as i64)?,
            Step::Resize { len, by_path: false } => self.buffered.set_len(len as u64)?,
            Step::Allocate { how, offset, len } => {
                fallocate(&self.buffered, flags(how), offset as u64, len as u64)?;
            }
            Step::Copy { from, to, len } => self.copy(from as u64, to as u64, len)?,
            Step::Sync { data_only: true } => self.buffered.sync_data()?,
            Step::Sync { data_only: false } => self.buffered.sync_all()?,
            Step::Reopen => *self = Self::new(&self.path)?,
        }
        Ok(Vec::new())
    }

    fn read(&self, way: Way, offset: usize, len: usize) -> Result<Vec<u8>> {
        let file = match way {
            Way::Mapped => return Ok(self.mapping.read(offset, len)),
            Way::Buffered => &self.buffered,
            Way::Direct => &self.direct,
        };
        let mut room = Aligned::new(len);
        let bytes = room.bytes(len)?;
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, (offset + filled) as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(bytes.get(..filled).unwrap_or_default().to_vec())
    }

    fn write(&self, way: Way, offset: usize, bytes: &[u8]) -> Result<()> {
        match way {
            Way::Mapped => self.mapping.write(offset, bytes),
            Way::Buffered => self.buffered.write_all_at(bytes, offset as u64)?,
            Way::Direct => {
                let mut room = Aligned::new(bytes.len());
                let aligned = room.bytes(bytes.len())?;
                aligned.copy_from_slice(bytes);
                let written = self.direct.write_at(aligned, offset as u64)?;
                ensure!(written == bytes.len(), "{written} bytes written of {}", bytes.len());
            }
        }
        Ok(())
    }

    fn copy(&self, mut from: u64, mut to: u64, len: usize) -> Result<()> {
        let mut copied = 0;
        while copied < len {
            match copy_file_range(
                &self.buffered,
                Some(&mut from),
                &self.buffered,
                Some(&mut to),
                len - copied,
            )? {
                0 => bail!("{copied} bytes copied of {len}"),
                more => copied += more,
            }
        }
        Ok(())
    }
}

fn flags(how: Allocation) -> FallocateFlags {
    match how {
        Allocation::Extend => FallocateFlags::empty(),
        Allocation::KeepSize => FallocateFlags::KEEP_SIZE,
        Allocation::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        Allocation::Zero => FallocateFlags::ZERO_RANGE,
        Allocation::ZeroKeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    }
}

/// Memory that O_DIRECT takes.
struct Aligned(Vec<u8>);

impl Aligned {
    fn new(len: usize) -> Self {
        Self(vec![0; len + BLOCK_LEN])
    }

    fn bytes(&mut self, len: usize) -> Result<&mut [u8]> {
        let begin = self.0.as_ptr().align_offset(BLOCK_LEN);
        self.0.get_mut(begin..begin + len).context("room")
    }
}
