//! The floor: an echo that costs what gRPC, TLS and the threads cost, and nothing else.
//!
//! It is built as tonic's generator builds a service, by hand, so that it is in no interface description that the vault
//! serves. Its messages have exactly the number of bytes that they are told to have.

use crate::config::Config;
use crate::server;
use http::{Request, Response};
use prost::Message;
use std::convert::Infallible;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::Service;

/// The method's path.
pub(super) const PATH: &str = "/cloakroom.bench.v1.Floor/Echo";

/// What goes in and out.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Echo {
    /// How many bytes the reply is to have, encoded.
    #[prost(uint32, tag = "1")]
    reply_bytes: u32,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
    /// Fills up where the payload alone can't: a longer one may need a longer length before it.
    #[prost(bytes = "vec", tag = "3")]
    rest: Vec<u8>,
}

/// The service.
#[derive(Clone)]
struct Floor;

impl Echo {
    /// A message that is `bytes` long when encoded and asks for a reply of `reply_bytes`, or a little longer if
    /// that is less than three bytes besides the question.
    pub(super) fn sized(bytes: usize, reply_bytes: usize) -> Self {
        let mut echo = Self { reply_bytes: u32::try_from(reply_bytes).unwrap_or(u32::MAX), ..Self::default() };
        let room = bytes.saturating_sub(echo.encoded_len());
        echo.payload = vec![FILLING; payload_in(room)];
        if room > 0 && echo.encoded_len() < bytes {
            // One byte over: three for the rest, the others for the payload.
            echo.rest = vec![FILLING];
            echo.payload = vec![FILLING; payload_in(room.saturating_sub(3))];
        }
        echo
    }
}

const FILLING: u8 = 0x5a;

/// The longest payload that takes up at most `room` with its key and its length.
fn payload_in(room: usize) -> usize {
    let length_bytes = |length: usize| prost::encoding::encoded_len_varint(length as u64);
    let mut length = room.saturating_sub(2);
    while length > 0 && 1 + length_bytes(length) + length > room {
        length -= 1;
    }
    length
}

/// Serves the floor behind the door that `config` describes, until the process is told to stop.
///
/// # Errors
/// If it can't start.
pub fn serve(config: &Config) -> Result<(), server::Error> {
    server::run_bare(config, &Floor)
}

impl NamedService for Floor {
    const NAME: &'static str = "cloakroom.bench.v1.Floor";
}

impl Service<Request<Body>> for Floor {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::new(Code::Unimplemented, "").into_http());
            }
            let mut grpc = Grpc::new(ProstCodec::<Echo, Echo>::default());
            Ok(grpc.unary(Answer, request).await)
        })
    }
}

struct Answer;

impl UnaryService<Echo> for Answer {
    type Response = Echo;
    type Future = BoxFuture<tonic::Response<Echo>, Status>;

    fn call(&mut self, request: tonic::Request<Echo>) -> Self::Future {
        Box::pin(async move {
            let reply = Echo::sized(request.into_inner().reply_bytes as usize, 0);
            Ok(tonic::Response::new(reply))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_bytes_that_they_are_told_to_have() {
        for bytes in (3..700).chain(16_300..16_500).chain([100_000, 2_097_160]) {
            assert_eq!(Echo::sized(bytes, 0).encoded_len(), bytes, "a reply of {bytes}");
        }
        for bytes in 10..700 {
            let echo = Echo::sized(bytes, 12_345);
            assert_eq!(echo.encoded_len(), bytes, "a request of {bytes}");
            assert_eq!(echo.reply_bytes, 12_345);
        }
    }
}
