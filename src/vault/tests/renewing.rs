//! Renewal: another lifetime, within the ceiling, for the living only.

use super::*;
use crate::clock::Clock;
use crate::event::ItemOutcome::{Done, Malformed, Revoked, UsedUp};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const MAX_TTL: Duration = DAY.saturating_mul(400);

async fn renew(
    client: &Client,
    tokens: &[&str],
    ttl: Option<Duration>,
) -> Vec<Result<crate::clock::Timestamp, ItemFailure>> {
    client.renew("pan", tokens, ttl).await.unwrap_or_else(|failure| panic!("{failure:?}")).results
}

#[tokio::test]
async fn a_renewed_token_lives_from_now_on_for_its_new_lifetime() {
    let f = Fixture::new();
    let tester = f.tester();
    let token = tester.issue("pan", lasting(PAN, 2 * HOUR)).await;
    f.site.clock.advance(HOUR);
    let now = f.site.clock.wall();
    assert_eq!(renew(&tester, &[&token.token], Some(3 * HOUR)).await, [Ok(now.checked_add(3 * HOUR).unwrap())]);
    f.site.clock.advance((3 * HOUR).saturating_sub(Duration::from_millis(1)));
    assert_eq!(tester.show("pan", &[&token.token]).await, values(&[PAN]));
    f.site.clock.advance(Duration::from_millis(1));
    assert_eq!(tester.show("pan", &[&token.token]).await, nothing(1));
    // A dead token stays dead.
    assert_eq!(renew(&tester, &[&token.token], None).await, [Err(ItemFailure::NotFound)]);
    assert_eq!(outcomes(&f.last_event()), [ItemOutcome::Expired]);
    f.check();
}

#[tokio::test]
async fn the_default_lifetime_a_shorter_one_and_the_ceiling_l_01() {
    let f = Fixture::new();
    let tester = f.tester();
    let token = tester.issue("pan", lasting(PAN, MAX_TTL)).await;
    let from_now = |ttl: Duration| f.site.clock.wall().checked_add(ttl).unwrap();
    assert_eq!(renew(&tester, &[&token.token], None).await, [Ok(from_now(30 * DAY))], "the scope's default");
    assert_eq!(renew(&tester, &[&token.token], Some(HOUR)).await, [Ok(from_now(HOUR))], "it may become shorter");
    // Exactly the ceiling, counted from its making.
    f.site.clock.advance(Duration::from_millis(1));
    let rest = MAX_TTL.checked_sub(Duration::from_millis(1)).unwrap();
    let too_long = [Err(ItemFailure::Invalid(Reason::LifetimeTooLong))];
    assert_eq!(renew(&tester, &[&token.token], Some(MAX_TTL)).await, too_long);
    assert_eq!(outcomes(&f.last_event()), [ItemOutcome::Refused]);
    assert_eq!(renew(&tester, &[&token.token], Some(rest)).await, [Ok(from_now(rest))]);
    for (ttl, reason) in [
        (Duration::ZERO, Reason::LifetimeNotPositive),
        (Duration::from_nanos(999_999), Reason::LifetimeNotPositive),
        (Duration::MAX, Reason::LifetimeTooLong),
    ] {
        assert_eq!(renew(&tester, &[&token.token], Some(ttl)).await, [Err(ItemFailure::Invalid(reason))]);
    }
    f.check();
}

#[tokio::test]
async fn the_living_are_renewed_whatever_becomes_of_their_neighbours_z_04() {
    let f = Fixture::new();
    let tester = f.tester();
    let tokens = tester.issue_all("pan", (0..5).map(|_| limited(PAN, 1)).collect()).await;
    let [live, used_up, revoked, foreign, ghost] = &tokens[..] else { panic!() };
    tester.show("pan", &[&used_up.token]).await.unwrap();
    tester.revoke("pan", &[&revoked.token], &[]).await.unwrap();
    let other = tester.issue("ssn", item(PAN)).await;
    let mut mistyped = ghost.token.clone();
    mistyped.push('x');
    let expires = Ok(f.site.clock.wall().checked_add(HOUR).unwrap());
    let asked = [&live.token[..], &used_up.token, &live.token, &revoked.token, &mistyped, &other.token, &foreign.token];
    let not_found = Err(ItemFailure::NotFound);
    let malformed = Err(ItemFailure::Invalid(Reason::TokenMalformed));
    let results = renew(&tester, &asked, Some(HOUR)).await;
    assert_eq!(results[..5], [expires, not_found, expires, not_found, malformed]);
    assert_eq!(results[6], expires);
    let event = f.last_event();
    assert_eq!(outcomes(&event)[..5], [Done, UsedUp, Done, Revoked, Malformed]);
    assert_eq!((event.action(), event.succeeded), (Action::Renew, 3));
    // Renewing used nothing up.
    assert_eq!(tester.show("pan", &[&live.token]).await, values(&[PAN]));
    f.check();
}

/// A token that was the first of its call names the others in its hour. It may leave that hour and come back.
#[tokio::test]
async fn a_token_that_returns_to_an_hour_takes_nobody_elses_place() {
    let f = Fixture::new();
    let tester = f.tester();
    let tokens = tester.issue_all("pan", (0..3).map(|_| lasting(PAN, 5 * HOUR)).collect()).await;
    let tokens: Vec<&str> = tokens.iter().map(|token| token.token.as_str()).collect();
    for ttl in [9, 5, 7, 9, 5] {
        for result in renew(&tester, &tokens, Some(ttl * HOUR)).await {
            result.unwrap();
        }
        renew(&tester, &tokens[..1], Some((ttl + 1) * HOUR)).await;
        renew(&tester, &tokens[..1], Some(ttl * HOUR)).await;
    }
    // Every token is found in the hour in which it expires, or this fails.
    f.check();
}

#[tokio::test]
async fn a_renewal_and_a_revocation_that_race_agree_with_the_log_l_04() {
    let f = Fixture::new();
    for _ in 0..50 {
        let tester = f.tester();
        let token = tester.issue("pan", lasting(PAN, HOUR)).await;
        let (renewing, revoking) = (tester.clone(), tester.clone());
        let (first, second) = (token.token.clone(), token.token.clone());
        let renewal = tokio::spawn(async move { renewing.renew("pan", &[&first], Some(2 * HOUR)).await.map(|_| ()) });
        let revocation = tokio::spawn(async move { revoking.revoke("pan", &[&second], &[]).await.map(|_| ()) });
        renewal.await.unwrap().unwrap();
        revocation.await.unwrap().unwrap();
        assert_eq!(tester.show("pan", &[&token.token]).await, nothing(1), "revoked is for ever");
    }
    f.check();
}
