//! Events whose bodies are dropped because of their age: the log says from where on they are kept, in the same commit, and a
//! start holds what is there against that.

use super::*;
use crate::ledger::OpenError;

/// Drops the bodies of all events before `sequence`.
fn drop_before(basis: Basis, sequence: u64) -> Submission {
    let mut rows = Batch::default();
    (0..sequence).for_each(|number| rows.delete(Table::Events, &number.to_be_bytes()));
    let said = event(&format!("events before {sequence} dropped"), &[]);
    Submission::new(basis, said).with_changes(rows).keeping_from(sequence)
}

/// A closed log of 261 events of which those from 200 on are kept.
fn dropped() -> Site {
    let mut site = Site::new();
    let gate = site.restart_gated();
    gate.lift();
    let open = site.open().unwrap();
    let answers: Vec<Answer> = (1..260).map(|number| issue_now(&open, number)).collect();
    assert!(answers.into_iter().all(|answer| answer.wait().is_ok()));
    vouch(&open).unwrap();
    gate.shut();
    let dropping = submit(&open.ledger, drop_before(open.ledger.basis(), 200)).unwrap();
    gate.arrived();
    assert_eq!(open.ledger.kept_from(), 0, "until it is durable");
    gate.lift();
    gate.go(Fault::NONE);
    dropping.wait().unwrap();
    assert_eq!(open.ledger.kept_from(), 200);
    open.close();
    site.restart(None);
    site
}

#[test]
fn from_where_on_events_are_kept_is_known_at_once_and_after_a_start() {
    let site = dropped();
    let open = site.open().unwrap();
    assert_eq!(open.ledger.kept_from(), 200);
    issue_now(&open, 300).wait().unwrap();
    assert_eq!(vouch(&open).unwrap().size(), 262);
    open.close();
    assert_eq!(site.open().unwrap().ledger.kept_from(), 200);
}

#[test]
fn what_is_kept_must_be_what_the_log_says_a_02() {
    let mut site = dropped();
    let key = |sequence: u64| sequence.to_be_bytes();
    let refusal = |site: &Site| site.open().err().unwrap();
    let first = site.row(Table::Events, &key(200)).unwrap();
    site.edit(|rows| rows.delete(Table::Events, &key(200)));
    assert!(matches!(refusal(&site), OpenError::Gap(200)));
    site.edit(|rows| rows.put(Table::Events, &key(200), &first));
    site.edit(|rows| rows.put(Table::Events, &key(199), &first));
    assert!(matches!(refusal(&site), OpenError::Damaged("kept_from")));
    site.edit(|rows| rows.delete(Table::Events, &key(199)));
    let said = site.row(Table::Meta, b"kept_from").unwrap();
    site.edit(|rows| rows.delete(Table::Meta, b"kept_from"));
    assert!(matches!(refusal(&site), OpenError::Gap(0)), "then all of them must be there");
    let mut changed = said.clone();
    *changed.last_mut().unwrap() ^= 1;
    site.edit(|rows| rows.put(Table::Meta, b"kept_from", &changed));
    assert!(matches!(refusal(&site), OpenError::WrongRootKey("kept_from")));
    site.edit(|rows| rows.put(Table::Meta, b"kept_from", &said));
    assert!(site.open().is_ok());
}
