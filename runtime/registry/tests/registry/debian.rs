//! Debian's `docker-registry`, on loopback. What is pushed to one is in all that share its storage.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
};
use tempfile::TempDir;

use crate::image::Image;

pub(crate) const USERNAME: &str = "somebody";
pub(crate) const PASSWORD: &str = "correct horse";
/// The line for both, as `htpasswd -B` makes it.
const LINE: &str = "somebody:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n";

pub(crate) struct Storage {
    pub(crate) directory: TempDir,
}

pub(crate) struct Registry {
    pub(crate) address: String,
    process: Child,
}

impl Storage {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn open(&self) -> Registry {
        self.serve("open", "", "")
    }

    /// With one user.
    pub(crate) fn with_login(&self) -> Registry {
        let file = self.directory.path().join("htpasswd");
        fs::write(&file, LINE).unwrap();
        self.serve(
            "login",
            "",
            &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display()),
        )
    }

    /// By TLS, for `localhost`. Answers also with the certificate of who has signed for it, in PEM.
    pub(crate) fn with_tls(&self) -> (Registry, String) {
        let [authority, certificate, key] = certificates(self.directory.path());
        let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
        (self.serve("tls", &tls, ""), fs::read_to_string(authority).unwrap())
    }

    fn serve(&self, name: &str, http: &str, more: &str) -> Registry {
        let storage = self.directory.path();
        let config = storage.join(name).with_extension("yml");
        let log = config.with_extension("log");
        let text = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n{http}{more}",
            storage.join("registry").display()
        );
        fs::write(&config, text).unwrap();
        let log_file = fs::File::create(&log).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(log_file.try_clone().unwrap())
            .stderr(log_file)
            .spawn()
            .expect("run docker-registry of the Debian package of that name");
        let mut registry = Registry { address: String::new(), process };
        let begin = Instant::now();
        while registry.address.is_empty() {
            let told = fs::read_to_string(&log).unwrap();
            let ended = registry.process.try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < Duration::from_secs(20), "docker-registry: {told}");
            thread::sleep(Duration::from_millis(20));
            registry.address = listening_on(&told).unwrap_or_default();
        }
        registry
    }
}

/// The address that it has chosen, as it tells: `msg="listening on 127.0.0.1:PORT"`, or with `, tls` at the end.
fn listening_on(log: &str) -> Option<String> {
    let (_, rest) = log.split_once("listening on ")?;
    let (address, _) = rest.split_once([',', '"'])?;
    Some(address.to_owned())
}

impl Registry {
    pub(crate) fn push(&self, repository: &str, tag: &str, image: &Image) {
        let reference = Reference::with_tag(self.address.clone(), repository.into(), tag.into());
        let blobs: Vec<_> = image.blobs.iter().collect();
        push(&reference, &blobs, &image.manifest, image.media_type);
    }

    /// An image that has no name but its digest, as those of an index.
    pub(crate) fn push_untagged(&self, repository: &str, image: &Image) {
        self.push(repository, &image.digest().replace(':', "-"), image);
    }

    pub(crate) fn push_index(&self, repository: &str, tag: &str, index: &[u8], media_type: &'static str) {
        let reference = Reference::with_tag(self.address.clone(), repository.into(), tag.into());
        push(&reference, &[], index, media_type);
    }
}

fn push(reference: &Reference, blobs: &[(&String, &Vec<u8>)], manifest: &[u8], media_type: &'static str) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
    let client = Client::try_from(config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (digest, bytes) in blobs {
            client.push_blob(reference, bytes.to_vec(), digest).await.unwrap();
        }
        let body = manifest.to_vec();
        client.push_manifest_raw(reference, body, media_type.parse().unwrap()).await.unwrap();
    });
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An authority, and a certificate and key for `localhost` that it has signed for.
fn certificates(directory: &Path) -> [PathBuf; 3] {
    let files = ["ca.pem", "ca.key", "server.pem", "server.key", "server.csr", "server.ext"];
    let [ca, ca_key, server, key, csr, ext] = files.map(|name| directory.join(name));
    fs::write(&ext, "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    let openssl = |arguments: &[&str], files: &[(&str, &PathBuf)]| {
        let mut command = Command::new("openssl");
        command.args(arguments);
        for (option, file) in files {
            command.arg(option).arg(file);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"];
    let own = [&new[..], &["/CN=test authority", "-x509", "-days", "2"]].concat();
    openssl(&own, &[("-keyout", &ca_key), ("-out", &ca)]);
    openssl(&[&new[..], &["/CN=localhost"]].concat(), &[("-keyout", &key), ("-out", &csr)]);
    let signed = ["x509", "-req", "-days", "2", "-CAcreateserial"];
    openssl(
        &signed,
        &[("-in", &csr), ("-CA", &ca), ("-CAkey", &ca_key), ("-extfile", &ext), ("-out", &server)],
    );
    [ca, server, key]
}
