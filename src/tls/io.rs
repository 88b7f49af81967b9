//! An open connection: the bytes of a verified client.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::connections::Registration;
use crate::caller::Caller;

/// What is known of a connection for as long as it lives. Handlers find it in a request's extensions as
/// `Arc<Connection>`. It has no `Debug`: the exporter is for comparing, not for printing.
pub struct Connection {
    /// The verified client.
    pub caller: Arc<Caller>,
    /// The channel binding of RFC 9266 (`tls-exporter`): the same at both ends, and different on every connection.
    pub exporter: [u8; 32],
    /// The group of the key exchange, such as `X25519MLKEM768`.
    pub key_exchange: &'static str,
}

/// A connection whose handshake is done. Dropping it gives its place among the connections back.
pub struct TlsIo {
    stream: TlsStream<TcpStream>,
    connection: Arc<Connection>,
    registration: Registration,
}

impl TlsIo {
    pub(super) fn new(stream: TlsStream<TcpStream>, connection: Arc<Connection>, registration: Registration) -> Self {
        Self { stream, connection, registration }
    }

    /// Who is at the other end.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
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
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.or_closed(outcome, cx)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Err(closed) = self.check_open() {
            return closed;
        }
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
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
        self.or_closed(outcome, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Err(closed) = self.check_open() {
            return closed;
        }
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.or_closed(outcome, cx)
    }
}

fn closed_here() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the vault closed this connection")
}
