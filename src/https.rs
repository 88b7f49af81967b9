//! A client for HTTP/1.1 over `http://` or `https://`: small requests to a known server, each with a deadline.
//!
//! Invariant: over `https://` no byte of a request is sent before the server's certificate verified for the host's name
//! under the authorities that were given. An answer is bounded in time and bytes, and a connection is used again only after
//! a whole answer.
//!
//! This module knows nothing of what is asked. It follows no redirects: an address that has moved is for people to mend.

use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST};
use http::uri::Scheme;
use http::{Method, Request, Uri};
use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::{SetupError, web};

/// An answer that is longer is refused: what we ask for has short answers.
const ANSWER_BYTES_AT_MOST: usize = 64 * 1024;

/// Where a server is, and what its paths begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    secure: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// As the `Host` header has it.
    authority: String,
    /// Without a slash at its end.
    path: String,
}

/// A text is not a [`Base`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a URL such as \"https://witness.example:7445\": http or https, a host, perhaps a port and a path, nothing else"
)]
pub struct BaseError;

/// Asks one server. One connection is kept between requests.
pub struct Client {
    base: Base,
    tls: Option<Arc<ClientConfig>>,
    idle: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

/// What the server said, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The header `Content-Type`; empty if there is none.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer. Whether the request was acted on is unknown.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Nothing came in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Deadline(Duration),
    /// No connection.
    #[error("can't connect: {0}")]
    Connect(std::io::Error),
    /// The connection broke, or it is no HTTP.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// Too long an answer.
    #[error("the answer has more than {ANSWER_BYTES_AT_MOST} bytes")]
    TooLong,
}

// === impl Base ===

impl FromStr for Base {
    type Err = BaseError;

    fn from_str(text: &str) -> Result<Self, BaseError> {
        let uri: Uri = text.parse().map_err(|_| BaseError)?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(BaseError),
        };
        let authority = uri.authority().ok_or(BaseError)?;
        // A password in a configuration file would end up in messages. What stands behind `#` the parser has dropped.
        if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') || uri.host() == Some("") {
            return Err(BaseError);
        }
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            // A colon without a number, or with one that no port has.
            None if authority.as_str() != authority.host() => return Err(BaseError),
            None if secure => 443,
            None => 80,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        ServerName::try_from(host.clone()).map_err(|_| BaseError)?;
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { secure, host, port, authority: authority.to_string(), path })
    }
}

impl Base {
    /// Whether the server must prove who it is.
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.secure { "https" } else { "http" }, self.authority, self.path)
    }
}

// === impl Client ===

impl Client {
    /// A client of the server at `base`. `authorities`, in PEM, may vouch for it if it is an `https://` one; nothing else
    /// does, so without them none is believed.
    ///
    /// # Errors
    /// If the authorities can't be read, or are missing where they are needed.
    pub fn new(base: Base, authorities: Option<&Path>) -> Result<Self, SetupError> {
        let tls = match authorities {
            Some(authorities) if base.secure => Some(web::client_config(authorities)?),
            None if base.secure => return Err(SetupError::NoAuthorities { url: base.to_string() }),
            _ => None,
        };
        Ok(Self { base, tls, idle: Mutex::new(None) })
    }

    /// The server.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Posts `body` to `path`, which begins with a slash, and waits for the whole answer, but not longer than `deadline`.
    ///
    /// It may be sent twice: a kept connection that breaks may have carried it or not. So it must be something that does no
    /// harm when it is done twice.
    ///
    /// # Errors
    /// [`Failed`]
    pub async fn post(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
        deadline: Duration,
    ) -> Result<Answer, Failed> {
        let body = body.into();
        let exchange = async {
            // A connection that fails under a request is dropped with it.
            let kept = self.idle.lock().take();
            if let Some(mut kept) = kept
                && kept.ready().await.is_ok()
                && let Ok(answer) = self.exchange(kept, path, content_type, body.clone()).await
            {
                return Ok(answer);
            }
            let fresh = self.connect().await?;
            self.exchange(fresh, path, content_type, body).await
        };
        tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(Failed::Deadline(deadline)))
    }

    async fn exchange(
        &self,
        mut connection: SendRequest<Full<Bytes>>,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Answer, Failed> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.base.path))
            .header(HOST, &self.base.authority)
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(body))
            .expect("path, authority and type are checked where they are made");
        let (head, body) = connection.send_request(request).await?.into_parts();
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let answer = Answer {
            status: head.status.as_u16(),
            content_type: content_type.to_owned(),
            body: collect(body, ANSWER_BYTES_AT_MOST).await?.ok_or(Failed::TooLong)?,
        };
        *self.idle.lock() = Some(connection);
        Ok(answer)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failed> {
        let tcp = TcpStream::connect((self.base.host.as_str(), self.base.port)).await.map_err(Failed::Connect)?;
        tcp.set_nodelay(true).map_err(Failed::Connect)?;
        let Some(tls) = &self.tls else { return start(tcp).await };
        let name = ServerName::try_from(self.base.host.clone()).expect("a base's host has been checked");
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await.map_err(Failed::Connect)?;
        start(stream).await
    }
}

/// For `src/fuzz`: what becomes of a request whose answer comes over this stream.
///
/// # Errors
/// [`Failed`]
#[cfg(test)]
pub(crate) async fn exchange_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Answer, Failed> {
    let client = Client::new("http://127.0.0.1".parse().expect("a base"), None).expect("nothing to read");
    client.exchange(start(stream).await?, "/", "text/plain", Bytes::from_static(b"asked")).await
}

async fn start(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Full<Bytes>>, Failed> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the sender is dropped or the server hangs up, which shows at the next request.
    tokio::spawn(connection);
    Ok(sender)
}

/// The whole body; `None` if it is longer than `at_most`.
///
/// # Errors
/// If the connection breaks.
pub async fn collect<B>(mut body: B, at_most: usize) -> Result<Option<Vec<u8>>, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(data) = frame?.into_data() else { continue };
        if data.len() > at_most - bytes.len() {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
