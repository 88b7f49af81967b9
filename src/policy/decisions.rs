//! Answers that were given before.
//!
//! A decision depends on the caller, the action, the scope and on what the policies read of the call. As long as they
//! read nothing that changes, the same question has the same answer under the same rulebook: the cache belongs to one
//! edition of it and goes when that goes. It is bounded, and what one caller asks pushes out only a quarter of it.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use parking_lot::RwLock;

use super::action::Verb;
use super::{Decision, Reveal};
use crate::caller::SpiffeId;
use crate::scope::Path;

const SHARDS: usize = 4;
/// 131,072 decisions in all, some 32 MB. One caller who does three things in ten thousand scopes has all its answers here.
const MAX_IN_SHARD: usize = 32_768;

/// A question, reduced to what its answer depends on.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub caller: &'a SpiffeId,
    pub verb: Verb,
    pub path: Option<&'a Path>,
    pub reveal: Reveal,
    pub purpose: &'a str,
}

/// Questions and their answers.
pub(super) struct Decisions {
    hasher: RandomState,
    shards: [RwLock<Shard>; SHARDS],
}

type Shard = HashMap<u64, Answer, BuildHasherDefault<AlreadyHashed>>;

/// One answer with its whole question: hashes find, but only equal questions get it.
struct Answer {
    caller: SpiffeId,
    verb: Verb,
    path: Option<Path>,
    reveal: Reveal,
    purpose: Box<str>,
    decision: Arc<Decision>,
}

/// Keys are keyed hashes already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Decisions {
    pub fn new() -> Self {
        Self { hasher: RandomState::new(), shards: Default::default() }
    }

    /// The answer, if the question was asked before.
    pub fn find(&self, question: &Question<'_>) -> Option<Arc<Decision>> {
        let (shard, hash) = self.place(question);
        let shard = shard.read();
        shard.get(&hash).filter(|answer| answer.is_to(question)).map(|answer| answer.decision.clone())
    }

    /// Keeps the answer, in place of another whose question has the same hash. A full shard starts afresh.
    pub fn keep(&self, question: &Question<'_>, decision: Arc<Decision>) {
        let (shard, hash) = self.place(question);
        let mut shard = shard.write();
        if shard.len() >= MAX_IN_SHARD {
            shard.clear();
        }
        shard.insert(hash, Answer::new(question, decision));
    }

    fn place(&self, question: &Question<'_>) -> (&RwLock<Shard>, u64) {
        let mut hasher = self.hasher.build_hasher();
        question.caller.as_str().hash(&mut hasher);
        let shard = usize::try_from(hasher.finish() % SHARDS as u64).expect("smaller than the number of shards");
        let shard = &self.shards[shard];
        hasher.write_u8(question.verb as u8);
        hasher.write_u8(question.reveal as u8);
        question.path.map_or("", Path::as_str).hash(&mut hasher);
        question.purpose.hash(&mut hasher);
        (shard, hasher.finish())
    }
}

impl Answer {
    fn new(question: &Question<'_>, decision: Arc<Decision>) -> Self {
        let Question { caller, verb, path, reveal, purpose } = *question;
        Self { caller: caller.clone(), verb, path: path.cloned(), reveal, purpose: purpose.into(), decision }
    }

    fn is_to(&self, question: &Question<'_>) -> bool {
        self.caller == *question.caller
            && self.verb == question.verb
            && self.path.as_ref() == question.path
            && self.reveal == question.reveal
            && *self.purpose == *question.purpose
    }
}

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Refusal;

    fn ask<'a>(caller: &'a SpiffeId, path: &'a Path, purpose: &'a str) -> Question<'a> {
        Question { caller, verb: Verb::Detokenize, path: Some(path), reveal: Reveal::Full, purpose }
    }

    #[test]
    fn only_the_same_question_finds_its_answer() {
        let decisions = Decisions::new();
        let [one, other] = ["spiffe://a.example/x", "spiffe://b.example/x"].map(|id| SpiffeId::parse(id).unwrap());
        let [pan, ssn] = ["pan", "ssn"].map(|path| Path::parse(path).unwrap());
        let question = ask(&one, &pan, "refund");
        decisions.keep(&question, Arc::new(Decision::refused(Refusal::NotAllowed, [0; 32])));
        assert!(decisions.find(&question).is_some());
        let answer = Answer::new(&question, Arc::new(Decision::refused(Refusal::NotAllowed, [0; 32])));
        assert!(answer.is_to(&question));
        for different in [
            ask(&other, &pan, "refund"),
            ask(&one, &ssn, "refund"),
            ask(&one, &pan, "refunds"),
            Question { verb: Verb::Inspect, ..question },
            Question { reveal: Reveal::Masked, ..question },
            Question { path: None, ..question },
        ] {
            assert!(decisions.find(&different).is_none());
            // Even if the hashes were equal.
            assert!(!answer.is_to(&different));
        }
    }

    #[test]
    fn the_hash_of_a_question_is_taken_as_it_is() {
        let mut hasher = AlreadyHashed::default();
        hasher.write_u64(7_000_000_001);
        assert_eq!(hasher.finish(), 7_000_000_001);
    }

    #[test]
    #[should_panic(expected = "keys are u64")]
    fn a_key_that_is_no_hash_is_not_taken() {
        AlreadyHashed::default().write(b"a key");
    }

    #[test]
    fn an_answer_stays_while_there_is_room() {
        let decisions = Decisions::new();
        let (caller, path) = (SpiffeId::parse("spiffe://a.example/x").unwrap(), Path::parse("pan").unwrap());
        let questions = ["one", "two", "three"].map(|purpose| ask(&caller, &path, purpose));
        let refused = Arc::new(Decision::refused(Refusal::NotAllowed, [0; 32]));
        for question in &questions {
            decisions.keep(question, refused.clone());
        }
        assert!(questions.iter().all(|question| decisions.find(question).is_some()));
    }

    #[test]
    fn it_stays_bounded_and_one_caller_pushes_out_only_its_shard() {
        let decisions = Decisions::new();
        let path = Path::parse("pan").unwrap();
        let flood = SpiffeId::parse("spiffe://a.example/flood").unwrap();
        let refused = Arc::new(Decision::refused(Refusal::NotAllowed, [0; 32]));
        for n in 0..2 * MAX_IN_SHARD + 10 {
            decisions.keep(&ask(&flood, &path, &format!("case {n}")), refused.clone());
        }
        let sizes: Vec<_> = decisions.shards.iter().map(|shard| shard.read().len()).collect();
        assert_eq!(sizes.iter().filter(|size| **size > 0).count(), 1);
        assert!(sizes.iter().all(|size| *size <= MAX_IN_SHARD));
    }
}
