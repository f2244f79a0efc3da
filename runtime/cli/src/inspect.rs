//! `inspect`: all that is known of containers and images, whichever the names are of.

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, ValueEnum};
use securectr_image::Store;
use serde_json::Value;

use crate::{
    args::Global,
    images, kept,
    output::{self, Format},
    paths,
    report::Report,
};

#[derive(Debug, ClapArgs)]
pub(crate) struct Inspect {
    /// json, or a template as in '{{.State.Status}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Only what is of this kind
    #[arg(long = "type", value_enum, value_name = "KIND")]
    pub kind: Option<Kind>,
    /// Names or ids of containers or images
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Container,
    Image,
}

pub(crate) fn inspect(inspect: &Inspect, global: &Global, report: &Report) -> Result<u8> {
    let describe = |name: &str| document(name, inspect.kind, global);
    output::describe(&inspect.names, inspect.format.as_ref(), report, describe)
}

fn document(name: &str, kind: Option<Kind>, global: &Global) -> Result<Value> {
    let container = || kept::inspect(name, global);
    let image = || {
        let store = Store::open(&paths::store(global)?)?;
        images::document(&images::find(&store, name)?, &store)
    };
    match kind {
        Some(Kind::Container) => container()?.with_context(|| format!("No such container: {name}")),
        Some(Kind::Image) => image(),
        None => match container()? {
            Some(document) => Ok(document),
            None => image().with_context(|| format!("No such object: {name}")),
        },
    }
}
