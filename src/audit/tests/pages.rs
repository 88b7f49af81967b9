//! Pages: whole together, nothing twice, also while the log grows; bounded in events, bytes and work.

use super::*;

fn of_gateway() -> FilterRequest {
    FilterRequest { caller: id("gateway"), ..FilterRequest::default() }
}

fn of_detokenize() -> FilterRequest {
    FilterRequest { action: Action::Detokenize.into(), ..FilterRequest::default() }
}

/// A question, and whether an event is part of its answer.
type Question<'a> = (&'a dyn Fn() -> FilterRequest, &'a dyn Fn(&Event) -> bool);

#[tokio::test]
async fn pages_together_are_the_whole_answer_a_14() {
    let (f, tokens) = busy_vault().await;
    let log = whole_log(&f);
    let auditor = f.client("auditor");
    let of_token = || FilterRequest { handle: tokens[0].handle.to_string(), action: 2, ..FilterRequest::default() };
    let filters: [Question<'_>; 3] = [
        (&of_gateway, &|event| event.caller == id("gateway")),
        (&of_detokenize, &|event| event.action() == Action::Detokenize),
        (&of_token, &|event| {
            event.action == 2 && event.handles.iter().any(|handle| **handle == tokens[0].handle.as_bytes()[..])
        }),
    ];
    let mut answers = 0;
    for (filter, wants) in filters {
        let mut expected: Vec<Event> = log.iter().filter(|event| wants(event)).cloned().collect();
        assert!(expected.len() > 1);
        for newest_first in [false, true] {
            for page_size in [1, 2, 7, 10, 0, 1000] {
                let (events, pages) = all_pages(&auditor, filter, page_size, newest_first).await;
                assert_eq!(events, expected, "pages of {page_size}, newest first: {newest_first}");
                let size = if page_size == 0 { 100 } else { usize::try_from(page_size).unwrap() };
                assert_eq!(pages, expected.len().div_ceil(size), "no page is empty, none is missing");
                answers += 1;
            }
            expected.reverse();
        }
    }
    println!("pages: {answers} answers, each whole");
    f.check();
}

#[tokio::test]
async fn an_empty_answer_has_no_next_page() {
    let f = Fixture::new();
    let nobody = FilterRequest { caller: id("nobody"), ..FilterRequest::default() };
    let page = query(&f.client("auditor"), ask(nobody)).await.unwrap();
    assert!(page.events.is_empty() && page.next_page_token.is_empty());
    f.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn paging_while_eight_write_neither_skips_nor_repeats_a_14() {
    let (f, _) = busy_vault().await;
    let before: Vec<u64> =
        whole_log(&f).iter().filter(|event| event.caller == id("gateway")).map(|event| event.sequence).collect();
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (gateway, stop) = (f.client("gateway"), std::sync::Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    gateway.issue("pan", item(PAN)).await;
                }
            })
        })
        .collect();
    let auditor = f.client("auditor");
    // Newest first: what was there when the first page was asked for, all of it and once.
    let (events, pages) = all_pages(&auditor, of_gateway, 7, true).await;
    let mut sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    sequences.reverse();
    assert!(sequences.is_sorted_by(|one, other| one < other), "nothing twice, and in order");
    assert!(before.iter().all(|sequence| sequences.binary_search(sequence).is_ok()), "nothing skipped");
    // Oldest first: it catches up with those who write, and goes on where it was when they have stopped.
    let (mut sequences, mut page_token) = (Vec::new(), String::new());
    for page in 0.. {
        let request = QueryRequest { filter: of_gateway(), page_size: 7, page_token, newest_first: false };
        let answer = query(&auditor, request).await.unwrap();
        sequences.extend(answer.events.iter().map(|event| event.sequence));
        if page == 30 {
            stop.store(true, Ordering::SeqCst);
        }
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let events = f.check();
    let all = events.iter().zip(0_u64..).filter(|(event, _)| event.caller == id("gateway")).map(|(_, place)| place);
    let all: Vec<u64> = all.take(sequences.len()).collect();
    assert_eq!(sequences, all, "from the first on, without a gap");
    println!("paging: {pages} pages backwards and {} events forwards while 8 wrote", sequences.len());
}

#[tokio::test]
async fn a_page_may_be_short_and_still_have_a_next_one() {
    let f = Fixture::new();
    let ledger = f.vault.ledger();
    let mut last = None;
    for number in 0..45_000 {
        let action = if number % 15_000 == 14_999 { Action::Honey } else { Action::Tokenize };
        let event = Event { action: action.into(), ..plain_event(&number.to_string(), &[]) };
        last = Some(submit(ledger, Submission::new(ledger.basis(), event)).unwrap());
    }
    last.unwrap().wait().unwrap();
    let of_honey = || FilterRequest { action: Action::Honey.into(), ..FilterRequest::default() };
    for newest_first in [false, true] {
        let (events, pages) = all_pages(&f.client("auditor"), of_honey, 0, newest_first).await;
        let mut found: Vec<u64> = events.iter().map(|event| event.sequence).collect();
        found.sort_unstable();
        assert_eq!(found, [15_000, 30_000, 45_000]);
        assert_eq!(pages, 45_000_usize.div_ceil(SCAN_BUDGET), "each looks at no more than its budget");
    }
    f.check();
}

#[tokio::test]
async fn what_lies_outside_the_times_asked_for_is_not_looked_at() {
    let f = Fixture::new();
    let ledger = f.vault.ledger();
    let mut change = Timestamp::default();
    let mut last = None;
    for number in 0..45_000 {
        if number == 39_000 {
            last.take().map(crate::ledger::fixture::Answer::wait).unwrap().unwrap();
            f.site.clock.advance(Duration::from_mins(1));
            change = f.site.clock.wall();
        }
        let action = if number % 15_000 == 14_999 { Action::Honey } else { Action::Tokenize };
        let event = Event { action: action.into(), ..plain_event(&number.to_string(), &[]) };
        last = Some(submit(ledger, Submission::new(ledger.basis(), event)).unwrap());
    }
    last.unwrap().wait().unwrap();
    let honey = || FilterRequest { action: Action::Honey.into(), ..FilterRequest::default() };
    let since = || FilterRequest { start: Some(Ok(change)), ..honey() };
    let until = || FilterRequest { end: Some(Ok(change)), ..honey() };
    for newest_first in [false, true] {
        let (events, pages) = all_pages(&f.client("auditor"), since, 0, newest_first).await;
        assert_eq!((events.len(), events[0].sequence, pages), (1, 45_000, 1));
        let (events, pages) = all_pages(&f.client("auditor"), until, 0, newest_first).await;
        assert_eq!((events.len(), pages), (2, 39_000_usize.div_ceil(SCAN_BUDGET)));
    }
    f.check();
}

#[tokio::test]
async fn a_page_fits_a_message_whatever_the_events() {
    let f = Fixture::new();
    let tester = f.tester();
    for _ in 0..200 {
        tester.issue_all("pan", (0..1000).map(|_| item(b"x")).collect()).await;
    }
    let of_tokenize = || FilterRequest { action: Action::Tokenize.into(), ..FilterRequest::default() };
    let mut sequences = Vec::new();
    let (mut pages, mut page_token) = (0, String::new());
    loop {
        let request = QueryRequest { filter: of_tokenize(), page_size: 1000, page_token, newest_first: false };
        let page = query(&f.client("auditor"), request).await.unwrap();
        let bytes: usize = page.events.iter().map(prost::Message::encoded_len).sum();
        assert!(bytes <= 4 * 1024 * 1024 - 65_536, "{bytes} bytes on a page");
        sequences.extend(page.events.iter().map(|event| event.sequence));
        pages += 1;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(sequences.len(), 200);
    assert!(pages > 1 && sequences.is_sorted_by(|one, other| one < other));
    f.check();
}

#[tokio::test]
async fn there_is_a_way_past_an_event_that_is_longer_than_a_page() {
    let f = Fixture::new();
    let ledger = f.vault.ledger();
    for detail in ["before".to_owned(), "x".repeat(PAGE_BYTES_AT_MOST), "after".to_owned()] {
        let event = Event { action: Action::Honey.into(), ..plain_event(&detail, &[]) };
        submit(ledger, Submission::new(ledger.basis(), event)).unwrap().wait().unwrap();
    }
    let of_honey = || FilterRequest { action: Action::Honey.into(), ..FilterRequest::default() };
    for newest_first in [false, true] {
        let (events, pages) = all_pages(&f.client("auditor"), of_honey, 0, newest_first).await;
        assert_eq!((events.len(), pages), (3, 3));
    }
    f.check();
}

#[tokio::test]
async fn a_page_token_is_good_for_its_own_question_only() {
    let (f, tokens) = busy_vault().await;
    let auditor = f.client("auditor");
    let of = |filter: FilterRequest, page_token: &str, newest_first| {
        let page_token = page_token.to_owned();
        query(&auditor, QueryRequest { filter, page_size: 3, page_token, newest_first })
    };
    let token = of(of_gateway(), "", false).await.unwrap().next_page_token;
    assert!(!token.is_empty() && token.is_ascii());
    assert!(of(of_gateway(), &token, false).await.is_ok());
    let others = [
        (of_gateway(), true),
        (of_detokenize(), false),
        (FilterRequest::default(), false),
        (FilterRequest { scope: "pan".to_owned(), ..of_gateway() }, false),
        (FilterRequest { handle: tokens[0].handle.to_string(), ..of_gateway() }, false),
        (FilterRequest { end: Some(Ok(f.site.clock.wall())), ..of_gateway() }, false),
    ];
    for (filter, newest_first) in others {
        f.site.clock.advance(Duration::from_secs(10));
        let failure = of(filter, &token, newest_first).await.err().unwrap();
        assert_eq!(name(&failure), "page_token CURSOR_MALFORMED");
    }
    for nonsense in ["x", "AAAA", &token[1..], &format!("{token}A"), &token.to_uppercase(), "\u{2014}"] {
        f.site.clock.advance(Duration::from_secs(10));
        let failure = of(of_gateway(), nonsense, false).await.err();
        assert_eq!(failure.map(|failure| name(&failure)).as_deref(), Some("page_token CURSOR_MALFORMED"), "{nonsense}");
    }
    // Another size of page is no other question.
    let request = QueryRequest { filter: of_gateway(), page_size: 50, page_token: token.clone(), newest_first: false };
    assert!(query(&auditor, request).await.is_ok());
    // Nor does it outlive its right: it grants nothing to others.
    let request = QueryRequest { filter: of_gateway(), page_size: 3, page_token: token, newest_first: false };
    assert!(matches!(query(&f.client("gateway"), request).await, Err(Failure::Denied(_))));
    f.check();
}

#[tokio::test]
async fn what_an_auditor_is_told_names_outcomes_and_holds_no_value() {
    let (f, tokens) = busy_vault().await;
    let of_token = || FilterRequest { handle: tokens[0].handle.to_string(), ..FilterRequest::default() };
    let (events, _) = all_pages(&f.client("auditor"), of_token, 0, false).await;
    let masked = events.iter().find(|event| event.item_outcomes.len() == 3).unwrap();
    assert_eq!(outcomes(masked), [ItemOutcome::Masked, ItemOutcome::Malformed, ItemOutcome::Masked]);
    for event in &events {
        let bytes = prost::Message::encode_to_vec(event);
        assert!(!bytes.windows(PAN.len()).any(|window| window == PAN));
        assert_eq!(event.log_id, f.vault.ledger().log_id().as_ref());
    }
    f.check();
}

/// A handle's issue is found by another index than what came of it later, and a scan has steps: neither may show.
#[tokio::test]
async fn a_long_story_of_a_token_begins_with_its_issue_a_14() {
    let f = Fixture::new();
    let gateway = f.client("gateway");
    // More calls of the same second than a step of a scan has rows, the wanted one in the middle.
    for _ in 0..ROWS_A_STEP {
        gateway.issue("pan", item(PAN)).await;
    }
    let token = gateway.issue_all("pan", vec![item(PAN), item(PAN)]).await.swap_remove(1);
    for _ in 0..ROWS_A_STEP {
        gateway.issue("pan", item(PAN)).await;
    }
    let of_token = || FilterRequest { handle: token.handle.to_string(), ..FilterRequest::default() };
    let auditor = f.client("auditor");
    let mut seen = Vec::new();
    // Answers without a later event, with a few, with exactly a step of them, and with more than one step.
    for shown in [0, 3, ROWS_A_STEP, ROWS_A_STEP + 3] {
        while seen.len() < shown {
            f.client("payments").show("pan", &[&token.token]).await.unwrap();
            seen.push(());
        }
        let mut expected: Vec<Event> = whole_log(&f)
            .into_iter()
            .filter(|event| event.action() != Action::QueryAudit)
            .filter(|event| event.handles.iter().any(|handle| **handle == token.handle.as_bytes()[..]))
            .collect();
        assert_eq!((expected.len(), expected[0].action()), (shown + 1, Action::Tokenize));
        for newest_first in [false, true] {
            for page_size in [97, 400, 1000] {
                let (mut events, _) = all_pages(&auditor, of_token, page_size, newest_first).await;
                events.retain(|event| event.action() != Action::QueryAudit);
                assert_eq!(
                    events, expected,
                    "{shown} later events, pages of {page_size}, newest first: {newest_first}"
                );
            }
            expected.reverse();
        }
    }
    f.check();
}
