//! A call as it lies on the wire: every header that came, every piece of the body with its length, every trailer.

use crate::harness::{Client, Identity, Server};
use http_body_util::Full;
use hyper::body::{Body, Bytes};
use prost::Message;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::pin::Pin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::{Code, Status};
use tower::ServiceExt;

/// All of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub http_status: u16,
    /// In the order in which they came.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, in the pieces in which it came.
    pub pieces: Vec<Vec<u8>>,
    pub trailers: Vec<(String, Vec<u8>)>,
}

/// A message as gRPC frames it.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat()
}

/// Calls `path` with `body`, as it is, and these headers beside those that gRPC needs.
pub async fn call(client: &Client, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Answer, String> {
    read(client, path, headers, body, usize::MAX).await
}

/// As [`call`], of what never ends by itself: up to the first piece of the body.
pub async fn begin(client: &Client, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Answer, String> {
    read(client, path, headers, body, 1).await
}

async fn read(
    client: &Client,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
    pieces: usize,
) -> Result<Answer, String> {
    let mut request = http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(tonic::body::Body::new(Full::new(Bytes::from(body)))).unwrap();
    let answer = client.channel.clone().oneshot(request).await.map_err(|error| format!("{error:?}"))?;
    let (head, mut body) = answer.into_parts();
    let http_status = head.status.as_u16();
    let mut whole = Answer { http_status, headers: listed(&head.headers), pieces: Vec::new(), trailers: Vec::new() };
    while whole.pieces.len() < pieces
        && let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        match frame.map_err(|error| format!("{error:?}"))?.into_data() {
            Ok(data) => whole.pieces.push(data.to_vec()),
            Err(frame) => whole.trailers = listed(&frame.into_trailers().unwrap()),
        }
    }
    Ok(whole)
}

fn listed(headers: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

impl Answer {
    /// The code, wherever it stands.
    pub fn code(&self) -> Code {
        let of = |headers: &[(String, Vec<u8>)]| {
            let value = headers.iter().find(|(name, _)| name == "grpc-status")?;
            Some(Code::from_bytes(&value.1))
        };
        of(&self.trailers).or_else(|| of(&self.headers)).unwrap_or(Code::Unknown)
    }

    /// The failure, as a gRPC library would read it.
    pub fn status(&self) -> Status {
        let mut map = http::HeaderMap::new();
        for (name, value) in self.headers.iter().chain(&self.trailers) {
            map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.as_slice().try_into().unwrap());
        }
        Status::from_header_map(&map).expect("it has a status")
    }

    /// The first message of the body.
    pub fn message<T: Message + Default>(&self) -> T {
        T::decode(&self.pieces.concat()[5..]).unwrap()
    }
}

// === below HTTP/2's rules ===

/// A connection whose frames the test writes itself.
pub struct Line {
    tls: TlsStream<TcpStream>,
    pub local: SocketAddr,
}

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub struct RawFrame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
pub const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

impl Line {
    /// Shakes hands as `identity` and opens HTTP/2.
    pub async fn open(server: &Server, identity: &Identity) -> Self {
        let tcp = TcpStream::connect(server.address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let local = tcp.local_addr().unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = TlsConnector::from(identity.tls()).connect(name, tcp).await.unwrap();
        let mut line = Self { tls, local };
        line.tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        line.send(SETTINGS, 0, 0, &[]).await;
        line
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.tls.write_all(&frame).await.unwrap();
    }

    /// A whole call: headers spelled as they are given, and a body in one piece.
    pub async fn call(&mut self, stream: u32, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        self.begin(stream, path, headers).await;
        self.send(DATA, END_STREAM, stream, body).await;
        self.tls.flush().await.unwrap();
    }

    /// The headers of a call.
    async fn begin(&mut self, stream: u32, path: &str, headers: &[(&str, &str)]) {
        let first = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "localhost")];
        let second = [("content-type", "application/grpc"), ("te", "trailers")];
        let mut block = Vec::new();
        for (name, value) in first.iter().chain(&second).chain(headers) {
            // Literal, never indexed, not compressed.
            block.push(0x10);
            text(name, &mut block);
            text(value, &mut block);
        }
        self.send(HEADERS, END_HEADERS, stream, &block).await;
    }

    /// Begins a call and sends `body` as fast as the vault takes it, without an end. Whether it took all of it.
    pub async fn send_most(&mut self, stream: u32, path: &str, body: &[u8]) -> bool {
        const PIECE: usize = 16_384;
        self.begin(stream, path, &[]).await;
        // As RFC 9113 has it before anything else is said; the vault's settings and updates add to them.
        let (mut of_stream, mut of_connection) = (65_535_i64, 65_535_i64);
        let mut rest = body;
        while !rest.is_empty() {
            let piece = rest.len().min(PIECE);
            let cost = i64::try_from(piece).expect("a piece is small");
            if of_stream.min(of_connection) >= cost {
                self.send(DATA, 0, stream, &rest[..piece]).await;
                rest = &rest[piece..];
                of_stream -= cost;
                of_connection -= cost;
                continue;
            }
            self.tls.flush().await.unwrap();
            let Some(frame) = self.next().await else { return false };
            let number = |from: usize| i64::from(u32::from_be_bytes(frame.payload[from..from + 4].try_into().unwrap()));
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => {
                    let window = (0..frame.payload.len()).step_by(6).find(|at| frame.payload[*at..at + 2] == [0, 4]);
                    of_stream += window.map_or(0, |at| number(at + 2) - 65_535);
                    self.send(SETTINGS, ACK, 0, &[]).await;
                }
                WINDOW_UPDATE if frame.stream == 0 => of_connection += number(0),
                WINDOW_UPDATE => of_stream += number(0),
                HEADERS | RST_STREAM | GOAWAY => return false,
                _ => {}
            }
        }
        // The answer to a refused one may come while the last pieces are on their way.
        self.send(PING, 0, 0, b"are you?").await;
        self.tls.flush().await.unwrap();
        while let Some(frame) = self.next().await {
            match frame.kind {
                PING if frame.flags == ACK => return true,
                HEADERS | RST_STREAM | GOAWAY => return false,
                _ => {}
            }
        }
        false
    }

    /// Gives a call up.
    pub async fn reset(&mut self, stream: u32) {
        const CANCEL: u32 = 8;
        self.send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()).await;
        self.tls.flush().await.unwrap();
    }

    /// Waits until the vault has read everything that was sent so far.
    pub async fn ping(&mut self) {
        self.send(PING, 0, 0, b"are you?").await;
        self.tls.flush().await.unwrap();
        loop {
            let frame = self.next().await.expect("the connection is open");
            if (frame.kind, frame.flags) == (PING, ACK) {
                return;
            }
        }
    }

    /// The next frame, or `None` where the connection ends.
    pub async fn next(&mut self) -> Option<RawFrame> {
        let mut head = [0; 9];
        self.tls.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.tls.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(RawFrame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of `stream`, or one that ends the connection.
    pub async fn next_of(&mut self, stream: u32) -> Option<RawFrame> {
        loop {
            let frame = self.next().await?;
            if frame.stream == stream || frame.kind == GOAWAY {
                return Some(frame);
            }
        }
    }

    /// Cuts the connection off, without a word.
    pub fn cut(self) {
        let (tcp, _) = self.tls.into_inner();
        socket2::SockRef::from(&tcp).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}

/// A string as HPACK writes it.
pub fn text(text: &str, block: &mut Vec<u8>) {
    const SHORT: usize = 127;
    match text.len() {
        short @ 0..SHORT => block.push(u8::try_from(short).unwrap()),
        long => {
            block.push(127);
            let mut rest = long - SHORT;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128 + 128).unwrap());
                rest /= 128;
            }
            block.push(u8::try_from(rest).unwrap());
        }
    }
    block.extend_from_slice(text.as_bytes());
}
