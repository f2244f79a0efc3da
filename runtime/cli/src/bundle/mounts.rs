//! What is mounted in a container beside its root.

use std::path::Path;

use oci_spec::runtime::{Mount, Spec};
use securectr_sandbox::{COPY_UP, PRIVATE_COPY};

use super::Source;
use crate::args::{Tmpfs, VolumeSource};

const SHM: &str = "/dev/shm";

/// Of a tmpfs, as docker sets them; those that are asked for come behind and outrank them.
const TMPFS_OPTIONS: [&str; 3] = ["nosuid", "nodev", "noexec"];

pub(super) fn add(spec: &mut Spec, source: &Source<'_>) {
    let mounts = spec.mounts_mut().get_or_insert_default();
    if let Some(bytes) = source.run.shm_size {
        let shm = mounts.iter_mut().find(|mount| mount.destination().as_path() == Path::new(SHM));
        if let Some(options) = shm.and_then(|shm| shm.options_mut().as_mut()) {
            options.retain(|option| !option.starts_with("size="));
            options.push(format!("size={bytes}"));
        }
    }
    mounts.extend(source.run.tmpfs().map(tmpfs));
    let mut copy_count = 0;
    for (volume, path) in source.run.volumes().zip(&source.volumes) {
        let access = if volume.read_only { "ro" } else { "rw" };
        let mut options = vec!["rbind".to_owned(), access.to_owned()];
        // What is read-only is so for the file server, too: nothing can be copied to it.
        let is_named = matches!(volume.source, VolumeSource::Named(_));
        if volume.is_copied {
            let copy = source.copies.join(copy_count.to_string());
            options.push(format!("{PRIVATE_COPY}{}", copy.display()));
            copy_count += 1;
        } else if is_named && !volume.read_only && !volume.no_copy {
            options.push(COPY_UP.to_owned());
        }
        let mut mount = Mount::default();
        mount
            .set_destination(volume.path.clone())
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(path.clone()))
            .set_options(Some(options));
        mounts.push(mount);
    }
}

/// Only a new container fills its volumes.
pub(crate) fn leave_volumes(spec: &mut Spec) {
    for options in spec.mounts_mut().iter_mut().flatten().filter_map(|mount| mount.options_mut().as_mut()) {
        options.retain(|option| option != COPY_UP);
    }
}

fn tmpfs(asked: &Tmpfs) -> Mount {
    let fixed = TMPFS_OPTIONS.iter().map(|&option| option.to_owned());
    let mut mount = Mount::default();
    mount
        .set_destination(asked.path.clone())
        .set_typ(Some("tmpfs".to_owned()))
        .set_source(Some("tmpfs".into()))
        .set_options(Some(fixed.chain(asked.options.iter().cloned()).collect()));
    mount
}
