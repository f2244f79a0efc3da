//! A pod as CRI describes it where containerd asks for a sandbox, turned into the spec that the pod's first container has where it asks
//! for tasks only: one recipe makes both.

use std::{fs, path::Path};

use containerd_shim_protos::{
    protobuf::{self, EnumOrUnknown, Message},
    sandbox_api::CreateSandboxRequest,
};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use securectr_sandbox::GivenFile;
use thiserror::Error;

use crate::bundle::{self, BundleError};

#[expect(
    clippy::allow_attributes,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "generated code: carries its own lint settings, and unwraps descriptors that are constants"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub(crate) use generated::pod::PodSandboxConfig;
use generated::pod::{DNSConfig, NamespaceMode};

/// The message that containerd sends as options.
const CONFIG_TYPE: &str = "runtime.v1.PodSandboxConfig";

const RESOLV_CONF: &str = "/etc/resolv.conf";

#[derive(Debug, Error)]
pub(crate) enum CriError {
    #[error("the sandbox's options are of type {0:?}, not {CONFIG_TYPE}")]
    Type(String),
    #[error("understand the sandbox's options")]
    Decode(#[source] protobuf::Error),
    #[error("a user namespace for a pod cannot be had in a guest")]
    UserNamespace,
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// None when the caller is not CRI.
pub(crate) fn config(request: &CreateSandboxRequest) -> Result<Option<PodSandboxConfig>, CriError> {
    let Some(options) = request.options.as_ref().filter(|options| !options.type_url.is_empty()) else {
        return Ok(None);
    };
    if options.type_url.rsplit('/').next() != Some(CONFIG_TYPE) {
        return Err(CriError::Type(options.type_url.clone()));
    }
    PodSandboxConfig::parse_from_bytes(&options.value).map(Some).map_err(CriError::Decode)
}

/// The spec that stands for the pod: what the bundle has, if anything, with what CRI wants.
pub(crate) fn spec(
    request: &CreateSandboxRequest,
    config: Option<&PodSandboxConfig>,
) -> Result<Spec, CriError> {
    let mut spec = bundle::spec_if_any(Path::new(&request.bundle_path))?.unwrap_or_else(|| {
        let mut empty = Spec::default();
        empty.set_process(None).set_mounts(None).set_hostname(None).set_linux(None);
        empty
    });
    let config = config.cloned().unwrap_or_default();
    let linux = config.linux.unwrap_or_default();
    let modes = linux.security_context.unwrap_or_default().namespace_options.unwrap_or_default();
    if modes.userns_options.as_ref().is_some_and(|user| !is_node(user.mode)) {
        return Err(CriError::UserNamespace);
    }
    if !config.hostname.is_empty() {
        spec.set_hostname(Some(config.hostname));
    }
    let annotations = spec.annotations_mut().get_or_insert_default();
    annotations.extend(config.annotations);
    annotations.extend(request.annotations.clone());
    bundle::mark_as_pod(annotations);
    let resources = linux.resources.unwrap_or_default();
    for (name, value) in [
        ("memory", resources.memory_limit_in_bytes),
        ("cpu-quota", resources.cpu_quota),
        ("cpu-period", resources.cpu_period),
    ] {
        if value > 0 {
            annotations.insert(bundle::limit_name(name), value.to_string());
        }
    }
    let in_spec = spec.linux_mut().get_or_insert_default();
    if !linux.sysctls.is_empty() {
        in_spec.set_sysctl(Some(linux.sysctls));
    }
    if !linux.cgroup_parent.is_empty() {
        in_spec.set_cgroups_path(Some(cgroup(&linux.cgroup_parent, &request.sandbox_id).into()));
    }
    let mut namespaces = Vec::new();
    for (kind, mode) in [
        (LinuxNamespaceType::Network, modes.network),
        (LinuxNamespaceType::Pid, modes.pid),
        (LinuxNamespaceType::Ipc, modes.ipc),
    ] {
        // The host's own are shown by their absence.
        if !is_node(mode) {
            let path = (kind == LinuxNamespaceType::Network && !request.netns_path.is_empty())
                .then(|| request.netns_path.clone().into());
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind).set_path(path);
            namespaces.push(namespace);
        }
    }
    in_spec.set_namespaces(Some(namespaces));
    Ok(spec)
}

fn is_node(mode: EnumOrUnknown<NamespaceMode>) -> bool {
    mode.enum_value() == Ok(NamespaceMode::NODE)
}

/// As containerd names those of containers: in systemd's way below a slice.
fn cgroup(parent: &str, id: &str) -> String {
    match parent.rsplit('/').next() {
        Some(slice) if slice.ends_with(".slice") => format!("{slice}:cri-containerd:{id}"),
        _ => format!("{}/{id}", parent.trim_end_matches('/')),
    }
}

/// What containerd lays into the containers of a pod when it is asked for tasks only.
pub(crate) fn files(spec: &Spec, config: Option<&PodSandboxConfig>) -> Vec<GivenFile> {
    let mut files = Vec::from(GivenFile::names(spec.hostname().as_deref().unwrap_or("localhost")));
    let dns = config.and_then(|config| config.dns_config.as_ref());
    // The host's, when the pod has none of its own.
    files.push(GivenFile::new(
        RESOLV_CONF,
        dns.map_or_else(|| fs::read_to_string(RESOLV_CONF).unwrap_or_default(), resolv_conf),
    ));
    files
}

/// In the form of resolv.conf(5).
fn resolv_conf(dns: &DNSConfig) -> String {
    let list = |keyword: &str, values: &[String]| match values {
        [] => String::new(),
        values => format!("{keyword} {}\n", values.join(" ")),
    };
    let servers: String = dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    list("search", &dns.searches) + &servers + &list("options", &dns.options)
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::{MessageField, well_known_types::any::Any};

    use super::*;

    fn request(options: Option<Any>) -> CreateSandboxRequest {
        CreateSandboxRequest {
            sandbox_id: "p1".into(),
            bundle_path: "/nowhere".into(),
            netns_path: "/run/netns/p1".into(),
            options: options.into(),
            ..Default::default()
        }
    }

    fn planned(config: &PodSandboxConfig) -> Result<serde_json::Value, CriError> {
        spec(&request(None), Some(config)).map(|spec| serde_json::to_value(spec).unwrap())
    }

    #[test]
    fn a_pod_becomes_the_spec_of_its_first_container() {
        let linux = generated::pod::LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/pod1".into(),
            sysctls: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
            resources: MessageField::some(generated::pod::LinuxContainerResources {
                memory_limit_in_bytes: 1 << 20,
                ..Default::default()
            }),
            ..Default::default()
        };
        let config = PodSandboxConfig {
            hostname: "web".into(),
            linux: MessageField::some(linux),
            ..Default::default()
        };
        let spec = planned(&config).unwrap();
        assert_eq!(spec["hostname"], "web");
        assert_eq!(spec["linux"]["cgroupsPath"], "/kubepods/pod1/p1");
        assert_eq!(spec["linux"]["sysctl"]["net.ipv4.ip_forward"], "1");
        assert_eq!(spec["linux"]["namespaces"][0]["path"], "/run/netns/p1");
        assert_eq!(spec["annotations"]["io.kubernetes.cri.container-type"], "sandbox");
        assert_eq!(spec["annotations"]["io.kubernetes.cri.sandbox-memory"], "1048576");
    }

    #[test]
    fn what_is_the_hosts_is_asked_for_by_no_namespace() {
        let mut config = PodSandboxConfig::default();
        let context = config.linux.mut_or_insert_default().security_context.mut_or_insert_default();
        context.namespace_options.mut_or_insert_default().network = NamespaceMode::NODE.into();
        let spec = planned(&config).unwrap();
        let kinds: Vec<_> = spec["linux"]["namespaces"].as_array().unwrap().iter().collect();
        assert!(kinds.iter().all(|one| one["type"] != "network"), "{kinds:?}");
    }

    #[test]
    fn a_user_namespace_and_foreign_options_are_refused() {
        let mut config = PodSandboxConfig::default();
        let context = config.linux.mut_or_insert_default().security_context.mut_or_insert_default();
        context.namespace_options.mut_or_insert_default().userns_options.mut_or_insert_default();
        assert!(matches!(planned(&config), Err(CriError::UserNamespace)));
        let any = |type_url: &str, value: &[u8]| {
            let any = Any { type_url: type_url.into(), value: value.into(), ..Default::default() };
            super::config(&request(Some(any)))
        };
        assert!(matches!(any("other.Type", b""), Err(CriError::Type(_))));
        assert!(matches!(any(CONFIG_TYPE, b"\xff"), Err(CriError::Decode(_))));
        assert!(any("type.googleapis.com/runtime.v1.PodSandboxConfig", b"").unwrap().is_some());
        assert!(super::config(&request(None)).unwrap().is_none());
    }

    #[test]
    fn names_are_looked_up_where_the_pod_says() {
        let dns = DNSConfig {
            servers: vec!["10.0.0.2".into(), "10.0.0.3".into()],
            searches: vec!["a.local".into(), "b.local".into()],
            options: vec!["ndots:5".into()],
            ..Default::default()
        };
        let text = "search a.local b.local\nnameserver 10.0.0.2\nnameserver 10.0.0.3\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), text);
    }

    #[test]
    fn a_cgroup_below_a_slice_is_named_in_systemds_way() {
        assert_eq!(
            cgroup("/kubepods.slice/kubepods-pod1.slice", "p1"),
            "kubepods-pod1.slice:cri-containerd:p1"
        );
        assert_eq!(cgroup("/k8s.io/", "p1"), "/k8s.io/p1");
    }
}
