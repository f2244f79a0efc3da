//! `events` of all containers: what has happened, and what happens from now on.

use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind},
    os::unix::fs::MetadataExt,
    path::Path,
    thread::sleep,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    args::Global,
    container::{Event, Journal},
    output::{self, Format},
    paths,
};

/// How often is looked for more.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is asked for.
pub(crate) struct Wanted<'a> {
    pub since: Option<SystemTime>,
    pub until: Option<SystemTime>,
    /// `event=`, `container=`, `image=`, `label=`: of several with one key, one has to fit.
    pub filters: &'a [String],
    pub format: Option<&'a Format>,
}

/// Without `until` it goes on until it is interrupted.
pub(crate) fn follow(wanted: &Wanted<'_>, global: &Global) -> Result<u8> {
    let filters = wanted.filters.iter().map(|filter| Filter::of(filter)).collect::<Result<Vec<_>>>()?;
    let journal = Journal::of(&paths::store(global)?);
    let since = wanted.since.unwrap_or_else(SystemTime::now);
    let tell = |event: &Event| {
        let Ok(time) = humantime::parse_rfc3339(&event.time) else { return Ok(()) };
        let is_in_time = time >= since && wanted.until.is_none_or(|until| time < until);
        if is_in_time && fits(&filters, event) { say(event, wanted.format) } else { Ok(()) }
    };
    let [older, file] = journal.files();
    if wanted.since.is_some() {
        Tail::open(older)?.into_iter().try_for_each(|mut tail| tail.each(tell))?;
    }
    let mut tail = None;
    loop {
        if tail.is_none() {
            tail = Tail::open(file)?;
        }
        if let Some(open) = &mut tail {
            open.each(tell)?;
            if !open.is_still(file) {
                // What was written to it before it became the older one.
                open.each(tell)?;
                tail = None;
                continue;
            }
        }
        if wanted.until.is_some_and(|until| until <= SystemTime::now()) {
            return Ok(0);
        }
        sleep(INTERVAL);
    }
}

/// A journal that grows.
struct Tail {
    reader: BufReader<File>,
    inode: u64,
    /// A line whose end has not come.
    line: Vec<u8>,
}

impl Tail {
    /// None when nothing was ever noted.
    fn open(path: &Path) -> Result<Option<Self>> {
        let failed = || format!("read {}", path.display());
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.with_context(failed)?,
        };
        let inode = file.metadata().with_context(failed)?.ino();
        Ok(Some(Self { reader: BufReader::new(file), inode, line: Vec::new() }))
    }

    fn is_still(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|metadata| metadata.ino() == self.inode)
    }

    fn each(&mut self, act: impl Fn(&Event) -> Result<()>) -> Result<()> {
        loop {
            self.reader.read_until(b'\n', &mut self.line).context("read the events")?;
            if self.line.last() != Some(&b'\n') {
                return Ok(());
            }
            // A line of a later version is passed over.
            if let Ok(event) = serde_json::from_slice(&self.line) {
                act(&event)?;
            }
            self.line.clear();
        }
    }
}

enum Filter {
    Action(String),
    Container(String),
    Image(String),
    Label(String, Option<String>),
}

impl Filter {
    fn of(text: &str) -> Result<Self> {
        let (key, value) = text.split_once('=').with_context(|| format!("not a filter: {text}"))?;
        let value = value.to_owned();
        Ok(match key {
            "event" => Self::Action(value),
            "container" => Self::Container(value),
            "image" => Self::Image(value),
            "label" => match value.split_once('=') {
                Some((name, value)) => Self::Label(name.to_owned(), Some(value.to_owned())),
                None => Self::Label(value, None),
            },
            // There are no others.
            "type" if value == "container" => Self::Container(String::new()),
            _ => bail!("not a filter: {text} (event, container, image and label are)"),
        })
    }

    fn fits(&self, event: &Event) -> bool {
        let attribute = |name: &str| event.attributes.get(name);
        match self {
            Self::Action(action) => event.action == *action,
            Self::Container(name) => event.id.starts_with(name) || attribute("name") == Some(name),
            Self::Image(image) => attribute("image") == Some(image),
            Self::Label(name, value) => {
                attribute(name).is_some_and(|its| value.as_ref().is_none_or(|value| value == its))
            }
        }
    }
}

fn fits(filters: &[Filter], event: &Event) -> bool {
    filters.iter().all(|filter| {
        let alike = |other: &&Filter| std::mem::discriminant(*other) == std::mem::discriminant(filter);
        filters.iter().filter(alike).any(|other| other.fits(event))
    })
}

fn say(event: &Event, format: Option<&Format>) -> Result<()> {
    match format {
        Some(format) => output::document(format, document(event)),
        None => {
            let told: Vec<_> =
                event.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
            output::lines([format!(
                "{} container {} {} ({})",
                event.time,
                event.action,
                event.id,
                told.join(", ")
            )])
        }
    }
}

/// By Docker's names.
fn document(event: &Event) -> Value {
    json!({
        "Type": "container",
        "Action": event.action,
        "status": event.action,
        "id": event.id,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, name: &str) -> Event {
        Event {
            time: "2026-01-01T00:00:00Z".into(),
            action: action.into(),
            id: "0123456789".into(),
            attributes: [("name", name), ("tier", "front")].map(|(k, v)| (k.into(), v.into())).into(),
        }
    }

    #[test]
    fn filters_of_one_kind_are_alternatives_and_others_conditions() {
        let fitting = |filters: &[&str], event: &Event| {
            let filters: Vec<_> = filters.iter().map(|filter| Filter::of(filter).unwrap()).collect();
            fits(&filters, event)
        };
        let event = event("die", "web");
        assert!(fitting(&[], &event) && fitting(&["event=start", "event=die"], &event));
        assert!(fitting(&["event=die", "container=web", "label=tier"], &event));
        assert!(fitting(&["container=0123", "label=tier=front", "type=container"], &event));
        assert!(!fitting(&["event=die", "container=db"], &event) && !fitting(&["label=tier=back"], &event));
        assert!(Filter::of("event").is_err() && Filter::of("no=thing").is_err());
    }

    #[test]
    fn lines_that_come_in_pieces_are_told_once() {
        use std::{cell::RefCell, io::Write};
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let mut tail = Tail::open(&path).unwrap().unwrap();
        let told = RefCell::new(Vec::new());
        let mut look = || {
            tail.each(|event| {
                told.borrow_mut().push(event.action.clone());
                Ok(())
            })
            .unwrap();
        };
        let line = serde_json::to_string(&event("start", "web")).unwrap();
        let (first, rest) = line.split_at(20);
        for piece in [first, rest, "\nnonsense\n", &line, "\n"] {
            file.write_all(piece.as_bytes()).unwrap();
            look();
        }
        assert_eq!(*told.borrow(), ["start", "start"]);
        assert!(tail.is_still(&path));
    }
}
