//! Asking the log: filters, orders, pages, cursors, and what is only counted.

use crate::harness::{
    Authority, Client, Home, Identity, Refusal, Server, TRUST_DOMAIN, eventually, item, refused, texts,
};
use cloakroom::proto::v1::{self, Action, AuditEvent, AuditFilter, Outcome};
use rcgen::{ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::task::JoinSet;
use tonic::Code;

/// The four clients of a sample vault.
struct Cast {
    gateway: Client,
    payments: Client,
    auditor: Client,
    operator: Client,
}

impl Cast {
    async fn of(home: &Home, server: &Server) -> Self {
        let client = async |name: &str| server.client(&home.identity(name)).await;
        Self {
            gateway: client("gateway").await,
            payments: client("payments").await,
            auditor: client("auditor").await,
            operator: client("operator").await,
        }
    }

    async fn page(&self, request: v1::QueryEventsRequest) -> v1::QueryEventsResponse {
        self.auditor.audit().query_events(request).await.unwrap().into_inner()
    }

    async fn revoke(&self, scope: &str, tokens: &[String]) {
        let (scope, tokens) = (scope.to_owned(), tokens.to_vec());
        let request = v1::RevokeTokensRequest { scope, tokens, reason: "lost".to_owned(), ..Default::default() };
        self.operator.tokens().revoke_tokens(request).await.unwrap();
    }
}

// === filters ===

/// A history in which every filter has something to find and something to leave out. Gives one token of each scope.
async fn history(cast: &Cast) -> Vec<(&'static str, v1::IssuedToken)> {
    let mut tokens = Vec::new();
    for scope in ["pan", "ssn", "email"] {
        for _ in 0..3 {
            let mut issued = cast.gateway.tokenize(scope, &[b"4111111111111111", b"123-45-6789"]).await;
            let named = texts(&issued);
            // Some of it is denied, some finds nothing.
            let _ = cast.payments.detokenize(scope, &named).await;
            let _ = cast.payments.detokenize("pan", &named).await;
            cast.revoke(scope, &named[1..]).await;
            tokens.push((scope, issued.remove(0)));
        }
    }
    let _ = cast.gateway.detokenize("pan", &[tokens[0].1.token.clone()]).await;
    let _ = cast.gateway.detokenize("pan", &[]).await;
    tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_finds_what_a_look_at_the_whole_log_finds() {
    let home = Home::init();
    let server = home.serve();
    let cast = Cast::of(&home, &server).await;
    let tokens = history(&cast).await;
    let whole = cast.auditor.events(AuditFilter::default()).await;
    for (place, event) in whole.iter().enumerate() {
        assert_eq!(event.sequence, place as u64, "the log has no gaps");
    }
    assert!(whole.is_sorted_by_key(|event| nanos(event.time)), "times never decrease");
    let mut found_in_all = 0;
    let filters = filters(&whole, &tokens);
    for (filter, what) in &filters {
        let expected: Vec<u64> = whole.iter().filter(|event| matches(filter, what, event)).map(place).collect();
        for newest_first in [false, true] {
            let mut expected = expected.clone();
            if newest_first {
                expected.reverse();
            }
            for page_size in [0, 1, 7, 1000] {
                // A page of one is a call for each event: enough if there are few.
                if page_size == 1 && expected.len() > 20 {
                    continue;
                }
                let found = pages(&cast, filter, newest_first, page_size, whole.len() as u64).await;
                assert_eq!(found, expected, "{what:?}, newest first {newest_first}, {page_size} a page");
            }
        }
        found_in_all += expected.len();
    }
    assert!(found_in_all > whole.len());
    println!("filters: {} of them over {} events found {found_in_all}", filters.len(), whole.len());
}

/// Filters, each with words for messages. A handle stands in the words for the token that a filter may name instead.
fn filters(whole: &[AuditEvent], tokens: &[(&str, v1::IssuedToken)]) -> Vec<(AuditFilter, String)> {
    let mut filters = Vec::new();
    let mut add = |what: String, filter: AuditFilter| filters.push((filter, what));
    let none = AuditFilter::default;
    for name in ["gateway", "payments", "auditor", "operator", "vault", "nobody"] {
        let caller = format!("spiffe://{TRUST_DOMAIN}/{name}");
        add(format!("caller {name}"), AuditFilter { caller: caller.clone(), ..none() });
        for scope in ["pan", "email"] {
            let filter = AuditFilter { caller: caller.clone(), scope: scope.to_owned(), ..none() };
            add(format!("caller {name} scope {scope}"), filter);
        }
        for action in [Action::Tokenize, Action::Detokenize] {
            let filter = AuditFilter { caller: caller.clone(), action: action.into(), ..none() };
            add(format!("caller {name} {action:?}"), filter);
        }
    }
    for scope in ["pan", "ssn", "email", "nosuch"] {
        add(format!("scope {scope}"), AuditFilter { scope: scope.to_owned(), ..none() });
    }
    for (scope, issued) in tokens {
        let (scope, handle) = ((*scope).to_owned(), issued.handle.clone());
        add(format!("handle {handle}"), AuditFilter { handle: handle.clone(), ..none() });
        add(format!("handle {handle}"), AuditFilter { token: issued.token.clone(), scope: scope.clone(), ..none() });
        let action = Action::Detokenize.into();
        add(format!("handle {handle} Detokenize"), AuditFilter { handle, scope, action, ..none() });
    }
    for code in (0..=7).chain(16..=36) {
        let action = Action::try_from(code).unwrap();
        add(format!("{action:?}"), AuditFilter { action: code, ..none() });
    }
    for outcome in [Outcome::Allowed, Outcome::Denied, Outcome::Failed] {
        add(format!("{outcome:?}"), AuditFilter { outcome: outcome.into(), ..none() });
        let filter = AuditFilter { outcome: outcome.into(), scope: "pan".to_owned(), ..none() };
        add(format!("{outcome:?} in pan"), filter);
    }
    let (early, late) = (whole[whole.len() / 3].time, whole[2 * whole.len() / 3].time);
    add("from".to_owned(), AuditFilter { start_time: early, ..none() });
    add("until".to_owned(), AuditFilter { end_time: late, ..none() });
    add("between".to_owned(), AuditFilter { start_time: early, end_time: late, ..none() });
    let filter = AuditFilter { start_time: early, end_time: late, scope: "pan".to_owned(), ..none() };
    add("between in pan".to_owned(), filter);
    add("never".to_owned(), AuditFilter { start_time: late, end_time: early, ..none() });
    filters
}

/// What the contract says of a filter, said once more.
fn matches(filter: &AuditFilter, what: &str, event: &AuditEvent) -> bool {
    let handle = what.strip_prefix("handle ").map(|rest| rest.split(' ').next().unwrap());
    let says = |asked: &str, is: &str| asked.is_empty() || asked == is;
    says(&filter.caller, &event.caller)
        && says(&filter.scope, &event.scope)
        && handle.is_none_or(|handle| event.handles.iter().any(|named| hex::encode(named) == handle))
        && (filter.action == 0 || filter.action == event.action)
        && (filter.outcome == 0 || filter.outcome == event.outcome)
        && filter.start_time.is_none_or(|start| nanos(event.time) >= nanos(Some(start)))
        && filter.end_time.is_none_or(|end| nanos(event.time) < nanos(Some(end)))
}

/// The sequences that a question finds, page by page, of those below `end`: the questions themselves come behind it.
async fn pages(cast: &Cast, filter: &AuditFilter, newest_first: bool, page_size: i32, end: u64) -> Vec<u64> {
    let mut request =
        v1::QueryEventsRequest { filter: Some(filter.clone()), page_size, newest_first, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = cast.page(request.clone()).await;
        assert!(page.events.len() <= if page_size == 0 { 100 } else { usize::try_from(page_size).unwrap() });
        let behind = page.events.iter().any(|event| event.sequence >= end);
        found.extend(page.events.iter().map(place).filter(|sequence| *sequence < end));
        if page.next_page_token.is_empty() || (behind && !newest_first) {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

fn place(event: &AuditEvent) -> u64 {
    event.sequence
}

fn nanos(time: Option<prost_types::Timestamp>) -> i128 {
    let time = time.unwrap();
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

// === pages ===

#[tokio::test(flavor = "multi_thread")]
async fn paging_while_eight_write_neither_skips_nor_repeats() {
    let home = Home::init();
    let server = home.serve();
    let cast = Cast::of(&home, &server).await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let client = server.client(&home.identity("gateway")).await;
        let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
        writers.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                client.tokenize("pan", &[b"4111111111111111"]).await;
                written.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let gateway = format!("spiffe://{TRUST_DOMAIN}/gateway");
    let by_gateway = AuditFilter { caller: gateway.clone(), ..AuditFilter::default() };
    let in_pan = AuditFilter { scope: "pan".to_owned(), ..AuditFilter::default() };
    let mut pages_read = 0;
    for filter in [AuditFilter::default(), by_gateway, in_pan] {
        for newest_first in [false, true] {
            while written.load(Ordering::SeqCst) < 200 {
                tokio::task::yield_now().await;
            }
            let (found, pages) = page_through(&cast, &filter, newest_first).await;
            pages_read += pages;
            // Between the first and the last that were seen, the log now has just these.
            let (first, last) = (*found.iter().min().unwrap(), *found.iter().max().unwrap());
            let all = cast.auditor.events(filter.clone()).await;
            let mut expected: Vec<u64> = all.iter().map(place).filter(|at| (first..=last).contains(at)).collect();
            if newest_first {
                expected.reverse();
                assert_eq!(found.last(), all.first().map(place).as_ref(), "down to the first of all");
            } else {
                assert_eq!(found.first(), all.first().map(place).as_ref(), "from the first of all");
            }
            assert_eq!(found, expected, "newest first {newest_first}");
        }
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let all = cast.auditor.events(AuditFilter { caller: gateway, ..AuditFilter::default() }).await;
    assert_eq!(all.len(), written.load(Ordering::SeqCst), "each call has its event");
    println!("paging: {pages_read} pages of 7 while 8 writers wrote {} events", all.len());
}

/// Reads sixty pages of seven, or to the end.
async fn page_through(cast: &Cast, filter: &AuditFilter, newest_first: bool) -> (Vec<u64>, usize) {
    let mut request =
        v1::QueryEventsRequest { filter: Some(filter.clone()), page_size: 7, newest_first, ..Default::default() };
    let mut found = Vec::new();
    for pages in 1.. {
        let page = cast.page(request.clone()).await;
        found.extend(page.events.iter().map(place));
        if page.next_page_token.is_empty() || (pages >= 60 && !newest_first) {
            return (found, pages);
        }
        request.page_token = page.next_page_token;
    }
    unreachable!("a log has an end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_good_for_its_own_question_only() {
    let home = Home::init();
    let server = home.serve();
    let cast = Cast::of(&home, &server).await;
    history(&cast).await;
    let filter = AuditFilter { scope: "pan".to_owned(), ..AuditFilter::default() };
    let request = v1::QueryEventsRequest { filter: Some(filter.clone()), page_size: 3, ..Default::default() };
    let first = cast.page(request.clone()).await;
    let cursor = first.next_page_token;
    assert!(!cursor.is_empty());
    let next = v1::QueryEventsRequest { page_token: cursor.clone(), ..request.clone() };
    let second = cast.page(next.clone()).await;
    assert!(second.events[0].sequence > first.events[2].sequence);
    // The same place again, and more of it at once.
    let more = cast.page(v1::QueryEventsRequest { page_size: 5, ..next.clone() }).await;
    assert_eq!(more.events[..3], second.events[..]);
    let other = |change: &dyn Fn(&mut v1::QueryEventsRequest)| {
        let mut request = next.clone();
        change(&mut request);
        request
    };
    let shorter = cursor[1..].to_owned();
    let changed = format!("{}{}", &cursor[..cursor.len() - 1], if cursor.ends_with('A') { 'Q' } else { 'A' });
    let wrong = [
        other(&|request| request.newest_first = true),
        other(&|request| request.filter = None),
        other(&|request| request.filter = Some(AuditFilter { scope: "ssn".to_owned(), ..filter.clone() })),
        other(&|request| request.filter = Some(AuditFilter { outcome: 1, ..filter.clone() })),
        other(&|request| request.page_token = shorter.clone()),
        other(&|request| request.page_token = changed.clone()),
        other(&|request| request.page_token = "no cursor".to_owned()),
        other(&|request| request.page_token = "A".repeat(10_000)),
    ];
    for request in wrong {
        let refusal = refused(cast.auditor.audit().query_events(request).await);
        let found = (refusal.code, refusal.reason.as_str(), &*refusal.fields);
        assert_eq!(found, (Code::InvalidArgument, "CURSOR_MALFORMED", &["page_token".to_owned()][..]));
    }
}

// === questions ===

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_events_and_never_hold_a_token() {
    let home = Home::init();
    let server = home.serve();
    let cast = Cast::of(&home, &server).await;
    let tokens = history(&cast).await;
    let (scope, issued) = &tokens[4];
    let time = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 });
    let filter = AuditFilter {
        caller: "spiffe://a.example/some.name".to_owned(),
        scope: (*scope).to_owned(),
        token: issued.token.clone(),
        action: Action::Detokenize.into(),
        outcome: Outcome::Denied.into(),
        start_time: time,
        end_time: time,
        ..AuditFilter::default()
    };
    let request = v1::QueryEventsRequest { filter: Some(filter), newest_first: true, ..Default::default() };
    assert_eq!(cast.page(request).await.events, []);
    let filter = AuditFilter { action: Action::QueryAudit.into(), ..AuditFilter::default() };
    let request =
        v1::QueryEventsRequest { filter: Some(filter), newest_first: true, page_size: 1, ..Default::default() };
    let event = cast.page(request).await.events.remove(0);
    let expected = format!(
        "caller=\"spiffe://a.example/some.name\" scope=\"{scope}\" handle=\"{}\" action=\"{}\" outcome=\"{}\" \
         start=\"1700000000005\" end=\"1700000000005\" newest first",
        issued.handle, "detokenize", "denied",
    );
    assert_eq!(event.detail.to_lowercase(), expected.to_lowercase());
    assert_eq!(event.handles, [hex::decode(&issued.handle).unwrap()]);
    assert_eq!((event.outcome(), event.succeeded, event.scope.as_str()), (Outcome::Allowed, 0, ""));
    assert_eq!(event.caller, cast.auditor.identity.id);
    // No token of the history is anywhere in the log.
    let log = format!("{:?}", cast.auditor.events(AuditFilter::default()).await);
    assert!(log.contains(&issued.handle), "the question's own event");
    for (_, issued) in &tokens {
        assert!(!log.contains(&issued.token));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_questions_are_refused_by_field() {
    let home = Home::init();
    let server = home.serve();
    let cast = Cast::of(&home, &server).await;
    let issued = cast.gateway.tokenize("pan", &[b"4111111111111111"]).await.remove(0);
    let (token, handle) = (issued.token, issued.handle);
    let none = AuditFilter::default;
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let mut questions: Vec<(&str, &str, v1::QueryEventsRequest)> = Vec::new();
    for page_size in [-1, 1001, i32::MIN, i32::MAX] {
        let request = v1::QueryEventsRequest { page_size, ..Default::default() };
        questions.push(("page_size", "PAGE_SIZE_MALFORMED", request));
    }
    for (field, filter) in [
        ("filter.handle", AuditFilter { handle: "xyz".to_owned(), ..none() }),
        ("filter.handle", AuditFilter { handle: handle[..38].to_owned(), ..none() }),
        ("filter.action", AuditFilter { action: 99, ..none() }),
        ("filter.action", AuditFilter { action: -1, ..none() }),
        ("filter.outcome", AuditFilter { outcome: 4, ..none() }),
        ("filter.scope", AuditFilter { token: token.clone(), ..none() }),
        ("filter.scope", AuditFilter { token: token.clone(), scope: "nosuch".to_owned(), ..none() }),
        ("filter.token", AuditFilter { token: "pan_x".to_owned(), scope: "pan".to_owned(), ..none() }),
        ("filter.token", AuditFilter { token, handle, scope: "pan".to_owned(), ..none() }),
        ("filter.start_time", AuditFilter { start_time: time(-1, 0), ..none() }),
        ("filter.end_time", AuditFilter { end_time: time(0, -1), ..none() }),
        ("filter.caller", AuditFilter { caller: format!("spiffe://c.example/{}", "c".repeat(3000)), ..none() }),
        ("filter.caller", AuditFilter { caller: "payments".to_owned(), ..none() }),
        ("filter.scope", AuditFilter { scope: "s".repeat(300), ..none() }),
    ] {
        questions.push((
            field,
            "FILTER_MALFORMED",
            v1::QueryEventsRequest { filter: Some(filter), ..Default::default() },
        ));
    }
    for (field, reason, request) in &questions {
        let refusal = refused(cast.auditor.audit().query_events(request.clone()).await);
        let found = (refusal.code, refusal.reason.as_str(), refusal.fields.join(","));
        assert_eq!(found, (Code::InvalidArgument, *reason, (*field).to_owned()));
    }
    let filter = AuditFilter { outcome: Outcome::Failed.into(), ..none() };
    let failed: u64 = cast.auditor.events(filter).await.iter().map(|event| event.count.max(1)).sum();
    assert!(failed > 0 && failed <= questions.len() as u64, "{failed}");
}

// === what is only counted ===

#[tokio::test(flavor = "multi_thread")]
async fn refusals_beyond_a_rate_are_counted_and_none_is_lost() {
    let home = Home::init();
    let server = home.serve();
    let cast = Cast::of(&home, &server).await;
    let tokens = texts(&cast.gateway.tokenize("pan", &[b"4111111111111111"]).await);
    let (mut with_receipt, mut without) = (0, 0);
    for _ in 0..60 {
        let denied = cast.gateway.detokenize("pan", &tokens).await.unwrap_err();
        assert_eq!((denied.code, denied.message.as_str()), (Code::PermissionDenied, "denied"));
        if denied.receipt.is_some() { with_receipt += 1 } else { without += 1 }
    }
    assert!(with_receipt >= 10 && without > 0, "{with_receipt} and {without}");
    // Another caller's refusals are that caller's, and another matter's are counted apart.
    let other = cast.operator.detokenize("pan", &tokens).await.unwrap_err();
    assert!(other.receipt.is_some());
    let refusal = cast.gateway.detokenize("pan", &[]).await.unwrap_err();
    assert_eq!(refusal.code, Code::InvalidArgument);
    // What was permitted is never only counted.
    let payments = cast.payments.detokenize("pan", &tokens).await.unwrap();
    assert_eq!(payments, [Ok(b"4111111111111111".to_vec())]);
    // The end of the vault writes down what it has not yet.
    server.stop();
    let server = home.serve();
    let cast = Cast::of(&home, &server).await;
    let filter = AuditFilter { outcome: Outcome::Denied.into(), ..AuditFilter::default() };
    let events = cast.auditor.events(filter).await;
    let (summaries, single): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| event.count > 0);
    let own = single.iter().filter(|event| event.caller == cast.gateway.identity.id).count();
    assert_eq!((own, single.len()), (with_receipt, with_receipt + 1), "one event for each receipt");
    let mut counted = 0;
    for event in &summaries {
        assert_eq!((event.caller.as_str(), event.action()), (cast.gateway.identity.id.as_str(), Action::Detokenize));
        assert_eq!((event.reason.as_str(), event.rulebook.len(), event.salt.len()), ("POLICY_DENIED", 32, 16));
        assert!(nanos(event.first_time) <= nanos(event.time));
        assert!(event.handles.is_empty() && event.item_outcomes.is_empty() && event.policies.is_empty());
        counted += usize::try_from(event.count).unwrap();
    }
    assert_eq!(counted, without);
    println!("refusals: {with_receipt} recorded, {counted} counted in {} summaries", summaries.len());
}

// === who did not get in ===

#[tokio::test(flavor = "multi_thread")]
async fn failed_handshakes_are_counted_by_reason_and_certificate_t_01_t_02_t_11() {
    let home = Home::init();
    let partner = home.new_authority("partner");
    home.trust("partner.example", "partner");
    let server = home.serve();
    let cast = Cast::of(&home, &server).await;
    let mut knocks = BTreeMap::new();
    for (reason, identity) in strangers(&home, &partner) {
        let tried = knock(&server, &identity).await;
        let before = knocks.insert((reason, identity.certificate_sha256), tried);
        assert!(before.is_none());
    }
    // Each second the counts go into the log; the vault is asked until they are there.
    let connects = || async {
        let filter = AuditFilter { action: Action::Connect.into(), ..AuditFilter::default() };
        let events = cast.auditor.events(filter).await;
        let counted: u64 = events.iter().map(|event| event.count).sum();
        (counted >= knocks.values().sum()).then_some(events)
    };
    let events = eventually("the failed handshakes in the log", connects).await;
    let mut counted = BTreeMap::new();
    for event in &events {
        assert_eq!((event.outcome(), event.peer_address.as_str()), (Outcome::Denied, "127.0.0.1"));
        assert_eq!((event.caller.as_str(), event.scope.as_str(), event.node.as_str()), ("", "", "vault"));
        *counted.entry((event.reason.as_str(), event.certificate_sha256.clone())).or_default() += event.count;
    }
    assert_eq!(counted, knocks);
    let reasons: BTreeSet<&str> = knocks.keys().map(|(reason, _)| *reason).collect();
    for reason in reasons {
        let tried: u64 = knocks.iter().filter(|((other, _), _)| *other == reason).map(|(_, count)| count).sum();
        let metric = format!("cloakroom_handshakes_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(server.metric(&metric), tried, "{metric}");
    }
    // None of it has kept anyone out who may come in, of either trust domain.
    let denied = server.client(&partner.client("spiffe://partner.example/gateway")).await;
    assert_eq!(denied.detokenize("pan", &["x".to_owned()]).await.unwrap_err().code, Code::PermissionDenied);
    cast.gateway.tokenize("pan", &[b"4111111111111111"]).await;
    println!("handshakes: {} kinds, {} refused", knocks.len(), knocks.values().sum::<u64>());
}

/// Those who must not get in, each with the reason that the log must give.
fn strangers(home: &Home, partner: &Authority<'_>) -> Vec<(&'static str, Identity)> {
    let authority = home.authority();
    let gateway = format!("spiffe://{TRUST_DOMAIN}/gateway");
    let foreign = home.new_authority("foreign");
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    vec![
        ("no_client_certificate", home.nobody()),
        // The authority of one trust domain speaks for another.
        ("trust_domain_mismatch", partner.client(&gateway)),
        ("certificate_unknown_issuer", foreign.client(&gateway)),
        ("unknown_trust_domain", foreign.client("spiffe://foreign.example/gateway")),
        ("certificate_expired", authority.client_with(&gateway, |params| params.not_after = date_time_ymd(2020, 1, 1))),
        ("certificate_not_yet_valid", {
            authority.client_with(&gateway, |params| params.not_before = date_time_ymd(2090, 1, 1))
        }),
        ("certificate_no_client_auth", {
            authority.client_with(&gateway, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            })
        }),
        ("certificate_several_uris", {
            authority.client_with(&gateway, |params| params.subject_alt_names.push(uri("https://example.com/")))
        }),
        ("spiffe_path_trailing_slash", authority.client(&format!("{gateway}/"))),
        ("certificate_no_spiffe_id", authority.client_with(&gateway, |params| params.subject_alt_names.clear())),
    ]
}

/// Tries to call, and says how many connections that took.
async fn knock(server: &Server, identity: &Identity) -> u64 {
    let client = server.connect(identity).await.unwrap();
    let request = v1::TokenizeRequest { scope: "pan".to_owned(), items: vec![item(b"x")], ..Default::default() };
    let status = client.tokens().tokenize(request).await.err().expect("nobody comes in");
    assert!(Refusal::of(&status).reason.is_empty(), "the vault answered {status:?}");
    client.connections().len() as u64
}
