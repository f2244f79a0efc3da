//! What a container has written, a line of JSON for each of its lines, as in Docker's json-file: `log`, `stream` and `time`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::args::Logs;
use crate::{
    container::{OfRun, Place, Status},
    streams::Sink,
};

/// A line that is longer is told in pieces, in bytes.
const PIECE_LEN: usize = 16 * 1024;

/// How often who follows looks for more.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    log: String,
    stream: String,
    /// RFC 3339.
    time: String,
}

fn path(place: &Place) -> PathBuf {
    place.path().join("log.jsonl")
}

/// Shared by a container's streams.
#[derive(Clone)]
pub(super) struct Log(Arc<Mutex<File>>);

impl Log {
    /// Goes on with what is there.
    pub(super) fn open(place: &Place) -> Result<Self> {
        let path = path(place);
        let file = File::options().append(true).create(true).open(&path);
        Ok(Self(Arc::new(Mutex::new(file.with_context(|| format!("open {}", path.display()))?))))
    }

    pub(super) fn sink(&self, stream: &'static str) -> Sink {
        Box::new(Stream { log: self.clone(), name: stream, line: Vec::new() })
    }
}

struct Stream {
    log: Log,
    name: &'static str,
    /// What has come of a line whose end has not.
    line: Vec<u8>,
}

impl Stream {
    fn end_line(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        let entry = Entry {
            log: String::from_utf8_lossy(&self.line).into_owned(),
            stream: self.name.to_owned(),
            time: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        };
        self.line.clear();
        let mut json = serde_json::to_vec(&entry)?;
        json.push(b'\n');
        self.log.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&json)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n').flat_map(|line| line.chunks(PIECE_LEN)) {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= PIECE_LEN {
                self.end_line()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.end_line();
    }
}

/// `logs`: what there is, and what comes as long as the container runs.
pub(super) fn show(listed: &OfRun, logs: &Logs) -> Result<u8> {
    if listed.kept.is_in_foreground {
        bail!("container {} runs in the foreground of another process: its output is not kept", logs.name);
    }
    let place = listed.located.place()?;
    let path = path(&place);
    let mut reader = Reader::open(&path)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        entries.push(entry);
    }
    let wanted = entries.iter().filter(|entry| logs.has(&entry.time));
    let wanted: Vec<_> = wanted.collect();
    let first = logs.tail.map_or(0, |tail| wanted.len().saturating_sub(tail));
    wanted.iter().skip(first).try_for_each(|entry| print(entry, logs))?;
    if !logs.follow {
        return Ok(0);
    }
    loop {
        // Looked at before the rest is read, which then is all.
        let is_over = place.read().map_or(true, |record| record.status == Status::Stopped);
        while let Some(entry) = reader.next()? {
            print(&entry, logs)?;
        }
        if is_over {
            return Ok(0);
        }
        sleep(INTERVAL);
    }
}

fn print(entry: &Entry, logs: &Logs) -> Result<()> {
    let time = if logs.timestamps { format!("{} ", entry.time) } else { String::new() };
    let written = match entry.stream.as_str() {
        "stderr" => write!(io::stderr(), "{time}{}", entry.log),
        _ => io::stdout().write_all(format!("{time}{}", entry.log).as_bytes()),
    };
    written.and_then(|()| io::stdout().flush()).context("write the log")
}

/// Whole lines of a log that may grow.
struct Reader {
    reader: Option<BufReader<File>>,
}

impl Reader {
    /// A container that was never started has none.
    fn open(path: &Path) -> Result<Self> {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { reader: None }),
            file => {
                let file = file.with_context(|| format!("read {}", path.display()))?;
                Ok(Self { reader: Some(BufReader::new(file)) })
            }
        }
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let start = reader.stream_position().context("read the log")?;
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).context("read the log")?;
        if line.last() != Some(&b'\n') {
            // The rest is on its way.
            reader.seek(SeekFrom::Start(start)).context("read the log")?;
            return Ok(None);
        }
        serde_json::from_slice(&line).map(Some).context("understand the log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_as_they_were_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = Log(Arc::new(Mutex::new(file.reopen().unwrap())));
        let (mut out, mut err) = (log.sink("stdout"), log.sink("stderr"));
        out.write_all(b"one\ntw").unwrap();
        err.write_all(b"err\n").unwrap();
        out.write_all(b"o\n").unwrap();
        out.write_all(&[b'x'; PIECE_LEN + 1]).unwrap();
        drop(out);
        let mut reader = Reader::open(file.path()).unwrap();
        let mut told = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            told.push((entry.stream, entry.log));
        }
        let long = told.split_off(3);
        let expected = [("stdout", "one\n"), ("stderr", "err\n"), ("stdout", "two\n")];
        assert_eq!(told, expected.map(|(stream, log)| (stream.to_owned(), log.to_owned())));
        assert_eq!(long.iter().map(|(_, log)| log.len()).collect::<Vec<_>>(), [PIECE_LEN, 1]);
    }

    #[test]
    fn half_a_line_is_waited_for() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut reader = Reader::open(file.path()).unwrap();
        file.write_all(br#"{"log":"a","stream":"stdout","#).unwrap();
        assert!(reader.next().unwrap().is_none());
        file.write_all(b"\"time\":\"t\"}\n").unwrap();
        assert_eq!(reader.next().unwrap().unwrap().log, "a");
    }
}
