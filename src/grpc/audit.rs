//! `cloakroom.v1.AuditService`.

use super::methods::{self, Method};
use super::{call_of, convert, finish, status};
use crate::audit::{FilterRequest, QueryRequest};
use crate::proto::v1;
use crate::secret::Secret;
use crate::vault::{Call, Vault};
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// The service, over a vault.
#[derive(Clone)]
pub struct AuditDoor {
    vault: Arc<Vault>,
}

impl AuditDoor {
    /// A door to `vault`.
    pub fn new(vault: Arc<Vault>) -> Self {
        Self { vault }
    }

    async fn unbuilt<T>(&self, call: Call, method: &'static Method) -> Result<Response<T>, Status> {
        let vault = Arc::clone(&self.vault);
        let work = {
            let call = call.clone();
            async move { Err::<(), _>(vault.unbuilt_audit(&call).await) }
        };
        finish(Arc::clone(&self.vault), call, method, Box::pin(work)).await?;
        Err(status::internal())
    }
}

#[tonic::async_trait]
impl v1::audit_service_server::AuditService for AuditDoor {
    type TailEventsStream = Pin<Box<dyn Stream<Item = Result<v1::TailEventsResponse, Status>> + Send>>;

    async fn query_events(
        &self,
        request: Request<v1::QueryEventsRequest>,
    ) -> Result<Response<v1::QueryEventsResponse>, Status> {
        let call = call_of(&request)?;
        let request = query_request(request.into_inner());
        let vault = Arc::clone(&self.vault);
        let work = {
            let call = call.clone();
            async move { vault.query_events(&call, request).await }
        };
        let page = finish(Arc::clone(&self.vault), call, &methods::QUERY_EVENTS, Box::pin(work)).await?;
        Ok(Response::new(v1::QueryEventsResponse {
            events: page.events.into_iter().map(convert::event).collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn tail_events(
        &self,
        request: Request<v1::TailEventsRequest>,
    ) -> Result<Response<Self::TailEventsStream>, Status> {
        self.unbuilt(call_of(&request)?, &methods::TAIL_EVENTS).await
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        self.unbuilt(call_of(&request)?, &methods::GET_CHECKPOINT).await
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<v1::GetInclusionProofRequest>,
    ) -> Result<Response<v1::GetInclusionProofResponse>, Status> {
        self.unbuilt(call_of(&request)?, &methods::GET_INCLUSION_PROOF).await
    }

    async fn get_consistency_proof(
        &self,
        request: Request<v1::GetConsistencyProofRequest>,
    ) -> Result<Response<v1::GetConsistencyProofResponse>, Status> {
        self.unbuilt(call_of(&request)?, &methods::GET_CONSISTENCY_PROOF).await
    }
}

fn query_request(request: v1::QueryEventsRequest) -> QueryRequest {
    let filter = request.filter.unwrap_or_default();
    QueryRequest {
        filter: FilterRequest {
            caller: filter.caller,
            scope: filter.scope,
            handle: filter.handle,
            token: (!filter.token.is_empty()).then(|| Secret::new(filter.token)),
            action: filter.action,
            outcome: filter.outcome,
            start: filter.start_time.map(convert::time),
            end: filter.end_time.map(convert::time),
            purpose: filter.purpose,
            trace_id: filter.trace_id,
            request_id: (!filter.request_id.is_empty()).then(|| Secret::new(filter.request_id)),
        },
        page_size: request.page_size,
        page_token: request.page_token,
        newest_first: request.newest_first,
    }
}
