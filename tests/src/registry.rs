//! An image registry of the tests' own on loopback: Debian's `docker-registry`, filled by `skopeo`.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{eventually, image};

/// Who may ask one that wants a login.
pub const USERNAME: &str = "somebody";
pub const PASSWORD: &str = "correct horse";
/// The line for both, as `htpasswd -B` makes it.
const LINE: &str = "somebody:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n";

/// Ends with this.
pub struct Registry {
    /// `127.0.0.1:PORT`.
    pub address: String,
    place: TempDir,
    process: Child,
}

impl Registry {
    pub fn start() -> Result<Self> {
        Self::start_with("")
    }

    /// One that wants a login.
    pub fn start_with_login() -> Result<Self> {
        Self::start_with("auth:\n  htpasswd:\n    realm: tests\n    path: htpasswd\n")
    }

    fn start_with(auth: &str) -> Result<Self> {
        let place = tempfile::tempdir()?;
        // Another may take the port in between; then the program below ends at once.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let storage = "storage:\n  filesystem:\n    rootdirectory: storage\n";
        let config = format!("version: 0.1\nlog:\n  level: error\n{storage}http:\n  addr: {address}\n{auth}");
        fs::write(place.path().join("config.yml"), config)?;
        fs::write(place.path().join("htpasswd"), LINE)?;
        let process = Command::new("docker-registry")
            .args(["serve", "config.yml"])
            .current_dir(place.path())
            .stdout(Stdio::null())
            .stderr(fs::File::create(place.path().join("log"))?)
            .spawn()
            .context("run docker-registry")?;
        let mut registry = Self { address, place, process };
        eventually("the registry answers", || {
            let log = || fs::read_to_string(registry.place.path().join("log")).unwrap_or_default();
            ensure!(registry.process.try_wait()?.is_none(), "docker-registry: {}", log());
            Ok(TcpStream::connect(&registry.address).is_ok())
        })?;
        Ok(registry)
    }

    /// Pushes a demo image, "busybox" say; answers with its whole name.
    pub fn push(&self, demo: &str, repository: &str) -> Result<String> {
        let name = format!("{}/{repository}", self.address);
        let pushed = Command::new("skopeo")
            .args(["copy", "--quiet", "--dest-tls-verify=false", "--dest-creds"])
            .arg(format!("{USERNAME}:{PASSWORD}"))
            .args([image(demo), format!("docker://{name}")])
            .output()
            .context("run skopeo")?;
        ensure!(pushed.status.success(), "skopeo: {}", String::from_utf8_lossy(&pushed.stderr));
        Ok(name)
    }

    /// Where it keeps what it has.
    pub fn storage(&self) -> &Path {
        self.place.path()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
