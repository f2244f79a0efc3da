//! What the host shares with a guest: directories and files, each under a name in the file server's root, where the guest finds it
//! by virtio-fs.
//!
//! A share is a mount of its own in the server's mount namespace: the server can reach nothing beside or above it, whatever a guest
//! makes it do, and a share that is read-only is so for the server, too.

mod sys;

use std::{
    ffi::CString,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use oci_spec::runtime::{Mount, Spec};
use securectr_files::Request;
use securectr_protocol::{POD, SHARED};
use serde::Serialize;
use thiserror::Error;

use crate::{
    RootSource, SandboxId, Scope, Writable, end::ProcessExit, files::FileServer, pod::is_shared_memory,
    sys::Launched, vmm::exit_of,
};
use sys::{Copy, Mount as ShareMount, Namespaces};

const BINDS: [&str; 2] = ["bind", "rbind"];

/// A directory or a file of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Under which the guest finds it: letters, digits and any of `_.-`.
    pub name: String,
    /// Absolute.
    pub source: PathBuf,
    pub read_only: bool,
    /// Nobody but the guest changes it: then it need not look again and again whether somebody did.
    pub exclusive: bool,
    /// A directory with `upper` and `work`: what the guest changes is written there, and the source stays as it is (overlayfs).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<PathBuf>,
}

/// An option of a bind mount in a spec, ours: `securectr-copy=DIR`, for [`Share::copy`].
pub const PRIVATE_COPY: &str = "securectr-copy=";

#[derive(Debug, Error)]
pub enum ShareError {
    #[error("share {0}: this sandbox was booted without shares")]
    None(PathBuf),
    #[error("share {0}: the file server has ended")]
    Ended(PathBuf),
    #[error("share {path}")]
    Mount { path: PathBuf, source: io::Error },
    #[error("share {path} with a private copy in {copy}")]
    Copy { path: PathBuf, copy: PathBuf, source: io::Error },
}

impl Share {
    /// Where the guest sees it.
    pub fn guest_path(&self) -> PathBuf {
        Path::new(SHARED).join(&self.name)
    }
}

/// A container's root, where that is not the image.
pub(crate) fn of_root(id: &SandboxId, root: RootSource, writable: Writable) -> Option<Share> {
    let RootSource::Directory(source) = root else { return None };
    let read_only = writable != Writable::InPlace;
    Some(Share { name: format!("{id}-root"), source, read_only, exclusive: true, copy: None })
}

/// Sources of bind mounts may be relative to the bundle.
pub(crate) fn resolve(spec: &mut Spec, bundle: &Path) {
    for mount in spec.mounts_mut().iter_mut().flatten().filter(|mount| is_bind(mount)) {
        let source = mount.source().as_ref().map(|source| bundle.join(source));
        mount.set_source(source);
    }
}

/// Takes the bind mounts of a container's spec for shares, and gives them the sources that they have in the guest.
pub(crate) fn of_spec(id: &SandboxId, spec: &mut Spec, scope: Scope) -> Vec<Share> {
    let mut shares = Vec::new();
    for mount in spec.mounts_mut().iter_mut().flatten() {
        match scope {
            Scope::Pod if is_shared_memory(mount) => {
                make_pods(mount);
                continue;
            }
            Scope::Alone { shm_bytes: Some(bytes) } if is_shared_memory(mount) && is_bind(mount) => {
                make_tmpfs(mount, bytes);
                continue;
            }
            _ => {}
        }
        let Some(source) = mount.source().clone().filter(|_| is_bind(mount)) else { continue };
        let name = format!("{id}-{}", shares.len());
        let read_only = has_option(mount, &["ro", "rro"]);
        let share = Share { name, source, read_only, exclusive: false, copy: take_copy(mount) };
        mount.set_source(Some(share.guest_path()));
        shares.push(share);
    }
    shares
}

/// Where its private copy is, which is none of the guest's business.
fn take_copy(mount: &mut Mount) -> Option<PathBuf> {
    let options = mount.options_mut().as_mut()?;
    let index = options.iter().position(|option| option.starts_with(PRIVATE_COPY))?;
    options.remove(index).strip_prefix(PRIVATE_COPY).map(PathBuf::from)
}

/// The shared memory of the pod, in the place of whatever mount, with what attributes it has.
fn make_pods(mount: &mut Mount) {
    let mut options = mount.options().clone().unwrap_or_default();
    // Those of a tmpfs have values.
    options.retain(|option| !BINDS.contains(&option.as_str()) && !option.contains('='));
    options.insert(0, "rbind".to_owned());
    let source = Path::new(POD).join("shm");
    mount.set_typ(Some("bind".to_owned())).set_source(Some(source)).set_options(Some(options));
}

/// In the place of a bind mount, with what attributes it has.
fn make_tmpfs(mount: &mut Mount, bytes: u64) {
    let mut options = mount.options().clone().unwrap_or_default();
    options.retain(|option| !BINDS.contains(&option.as_str()));
    options.extend(["mode=1777".to_owned(), format!("size={bytes}")]);
    mount.set_typ(Some("tmpfs".to_owned())).set_source(Some("shm".into())).set_options(Some(options));
}

pub(crate) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || has_option(mount, &BINDS)
}

fn has_option(mount: &Mount, names: &[&str]) -> bool {
    mount.options().iter().flatten().any(|option| names.contains(&option.as_str()))
}

/// Mounts shares in the server's namespace: all of them or none.
pub(crate) async fn add_all(server: Option<&FileServer>, all: &[Share]) -> Result<(), ShareError> {
    for (done, share) in all.iter().enumerate() {
        if let Err(error) = add(server, share).await {
            remove_all(server, all.get(..done).unwrap_or_default()).await;
            return Err(error);
        }
    }
    Ok(())
}

/// Takes them out again, and closes what the guest still has open of them.
pub(crate) async fn remove_all(server: Option<&FileServer>, all: &[Share]) {
    for share in all {
        remove(server, share).await;
    }
}

async fn add(server: Option<&FileServer>, share: &Share) -> Result<(), ShareError> {
    let path = || share.source.clone();
    let failed = |source| match share.copy.clone() {
        None => ShareError::Mount { path: path(), source },
        Some(copy) => ShareError::Copy { path: path(), copy, source },
    };
    let server = server.ok_or_else(|| ShareError::None(path()))?;
    let namespaces = namespaces(server).await.ok_or_else(|| ShareError::Ended(path()))?;
    let source = c_path(&share.source).map_err(failed)?;
    let target = place_of(&share.name).map_err(failed)?;
    let copy =
        share.copy.as_ref().map(|copy| Ok((c_path(&copy.join("upper"))?, c_path(&copy.join("work"))?)));
    let copy = copy.transpose().map_err(failed)?;
    let copy = copy.as_ref().map(|(upper, work)| Copy { upper, work });
    if share.exclusive {
        server.ask(Request::Exclusive(share.name.clone())).await;
    }
    let mount = ShareMount { source: &source, target: &target, read_only: share.read_only, copy };
    let child = sys::attach(&namespaces, &mount).map_err(failed)?;
    outcome(child).await.map_err(failed)
}

/// Of a server that has ended nothing is left.
async fn remove(server: Option<&FileServer>, share: &Share) {
    let Some(server) = server else { return };
    let Some(namespaces) = namespaces(server).await else { return };
    let Ok(target) = place_of(&share.name) else { return };
    if let Ok(child) = sys::detach(&namespaces, &target) {
        let _ = outcome(child).await;
    }
    server.ask(Request::Release(share.name.clone())).await;
}

async fn namespaces(server: &FileServer) -> Option<Namespaces<'_>> {
    server.jailed().await.map(|of| Namespaces { of, has_users: server.has_own_users() })
}

/// What a child has to say: its exit code is an errno.
async fn outcome(child: Launched) -> io::Result<()> {
    match exit_of(&Arc::new(child.pidfd)).await? {
        ProcessExit::Code(0) => Ok(()),
        ProcessExit::Code(errno) => Err(io::Error::from_raw_os_error(errno)),
        ProcessExit::Signal(_) => Err(io::ErrorKind::Interrupted.into()),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn place_of(name: &str) -> io::Result<CString> {
    let is_plain =
        !name.starts_with('.') && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if name.is_empty() || !is_plain {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(CString::new(format!("/{name}"))?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALONE: Scope = Scope::Alone { shm_bytes: None };

    fn shared(mounts: serde_json::Value, scope: Scope) -> (Vec<Share>, Vec<Mount>) {
        let mut spec: Spec =
            serde_json::from_value(json!({"ociVersion": "1.2.0", "mounts": mounts})).unwrap();
        let shares = of_spec(&"box".parse().unwrap(), &mut spec, scope);
        (shares, spec.mounts().clone().unwrap())
    }

    #[test]
    fn a_bind_mount_becomes_a_share() {
        let mounts = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/a", "type": "bind", "source": "/srv/a", "options": ["rbind", "ro"]},
            {"destination": "/b", "source": "/srv/b", "options": ["bind"]},
        ]);
        let (shares, mounts) = shared(mounts, ALONE);
        let share = |name: &str, source: &str, read_only| Share {
            name: name.into(),
            source: source.into(),
            read_only,
            exclusive: false,
            copy: None,
        };
        assert_eq!(shares, [share("box-0", "/srv/a", true), share("box-1", "/srv/b", false)]);
        let sources: Vec<_> = mounts.iter().map(|mount| mount.source().clone().unwrap()).collect();
        let in_guest = ["proc", "/run/securectr/shared/box-0", "/run/securectr/shared/box-1"];
        assert_eq!(sources, in_guest.map(PathBuf::from));
    }

    #[test]
    fn the_guest_does_not_hear_of_a_private_copy() {
        let options = ["rbind", "securectr-copy=/store/copies/box/0", "rw"];
        let mounts = json!([{"destination": "/w", "type": "bind", "source": "/srv", "options": options}]);
        let (shares, mounts) = shared(mounts, ALONE);
        assert_eq!(shares[0].copy.as_deref(), Some("/store/copies/box/0".as_ref()));
        assert_eq!(mounts[0].options().as_deref().unwrap(), ["rbind", "rw"]);
    }

    #[test]
    fn shared_memory_is_the_guests() {
        let mounts = json!([{"destination": "/dev/shm", "type": "bind", "source": "/x/shm", "options": ["rbind", "nosuid"]}]);
        let seen = |scope| {
            let (shares, mounts) = shared(mounts.clone(), scope);
            (shares.len(), serde_json::to_value(&mounts[0]).unwrap())
        };
        let (shares, mount) = seen(Scope::Alone { shm_bytes: Some(4096) });
        let options = json!(["nosuid", "mode=1777", "size=4096"]);
        assert_eq!((shares, &mount["type"], &mount["options"]), (0, &json!("tmpfs"), &options));
        let (shares, mount) = seen(Scope::Pod);
        let options = json!(["rbind", "nosuid"]);
        assert_eq!(
            (shares, &mount["source"], &mount["options"]),
            (0, &json!("/run/securectr/pod/shm"), &options)
        );
        // Somebody's directory is not memory.
        assert_eq!(seen(ALONE).0, 1);
    }

    #[test]
    fn a_pods_containers_share_memory_however_their_spec_has_it() {
        let options = ["nosuid", "noexec", "mode=1777", "size=65536k"];
        let mounts =
            json!([{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": options}]);
        let (shares, mounts) = shared(mounts, Scope::Pod);
        let mount = serde_json::to_value(&mounts[0]).unwrap();
        assert_eq!(
            (shares.len(), &mount["type"], &mount["source"]),
            (0, &json!("bind"), &json!("/run/securectr/pod/shm"))
        );
        assert_eq!(mount["options"], json!(["rbind", "nosuid", "noexec"]));
    }

    #[test]
    fn a_name_is_no_path() {
        for bad in ["", ".", "..", "a/b", "../x", ".hidden", "a b"] {
            assert!(place_of(bad).is_err(), "{bad:?}");
        }
        assert_eq!(place_of("box-0").unwrap().to_bytes(), b"/box-0");
    }
}
