//! A peer that writes whatever frames it likes, and listens at the same time.

use super::PATIENCE;
use crate::frames::{DATA, GOAWAY, HEADERS, RST_STREAM, text};
use crate::harness::{Identity, Server};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub const PRIORITY: u8 = 2;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const ENHANCE_YOUR_CALM: u32 = 11;
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What our own PING asks.
const QUESTION: &[u8] = b"are you?";
/// Bytes that are written at once.
const CHUNK: usize = 64 << 10;

/// What came from the vault.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Frames by their kind.
    pub frames: BTreeMap<u8, usize>,
    /// GOAWAY's reason.
    pub goaway: Option<u32>,
    /// Streams that were reset, and why.
    pub resets: BTreeMap<u32, u32>,
    /// Streams that got headers, and those whose last frame came.
    pub answered: BTreeSet<u32>,
    pub ended: BTreeSet<u32>,
    /// Answers to our own questions whether it has read so far.
    pub pongs: usize,
    /// Bytes of DATA.
    pub data: usize,
    /// The connection is over.
    pub over: bool,
}

/// An open connection.
pub struct Raw {
    write: WriteHalf<TlsStream<TcpStream>>,
    heard: Arc<Mutex<Heard>>,
    news: Arc<Notify>,
    listening: JoinHandle<()>,
    pings: usize,
}

/// A frame, with its head.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers of a call to `path`, and more.
pub fn block(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let first = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "localhost")];
    let second = [("content-type", "application/grpc"), ("te", "trailers")];
    let mut block = Vec::new();
    for (name, value) in first.iter().chain(&second).chain(more) {
        // Literal, never indexed, not compressed.
        block.push(0x10);
        text(name, &mut block);
        text(value, &mut block);
    }
    block
}

/// A header block in frames of at most 16 KiB.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    let count = block.chunks(16_384).count();
    for (number, piece) in block.chunks(16_384).enumerate() {
        let last = if number + 1 == count { END_HEADERS } else { 0 };
        let (kind, flags) = if number == 0 { (HEADERS, flags | last) } else { (CONTINUATION, last) };
        frames.extend(frame(kind, flags, stream, piece));
    }
    frames
}

pub async fn handshake(server: &Server, identity: &Identity) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(server.address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(identity.tls()).connect(name, tcp).await
}

impl Raw {
    /// With these settings.
    pub async fn open(server: &Server, identity: &Identity, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self::over(handshake(server, identity).await.unwrap());
        let settings: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        // It may have been closed by now, which shows in what is heard.
        let _ = raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()).await;
        raw
    }

    fn over(stream: TlsStream<TcpStream>) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (heard, news) = (Arc::<Mutex<Heard>>::default(), Arc::<Notify>::default());
        let listening = {
            let (heard, news) = (Arc::clone(&heard), Arc::clone(&news));
            tokio::spawn(async move {
                listen(read, &heard, &news).await;
                heard.lock().over = true;
                news.notify_waiters();
            })
        };
        Self { write, heard, news, listening, pings: 0 }
    }

    /// False if the vault takes nothing more. What the kernel has in between may be lost.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(CHUNK) {
            let heard = self.heard.lock().over;
            let written = async { self.write.write_all(piece).await.is_ok() && self.write.flush().await.is_ok() };
            if heard || !tokio::time::timeout(PATIENCE, written).await.expect("the vault reads, or closes") {
                return false;
            }
        }
        true
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().clone()
    }

    /// Waits until something has been heard, or the connection is over.
    pub async fn until(&self, what: &str, found: impl Fn(&Heard) -> bool) -> Heard {
        let waiting = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                let heard = self.heard();
                if heard.over || found(&heard) {
                    return heard;
                }
                news.await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("this never came: {what}"))
    }

    /// Waits until the vault has read all that was sent. False if the connection is over.
    pub async fn is_read(&mut self) -> bool {
        self.pings += 1;
        let pings = self.pings;
        if !self.send(&frame(PING, 0, 0, QUESTION)).await {
            return false;
        }
        !self.until("an answer to PING", |heard| heard.pongs >= pings).await.over
    }

    /// Waits until the vault has closed it.
    pub async fn closed(self) -> Heard {
        let heard = self.until("the end of the connection", |_| false).await;
        self.listening.abort();
        heard
    }

    /// As [`Self::closed`], of one that goes on sending what the vault answers without end.
    pub fn go(self) {
        self.listening.abort();
    }
}

async fn listen(mut read: ReadHalf<TlsStream<TcpStream>>, heard: &Mutex<Heard>, news: &Notify) {
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if read.read_exact(&mut payload).await.is_err() {
            return;
        }
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        let number = |at: usize| payload.get(at..at + 4).map(|four| u32::from_be_bytes(four.try_into().unwrap()));
        let mut heard = heard.lock();
        *heard.frames.entry(kind).or_default() += 1;
        match kind {
            GOAWAY => heard.goaway = number(4),
            RST_STREAM => drop(heard.resets.insert(stream, number(0).unwrap_or_default())),
            HEADERS => drop(heard.answered.insert(stream)),
            PING if payload == QUESTION => heard.pongs += 1,
            DATA => heard.data += payload.len(),
            _ => {}
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            heard.ended.insert(stream);
        }
        drop(heard);
        news.notify_waiters();
    }
}
