//! Following the log: all of it, once, in order, from any place, for as long as policy lets.

use super::*;

async fn tail(client: &Client, filter: FilterRequest, from_sequence: u64) -> Result<Tail, Failure> {
    client.vault.tail_events(&client.call, &TailRequest { filter, from_sequence }).await
}

/// As many events as are asked for.
async fn take(tail: &mut Tail, number: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < number {
        events.extend(tail.next().await.unwrap_or_else(|failure| panic!("{failure:?}")));
    }
    events
}

#[tokio::test]
async fn a_tail_brings_the_log_and_then_what_comes_a_14() {
    let (f, _) = busy_vault().await;
    let auditor = f.client("auditor");
    let mut all = tail(&auditor, FilterRequest::default(), 0).await.unwrap();
    let log = whole_log(&f);
    assert_eq!(log.last().unwrap().detail, "tail from 0; oldest first", "the opening is an event");
    assert_eq!(take(&mut all, log.len()).await, log);
    for _ in 0..3 {
        let token = f.client("gateway").issue("pan", item(PAN)).await;
        assert_eq!(take(&mut all, 1).await[0].handles[0][..], token.handle.as_bytes()[..]);
    }
    // Behind the last one that came, with a filter.
    let next = f.events().len() as u64;
    let mut behind =
        tail(&auditor, FilterRequest { outcome: Outcome::Denied.into(), ..FilterRequest::default() }, next)
            .await
            .unwrap();
    f.client("gateway").issue("pan", item(PAN)).await;
    f.client("stranger").show("pan", &["pan_x"]).await.unwrap_err();
    let denied = take(&mut behind, 1).await;
    assert_eq!((denied.len(), denied[0].caller.as_str()), (1, id("stranger").as_str()));
    f.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tail_while_eight_write_neither_skips_nor_repeats_a_14() {
    let f = Fixture::new();
    let auditor = f.client("auditor");
    let mut tail = tail(&auditor, FilterRequest::default(), 0).await.unwrap();
    let before = f.events().len();
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let gateway = f.client("gateway");
            tokio::spawn(async move {
                for _ in 0..50 {
                    gateway.issue("pan", item(PAN)).await;
                }
            })
        })
        .collect();
    // The scope's key has an event as well.
    let events = take(&mut tail, before + 1 + 400).await;
    for writer in writers {
        writer.await.unwrap();
    }
    let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (0..(before + 401) as u64).collect::<Vec<_>>());
    assert!(events == whole_log(&f));
    f.check();
}

#[tokio::test]
async fn a_tail_ends_before_the_next_event_once_policy_no_longer_lets() {
    let f = Fixture::new();
    let auditor = f.client("auditor");
    let mut tail = tail(&auditor, FilterRequest::default(), 0).await.unwrap();
    let log = f.events().len();
    take(&mut tail, log).await;
    f.policy.publish(rulebook(&["auditor.cedar"]));
    f.client("gateway").issue("pan", item(PAN)).await;
    let failure = tail.next().await.unwrap_err();
    assert!(matches!(&failure, Failure::Denied(Some(_))), "{failure:?}");
    assert_eq!(words(&f.event(receipt(&failure).unwrap())), "query_audit denied POLICY_DENIED");
    f.check();
}

#[tokio::test]
async fn a_log_that_is_shorter_than_what_was_seen_is_no_log_to_follow_a_02() {
    let f = Fixture::new();
    let auditor = f.client("auditor");
    let size = f.events().len() as u64;
    assert!(tail(&auditor, FilterRequest::default(), size).await.is_ok(), "behind the last event");
    let failure = tail(&auditor, FilterRequest::default(), 1_000).await.err().unwrap();
    assert_eq!(name(&failure), "not in log");
    for name in ["gateway", "payments", "operator", "stranger"] {
        let client = f.client(name);
        assert!(matches!(tail(&client, FilterRequest::default(), 0).await, Err(Failure::Denied(Some(_)))), "{name}");
    }
    f.check();
}
