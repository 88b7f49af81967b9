//! Batches in flight: a few at a time, answered in the order of the input.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::input::Batch;
use super::terminal::Progress;
use super::{Exit, complain, note};
use crate::client::{self, Failure, TOO_LONG};

/// Calls at the same time. More would not make one client faster, only its memory larger.
const IN_FLIGHT: usize = 4;
/// How often a call is made where the vault says each time how long to wait before the next attempt.
const ATTEMPTS: u32 = 5;
/// A longer wait than this is for the caller to decide on.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What became of each item of a call, in its order.
pub(super) type Answers<R> = Vec<Result<R, Failure>>;

/// Why a line has no result.
pub(super) enum Refusal {
    /// Found on this side.
    Here(String),
    /// Said by the vault.
    There(Failure),
}

/// What became of a batch: its lines as far as they were answered, and why not further.
struct Landing<R> {
    lines: Vec<(u64, Result<R, Refusal>)>,
    stopped: Option<(u64, client::Error)>,
}

/// Sends each batch of `lines` with `call` and gives what became of each line to `write`, in the order of the input.
///
/// `write` gets the reason of a line that was refused, too; it is also written to standard error here. The output is
/// flushed after each batch. The first call that fails as a whole ends the run.
pub(super) async fn run<T, R, W, F>(
    mut lines: mpsc::Receiver<io::Result<Batch<T>>>,
    call: impl Fn(&[T]) -> F + Clone + Send + Sync + 'static,
    output: &mut W,
    write: impl Fn(&mut W, u64, &Result<R, Refusal>) -> io::Result<()>,
) -> anyhow::Result<Exit>
where
    T: Send + Sync + 'static,
    R: Send + 'static,
    W: Write,
    F: Future<Output = Result<Answers<R>, client::Error>> + Send + 'static,
{
    let mut flights: VecDeque<JoinHandle<Landing<R>>> = VecDeque::new();
    let (mut ended, mut nothing, mut exit) = (false, true, Exit::Done);
    let mut progress = Progress::new();
    while !(ended && flights.is_empty()) {
        let room = !ended && flights.len() < IN_FLIGHT;
        tokio::select! {
            batch = lines.recv(), if room => match batch {
                None => ended = true,
                Some(batch) => {
                    let batch = batch.context("cannot read the input")?;
                    nothing = false;
                    flights.push_back(tokio::spawn(fly(batch, call.clone())));
                }
            },
            landing = first(&mut flights) => {
                flights.pop_front();
                for (line, result) in &landing.lines {
                    if let Err(refusal) = result {
                        progress.clear();
                        complain(&format!("line {line}: {refusal}"));
                        exit = Exit::SomeFailed;
                    }
                    write(output, *line, result).context("cannot write the output")?;
                }
                output.flush().context("cannot write the output")?;
                progress.advance(landing.lines.len());
                match landing.stopped {
                    // Nothing came of any line: that the first is not done either goes without saying.
                    Some((1, error)) => return Err(error.into()),
                    Some((line, error)) => {
                        return Err(anyhow::Error::from(error).context(format!("stopped before line {line}")));
                    }
                    None => {}
                }
            }
        }
    }
    if nothing {
        note("cloakroom: nothing was read");
    }
    Ok(exit)
}

/// The oldest flight's landing. Never, if there is none.
async fn first<R>(flights: &mut VecDeque<JoinHandle<Landing<R>>>) -> Landing<R> {
    match flights.front_mut() {
        Some(flight) => flight.await.expect("a call neither panics nor is aborted"),
        None => std::future::pending().await,
    }
}

/// Makes the calls that a batch needs: mostly one.
async fn fly<T, R, F>(batch: Batch<T>, call: impl Fn(&[T]) -> F) -> Landing<R>
where
    F: Future<Output = Result<Answers<R>, client::Error>>,
{
    let mut numbers = Vec::with_capacity(batch.len());
    let mut items = Vec::with_capacity(batch.len());
    for line in batch {
        match line.item {
            Ok(item) => {
                items.push(item);
                numbers.push((line.number, None));
            }
            Err(problem) => numbers.push((line.number, Some(problem))),
        }
    }
    let (answers, error) = answers(&items, call).await;
    let mut answers = answers.into_iter();
    let mut lines = Vec::with_capacity(numbers.len());
    let mut unanswered = None;
    for (number, problem) in numbers {
        let result = match problem {
            Some(problem) => Some(Err(Refusal::Here(problem))),
            None => answers.next().map(|answer| answer.map_err(Refusal::There)),
        };
        let Some(result) = result else {
            unanswered = Some(number);
            break;
        };
        lines.push((number, result));
    }
    Landing { lines, stopped: unanswered.zip(error) }
}

/// Answers for all items, or for the first of them and why not for more.
///
/// Where all of them would be too much for one call, halves are asked for.
async fn answers<T, R, F>(items: &[T], call: impl Fn(&[T]) -> F) -> (Answers<R>, Option<client::Error>)
where
    F: Future<Output = Result<Answers<R>, client::Error>>,
{
    let mut answers = Vec::with_capacity(items.len());
    let mut parts = Vec::from([items]);
    while let Some(part) = parts.pop().filter(|part| !part.is_empty()) {
        match patiently(part, &call).await {
            Ok(more) if more.len() == part.len() => answers.extend(more),
            Ok(more) => {
                let message = format!("{} results for {} items", more.len(), part.len());
                return (answers, Some(client::Error::malformed_answer(message)));
            }
            Err(error) => match error.failure() {
                Some(failure) if failure.reason.as_deref().is_some_and(|reason| TOO_LONG.contains(&reason)) => {
                    if part.len() == 1 {
                        answers.push(Err(failure.clone()));
                        continue;
                    }
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([right, left]);
                }
                _ => return (answers, Some(error)),
            },
        }
    }
    (answers, None)
}

/// Calls, and again after a while where the vault says that it was too much: then nothing was done.
async fn patiently<T, R, F>(items: &[T], call: &impl Fn(&[T]) -> F) -> Result<Answers<R>, client::Error>
where
    F: Future<Output = Result<Answers<R>, client::Error>>,
{
    let mut attempt = 1;
    loop {
        let result = call(items).await;
        let wait = match &result {
            Err(client::Error::Limited(failure)) => failure.retry_after,
            _ => None,
        };
        match wait {
            Some(wait) if attempt < ATTEMPTS && wait <= LONGEST_WAIT => tokio::time::sleep(wait).await,
            _ => return result,
        }
        attempt += 1;
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(problem) => formatter.write_str(problem),
            Self::There(failure) => write!(formatter, "{failure}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::input::{self, Line};
    use super::*;

    fn failure(reason: &str) -> Failure {
        Failure {
            code: tonic::Code::ResourceExhausted,
            reason: Some(reason.to_owned()),
            message: String::new(),
            violations: Vec::new(),
            retry_after: None,
            receipt: None,
        }
    }

    fn write(output: &mut Vec<u8>, line: u64, result: &Result<String, Refusal>) -> io::Result<()> {
        writeln!(output, "{line}:{}", result.as_ref().map_or("-", String::as_str))
    }

    fn lines(count: usize) -> mpsc::Receiver<io::Result<Batch<String>>> {
        let text = (0..count).map(|number| format!("v{number}\n")).collect::<Vec<_>>().concat();
        input::batches(Box::new(io::Cursor::new(text)), |line| {
            Ok(String::from_utf8(line.into_exposed()).expect("the test writes text"))
        })
    }

    #[tokio::test]
    async fn answers_come_in_the_order_of_the_input() {
        let calls = Arc::new(AtomicUsize::new(0));
        let call = move |items: &[String]| {
            let items = items.to_vec();
            let turns = 3 - calls.fetch_add(1, Ordering::SeqCst) % 4;
            async move {
                for _ in 0..turns * 10 {
                    tokio::task::yield_now().await;
                }
                Ok(items.into_iter().map(Ok).collect())
            }
        };
        let mut output = Vec::new();
        assert_eq!(run(lines(5_500), call, &mut output, write).await.unwrap(), Exit::Done);
        let expected = (0..5_500).map(|number| format!("{}:v{number}\n", number + 1)).collect::<Vec<_>>().concat();
        assert!(output == expected.as_bytes());
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_asked_for_in_halves() {
        let call = |items: &[String]| {
            let items = items.to_vec();
            async move {
                if items.iter().any(|item| item == "v2") || items.len() > 3 {
                    return Err(client::Error::Limited(failure(TOO_LONG[0])));
                }
                Ok(items.into_iter().map(Ok).collect())
            }
        };
        let mut output = Vec::new();
        assert_eq!(run(lines(5), call, &mut output, write).await.unwrap(), Exit::SomeFailed);
        assert_eq!(String::from_utf8(output).unwrap(), "1:v0\n2:v1\n3:-\n4:v3\n5:v4\n");
    }

    #[tokio::test]
    async fn a_refused_line_keeps_its_place_and_a_failed_call_ends_the_run() {
        let (sender, receiver) = mpsc::channel(2);
        let line = |number, item| Line { number, item };
        let batch = vec![line(1, Ok("a".to_owned())), line(2, Err("bad".to_owned())), line(3, Ok("b".to_owned()))];
        sender.send(Ok(batch)).await.unwrap();
        sender.send(Ok(vec![line(4, Ok("stop".to_owned()))])).await.unwrap();
        drop(sender);
        let call = |items: &[String]| {
            let items = items.to_vec();
            async move {
                if items[0] == "stop" {
                    return Err(client::Error::Unavailable(failure("SEALED")));
                }
                Ok(items.into_iter().map(Ok).collect())
            }
        };
        let mut output = Vec::new();
        let error = run(receiver, call, &mut output, write).await.unwrap_err();
        assert_eq!(String::from_utf8(output).unwrap(), "1:a\n2:-\n3:b\n");
        assert_eq!(Exit::after(&error), Exit::Unavailable);
        assert!(format!("{error:#}").starts_with("stopped before line 4: "), "{error:#}");
    }
}
