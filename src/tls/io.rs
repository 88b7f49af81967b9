//! An open connection: the bytes of a verified client.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::connections::Registration;
use super::frames::Meter;
use super::waits::{Wait, Waits};
use crate::caller::Caller;
use crate::limits::bytes::Budget;

/// What is known of a connection for as long as it lives. Handlers find it in a request's extensions as
/// `Arc<Connection>`. It has no `Debug`: the exporter is for comparing, not for printing.
pub struct Connection {
    /// The verified client.
    pub caller: Arc<Caller>,
    /// The channel binding of RFC 9266 (`tls-exporter`): the same at both ends, and different on every connection.
    pub exporter: [u8; 32],
    /// The group of the key exchange, such as `X25519MLKEM768`.
    pub key_exchange: &'static str,
    /// What its calls wait for.
    pub waits: Arc<Waits>,
    /// What its caller's calls may hold, once there was one.
    pub account: OnceLock<Account>,
}

/// What the calls of one caller may hold.
pub struct Account {
    /// For those that policy decides on.
    pub calls: Arc<Budget>,
    /// For health and reflection.
    pub probes: Arc<Budget>,
}

impl Connection {
    /// One that has made no call yet.
    pub fn new(caller: Arc<Caller>, exporter: [u8; 32], key_exchange: &'static str, waits: Arc<Waits>) -> Self {
        Self { caller, exporter, key_exchange, waits, account: OnceLock::new() }
    }
}

/// The length of HTTP/2's connection preface (RFC 9113 section 3.4), which a client sends before anything else.
const PREFACE_BYTES: usize = 24;

/// A connection whose handshake is done. Dropping it gives its place among the connections back.
pub struct TlsIo {
    stream: TlsStream<TcpStream>,
    connection: Arc<Connection>,
    registration: Registration,
    /// Until the client has begun to speak.
    preface: Option<Preface>,
    meter: Meter,
    /// Whether the kernel takes no more, since the peer does not read; until all that was written has gone.
    is_blocked: bool,
    blocked: Wait,
}

/// What has to come, and by when. The HTTP/2 library waits for it without end, and pings nobody before it.
struct Preface {
    missing: usize,
    expiry: Pin<Box<Sleep>>,
}

impl TlsIo {
    /// The client has until `expires` to begin to speak.
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        connection: Arc<Connection>,
        registration: Registration,
        expires: Instant,
    ) -> Self {
        let expiry = Box::pin(tokio::time::sleep_until(expires));
        let preface = Some(Preface { missing: PREFACE_BYTES, expiry });
        let blocked = connection.waits.for_nobody();
        let meter = Meter::new(Instant::now());
        Self { stream, connection, registration, preface, meter, is_blocked: false, blocked }
    }

    /// Who is at the other end.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether the client's time to begin is over. `read` more bytes have come from it.
    fn is_silent(&mut self, read: usize, context: &mut Context<'_>) -> bool {
        let Some(preface) = &mut self.preface else { return false };
        preface.missing = preface.missing.saturating_sub(read);
        if preface.missing == 0 {
            self.preface = None;
            return false;
        }
        preface.expiry.as_mut().poll(context).is_ready()
    }

    /// After a write. A peer that never reads its socket answers no ping and takes no farewell either: it would stay for ever.
    fn sent(&mut self, outcome: &Poll<io::Result<usize>>) {
        match outcome {
            Poll::Ready(Ok(bytes)) => {
                self.meter.sent(*bytes);
                if self.is_blocked {
                    self.blocked.taken(*bytes);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.block(),
        }
    }

    fn block(&mut self) {
        if !self.is_blocked {
            self.is_blocked = true;
            self.blocked.for_peer();
        }
    }

    fn flushed(&mut self, outcome: &Poll<io::Result<()>>) {
        if outcome.is_pending() {
            self.block();
        } else if self.is_blocked {
            self.is_blocked = false;
            self.blocked.for_us();
        }
    }

    /// Before any I/O: a connection that was closed from outside moves no more bytes.
    fn check_open<T>(&self) -> Result<(), Poll<io::Result<T>>> {
        if self.registration.is_closed() { Err(Poll::Ready(Err(closed_here()))) } else { Ok(()) }
    }

    /// After I/O that has to wait: closing from outside must end the wait.
    fn or_closed<T>(&self, outcome: Poll<io::Result<T>>, context: &Context<'_>) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Pending if !self.registration.wake_on_close(context) => Poll::Ready(Err(closed_here())),
            outcome => outcome,
        }
    }
}

impl Connected for TlsIo {
    type ConnectInfo = Arc<Connection>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.connection.clone()
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Err(closed) = self.check_open() {
            return closed;
        }
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.is_silent(buffer.filled().len() - before, cx) && outcome.is_pending() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if !self.meter.received(&buffer.filled()[before..], &Instant::now) {
            metrics::counter!("cloakroom_connections_closed_total", "reason" => "flood").increment(1);
            return Poll::Ready(Err(closed_here()));
        }
        self.or_closed(outcome, cx)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Err(closed) = self.check_open() {
            return closed;
        }
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.sent(&outcome);
        self.or_closed(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Err(closed) = self.check_open() {
            return closed;
        }
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.sent(&outcome);
        self.or_closed(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Err(closed) = self.check_open() {
            return closed;
        }
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.flushed(&outcome);
        self.or_closed(outcome, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Err(closed) = self.check_open() {
            return closed;
        }
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.flushed(&outcome);
        self.or_closed(outcome, cx)
    }
}

fn closed_here() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the vault closed this connection")
}
