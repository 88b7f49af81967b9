//! The gRPC door: protobuf to the domain and back. It decides nothing.
//!
//! What is registered here is listed in [`methods::METHODS`]; a method that is not in the table is refused. Each call is
//! finished and recorded even if its caller goes away meanwhile.

mod audit;
mod bodies;
mod convert;
mod durations;
mod gather;
mod guard;
mod lag;
pub mod methods;
mod status;
mod stream;
mod token;

pub use audit::AuditDoor;
pub use durations::Durations;
pub use guard::Guard;
pub use lag::Lag;
pub use token::TokenDoor;

use crate::tls::Connection;
use crate::vault::{Call, Failure, Reason, UnderWay, Vault};
use http::HeaderMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tonic::{Request, Status};

/// Messages are at most this long, both ways.
pub const MESSAGE_BYTES_AT_MOST: usize = 4 * 1024 * 1024;
/// Of health and reflection, which ask for a name, and which nobody needs a permission for.
pub const PROBE_BYTES_AT_MOST: usize = 4 * 1024;

/// Who calls, as the connection proved it. Metadata is never believed about identity.
fn call_of<T>(request: &Request<T>) -> Result<Call, Status> {
    let connection = request.extensions().get::<Arc<Connection>>().ok_or_else(status::internal)?;
    let read = request.extensions().get::<guard::Read>().inspect(|read| read.note());
    Ok(Call {
        caller: Arc::clone(&connection.caller),
        deadline: read.map(|read| read.deadline),
        trace_id: trace_id_of(request).unwrap_or_default(),
        share: Arc::clone(request.extensions().get().ok_or_else(status::internal)?),
    })
}

/// `grpc-timeout`: up to eight digits and a unit. A malformed one counts as none. It must be read exactly as the transport reads it,
/// whose timer says CANCELLED and leaves no trace: so with a plus sign it is good.
fn deadline_of(headers: &HeaderMap) -> Option<Instant> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // A sign before the digits is none of the specification's, but the transport around this takes it, and would say CANCELLED.
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Instant::now().checked_add(timeout)
}

/// The trace id of W3C `traceparent`, if it is one: two digits, 32, 16, two, lower-case hexadecimal.
fn trace_id_of<T>(request: &Request<T>) -> Option<String> {
    let text = request.metadata().get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let (_version, trace_id) = (parts.next()?, parts.next()?);
    let is_hex = trace_id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = trace_id.bytes().all(|byte| byte == b'0');
    (trace_id.len() == 32 && is_hex && !is_zero).then(|| trace_id.to_owned())
}

/// An operation, on the heap: as part of the futures around it, it would be copied with each of them.
type Operation<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

/// Runs an operation to its end, whatever becomes of its caller, and puts its failure into the wire's terms.
fn finish<T: Send + 'static>(
    vault: &Arc<Vault>,
    call: Call,
    method: &'static methods::Method,
    operation: Operation<T>,
) -> impl Future<Output = Result<T, Status>> + Send + use<T> {
    let story = Story { vault: vault.begin(), call, method };
    let mut finishing = Finishing(Some((Unwound(operation), story)));
    async move {
        let outcome = (&mut finishing).await;
        // It is taken when this is dropped, and then nobody is here.
        let (_, story) = finishing.0.take().ok_or_else(status::internal)?;
        match outcome {
            Some(outcome) => outcome.map_err(|failure| story.failed(failure)),
            // On the heap, like all that is rare.
            None => Err(Box::pin(story.panicked()).await),
        }
    }
}

/// An operation that may panic: `None` then.
struct Unwound<T>(Operation<T>);

/// Whose operation it is, and what it leaves behind it.
struct Story {
    /// The end of the vault waits for it.
    vault: UnderWay,
    call: Call,
    method: &'static methods::Method,
}

/// Runs an operation as part of its caller's task; what is left of it when the caller goes away, in a task of its own.
/// (A task for each call from the start would cost more than sealing its value.)
struct Finishing<T: Send + 'static>(Option<(Unwound<T>, Story)>);

impl Story {
    /// What the caller is told, once the log says what it has to say besides the operation's own event.
    fn failed(&self, failure: Failure) -> Status {
        if matches!(failure, Failure::Overloaded) {
            // Nothing of it was written.
            self.vault.turned_away(&self.call.caller, self.method.action, Reason::Overloaded);
        }
        status::of(failure)
    }

    /// It panicked: a fault in this program. The panic hook has logged where; the event says that there was one.
    async fn panicked(self) -> Status {
        let recorded = self.vault.panicked(&self.call, self.method.action).await;
        recorded.map_or_else(status::of, |receipt| status::of_panic(&receipt))
    }
}

impl<T> Future for Unwound<T> {
    type Output = Option<Result<T, Failure>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // What it leaves behind when it panics is dropped by its owner and seen by nobody; what it shares has locks that stay
        // whole. A task of its own would do the same.
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(polled) => polled.map(Some),
            Err(_) => Poll::Ready(None),
        }
    }
}

impl<T: Send + 'static> Future for &mut Finishing<T> {
    type Output = Option<Result<T, Failure>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.as_mut() {
            Some((operation, _)) => Pin::new(operation).poll(context),
            None => Poll::Ready(None),
        }
    }
}

impl<T: Send + 'static> Drop for Finishing<T> {
    fn drop(&mut self) {
        // Without a runtime the process is at its end, and tasks are too.
        if let Some((operation, story)) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                // Nobody is told, but the log is.
                match operation.await {
                    Some(Ok(_)) => {}
                    Some(Err(failure)) => drop(story.failed(failure)),
                    None => drop(story.panicked().await),
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{Secret, SecretBytes};
    use crate::vault::fixture::Fixture;
    use crate::vault::{DetokenizeRequest, TokenizeItem};
    use std::sync::atomic::Ordering;

    /// The call's answer, and how many events it left, those that come with the next summary among them.
    async fn finished(end: fn() -> Result<(), Failure>) -> (Option<tonic::Code>, Vec<crate::event::Event>) {
        let f = Fixture::new();
        let before = f.events().len();
        let operation: Operation<()> = Box::pin(async move { end() });
        let call = f.client("gateway").call;
        let answer = finish(&f.vault, call, &methods::TOKENIZE, operation).await;
        f.vault.record_refusals().await.unwrap();
        (answer.err().map(|status| status.code()), f.check().split_off(before))
    }

    #[tokio::test]
    async fn a_call_that_panics_leaves_one_event_a_09() {
        let (code, events) = finished(|| panic!("on purpose")).await;
        assert_eq!(code, Some(tonic::Code::Internal));
        let [event] = &events[..] else { panic!("{} events", events.len()) };
        assert_eq!((event.action().word(), event.reason.as_str(), event.count), ("tokenize", "INTERNAL", 0));
        assert_eq!(event.caller, "spiffe://dev.cloakroom.internal/gateway");
        assert_eq!(event.certificate_sha256.len(), 32);
    }

    /// Whatever a call held when it panicked is free afterwards: the turn at a token, the making of a key.
    #[tokio::test]
    async fn a_call_that_panics_anywhere_leaves_its_event_and_no_lock_d_11() {
        let f = Fixture::new();
        let client = f.tester();
        let limited =
            TokenizeItem { value: SecretBytes::new(b"v".to_vec()), ttl: None, max_uses: 100, has_subject: false };
        let token = client.issue("pan", limited).await.token;
        let (mut panicked, mut done) = (0, 0);
        for read in 1.. {
            f.panic_at.store(f.reads.load(Ordering::SeqCst) + read, Ordering::SeqCst);
            let request = DetokenizeRequest {
                scope: "pan".to_owned(),
                tokens: vec![Secret::new(token.clone())],
                purpose: "test".to_owned(),
                reveal: Some(crate::event::Reveal::Full),
                // Its row is one more read.
                request_id: Secret::new(format!("6f2b5e0a-9f8d-4c3b-8a1d-{read:012}")),
                unsupported: None,
            };
            let (vault, call) = (Arc::clone(&f.vault), client.call.clone());
            let operation: Operation<_> = Box::pin(async move { vault.detokenize(&call, &request).await });
            let before = f.events().len();
            let answer = finish(&f.vault, client.call.clone(), &methods::DETOKENIZE, operation).await;
            f.panic_at.store(u64::MAX, Ordering::SeqCst);
            let events = f.events().split_off(before);
            let [event] = &events[..] else { panic!("{} events", events.len()) };
            // The next one has the turn.
            assert!(client.show("pan", &[&token]).await.unwrap()[0].is_ok());
            match answer {
                Ok(_) => {
                    done += 1;
                    break;
                }
                Err(status) => {
                    assert_eq!(status.code(), tonic::Code::Internal);
                    assert_eq!((event.reason.as_str(), event.succeeded), ("INTERNAL", 0));
                    panicked += 1;
                }
            }
        }
        // Before it knows that it needs a turn, and with it.
        assert!(panicked >= 2 && done == 1, "{panicked} {done}");
        f.check();
    }

    #[tokio::test]
    async fn a_call_that_panics_after_its_caller_has_gone_leaves_an_event_d_11() {
        let f = Fixture::new();
        let before = f.events().len();
        for (end, reason) in [(true, "INTERNAL"), (false, "OVERLOADED")] {
            let (go, gone) = tokio::sync::oneshot::channel::<()>();
            let operation: Operation<()> = Box::pin(async move {
                let _ = gone.await;
                assert!(!end, "on purpose");
                Err(Failure::Overloaded)
            });
            let call = f.client("gateway").call;
            let caller = tokio::spawn(finish(&f.vault, call, &methods::TOKENIZE, operation));
            tokio::task::yield_now().await;
            caller.abort();
            assert!(caller.await.unwrap_err().is_cancelled());
            go.send(()).unwrap();
            f.vault.idle().await;
            f.vault.record_refusals().await.unwrap();
            let last = f.events().pop().unwrap();
            assert_eq!((last.action().word(), last.reason.as_str()), ("tokenize", reason));
            assert_eq!(last.caller, "spiffe://dev.cloakroom.internal/gateway");
        }
        assert_eq!(f.events().len() - before, 2);
        f.check();
    }

    /// The end of the vault waits for what is under way, whether somebody waits for its answer or not.
    #[tokio::test]
    async fn what_nobody_waits_for_is_waited_for_at_the_end_a_10() {
        let f = Fixture::new();
        f.vault.idle().await;
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let operation: Operation<()> = Box::pin(async move {
            let _ = gone.await;
            ended.store(true, std::sync::atomic::Ordering::SeqCst);
            Ok(())
        });
        let call = f.client("gateway").call;
        let caller = tokio::spawn(finish(&f.vault, call, &methods::TOKENIZE, operation));
        tokio::task::yield_now().await;
        // The caller goes.
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        let (vault, seen) = (Arc::clone(&f.vault), Arc::clone(&done));
        let end = tokio::spawn(async move {
            vault.idle().await;
            assert!(seen.load(std::sync::atomic::Ordering::SeqCst), "the end did not wait");
        });
        tokio::task::yield_now().await;
        assert!(!end.is_finished());
        go.send(()).unwrap();
        end.await.unwrap();
        f.check();
    }

    #[tokio::test]
    async fn a_call_that_is_shed_is_counted_a_09() {
        let (code, events) = finished(|| Err(Failure::Overloaded)).await;
        assert_eq!(code, Some(tonic::Code::ResourceExhausted));
        let [event] = &events[..] else { panic!("{} events", events.len()) };
        assert_eq!((event.action().word(), event.reason.as_str(), event.count), ("tokenize", "OVERLOADED", 1));
        assert_eq!(event.outcome(), crate::event::Outcome::Failed);
        // And what ends well leaves what its operation wrote, here nothing.
        assert_eq!(finished(|| Ok(())).await, (None, vec![]));
    }

    /// What waits for its commit lies in the processor's caches, hundreds of calls beside one another, if it is small; and blocks of
    /// up to a kilobyte are what the allocator is fastest with.
    #[tokio::test]
    async fn what_waits_for_its_commit_is_small() {
        let f = Fixture::new();
        let call = f.client("gateway").call;
        let (scope, no_id) = ("pan".to_owned(), || Secret::new(String::new()));
        let request = crate::vault::TokenizeRequest {
            scope: scope.clone(),
            items: vec![],
            all_or_nothing: false,
            request_id: no_id(),
            unsupported: None,
        };
        assert!(size_of_val(&f.vault.tokenize(&call, &request)) <= 896);
        let request = DetokenizeRequest {
            scope,
            tokens: vec![],
            purpose: String::new(),
            reveal: None,
            request_id: no_id(),
            unsupported: None,
        };
        assert!(size_of_val(&f.vault.detokenize(&call, &request)) <= 1184);
    }
}
