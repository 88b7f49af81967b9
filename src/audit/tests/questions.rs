//! What is asked: filters, what the log says of the question, and who may ask.

use super::*;
use proptest::prelude::*;

/// A filter as the tests write it: the same again for each page.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wish {
    caller: &'static str,
    scope: &'static str,
    handle: String,
    action: i32,
    outcome: i32,
    start: Option<u64>,
    end: Option<u64>,
}

impl Wish {
    fn filter(&self) -> FilterRequest {
        FilterRequest {
            caller: if self.caller.is_empty() { String::new() } else { id(self.caller) },
            scope: self.scope.to_owned(),
            handle: self.handle.clone(),
            action: self.action,
            outcome: self.outcome,
            start: self.start.map(Timestamp::from_millis).map(Ok),
            end: self.end.map(Timestamp::from_millis).map(Ok),
            ..FilterRequest::default()
        }
    }

    /// The plain search.
    fn wants(&self, event: &Event) -> bool {
        let time = event.timestamp().unwrap().millis();
        (self.caller.is_empty() || event.caller == id(self.caller))
            && (self.scope.is_empty() || event.scope == self.scope)
            && (self.handle.is_empty() || event.handles.iter().any(|handle| hex::encode(handle) == self.handle))
            && (self.action == 0 || event.action == self.action)
            && (self.outcome == 0 || event.outcome == self.outcome)
            && self.start.is_none_or(|start| start <= time)
            && self.end.is_none_or(|end| time < end)
    }
}

fn wishes(handles: &[String], times: &[(Option<u64>, Option<u64>)]) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for caller in ["", "gateway", "payments", "nobody"] {
        for scope in ["", "pan", "ssn", "nowhere"] {
            for handle in handles {
                for (action, outcome) in [(0, 0), (1, 0), (2, 1), (2, 2), (0, 2), (0, 3), (5, 1)] {
                    for (start, end) in times {
                        let handle = handle.clone();
                        wishes.push(Wish { caller, scope, handle, action, outcome, start: *start, end: *end });
                    }
                }
            }
        }
    }
    wishes
}

#[tokio::test]
async fn every_filter_finds_exactly_what_a_plain_search_finds_a_14() {
    let (f, tokens) = busy_vault().await;
    let log = whole_log(&f);
    let times: Vec<u64> = log.iter().map(|event| event.timestamp().unwrap().millis()).collect();
    let (early, late) = (times[times.len() / 3], times[times.len() * 2 / 3]);
    let mut handles: Vec<String> = tokens.iter().map(|token| token.handle.to_string()).collect();
    handles.extend([String::new(), "0".repeat(40)]);
    let auditor = f.client("auditor");
    let (mut asked, mut found) = (0, 0);
    let times =
        [(None, None), (Some(early), Some(late)), (Some(late), Some(early)), (None, Some(early)), (Some(late), None)];
    for wish in wishes(&handles, &times) {
        let expected: Vec<&Event> = log.iter().filter(|event| wish.wants(event)).collect();
        for newest_first in [false, true] {
            let (mut events, _) = all_pages(&auditor, || wish.filter(), 1000, newest_first).await;
            // Questions are events too, and come behind what was there.
            events.retain(|event| event.sequence < log.len() as u64);
            if newest_first {
                events.reverse();
            }
            assert!(events.iter().eq(expected.iter().copied()), "{wish:?}, newest first: {newest_first}");
            asked += 1;
            found += events.len();
        }
    }
    println!("questions: {asked} asked over a log of {}, {found} events told, as a plain search finds them", log.len());
    assert!(found > 1000, "the filters do find something");
    f.check();
}

#[tokio::test]
async fn times_are_from_start_on_and_before_end() {
    let (f, _) = busy_vault().await;
    let log = whole_log(&f);
    let time = log[40].timestamp().unwrap();
    let between = |start, end| FilterRequest { start: Some(Ok(start)), end: Some(Ok(end)), ..FilterRequest::default() };
    let next = Timestamp::from_millis(time.millis() + 1);
    let auditor = f.client("auditor");
    let (events, _) = all_pages(&auditor, || between(time, next), 0, false).await;
    assert!(!events.is_empty() && events.iter().all(|event| event.timestamp() == Some(time)));
    assert_eq!(all_pages(&auditor, || between(time, time), 0, false).await.0, []);
    assert_eq!(all_pages(&auditor, || between(next, time), 0, false).await.0, []);
    f.check();
}

#[tokio::test]
async fn a_token_in_a_question_becomes_its_handle_and_is_forgotten() {
    let (f, tokens) = busy_vault().await;
    let [token, ..] = &tokens[..] else { panic!("there are tokens") };
    let auditor = f.client("auditor");
    let by_token = || FilterRequest {
        scope: "pan".to_owned(),
        token: Some(Secret::new(token.token.clone())),
        ..FilterRequest::default()
    };
    let by_handle =
        || FilterRequest { scope: "pan".to_owned(), handle: token.handle.to_string(), ..FilterRequest::default() };
    let (events, _) = all_pages(&auditor, by_token, 0, false).await;
    let question = f.last_event();
    assert!(events.len() >= 4 && events.iter().all(|event| event.scope == "pan"));
    assert_eq!(events, all_pages(&auditor, by_handle, 0, false).await.0);
    assert_eq!(words(&question), "query_audit allowed");
    assert_eq!(question.caller, id("auditor"));
    assert_eq!(question.handles, [token.handle.as_bytes().to_vec()], "whoever asks about a token stands in its story");
    assert_eq!(question.detail, format!("scope=\"pan\" handle=\"{}\" oldest first", token.handle));
    assert_eq!(question.succeeded as usize, events.len());
    assert_eq!(question.policies, ["auditor-queries-audit"]);
    let (story, _) =
        all_pages(&auditor, || FilterRequest { handle: token.handle.to_string(), ..FilterRequest::default() }, 0, true)
            .await;
    assert_eq!(story.iter().filter(|event| event.action() == Action::QueryAudit).count(), 2);
    for ((table, _), row) in f.site.dump() {
        let body = &token.token.as_bytes()[4..];
        assert!(!row.windows(body.len()).any(|window| window == body), "the token stands in {}", table.name());
    }
    // One that nobody ever issued is a handle like any other; so is one of a scope that has no key yet.
    let foreign = || FilterRequest {
        scope: "free".to_owned(),
        token: Some(Secret::new(token.token.clone())),
        ..FilterRequest::default()
    };
    assert_eq!(all_pages(&auditor, foreign, 0, false).await.0, []);
    f.check();
}

#[tokio::test]
async fn the_question_says_all_that_was_asked() {
    let (f, tokens) = busy_vault().await;
    let filter = FilterRequest {
        caller: "spiffe://x/y".to_owned(),
        scope: "pan".to_owned(),
        handle: tokens[0].handle.to_string(),
        action: Action::Detokenize.into(),
        outcome: Outcome::Denied.into(),
        start: Some(Ok(Timestamp::from_millis(5))),
        end: Some(Ok(Timestamp::from_millis(6))),
        ..FilterRequest::default()
    };
    query(&f.client("auditor"), QueryRequest { newest_first: true, ..ask(filter) }).await.unwrap();
    let expected = format!(
        r#"caller="spiffe://x/y" scope="pan" handle="{}" action="detokenize" outcome="denied" start="5" end="6" newest first"#,
        tokens[0].handle
    );
    assert_eq!(f.last_event().detail, expected, "on one line, and quoted (A-13)");
    f.check();
}

#[tokio::test]
async fn what_is_not_well_formed_is_refused_and_recorded() {
    let (f, tokens) = busy_vault().await;
    let token = || Some(Secret::new(tokens[0].token.clone()));
    let none = FilterRequest::default;
    let cases = [
        (FilterRequest { handle: "zz".to_owned(), ..none() }, "filter.handle FILTER_MALFORMED"),
        (FilterRequest { handle: "AB".repeat(20), ..none() }, "filter.handle FILTER_MALFORMED"),
        (FilterRequest { token: token(), ..none() }, "filter.scope FILTER_MALFORMED"),
        (FilterRequest { token: token(), scope: "nowhere".to_owned(), ..none() }, "filter.scope FILTER_MALFORMED"),
        (
            FilterRequest { token: token(), scope: "pan".to_owned(), handle: "0".repeat(40), ..none() },
            "filter.token FILTER_MALFORMED",
        ),
        (
            FilterRequest {
                token: Some(Secret::new("4111111111111111".to_owned())),
                scope: "pan".to_owned(),
                ..none()
            },
            "filter.token FILTER_MALFORMED",
        ),
        (FilterRequest { action: 99, ..none() }, "filter.action FILTER_MALFORMED"),
        (FilterRequest { action: -1, ..none() }, "filter.action FILTER_MALFORMED"),
        (FilterRequest { outcome: 4, ..none() }, "filter.outcome FILTER_MALFORMED"),
        (FilterRequest { start: Some(Err(Reason::FilterMalformed)), ..none() }, "filter.start_time FILTER_MALFORMED"),
        (FilterRequest { end: Some(Err(Reason::FilterMalformed)), ..none() }, "filter.end_time FILTER_MALFORMED"),
        (FilterRequest { purpose: "4111 1111 1".to_owned(), ..none() }, "filter.purpose FILTER_MALFORMED"),
        (FilterRequest { trace_id: "A".repeat(32), ..none() }, "filter.trace_id FILTER_MALFORMED"),
        (FilterRequest { trace_id: "a".repeat(31), ..none() }, "filter.trace_id FILTER_MALFORMED"),
        (
            FilterRequest {
                request_id: Some(Secret::new("00000000-0000-1000-8000-000000000000".to_owned())),
                ..none()
            },
            "filter.request_id FILTER_MALFORMED",
        ),
        (
            FilterRequest { caller: format!("spiffe://x/{}", "y".repeat(2049)), ..none() },
            "filter.caller FILTER_MALFORMED",
        ),
        (FilterRequest { caller: "4111111111111111".to_owned(), ..none() }, "filter.caller FILTER_MALFORMED"),
        (FilterRequest { scope: "x".repeat(256), ..none() }, "filter.scope FILTER_MALFORMED"),
        (FilterRequest { scope: "PAN".to_owned(), ..none() }, "filter.scope FILTER_MALFORMED"),
        (FilterRequest { scope: "pan/../ssn".to_owned(), ..none() }, "filter.scope FILTER_MALFORMED"),
    ];
    let auditor = f.client("auditor");
    for (filter, expected) in cases {
        f.site.clock.advance(Duration::from_secs(10));
        let failure = query(&auditor, ask(filter)).await.err().unwrap();
        assert_eq!(name(&failure), expected);
        let event = f.event(receipt(&failure).unwrap());
        assert_eq!(words(&event), format!("query_audit failed {}", expected.split_once(' ').unwrap().1));
        assert_eq!(event.detail, "", "what was wrong is not repeated");
    }
    for page_size in [-1, 1001, i32::MAX, i32::MIN] {
        f.site.clock.advance(Duration::from_secs(10));
        let failure = query(&auditor, QueryRequest { page_size, ..ask(none()) }).await.err().unwrap();
        assert_eq!(name(&failure), "page_size PAGE_SIZE_MALFORMED");
    }
    f.check();
}

#[tokio::test]
async fn only_who_may_is_told() {
    let (f, tokens) = busy_vault().await;
    for caller in ["gateway", "payments", "operator", "stranger"] {
        f.site.clock.advance(Duration::from_secs(10));
        let reads = f.reads.load(Ordering::SeqCst);
        let filter = FilterRequest { handle: tokens[0].handle.to_string(), ..FilterRequest::default() };
        let failure = query(&f.client(caller), ask(filter)).await.err().unwrap();
        assert_eq!(name(&failure), "denied", "{caller}");
        assert_eq!(words(&f.event(receipt(&failure).unwrap())), "query_audit denied POLICY_DENIED");
        assert_eq!(f.reads.load(Ordering::SeqCst), reads, "nothing is looked up");
    }
    // A malformed question by one who may not ask is denied all the same.
    let failure = query(&f.client("gateway"), QueryRequest { page_size: -1, ..ask(FilterRequest::default()) }).await;
    assert_eq!(failure.err().map(|failure| name(&failure)).as_deref(), Some("denied"));
    let failure = query(&f.client("auditor").late(), ask(FilterRequest::default())).await.err().unwrap();
    assert_eq!(name(&failure), "late");
    let event = f.event(receipt(&failure).unwrap());
    assert_eq!((words(&event).as_str(), event.succeeded), ("query_audit failed DEADLINE_EXCEEDED", 0));
    f.unrest.store(1, Ordering::SeqCst);
    let failure = query(&f.client("auditor"), ask(FilterRequest::default())).await.err().unwrap();
    assert_eq!(name(&failure), "conflict");
    f.check();
}

#[tokio::test]
async fn no_answer_leaves_before_its_question_is_durable_a_06() {
    for fault in [Fault::LOST, Fault::UNKNOWN] {
        let (f, _) = busy_vault().await;
        let mut site = f.close();
        site.restart(Some(Box::new(move |_, _| fault)));
        let f = Fixture::over(site);
        let failure = query(&f.client("auditor"), ask(FilterRequest::default())).await.err().unwrap();
        assert_eq!(name(&failure), "unavailable");
        f.restart().check();
    }
}

#[tokio::test]
async fn a_damaged_log_is_never_an_incomplete_answer() {
    let (f, _) = busy_vault().await;
    let auditor = f.client("auditor");
    let log = whole_log(&f);
    let victim = log.iter().find(|event| event.caller == id("payments") && event.scope == "ssn").unwrap().sequence;
    let good = f.site.row(Table::Events, &victim.to_be_bytes()).unwrap();
    let write = |row: Option<&[u8]>| {
        let mut batch = Batch::default();
        match row {
            Some(row) => batch.put(Table::Events, &victim.to_be_bytes(), row),
            None => batch.delete(Table::Events, &victim.to_be_bytes()),
        }
        f.site.store.commit(&batch).unwrap();
    };
    let by = |caller: &str, scope: &str| FilterRequest {
        caller: if caller.is_empty() { String::new() } else { id(caller) },
        scope: scope.to_owned(),
        ..FilterRequest::default()
    };
    let told = async |filter| query(&auditor, ask(filter)).await.map(|page| page.events.len()).map_err(|f| name(&f));
    let whole = told(by("payments", "")).await.unwrap();
    let mut edits: Vec<Option<Vec<u8>>> =
        vec![None, Some(Vec::new()), Some(b"\x02".to_vec()), Some(good[..good.len() - 1].to_vec())];
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    edits.push(Some(flipped));
    for edit in &edits {
        write(edit.as_deref());
        assert_eq!(told(by("payments", "")).await, Err("unavailable".to_owned()));
        assert_eq!(told(by("", "ssn")).await, Err("unavailable".to_owned()));
        if edit.is_some() {
            assert_eq!(told(by("", "")).await, Err("unavailable".to_owned()));
        }
        assert!(told(by("gateway", "")).await.is_ok(), "what does not lead there can be answered");
    }
    write(Some(&good));
    assert_eq!(told(by("payments", "")).await, Ok(whole));
    f.check();
}

#[test]
fn different_questions_have_different_words_i_07() {
    let f = Fixture::new();
    let rulebook = f.policy.rulebook();
    let binding = |(caller, scope, purpose, newest_first): &(String, String, String, bool)| {
        let (caller, scope, purpose) = (caller.clone(), scope.clone(), purpose.clone());
        let request = FilterRequest { caller, scope, purpose, ..FilterRequest::default() };
        Filter::new(&request, f.vault.keyring(), rulebook.scopes()).map(|filter| filter.binding(*newest_first)).unwrap()
    };
    let question =
        || ("(spiffe://[a-c]/[a-c]{1,3})?", "([a-c][a-c_-]{0,3})?", "([a-c]([a-c: -]{0,4}[a-c])?)?", any::<bool>());
    proptest!(|(one in question(), other in question())| {
        prop_assert_eq!(binding(&one) == binding(&other), one == other);
    });
    f.close();
}

/// What is asked, what a plain search would find, and how many events.
type Question<'a> = (Box<dyn Fn() -> FilterRequest + 'a>, Box<dyn Fn(&Event) -> bool>, usize);

#[tokio::test]
async fn purpose_trace_and_request_id_find_what_a_plain_search_finds_a_14() {
    let f = Fixture::new();
    let token = f.tester().issue("pan", item(PAN)).await.token;
    let trace = |digit: char| digit.to_string().repeat(32);
    for (purpose, digit, number) in [("refund", 'a', 1), ("refund", 'b', 2), ("audit", 'a', 1), ("refund", 'a', 1)] {
        for caller in ["tester", "payments"] {
            let mut client = f.client(caller).purpose(purpose).request(number);
            client.call.trace_id = trace(digit);
            // The third call uses an id again for something else, which is refused and recorded under it.
            let _ = client.detokenize("pan", &[&token]).await;
        }
    }
    let log = whole_log(&f);
    let secret = |number: u8| Some(Secret::new(f.tester().request(number).request_id));
    let none = FilterRequest::default;
    let auditor = f.client("auditor");
    let hash = |event: &Event, number: u8| {
        let id = format!("000000000000400080000000000000{number:02x}");
        event.request_hash[..] == f.vault.keyring().request().locate(&event.caller, &hex::decode(id).unwrap())
    };
    let under: Vec<(u64, u8)> = log
        .iter()
        .flat_map(|event| [1, 2].map(|number| (event.sequence, number, hash(event, number))))
        .filter_map(|(sequence, number, is)| is.then_some((sequence, number)))
        .collect();
    let of_request = move |number: u8| {
        let under = under.clone();
        move |event: &Event| under.contains(&(event.sequence, number))
    };
    let questions: Vec<Question<'_>> = vec![
        (
            Box::new(|| FilterRequest { purpose: "refund".into(), ..none() }),
            Box::new(|event| event.purpose == "refund"),
            6,
        ),
        (
            Box::new(|| FilterRequest { trace_id: trace('a'), ..none() }),
            Box::new(|event| event.trace_id == "a".repeat(32)),
            6,
        ),
        (Box::new(|| FilterRequest { request_id: secret(1), ..none() }), Box::new(of_request(1)), 6),
        (Box::new(|| FilterRequest { request_id: secret(2), ..none() }), Box::new(of_request(2)), 2),
        (
            Box::new(|| FilterRequest { request_id: secret(2), caller: id("payments"), ..none() }),
            Box::new({
                let of_request = of_request(2);
                move |event| of_request(event) && event.caller == id("payments")
            }),
            1,
        ),
        (Box::new(|| FilterRequest { request_id: secret(9), ..none() }), Box::new(|_| false), 0),
    ];
    for (filter, wants, number) in questions {
        let expected: Vec<Event> = log.iter().filter(|event| wants(event)).cloned().collect();
        assert_eq!(expected.len(), number);
        let (mut events, _) = all_pages(&auditor, filter, 2, false).await;
        events.retain(|event| event.sequence < log.len() as u64);
        assert_eq!(events, expected);
    }
    // The questions say what they asked for, and hold no request id.
    let questions = f.events().into_iter().filter(|event| event.action() == Action::QueryAudit);
    assert!(questions.map(|event| event.detail).all(|detail| !detail.contains("0000-4000-8000")));
    f.check();
}
