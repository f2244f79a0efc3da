//! One host that is asked for an image. What oci-client says becomes errors that a user can act on; whatever a host answers to, it
//! is waited for only so long.

use std::{future::Future, time::Duration};

use oci_client::{
    Client,
    client::{BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};
use oci_spec::{distribution::Reference, image::Digest};
use securectr_registry::{Credentials, Patience};
use thiserror::Error;
use tokio::time::timeout;

use crate::error::quote;

/// Of these a host may choose, the newer ones first.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

pub(crate) struct Host {
    client: Client,
    auth: RegistryAuth,
    patience: Patience,
    /// It works with tokens, and has given one.
    has_token: bool,
}

#[derive(Debug, Error)]
pub(crate) enum HostError {
    #[error("prepare to speak to it")]
    Client(#[source] OciDistributionError),
    #[error("a certificate that is to be trusted is not in PEM")]
    Certificate,
    #[error("speak to it")]
    Request(#[source] OciDistributionError),
    #[error("what it sends is not what was asked for")]
    Digest(#[source] OciDistributionError),
    #[error("it has not answered within {0} ms")]
    Unanswered(u64),
    #[error("it asks for a login{}", after_colon(.0))]
    LoginNeeded(String),
    #[error("it refuses the login{}", after_colon(.0))]
    LoginRefused(String),
    #[error("it denies access: there is no such image, or this login may not have it")]
    Denied,
    #[error("its token is none that can be sent")]
    Token,
    #[error("it has no such image")]
    NoRepository,
    #[error("it has the image, but no tag '{0}'")]
    NoTag(String),
    #[error("it has not what was asked for")]
    Missing,
    #[error("it answers with an error: {0}")]
    Refused(String),
    #[error("it answers with an error for now: {0}")]
    Busy(String),
}

fn after_colon(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

impl HostError {
    /// Whether the same may go well later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Request(OciDistributionError::RequestError(error)) => {
                !error.is_redirect() && !error.is_builder()
            }
            Self::Unanswered(_) | Self::Busy(_) => true,
            _ => false,
        }
    }
}

impl Host {
    pub(crate) fn new(host: &securectr_registry::Host, patience: Patience) -> Result<Self, HostError> {
        // The library takes what has none for nothing.
        if !host.certificates.iter().all(|pem| pem.contains("-----BEGIN CERTIFICATE-----")) {
            return Err(HostError::Certificate);
        }
        let certificate =
            |pem: &String| Certificate { encoding: CertificateEncoding::Pem, data: pem.clone().into_bytes() };
        let config = ClientConfig {
            protocol: if host.plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            extra_root_certificates: host.certificates.iter().map(certificate).collect(),
            platform_resolver: None,
            read_timeout: Some(Duration::from_millis(patience.stall_ms)),
            connect_timeout: Some(Duration::from_millis(patience.connect_ms)),
            user_agent: concat!("securectr/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let auth = match &host.credentials {
            None => RegistryAuth::Anonymous,
            Some(Credentials::Basic { username, password }) => {
                RegistryAuth::Basic(username.clone(), password.clone())
            }
            Some(Credentials::Token(token)) => RegistryAuth::Bearer(token.clone()),
        };
        let client = Client::try_from(config).map_err(HostError::Client)?;
        Ok(Self { client, auth, patience, has_token: false })
    }

    /// Must come first: the library itself would take a failed login for none.
    pub(crate) async fn log_in(&mut self, image: &Reference) -> Result<(), HostError> {
        let operation = oci_client::RegistryOperation::Pull;
        let token = self.within(self.client.auth(image, &self.auth, operation)).await?;
        // The library panics when it cannot send what it was given.
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| matches!(byte, b' '..=b'~'))) {
            return Err(HostError::Token);
        }
        self.has_token = token.is_some();
        Ok(())
    }

    /// The bytes of a manifest or an index. What they are, they must say themselves.
    pub(crate) async fn manifest(&self, image: &Reference) -> Result<Vec<u8>, HostError> {
        let pulled = self.within(self.client.pull_manifest_raw(image, &self.auth, &MANIFEST_TYPES)).await;
        match (pulled, image.tag()) {
            (Ok((bytes, _)), _) => Ok(bytes.into()),
            (Err(HostError::Missing), Some(tag)) => Err(self.why_missing(image, tag).await),
            (Err(error), _) => Err(error),
        }
    }

    /// For a missing tag, some registries say the same as for a missing image.
    async fn why_missing(&self, image: &Reference, tag: &str) -> HostError {
        match self.within(self.client.list_tags(image, &self.auth, Some(1), None)).await {
            Ok(_) => HostError::NoTag(tag.to_owned()),
            Err(HostError::NoRepository) => HostError::NoRepository,
            Err(_) => HostError::Missing,
        }
    }

    /// A blob's bytes, those before the offset left out where the host can do that.
    pub(crate) async fn blob(
        &self,
        image: &Reference,
        digest: &Digest,
        offset_bytes: u64,
    ) -> Result<BlobResponse, HostError> {
        let digest = digest.as_ref();
        self.within(async {
            match offset_bytes {
                0 => self.client.pull_blob_stream(image, digest).await.map(BlobResponse::Full),
                _ => self.client.pull_blob_stream_partial(image, digest, offset_bytes, None).await,
            }
        })
        .await
    }

    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, OciDistributionError>>,
    ) -> Result<T, HostError> {
        match timeout(Duration::from_millis(self.patience.answer_ms), answer).await {
            Ok(answer) => answer.map_err(|error| self.explain(error)),
            Err(_) => Err(HostError::Unanswered(self.patience.answer_ms)),
        }
    }

    fn explain(&self, error: OciDistributionError) -> HostError {
        let is_anonymous = self.auth == RegistryAuth::Anonymous;
        match error {
            OciDistributionError::AuthenticationFailure(words) if is_anonymous => {
                HostError::LoginNeeded(quote(&words))
            }
            OciDistributionError::AuthenticationFailure(words) => HostError::LoginRefused(quote(&words)),
            OciDistributionError::UnauthorizedError { .. } if is_anonymous => {
                HostError::LoginNeeded("the image is not for everyone, or is not there".into())
            }
            OciDistributionError::UnauthorizedError { .. } if !self.has_token => {
                HostError::LoginRefused("wrong username or password".into())
            }
            OciDistributionError::UnauthorizedError { .. } => HostError::Denied,
            OciDistributionError::RegistryError { envelope, .. } => {
                match envelope.errors.into_iter().next() {
                    Some(first) => from_code(first.code, &first.message),
                    None => HostError::Refused("without a word".into()),
                }
            }
            OciDistributionError::ServerError { code: 404, .. } => HostError::Missing,
            OciDistributionError::ServerError { code, message, .. } => {
                let words = format!("{code}{}", after_colon(&quote(&message)));
                if code >= 500 { HostError::Busy(words) } else { HostError::Refused(words) }
            }
            error @ OciDistributionError::DigestError(_) => HostError::Digest(error),
            other => HostError::Request(other),
        }
    }
}

/// distribution-spec, "Error Codes".
fn from_code(code: OciErrorCode, message: &str) -> HostError {
    match code {
        OciErrorCode::NameUnknown => HostError::NoRepository,
        OciErrorCode::ManifestUnknown | OciErrorCode::BlobUnknown | OciErrorCode::NotFound => {
            HostError::Missing
        }
        OciErrorCode::Denied | OciErrorCode::Unauthorized => HostError::Denied,
        OciErrorCode::Toomanyrequests => HostError::Busy(quote(message)),
        OciErrorCode::Other(code) => HostError::Refused(quote(&format!("{code}{}", after_colon(message)))),
        code => HostError::Refused(quote(&format!("{code:?}{}", after_colon(message)))),
    }
}
