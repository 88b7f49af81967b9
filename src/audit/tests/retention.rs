//! Old bodies go, in whole tiles, with an event that says so; what is newer stays found, followed and proved.

use super::*;
use crate::ledger::OpenError;
use crate::merkle::note::Checkpoint;
use crate::merkle::{self, leaf_hash};

const DAY: Duration = Duration::from_hours(24);
const KEEP: Duration = Duration::from_hours(24 * 30);

/// Three tiles of old events, and as many young ones.
async fn old_and_young() -> (Fixture, Issued, Checkpoint) {
    let f = Fixture::new();
    let token = f.client("gateway").issue("pan", lasting(PAN, DAY * 100)).await;
    let many = |number: usize| {
        for number in 0..number {
            let event = plain_event(&number.to_string(), &[]);
            submit(f.vault.ledger(), Submission::new(f.vault.ledger().basis(), event)).unwrap().wait().unwrap();
        }
    };
    many(800);
    let old = checkpoint(&f).await;
    for _ in 0..31 {
        // A day at a time, as a machine that runs: more at once would be a leap.
        f.site.clock.advance(DAY);
        f.vault.keep_time().await.unwrap();
    }
    many(800);
    checkpoint(&f).await;
    (f, token, old)
}

async fn checkpoint(f: &Fixture) -> Checkpoint {
    let auditor = f.client("auditor");
    f.site.log_keys().open(&auditor.vault.checkpoint(&auditor.call).await.unwrap()).unwrap()
}

async fn drop_all(f: &Fixture) -> u64 {
    let mut events = 0;
    loop {
        let dropped = f.vault.drop_old_events(KEEP).await.unwrap();
        events += dropped.events;
        assert_eq!(dropped.kept_from, f.vault.ledger().kept_from());
        if !dropped.more {
            return events;
        }
    }
}

fn stored(f: &Fixture) -> Vec<u64> {
    let dump = f.site.dump();
    let sequences = dump.keys().filter(|(table, _)| *table == Table::Events);
    sequences.map(|(_, key)| u64::from_be_bytes(key.as_slice().try_into().unwrap())).collect()
}

#[tokio::test]
async fn old_tiles_lose_their_bodies_and_nothing_else_a_15() {
    let (f, token, old) = old_and_young().await;
    let before = stored(&f);
    assert_eq!(drop_all(&f).await, 768, "three whole tiles; the fourth has young events in it");
    let size = before.len() as u64;
    assert_eq!(stored(&f), (768..=size).collect::<Vec<_>>(), "one event more says what was dropped");
    let dump = f.site.dump();
    let index = dump.keys().filter(|(table, _)| *table == Table::EventIndex);
    assert!(index.clone().count() > 800);
    for (_, key) in index {
        let sequence = u64::from_be_bytes(key[key.len() - 8..].try_into().unwrap());
        assert!(sequence >= 768, "an index row leads nowhere");
    }
    let said = event::decode(&f.site.row(Table::Events, &size.to_be_bytes()).unwrap()).unwrap();
    assert_eq!((said.action(), said.caller.as_str()), (Action::Purge, id("vault").as_str()));
    assert!(said.detail.starts_with("events before 768 dropped"), "{}", said.detail);
    assert_eq!(drop_all(&f).await, 0);

    // Everything newer is proved, from checkpoints of before and after; of the old ones the hashes still are.
    let new = checkpoint(&f).await;
    let auditor = f.client("auditor");
    let from = auditor.vault.consistency_proof(&auditor.call, old.size(), new.size()).await.unwrap();
    merkle::verify_consistency(old.size(), old.root(), new.size(), new.root(), &from.hashes).unwrap();
    for sequence in [768, 800, 1_000, new.size() - 1] {
        let proof = auditor.vault.inclusion_proof(&auditor.call, sequence, new.size()).await.unwrap();
        merkle::verify_inclusion(&leaf_hash(&proof.event), sequence, new.size(), new.root(), &proof.hashes).unwrap();
    }
    let dropped = auditor.vault.inclusion_proof(&auditor.call, 5, new.size()).await.unwrap();
    assert!(dropped.event.is_empty() && !dropped.hashes.is_empty());
    let kept = leaf_hash(&{
        let mut event = plain_event("2", &[]);
        event.time = None;
        event::finish(&event.encode_body(), crate::ledger::fixture::START)
    });
    let at = (0..20).find(|at| {
        let proof = f.vault.ledger().vouched();
        let rows = &*f.site.store;
        let mut tree = merkle::Tree::new(proof.tree(), |id| crate::ledger::read_tile(rows, id));
        let path = tree.inclusion(*at, new.size()).unwrap();
        merkle::verify_inclusion(&kept, *at, new.size(), new.root(), &path).is_ok()
    });
    assert!(at.is_some(), "whoever kept the bytes can still prove them");

    // The vault still knows the token whose issue nobody can read about any more, and starts again.
    assert!(f.client("payments").show("pan", &[&token.token]).await.is_ok());
    let f = f.restart();
    assert_eq!(f.vault.ledger().kept_from(), 768);
    assert!(f.client("payments").show("pan", &[&token.token]).await.is_ok());
}

#[tokio::test]
async fn questions_and_tails_begin_where_the_log_begins() {
    let (f, token, _) = old_and_young().await;
    let auditor = f.client("auditor");
    let tail = |from_sequence| {
        let auditor = auditor.clone();
        async move {
            let request = TailRequest { filter: FilterRequest::default(), from_sequence };
            auditor.vault.tail_events(&auditor.call, &request).await
        }
    };
    let mut behind = tail(0).await.unwrap();
    drop_all(&f).await;
    assert_eq!(name(&tail(0).await.err().unwrap()), "events dropped");
    assert_eq!(name(&tail(767).await.err().unwrap()), "events dropped");
    assert_eq!(name(&behind.next().await.unwrap_err()), "events dropped", "nothing is skipped in silence");
    assert_eq!(tail(768).await.unwrap().next().await.unwrap()[0].sequence, 768);
    let (events, _) = all_pages(&auditor, FilterRequest::default, 100, false).await;
    assert_eq!(events[0].sequence, 768);
    let handle = || FilterRequest { handle: token.handle.to_string(), ..FilterRequest::default() };
    assert!(all_pages(&auditor, handle, 100, false).await.0.iter().all(|event| event.sequence >= 768));
}

#[tokio::test]
async fn nothing_is_dropped_that_is_young_or_not_vouched_for_or_while_time_is_in_doubt() {
    let (f, _, _) = old_and_young().await;
    assert_eq!(f.vault.drop_old_events(DAY * 32).await.unwrap().events, 0, "young");
    f.site.clock.set_wall(f.site.clock.wall().checked_add(DAY * 400).unwrap());
    assert_eq!(f.vault.drop_old_events(KEEP).await.unwrap().events, 0, "a leap");

    let f = Fixture::new();
    for number in 0..600_u32 {
        let event = plain_event(&number.to_string(), &[]);
        submit(f.vault.ledger(), Submission::new(f.vault.ledger().basis(), event)).unwrap().wait().unwrap();
    }
    for _ in 0..31 {
        f.site.clock.advance(DAY);
        f.vault.keep_time().await.unwrap();
    }
    assert_eq!(f.vault.drop_old_events(KEEP).await.unwrap().events, 0, "no checkpoint yet");
}

#[tokio::test]
async fn events_that_are_gone_without_a_word_are_missed_at_the_next_start_a_02() {
    let (f, _, _) = old_and_young().await;
    drop_all(&f).await;
    let mut site = f.close();
    let first = site.row(Table::Events, &768_u64.to_be_bytes()).unwrap();
    site.edit(|rows| rows.delete(Table::Events, &768_u64.to_be_bytes()));
    assert!(matches!(site.open().err(), Some(OpenError::Gap(768))));
    site.edit(|rows| {
        rows.put(Table::Events, &768_u64.to_be_bytes(), &first);
        rows.delete(Table::Meta, b"kept_from");
    });
    assert!(matches!(site.open().err(), Some(OpenError::Gap(0))), "without the row nothing may be missing");
}
