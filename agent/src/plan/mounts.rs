//! A mount's words as file system parameters, attributes and propagation.

use std::path::Path;

use rustix::mount::MountPropagationFlags;
use securectr_protocol::{COPY_UP, SHARED};

use super::{PlanError, absolute_path, refuse_unless};
use crate::spec;

#[derive(Debug)]
pub(crate) struct MountPlan {
    /// In the container.
    pub destination: String,
    pub source: MountSource,
    pub attributes: Attributes,
    /// For all mounts below, too.
    pub recursive_attributes: Attributes,
    pub propagation: Option<Propagation>,
}

#[derive(Debug)]
pub(crate) enum MountSource {
    /// Parameters with and without a value, as the file system's own mount options.
    FileSystem { kind: String, source: String, parameters: Vec<(String, Option<String>)> },
    /// A path of the guest.
    Bind {
        path: String,
        recursive: bool,
        /// It gets what the root has there, if it is empty.
        copy_up: bool,
    },
    /// What is mounted there already, with other options.
    Remount { parameters: Vec<(String, Option<String>)> },
}

/// `MOUNT_ATTR_*` bits to set and to clear, as of mount_setattr(2).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Attributes {
    pub set: u64,
    pub clear: u64,
}

impl Attributes {
    fn change(&mut self, attribute: Attribute) {
        self.set = self.set & !attribute.clear | attribute.set;
        self.clear |= attribute.clear;
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Propagation {
    pub flags: MountPropagationFlags,
    pub recursive: bool,
}

type Attribute = Attributes;

const fn on(bit: u64) -> Attribute {
    Attribute { set: bit, clear: 0 }
}

const fn off(bit: u64) -> Attribute {
    Attribute { set: 0, clear: bit }
}

/// The kinds of access time are one field of three bits.
const fn access_time(kind: u64) -> Attribute {
    Attribute { set: kind, clear: libc::MOUNT_ATTR__ATIME }
}

fn attribute(word: &str) -> Option<Attribute> {
    Some(match word {
        "ro" => on(libc::MOUNT_ATTR_RDONLY),
        "rw" => off(libc::MOUNT_ATTR_RDONLY),
        "nosuid" => on(libc::MOUNT_ATTR_NOSUID),
        "suid" => off(libc::MOUNT_ATTR_NOSUID),
        "nodev" => on(libc::MOUNT_ATTR_NODEV),
        "dev" => off(libc::MOUNT_ATTR_NODEV),
        "noexec" => on(libc::MOUNT_ATTR_NOEXEC),
        "exec" => off(libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => on(libc::MOUNT_ATTR_NODIRATIME),
        "diratime" => off(libc::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => on(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => off(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => access_time(libc::MOUNT_ATTR_NOATIME),
        "strictatime" => access_time(libc::MOUNT_ATTR_STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => access_time(libc::MOUNT_ATTR_RELATIME),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<Propagation> {
    let (word, recursive) = word.strip_prefix('r').map_or((word, false), |rest| (rest, true));
    let flags = match word {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(Propagation { flags, recursive })
}

/// `linux.rootfsPropagation`. It comes after the mounts: only in its recursive spellings it is theirs, too.
pub(crate) fn root_propagation(word: &str) -> Result<Propagation, PlanError> {
    let invalid = || PlanError::Invalid { property: "linux.rootfsPropagation", value: word.to_owned() };
    propagation(word).ok_or_else(invalid)
}

pub(crate) fn plan(mount: spec::Mount) -> Result<MountPlan, PlanError> {
    refuse_unless(mount.uid_mappings.is_none(), "mounts.uidMappings")?;
    refuse_unless(mount.gid_mappings.is_none(), "mounts.gidMappings")?;
    // A relative one is deprecated, and counts from the root.
    let destination =
        absolute_path("mounts.destination", format!("/{}", mount.destination.trim_start_matches('/')))?;
    let mut words = Words::default();
    for option in mount.options {
        words.take(option)?;
    }
    let bind = words.bind.or((mount.kind.as_deref() == Some("bind")).then_some(Bind { recursive: true }));
    words.parameters.retain(|(name, _)| bind.is_none() || !OF_THE_FILE_SYSTEM.contains(&name.as_str()));
    let source = match bind {
        _ if words.remount => MountSource::Remount { parameters: words.parameters },
        Some(bind) => {
            refuse_unless(
                words.parameters.is_empty(),
                &format!("mounts.options {:?} of a bind", words.names()),
            )?;
            let source = mount.source.ok_or(PlanError::Missing("mounts.source"))?;
            let path = absolute_path("mounts.source", source)?;
            refuse_unless(!words.copy_up || Path::new(&path).starts_with(SHARED), COPY_UP)?;
            MountSource::Bind { path, recursive: bind.recursive, copy_up: words.copy_up }
        }
        None => {
            refuse_unless(!words.copy_up, COPY_UP)?;
            words.note_read_only_disk(mount.source.as_deref());
            file_system(mount.kind, mount.source, words.parameters)?
        }
    };
    Ok(MountPlan {
        destination,
        source,
        attributes: words.attributes,
        recursive_attributes: words.recursive_attributes,
        propagation: words.propagation,
    })
}

fn file_system(
    kind: Option<String>,
    source: Option<String>,
    parameters: Vec<(String, Option<String>)>,
) -> Result<MountSource, PlanError> {
    let kind = match kind.ok_or(PlanError::Missing("mounts.type"))?.as_str() {
        // There is no other in the guest.
        "cgroup" => "cgroup2".to_owned(),
        "none" | "" => return Err(PlanError::Missing("mounts.type")),
        other => other.to_owned(),
    };
    let source = source.filter(|source| !source.is_empty()).unwrap_or_else(|| kind.clone());
    Ok(MountSource::FileSystem { kind, source, parameters })
}

/// Options of the file system and of all its mounts, which mount(2) leaves as they are for a bind.
const OF_THE_FILE_SYSTEM: [&str; 7] =
    ["async", "dirsync", "lazytime", "mand", "nolazytime", "nomand", "sync"];

#[derive(Clone, Copy)]
struct Bind {
    recursive: bool,
}

#[derive(Default)]
struct Words {
    bind: Option<Bind>,
    attributes: Attributes,
    recursive_attributes: Attributes,
    propagation: Option<Propagation>,
    remount: bool,
    copy_up: bool,
    parameters: Vec<(String, Option<String>)>,
}

impl Words {
    fn take(&mut self, option: String) -> Result<(), PlanError> {
        match option.as_str() {
            "bind" => self.bind = Some(Bind { recursive: false }),
            "rbind" => self.bind = Some(Bind { recursive: true }),
            "remount" => self.remount = true,
            COPY_UP => self.copy_up = true,
            "defaults" | "" => {}
            // They say how mount(2) is to speak of errors, and how NFS is to count changes: fsconfig(2) knows neither.
            "loud" | "silent" | "iversion" | "noiversion" => {}
            "tmpcopyup" | "idmap" | "ridmap" | "copy-symlink" | "dest-nofollow" | "src-nofollow" => {
                return Err(PlanError::Unsupported(format!("mounts.options {option:?}")));
            }
            word => {
                let recursive = word.strip_prefix('r').and_then(attribute);
                if let Some(found) = attribute(word) {
                    self.attributes.change(found);
                } else if let Some(found) = recursive {
                    self.recursive_attributes.change(found);
                } else if let Some(found) = propagation(word) {
                    self.propagation = Some(found);
                } else {
                    self.parameters.push(parameter(word));
                }
            }
        }
        Ok(())
    }

    /// A file system that is not to write its disk has to know, or it would recover what was left unfinished there.
    fn note_read_only_disk(&mut self, source: Option<&str>) {
        let is_read_only = self.attributes.set & libc::MOUNT_ATTR_RDONLY != 0;
        if is_read_only && source.is_some_and(|source| source.starts_with("/dev/")) {
            self.parameters.push(("ro".to_owned(), None));
        }
    }

    fn names(&self) -> Vec<&str> {
        self.parameters.iter().map(|(name, _)| name.as_str()).collect()
    }
}

fn parameter(word: &str) -> (String, Option<String>) {
    match word.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (word.to_owned(), None),
    }
}
