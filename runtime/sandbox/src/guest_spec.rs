//! A spec that was written for a host, as it is to be carried out in a guest. Pure.
//!
//! What names something of the host by a path has no meaning there: namespaces that a container shares with its pod are the guest's
//! own ones of that pod; host cgroups and the host's hooks are for the host.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, LinuxNamespace, LinuxNamespaceType, Spec};
use securectr_protocol::{COPY_UP, POD};

use crate::{PRIVATE_COPY, PlanError, Scope};

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

pub(crate) fn adapt(spec: &mut Spec, scope: Scope) -> Result<(), PlanError> {
    let is_wired = network_source(spec) == Ok(NetworkSource::Hooks);
    let in_guest = spec.hooks().as_ref().map(hooks_of_guest);
    spec.set_hooks(in_guest);
    // A label of the host's policy; the guest is what confines here.
    if let Some(process) = spec.process_mut() {
        process.set_apparmor_profile(None).set_selinux_label(None);
    }
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    linux.set_cgroups_path(None).set_mount_label(None);
    let listed = linux.namespaces().clone().unwrap_or_default();
    if listed.iter().all(|namespace| namespace.typ() != LinuxNamespaceType::Pid) {
        // The guest's own would show the agent.
        return Err(PlanError::Unsupported("the host's pid namespace"));
    }
    let in_guest = listed.into_iter().filter_map(|one| counterpart(one, scope, is_wired).transpose());
    let namespaces = in_guest.collect::<Result<Vec<_>, _>>()?;
    linux.set_namespaces(Some(namespaces));
    Ok(())
}

/// What a namespace is in the guest: a new one, the pod's, or none when it is the guest's own.
fn counterpart(
    mut namespace: LinuxNamespace,
    scope: Scope,
    is_wired: bool,
) -> Result<Option<LinuxNamespace>, PlanError> {
    let kind = namespace.typ();
    if !has_path(&namespace) {
        // The guest's own network is the one that was made for it.
        let is_guests = is_wired && kind == LinuxNamespaceType::Network;
        return Ok((!is_guests).then_some(namespace));
    }
    match (kind, scope) {
        (LinuxNamespaceType::Mount, _) => {
            Err(PlanError::Unsupported("a mount namespace of another container"))
        }
        (LinuxNamespaceType::User | LinuxNamespaceType::Time, _) => {
            Err(PlanError::Unsupported("a user or time namespace of another process"))
        }
        (LinuxNamespaceType::Pid, Scope::Alone { .. }) => {
            Err(PlanError::Unsupported("a pid namespace of another container"))
        }
        (LinuxNamespaceType::Pid | LinuxNamespaceType::Ipc | LinuxNamespaceType::Uts, Scope::Pod) => {
            namespace.set_path(Some(Path::new(POD).join(kind.to_string())));
            Ok(Some(namespace))
        }
        _ => Ok(None),
    }
}

/// Words of ours mean nothing in the specs of others.
pub(crate) fn refuse_own_words(spec: &Spec) -> Result<(), PlanError> {
    for option in spec.mounts().iter().flatten().flat_map(|mount| mount.options().iter().flatten()) {
        if let Some(own) = [COPY_UP, PRIVATE_COPY].into_iter().find(|own| option.starts_with(own)) {
            return Err(PlanError::Unsupported(own));
        }
    }
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

    const ALONE: Scope = Scope::Alone { shm_bytes: None };

    fn adapted(linux: serde_json::Value, scope: Scope) -> Result<Spec, PlanError> {
        let mut spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "hooks": {"prestart": [{"path": "/bin/host"}], "startContainer": [{"path": "/bin/guest"}]},
            "linux": linux,
        }))
        .unwrap();
        adapt(&mut spec, scope).map(|()| spec)
    }

    fn namespaces(linux: serde_json::Value, scope: Scope) -> serde_json::Value {
        let spec = adapted(linux, scope).unwrap();
        serde_json::to_value(spec.linux().as_ref().unwrap().namespaces()).unwrap()
    }

    #[test]
    fn namespaces_of_the_host_are_the_guests_own() {
        let listed = json!([
            {"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/run/netns/x"}, {"type": "ipc", "path": "/proc/1/ns/ipc"},
        ]);
        assert_eq!(
            namespaces(json!({"namespaces": listed}), ALONE),
            json!([{"type": "pid"}, {"type": "mount"}])
        );
    }

    #[test]
    fn namespaces_of_the_pod_are_those_that_the_agent_has_made_for_it() {
        let path = |kind: &str| json!({"type": kind, "path": format!("/proc/7/ns/{kind}")});
        let listed = json!([path("pid"), {"type": "mount"}, path("ipc"), path("uts"), path("network")]);
        let pods = |kind: &str| json!({"type": kind, "path": format!("/run/securectr/pod/{kind}")});
        let expected = json!([pods("pid"), {"type": "mount"}, pods("ipc"), pods("uts")]);
        assert_eq!(namespaces(json!({"namespaces": listed}), Scope::Pod), expected);
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
    fn a_foreign_namespace_without_a_counterpart_is_refused() {
        for kind in ["user", "time", "mount"] {
            let joined = json!({"namespaces": [{"type": "pid"}, {"type": kind, "path": "/proc/7/ns/x"}]});
            assert!(matches!(adapted(joined, Scope::Pod), Err(PlanError::Unsupported(_))), "{kind}");
        }
        let joined = json!({"namespaces": [{"type": "pid", "path": "/proc/7/ns/pid"}]});
        assert!(matches!(adapted(joined, ALONE), Err(PlanError::Unsupported(_))));
        for scope in [ALONE, Scope::Pod] {
            let hosts = adapted(json!({"namespaces": [{"type": "mount"}]}), scope);
            assert_eq!(hosts.unwrap_err(), PlanError::Unsupported("the host's pid namespace"));
        }
    }

    #[test]
    fn our_own_words_are_refused_from_others() {
        let with = |option: &str| {
            let mounts = json!([{"destination": "/a", "type": "bind", "source": "/b", "options": [option]}]);
            let spec = json!({"ociVersion": "1.2.0", "mounts": mounts});
            refuse_own_words(&serde_json::from_value(spec).unwrap())
        };
        assert_eq!((with("ro"), with(COPY_UP)), (Ok(()), Err(PlanError::Unsupported(COPY_UP))));
        assert_eq!(with("securectr-copy=/etc"), Err(PlanError::Unsupported(PRIVATE_COPY)));
    }

    #[test]
    fn the_hosts_hooks_and_cgroups_stay_on_the_host() {
        let spec =
            adapted(json!({"namespaces": [{"type": "pid"}], "cgroupsPath": "/default/x"}), ALONE).unwrap();
        assert!(spec.linux().as_ref().unwrap().cgroups_path().is_none());
        let hooks = spec.hooks().as_ref().unwrap();
        assert!(
            hooks.start_container().is_some()
                && serde_json::to_value(hooks).unwrap().get("prestart").is_none()
        );
    }
}
