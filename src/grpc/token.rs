//! `cloakroom.v1.TokenService`.

use super::methods::{self, Counters, Method};
use super::stream::{Answers, Batches, OpenStreams, Surroundings};
use super::{call_of, convert, finish, status};
use crate::clock::{Clock, Timestamp};
use crate::event::Reveal;
use crate::proto::v1;
use crate::secret::{Secret, SecretBytes};
use crate::vault::{
    Call, DetokenizeRequest, InspectRequest, IssuedToken, ItemFailure, RenewRequest, RevokeRequest, TokenInfo,
    TokenState, TokenizeItem, TokenizeRequest, Vault,
};
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

/// The service, over a vault.
#[derive(Clone)]
pub struct TokenDoor {
    vault: Arc<Vault>,
    surroundings: Surroundings,
    stream_tokenize: Counters,
    stream_detokenize: Counters,
}

impl TokenDoor {
    /// A door to `vault`. Its streams ask `clock` whether certificates are still valid, and end once `stopped` says so.
    pub fn new(vault: Arc<Vault>, clock: Arc<dyn Clock>, stopped: watch::Receiver<bool>) -> Self {
        Self {
            surroundings: Surroundings { vault: Arc::clone(&vault), clock, streams: OpenStreams::default(), stopped },
            vault,
            stream_tokenize: Counters::of(&methods::STREAM_TOKENIZE),
            stream_detokenize: Counters::of(&methods::STREAM_DETOKENIZE),
        }
    }
}

#[tonic::async_trait]
impl v1::token_service_server::TokenService for TokenDoor {
    type StreamTokenizeStream = Answers<v1::StreamTokenizeResponse>;
    type StreamDetokenizeStream = Answers<v1::StreamDetokenizeResponse>;

    async fn tokenize(&self, request: Request<v1::TokenizeRequest>) -> Result<Response<v1::TokenizeResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        tokenize(&self.vault, call, &methods::TOKENIZE, request).await.map(Response::new)
    }

    async fn detokenize(
        &self,
        request: Request<v1::DetokenizeRequest>,
    ) -> Result<Response<v1::DetokenizeResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        detokenize(&self.vault, call, &methods::DETOKENIZE, request).await.map(Response::new)
    }

    async fn inspect_tokens(
        &self,
        request: Request<v1::InspectTokensRequest>,
    ) -> Result<Response<v1::InspectTokensResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        let request =
            InspectRequest { scope: request.scope, tokens: convert::secrets(request.tokens), handles: request.handles };
        let vault = Arc::clone(&self.vault);
        let work = {
            let call = call.clone();
            async move { vault.inspect(&call, request).await }
        };
        let done = finish(&self.vault, call, &methods::INSPECT_TOKENS, Box::pin(work)).await?;
        Ok(Response::new(v1::InspectTokensResponse {
            results: done.results.into_iter().map(inspect_result).collect(),
            receipt: Some(convert::receipt(&done.receipt)),
        }))
    }

    async fn renew_tokens(
        &self,
        request: Request<v1::RenewTokensRequest>,
    ) -> Result<Response<v1::RenewTokensResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        let request = RenewRequest {
            scope: request.scope,
            tokens: convert::secrets(request.tokens),
            ttl: request.ttl.map(convert::lifetime),
            request_id: Secret::new(request.request_id),
        };
        let vault = Arc::clone(&self.vault);
        let work = {
            let call = call.clone();
            async move { vault.renew(&call, request).await }
        };
        let done = finish(&self.vault, call, &methods::RENEW_TOKENS, Box::pin(work)).await?;
        let result = |result: Result<Timestamp, ItemFailure>| v1::RenewResult {
            outcome: Some(match result {
                Ok(time) => v1::renew_result::Outcome::ExpireTime(convert::timestamp(time)),
                Err(failure) => v1::renew_result::Outcome::Error(status::of_item(failure)),
            }),
        };
        Ok(Response::new(v1::RenewTokensResponse {
            results: done.results.into_iter().map(result).collect(),
            receipt: Some(convert::receipt(&done.receipt)),
        }))
    }

    async fn revoke_tokens(
        &self,
        request: Request<v1::RevokeTokensRequest>,
    ) -> Result<Response<v1::RevokeTokensResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        let request = RevokeRequest {
            scope: request.scope,
            tokens: convert::secrets(request.tokens),
            handles: request.handles,
            reason: request.reason,
            request_id: Secret::new(request.request_id),
        };
        let vault = Arc::clone(&self.vault);
        let work = {
            let call = call.clone();
            async move { vault.revoke(&call, request).await }
        };
        let done = finish(&self.vault, call, &methods::REVOKE_TOKENS, Box::pin(work)).await?;
        let result = |result: Result<Timestamp, ItemFailure>| v1::RevokeResult {
            outcome: Some(match result {
                Ok(time) => v1::revoke_result::Outcome::RevokeTime(convert::timestamp(time)),
                Err(failure) => v1::revoke_result::Outcome::Error(status::of_item(failure)),
            }),
        };
        Ok(Response::new(v1::RevokeTokensResponse {
            results: done.results.into_iter().map(result).collect(),
            receipt: Some(convert::receipt(&done.receipt)),
        }))
    }

    async fn stream_tokenize(
        &self,
        request: Request<Streaming<v1::StreamTokenizeRequest>>,
    ) -> Result<Response<Self::StreamTokenizeStream>, Status> {
        let (call, surroundings) = (call_of(&request)?, self.surroundings.clone());
        let (method, counters) = (&methods::STREAM_TOKENIZE, self.stream_tokenize.clone());
        let vault = Arc::clone(&self.vault);
        let each = move |call, message: v1::StreamTokenizeRequest| {
            // Without a batch there is no scope to decide on: it is refused as one that names none.
            let done = tokenize(&vault, call, method, message.batch.unwrap_or_default());
            async move { Ok(v1::StreamTokenizeResponse { batch: Some(done.await?) }) }
        };
        Batches { surroundings, call, method, counters: Some(counters) }
            .answer(request.into_inner(), each)
            .map(Response::new)
    }

    async fn stream_detokenize(
        &self,
        request: Request<Streaming<v1::StreamDetokenizeRequest>>,
    ) -> Result<Response<Self::StreamDetokenizeStream>, Status> {
        let (call, surroundings) = (call_of(&request)?, self.surroundings.clone());
        let (method, counters) = (&methods::STREAM_DETOKENIZE, self.stream_detokenize.clone());
        let vault = Arc::clone(&self.vault);
        let each = move |call, message: v1::StreamDetokenizeRequest| {
            let done = detokenize(&vault, call, method, message.batch.unwrap_or_default());
            async move { Ok(v1::StreamDetokenizeResponse { batch: Some(done.await?) }) }
        };
        Batches { surroundings, call, method, counters: Some(counters) }
            .answer(request.into_inner(), each)
            .map(Response::new)
    }
}

// === what single calls and batches of a stream have in common ===

// Functions that give a future, and not `async` ones: those would keep room for what they were given until the end.

pub(super) fn tokenize(
    vault: &Arc<Vault>,
    call: Call,
    method: &'static Method,
    request: v1::TokenizeRequest,
) -> impl Future<Output = Result<v1::TokenizeResponse, Status>> + Send + use<> {
    let request = tokenize_request(request);
    let work = {
        let (vault, call) = (Arc::clone(vault), call.clone());
        async move { vault.tokenize(&call, &request).await }
    };
    let done = finish(vault, call, method, Box::pin(work));
    async move {
        let done = done.await?;
        Ok(v1::TokenizeResponse {
            results: done.results.into_iter().map(tokenize_result).collect(),
            receipt: Some(convert::receipt(&done.receipt)),
        })
    }
}

fn detokenize(
    vault: &Arc<Vault>,
    call: Call,
    method: &'static Method,
    request: v1::DetokenizeRequest,
) -> impl Future<Output = Result<v1::DetokenizeResponse, Status>> + Send + use<> {
    let request = detokenize_request(request);
    let work = {
        let (vault, call) = (Arc::clone(vault), call.clone());
        async move { vault.detokenize(&call, &request).await }
    };
    let done = finish(vault, call, method, Box::pin(work));
    async move {
        let done = done.await?;
        Ok(v1::DetokenizeResponse {
            results: done.results.into_iter().map(detokenize_result).collect(),
            receipt: Some(convert::receipt(&done.receipt)),
        })
    }
}

// === to the domain ===

fn tokenize_request(request: v1::TokenizeRequest) -> TokenizeRequest {
    let item = |item: v1::TokenizeItem| TokenizeItem {
        value: SecretBytes::new(item.value),
        ttl: item.ttl.map(convert::lifetime),
        max_uses: item.max_uses,
        has_subject: !item.subject.is_empty(),
    };
    TokenizeRequest {
        scope: request.scope,
        items: request.items.into_iter().map(item).collect(),
        all_or_nothing: request.all_or_nothing,
        request_id: Secret::new(request.request_id),
        unsupported: None,
    }
}

fn detokenize_request(request: v1::DetokenizeRequest) -> DetokenizeRequest {
    let options = [("nonce", !request.nonce.is_empty()), ("send_time", request.send_time.is_some())];
    DetokenizeRequest {
        unsupported: given(&options),
        reveal: Reveal::try_from(request.reveal).ok(),
        scope: request.scope,
        tokens: convert::secrets(request.tokens),
        purpose: request.purpose,
        request_id: Secret::new(request.request_id),
    }
}

/// The first option that was given, of those that do not exist yet.
fn given(options: &[(&'static str, bool)]) -> Option<&'static str> {
    options.iter().find(|(_, given)| *given).map(|(name, _)| *name)
}

// === from the domain ===

fn tokenize_result(result: Result<IssuedToken, ItemFailure>) -> v1::TokenizeResult {
    use v1::tokenize_result::Outcome;
    let outcome = match result {
        Ok(issued) => Outcome::Issued(v1::IssuedToken {
            token: issued.token.into_exposed(),
            expire_time: Some(convert::timestamp(issued.expires)),
            handle: issued.handle.to_string(),
        }),
        Err(failure) => Outcome::Error(status::of_item(failure)),
    };
    v1::TokenizeResult { outcome: Some(outcome) }
}

fn detokenize_result(result: Result<SecretBytes, ItemFailure>) -> v1::DetokenizeResult {
    use v1::detokenize_result::Outcome;
    let outcome = match result {
        Ok(value) => Outcome::Value(value.into_exposed()),
        Err(failure) => Outcome::Error(status::of_item(failure)),
    };
    v1::DetokenizeResult { outcome: Some(outcome) }
}

fn inspect_result(result: Result<TokenInfo, ItemFailure>) -> v1::InspectResult {
    use v1::inspect_result::Outcome;
    let outcome = match result {
        Ok(info) => Outcome::Info(v1::TokenInfo {
            handle: info.handle.to_string(),
            create_time: Some(convert::timestamp(info.created)),
            expire_time: Some(convert::timestamp(info.expires)),
            uses_left: info.uses_left,
            key_version: info.key_version,
            state: state(info.state).into(),
        }),
        Err(failure) => Outcome::Error(status::of_item(failure)),
    };
    v1::InspectResult { outcome: Some(outcome) }
}

fn state(state: TokenState) -> v1::TokenState {
    match state {
        TokenState::Active => v1::TokenState::Active,
        TokenState::Expired => v1::TokenState::Expired,
        TokenState::Revoked => v1::TokenState::Revoked,
        TokenState::UsedUp => v1::TokenState::UsedUp,
        TokenState::Suspended => v1::TokenState::Suspended,
    }
}
