//! Tokens that may be used so many times.

use super::*;

#[tokio::test]
async fn each_item_released_is_one_use_l_05() {
    for uses in 1..=5_u32 {
        let f = Fixture::new();
        let tester = f.tester();
        let token = tester.issue("pan", limited(PAN, uses)).await;
        for left in (0..uses).rev() {
            let client = if left % 2 == 0 { tester.clone() } else { tester.masked() };
            assert!(client.show("pan", &[&token.token]).await.unwrap()[0].is_ok(), "in full or masked");
            let info = tester.inspect("pan", &[&token.token], &[]).await.unwrap().results[0].unwrap();
            assert_eq!(info.uses_left, Some(left), "inspecting uses nothing up");
        }
        assert_eq!(tester.show("pan", &[&token.token]).await, nothing(1));
        assert_eq!(outcomes(&f.last_event()), [ItemOutcome::UsedUp]);
        let f = f.restart();
        assert_eq!(f.tester().show("pan", &[&token.token]).await, nothing(1));
        f.check();
    }
}

#[tokio::test]
async fn twice_in_a_batch_counts_twice_in_item_order_i_05() {
    use ItemOutcome::{Released, UsedUp};
    let f = Fixture::new();
    let tester = f.tester();
    let three = tester.issue("pan", limited(b"three", 3)).await;
    let one = tester.issue("pan", limited(b"one", 1)).await;
    let free = tester.issue("pan", item(b"free")).await;
    let batch = [&three, &one, &three, &free, &one, &three, &three, &free];
    let tokens: Vec<&str> = batch.iter().map(|issued| issued.token.as_str()).collect();
    let found = |value: &str| Ok(value.as_bytes().to_vec());
    let expected = vec![
        found("three"),
        found("one"),
        found("three"),
        found("free"),
        Err(ItemFailure::NotFound),
        found("three"),
        Err(ItemFailure::NotFound),
        found("free"),
    ];
    assert_eq!(tester.show("pan", &tokens).await, Ok(expected));
    let event = f.last_event();
    assert_eq!(outcomes(&event), [Released, Released, Released, Released, UsedUp, Released, UsedUp, Released]);
    assert_eq!(event.succeeded, 6);
    let infos = tester.inspect("pan", &[&three.token, &one.token], &[]).await.unwrap().results;
    assert!(infos.iter().all(|info| info.unwrap().uses_left == Some(0)));
    f.check();
}

#[tokio::test]
async fn what_is_refused_uses_nothing_up() {
    let f = Fixture::new();
    let tester = f.tester();
    let token = tester.issue("free", limited(&vec![b'x'; 1 << 20], 1)).await.token;
    let big = tester.issue("free", item(&vec![b'y'; 1 << 20])).await.token;
    let tokens = [&*token, &big, &big, &big, &big];
    assert_eq!(tester.show("free", &tokens).await, Err("tokens REPLY_TOO_LARGE".to_owned()));
    assert_eq!(tester.late().show("free", &[&token]).await, Err("late".to_owned()));
    assert_eq!(tester.show("pan", &[&token]).await, nothing(1));
    assert_eq!(f.client("gateway").show("free", &[&token]).await, Err("denied".to_owned()));
    assert!(tester.show("free", &[&token]).await.unwrap()[0].is_ok());
    f.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_those_who_race_exactly_as_many_win_as_there_are_uses_l_05() {
    const CALLERS: usize = 64;
    const TOKENS: usize = 50;
    let f = Fixture::new();
    for uses in [1, 5] {
        let issued = f.tester().issue_all("pan", (0..TOKENS).map(|_| limited(PAN, uses)).collect()).await;
        let tokens: Arc<Vec<String>> = Arc::new(issued.into_iter().map(|issued| issued.token).collect());
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (tester, tokens) = (f.tester(), Arc::clone(&tokens));
                tokio::spawn(async move { race(tester, &tokens, caller as u64).await })
            })
            .collect();
        let mut won = 0;
        for caller in callers {
            won += caller.await.unwrap();
        }
        assert_eq!(won, TOKENS * uses as usize, "in the answers");
    }
    let events = f.check();
    let released = |event: &Event| outcomes(event).iter().filter(|outcome| **outcome == ItemOutcome::Released).count();
    let (released, calls) = (events.iter().map(released).sum::<usize>(), events.len());
    assert_eq!(released, TOKENS * (1 + 5), "in the log");
    println!("uses: {CALLERS} callers raced for {TOKENS} tokens of 1 and of 5 uses: {released} won, {calls} events");
}

/// Tries every token once, in batches and in an order of its own.
async fn race(tester: Client, tokens: &[String], caller: u64) -> usize {
    let mut dice = Dice(caller);
    let mut mine: Vec<&str> = tokens.iter().map(String::as_str).collect();
    for place in (1..mine.len()).rev() {
        mine.swap(place, dice.pick(place + 1));
    }
    let mut won = 0;
    for batch in mine.chunks(1 + dice.pick(9)) {
        let shown = tester.show("pan", batch).await.expect("nobody is told to try again");
        won += shown.iter().filter(|result| result.is_ok()).count();
        assert!(shown.iter().all(|result| matches!(result, Ok(_) | Err(ItemFailure::NotFound))));
    }
    won
}
