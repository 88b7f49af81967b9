//! Purging: what goes and when, what stays, how fast, and what a clock that leaps, a race or a crash does to it.

use super::*;
use crate::clock::Clock;
use crate::crypto::Handle;
use crate::crypto::record::Header;
use crate::ledger::{Basis, Changes, Standing, Submission};
use crate::store::{Batch, Found, Order, Rows, Store, Tier};
use crate::vault::expiry::Expiries;

const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const YEAR: Duration = DAY.saturating_mul(365);
const GRACE: Duration = DAY;
/// From the end of an hour until nothing is added to it any more.
const STILL_COMING: Duration = Duration::from_mins(1);

fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap()
}

fn advance_to(f: &Fixture, time: Timestamp) {
    f.site.clock.advance(time.since(f.site.clock.wall()));
    assert!(f.site.clock.wall() >= time);
}

/// When everything is gone that expires in the same hour as `expires`.
fn over(expires: Timestamp) -> Timestamp {
    let hour = 3_600_000;
    later(Timestamp::from_millis((expires.millis() / hour + 1) * hour), GRACE + STILL_COMING)
}

fn sweep() -> Sweep {
    Sweep::new(GRACE, PURGED_AT_ONCE)
}

/// Steps until there is nothing more to do, and what they did together.
async fn purge(f: &Fixture, sweep: &mut Sweep) -> Purged {
    let mut all = Purged::default();
    loop {
        let step = f.vault.purge(sweep).await.unwrap_or_else(|failure| panic!("{failure:?}"));
        all = Purged {
            tokens: all.tokens + step.tokens,
            requests: all.requests + step.requests,
            expiries: all.expiries + step.expiries,
            gone: all.gone + step.gone,
            renewed: all.renewed + step.renewed,
            damaged: all.damaged + step.damaged,
            locked: all.locked + step.locked,
            more: false,
        };
        if !step.more {
            return all;
        }
    }
}

fn is_there(f: &Fixture, handle: &Handle) -> bool {
    f.site.store.get(Table::Tokens, &[handle.as_bytes()], Tier::Disk).unwrap() != [Found::Absent]
}

fn count(f: &Fixture, table: Table) -> usize {
    f.site.store.scan(table, &[], &[0xff; 25], Order::Ascending, usize::MAX).unwrap().len()
}

fn events_of(f: &Fixture, action: Action) -> Vec<Event> {
    f.events().into_iter().filter(|event| event.action() == action).collect()
}

/// A record that expires at `expires` instead, as a renewal writes it: with another row of `expiry`.
fn renewal(f: &Fixture, basis: Basis, token: &Issued, expires: Timestamp) -> Submission {
    let (_, key, unlocked) = unlock(&f.vault, "pan", &token.handle, &f.row(&token.handle));
    let record_version = unlocked.header().record_version + 1;
    let header = Header { record_version, expires, ..*unlocked.header() };
    let row = unlocked.relock(f.vault.keyring().vault(), &token.handle, &key, &header, [7; 16]);
    let (mut rows, mut expiries) = (Changes::default(), Expiries::default());
    rows.replace(f.vault.keyring().state(), &token.handle, &unlocked.imprint(), &row);
    expiries.add(expires, &token.handle);
    expiries.write(&mut rows);
    let event = own_event("spiffe://dev.cloakroom.internal/gateway", "test", Action::Renew, String::new()).unwrap();
    let event = Event {
        handles: crate::event::handles([Some(token.handle.as_bytes())].into_iter()),
        item_outcomes: vec![ItemOutcome::Done.into()],
        ..event
    };
    Submission::new(basis, event).with_changes(rows).resting_on(vec![token.handle], vec![token.handle])
}

// === what goes and when ===

#[tokio::test]
async fn a_record_goes_when_its_grace_is_over_and_not_a_millisecond_earlier_l_02() {
    let f = Fixture::new();
    let mut sweep = sweep();
    for ttl in [MILLI, Duration::from_secs(2), HOUR, 30 * DAY] {
        let token = f.tester().issue("pan", lasting(PAN, ttl)).await;
        let due = later(token.expires, GRACE);
        advance_to(&f, Timestamp::from_millis(due.millis() - 1));
        assert_eq!(purge(&f, &mut sweep).await, Purged::default());
        assert!(is_there(&f, &token.handle), "{ttl:?}");
        f.site.clock.advance(MILLI);
        assert_eq!(purge(&f, &mut sweep).await, Purged { tokens: 1, expiries: 1, ..Purged::default() }, "{ttl:?}");
        assert_eq!((count(&f, Table::Tokens), count(&f, Table::Expiry)), (0, 0));
        assert_eq!(f.tester().show("pan", &[&token.token]).await, nothing(1));
        assert_eq!(outcomes(&f.last_event()), [ItemOutcome::Unknown]);
    }
    let events = f.check();
    let purges: Vec<_> = events.iter().filter(|event| event.action() == Action::Purge).collect();
    assert_eq!(purges.len(), 4, "nothing is written where there is nothing to do");
    for event in purges {
        assert_eq!(event.caller, "spiffe://dev.cloakroom.internal/vault");
        assert_eq!((event.requested, event.succeeded, event.handles.len()), (1, 1, 0));
        assert!(
            event.detail.contains("1 tokens and 0 requests deleted") && !event.rulebook.is_empty(),
            "{}",
            event.detail
        );
    }
}

/// Lifetimes of every length, in calls of every size, while time goes on in steps of every length.
async fn nothing_alive_goes_and_nothing_dead_stays(records: usize) {
    let f = Fixture::new();
    let tester = f.tester();
    let (mut sweep, mut dice) = (sweep(), Dice(7));
    let mut tokens: Vec<Issued> = Vec::with_capacity(records);
    while tokens.len() < records {
        let size = (1 + dice.pick(1000)).min(records - tokens.len());
        let mut any = || {
            let longest = 1 << (10 + dice.roll(22));
            Duration::from_millis(1 + dice.roll(longest))
        };
        let shared = any();
        // Mostly one lifetime for all of a call.
        let ttls: Vec<Duration> = (0..size).map(|place| if place % 4 > 0 { shared } else { any() }).collect();
        let items = ttls.into_iter().map(|ttl| lasting(PAN, ttl)).collect();
        tokens.extend(tester.issue_all("pan", items).await);
        f.site.clock.advance(Duration::from_millis(dice.roll(2000)));
    }
    tokens.sort_by_key(|token| token.expires);
    let last = over(tokens.last().unwrap().expires);
    let (mut rounds, mut purged) = (0, 0);
    while f.site.clock.wall() < last {
        f.site.clock.advance(Duration::from_millis(1 + dice.roll(20 * 3_600_000)));
        purged += purge(&f, &mut sweep).await.tokens;
        let now = f.site.clock.wall();
        let present: std::collections::HashSet<Vec<u8>> = f
            .site
            .store
            .scan(Table::Tokens, &[], &[0xff; 21], Order::Ascending, usize::MAX)
            .unwrap()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        let (mut kept, mut gone) = (0, 0);
        for token in &tokens {
            let there = present.contains(&token.handle.as_bytes()[..]);
            assert!(there || now >= later(token.expires, GRACE), "purged too early: {token:?}");
            assert!(!there || now < over(token.expires), "still there: {token:?}");
            if there { kept += 1 } else { gone += 1 }
        }
        assert_eq!((kept, gone), (present.len(), usize::try_from(purged).unwrap()));
        assert_eq!(sweep.lag(), Duration::ZERO);
        rounds += 1;
    }
    assert_eq!((usize::try_from(purged).unwrap(), count(&f, Table::Expiry)), (records, 0));
    println!("purge: {records} records in {rounds} rounds, none early, none late");
    f.check();
}

#[tokio::test]
async fn nothing_alive_goes_and_nothing_dead_stays_l_02() {
    nothing_alive_goes_and_nothing_dead_stays(8_000).await;
}

#[tokio::test]
#[ignore = "long: a million records"]
async fn of_a_million_nothing_alive_goes_and_nothing_dead_stays_l_02() {
    nothing_alive_goes_and_nothing_dead_stays(1_000_000).await;
}

#[tokio::test]
async fn revoked_and_used_up_ones_go_when_they_expire() {
    let f = Fixture::new();
    let tester = f.tester();
    let (revoked, used) = (tester.issue("pan", item(PAN)).await, tester.issue("pan", limited(PAN, 1)).await);
    tester.revoke("pan", &[&revoked.token], &[]).await.unwrap();
    assert_eq!(tester.show("pan", &[&used.token]).await, values(&[PAN]));
    let mut sweep = sweep();
    advance_to(&f, Timestamp::from_millis(later(revoked.expires, GRACE).millis() - 1));
    assert_eq!(purge(&f, &mut sweep).await, Purged::default());
    let inspected = tester.inspect("pan", &[&revoked.token, &used.token], &[]).await.unwrap().results;
    assert!(inspected.iter().all(Result::is_ok), "until then it can be told what became of them");
    f.site.clock.advance(MILLI);
    assert_eq!(purge(&f, &mut sweep).await.tokens, 2);
    f.check();
}

#[tokio::test]
async fn an_hour_does_not_wait_for_what_expires_later_in_it() {
    let f = Fixture::new();
    let tester = f.tester();
    // The first of them, in the order of the rows, is not due: the others wait for the hour's end, and no longer.
    let items = |ttl| (0..5).map(|_| lasting(PAN, ttl)).collect::<Vec<_>>();
    let slow = tester.issue_all("pan", items(Duration::from_mins(40))).await;
    f.site.clock.advance(Duration::from_secs(1));
    tester.issue_all("pan", items(MILLI)).await;
    let mut sweep = sweep();
    advance_to(&f, later(slow[0].expires, GRACE.saturating_sub(MILLI)));
    assert_eq!(purge(&f, &mut sweep).await, Purged::default());
    f.site.clock.advance(MILLI);
    assert_eq!(purge(&f, &mut sweep).await.tokens, 10);
    // What comes into an hour after it was gone through is found once it is over.
    let latecomer = slow[0].handle;
    let mut rows = Changes::default();
    let mut expiries = Expiries::default();
    expiries.add(slow[0].expires, &latecomer);
    expiries.write(&mut rows);
    f.site.store.commit(rows.rows()).unwrap();
    assert_eq!(purge(&f, &mut sweep).await, Purged::default());
    advance_to(&f, over(slow[0].expires));
    assert_eq!(purge(&f, &mut sweep).await, Purged { gone: 1, expiries: 1, ..Purged::default() });
    f.check();
}

#[tokio::test]
async fn a_renewed_token_goes_by_its_later_expiry() {
    let f = Fixture::new();
    let tokens = f.tester().issue_all("pan", (0..3).map(|_| lasting(PAN, HOUR)).collect()).await;
    let expires = later(tokens[1].expires, 5 * DAY);
    let renewal = renewal(&f, f.vault.ledger().basis(), &tokens[1], expires);
    f.vault.ledger().record(renewal).await.unwrap();
    let mut sweep = sweep();
    advance_to(&f, over(tokens[0].expires));
    let first = Purged { tokens: 2, renewed: 1, expiries: 1, ..Purged::default() };
    assert_eq!(purge(&f, &mut sweep).await, first);
    assert!(is_there(&f, &tokens[1].handle));
    assert_eq!(f.tester().show("pan", &[&tokens[1].token]).await, values(&[PAN]));
    advance_to(&f, Timestamp::from_millis(later(expires, GRACE).millis() - 1));
    assert_eq!(purge(&f, &mut sweep).await, Purged::default());
    f.site.clock.advance(MILLI);
    assert_eq!(purge(&f, &mut sweep).await, Purged { tokens: 1, expiries: 1, ..Purged::default() });
    f.check();
}

// === how fast ===

#[tokio::test]
async fn a_step_is_bounded_and_the_pauses_keep_the_rate() {
    const RATE: u32 = 500;
    let f = Fixture::new();
    let mut expected = 0;
    for size in [1, 1, 250, 30, 70, 1000, 1, 99, 1, 400, 3_u64] {
        f.tester().issue_all("pan", (0..size).map(|_| lasting(PAN, HOUR)).collect()).await;
        expected += size;
    }
    advance_to(&f, over(later(f.site.clock.wall(), HOUR)));
    let mut sweep = Sweep::new(GRACE, 100);
    let (mut purged, mut steps, mut time) = (0, 0, Duration::ZERO);
    loop {
        let before = events_of(&f, Action::Purge).len();
        let step = f.vault.purge(&mut sweep).await.unwrap();
        assert!(step.tokens <= 100 || step.expiries == 1, "{step:?}");
        assert_eq!(events_of(&f, Action::Purge).len(), before + 1, "one event for each commit");
        purged += step.tokens;
        steps += 1;
        let Some(pause) = step.pause(RATE) else { break };
        time += pause;
        assert_eq!(pause, Duration::from_secs(step.tokens) / RATE);
        assert!(purged as f64 <= time.as_secs_f64() * f64::from(RATE) + 1e-6);
    }
    assert_eq!(purged, expected);
    println!("rate: {purged} records in {steps} steps of up to 100, in {time:?} at {RATE} a second");
    assert_eq!(Purged::default().pause(RATE), None, "nothing to do");
    f.check();
}

#[tokio::test]
async fn the_lag_is_the_age_of_the_oldest_hour_that_is_due() {
    let f = Fixture::new();
    let first = f.tester().issue("pan", lasting(PAN, HOUR)).await;
    for _ in 0..3 {
        f.site.clock.advance(HOUR);
        f.tester().issue("pan", lasting(PAN, HOUR)).await;
    }
    advance_to(&f, later(over(first.expires), 10 * HOUR));
    let mut sweep = Sweep::new(GRACE, 1);
    let mut lags = Vec::new();
    while f.vault.purge(&mut sweep).await.unwrap().more {
        lags.push(sweep.lag());
    }
    assert_eq!(lags, [9, 8, 7].map(|hours| hours * HOUR + STILL_COMING));
    assert_eq!(sweep.lag(), Duration::ZERO);
    f.check();
}

// === clocks that leap ===

#[tokio::test]
async fn a_leap_of_ten_years_purges_nothing_and_expires_nothing_for_good_l_03() {
    let f = Fixture::new();
    let token = f.tester().issue("pan", item(PAN)).await;
    let right = f.site.clock.wall();
    assert_eq!(f.vault.keep_time().await.unwrap(), Standing::Sound);
    f.site.clock.set_wall(later(right, 10 * YEAR));
    for _ in 0..3 {
        assert_eq!(f.vault.keep_time().await.unwrap(), Standing::Leapt(10 * YEAR));
        assert_eq!(purge(&f, &mut sweep()).await, Purged::default());
        assert_eq!(f.tester().show("pan", &[&token.token]).await, nothing(1), "calls go on");
    }
    // From one start to the next.
    let f = f.restart();
    assert_eq!(f.vault.keep_time().await.unwrap(), Standing::Leapt(10 * YEAR));
    assert_eq!(purge(&f, &mut sweep()).await, Purged::default());
    f.site.clock.set_wall(right);
    assert_eq!(f.vault.keep_time().await.unwrap(), Standing::Sound);
    assert_eq!(f.tester().show("pan", &[&token.token]).await, values(&[PAN]), "the leap was mended");
    let told: Vec<String> = events_of(&f, Action::Clock).into_iter().map(|event| event.detail).collect();
    let leapt = "the clock is 315360000 s ahead of the time mark; nothing is purged";
    assert_eq!(told, [leapt, leapt, "the clock and the time mark go together again"], "once for each change");
    // Just short of a leap: the mark does not follow that either, so nothing goes before its time.
    f.site.clock.set_wall(later(right, DAY.saturating_sub(MILLI)));
    let brief = f.tester().issue("pan", lasting(PAN, MILLI)).await;
    assert_eq!(f.vault.keep_time().await.unwrap(), Standing::Sound);
    assert_eq!(purge(&f, &mut Sweep::new(Duration::ZERO, 1000)).await, Purged::default());
    assert!(is_there(&f, &brief.handle));
    f.check();
}

#[tokio::test]
async fn after_a_steady_day_a_leap_is_believed_with_an_event_l_03() {
    let f = Fixture::new();
    let token = f.tester().issue("pan", item(PAN)).await;
    let right = f.site.clock.wall();
    f.site.clock.set_wall(later(right, YEAR));
    let mut sweep = sweep();
    for _ in 0..24 {
        assert_eq!(f.vault.keep_time().await.unwrap(), Standing::Leapt(YEAR));
        assert_eq!(purge(&f, &mut sweep).await, Purged::default());
        f.site.clock.advance(HOUR);
    }
    assert_eq!(f.vault.keep_time().await.unwrap(), Standing::Steady(YEAR));
    assert_eq!(f.vault.keep_time().await.unwrap(), Standing::Sound);
    assert_eq!(purge(&f, &mut sweep).await.tokens, 1);
    assert_eq!(events_of(&f, Action::Clock).len(), 2);
    // The mark was stored with the event: what is dead by it stays dead.
    f.site.clock.set_wall(right);
    let f = f.restart();
    assert_eq!(f.tester().show("pan", &[&token.token]).await, nothing(1));
    assert_eq!(f.vault.ledger().clock().now(), later(right, YEAR + DAY));
    f.check();
}

#[tokio::test]
async fn an_operator_may_accept_the_clock_l_03() {
    let f = Fixture::new();
    f.tester().issue("pan", item(PAN)).await;
    let ahead = later(f.site.clock.wall(), YEAR);
    let site = f.close();
    site.clock.set_wall(ahead);
    let f = Fixture::over(site).restart();
    assert_eq!(f.vault.ledger().clock().leap(), Some(YEAR));
    f.vault.accept_clock("an operator accepts the clock").await.unwrap();
    assert_eq!(f.vault.ledger().clock().leap(), None);
    let f = f.restart();
    assert_eq!((f.vault.ledger().clock().leap(), f.vault.ledger().clock().trusted()), (None, Some(ahead)));
    assert_eq!(purge(&f, &mut sweep()).await.tokens, 1);
    assert_eq!(events_of(&f, Action::Clock)[0].detail, "an operator accepts the clock");
    f.check();
}

// === what stays ===

#[tokio::test]
async fn what_does_not_open_stays_alone_and_is_counted_s_09() {
    let f = Fixture::new();
    let tokens = f.tester().issue_all("pan", (0..6).map(|_| lasting(PAN, HOUR)).collect()).await;
    let whole = f.tester().issue("ssn", lasting(PAN, HOUR)).await;
    let rows: Vec<Vec<u8>> = tokens.iter().map(|token| f.row(&token.handle)).collect();
    let edited = |place: usize, at: usize| {
        let mut row = rows[place].clone();
        row[at] ^= 1;
        f.put(&tokens[place].handle, &row);
    };
    // An earlier expiry, an unknown format, a scope that nobody has, and one that the disk can't read.
    edited(0, 40);
    edited(1, 0);
    edited(2, 3);
    f.site.store.damage(Table::Tokens, tokens[3].handle.as_bytes());
    let mut bent = Batch::default();
    bent.put(Table::Expiry, &[0; 7], b"");
    bent.put(Table::Expiry, &[0; 24], &[1; 19]);
    f.site.store.commit(&bent).unwrap();
    let mut once = sweep();
    advance_to(&f, later(tokens[0].expires, GRACE));
    assert_eq!(purge(&f, &mut once).await, Purged { tokens: 1, expiries: 1, damaged: 2, ..Purged::default() });
    advance_to(&f, over(tokens[0].expires));
    let expected = Purged { tokens: 2, damaged: 3, locked: 1, ..Purged::default() };
    assert_eq!(purge(&f, &mut once).await, expected);
    assert_eq!(purge(&f, &mut once).await, Purged::default(), "counted once");
    assert!(!is_there(&f, &whole.handle) && !is_there(&f, &tokens[4].handle) && !is_there(&f, &tokens[5].handle));
    assert_eq!((count(&f, Table::Expiry), f.last_event().succeeded), (3, 2));
    // Mended, they are found by the next start.
    for (token, row) in tokens.iter().zip(&rows).take(4) {
        f.put(&token.handle, row);
    }
    let mut mended = Batch::default();
    mended.delete(Table::Expiry, &[0; 7]);
    mended.delete(Table::Expiry, &[0; 24]);
    f.site.store.commit(&mended).unwrap();
    let f = f.restart();
    assert_eq!(purge(&f, &mut sweep()).await, Purged { tokens: 4, gone: 2, expiries: 1, ..Purged::default() });
    f.check();
}

#[tokio::test]
async fn an_edited_expiry_row_deletes_nothing_that_lives() {
    let f = Fixture::new();
    let alive = f.tester().issue_all("pan", (0..10).map(|_| item(PAN)).collect()).await;
    let start = f.site.clock.wall();
    let (mut rows, mut expiries) = (Changes::default(), Expiries::default());
    for token in &alive {
        expiries.add(start, &token.handle);
    }
    expiries.write(&mut rows);
    f.site.store.commit(rows.rows()).unwrap();
    advance_to(&f, over(start));
    let expected = Purged { renewed: 10, expiries: 1, ..Purged::default() };
    assert_eq!(purge(&f, &mut sweep()).await, expected);
    let tokens: Vec<&str> = alive.iter().map(|token| token.token.as_str()).collect();
    assert_eq!(f.tester().show("pan", &tokens).await, values(&[PAN; 10]));
    f.check();
}

// === races ===

#[tokio::test]
async fn what_was_renewed_between_read_and_commit_is_not_purged_l_02() {
    let (f, gate) = Fixture::gated();
    let tokens = f.tester().issue_all("pan", (0..3).map(|_| lasting(PAN, HOUR)).collect()).await;
    advance_to(&f, over(tokens[0].expires));
    let held = f.hold(&gate).await;
    let renewed = {
        let later = renewal(&f, f.vault.ledger().basis(), &tokens[0], later(f.site.clock.wall(), DAY));
        let vault = Arc::clone(&f.vault);
        tokio::spawn(async move { vault.ledger().record(later).await.map(drop) })
    };
    f.until_waiting(1).await;
    let purging = {
        let vault = Arc::clone(&f.vault);
        tokio::spawn(async move { vault.purge(&mut sweep()).await.unwrap() })
    };
    // It has read and opened the record as it was, and waits behind the renewal.
    f.until_waiting(2).await;
    gate.lift();
    gate.go(Fault::NONE);
    held.await.unwrap();
    renewed.await.unwrap().unwrap();
    let purged = purging.await.unwrap();
    assert_eq!((purged.tokens, purged.renewed), (2, 1), "it ran again");
    assert_eq!(f.tester().show("pan", &[&tokens[0].token]).await, values(&[PAN]));
    f.check();
}

#[tokio::test]
async fn of_a_purge_and_a_release_in_one_batch_nothing_leaves_that_is_gone_l_02() {
    for purge_first in [true, false] {
        let (f, gate) = Fixture::gated();
        let token = f.tester().issue("pan", lasting(PAN, Duration::from_secs(1))).await;
        let held = f.hold(&gate).await;
        let release = || {
            let (tester, token) = (f.tester(), token.token.clone());
            tokio::spawn(async move { tester.show("pan", &[&token]).await })
        };
        let purging = || {
            let vault = Arc::clone(&f.vault);
            tokio::spawn(async move { vault.purge(&mut Sweep::new(Duration::ZERO, 1)).await.unwrap() })
        };
        // The release has read and opened the record while it was good.
        let (released, purged) = if purge_first {
            f.site.clock.advance(Duration::from_secs(1));
            let purged = purging();
            f.until_waiting(1).await;
            (release(), purged)
        } else {
            let released = release();
            f.until_waiting(1).await;
            f.site.clock.advance(Duration::from_secs(1));
            (released, purging())
        };
        f.until_waiting(2).await;
        gate.lift();
        gate.go(Fault::NONE);
        held.await.unwrap();
        assert_eq!(released.await.unwrap(), nothing(1), "{purge_first}");
        assert_eq!(purged.await.unwrap().tokens, 1, "{purge_first}");
        f.check();
    }
}

// === crashes ===

#[tokio::test]
async fn a_crash_at_any_commit_leaves_rows_and_events_together_s_04() {
    let mut rounds = 0;
    for fault in [Fault::LOST, Fault::UNKNOWN] {
        for at in 0..5 {
            crash(fault, at).await;
            rounds += 1;
        }
    }
    println!("purge: {rounds} rounds of break, restart, go on");
}

/// Commit `at` of a purge in five steps meets `fault`.
async fn crash(fault: Fault, at: u64) {
    let f = Fixture::new();
    for _ in 0..5 {
        f.tester().issue_all("pan", (0..10).map(|_| lasting(PAN, HOUR)).collect()).await;
    }
    let alive = f.tester().issue("pan", item(PAN)).await;
    advance_to(&f, over(later(f.site.clock.wall(), HOUR)));
    // The time mark is stored with a commit. Without one, the next start would take what has passed for a leap.
    f.vault.record_own(own(Action::Unusual, "time goes on")).await.unwrap();
    let mut site = f.close();
    site.restart(Some(Box::new(move |commit, _| if commit == at { fault } else { Fault::NONE })));
    let f = Fixture::over(site);
    let mut sweep = Sweep::new(GRACE, 10);
    let mut purged = 0;
    let failure = loop {
        match f.vault.purge(&mut sweep).await {
            Ok(step) => purged += step.tokens,
            Err(failure) => break failure,
        }
    };
    assert_eq!((name(&failure).as_str(), purged), ("unavailable", 10 * at));
    let left = count(&f, Table::Tokens) as u64;
    assert_eq!(left, 51 - purged - if fault.applied { 10 } else { 0 }, "{fault:?} at {at}");
    // No more of it while the log can't be written.
    assert_eq!(f.vault.purge(&mut sweep).await.err().map(|failure| name(&failure)), Some("unavailable".to_owned()));
    assert_eq!(count(&f, Table::Tokens) as u64, left);
    let mut site = f.close();
    site.restart(None);
    let f = Fixture::over(site);
    assert_eq!(purge(&f, &mut Sweep::new(GRACE, 10)).await.tokens, left - 1);
    assert_eq!(f.tester().show("pan", &[&alive.token]).await, values(&[PAN]));
    f.check();
}

#[tokio::test]
async fn remembered_requests_are_purged_and_renewed_tokens_when_their_last_hour_is_over() {
    let f = Fixture::new();
    let tester = f.tester();
    let tokens = tester.request(1).issue_all("pan", (0..3).map(|_| lasting(PAN, HOUR)).collect()).await;
    tester.request(2).renew("pan", &[&tokens[1].token], Some(5 * HOUR)).await.unwrap();
    tester.request(3).renew("pan", &[&tokens[0].token], Some(40 * DAY)).await.unwrap();
    let start = f.site.clock.wall();
    let mut sweep = sweep();

    advance_to(&f, over(later(start, HOUR)));
    let first = purge(&f, &mut sweep).await;
    assert_eq!((first.tokens, first.renewed, first.requests), (1, 2, 0));
    assert_eq!(tester.request(1).issue_all("pan", (0..3).map(|_| lasting(PAN, HOUR)).collect()).await.len(), 3);

    advance_to(&f, over(later(start, 5 * HOUR)));
    assert_eq!(purge(&f, &mut sweep).await.tokens, 1);
    advance_to(&f, over(later(start, DAY)));
    let requests = purge(&f, &mut sweep).await;
    // The first id was used anew when a day had gone, and is remembered for a day from then on.
    assert_eq!((requests.requests, requests.renewed), (2, 1));
    assert_eq!(count(&f, Table::Requests), 1);
    assert!(is_there(&f, &tokens[0].handle), "it was renewed");

    advance_to(&f, over(later(start, 41 * DAY)));
    purge(&f, &mut sweep).await;
    assert_eq!([Table::Tokens, Table::Expiry, Table::Requests].map(|table| count(&f, table)), [0, 0, 0]);
    f.check();
}

#[tokio::test]
async fn a_request_id_that_is_used_again_while_its_purge_is_under_way_stays_remembered() {
    let (f, gate) = Fixture::gated();
    let first = f.tester().request(1).issue("pan", item(PAN)).await;
    advance_to(&f, over(later(f.site.clock.wall(), DAY)));
    let held = f.hold(&gate).await;
    let again = {
        let tester = f.tester().request(1);
        tokio::spawn(async move { tester.issue("pan", item(PAN)).await })
    };
    f.until_waiting(1).await;
    let purging = {
        let vault = Arc::clone(&f.vault);
        tokio::spawn(async move { vault.purge(&mut sweep()).await.unwrap() })
    };
    // It has found the request's time to be over, and waits behind the call that begins another.
    f.until_waiting(2).await;
    gate.lift();
    gate.go(Fault::NONE);
    held.await.unwrap();
    let second = again.await.unwrap();
    assert_ne!(second, first, "a day has gone");
    let purged = purging.await.unwrap();
    assert_eq!((purged.requests, purged.renewed), (0, 1), "it ran again");
    assert_eq!(f.tester().request(1).issue("pan", item(PAN)).await, second);
    f.check();
}
