//! Questions to the audit log, and to the vault's health.

use std::sync::Arc;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{Client, Error};
use crate::proto::v1;

/// The audit log as it grows.
pub struct Events {
    stream: tonic::Streaming<v1::TailEventsResponse>,
    address: Arc<str>,
}

impl Client {
    /// Asks the audit log.
    ///
    /// # Errors
    /// If the call failed.
    pub async fn query_events(&self, request: v1::QueryEventsRequest) -> Result<v1::QueryEventsResponse, Error> {
        self.call(request, None).await
    }

    /// Follows the audit log.
    ///
    /// # Errors
    /// If it can't be followed at all. [`Events::next`] tells what happens later.
    pub async fn tail_events(&self, request: v1::TailEventsRequest) -> Result<Events, Error> {
        let stream = self.call(request, None).await?;
        Ok(Events { stream, address: Arc::clone(self.address()) })
    }

    /// The newest checkpoint: a signed note.
    ///
    /// # Errors
    /// If the call failed, or its answer has no checkpoint.
    pub async fn checkpoint(&self) -> Result<String, Error> {
        let answer = self.call(v1::GetCheckpointRequest {}, None).await?;
        let checkpoint = answer.checkpoint.filter(|checkpoint| !checkpoint.note.is_empty());
        let missing = || Error::malformed_answer("the answer has no checkpoint".to_owned());
        Ok(checkpoint.ok_or_else(missing)?.note)
    }

    /// The proof that event `sequence` is in the tree of `tree_size` entries.
    ///
    /// # Errors
    /// If the call failed, or its answer has no proof.
    pub async fn inclusion_proof(&self, sequence: u64, tree_size: u64) -> Result<v1::InclusionProof, Error> {
        let answer = self.call(v1::GetInclusionProofRequest { sequence, tree_size }, None).await?;
        answer.proof.ok_or_else(|| Error::malformed_answer("the answer has no proof".to_owned()))
    }

    /// The proof that the tree of `from_size` entries is the beginning of that of `to_size`.
    ///
    /// # Errors
    /// If the call failed, or its answer has no proof.
    pub async fn consistency_proof(&self, from_size: u64, to_size: u64) -> Result<v1::ConsistencyProof, Error> {
        let answer = self.call(v1::GetConsistencyProofRequest { from_size, to_size }, None).await?;
        answer.proof.ok_or_else(|| Error::malformed_answer("the answer has no proof".to_owned()))
    }

    /// Whether the vault says that it is serving.
    ///
    /// # Errors
    /// If it can't be asked.
    pub async fn is_serving(&self) -> Result<bool, Error> {
        let answer = self.call(HealthCheckRequest { service: String::new() }, None).await?;
        Ok(answer.status() == ServingStatus::Serving)
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
            let message = message.map_err(|status| Error::from_status(&self.address, &status, false))?;
            match message {
                None => return Ok(None),
                Some(v1::TailEventsResponse { event: Some(event) }) => return Ok(Some(event)),
                Some(v1::TailEventsResponse { event: None }) => {}
            }
        }
    }
}
