//! Images in and out by archives.

use std::{
    fs::File,
    io::{self, BufWriter},
    os::fd::AsRawFd,
    path::Path,
};

use anyhow::{Context, Result, bail};
use rustix::termios::isatty;
use securectr_image::{Addition, Platform, Progress, Reference, Store};

use super::{
    args::{Load, Save},
    familiar, find,
};
use crate::{output, progress::Bar};

pub(super) fn load(load: &Load, store: &Store) -> Result<u8> {
    let platform = load.platform.clone().unwrap_or_else(Platform::of_this_machine);
    let bar = (!load.quiet).then(Bar::new);
    let mut progress = |step| bar.iter().for_each(|bar| bar.show(step));
    let (reference, _spool) = source(load, store)?;
    let addition = Addition { reference: &reference, platform: &platform, name: load.tag.as_ref() };
    let added = store.add(&addition, &mut progress)?;
    drop(bar);
    output::lines(added.iter().map(|image| match &image.name {
        Some(name) => format!("Loaded image: {}", familiar(name)),
        None => format!("Loaded image ID: {}", image.id),
    }))?;
    Ok(0)
}

/// Where the images are; what comes by a pipe or is compressed is in a file that has to stay open.
fn source(load: &Load, store: &Store) -> Result<(Reference, Option<File>)> {
    if let Some(reference) = &load.image {
        return Ok((reference.clone(), None));
    }
    let (spool, name) = match &load.input {
        Some(path) => {
            let file = File::open(path).with_context(|| format!("read the archive {}", path.display()))?;
            if let Some(reference) = store.archive(path) {
                return Ok((reference, None));
            }
            (store.spool(file)?, path.display().to_string())
        }
        None if isatty(io::stdin()) => {
            bail!("an archive does not come from a terminal: use -i FILE, or < FILE")
        }
        None => (store.spool(io::stdin().lock())?, "standard input".to_owned()),
    };
    let reference = store.archive(Path::new(&format!("/proc/self/fd/{}", spool.as_raw_fd())));
    Ok((reference.with_context(|| format!("{name} is no archive of images"))?, Some(spool)))
}

pub(super) fn save(save: &Save, store: &Store) -> Result<u8> {
    let images: Vec<_> = save.images.iter().map(|wanted| find(store, wanted)).collect::<Result<_>>()?;
    let bar = Bar::new();
    let (mut done, total) = (0, images.iter().map(|image| image.bytes).sum());
    let mut written = |bytes| {
        done += bytes;
        bar.show(Progress::Copying { done, total });
    };
    let Some(path) = &save.output else {
        if isatty(io::stdout()) {
            bail!("an archive does not go to a terminal: use -o FILE, or > FILE");
        }
        store.save(&images, BufWriter::new(io::stdout().lock()), &mut written)?;
        return Ok(0);
    };
    // Whole or not at all.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("write {}", path.display());
    let file = tempfile::NamedTempFile::new_in(directory).with_context(failed)?;
    store.save(&images, BufWriter::new(file.as_file()), &mut written)?;
    file.persist(path).with_context(failed)?;
    Ok(0)
}
