//! What is known of a registry beside its name: mirrors, certificates, and who this user is there.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use securectr_registry::{Credentials, Host};
use serde::Deserialize;

/// Of this machine; a user's own comes before it.
const CONFIG: &str = "/etc/securectr/registries.toml";
/// Docker's certificates for a registry, in a directory of its name.
const DOCKERS_CERTIFICATES: &str = "/etc/docker/certs.d";

/// docker.io is no registry itself.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUBS_REGISTRY: &str = "registry-1.docker.io";

/// `registries.toml`: a table for each registry.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    registries: BTreeMap<String, Registry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Registry {
    /// Asked before it, in this order: `https://HOST[:PORT]` or `http://HOST[:PORT]`.
    #[serde(default)]
    mirrors: Vec<String>,
    /// HTTP without TLS.
    #[serde(default)]
    plain_http: bool,
    /// A file of certificates in PEM that may sign for it.
    ca: Option<PathBuf>,
}

/// Who is to be asked for images of a registry, one after the other.
pub(super) fn hosts(registry: &str) -> Result<Vec<Host>> {
    let config = config()?;
    let asked = config.registries.get(registry).cloned().unwrap_or_default();
    let mut hosts = Vec::new();
    for mirror in &asked.mirrors {
        let (plain_http, address) = match (mirror.strip_prefix("https://"), mirror.strip_prefix("http://")) {
            (Some(address), _) => (false, address),
            (_, Some(address)) => (true, address),
            _ => bail!("the mirror {mirror} of {registry} is neither https://HOST nor http://HOST"),
        };
        let its = config.registries.get(address).cloned().unwrap_or_default();
        hosts.push(host(address, address, plain_http, &its)?);
    }
    let address = if registry == DOCKER_HUB { DOCKER_HUBS_REGISTRY } else { registry };
    let own = host(address, registry, asked.plain_http, &asked)?;
    // As with Docker: on this machine a registry may do without TLS.
    let may_be_plain = is_loopback(registry) && !asked.plain_http && own.certificates.is_empty();
    hosts.push(Host { plain_http: own.plain_http || may_be_plain, ..own });
    Ok(hosts)
}

fn host(address: &str, registry: &str, plain_http: bool, settings: &Registry) -> Result<Host> {
    Ok(Host {
        address: address.to_owned(),
        plain_http,
        certificates: certificates(registry, settings.ca.as_deref())?,
        credentials: credentials(registry)?,
    })
}

fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn config() -> Result<Config> {
    let own = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".config")))
        .map(|config| config.join("securectr/registries.toml"));
    for path in own.iter().map(PathBuf::as_path).chain([Path::new(CONFIG)]) {
        match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            text => {
                let text = text.with_context(|| format!("read {}", path.display()))?;
                return toml::from_str(&text).with_context(|| format!("understand {}", path.display()));
            }
        }
    }
    Ok(Config::default())
}

/// Of our configuration, and Docker's.
fn certificates(registry: &str, configured: Option<&Path>) -> Result<Vec<String>> {
    let directory = Path::new(DOCKERS_CERTIFICATES).join(registry);
    let dockers = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let dockers = dockers.filter(|path| path.extension().is_some_and(|extension| extension == "crt"));
    let files = configured.map(Path::to_owned).into_iter().chain(dockers);
    files.map(|path| fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))).collect()
}

/// Of `docker login`, helpers included.
fn credentials(registry: &str) -> Result<Option<Credentials>> {
    let directory = env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".docker")));
    let Some(path) = directory.map(|directory| directory.join("config.json")) else { return Ok(None) };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("read {}", path.display()))?,
    };
    let failed = || format!("find the credentials for {registry} by {}", path.display());
    match get_credential_from_reader(io::BufReader::new(file), registry) {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Some(Credentials::Basic { username, password }))
        }
        Ok(DockerCredential::IdentityToken(_)) => {
            bail!("{}: identity tokens are not understood, names and passwords are", failed())
        }
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        // A helper that knows nothing of a registry says so by its exit code.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found") =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_told_from_others() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1:80", "127.9.9.9"] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in ["localhost.example", "128.0.0.1", "example.com:5000", "127.evil.example"] {
            assert!(!is_loopback(registry), "{registry}");
        }
    }

    #[test]
    fn a_configuration_says_nothing_that_is_not_understood() {
        let text =
            "[registries.\"a.example:5000\"]\nmirrors = [\"http://b\"]\nplain-http = true\nca = \"/c.pem\"\n";
        let config: Config = toml::from_str(text).unwrap();
        let registry = &config.registries["a.example:5000"];
        assert!(registry.plain_http && registry.mirrors == ["http://b"]);
        assert!(toml::from_str::<Config>("[registries.a]\nplain_http = true\n").is_err());
    }
}
