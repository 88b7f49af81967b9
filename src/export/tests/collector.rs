//! An OTLP collector that answers as a test says, and remembers what it was sent.

use super::HANG;
use crate::export::Target;
use crate::export::otlp::{ExportLogsServiceRequest, ExportLogsServiceResponse, Kind, PartialSuccess};
use parking_lot::Mutex;
use prost::Message;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What came in.
#[derive(Clone)]
pub(super) struct Received {
    /// Counted from 0.
    pub number: usize,
    pub sequences: Vec<u64>,
    /// Whether it was acknowledged.
    pub accepted: bool,
    /// Whether the answer was written.
    pub answered: bool,
}

/// What goes back.
pub(super) struct Reply {
    text: Vec<u8>,
    accepted: bool,
    /// What becomes of the connection then.
    then: Then,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Keep,
    Close,
    Hang,
}

pub(super) struct Collector {
    port: u16,
    received: watch::Receiver<Vec<Received>>,
    connections: Arc<Mutex<usize>>,
    task: tokio::task::JoinHandle<()>,
}

type Answering = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

impl Collector {
    pub async fn start(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (received, receiver) = watch::channel(Vec::new());
        let connections = Arc::new(Mutex::new(0));
        let (count, received, answer) = (Arc::clone(&connections), Arc::new(received), Arc::new(answer) as Answering);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *count.lock() += 1;
                let (received, answer) = (Arc::clone(&received), Arc::clone(&answer));
                // Who is told to hang up or is cut off ends with an error, which is nobody's business.
                tokio::spawn(async move { drop(serve(stream, &received, &*answer).await) });
            }
        });
        Self { port, received: receiver, connections, task }
    }

    pub fn target(&self) -> Target {
        Target::Otlp { url: format!("http://127.0.0.1:{}/v1/logs", self.port).parse().unwrap() }
    }

    /// Every sequence that came, in order.
    pub fn seen(&self) -> Vec<u64> {
        self.received.borrow().iter().flat_map(|request| request.sequences.clone()).collect()
    }

    /// Every sequence that was acknowledged.
    pub fn accepted(&self) -> Vec<u64> {
        let received = self.received.borrow();
        received.iter().filter(|request| request.accepted).flat_map(|request| request.sequences.clone()).collect()
    }

    pub fn requests(&self) -> usize {
        self.received.borrow().len()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock()
    }

    pub async fn until(&self, there: impl FnMut(&Vec<Received>) -> bool) {
        let mut received = self.received.clone();
        let came = tokio::time::timeout(HANG, received.wait_for(there)).await;
        drop(came.expect("this never came").unwrap());
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reply {
    pub fn taken() -> Self {
        Self { accepted: true, ..Self::with_body(200, "application/x-protobuf", &[]) }
    }

    pub fn status(status: u16) -> Self {
        Self::with_body(status, "text/plain", b"no")
    }

    pub fn partly(rejected_log_records: i64) -> Self {
        let partial_success = Some(PartialSuccess { rejected_log_records, error_message: "too old".to_owned() });
        let body = ExportLogsServiceResponse { partial_success }.encode_to_vec();
        Self { accepted: true, ..Self::with_body(200, "application/x-protobuf", &body) }
    }

    pub fn page() -> Self {
        Self::with_body(200, "text/html", b"<html>It works!</html>")
    }

    pub fn hang_up() -> Self {
        Self { text: Vec::new(), accepted: false, then: Then::Close }
    }

    pub fn never() -> Self {
        Self { text: Vec::new(), accepted: false, then: Then::Hang }
    }

    pub fn half() -> Self {
        Self { text: b"HTTP/1.1 200 OK\r\ncontent-le".to_vec(), accepted: false, then: Then::Close }
    }

    pub fn with(mut self, header: &str) -> Self {
        let end = self.text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        self.text.splice(end..end, format!("{header}\r\n").into_bytes());
        self
    }

    pub fn and_close(self) -> Self {
        Self { then: Then::Close, ..self }
    }

    fn with_body(status: u16, content_type: &str, body: &[u8]) -> Self {
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
        Self { text: [head.as_bytes(), body].concat(), accepted: false, then: Then::Keep }
    }
}

async fn serve(
    mut stream: TcpStream,
    received: &watch::Sender<Vec<Received>>,
    answer: &(dyn Fn(&Received) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let body = request(&mut stream, &mut buffer).await?;
        let sequences = sequences(&body);
        let number = received.borrow().len();
        let mut one = Received { number, sequences, accepted: false, answered: false };
        let reply = answer(&one);
        one.accepted = reply.accepted;
        received.send_modify(|all| all.push(one));
        stream.write_all(&reply.text).await?;
        received.send_modify(|all| all[number].answered = true);
        match reply.then {
            Then::Keep => {}
            Then::Close => return Ok(()),
            Then::Hang => std::future::pending().await,
        }
    }
}

/// The body of the next request.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Vec<u8>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            assert!(head.starts_with("post /v1/logs http/1.1\r\n"), "{head}");
            assert!(
                head.contains("content-type: application/x-protobuf") && head.contains("\r\nhost: 127.0.0.1:"),
                "{head}"
            );
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.expect("a length").trim().parse().unwrap();
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Ok(body);
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The sequences of the records, each held against its body.
fn sequences(body: &[u8]) -> Vec<u64> {
    let request = ExportLogsServiceRequest::decode(body).unwrap();
    let records = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
    let records = records.flat_map(|scope| scope.log_records);
    records
        .map(|record| {
            let attribute = record.attributes.iter().find(|attribute| attribute.key == "cloakroom.sequence").unwrap();
            let Some(Kind::Number(sequence)) = attribute.value.clone().unwrap().kind else { panic!("a number") };
            let Some(Kind::Text(text)) = record.body.unwrap().kind else { panic!("a text") };
            let event: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(event["sequence"], sequence);
            sequence.unsigned_abs()
        })
        .collect()
}
