//! How often one caller may fill the log with refusals; and in [`bytes`], how much memory calls may take.
//!
//! Every refusal is recorded, but not each as an event of its own: beyond a rate, the refusals of one caller are counted
//! and recorded in summaries, so that nobody can push others' events out of sight or fill the disk. The invariant is
//! conservation: each refusal that was noted is either recorded by itself or counted in exactly one summary.
//!
//! It bounds its memory whatever callers do: beyond [`MOST_CALLERS`] at a time, the others share one entry. It knows
//! neither what an event looks like nor what time it is.

pub mod bytes;

use crate::clock::Timestamp;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;

/// How many callers are told apart at a time.
pub const MOST_CALLERS: usize = 4096;

/// Refusals, by caller and by what they are about.
///
/// `C` says who is refused: anyone can make up new ones. `A` says what is refused and why, and must come from a small
/// closed set, such as action and reason. The rate is the caller's over all of `A`.
pub struct Refusals<C, A> {
    rate: Rate,
    state: Mutex<State<C, A>>,
}

/// How many refusals of one caller are recorded by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At once, after a quiet time.
    pub burst: u32,
    /// Each second after that.
    pub per_second: u32,
}

/// What is to be done with a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Record it as an event of its own.
    Record,
    /// It has been counted and will be in a summary.
    Count,
}

/// The refusals that were counted for one caller and one matter since the last summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary<C, A> {
    /// Who, or `None` for all those together who came when too many callers were there already.
    pub caller: Option<C>,
    /// What was refused, and why.
    pub about: A,
    /// How many. Never 0.
    pub count: u64,
    /// When the first was noted.
    pub first: Timestamp,
    /// When the last was noted.
    pub last: Timestamp,
}

/// Refusals of peers whom nobody knows: by address and by a detail of which they can make up as many as they like (`D`, a
/// certificate's hash), beyond that by their origin (an address that stands for all that one host can have), and beyond
/// that all together.
///
/// Every summary is an event in the log, so what is told apart is bounded for each origin and in all. It bounds how exactly
/// refusals are told apart and never whether they are counted.
pub struct Strangers<O, D, A> {
    counts: Refusals<(O, Option<D>), A>,
    /// By gravity: what anybody can do as often as he likes hides nothing that is graver.
    names: [Mutex<Names<O>>; 3],
}

/// How much a refusal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gravity {
    /// Anybody can be refused like that, as often as he connects.
    Noise,
    /// Something was shown that breaks a rule. Anybody can make up such a thing, though few do.
    Broken,
    /// Only somebody can be refused like that who has what was signed by an authority that is trusted.
    Vouched,
}

/// How many summaries may still say exactly who it was.
struct Names<O> {
    of_all: Bucket,
    by_origin: HashMap<O, Bucket>,
}

struct State<C, A> {
    callers: HashMap<C, Entry<A>>,
    others: Entry<A>,
}

struct Entry<A> {
    bucket: Bucket,
    /// Few, and mostly one: a list is searched faster than a map.
    counted: Vec<Counted<A>>,
}

struct Counted<A> {
    about: A,
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

/// A token bucket in thousandths, so that a millisecond refills a whole number.
#[derive(Clone, Copy)]
struct Bucket {
    level_milli: u64,
    filled: Timestamp,
}

impl Rate {
    /// For refusals of callers whom we know: enough for a person to find a mistake in the log.
    pub const OF_A_CALLER: Rate = Rate { burst: 10, per_second: 2 };
    /// Nothing is recorded by itself. For failed handshakes, where nobody is known yet.
    pub const NONE: Rate = Rate { burst: 0, per_second: 0 };

    /// Summaries that tell apart what one origin showed: a table of wrong certificates at once, then one each second.
    const NAMES_OF_AN_ORIGIN: Rate = Rate { burst: 64, per_second: 1 };
    /// The same for all origins together: a fleet whose certificates ran out at once, then a few each second.
    const NAMES_IN_ALL: Rate = Rate { burst: 1024, per_second: 4 };

    const fn full_milli(self) -> u64 {
        self.burst as u64 * 1000
    }
}

impl<C: Eq + Hash, A: Eq> Refusals<C, A> {
    /// Nothing noted yet.
    pub fn new(rate: Rate) -> Self {
        let others = Entry { bucket: Bucket::full(rate, Timestamp::default()), counted: Vec::new() };
        Self { rate, state: Mutex::new(State { callers: HashMap::new(), others }) }
    }

    /// Notes one refusal and says what is to be done with it.
    pub fn note(&self, caller: C, about: A, now: Timestamp) -> Verdict {
        let mut state = self.state.lock();
        let entry = state.entry(caller, self.rate, now);
        if entry.bucket.take(self.rate, now) {
            return Verdict::Record;
        }
        entry.count(about, now);
        Verdict::Count
    }

    /// Notes one refusal that gets no event of its own, whatever the rate.
    pub fn count(&self, caller: C, about: A, now: Timestamp) {
        self.state.lock().entry(caller, self.rate, now).count(about, now);
    }

    /// Notes one refusal of whoever it was, with those of the many.
    fn count_with_the_others(&self, about: A, now: Timestamp) {
        self.state.lock().others.count(about, now);
    }

    /// Notes one more refusal like one that will be in the next summary anyway. False if there is none such.
    fn count_again(&self, caller: &C, about: &A, now: Timestamp) -> bool {
        let mut state = self.state.lock();
        let known = state.callers.get_mut(caller).into_iter().flat_map(|entry| &mut entry.counted);
        let Some(counted) = known.into_iter().find(|counted| counted.about == *about) else { return false };
        counted.count += 1;
        counted.last = counted.last.max(now);
        true
    }

    /// Takes back a summary that could not be recorded: its count comes with the next one.
    pub fn put_back(&self, summary: Summary<C, A>) {
        let mut state = self.state.lock();
        let entry = match summary.caller {
            Some(caller) => state.entry(caller, self.rate, summary.last),
            None => &mut state.others,
        };
        let Summary { about, count, first, last, .. } = summary;
        entry.add(Counted { about, count, first, last });
    }

    /// Takes out all that was counted since the last call, and forgets callers that have been quiet for long enough.
    /// Whoever drains must record the summaries, or put them back: they are nowhere else.
    pub fn drain(&self, now: Timestamp) -> Vec<Summary<C, A>>
    where
        C: Clone,
    {
        let mut state = self.state.lock();
        let mut summaries = Vec::new();
        for (caller, entry) in &mut state.callers {
            summaries.extend(entry.drain().map(|counted| counted.summary(Some(caller.clone()))));
        }
        summaries.extend(state.others.drain().map(|counted| counted.summary(None)));
        // A full bucket is what a new caller gets: forgetting its owner changes nothing.
        state.callers.retain(|_, entry| !entry.bucket.is_full(self.rate, now));
        summaries
    }
}

impl<O: Clone + Eq + Hash, D: Eq + Hash, A: Eq> Strangers<O, D, A> {
    /// Nothing noted yet.
    pub fn new() -> Self {
        let of_all = Bucket::full(Rate::NAMES_IN_ALL, Timestamp::default());
        let names = || Mutex::new(Names { of_all, by_origin: HashMap::new() });
        Self { counts: Refusals::new(Rate::NONE), names: [names(), names(), names()] }
    }

    /// Notes one refusal of `peer`, as exactly as the bounds allow. `origin` is whose peers all of that place are.
    pub fn count(&self, peer: O, origin: O, detail: Option<D>, (about, gravity): (A, Gravity), now: Timestamp) {
        let exact = (peer, detail);
        if self.counts.count_again(&exact, &about, now) {
            return;
        }
        let mut names = self.names[gravity as usize].lock();
        if names.allow_one_of(&origin, now) {
            drop(names);
            return self.counts.count(exact, about, now);
        }
        let coarse = (origin, None);
        if self.counts.count_again(&coarse, &about, now) {
            return;
        }
        if names.of_all.take(Rate::NAMES_IN_ALL, now) {
            drop(names);
            return self.counts.count(coarse, about, now);
        }
        self.counts.count_with_the_others(about, now);
    }

    /// What was counted, to drain and to put back.
    pub fn counts(&self) -> &Refusals<(O, Option<D>), A> {
        &self.counts
    }
}

impl<O: Clone + Eq + Hash, D: Eq + Hash, A: Eq> Default for Strangers<O, D, A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<O: Clone + Eq + Hash> Names<O> {
    fn allow_one_of(&mut self, origin: &O, now: Timestamp) -> bool {
        const RATE: Rate = Rate::NAMES_OF_AN_ORIGIN;
        if self.by_origin.len() >= MOST_CALLERS && !self.by_origin.contains_key(origin) {
            // A full bucket is what a new origin gets: forgetting its owner changes nothing.
            self.by_origin.retain(|_, bucket| !bucket.is_full(RATE, now));
            if self.by_origin.len() >= MOST_CALLERS {
                return false;
            }
        }
        let of_origin = self.by_origin.entry(origin.clone()).or_insert_with(|| Bucket::full(RATE, now));
        // Not the other way round: an origin that has had its share takes nothing from the others'.
        of_origin.take(RATE, now) && self.of_all.take(Rate::NAMES_IN_ALL, now)
    }
}

impl<C: Eq + Hash, A> State<C, A> {
    fn entry(&mut self, caller: C, rate: Rate, now: Timestamp) -> &mut Entry<A> {
        if self.callers.len() >= MOST_CALLERS && !self.callers.contains_key(&caller) {
            return &mut self.others;
        }
        self.callers.entry(caller).or_insert_with(|| Entry { bucket: Bucket::full(rate, now), counted: Vec::new() })
    }
}

impl<A: Eq> Entry<A> {
    fn count(&mut self, about: A, now: Timestamp) {
        self.add(Counted { about, count: 1, first: now, last: now });
    }

    fn add(&mut self, more: Counted<A>) {
        match self.counted.iter_mut().find(|counted| counted.about == more.about) {
            Some(counted) => {
                counted.count += more.count;
                counted.first = counted.first.min(more.first);
                counted.last = counted.last.max(more.last);
            }
            None => self.counted.push(more),
        }
    }

    fn drain(&mut self) -> impl Iterator<Item = Counted<A>> {
        std::mem::take(&mut self.counted).into_iter()
    }
}

impl<A> Counted<A> {
    fn summary<C>(self, caller: Option<C>) -> Summary<C, A> {
        Summary { caller, about: self.about, count: self.count, first: self.first, last: self.last }
    }
}

impl Bucket {
    fn full(rate: Rate, now: Timestamp) -> Self {
        Self { level_milli: rate.full_milli(), filled: now }
    }

    /// Takes one out if there is one.
    fn take(&mut self, rate: Rate, now: Timestamp) -> bool {
        // A clock that was set back refills nothing, and from there on refills as always: it must not stall for as long as
        // the clock had been ahead.
        self.level_milli = self.level(rate, now);
        self.filled = now;
        let taken = self.level_milli >= 1000;
        if taken {
            self.level_milli -= 1000;
        }
        taken
    }

    fn is_full(self, rate: Rate, now: Timestamp) -> bool {
        self.level(rate, now) == rate.full_milli()
    }

    fn level(self, rate: Rate, now: Timestamp) -> u64 {
        let elapsed_millis = now.millis().saturating_sub(self.filled.millis());
        let refill = elapsed_millis.saturating_mul(u64::from(rate.per_second));
        self.level_milli.saturating_add(refill).min(rate.full_milli())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const START: u64 = 1_700_000_000_000;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(START + millis)
    }

    fn recorded(refusals: &Refusals<&str, &str>, caller: &'static str, notes: usize, now: Timestamp) -> usize {
        (0..notes).filter(|_| refusals.note(caller, "tokenize", now) == Verdict::Record).count()
    }

    #[test]
    fn a_burst_is_recorded_then_two_each_second() {
        let refusals = Refusals::new(Rate::OF_A_CALLER);
        assert_eq!(recorded(&refusals, "a", 100, at(0)), 10);
        assert_eq!(recorded(&refusals, "a", 100, at(499)), 0);
        assert_eq!(recorded(&refusals, "a", 100, at(500)), 1);
        assert_eq!(recorded(&refusals, "a", 100, at(2500)), 4);
        assert_eq!(recorded(&refusals, "a", 100, at(1_000_000)), 10, "never more than the burst at once");
        assert_eq!(recorded(&refusals, "b", 100, at(1_000_000)), 10, "each caller by itself");
    }

    #[test]
    fn a_caller_gains_nothing_by_varying_what_it_asks_for() {
        let refusals = Refusals::new(Rate::OF_A_CALLER);
        let abouts = ["tokenize", "detokenize", "revoke", "inspect", "renew"];
        let recorded = (0..50).filter(|n| refusals.note("a", abouts[n % 5], at(0)) == Verdict::Record).count();
        assert_eq!(recorded, 10);
        assert!(refusals.drain(at(0)).iter().all(|summary| summary.count == 8));
    }

    #[test]
    fn a_summary_says_who_what_how_many_and_when() {
        let refusals = Refusals::new(Rate::OF_A_CALLER);
        assert_eq!(recorded(&refusals, "a", 12, at(0)), 10);
        assert_eq!(recorded(&refusals, "a", 3, at(7)), 0);
        let summary = Summary { caller: Some("a"), about: "tokenize", count: 5, first: at(0), last: at(7) };
        assert_eq!(refusals.drain(at(8)), [summary]);
        assert_eq!(refusals.drain(at(9)), [], "drained once");
        assert_eq!(recorded(&refusals, "a", 1, at(10)), 0, "draining refills nothing");
        assert_eq!(refusals.drain(at(11))[0].count, 1);
    }

    #[test]
    fn without_a_rate_all_is_counted() {
        let refusals = Refusals::new(Rate::NONE);
        assert_eq!(recorded(&refusals, "a", 5, at(0)), 0);
        assert_eq!(recorded(&refusals, "a", 5, at(1_000_000)), 0);
        let summary = Summary { caller: Some("a"), about: "tokenize", count: 10, first: at(0), last: at(1_000_000) };
        assert_eq!(refusals.drain(at(1_000_000)), [summary]);
        assert!(refusals.state.lock().callers.is_empty());
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_silence_the_log() {
        let refusals = Refusals::new(Rate::OF_A_CALLER);
        let year = 365 * 24 * 3600 * 1000;
        assert_eq!(recorded(&refusals, "a", 99, at(year)), 10);
        assert_eq!(recorded(&refusals, "a", 99, at(0)), 0);
        assert_eq!(recorded(&refusals, "a", 99, at(1000)), 2);
    }

    #[test]
    fn callers_are_bounded_and_forgotten_when_quiet() {
        let refusals = Refusals::new(Rate::OF_A_CALLER);
        let crowd = 3 * MOST_CALLERS;
        let recorded =
            |now| (0..crowd).filter(|caller| refusals.note(*caller, "handshake", now) == Verdict::Record).count();
        assert_eq!(recorded(at(0)), MOST_CALLERS + 10, "those beyond share one caller's rate");
        assert_eq!(refusals.state.lock().callers.len(), MOST_CALLERS);

        let [summary] = &refusals.drain(at(1))[..] else { panic!("one summary for all the others") };
        assert_eq!((summary.caller, summary.count), (None, (crowd - MOST_CALLERS - 10) as u64));

        assert_eq!(refusals.drain(at(500)), []);
        assert!(refusals.state.lock().callers.is_empty(), "their buckets are full again");
        assert_eq!(refusals.note(crowd, "handshake", at(500)), Verdict::Record);
    }

    fn named(summaries: &[Summary<(u32, Option<u32>), &str>]) -> usize {
        summaries.iter().filter(|summary| matches!(summary.caller, Some((_, Some(_))))).count()
    }

    #[test]
    fn one_stranger_with_many_certificates_can_t_fill_the_log_t_01() {
        let strangers = Strangers::new();
        for certificate in 0..5_000 {
            strangers.count(1, 1, Some(certificate), ("unknown", Gravity::Noise), at(0));
        }
        // The same ones again take no further event.
        for certificate in 0..64 {
            strangers.count(1, 1, Some(certificate), ("unknown", Gravity::Noise), at(1));
        }
        let summaries = strangers.counts().drain(at(1));
        assert_eq!((summaries.len(), named(&summaries)), (65, 64));
        assert_eq!(summaries.iter().map(|summary| summary.count).sum::<u64>(), 5_064);
        let rest = summaries.iter().find(|summary| summary.caller == Some((1, None))).unwrap();
        assert_eq!(rest.count, 5_000 - 64, "the rest is still that address's");
        // Another address is told apart as if nothing had happened.
        strangers.count(2, 2, Some(7), ("unknown", Gravity::Noise), at(2));
        assert_eq!(named(&strangers.counts().drain(at(2))), 1);
        // All the addresses of one host are one origin.
        for address in 100..5_000 {
            strangers.count(address, 3, None, ("unknown", Gravity::Noise), at(2));
        }
        assert_eq!(strangers.counts().drain(at(2)).len(), 65);
        // In the long run one of its certificates is named each second.
        let mut events = 0;
        for second in 1..=100 {
            for certificate in 0..50 {
                let refused = ("unknown", Gravity::Noise);
                strangers.count(1, 1, Some(second * 1000 + certificate), refused, at(u64::from(second) * 1000));
            }
            events += strangers.counts().drain(at(u64::from(second) * 1000)).len();
        }
        assert!((100..=202).contains(&events), "{events}");
    }

    #[test]
    fn many_strangers_can_t_fill_it_either_t_01() {
        let strangers = Strangers::new();
        let (mut events, mut counted, mut sent) = (0, 0, 0);
        for second in 0..100_u64 {
            for origin in 0..6_000 {
                let about = ["unknown", "expired"][usize::from(origin % 2 == 0)];
                strangers.count(origin, origin, Some(origin), (about, Gravity::Noise), at(second * 1000));
                sent += 1;
            }
            let summaries = strangers.counts().drain(at(second * 1000));
            events += summaries.len();
            counted += summaries.iter().map(|summary| summary.count).sum::<u64>();
        }
        assert_eq!(counted, sent, "each is counted");
        // 1024 at once, four each second, and the two kinds of all the others.
        assert!(events <= 1024 + 100 * (4 + 2), "{events}");
        assert!(strangers.names[0].lock().by_origin.len() <= MOST_CALLERS);
    }

    #[test]
    fn a_crowd_of_strangers_hides_nobody_who_is_graver_t_01() {
        let strangers = Strangers::new();
        for origin in 0..6_000 {
            strangers.count(origin, origin, Some(origin), ("unknown", Gravity::Noise), at(0));
            strangers.count(origin, origin, Some(origin), ("wrong use", Gravity::Broken), at(0));
        }
        strangers.count(1, 1, Some(77), ("revoked", Gravity::Vouched), at(0));
        let summaries = strangers.counts().drain(at(1));
        assert!(summaries.iter().any(|found| found.about == "revoked" && found.caller == Some((1, Some(77)))));
        // And however grave: what is told apart stays bounded.
        for certificate in 0..6_000 {
            strangers.count(2, 2, Some(certificate), ("revoked", Gravity::Vouched), at(2));
        }
        assert_eq!(named(&strangers.counts().drain(at(2))), 64);
    }

    proptest! {
        #[test]
        fn each_stranger_is_counted_exactly_once(
            notes in prop::collection::vec((0u8..4, prop::option::of(0u16..300), 0u8..3, 0u64..3000, any::<bool>()), 0..900),
            grave in 0u8..4,
        ) {
            let strangers = Strangers::new();
            let (mut sent, mut counted) = (BTreeMap::<u8, u64>::new(), BTreeMap::<u8, u64>::new());
            let mut drained = Vec::new();
            for (origin, detail, about, time, drain) in notes {
                let gravity = if about < grave { Gravity::Broken } else { Gravity::Noise };
                strangers.count(origin, origin / 2, detail, (about, gravity), at(time));
                *sent.entry(about).or_default() += 1;
                if drain {
                    drained.extend(strangers.counts().drain(at(time)));
                }
            }
            drained.extend(strangers.counts().drain(at(3000)));
            for summary in drained {
                *counted.entry(summary.about).or_default() += summary.count;
            }
            prop_assert_eq!(counted, sent);
        }

        #[test]
        fn each_refusal_is_recorded_or_counted_exactly_once(
            burst in 0u32..5,
            per_second in 0u32..5,
            notes in prop::collection::vec((0u8..20, 0u8..3, 0u64..3000, any::<bool>()), 0..400),
        ) {
            let refusals = Refusals::new(Rate { burst, per_second });
            let mut counted: BTreeMap<(u8, u8), u64> = BTreeMap::new();
            for (caller, about, time, drain) in notes {
                if refusals.note(caller, about, at(time)) == Verdict::Count {
                    *counted.entry((caller, about)).or_default() += 1;
                }
                if drain {
                    let summaries = refusals.drain(at(time));
                    prop_assert!(summaries.iter().all(|summary| summary.first <= summary.last));
                    let taken: BTreeMap<_, _> =
                        summaries.iter().map(|s| ((s.caller.unwrap(), s.about), s.count)).collect();
                    prop_assert_eq!(taken.len(), summaries.len(), "one summary for each key");
                    prop_assert_eq!(&taken, &counted);
                    counted.clear();
                }
            }
        }

        #[test]
        fn no_caller_is_recorded_faster_than_its_rate(steps in prop::collection::vec(0u64..2000, 0..300)) {
            let refusals = Refusals::new(Rate::OF_A_CALLER);
            let (mut now, mut recorded) = (0, 0);
            for step in steps {
                now += step;
                recorded += u64::from(refusals.note("a", "tokenize", at(now)) == Verdict::Record);
                prop_assert!(recorded <= 10 + now * 2 / 1000);
                let _ = refusals.drain(at(now));
            }
        }
    }
}
