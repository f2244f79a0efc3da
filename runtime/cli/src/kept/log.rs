//! What a container has written, a line of JSON for each of its lines, as in Docker's json-file: `log`, `stream` and `time`.
//!
//! When a file is full the next one is begun, and the oldest goes when there are too many. A file keeps its name as long as it is
//! there: who reads one finds the next by its number.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::args::Logs;
use crate::{
    container::{LogDriver, Logging, OfRun, Status},
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

const NAME: &str = "log.jsonl";

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(if number == 0 { NAME.to_owned() } else { format!("{NAME}.{number}") })
}

/// Of the files that there are, in their order.
fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        match name.to_str().and_then(|name| name.strip_prefix(NAME)) {
            Some("") => numbers.push(0),
            Some(rest) => {
                numbers.extend(rest.strip_prefix('.').and_then(|number| number.parse::<u64>().ok()))
            }
            None => {}
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Shared by a container's streams.
#[derive(Clone)]
pub(super) struct Log(Arc<Mutex<Files>>);

/// The newest file, and what there may be.
struct Files {
    directory: PathBuf,
    bounds: Logging,
    number: u64,
    file: File,
    len: u64,
}

impl Files {
    /// Goes on with what is there, unless its last line has no end.
    fn open(directory: &Path, bounds: Logging) -> io::Result<Self> {
        let number = numbers(directory)?.last().copied().unwrap_or(0);
        let (file, len) = append(&path(directory, number))?;
        let mut files = Self { directory: directory.to_owned(), bounds, number, file, len };
        let mut last = *b"\n";
        if let Some(at) = len.checked_sub(1) {
            files.file.read_exact_at(&mut last, at)?;
        }
        if last != *b"\n" {
            files.turn()?;
        }
        Ok(files)
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let after = self.len + line.len() as u64;
        if self.len > 0 && self.bounds.max_bytes.is_some_and(|max_bytes| after > max_bytes) {
            self.turn()?;
        }
        // Half a line would spoil the one behind it.
        self.file.write_all(line).inspect_err(|_| drop(self.file.set_len(self.len)))?;
        self.len += line.len() as u64;
        Ok(())
    }

    /// Begins the next file.
    fn turn(&mut self) -> io::Result<()> {
        let next = self.number + 1;
        (self.file, self.len) = append(&path(&self.directory, next))?;
        self.number = next;
        let kept = u64::from(self.bounds.max_files);
        for old in numbers(&self.directory)?.into_iter().filter(|number| number + kept <= next) {
            fs::remove_file(path(&self.directory, old))?;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options().read(true).append(true).create(true).open(path)?;
    let len = file.metadata()?.len();
    Ok((file, len))
}

impl Log {
    pub(super) fn open(directory: &Path, bounds: Logging) -> Result<Self> {
        let files = Files::open(directory, bounds);
        let files = files.with_context(|| format!("open the log in {}", directory.display()))?;
        Ok(Self(Arc::new(Mutex::new(files))))
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
        self.log.0.lock().unwrap_or_else(PoisonError::into_inner).write(&json)
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
    if listed.kept.logging.driver == LogDriver::None {
        bail!("the output of container {} is not kept (--log-driver none)", logs.name);
    }
    let place = listed.located.place()?;
    let mut reader = Reader::open(place.path())?;
    let tail = logs.tail.unwrap_or(usize::MAX);
    let mut last = VecDeque::new();
    while let Some(entry) = reader.next()? {
        match logs.has(&entry.time) {
            true if tail == usize::MAX => print(&entry, logs)?,
            true => last.push_back(entry),
            false => {}
        }
        last.drain(..last.len().saturating_sub(tail));
    }
    last.iter().try_for_each(|entry| print(entry, logs))?;
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
struct Reader<'a> {
    directory: &'a Path,
    /// With the file's number. A container that was never started has none.
    reader: Option<(u64, BufReader<File>)>,
}

impl<'a> Reader<'a> {
    fn open(directory: &'a Path) -> Result<Self> {
        let mut reader = Self { directory, reader: None };
        reader.go_on().context("read the log")?;
        Ok(reader)
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.entry()? {
                return Ok(Some(entry));
            }
            // Looked for before the rest of this one is read, which then is all.
            if self.newer().context("read the log")?.is_none() {
                return Ok(None);
            }
            if let Some(entry) = self.entry()? {
                return Ok(Some(entry));
            }
            self.go_on().context("read the log")?;
        }
    }

    /// The number of the next file that there is.
    fn newer(&self) -> io::Result<Option<u64>> {
        let own = self.reader.as_ref().map(|(number, _)| *number);
        Ok(numbers(self.directory)?.into_iter().find(|&number| own.is_none_or(|own| number > own)))
    }

    fn go_on(&mut self) -> io::Result<()> {
        while let Some(number) = self.newer()? {
            match File::open(path(self.directory, number)) {
                // It was the oldest.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => {
                    self.reader = Some((number, BufReader::new(file?)));
                    break;
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<Option<Entry>> {
        let Some((_, reader)) = &mut self.reader else { return Ok(None) };
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

    fn bounds(max_bytes: u64, max_files: u32) -> Logging {
        Logging { max_bytes: Some(max_bytes), max_files, ..Logging::default() }
    }

    fn told(reader: &mut Reader<'_>) -> Vec<(String, String)> {
        std::iter::from_fn(|| reader.next().unwrap()).map(|entry| (entry.stream, entry.log)).collect()
    }

    #[test]
    fn lines_are_kept_as_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::open(directory.path(), Logging::default()).unwrap();
        let (mut out, mut err) = (log.sink("stdout"), log.sink("stderr"));
        out.write_all(b"one\ntw").unwrap();
        err.write_all(b"err\n").unwrap();
        out.write_all(b"o\n").unwrap();
        out.write_all(&[b'x'; PIECE_LEN + 1]).unwrap();
        drop(out);
        let mut told = told(&mut Reader::open(directory.path()).unwrap());
        let long = told.split_off(3);
        let expected = [("stdout", "one\n"), ("stderr", "err\n"), ("stdout", "two\n")];
        assert_eq!(told, expected.map(|(stream, log)| (stream.to_owned(), log.to_owned())));
        assert_eq!(long.iter().map(|(_, log)| log.len()).collect::<Vec<_>>(), [PIECE_LEN, 1]);
    }

    #[test]
    fn half_a_line_is_waited_for_and_nothing_is_written_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = File::create(path(directory.path(), 0)).unwrap();
        let mut reader = Reader::open(directory.path()).unwrap();
        file.write_all(br#"{"log":"a","stream":"stdout","#).unwrap();
        assert!(reader.next().unwrap().is_none());
        file.write_all(b"\"time\":\"t\"}\n{\"log").unwrap();
        assert_eq!(reader.next().unwrap().unwrap().log, "a");
        let log = Log::open(directory.path(), Logging::default()).unwrap();
        log.sink("stdout").write_all(b"b\n").unwrap();
        assert_eq!(told(&mut reader), [("stdout".to_owned(), "b\n".to_owned())]);
    }

    /// Lines of more than 64 bytes in files of 200: two or three a file.
    #[test]
    fn the_oldest_lines_go_and_who_follows_misses_none_that_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::open(directory.path(), bounds(200, 3)).unwrap();
        let mut out = log.sink("stdout");
        let mut followed = Reader::open(directory.path()).unwrap();
        let mut seen = Vec::new();
        for number in 0..100 {
            writeln!(out, "{number}").unwrap();
            if number % 3 == 0 {
                seen.extend(told(&mut followed));
            }
        }
        seen.extend(told(&mut followed));
        let all: Vec<_> = (0..100).map(|number| ("stdout".to_owned(), format!("{number}\n"))).collect();
        assert_eq!(seen, all);
        let files = numbers(directory.path()).unwrap();
        assert_eq!(files.len(), 3);
        for &number in &files {
            assert!(fs::metadata(path(directory.path(), number)).unwrap().len() <= 200);
        }
        let left = told(&mut Reader::open(directory.path()).unwrap());
        assert!(left.len() >= 5 && all.ends_with(&left), "{left:?}");
        // Another start goes on where this one has ended.
        let again = Log::open(directory.path(), bounds(200, 1)).unwrap();
        writeln!(again.sink("stderr"), "{}", "x".repeat(500)).unwrap();
        let left = told(&mut Reader::open(directory.path()).unwrap());
        assert_eq!(
            (left.len(), left[0].0.as_str()),
            (1, "stderr"),
            "one that is too long has a file of its own"
        );
    }

    #[test]
    fn who_is_overtaken_goes_on_with_the_oldest_that_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::open(directory.path(), bounds(1, 2)).unwrap();
        let mut out = log.sink("stdout");
        writeln!(out, "0").unwrap();
        let mut reader = Reader::open(directory.path()).unwrap();
        (1..10).for_each(|number| writeln!(out, "{number}").unwrap());
        let told: Vec<_> = told(&mut reader).into_iter().map(|(_, log)| log).collect();
        assert_eq!(told, ["0\n", "8\n", "9\n"]);
    }
}
