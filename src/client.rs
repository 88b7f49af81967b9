//! A vault seen from outside: profiles, a connection over mutual TLS, and typed errors.
//!
//! Invariant: nothing is sent before the other side has proved to be the vault that the profile names, and no error of
//! this module holds a value or a token.
//!
//! It knows the wire and not the vault: with the server it shares `proto` and `tls` alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::caller::{SpiffeId, leaf};
use crate::proto::v1;
use crate::proto::v1::audit_service_client::AuditServiceClient;
use crate::proto::v1::token_service_client::TokenServiceClient;
use crate::tls;

mod failure;

pub use self::failure::{Error, Failure, ItemReceipt, TOO_LONG};

/// How long a connection may take to be made, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take. The server hears of it and does not go on for nobody.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a vault is, who the caller is, and whom it expects to find.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// `host:port`.
    pub address: String,
    /// The certificates that the vault's own must lead to, PEM.
    pub ca: PathBuf,
    /// The caller's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub private_key: PathBuf,
    /// The name that the vault's certificate must have, where it is not the host of `address`.
    pub server_name: Option<String>,
    /// The SPIFFE ID that the vault's certificate must have besides.
    pub server_id: Option<String>,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file can't be read.
    #[error("{}: cannot read the profile: {source}. `cloakroom init` writes one for each sample client under profiles/", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a profile.
    #[error("{}: not a profile: {problem}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Where and what, as the parser says it.
        problem: String,
    },
}

/// A connection to a vault. Cloning it is cheap and shares the connection.
#[derive(Clone)]
pub struct Client {
    tokens: TokenServiceClient<Channel>,
    audit: AuditServiceClient<Channel>,
    health: HealthClient<Channel>,
    address: Arc<str>,
}

/// The audit log as it grows.
pub struct Events {
    stream: tonic::Streaming<v1::TailEventsResponse>,
    address: Arc<str>,
}

impl Profile {
    /// Reads a profile. Relative paths in it start at its folder.
    ///
    /// # Errors
    /// If it can't be read or has a mistake; unknown keys are mistakes.
    pub fn load(file: &Path) -> Result<Self, ProfileError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ProfileError::Unreadable { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// As [`Profile::load`], with the text of the file given.
    ///
    /// # Errors
    /// If it has a mistake; unknown keys are mistakes.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ProfileError> {
        let mut profile: Self = toml::from_str(text)
            .map_err(|error| ProfileError::Malformed { file: file.to_owned(), problem: error.to_string() })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        for path in [&mut profile.ca, &mut profile.certificate, &mut profile.private_key] {
            *path = folder.join(&*path);
        }
        Ok(profile)
    }

    /// The SPIFFE ID that the profile's own certificate has.
    ///
    /// # Errors
    /// If the certificate can't be read or has none.
    pub fn own_id(&self) -> Result<SpiffeId, Error> {
        let file = self.certificate.display();
        let unusable = |problem: String| Error::Profile { problem: format!("{file}: {problem}") };
        let certificate =
            CertificateDer::from_pem_file(&self.certificate).map_err(|error| unusable(error.to_string()))?;
        let id = leaf::spiffe_id(&certificate).map_err(|error| unusable(error.to_string()))?;
        id.ok_or_else(|| unusable("the certificate has no SPIFFE ID, so it tells no trust domain".to_owned()))
    }

    fn connector(&self) -> Result<tls::client::Connector, Error> {
        let server_id = self.server_id.as_deref().map(SpiffeId::parse).transpose();
        let server_id = server_id.map_err(|error| Error::Profile { problem: format!("server_id: {error}") })?;
        let config = tls::client::Config {
            authorities: self.ca.clone(),
            certificate: self.certificate.clone(),
            private_key: self.private_key.clone(),
            server_name: self.server_name.clone(),
            server_id,
        };
        tls::client::Connector::new(&config).map_err(|error| Error::Profile { problem: error.to_string() })
    }
}

impl Client {
    /// Connects, and checks that the other side is the vault that the profile names.
    ///
    /// # Errors
    /// If the profile's files are not usable, nobody answers, or the other side is someone else. Whether the vault accepts
    /// *our* certificate shows only at the first call: so it is in TLS 1.3.
    pub async fn connect(profile: &Profile) -> Result<Self, Error> {
        let connector = profile.connector()?;
        let unreachable = |problem: String| Error::Unreachable { address: profile.address.clone(), problem };
        // The scheme is `http` because TLS is the connector's business, not tonic's.
        let endpoint = Endpoint::from_shared(format!("http://{}", profile.address))
            .map_err(|_| unreachable("not an address; write it as host:port, such as 127.0.0.1:7443".to_owned()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .http2_adaptive_window(true);
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| Error::from_transport(&profile.address, &error))?;
        Ok(Self {
            tokens: TokenServiceClient::new(channel.clone()),
            audit: AuditServiceClient::new(channel.clone()),
            health: HealthClient::new(channel),
            address: profile.address.as_str().into(),
        })
    }

    /// Stores values.
    ///
    /// # Errors
    /// If the call as a whole failed. Single items fail in the response.
    pub async fn tokenize(&self, request: v1::TokenizeRequest) -> Result<v1::TokenizeResponse, Error> {
        self.answer(self.tokens.clone().tokenize(request).await)
    }

    /// Gets values back.
    ///
    /// # Errors
    /// If the call as a whole failed. Single items fail in the response.
    pub async fn detokenize(&self, request: v1::DetokenizeRequest) -> Result<v1::DetokenizeResponse, Error> {
        self.answer(self.tokens.clone().detokenize(request).await)
    }

    /// Asks for metadata.
    ///
    /// # Errors
    /// If the call as a whole failed. Single items fail in the response.
    pub async fn inspect(&self, request: v1::InspectTokensRequest) -> Result<v1::InspectTokensResponse, Error> {
        self.answer(self.tokens.clone().inspect_tokens(request).await)
    }

    /// Gives tokens another lifetime.
    ///
    /// # Errors
    /// If the call as a whole failed. Single items fail in the response.
    pub async fn renew(&self, request: v1::RenewTokensRequest) -> Result<v1::RenewTokensResponse, Error> {
        self.answer(self.tokens.clone().renew_tokens(request).await)
    }

    /// Ends tokens.
    ///
    /// # Errors
    /// If the call as a whole failed. Single items fail in the response.
    pub async fn revoke(&self, request: v1::RevokeTokensRequest) -> Result<v1::RevokeTokensResponse, Error> {
        self.answer(self.tokens.clone().revoke_tokens(request).await)
    }

    /// Asks the audit log.
    ///
    /// # Errors
    /// If the call failed.
    pub async fn query_events(&self, request: v1::QueryEventsRequest) -> Result<v1::QueryEventsResponse, Error> {
        self.answer(self.audit.clone().query_events(request).await)
    }

    /// Follows the audit log.
    ///
    /// # Errors
    /// If it can't be followed at all. [`Events::next`] tells what happens later.
    pub async fn tail_events(&self, request: v1::TailEventsRequest) -> Result<Events, Error> {
        let stream = self.answer(self.audit.clone().tail_events(request).await)?;
        Ok(Events { stream, address: Arc::clone(&self.address) })
    }

    /// The newest checkpoint: a signed note.
    ///
    /// # Errors
    /// If the call failed, or its answer has no checkpoint.
    pub async fn checkpoint(&self) -> Result<String, Error> {
        let answer = self.answer(self.audit.clone().get_checkpoint(v1::GetCheckpointRequest {}).await)?;
        let checkpoint = answer.checkpoint.filter(|checkpoint| !checkpoint.note.is_empty());
        let missing = || Error::malformed_answer("the answer has no checkpoint".to_owned());
        Ok(checkpoint.ok_or_else(missing)?.note)
    }

    /// The proof that event `sequence` is in the tree of `tree_size` entries.
    ///
    /// # Errors
    /// If the call failed, or its answer has no proof.
    pub async fn inclusion_proof(&self, sequence: u64, tree_size: u64) -> Result<v1::InclusionProof, Error> {
        let request = v1::GetInclusionProofRequest { sequence, tree_size };
        let answer = self.answer(self.audit.clone().get_inclusion_proof(request).await)?;
        answer.proof.ok_or_else(|| Error::malformed_answer("the answer has no proof".to_owned()))
    }

    /// The proof that the tree of `from_size` entries is the beginning of that of `to_size`.
    ///
    /// # Errors
    /// If the call failed, or its answer has no proof.
    pub async fn consistency_proof(&self, from_size: u64, to_size: u64) -> Result<v1::ConsistencyProof, Error> {
        let request = v1::GetConsistencyProofRequest { from_size, to_size };
        let answer = self.answer(self.audit.clone().get_consistency_proof(request).await)?;
        answer.proof.ok_or_else(|| Error::malformed_answer("the answer has no proof".to_owned()))
    }

    /// Whether the vault says that it is serving.
    ///
    /// # Errors
    /// If it can't be asked.
    pub async fn is_serving(&self) -> Result<bool, Error> {
        let request = Request::new(HealthCheckRequest { service: String::new() });
        let answer = self.answer(self.health.clone().check(request).await)?;
        Ok(answer.status() == ServingStatus::Serving)
    }

    fn answer<T>(&self, result: Result<Response<T>, Status>) -> Result<T, Error> {
        result.map(Response::into_inner).map_err(|status| Error::from_status(&self.address, &status))
    }
}

impl Events {
    /// The next event, as soon as there is one; `None` if the vault ended the stream.
    ///
    /// # Errors
    /// If the connection broke, or the vault refuses to go on.
    pub async fn next(&mut self) -> Result<Option<v1::AuditEvent>, Error> {
        loop {
            let message = self.stream.message().await;
            let message = message.map_err(|status| Error::from_status(&self.address, &status))?;
            match message {
                None => return Ok(None),
                Some(v1::TailEventsResponse { event: Some(event) }) => return Ok(Some(event)),
                Some(v1::TailEventsResponse { event: None }) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profiles_mistakes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.toml");
        std::fs::write(&file, "adress = \"127.0.0.1:1\"\n").unwrap();
        let error = Profile::load(&file).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("adress") && error.contains("address"), "{error}");
        let error = Profile::load(&folder.path().join("none.toml")).unwrap_err().to_string();
        assert!(error.contains("none.toml") && error.contains("cloakroom init"), "{error}");
    }
}
