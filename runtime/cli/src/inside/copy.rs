//! `cp`, both ways, by docker's rules for what is there and what is not.

use std::{
    fs,
    io::{self, BufReader, BufWriter},
    os::unix::net::UnixStream,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::{process::geteuid, termios::isatty};
use securectr_image::{Destination, Packer};
use securectr_sandbox::{Job, Parcel};

use super::{args::Copy, work::Work};
use crate::{args::Global, container::locate};

const BUFFER_LEN: usize = 128 * 1024;

/// An end of a copy.
#[derive(Debug, PartialEq)]
enum End<'a> {
    Container {
        name: &'a str,
        path: &'a str,
    },
    Here(&'a Path),
    /// A standard stream.
    Stream,
}

pub(super) fn copy(copy: &Copy, global: &Global) -> Result<u8> {
    match (end(&copy.from), end(&copy.to)) {
        (End::Container { .. }, End::Container { .. }) => {
            bail!("copying between containers is not supported")
        }
        (End::Container { name, path }, to) => out(copy, name, path, &to, global)?,
        (from, End::Container { name, path }) => into(copy, &from, name, path, global)?,
        _ => bail!("must specify at least one container source"),
    }
    Ok(0)
}

/// As docker tells them apart: who means a file with a colon in its name, says ./ before it.
fn end(text: &str) -> End<'_> {
    if text == "-" {
        return End::Stream;
    }
    match text.split_once(':') {
        Some((name, path)) if !name.is_empty() && !text.starts_with(['/', '.']) => {
            End::Container { name, path }
        }
        _ => End::Here(Path::new(text)),
    }
}

fn out(copy: &Copy, name: &str, path: &str, to: &End<'_>, global: &Global) -> Result<()> {
    if *to == End::Stream && isatty(io::stdout()) {
        bail!("an archive does not go to a terminal: use > FILE, or a path");
    }
    let destination = match to {
        End::Here(path) => Some(Destination::find(path)?),
        _ => None,
    };
    let job = Job::Send { path: path.to_owned(), follows: copy.follow_link };
    let work = Work::begin(&locate(global, name)?, job, false, global)?;
    let written = match destination {
        Some(destination) => {
            let keeps_owners = copy.archive && geteuid().is_root();
            let archive = BufReader::with_capacity(BUFFER_LEN, work.output());
            destination.unpack(archive, is_content(path), keeps_owners).map_err(anyhow::Error::from)
        }
        None => io::copy(&mut work.output(), &mut io::stdout().lock())
            .map(drop)
            .context("write the archive to standard output"),
    };
    first_cause(work.end(), written)
}

fn into(copy: &Copy, from: &End<'_>, name: &str, path: &str, global: &Global) -> Result<()> {
    if *from == End::Stream && isatty(io::stdin()) {
        bail!("an archive does not come from a terminal: use < FILE, or a path");
    }
    let parcel = match from {
        End::Here(from) => parcel(from, copy.follow_link)?,
        _ => Parcel::Archive,
    };
    let job = Job::Receive { path: path.to_owned(), parcel };
    let mut work = Work::begin(&locate(global, name)?, job, true, global)?;
    let input = work.input()?;
    let sent = match from {
        End::Here(from) => send(from, copy, input),
        _ => pass_on(input),
    };
    first_cause(work.end(), sent)
}

/// At its end, the input's end is told.
fn pass_on(mut input: UnixStream) -> Result<()> {
    io::copy(&mut io::stdin().lock(), &mut input).map(drop).context("send the archive")
}

fn parcel(from: &Path, follows: bool) -> Result<Parcel> {
    let looked = if follows || leads_inside(from) { fs::metadata(from) } else { fs::symlink_metadata(from) };
    let metadata = looked.with_context(|| format!("read {}", from.display()))?;
    if leads_inside(from) && !metadata.is_dir() {
        bail!("read {}: it is no directory", from.display());
    }
    Ok(match (metadata.is_dir(), from.to_str().is_some_and(is_content)) {
        (true, true) => Parcel::Content,
        (true, false) => Parcel::Directory,
        (false, _) => Parcel::File,
    })
}

fn send(from: &Path, copy: &Copy, input: UnixStream) -> Result<()> {
    let name = match from.components().next_back() {
        _ if from.to_str().is_some_and(is_content) => PathBuf::from("."),
        Some(Component::Normal(name)) => name.into(),
        // As in `..`, whose name is another.
        _ => {
            let path = from.canonicalize().with_context(|| format!("read {}", from.display()))?;
            path.file_name().map_or_else(|| ".".into(), Into::into)
        }
    };
    let packer = Packer::new(BufWriter::with_capacity(BUFFER_LEN, input), copy.archive);
    Ok(packer.pack(from, &name, copy.follow_link || leads_inside(from))?)
}

/// Docker's `PATH/.`: what is in it.
fn is_content(path: &str) -> bool {
    path.ends_with("/.") || path == "."
}

/// Whether a link there is followed, since something of what it leads to is meant.
fn leads_inside(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with('/') || is_content(path))
}

/// When one side gives up, the other sees a broken pipe: what the container's agent has to say tells more, unless it is that.
fn first_cause(there: Result<()>, here: Result<()>) -> Result<()> {
    match (there, here) {
        (Err(there), Err(here)) if there.to_string().contains("Broken pipe") => Err(here),
        (there, here) => there.and(here),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_as_docker_does() {
        assert_eq!(end("web:/etc"), End::Container { name: "web", path: "/etc" });
        assert_eq!(end("web:etc:x"), End::Container { name: "web", path: "etc:x" });
        for here in ["/a:b", "./a:b", "a", ".", "../x:y", ":x"] {
            assert_eq!(end(here), End::Here(Path::new(here)), "{here}");
        }
        assert_eq!(end("-"), End::Stream);
    }
}
