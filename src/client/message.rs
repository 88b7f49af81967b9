//! The calls as the wire has them: which message goes to which method.

use std::time::Duration;

use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::Error;
use super::engine::Failed;
use super::pool::{Line, Pool};
use crate::proto::v1;
use crate::proto::v1::audit_service_client::AuditServiceClient;
use crate::proto::v1::token_service_client::TokenServiceClient;

/// Connections that may close under a call before it counts as a failure.
const LINES_AT_MOST: u32 = 4;

/// A message that is a call.
pub(crate) trait Message: Clone + Send + Sync + 'static {
    /// What comes back.
    type Answer: Send;
    /// Whether the vault is told of the deadline. Of a stream it would be the end.
    const TELLS_DEADLINE: bool = true;

    /// Whether it carries an id by which the vault would know it again.
    fn has_request_id(&self) -> bool {
        false
    }

    /// Sends it.
    fn send(request: Request<Self>, line: Line) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

macro_rules! calls {
    ($($message:ty => $service:ident :: $method:ident -> $answer:ty $(, by $id:ident)? $(, tells $tells:literal)?;)+) => {$(
        impl Message for $message {
            type Answer = $answer;
            $(const TELLS_DEADLINE: bool = $tells;)?

            $(fn has_request_id(&self) -> bool {
                !self.$id.is_empty()
            })?

            async fn send(request: Request<Self>, line: Line) -> Result<Response<Self::Answer>, Status> {
                $service::with_origin(line.wire, line.vault).$method(request).await
            }
        }
    )+};
}

calls! {
    v1::TokenizeRequest => TokenServiceClient::tokenize -> v1::TokenizeResponse, by request_id;
    v1::DetokenizeRequest => TokenServiceClient::detokenize -> v1::DetokenizeResponse, by request_id;
    v1::InspectTokensRequest => TokenServiceClient::inspect_tokens -> v1::InspectTokensResponse;
    v1::RenewTokensRequest => TokenServiceClient::renew_tokens -> v1::RenewTokensResponse, by request_id;
    v1::RevokeTokensRequest => TokenServiceClient::revoke_tokens -> v1::RevokeTokensResponse, by request_id;
    v1::QueryEventsRequest => AuditServiceClient::query_events -> v1::QueryEventsResponse;
    v1::TailEventsRequest => AuditServiceClient::tail_events -> Streaming<v1::TailEventsResponse>, tells false;
    v1::GetCheckpointRequest => AuditServiceClient::get_checkpoint -> v1::GetCheckpointResponse;
    v1::GetInclusionProofRequest => AuditServiceClient::get_inclusion_proof -> v1::GetInclusionProofResponse;
    v1::GetConsistencyProofRequest => AuditServiceClient::get_consistency_proof -> v1::GetConsistencyProofResponse;
    HealthCheckRequest => HealthClient::check -> HealthCheckResponse;
}

/// Makes a call once. If its connection closed in order before the call was begun, over the next one: that is no failure of
/// the vault's, and nothing was done.
pub(super) async fn once<M: Message>(pool: &Pool, message: M, left: Duration) -> Result<M::Answer, Failed> {
    let mut lines = 0;
    loop {
        let line = pool.line().await?;
        lines += 1;
        let mut request = Request::new(message.clone());
        if M::TELLS_DEADLINE {
            request.set_timeout(left);
        }
        let trace = line.trace();
        let status = match M::send(request, line).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        let is_unsent = trace.is_unsent();
        if is_unsent && lines < LINES_AT_MOST {
            pool.let_go(&trace).await;
            continue;
        }
        let error = Error::from_status(pool.address(), &status, is_unsent);
        // However many calls a connection breaks under, it is one failure.
        let is_counted = !matches!(error, Error::Interrupted { .. }) || pool.let_go(&trace).await;
        return Err(Failed { error, is_counted });
    }
}
