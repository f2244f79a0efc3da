//! A spec that was written for a host, as it is to be carried out in a guest. Pure.
//!
//! What names something of the host by a path has no meaning there: namespaces that a container shares with its pod are those of
//! the guest itself, which is the pod; host cgroups and the host's hooks are for the host.

use std::path::PathBuf;

use oci_spec::runtime::{Hooks, LinuxNamespace, LinuxNamespaceType, Spec};

use crate::PlanError;

/// Where a container's network comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkSource {
    /// Nowhere: it has a loopback.
    Nothing,
    /// A namespace of the host.
    Namespace(PathBuf),
    /// A new namespace of the host, which the spec's hooks wire.
    Hooks,
}

/// # Errors
/// It is to have the host's own: the spec has no network namespace.
pub fn network_source(spec: &Spec) -> Result<NetworkSource, PlanError> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let mut networks =
        namespaces.into_iter().flatten().filter(|one| one.typ() == LinuxNamespaceType::Network);
    let network = networks.next().ok_or(PlanError::Unsupported("the host's network"))?;
    Ok(match network.path() {
        Some(path) if has_path(network) => NetworkSource::Namespace(path.clone()),
        _ if spec.hooks().as_ref().is_some_and(has_hooks_before_create) => NetworkSource::Hooks,
        _ => NetworkSource::Nothing,
    })
}

fn has_hooks_before_create(hooks: &Hooks) -> bool {
    hooks.prestart().iter().chain(hooks.create_runtime()).any(|hooks| !hooks.is_empty())
}

pub(crate) fn adapt(spec: &mut Spec) -> Result<(), PlanError> {
    let is_wired = network_source(spec) == Ok(NetworkSource::Hooks);
    let in_guest = spec.hooks().as_ref().map(hooks_of_guest);
    spec.set_hooks(in_guest);
    // A label of the host's policy; the guest is what confines here.
    if let Some(process) = spec.process_mut() {
        process.set_apparmor_profile(None).set_selinux_label(None);
    }
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    linux.set_cgroups_path(None).set_mount_label(None);
    let Some(namespaces) = linux.namespaces_mut() else { return Ok(()) };
    let joins = |kind: LinuxNamespaceType| {
        move |namespace: &LinuxNamespace| namespace.typ() == kind && has_path(namespace)
    };
    if namespaces.iter().any(joins(LinuxNamespaceType::Pid)) {
        return Err(PlanError::Unsupported("a pid namespace of another container"));
    }
    if namespaces.iter().any(joins(LinuxNamespaceType::Mount)) {
        return Err(PlanError::Unsupported("a mount namespace of another container"));
    }
    // The guest's own network is the one that was made for it.
    let is_guests =
        |one: &LinuxNamespace| has_path(one) || is_wired && one.typ() == LinuxNamespaceType::Network;
    namespaces.retain(|namespace| !is_guests(namespace));
    Ok(())
}

fn has_path(namespace: &LinuxNamespace) -> bool {
    namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty())
}

/// The others are run by the host's side of a container's life.
fn hooks_of_guest(hooks: &Hooks) -> Hooks {
    let mut in_guest = Hooks::default();
    in_guest.set_create_container(hooks.create_container().clone());
    in_guest.set_start_container(hooks.start_container().clone());
    in_guest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn adapted(linux: serde_json::Value) -> Result<Spec, PlanError> {
        let mut spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "hooks": {"prestart": [{"path": "/bin/host"}], "startContainer": [{"path": "/bin/guest"}]},
            "linux": linux,
        }))
        .unwrap();
        adapt(&mut spec).map(|()| spec)
    }

    #[test]
    fn namespaces_of_the_pod_are_the_guests_own() {
        let spec = adapted(json!({"namespaces": [
            {"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/run/netns/x"}, {"type": "ipc", "path": "/proc/1/ns/ipc"},
        ]}))
        .unwrap();
        let kinds: Vec<_> =
            spec.linux().as_ref().unwrap().namespaces().iter().flatten().map(LinuxNamespace::typ).collect();
        assert_eq!(kinds, [LinuxNamespaceType::Pid, LinuxNamespaceType::Mount]);
    }

    #[test]
    fn a_network_is_a_namespaces_or_nothing_and_never_the_hosts() {
        let source = |namespaces: serde_json::Value, hooks: serde_json::Value| {
            let spec = json!({"ociVersion": "1.0.2", "hooks": hooks, "linux": {"namespaces": namespaces}});
            network_source(&serde_json::from_value(spec).unwrap())
        };
        let (new, wired) = (json!([{"type": "network"}]), json!({"prestart": [{"path": "/bin/wire"}]}));
        let given = json!([{"type": "network", "path": "/n"}]);
        assert_eq!(source(given, wired.clone()), Ok(NetworkSource::Namespace("/n".into())));
        assert_eq!(source(new.clone(), json!({})), Ok(NetworkSource::Nothing));
        assert_eq!(source(new, wired), Ok(NetworkSource::Hooks));
        assert!(source(json!([{"type": "pid"}]), json!({})).is_err());
    }

    #[test]
    fn a_foreign_pid_namespace_is_refused() {
        let joined = adapted(json!({"namespaces": [{"type": "pid", "path": "/proc/7/ns/pid"}]}));
        assert!(matches!(joined, Err(PlanError::Unsupported(_))));
    }

    #[test]
    fn the_hosts_hooks_and_cgroups_stay_on_the_host() {
        let spec = adapted(json!({"cgroupsPath": "/default/x"})).unwrap();
        assert!(spec.linux().as_ref().unwrap().cgroups_path().is_none());
        let hooks = spec.hooks().as_ref().unwrap();
        assert!(
            hooks.start_container().is_some()
                && serde_json::to_value(hooks).unwrap().get("prestart").is_none()
        );
    }
}
