//! `commit`: an image of a container's image and what the container has changed.

use std::{io, time::SystemTime};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::Process;
use securectr_image::{Commit as Made, Store};
use securectr_sandbox::{Config, Job};
use serde_json::{Map, Value, json};

use super::{args::Commit, change, work::Work};
use crate::{
    args::Global,
    container::{Client, Kept, Located, Request, Status, locate},
    output, paths,
    progress::Bar,
    report::Report,
};

/// What a container has in its environment by itself.
const OWN_VARIABLES: [&str; 3] = ["HOSTNAME=", "HOME=", "TERM="];

pub(super) fn commit(commit: &Commit, global: &Global, report: &Report) -> Result<u8> {
    let located = locate(global, &commit.name)?;
    let record = located.place()?.read()?;
    let kept = record.kept.context("an image is made of a container that run -d has made")?;
    if commit.image.as_ref().is_some_and(|name| name.digest().is_some()) {
        bail!("a name that has a digest is not given but found");
    }
    let store = Store::open(&paths::store(global)?)?;
    let image_id = kept.image_id.as_ref().context("a directory is no image that could be built on")?;
    let base = store.describe(&store.by_id(image_id)?)?.config;
    let spec = Config::read(&record.bundle)?.spec;
    let process = spec.process().clone().context("the container has no process")?;
    let mut config = config(base.get("config"), &kept, &process);
    for line in &commit.change {
        change::apply(&mut config, line)?;
    }
    let created = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
    let made = Made {
        base: image_id,
        name: commit.image.as_ref(),
        config: Value::Object(config),
        created_by: &kept.command.join(" "),
        author: &commit.author,
        message: &commit.message,
        created: &created,
    };
    let paused =
        (commit.pause && record.status == Status::Running).then(|| Paused::begin(&located)).transpose()?;
    let bar = Bar::new();
    let layer = Layer::begin(&located, global)?;
    let listed = store.commit(&made, layer, &mut |step| bar.show(step));
    if let Some(Err(error)) = paused.map(Paused::end) {
        report.warning(&format!("the container still stands still: {error:#}"));
    }
    output::lines([listed?.id.to_string()])?;
    Ok(0)
}

/// A container that stands still, and goes on afterwards whatever happens.
struct Paused(Option<Client>);

impl Paused {
    fn begin(located: &Located) -> Result<Self> {
        let client = Client::connect(&located.place()?)?;
        client.ask(&Request::Pause)?;
        Ok(Self(Some(client)))
    }

    fn end(mut self) -> Result<()> {
        match self.0.take() {
            Some(client) => client.ask(&Request::Resume).map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            let _ = client.ask(&Request::Resume);
        }
    }
}

/// What the guest sends, which is a layer only when its sender says at the end that it is whole.
struct Layer(Option<Work>);

impl Layer {
    fn begin(located: &Located, global: &Global) -> Result<Self> {
        Work::begin(located, Job::Layer, false, global).map(|work| Self(Some(work)))
    }
}

impl io::Read for Layer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(work) = &self.0 else { return Ok(0) };
        let read = work.output().read(buffer)?;
        if read == 0 {
            if let Some(work) = self.0.take() {
                work.end().map_err(|error| io::Error::other(format!("{error:#}")))?;
            }
        }
        Ok(read)
    }
}

/// What the image said, with what was said to `run`, as docker has it.
fn config(base: Option<&Value>, kept: &Kept, process: &Process) -> Map<String, Value> {
    let mut config = base.and_then(Value::as_object).cloned().unwrap_or_default();
    let words = |config: &Map<String, Value>, name: &str| -> Vec<String> {
        let words = config.get(name).and_then(Value::as_array).into_iter().flatten();
        words.filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let entrypoint = words(&config, "Entrypoint");
    match kept.command.strip_prefix(entrypoint.as_slice()) {
        Some(rest) => drop(config.insert("Cmd".into(), json!(rest))),
        None => {
            config.remove("Entrypoint");
            config.insert("Cmd".into(), json!(kept.command));
        }
    }
    let of_image = words(&config, "Env");
    let mut variables = process.env().clone().unwrap_or_default();
    variables.retain(|variable| {
        of_image.contains(variable) || !OWN_VARIABLES.iter().any(|own| variable.starts_with(own))
    });
    config.insert("Env".into(), json!(variables));
    let directory = process.cwd().to_string_lossy();
    if directory != "/" || config.contains_key("WorkingDir") {
        config.insert("WorkingDir".into(), directory.into());
    }
    if let Some(user) = &kept.user {
        config.insert("User".into(), user.as_str().into());
    }
    let labels = config.entry("Labels").or_insert(Value::Null);
    if !labels.is_object() && !kept.labels.is_empty() {
        *labels = json!({});
    }
    if let Some(labels) = labels.as_object_mut() {
        labels.extend(kept.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())));
    }
    config
}
