//! `cloakroom.v1.AuditService`.

use super::methods::{self, Method};
use super::stream::{Answers, Batches, Messages, OpenStreams, Surroundings};
use super::{call_of, convert, finish, status};
use crate::audit::{FilterRequest, QueryRequest, Tail, TailRequest};
use crate::clock::Clock;
use crate::event::Event;
use crate::merkle::Hash;
use crate::proto::v1;
use crate::secret::Secret;
use crate::vault::{Call, Failure, Vault};
use prost::Message;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// The service, over a vault.
#[derive(Clone)]
pub struct AuditDoor {
    vault: Arc<Vault>,
    surroundings: Surroundings,
}

/// A tail's events, one message each.
pub struct TailEvents {
    chunks: Answers<Vec<Event>>,
    at_hand: std::vec::IntoIter<Event>,
}

impl AuditDoor {
    /// A door to `vault`. Its streams ask `clock` whether certificates are still valid, and end once `stopped` says so.
    pub fn new(vault: Arc<Vault>, clock: Arc<dyn Clock>, stopped: watch::Receiver<bool>) -> Self {
        let surroundings = Surroundings { vault: Arc::clone(&vault), clock, streams: OpenStreams::default(), stopped };
        Self { vault, surroundings }
    }

    /// Runs a question to its end, whatever becomes of its caller.
    async fn ask<T, F>(
        &self,
        call: Call,
        method: &'static Method,
        question: impl FnOnce(Arc<Vault>, Call) -> F,
    ) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let work = question(Arc::clone(&self.vault), call.clone());
        finish(&self.vault, call, method, Box::pin(work)).await
    }
}

impl Messages<Result<Vec<Event>, Failure>> for Tail {
    async fn take(&mut self) -> Option<Result<Result<Vec<Event>, Failure>, Status>> {
        Some(Ok(Tail::next(self).await))
    }
}

impl Stream for TailEvents {
    type Item = Result<v1::TailEventsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.at_hand.next() {
                return Poll::Ready(Some(Ok(v1::TailEventsResponse { event: Some(convert::event(event)) })));
            }
            match ready!(Pin::new(&mut self.chunks).poll_next(context)) {
                Some(Ok(events)) => self.at_hand = events.into_iter(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

#[tonic::async_trait]
impl v1::audit_service_server::AuditService for AuditDoor {
    type TailEventsStream = TailEvents;

    async fn query_events(
        &self,
        request: Request<v1::QueryEventsRequest>,
    ) -> Result<Response<v1::QueryEventsResponse>, Status> {
        let call = call_of(&request)?;
        let share = Arc::clone(&call.share);
        let request = query_request(request.into_inner());
        let question = async move |vault: Arc<Vault>, call: Call| vault.query_events(&call, request).await;
        let page = self.ask(call, &methods::QUERY_EVENTS, question).await?;
        let page = v1::QueryEventsResponse {
            events: page.events.into_iter().map(convert::event).collect(),
            next_page_token: page.next_page_token,
        };
        // A short question may have a long answer, and nobody may take it.
        share.hold(share.held().saturating_add(page.encoded_len()));
        Ok(Response::new(page))
    }

    async fn tail_events(
        &self,
        request: Request<v1::TailEventsRequest>,
    ) -> Result<Response<Self::TailEventsStream>, Status> {
        let (call, method) = (call_of(&request)?, &methods::TAIL_EVENTS);
        let request = request.into_inner();
        let filter = filter_request(request.filter.unwrap_or_default());
        let request = TailRequest { filter, from_sequence: request.from_sequence };
        let question = async move |vault: Arc<Vault>, call: Call| vault.tail_events(&call, &request).await;
        let tail = self.ask(call.clone(), method, question).await?;
        let batches = Batches { surroundings: self.surroundings.clone(), call, method, counters: None };
        let chunks = batches.answer(tail, |_, chunk: Result<_, Failure>| async move { chunk.map_err(status::of) })?;
        Ok(Response::new(TailEvents { chunks, at_hand: Vec::new().into_iter() }))
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        let call = call_of(&request)?;
        let question = async move |vault: Arc<Vault>, call: Call| vault.checkpoint(&call).await;
        let note = self.ask(call, &methods::GET_CHECKPOINT, question).await?;
        Ok(Response::new(v1::GetCheckpointResponse { checkpoint: Some(v1::Checkpoint { note }) }))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<v1::GetInclusionProofRequest>,
    ) -> Result<Response<v1::GetInclusionProofResponse>, Status> {
        let call = call_of(&request)?;
        let v1::GetInclusionProofRequest { sequence, tree_size } = request.into_inner();
        let question =
            async move |vault: Arc<Vault>, call: Call| vault.inclusion_proof(&call, sequence, tree_size).await;
        let proof = self.ask(call, &methods::GET_INCLUSION_PROOF, question).await?;
        Ok(Response::new(v1::GetInclusionProofResponse {
            proof: Some(v1::InclusionProof {
                sequence: proof.sequence,
                tree_size: proof.tree_size,
                hashes: hashes(&proof.hashes),
                event: proof.event,
            }),
        }))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<v1::GetConsistencyProofRequest>,
    ) -> Result<Response<v1::GetConsistencyProofResponse>, Status> {
        let call = call_of(&request)?;
        let v1::GetConsistencyProofRequest { from_size, to_size } = request.into_inner();
        let question =
            async move |vault: Arc<Vault>, call: Call| vault.consistency_proof(&call, from_size, to_size).await;
        let proof = self.ask(call, &methods::GET_CONSISTENCY_PROOF, question).await?;
        Ok(Response::new(v1::GetConsistencyProofResponse {
            proof: Some(v1::ConsistencyProof {
                from_size: proof.from_size,
                to_size: proof.to_size,
                hashes: hashes(&proof.hashes),
            }),
        }))
    }
}

fn hashes(hashes: &[Hash]) -> Vec<Vec<u8>> {
    hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect()
}

fn query_request(request: v1::QueryEventsRequest) -> QueryRequest {
    QueryRequest {
        filter: filter_request(request.filter.unwrap_or_default()),
        page_size: request.page_size,
        page_token: request.page_token,
        newest_first: request.newest_first,
    }
}

fn filter_request(filter: v1::AuditFilter) -> FilterRequest {
    FilterRequest {
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
    }
}
