//! What others answer and ask: witnesses on both sides, sinks, and HTTP from raw bytes.

use super::{Input, chosen};
use crate::clock::FakeClock;
use crate::clock::Timestamp;
use crate::export::fuzzed;
use crate::https;
use crate::merkle::note::{Name, SignedCheckpoint};
use crate::witness::fixture::{History, ORIGIN, witness_key};
use crate::witness::{Request, Witness, server};
use std::cell::OnceCell;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

/// A witness that has cosigned five events, and whose state is in memory.
struct Asked {
    witness: Arc<Witness>,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

thread_local! {
    static ASKED: OnceCell<Asked> = const { OnceCell::new() };
}

fn with_witness(run: impl FnOnce(&Asked)) {
    ASKED.with(|asked| {
        run(asked.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let state = folder.path().join("state");
            Witness::create_state(&state).unwrap();
            let clock = FakeClock::at(Timestamp::from_millis(1_790_000_000_000));
            let log = History::new(0).verifier();
            let witness = Witness::open(witness_key("witness.example/w"), &[log], &state, clock).unwrap();
            witness.add_checkpoint(&History::new(5).body(0, 5)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            Asked { witness: Arc::new(witness), runtime, _folder: folder }
        }));
    });
}

/// What `add-checkpoint` is asked. What is cosigned is a history that the log has signed.
pub(super) fn request(data: &[u8]) {
    if let Ok(request) = Request::parse(data) {
        assert_eq!(request.to_body().as_bytes(), data, "a second spelling of a request was taken");
    }
    with_witness(|asked| {
        if asked.witness.add_checkpoint(data).is_ok() {
            let request = Request::parse(data).expect("what is cosigned can be read");
            let honest = (5..12).map(|size| History::new(size).note(size));
            let text = |note: &str| note.split("\n\n").next().unwrap_or_default().to_owned();
            assert!(
                honest.map(|note| text(&note)).any(|honest| honest == text(&request.note)),
                "a forgery is cosigned"
            );
        }
    });
    crate::witness::state::check_reading(data, &Name::new(ORIGIN).unwrap());
}

pub(super) fn request_seeds() -> Vec<Vec<u8>> {
    let history = History::new(11);
    let mut seeds: Vec<Vec<u8>> =
        [(0, 5), (5, 5), (5, 8), (5, 11), (3, 8)].map(|(old, size)| history.body(old, size)).into();
    seeds.push(history.fork(4, 9).body(5, 9));
    seeds.push(crate::witness::state::written_for(&history.note(5)));
    seeds
}

/// What a witness answers: a status, a type, a body.
pub(super) fn answer(data: &[u8]) {
    let mut input = Input(data);
    let status = [200, 409, 422, 404, 503][usize::from(input.byte()) % 5];
    let content_type = ["text/x.tlog.size", "text/plain"][usize::from(input.byte()) & 1].to_owned();
    let answer = https::Answer { status, content_type, body: input.rest().to_vec() };
    crate::witness::circle::check_reading(
        &answer,
        &witness_key("witness.example/w").verifier(),
        &History::new(5).note(5),
    );
}

pub(super) fn answer_seeds() -> Vec<Vec<u8>> {
    let history = History::new(5);
    let signed = SignedCheckpoint::open(&history.note(5), &Name::new(ORIGIN).unwrap(), &[history.verifier()]).unwrap();
    let line = format!("{}\n", witness_key("witness.example/w").cosign(&signed, 1_790_000_000));
    vec![
        chosen(0, chosen(1, line)),
        chosen(1, chosen(0, "17\n")),
        chosen(1, chosen(0, "017\n")),
        chosen(2, chosen(1, "no\n")),
    ]
}

/// What a collector answers, and what a sink's cursor says.
pub(super) fn sink_answer(data: &[u8]) {
    fuzzed::check_answer(data);
}

pub(super) fn sink_seeds() -> Vec<Vec<u8>> {
    let json = |text: &str| [&[0, 1][..], text.as_bytes()].concat();
    vec![
        json("{}"),
        json("{\"partialSuccess\":{\"rejectedLogRecords\":\"2\",\"errorMessage\":\"no\"}}"),
        json("{\"partialSuccess\":{\"rejectedLogRecords\":-3}}"),
        vec![0, 0, 0x0a, 6, 8, 2, 0x12, 2, b'n', b'o'],
        [&[1, 3][..], b"120"].concat(),
        [&[2, 0][..], b"{\"version\":1,\"log_id\":\"log.example/vault\",\"next\":17}"].concat(),
    ]
}

/// Raw HTTP: to the witness's door, to the listener for probes, and as an answer to the vault's own client.
pub(super) fn http(data: &[u8]) {
    let mut input = Input(data);
    let which = input.byte() % 3;
    let bytes = input.rest();
    with_witness(|asked| {
        asked.runtime.block_on(async {
            let (mut outside, inside) = tokio::io::duplex(1 << 16);
            match which {
                0 => {
                    let (_tell, told) = tokio::sync::watch::channel(());
                    let served = tokio::spawn(server::converse(inside, Arc::clone(&asked.witness), told));
                    let answer = say(&mut outside, bytes).await;
                    served.await.expect("the witness's door did not panic");
                    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "an answer that is no HTTP");
                }
                1 => {
                    let served = tokio::spawn(crate::server::converse_with_probes(inside));
                    let answer = say(&mut outside, bytes).await;
                    served.await.expect("the listener for probes did not panic");
                    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "an answer that is no HTTP");
                }
                _ => {
                    let asking = tokio::spawn(https::exchange_over(inside));
                    // The whole answer is there before it is asked for.
                    let _ = say(&mut outside, bytes).await;
                    drop(outside);
                    if let Ok(answer) = asking.await.expect("the client did not panic") {
                        assert!(answer.body.len() <= bytes.len());
                    }
                }
            }
        });
    });
}

/// Says it and hangs up; what came back.
async fn say(stream: &mut tokio::io::DuplexStream, bytes: &[u8]) -> Vec<u8> {
    // Whoever has heard enough hangs up first.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

pub(super) fn http_seeds() -> Vec<Vec<u8>> {
    let body = History::new(8).body(5, 8);
    let head = format!("POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: {}\r\n\r\n", body.len());
    vec![
        chosen(0, [head.as_bytes(), &body].concat()),
        chosen(0, "GET / HTTP/1.1\r\nHost: w\r\n\r\nGET /add-checkpoint HTTP/1.0\r\n\r\n"),
        chosen(
            0,
            "POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nold\r\n0\r\n\r\n",
        ),
        chosen(1, "GET /livez HTTP/1.1\r\nHost: v\r\n\r\n"),
        chosen(1, "HEAD /readyz HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n"),
        chosen(2, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nyes"),
        chosen(2, "HTTP/1.1 409 Conflict\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n17\n\r\n0\r\n\r\n"),
    ]
}
