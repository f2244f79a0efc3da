//! Verbs that only look.

use std::time::SystemTime;

use anyhow::Result;
use securectr_image::{Digest, Listed, Store};
use serde_json::{Value, json};

use super::{
    args::{History, Inspect, List},
    familiar, find, names_of,
};
use crate::{
    output::{self, Column},
    report::Report,
};

/// As many digits of an id as Docker shows.
const SHORT_ID_LEN: usize = 12;
/// As much of a step as fits a line, in characters.
const SHORT_STEP_LEN: usize = 45;

const NOTHING: &str = "<none>";
const MISSING: &str = "<missing>";

pub(super) fn list(list: &List, store: &Store) -> Result<u8> {
    let images: Vec<_> = store.list()?.into_iter().filter(|image| is_wanted(image, list)).collect();
    if list.quiet {
        output::lines(images.iter().map(|image| short(&image.id, list.no_trunc)))?;
        return Ok(0);
    }
    let rows: Vec<_> = images.iter().map(|image| row(image, list, store)).collect::<Result<_>>()?;
    let mut columns: Vec<Column> = vec![("REPOSITORY", "Repository"), ("TAG", "Tag")];
    if list.digests {
        columns.push(("DIGEST", "Digest"));
    }
    columns.extend([("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]);
    output::rows(&list.format, &columns, &rows)?;
    Ok(0)
}

/// A name without a tag is all of its repository, as it is typed: what is filled in then does not count.
fn is_wanted(image: &Listed, list: &List) -> bool {
    let Some(wanted) = &list.name else { return true };
    let Some(name) = &image.name else { return false };
    let is_there = (name.host(), name.path()) == (wanted.host(), wanted.path());
    is_there && (wanted.tag() == Some("latest") || name.tag() == wanted.tag())
}

fn row(image: &Listed, list: &List, store: &Store) -> Result<Value> {
    let created = created(&store.describe(image)?.config);
    let name = image.name.as_ref();
    Ok(json!({
        "Repository": name.map_or_else(|| NOTHING.to_owned(), |name| name.familiar_repository()),
        "Tag": name.and_then(|name| name.tag()).unwrap_or(NOTHING),
        "Digest": image.index.as_ref().unwrap_or(&image.manifest).to_string(),
        "ID": short(&image.id, list.no_trunc),
        "CreatedSince": created.map_or_else(|| "N/A".to_owned(), output::ago),
        "CreatedAt": created.map(|time| humantime::format_rfc3339_seconds(time).to_string()),
        "Size": output::size(image.bytes),
    }))
}

/// As Docker has it: short without its algorithm, whole with it.
fn short(id: &Digest, whole: bool) -> String {
    if whole { id.to_string() } else { id.hex().chars().take(SHORT_ID_LEN).collect() }
}

fn created(config: &Value) -> Option<SystemTime> {
    time(config.get("created")?)
}

fn time(value: &Value) -> Option<SystemTime> {
    humantime::parse_rfc3339(value.as_str()?).ok()
}

pub(super) fn history(history: &History, store: &Store) -> Result<u8> {
    let image = find(store, &history.image)?;
    let description = store.describe(&image)?;
    let steps = description.config.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
    let layers = description.manifest.get("layers").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut sizes = layers.iter().map(|layer| layer.get("size").and_then(Value::as_u64).unwrap_or(0));
    let mut rows = Vec::new();
    for step in &steps {
        let is_empty = step.get("empty_layer").and_then(Value::as_bool).unwrap_or(false);
        let bytes = if is_empty { 0 } else { sizes.next().unwrap_or(0) };
        rows.push(step_row(step, bytes, history.no_trunc));
    }
    rows.reverse();
    if let Some(Value::Object(last)) = rows.first_mut() {
        last.insert("ID".into(), short(&image.id, history.no_trunc).into());
    }
    if history.quiet {
        let ids = rows.iter().filter_map(|row| row.get("ID")?.as_str().map(str::to_owned));
        output::lines(ids)?;
        return Ok(0);
    }
    let columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    output::rows(&history.format, &columns, &rows)?;
    Ok(0)
}

fn step_row(step: &Value, bytes: u64, whole: bool) -> Value {
    let created = step.get("created").and_then(time);
    let by = step.get("created_by").and_then(Value::as_str).unwrap_or_default();
    let shown = match by.char_indices().nth(SHORT_STEP_LEN) {
        Some((end, _)) if !whole => format!("{}…", by.get(..end).unwrap_or_default()),
        _ => by.to_owned(),
    };
    json!({
        "ID": MISSING,
        "CreatedSince": created.map_or_else(|| "N/A".to_owned(), output::ago),
        "CreatedAt": created.map(|time| humantime::format_rfc3339_seconds(time).to_string()),
        "CreatedBy": shown,
        "Size": output::size(bytes),
        "Comment": step.get("comment").cloned().unwrap_or_default(),
    })
}

pub(super) fn inspect(inspect: &Inspect, store: &Store, report: &Report) -> Result<u8> {
    let describe = |wanted: &str| document(&find(store, wanted)?, store);
    output::describe(&inspect.names, inspect.format.as_ref(), report, describe)
}

pub(crate) fn document(image: &Listed, store: &Store) -> Result<Value> {
    let description = store.describe(image)?;
    let of_config = |field: &str| description.config.get(field).cloned().unwrap_or_default();
    let names = names_of(image, store)?;
    let digest = image.index.as_ref().unwrap_or(&image.manifest);
    let digests = names.iter().map(|name| format!("{}@{digest}", name.familiar_repository()));
    let mut digests: Vec<_> = digests.collect();
    digests.dedup();
    Ok(json!({
        "Id": image.id.to_string(),
        "RepoTags": names.iter().filter(|name| name.tag().is_some()).map(familiar).collect::<Vec<_>>(),
        "RepoDigests": digests,
        "Created": of_config("created"),
        "Author": of_config("author"),
        "Comment": last_step(&description.config).and_then(|step| step.get("comment")).cloned().unwrap_or_default(),
        "Architecture": of_config("architecture"),
        "Os": of_config("os"),
        "Variant": of_config("variant"),
        "Size": image.bytes,
        "Config": of_config("config"),
        "RootFS": {
            "Type": "layers",
            "Layers": description.config.pointer("/rootfs/diff_ids").cloned().unwrap_or_default(),
        },
        "Manifest": image.manifest.to_string(),
        "Added": humantime::format_rfc3339_seconds(image.added).to_string(),
    }))
}

fn last_step(config: &Value) -> Option<&Value> {
    config.get("history")?.as_array()?.last()
}
