//! Recorded calls are decided again, and what was not recorded is not guessed.

use super::*;
use crate::event::{self, AccessTokenInfo, Event, Outcome, Time};

fn recorded(action: event::Action, outcome: Outcome) -> Event {
    let (reason, policies) = match outcome {
        Outcome::Denied => ("POLICY_DENIED", vec![]),
        _ => ("", vec!["then".to_owned()]),
    };
    Event {
        sequence: 7,
        time: Some(Time::from(CONTEXT.now)),
        action: action.into(),
        outcome: outcome.into(),
        reason: reason.into(),
        caller: PAYMENTS.into(),
        scope: "pan".into(),
        requested: 1,
        purpose: "refund".into(),
        policies,
        reveal: event::Reveal::Full.into(),
        ..Event::default()
    }
}

fn replay(policies: &str, events: &[Event]) -> Replay {
    let rulebook = rulebook(policies);
    let mut replay = Replay::default();
    for event in events {
        replay.add(&rulebook, event);
    }
    replay
}

fn why(policies: &str, event: Event) -> String {
    let replay = replay(policies, &[event]);
    assert_eq!((replay.events, replay.others, replay.same, replay.changed()), (1, 0, 0, 0));
    assert_eq!(replay.left_open(), replay.undecided.values().map(|tally| tally.calls).sum::<u64>());
    replay.undecided.keys().next().expect("it is undecided").why.to_owned()
}

#[test]
fn what_changes_is_counted_by_caller_action_and_scope() {
    let allowed = recorded(event::Action::Detokenize, Outcome::Allowed);
    let denied = Event { sequence: 9, purpose: String::new(), ..recorded(event::Action::Detokenize, Outcome::Denied) };
    let failed = Event {
        sequence: 8,
        reason: "DEADLINE_EXCEEDED".into(),
        ..recorded(event::Action::Detokenize, Outcome::Failed)
    };
    let events = [allowed.clone(), failed, denied.clone()];
    assert_eq!(replay(READ_PAN, &events), Replay { events: 3, same: 3, ..Replay::default() });

    let withdrawn = replay("// Withdrawn.", &events);
    assert_eq!((withdrawn.same, withdrawn.changed()), (1, 2));
    let change = Change { now_allowed: false, caller: PAYMENTS.into(), action: "detokenize", scope: "pan".into() };
    let tally = Tally { calls: 2, example: 7, policies: vec![] };
    assert_eq!(withdrawn.changes, [(change.clone(), tally)].into());

    let everything = replay("@id(\"all\") permit (principal, action, resource);", &events);
    let change = Change { now_allowed: true, ..change };
    let tally = Tally { calls: 1, example: 9, policies: vec!["all".into()] };
    assert_eq!(everything.changes, [(change, tally)].into());

    let gone = Event { scope: "gone".into(), ..allowed };
    assert_eq!(replay(READ_PAN, &[gone]).changed(), 1, "a scope that is no more");
}

#[test]
fn what_policy_did_not_decide_is_left_out() {
    let start = Event { policies: vec![], ..recorded(event::Action::Start, Outcome::Allowed) };
    let malformed = Event { policies: vec![], ..recorded(event::Action::Detokenize, Outcome::Failed) };
    let handshake =
        Event { reason: "certificate_expired".into(), count: 3, ..recorded(event::Action::Connect, Outcome::Denied) };
    let replay = replay(READ_PAN, &[start, malformed, handshake]);
    assert_eq!(replay, Replay { events: 3, others: 3, ..Replay::default() });
}

#[test]
fn purpose_and_reveal_are_of_detokenize_alone_as_in_the_vault() {
    let only = "@id(\"x\") permit (principal, action, resource) when { context.purpose == \"\" && context.reveal == \"none\" };";
    assert_eq!(replay(only, &[recorded(event::Action::Revoke, Outcome::Allowed)]).same, 1);
    let vault = Event { scope: String::new(), requested: 0, ..recorded(event::Action::QueryAudit, Outcome::Allowed) };
    assert_eq!(replay(only, &[vault]).same, 1);
}

#[test]
fn what_an_event_does_not_hold_is_not_guessed() {
    let detokenize = || recorded(event::Action::Detokenize, Outcome::Allowed);
    let summary = Event { count: 12, scope: String::new(), ..recorded(event::Action::Detokenize, Outcome::Denied) };
    assert!(why(READ_PAN, summary.clone()).starts_with("a summary"));
    assert_eq!(replay(READ_PAN, &[summary]).left_open(), 12);
    let silent = Event { reveal: 0, ..detokenize() };
    assert!(why(READ_PAN, silent).contains("how much was revealed"));
    assert!(why(READ_PAN, Event { scope: String::new(), ..detokenize() }).contains("scope"));
    assert!(why(READ_PAN, Event { caller: String::new(), ..detokenize() }).contains("caller"));
    assert!(why(READ_PAN, Event { time: None, ..detokenize() }).contains("no time"));
    assert!(why(READ_PAN, recorded(event::Action::Shred, Outcome::Allowed)).contains("no such call"));

    let with_token = || Event { access_token: Some(AccessTokenInfo::default()), ..detokenize() };
    let by_token =
        "@id(\"x\") permit (principal, action, resource) when { context has token && context.token.issuer == \"i\" };";
    assert!(why(by_token, with_token()).contains("access token"));
    assert_eq!(replay(READ_PAN, &[with_token()]).same, 1, "no policy reads it");

    // An event is written a little after the decision: the rulebook's time may have begun between them.
    let from = |time: &str| {
        format!("@id(\"x\") permit (principal, action, resource) when {{ context.now >= datetime(\"{time}\") }};")
    };
    assert!(why(&from("2027-01-15T07:59:55Z"), detokenize()).contains("within seconds"));
    assert_eq!(replay(&from("2027-01-15T07:59:45Z"), &[detokenize()]).same, 1);
    assert_eq!(replay(&from("2027-01-15T08:00:01Z"), &[detokenize()]).changed(), 1);
}
