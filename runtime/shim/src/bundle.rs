//! What containerd lays into a bundle: the spec, and in it to which pod a container belongs.

use std::{collections::HashMap, io::ErrorKind, path::Path};

use oci_spec::runtime::Spec;
use securectr_sandbox::{Config, ConfigError};
use thiserror::Error;

/// CRI's annotations, in the spellings of containerd and of CRI-O's heirs.
const SANDBOX_ID: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];
const CONTAINER_TYPE: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];

#[derive(Debug, Error)]
pub(crate) enum BundleError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the container {0} names no pod: its spec has no annotation {name}", name = SANDBOX_ID[0])]
    NoPod(String),
}

/// What a container is to its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It has a machine of its own.
    Single,
    /// CRI's "pause" container: it stands for the pod, and needs no process.
    Pod,
    /// One of the containers of a pod that was made before.
    Member { pod: String },
}

/// Reads `config.json`. Says nothing: all that the action `start` writes is its answer.
pub(crate) fn spec(bundle: &Path) -> Result<Spec, BundleError> {
    Ok(Config::read(bundle)?.spec)
}

/// None for a sandbox, which containerd describes later.
pub(crate) fn spec_if_any(bundle: &Path) -> Result<Option<Spec>, BundleError> {
    match spec(bundle) {
        Err(BundleError::Config(ConfigError::Read { source, .. }))
            if source.kind() == ErrorKind::NotFound =>
        {
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// The same for the server, whose log has what was left out.
pub(crate) fn spec_with_warnings(bundle: &Path) -> Result<Spec, BundleError> {
    let config = Config::read(bundle)?;
    for name in &config.unknown_capabilities {
        eprintln!("there is no capability {name}");
    }
    Ok(config.spec)
}

/// Says of a spec that it is for what stands for a pod.
pub(crate) fn mark_as_pod(annotations: &mut HashMap<String, String>) {
    annotations.insert(CONTAINER_TYPE[0].to_owned(), "sandbox".to_owned());
}

/// The annotation that has a limit of a pod's containers together: `memory`, `cpu-quota` or `cpu-period`.
pub(crate) fn limit_name(limit: &str) -> String {
    format!("io.kubernetes.cri.sandbox-{limit}")
}

pub(crate) fn role(id: &str, spec: &Spec) -> Result<Role, BundleError> {
    let annotations = spec.annotations().as_ref();
    let value = |names: [&str; 2]| names.iter().find_map(|name| annotations?.get(*name)).cloned();
    match value(CONTAINER_TYPE).as_deref() {
        Some("sandbox") => Ok(Role::Pod),
        Some("container") => {
            let pod = value(SANDBOX_ID).ok_or_else(|| BundleError::NoPod(id.to_owned()))?;
            Ok(Role::Member { pod })
        }
        _ => Ok(Role::Single),
    }
}

/// Whose server serves the container: its pod's, or its own. A sandbox has its own.
pub(crate) fn group(id: &str, spec: Option<&Spec>) -> Result<String, BundleError> {
    Ok(match spec.map_or(Ok(Role::Pod), |spec| role(id, spec))? {
        Role::Single | Role::Pod => id.to_owned(),
        Role::Member { pod } => pod,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role_with(annotations: serde_json::Value) -> Result<Role, BundleError> {
        let spec =
            serde_json::from_value(json!({"ociVersion": "1.0.2", "annotations": annotations})).unwrap();
        role("c1", &spec)
    }

    #[test]
    fn a_container_without_annotations_has_a_machine_of_its_own() {
        assert_eq!(role_with(json!({})).unwrap(), Role::Single);
    }

    #[test]
    fn a_container_of_a_pod_is_served_by_the_pods_server() {
        let pod = json!({"io.kubernetes.cri.container-type": "sandbox"});
        assert_eq!(role_with(pod).unwrap(), Role::Pod);
        let member =
            json!({"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "p1"});
        assert_eq!(role_with(member).unwrap(), Role::Member { pod: "p1".into() });
    }

    #[test]
    fn a_container_of_no_pod_in_particular_is_refused() {
        assert!(role_with(json!({"io.kubernetes.cri.container-type": "container"})).is_err());
    }
}
