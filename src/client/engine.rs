//! How a call is made: within its deadline, past the breaker, and again where that is safe.
//!
//! Invariant: nobody waits for longer than the deadline, and no attempt is made that [`super::retry`] does not allow.

use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::breaker::{self, Breaker, Outcome, Pass};
use super::retry::{Retry, Verdict, verdict};
use super::surroundings::Surroundings;
use crate::sync::{Mutex, watch};
use tonic::Code;

pub(super) struct Engine {
    address: Arc<str>,
    retry: Retry,
    surroundings: Arc<dyn Surroundings>,
    breaker: Mutex<Breaker>,
    /// What the breaker does, for whoever watches.
    state: watch::Sender<breaker::State>,
}

/// Why an attempt failed.
pub(super) struct Failed {
    pub error: Error,
    /// Whether the breaker shall hear of it. Not where others failed with it, for the same cause.
    pub is_counted: bool,
}

/// An attempt on its way. Dropped without a word, it was given up by its caller.
struct Trial<'e> {
    engine: &'e Engine,
    pass: Pass,
    outcome: Outcome,
}

impl Engine {
    pub fn new(
        address: Arc<str>,
        retry: Retry,
        breaker: breaker::Settings,
        surroundings: Arc<dyn Surroundings>,
    ) -> Self {
        let breaker = Breaker::new(breaker);
        let (state, _) = watch::channel(breaker.state());
        Self { address, retry, surroundings, breaker: Mutex::new(breaker), state }
    }

    pub fn surroundings(&self) -> &dyn Surroundings {
        self.surroundings.as_ref()
    }

    pub fn watch(&self) -> watch::Receiver<breaker::State> {
        self.state.subscribe()
    }

    /// Makes a call until it has its answer, at the most until `deadline` from now. `attempt` makes it once and gets the time
    /// that is left.
    pub async fn run<T, F>(
        &self,
        deadline: Duration,
        has_request_id: bool,
        attempt: impl Fn(Duration) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let end = self.surroundings.now().saturating_add(deadline);
        let (mut made, mut last) = (0, None);
        loop {
            let left = end.saturating_sub(self.surroundings.now());
            let error = match self.once(left, deadline, &attempt).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let stays = verdict(&error, has_request_id);
            if let Error::BreakerOpen { .. } = error {
                // Who comes new is sent away at once. Who has begun waits, and what went wrong then says more than this.
                let Some(before) = last.take() else { return Err(error) };
                last = Some(before);
            } else {
                made += 1;
                last = Some(error);
            }
            let failed = |last: Option<Error>| Err(last.expect("it was set just now, or before"));
            let Verdict::Again(asked) = stays else { return failed(last) };
            if made >= self.retry.attempts {
                return failed(last);
            }
            let pause = self.retry.pause(made, asked, self.surroundings.as_ref());
            if pause >= end.saturating_sub(self.surroundings.now()) {
                return failed(last);
            }
            self.surroundings.pause(pause).await;
        }
    }

    async fn once<T, F>(&self, left: Duration, deadline: Duration, attempt: &impl Fn(Duration) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let mut trial = self.admit()?;
        let result = tokio::select! {
            biased;
            result = attempt(left) => result,
            () = self.surroundings.pause(left) => Err(Error::late(deadline).into()),
        };
        trial.outcome = match &result {
            Ok(_) => Outcome::Answered,
            Err(Failed { error, is_counted: true }) => outcome(error),
            Err(Failed { is_counted: false, .. }) => Outcome::Abandoned,
        };
        result.map_err(|failed| failed.error)
    }

    fn admit(&self) -> Result<Trial<'_>, Error> {
        let mut breaker = self.breaker.lock();
        let asked = breaker.ask(self.surroundings.now());
        self.show(&breaker);
        match asked {
            Ok(pass) => Ok(Trial { engine: self, pass, outcome: Outcome::Abandoned }),
            Err(retry_after) => Err(Error::BreakerOpen { address: self.address.to_string(), retry_after }),
        }
    }

    fn show(&self, breaker: &Breaker) {
        let state = breaker.state();
        self.state.send_if_modified(|shown| std::mem::replace(shown, state) != state);
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, is_counted: true }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let mut breaker = self.engine.breaker.lock();
        breaker.tell(self.pass, self.outcome, self.engine.surroundings.now());
        self.engine.show(&breaker);
    }
}

/// What a failure means for the breaker.
fn outcome(error: &Error) -> Outcome {
    match error {
        Error::Unreachable { .. }
        | Error::OtherServer { .. }
        | Error::HandshakeRefused { .. }
        | Error::Interrupted { .. } => Outcome::Failed,
        Error::Unavailable(failure) if failure.code == Code::Unavailable => Outcome::Failed,
        // Nobody said so: there was silence.
        Error::Deadline(failure) if failure.reason.is_none() => Outcome::Failed,
        Error::Profile { .. } | Error::NoRandomness { .. } | Error::BreakerOpen { .. } => Outcome::Abandoned,
        Error::Unavailable(_)
        | Error::Deadline(_)
        | Error::Denied(_)
        | Error::Invalid(_)
        | Error::Limited(_)
        | Error::Conflict(_)
        | Error::Unimplemented(_)
        | Error::Unexpected(_) => Outcome::Answered,
    }
}
