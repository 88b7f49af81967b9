//! The service that is called most, found without a router.
//!
//! The transport's router is one for the web: it copies a boxed service for each call, matches a pattern, and boxes both bodies
//! once more on either side. That costs a call of one value as much as sealing it.

use crate::grpc::TokenDoor;
use crate::proto::v1::token_service_server::TokenServiceServer;
use http::{Request, Response};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::{Layer, Service};

type Token = TokenServiceServer<TokenDoor>;

/// Makes the layer around the router.
#[derive(Clone)]
pub(super) struct Direct(pub Token);

/// The service, and all others behind the router.
#[derive(Clone)]
pub(super) struct Directed<S> {
    token: Token,
    router: S,
}

impl<S> Layer<S> for Direct {
    type Service = Directed<S>;

    fn layer(&self, router: S) -> Self::Service {
        Directed { token: self.0.clone(), router }
    }
}

impl<S> Service<Request<Body>> for Directed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The service itself is always ready.
        self.router.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path().strip_prefix('/');
        let rest = path.and_then(|path| path.strip_prefix(<Token as NamedService>::NAME));
        if rest.is_some_and(|rest| rest.starts_with('/')) {
            self.token.call(request)
        } else {
            Box::pin(self.router.call(request))
        }
    }
}
