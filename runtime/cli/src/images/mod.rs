//! Images by name: listed, brought in and out, named and removed.

mod args;
mod pull;
mod registries;
mod show;
mod transfer;

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use securectr_image::{Listed, Name, Platform, Removed, Store};

pub(crate) use args::{PullPolicy, Verb};
pub(crate) use show::document;

use crate::{
    args::Global,
    container::{OfRun, Status, of_run},
    output, paths,
    report::Report,
    system::{confirmed, images_of},
};
use args::{GroupVerb, Prune, Remove, Tag};

pub(crate) fn act(verb: &Verb, global: &Global, report: &Report) -> Result<u8> {
    let store = Store::open(&paths::store(global)?)?;
    match verb {
        Verb::Pull(pull) => pull::pull(pull, &store, report),
        Verb::Images(list) => show::list(list, &store),
        Verb::Load(load) => transfer::load(load, &store),
        Verb::Save(save) => transfer::save(save, &store),
        Verb::Rmi(remove) => self::remove(remove, &store, global, report),
        Verb::Tag(tag) => self::tag(tag, &store),
        Verb::History(history) => show::history(history, &store),
        Verb::Image(group) => match &group.verb {
            GroupVerb::Pull(pull) => pull::pull(pull, &store, report),
            GroupVerb::Ls(list) => show::list(list, &store),
            GroupVerb::Load(load) => transfer::load(load, &store),
            GroupVerb::Save(save) => transfer::save(save, &store),
            GroupVerb::Rm(remove) => self::remove(remove, &store, global, report),
            GroupVerb::Tag(tag) => self::tag(tag, &store),
            GroupVerb::History(history) => show::history(history, &store),
            GroupVerb::Inspect(inspect) => show::inspect(inspect, &store, report),
            GroupVerb::Prune(prune) => self::prune(prune, &store, global),
        },
    }
}

/// The image that somebody calls so, or Docker's words that there is none.
pub(crate) fn find(store: &Store, wanted: &str) -> Result<Listed> {
    store.find(wanted)?.with_context(|| format!("No such image: {wanted}"))
}

/// The image that is to be run; fetched, if it has to be.
pub(crate) fn get(store: &Store, wanted: &str, policy: PullPolicy, report: &Report) -> Result<Listed> {
    let here = store.find(wanted)?;
    match (here, wanted.parse::<Name>(), policy) {
        (Some(image), _, PullPolicy::Missing | PullPolicy::Never) => Ok(image),
        // By an id it is here or nowhere.
        (Some(image), Err(_), PullPolicy::Always) => Ok(image),
        (None, _, PullPolicy::Never) => find(store, wanted),
        (None, Err(error), _) => Err(error.into()),
        (here, Ok(name), _) => {
            if here.is_none() {
                eprintln!("Unable to find image '{wanted}' locally");
            }
            pull::fetch(&name, &Platform::of_this_machine(), store, &pull::View { quiet: false, report })
        }
    }
}

fn tag(tag: &Tag, store: &Store) -> Result<u8> {
    if tag.name.digest().is_some() {
        bail!("a name that has a digest is not given but found: {}", tag.name);
    }
    store.tag(&find(store, &tag.image)?, &tag.name)?;
    Ok(0)
}

fn remove(remove: &Remove, store: &Store, global: &Global, report: &Report) -> Result<u8> {
    let users = of_run(global)?;
    Ok(report.each(&remove.images, |wanted| say(&remove_one(wanted, remove.force, store, &users)?)))
}

fn remove_one(wanted: &str, force: bool, store: &Store, users: &[OfRun]) -> Result<Removed> {
    let image = match find(store, wanted) {
        Err(_) if force => return Ok(Removed::default()),
        found => found?,
    };
    let by_name = wanted.parse::<Name>().ok().filter(|name| image.name.as_ref() == Some(name));
    let names = store.list()?.into_iter().filter(|one| one.id == image.id && one.name.is_some()).count();
    if by_name.is_none() && names > 1 && !force {
        bail!("image {wanted} has {names} names: name one, or use --force");
    }
    let user = users.iter().find(|user| user.kept.image_id.as_ref() == Some(&image.id));
    if let Some(user) = user.filter(|_| by_name.is_none() || names < 2) {
        let is_running = user.record.status != Status::Stopped;
        if is_running || !force {
            let hint = if is_running { "" } else { " (or use --force: it cannot start again then)" };
            bail!("image {wanted} is used by the container {}: remove that first{hint}", user.kept.name);
        }
    }
    Ok(store.remove(&image, by_name.as_ref())?)
}

pub(crate) fn say(removed: &Removed) -> Result<()> {
    let names = removed.untagged.iter().map(|name| format!("Untagged: {}", familiar(name)));
    output::lines(names.chain(removed.deleted.iter().map(|id| format!("Deleted: {id}"))))
}

fn prune(prune: &Prune, store: &Store, global: &Global) -> Result<u8> {
    let which = if prune.all { "all images" } else { "all images without a name" };
    if !prune.force && !confirmed(which)? {
        return Ok(1);
    }
    let used = images_of(&of_run(global)?);
    let removed = store.prune(|_| prune.all, |id| used.contains(id))?;
    say(&removed)?;
    output::lines([format!("Total reclaimed space: {}", output::size(removed.freed_bytes))])?;
    Ok(0)
}

/// As a person would type it.
fn familiar(name: &Name) -> String {
    let tag = name.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = name.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
    format!("{}{tag}{digest}", name.familiar_repository())
}

/// All names of an image.
fn names_of(image: &Listed, store: &Store) -> Result<BTreeSet<Name>> {
    let all = store.list()?.into_iter().filter(|one| one.id == image.id);
    Ok(all.filter_map(|one| one.name).collect())
}
