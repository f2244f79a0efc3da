//! `--privileged`: all that the guest has. What holds the container in then is the machine alone.

use std::path::Path;

use oci_spec::runtime::{Mount, Spec};

/// What docker mounts read-only otherwise.
const SYSTEM: [&str; 2] = ["/sys", "/sys/fs/cgroup"];

pub(super) fn give(spec: &mut Spec) {
    if let Some(linux) = spec.linux_mut() {
        linux.set_masked_paths(None).set_readonly_paths(None);
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let is_at = |place: &str| mount.destination() == Path::new(place);
        if SYSTEM.into_iter().any(is_at) {
            mount.options_mut().iter_mut().for_each(|options| options.retain(|option| option != "ro"));
        } else if is_at("/dev") {
            set_devices(mount);
        }
    }
}

/// The kernel's own list.
fn set_devices(dev: &mut Mount) {
    let options = ["nosuid", "noexec"].map(str::to_owned);
    dev.set_typ(Some("devtmpfs".to_owned()))
        .set_source(Some("devtmpfs".into()))
        .set_options(Some(options.to_vec()));
}
