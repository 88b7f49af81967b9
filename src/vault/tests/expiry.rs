//! Lifetimes: the exact boundary, lengths that are refused, and clocks that leap.

use super::*;
use crate::clock::Clock;
use crate::crypto::Handle;
use crate::ledger::Changes;
use crate::store::{Change, Table};
use crate::vault::expiry::Expiries;
use proptest::prelude::*;

const DAY: Duration = Duration::from_hours(24);
const MAX_TTL: Duration = DAY.saturating_mul(400);

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

#[tokio::test]
async fn valid_if_and_only_if_now_is_before_expires_l_01() {
    const TOKENS: usize = 10_000;
    let f = Fixture::new();
    let tester = f.tester();
    let start = f.site.clock.wall();
    let mut dice = Dice(1);
    let mut ttl = |place: usize| match place {
        0 => Duration::from_millis(1),
        1 => MAX_TTL,
        2 => Duration::from_millis(2),
        // Of every order of magnitude.
        _ => {
            let longest = millis(MAX_TTL) >> dice.roll(35);
            Duration::from_millis(1 + dice.roll(longest))
        }
    };
    let mut tokens: Vec<(Timestamp, String)> = Vec::with_capacity(TOKENS);
    for batch in 0..TOKENS / 1000 {
        let ttls: Vec<Duration> = (0..1000).map(|place| ttl(batch * 1000 + place)).collect();
        let issued = tester.issue_all("pan", ttls.iter().map(|ttl| lasting(PAN, *ttl)).collect()).await;
        for (issued, ttl) in issued.into_iter().zip(ttls) {
            assert_eq!(issued.expires, start.checked_add(ttl).unwrap());
            tokens.push((issued.expires, issued.token));
        }
    }
    tokens.sort();
    let (mut valid, mut dead) = (0, 0);
    for token in tokens.chunk_by(|one, other| one.0 == other.0) {
        let expires = token[0].0;
        let texts: Vec<&str> = token.iter().map(|(_, text)| text.as_str()).collect();
        let just_before = Timestamp::from_millis(expires.millis() - 1);
        f.site.clock.advance(just_before.since(f.site.clock.wall()));
        assert_eq!(tester.show("pan", &texts).await, values(&vec![PAN; texts.len()]), "{expires:?}");
        valid += texts.len();
        f.site.clock.advance(Duration::from_millis(1));
        assert_eq!(f.site.clock.wall(), expires);
        assert_eq!(tester.show("pan", &texts).await, nothing(texts.len()), "{expires:?}");
        assert!(outcomes(&f.last_event()).iter().all(|outcome| *outcome == ItemOutcome::Expired));
        dead += texts.len();
    }
    assert_eq!((valid, dead), (TOKENS, TOKENS));
    assert_eq!(f.site.clock.wall(), start.checked_add(MAX_TTL).unwrap());
    println!("expiry: {TOKENS} lifetimes, each valid one millisecond before and dead on the dot");
}

#[tokio::test]
async fn a_lifetime_is_refused_and_never_cut_l_01() {
    let f = Fixture::new();
    let tester = f.tester();
    let with = |ttl| TokenizeItem { ttl: Some(ttl), ..item(PAN) };
    let cases = [
        (Ok(Duration::ZERO), Err(Reason::LifetimeNotPositive)),
        (Ok(Duration::from_nanos(999_999)), Err(Reason::LifetimeNotPositive)),
        (Ok(Duration::from_millis(1)), Ok(1)),
        (Ok(MAX_TTL), Ok(millis(MAX_TTL))),
        (Ok(MAX_TTL + Duration::from_nanos(1)), Err(Reason::LifetimeTooLong)),
        (Ok(MAX_TTL + Duration::from_millis(1)), Err(Reason::LifetimeTooLong)),
        (Ok(Duration::MAX), Err(Reason::LifetimeTooLong)),
        (Err(Reason::LifetimeNotPositive), Err(Reason::LifetimeNotPositive)),
        (Err(Reason::LifetimeTooLong), Err(Reason::LifetimeTooLong)),
    ];
    let items = cases.iter().map(|(ttl, _)| with(*ttl)).chain([item(PAN)]).collect();
    let now = f.site.clock.wall();
    let results = tester.tokenize("pan", items).await.unwrap().results;
    for (result, (ttl, expected)) in results.iter().zip(&cases) {
        let lifetime = result.as_ref().map(|issued| millis(issued.expires.since(now)));
        assert_eq!(lifetime.map_err(|failure| *failure), expected.map_err(ItemFailure::Invalid), "{ttl:?}");
    }
    assert_eq!(results.last().unwrap().as_ref().unwrap().expires.since(now), 30 * DAY, "the scope's default");
    let refused = outcomes(&f.last_event()).iter().filter(|outcome| **outcome == ItemOutcome::Refused).count();
    assert_eq!(refused, 7);
    f.check();
}

#[tokio::test]
async fn no_lifetime_wraps_into_for_ever_l_01() {
    const LAST: u64 = 253_402_300_799_999;
    let f = Fixture::new();
    f.site.clock.advance(Duration::from_millis(LAST - f.site.clock.wall().millis() - millis(DAY)));
    let results = f
        .tester()
        .tokenize("pan", vec![lasting(PAN, DAY), lasting(PAN, DAY + Duration::from_millis(1)), item(PAN)])
        .await;
    let results = results.unwrap().results;
    assert_eq!(results[0].as_ref().unwrap().expires.millis(), LAST);
    let refused = |place: usize| results[place].as_ref().err() == Some(&ItemFailure::Invalid(Reason::LifetimeTooLong));
    assert!(refused(1) && refused(2));
    f.check();
}

#[tokio::test]
async fn a_leap_of_the_clock_expires_only_while_it_lasts_l_03() {
    let f = Fixture::new();
    let tester = f.tester();
    let token = tester.issue("pan", item(PAN)).await.token;
    let used = tester.issue("pan", limited(PAN, 5)).await.token;
    let right = f.site.clock.wall();
    f.site.clock.set_wall(right.checked_add(3650 * DAY).unwrap());
    assert_eq!(tester.show("pan", &[&token, &used]).await, nothing(2));
    f.site.clock.set_wall(right);
    assert_eq!(tester.show("pan", &[&token, &used]).await, values(&[PAN, PAN]), "the leap was mended");
    assert_eq!(tester.revoke("pan", &[&used], &[]).await.unwrap().results, [Ok(right)]);
    let f = f.restart();
    assert_eq!(f.tester().show("pan", &[&token]).await, values(&[PAN]), "and after a restart");
    f.check();
}

#[tokio::test]
async fn what_has_expired_stays_dead_when_the_clock_is_set_back_l_03() {
    let f = Fixture::new();
    let token = f.tester().issue("pan", lasting(PAN, DAY)).await.token;
    let issued = f.site.clock.wall();
    f.site.clock.advance(DAY);
    assert_eq!(f.tester().show("pan", &[&token]).await, nothing(1));
    f.site.clock.set_wall(issued);
    assert_eq!(f.tester().show("pan", &[&token]).await, nothing(1));
    let f = f.restart();
    assert_eq!(f.tester().show("pan", &[&token]).await, nothing(1));
    f.check();
}

#[tokio::test]
async fn what_expires_between_read_and_commit_is_not_released_l_01() {
    let (f, gate) = Fixture::gated();
    let tester = f.tester();
    let token = tester.issue("pan", lasting(PAN, Duration::from_secs(1))).await.token;
    for (late_by, expected) in [(999, values(&[PAN])), (1, nothing(1))] {
        let held = f.hold(&gate).await;
        let racing = {
            let (tester, token) = (tester.clone(), token.clone());
            tokio::spawn(async move { tester.show("pan", &[&token]).await })
        };
        f.until_waiting(1).await;
        // It has read and opened the record, and waits.
        f.site.clock.advance(Duration::from_millis(late_by));
        gate.lift();
        gate.go(Fault::NONE);
        held.await.unwrap();
        assert_eq!(racing.await.unwrap(), expected);
    }
    let events = f.check();
    let of_detokenize: Vec<_> = events.iter().filter(|event| event.action() == Action::Detokenize).collect();
    assert_eq!(of_detokenize.len(), 2, "the attempt that came too late left nothing");
    assert_eq!(outcomes(of_detokenize[1]), [ItemOutcome::Expired]);
}

fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../tests/vectors/rows_v1.json")).unwrap()
}

/// The rows of one call: key and content.
fn expiry_rows(expiries: &[(u64, Handle)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut made, mut changes) = (Expiries::default(), Changes::default());
    for (millis, handle) in expiries {
        made.add(Timestamp::from_millis(*millis), handle);
    }
    made.write(&mut changes);
    let row = |change: Change<'_>| match change {
        Change::Put { table: Table::Expiry, key, content } => (key.to_vec(), content.to_vec()),
        _ => panic!("expiries only put rows of expiry"),
    };
    changes.rows().changes().map(row).collect()
}

#[test]
fn expiry_rows_are_the_frozen_ones() {
    let frozen = vectors();
    let frozen = frozen["expiry"].as_array().unwrap();
    assert_eq!(frozen.len(), 6);
    for row in frozen {
        let handles = row["handles"].as_array().unwrap();
        let millis = row["expires_millis"].as_u64().unwrap();
        let expiries: Vec<_> =
            handles.iter().map(|handle| (millis, handle.as_str().unwrap().parse().unwrap())).collect();
        let stored = [&row["row_key"], &row["row"]].map(|part| hex::decode(part.as_str().unwrap()).unwrap());
        assert_eq!(expiry_rows(&expiries), [stored.into()]);
    }
}

proptest! {
    #[test]
    fn expiry_rows_name_every_token_in_its_hour_and_lie_in_the_order_of_time_i_07(
        expiries in proptest::collection::vec((0..253_402_300_799_999_u64, any::<[u8; 20]>()), 0..40),
        spread in 1..1_000_000_000_u64,
    ) {
        // Narrow, so that hours are shared.
        let expiries: Vec<_> =
            expiries.into_iter().map(|(millis, handle)| (millis % spread, Handle::from_bytes(handle))).collect();
        let mut rows = expiry_rows(&expiries);
        let mut named: Vec<(u32, Vec<u8>)> = Vec::new();
        for (key, rest) in &rows {
            let hour = u32::from_be_bytes(*key.first_chunk().unwrap());
            named.extend([&key[4..]].into_iter().chain(rest.chunks(20)).map(|handle| (hour, handle.to_vec())));
        }
        let hour = |millis: u64| u32::try_from(millis / 3_600_000).unwrap();
        let mut expected: Vec<_> =
            expiries.iter().map(|(millis, handle)| (hour(*millis), handle.as_bytes().to_vec())).collect();
        named.sort();
        expected.sort();
        prop_assert_eq!(named, expected);
        rows.sort();
        prop_assert!(rows.is_sorted_by_key(|(key, _)| u32::from_be_bytes(*key.first_chunk().unwrap())));
        rows.dedup_by_key(|(key, _)| key[..4].to_vec());
        let hours: std::collections::BTreeSet<_> = expiries.iter().map(|(millis, _)| hour(*millis)).collect();
        prop_assert_eq!(rows.len(), hours.len(), "an hour has one row");
    }
}
