//! The vault's side: all the witnesses that it asks to cosign its checkpoints.
//!
//! A witness that is slow or down costs one bounded wait and is then left alone for a while, longer each time. Nothing here
//! is trusted for what it says but a cosignature that verifies; sizes and refusals are believed far enough to refuse a start.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::Request;
use super::request::decimal;
use super::server::{ADD_CHECKPOINT, SIZE_TYPE};
use crate::clock::Clock;
use crate::https::{Base, Client};
use crate::ledger::{Prove, WitnessError, Witnesses};
use crate::merkle::note::{Note, WitnessVerifier};
use crate::tls::SetupError;
use tokio::runtime::{Builder, Runtime};

/// How long one question may take. Commits don't wait for it, but those who ask for a checkpoint do.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a start waits for one answer.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// The first answer tells what the witness saw last, the second cosigns; one more for what comes in between.
const ROUNDS: usize = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The witnesses of one vault.
pub struct Circle {
    members: Vec<Member>,
    required: usize,
    clock: Arc<dyn Clock>,
    /// One thread that does the talking, so that this side can wait whatever it runs on. `None` only while it is dropped.
    runtime: Option<Runtime>,
    /// The note that was handed over last.
    note: String,
    /// The lines for it, by member.
    lines: BTreeMap<usize, String>,
}

/// One witness.
pub struct Member {
    key: WitnessVerifier,
    client: Arc<Client>,
    /// The size that it is known to have cosigned last.
    seen: u64,
    /// When it may be asked again after a failure, and how long to leave it alone after the next.
    rest: Option<(Duration, Duration)>,
}

/// What a witness had to say.
#[derive(Debug)]
enum Reply {
    Cosigned(String),
    /// It has seen this size last.
    Size(u64),
    /// It has cosigned another history.
    OtherHistory,
    /// None of these: it does not know the log, is down, or talks nonsense.
    Failed(String),
}

impl Member {
    /// The witness with `key` at `url`. `authorities`, in PEM, vouch for it if that is an `https://` one.
    ///
    /// # Errors
    /// If the authorities are missing or can't be read.
    pub fn new(url: Base, key: WitnessVerifier, authorities: Option<&Path>) -> Result<Self, SetupError> {
        Ok(Self { key, client: Arc::new(Client::new(url, authorities)?), seen: 0, rest: None })
    }
}

impl Circle {
    /// These witnesses, of whom `required` must cosign the log as it is found at a start.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn new(members: Vec<Member>, required: usize, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("witnesses").enable_all().build()?;
        for member in &members {
            let name = member.key.name().to_string();
            // So that they are there before anything happens: a rule that waits for a rise never sees the first one else.
            metrics::counter!("cloakroom_witness_cosignatures_total", "witness" => name.clone()).increment(0);
            for reason in ["failed", "refused", "ahead", "fork"] {
                metrics::counter!("cloakroom_witness_failures_total", "witness" => name.clone(), "reason" => reason)
                    .increment(0);
            }
        }
        Ok(Self { members, required, clock, runtime: Some(runtime), note: String::new(), lines: BTreeMap::new() })
    }

    /// Asks `members` about the note, up to [`ROUNDS`] times where they tell a size, and says what each came to.
    fn ask(
        &mut self,
        members: Vec<usize>,
        size: u64,
        patience: Duration,
        prove: &mut Prove<'_>,
    ) -> Vec<(usize, Reply)> {
        let mut settled = Vec::new();
        let mut left = members;
        for round in 1..=ROUNDS {
            let questions: Vec<(usize, Option<Vec<u8>>)> =
                left.drain(..).map(|member| (member, self.question(member, size, prove))).collect();
            for (member, reply) in self.exchange(questions, patience) {
                match reply {
                    Reply::Size(seen) if seen <= size && seen != self.members[member].seen && round < ROUNDS => {
                        self.members[member].seen = seen;
                        left.push(member);
                    }
                    // It refuses the very size that it tells, at which it knows us to be.
                    Reply::Size(seen) if seen == size && self.members[member].seen == size => {
                        settled.push((member, Reply::OtherHistory));
                    }
                    reply => settled.push((member, reply)),
                }
            }
        }
        settled
    }

    /// The body for one member. `None` if no proof can be made.
    fn question(&self, member: usize, size: u64, prove: &mut Prove<'_>) -> Option<Vec<u8>> {
        let old = self.members[member].seen.min(size);
        let proof = if old == 0 || old == size { Vec::new() } else { prove(old)? };
        Some(Request { old, proof, note: self.note.clone() }.to_body().into_bytes())
    }

    /// Sends all questions at once and waits for the answers.
    fn exchange(&self, questions: Vec<(usize, Option<Vec<u8>>)>, patience: Duration) -> Vec<(usize, Reply)> {
        let runtime = self.runtime.as_ref().expect("it is there until this is dropped");
        let (answer, answers) = channel();
        let mut replies = Vec::new();
        for (member, body) in questions {
            let Some(body) = body else {
                replies.push((member, Reply::Failed("the proof for it can't be made from the store".to_owned())));
                continue;
            };
            let (client, key) = (Arc::clone(&self.members[member].client), self.members[member].key.clone());
            let (note, answer) = (self.note.clone(), answer.clone());
            runtime.spawn(async move {
                let heard = client.post(ADD_CHECKPOINT, "text/plain; charset=utf-8", body, patience).await;
                let reply = match heard {
                    Ok(heard) => read(&heard, &key, &note),
                    Err(error) => Reply::Failed(error.to_string()),
                };
                // Whoever asked waits until the last one is gone.
                let _ = answer.send((member, reply));
            });
        }
        drop(answer);
        // Each has its deadline, so this ends.
        replies.extend(answers);
        replies
    }

    fn begin(&mut self, note: &str) {
        if self.note != note {
            note.clone_into(&mut self.note);
            self.lines.clear();
        }
    }

    /// Notes what became of a question to `member`.
    fn settle(&mut self, member: usize, size: u64, reply: Reply) {
        let now = self.clock.monotonic();
        let one = &mut self.members[member];
        let name = one.key.name().to_string();
        let (reason, why) = match reply {
            Reply::Cosigned(line) => {
                if one.rest.take().is_some() {
                    tracing::info!(witness = name, "the witness cosigns again");
                }
                one.seen = size;
                self.lines.insert(member, line);
                metrics::counter!("cloakroom_witness_cosignatures_total", "witness" => name.clone()).increment(1);
                metrics::gauge!("cloakroom_witness_size", "witness" => name).set(size as f64);
                return;
            }
            Reply::Size(seen) if seen > size => (
                "ahead",
                format!("it has seen {seen} events of this log, but there are {size}: does another vault write it?"),
            ),
            Reply::Size(seen) => {
                ("refused", format!("it says that it has seen {seen} events, and then that it has not"))
            }
            Reply::OtherHistory => ("fork", "it has cosigned another history of this log".to_owned()),
            Reply::Failed(why) => ("failed", why),
        };
        metrics::counter!("cloakroom_witness_failures_total", "witness" => name.clone(), "reason" => reason)
            .increment(1);
        let pause = one.rest.map_or(FIRST_PAUSE, |(_, pause)| pause);
        match reason {
            "ahead" | "fork" => {
                tracing::error!(witness = name, why, "a witness contradicts this log");
            }
            _ if one.rest.is_none() => {
                tracing::warn!(witness = name, why, "a witness does not cosign; checkpoints are written without it");
            }
            // Said once: the counter goes on.
            _ => tracing::debug!(witness = name, why, "a witness still does not cosign"),
        }
        one.rest = Some((now + pause, (pause * 2).min(LONGEST_PAUSE)));
    }

    fn may_ask(&self, member: usize, now: Duration) -> bool {
        !self.lines.contains_key(&member) && self.members[member].rest.is_none_or(|(until, _)| now >= until)
    }

    fn due(&self) -> Vec<usize> {
        let now = self.clock.monotonic();
        (0..self.members.len()).filter(|member| self.may_ask(*member, now)).collect()
    }
}

impl Witnesses for Circle {
    fn check_start(&mut self, note: &str, size: u64, prove: &mut Prove<'_>) -> Result<(), WitnessError> {
        self.begin(note);
        let everyone = (0..self.members.len()).collect();
        let replies = self.ask(everyone, size, START_PATIENCE, prove);
        let (mut cosigned, mut reasons, mut contradicted) = (0, Vec::new(), None);
        for (member, reply) in &replies {
            let witness = self.members[*member].key.name().to_string();
            match reply {
                Reply::Cosigned(_) => cosigned += 1,
                Reply::Size(seen) if *seen > size => {
                    contradicted = Some(WitnessError::Behind { witness, seen: *seen, size });
                }
                Reply::OtherHistory => contradicted = Some(WitnessError::OtherHistory { witness }),
                Reply::Size(seen) => {
                    reasons.push(format!("{witness} says that it has seen {seen} events, and then not"));
                }
                Reply::Failed(why) => {
                    reasons.push(format!("{witness} at {}: {why}", self.members[*member].client.base()));
                }
            }
        }
        // One that contradicts counts more than any number that agree: they may have seen less.
        if let Some(contradicted) = contradicted {
            return Err(contradicted);
        }
        let required = self.required;
        if cosigned < required {
            return Err(WitnessError::TooFew { cosigned, required, reasons: reasons.join("; ") });
        }
        for (member, reply) in replies {
            self.settle(member, size, reply);
        }
        Ok(())
    }

    fn cosign(&mut self, note: &str, size: u64, prove: &mut Prove<'_>) -> Vec<String> {
        self.begin(note);
        for (member, reply) in self.ask(self.due(), size, PATIENCE, prove) {
            self.settle(member, size, reply);
        }
        self.lines.values().cloned().collect()
    }

    fn is_due(&self) -> bool {
        !self.note.is_empty() && !self.due().is_empty()
    }
}

impl Drop for Circle {
    fn drop(&mut self) {
        // Dropped as usual a runtime waits, which is not allowed on the threads of another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn read(heard: &crate::https::Answer, key: &WitnessVerifier, note: &str) -> Reply {
    let said = || String::from_utf8_lossy(&heard.body).trim_end().chars().take(200).collect::<String>();
    match heard.status {
        200 => match cosignature(&heard.body, key, note) {
            Some(line) => Reply::Cosigned(line),
            None => Reply::Failed(format!("its answer holds no good cosignature by {key}")),
        },
        409 if heard.content_type == SIZE_TYPE => {
            let size = std::str::from_utf8(&heard.body).ok().and_then(|body| decimal(body.strip_suffix('\n')?));
            size.map_or_else(|| Reply::Failed(format!("it told no size: {:?}", said())), Reply::Size)
        }
        409 | 422 => Reply::OtherHistory,
        status => Reply::Failed(format!("it answered {status}: {:?}", said())),
    }
}

/// For `src/fuzz`: what counts as a cosignature verifies, and what is said of the rest is short.
#[cfg(test)]
pub(crate) fn check_reading(heard: &crate::https::Answer, key: &WitnessVerifier, note: &str) {
    match read(heard, key, note) {
        Reply::Cosigned(line) => {
            let cosigned = Note::parse(&format!("{note}{line}")).expect("a note with one line more");
            assert!(cosigned.signatures().iter().any(|line| key.accepts(cosigned.text(), line).is_some()));
        }
        Reply::Failed(said) => assert!(said.len() < 4096),
        Reply::Size(_) | Reply::OtherHistory => {}
    }
}

/// The line by `key` among those of an answer, if it verifies.
fn cosignature(body: &[u8], key: &WitnessVerifier, note: &str) -> Option<String> {
    let lines = std::str::from_utf8(body).ok()?;
    let cosigned = Note::parse(&format!("{note}{lines}")).ok()?;
    let line = cosigned.signatures().iter().find(|signature| key.accepts(cosigned.text(), signature).is_some())?;
    Some(format!("{line}\n"))
}

#[cfg(test)]
mod answers;
#[cfg(test)]
mod tests;
