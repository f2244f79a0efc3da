//! What an image says about the process to run (OCI image spec, config.md).

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

/// The part of an image's configuration that concerns its containers. Absent fields are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// By Go's names: `linux`, `amd64`. Empty for a directory that was packed.
    pub os: String,
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    /// `USER`, `UID`, `USER:GROUP`, ...: see [`crate::Image::resolve_user`].
    pub user: String,
    /// `SIGTERM` or a number.
    pub stop_signal: Option<String>,
    pub volumes: Vec<String>,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

impl ImageConfig {
    /// Also returns the digests of the uncompressed layers, lowest first.
    pub(crate) fn parse(json: &[u8]) -> Result<(Self, Vec<String>), serde_json::Error> {
        let image: ImageConfiguration = serde_json::from_slice(json)?;
        let config = image.config().clone().unwrap_or_default();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let list = |value: &Option<Vec<String>>| value.clone().unwrap_or_default();
        let this = Self {
            os: image.os().to_string(),
            architecture: image.architecture().to_string(),
            variant: image.variant().clone().filter(|variant| !variant.is_empty()),
            env: list(config.env()),
            entrypoint: list(config.entrypoint()),
            cmd: list(config.cmd()),
            working_dir: text(config.working_dir()),
            user: text(config.user()),
            stop_signal: config.stop_signal().clone().filter(|signal| !signal.is_empty()),
            volumes: list(config.volumes()),
            exposed_ports: list(config.exposed_ports()),
            labels: config.labels().clone().unwrap_or_default().into_iter().collect(),
        };
        Ok((this, image.rootfs().diff_ids().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `docker save` writes it: nulls, extensions of its own, sets as objects.
    #[test]
    fn dockers_way_of_writing_a_configuration_is_understood() {
        let json = br#"{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00.5Z","container":"x","docker_version":"1",
            "config":{"Hostname":"","Tty":false,"Env":["A=b"],"Cmd":["sh"],"Image":"","Volumes":{"/data":{}},"WorkingDir":"/w",
            "Entrypoint":null,"OnBuild":null,"Labels":null,"ExposedPorts":{"80/tcp":{}},"User":"","StopSignal":"SIGINT",
            "Healthcheck":{"Test":["CMD"]},"ArgsEscaped":true,"Shell":["a"]},
            "container_config":{},"history":[{"created":"2024-01-01T00:00:00Z","empty_layer":true}],
            "rootfs":{"type":"layers","diff_ids":["sha256:0"]}}"#;
        let (config, diff_ids) = ImageConfig::parse(json).unwrap();
        assert_eq!(diff_ids, ["sha256:0"]);
        assert_eq!((config.env, config.cmd), (vec!["A=b".to_owned()], vec!["sh".to_owned()]));
        assert_eq!(
            (config.volumes, config.exposed_ports),
            (vec!["/data".to_owned()], vec!["80/tcp".to_owned()])
        );
        assert_eq!((config.working_dir.as_str(), config.stop_signal.as_deref()), ("/w", Some("SIGINT")));
        assert!(config.entrypoint.is_empty() && config.labels.is_empty() && config.user.is_empty());
    }

    #[test]
    fn an_image_without_a_process_to_run_is_fine() {
        let json = br#"{"architecture":"arm64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let (config, _) = ImageConfig::parse(json).unwrap();
        assert_eq!(config.architecture, "arm64");
        assert!(config.cmd.is_empty());
    }
}
