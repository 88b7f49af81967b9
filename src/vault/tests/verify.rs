//! Verifying: what an editor of the database did to the records is named, and nothing else is.
//!
//! The editor has everything but the keys: rows as they once were, and the order of bytes.

use super::*;
use crate::crypto::Handle;
use crate::keys::Keyring;
use crate::ledger::fixture::{Dump, Site};
use crate::ledger::{Checkpoints, Outside, identify, log_keys};
use crate::scope::Settings;
use crate::store::{Batch, Store};
use crate::vault::verify::{Against, Finding, IndexFinding, IndexKind, Kind, Report, Subject, verify, verify_index};

const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// A fixture that has a scope without seconds in its handles, `ids`, beside the others.
fn fixture() -> Fixture {
    with_ids(Fixture::new())
}

fn with_ids(f: Fixture) -> Fixture {
    let ids = Settings { format: Some("uuid".to_owned()), purpose_required: Some(false), ..Settings::default() };
    f.policy.publish(rulebook_with(&[("ids", ids)], &[]));
    f
}

fn verified(site: &Site) -> Report {
    let (genesis, meta) = identify(&*site.store, &site.root()).unwrap();
    let keys = log_keys(&*site.store, &meta).unwrap();
    let keyring = Keyring::open(site.root(), genesis.vault, meta, &*site.store).unwrap();
    let outside = Outside::read(&Checkpoints::of(site.checkpoints()), &keys).unwrap();
    let mut seen = 0;
    let subject = Subject { rows: &*site.store, keyring: &keyring, outside: &outside };
    let report = verify(&subject, &mut |records| seen = records).unwrap();
    let records = site.dump().keys().filter(|(table, _)| *table == Table::Tokens).count() as u64;
    assert_eq!(seen, records, "progress ends where the records do");
    report
}

fn assert_clean(site: &Site) -> Report {
    let report = verified(site);
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.expected, Some(report.records));
    report
}

/// Kind and handle of each finding, in order, all of them certain.
fn found(report: &Report) -> Vec<(Kind, Handle)> {
    assert!(!report.is_clean() && report.more == 0);
    let mut found: Vec<_> = report.findings.iter().map(|finding| (finding.kind, finding.handle)).collect();
    assert!(report.findings.iter().all(|finding| finding.certain), "{report:#?}");
    found.sort_unstable();
    found
}

fn the_one(report: &Report) -> &Finding {
    assert_eq!(report.findings.len(), 1, "{report:#?}");
    assert_eq!(found(report).len(), 1);
    &report.findings[0]
}

/// The sequence of the newest event of this action.
fn newest(site: &Site, action: Action) -> Option<u64> {
    site.check().iter().rposition(|event| event.action() == action).map(|place| place as u64)
}

/// Puts back what a table was.
fn roll_back(site: &mut Site, table: Table, then: &Dump) {
    let now = site.dump();
    site.edit(|rows| {
        now.keys().filter(|(of, _)| *of == table).for_each(|(_, key)| rows.delete(table, key));
        then.iter().filter(|((of, _), _)| *of == table).for_each(|((_, key), row)| rows.put(table, key, row));
    });
}

/// The rows of `expiry` that lead to this token.
fn leads_to(site: &Site, handle: &Handle) -> Vec<Vec<u8>> {
    let names = |key: &[u8], rest: &[u8]| {
        key[4..].starts_with(handle.as_bytes()) || rest.chunks(20).any(|named| named == handle.as_bytes())
    };
    let rows = site.dump().into_iter().filter(|((table, key), rest)| *table == Table::Expiry && names(key, rest));
    rows.map(|((_, key), _)| key).collect()
}

async fn purge_all(f: &Fixture) -> u64 {
    let mut sweep = Sweep::new(DAY, PURGED_AT_ONCE);
    let mut tokens = 0;
    loop {
        let step = f.vault.purge(&mut sweep).await.unwrap();
        tokens += step.tokens;
        if !step.more {
            return tokens;
        }
    }
}

// === what is right ===

#[tokio::test]
async fn what_the_vault_wrote_is_clean_c_04_c_05() {
    assert_clean(&fixture().close());
    let f = fixture();
    let tester = f.tester();
    for (scope, day) in [("pan", 0), ("ids", 0), ("pan", 1), ("acme/note", 1)] {
        f.site.clock.advance(DAY * day);
        let tokens = tester.issue_all(scope, (0..4).map(|_| limited(PAN, 5)).collect()).await;
        let unlimited = tester.issue(scope, lasting(PAN, HOUR)).await;
        let texts: Vec<&str> = tokens.iter().map(|token| token.token.as_str()).collect();
        assert!(tester.show(scope, &[texts[0], texts[1], texts[0], &unlimited.token]).await.is_ok());
        tester.revoke(scope, &[texts[1], texts[1]], &[]).await.unwrap();
        tester.revoke(scope, &[texts[1]], &[]).await.unwrap();
        tester.renew(scope, &[texts[2], texts[2]], Some(2 * HOUR)).await.unwrap();
        tester.renew(scope, &[texts[2]], Some(3 * HOUR)).await.unwrap();
        tester.request(7).renew(scope, &[texts[3]], Some(3 * HOUR)).await.ok();
        tester.request(7).renew(scope, &[texts[3]], Some(3 * HOUR)).await.ok();
    }
    f.site.clock.advance(2 * DAY);
    assert!(purge_all(&f).await > 0);
    let site = f.close();
    let report = assert_clean(&site);
    assert_eq!((report.size, report.records), (site.check().len() as u64, report.expected.unwrap()));
    assert!(report.groups > 0);
}

/// The checkpoint outside says which records there are, and is believed more than anything inside.
#[tokio::test]
async fn the_newest_checkpoint_is_held_against_where_it_can_be_c_04() {
    let f = fixture();
    f.tester().issue("pan", item(PAN)).await;
    let mut site = f.close();
    assert_eq!(assert_clean(&site).against, Against::Checkpoint);
    let outside = std::fs::read(site.checkpoints().file()).unwrap();
    let f = Fixture::over(site);
    f.tester().issue("pan", item(PAN)).await;
    site = f.close();
    std::fs::write(site.checkpoints().file(), outside).unwrap();
    assert_eq!(assert_clean(&site).against, Against::LastCommit, "it is older");
}

#[tokio::test]
async fn random_operations_leave_right_sums_c_04_c_05() {
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let mut f = fixture();
        let mut tokens: Vec<(&str, String)> = Vec::new();
        for _ in 0..60 {
            let tester = f.tester();
            let picked = |dice: &mut Dice, tokens: &[(&'static str, String)]| {
                (!tokens.is_empty()).then(|| tokens[dice.pick(tokens.len())].clone())
            };
            match (dice.roll(9), picked(&mut dice, &tokens)) {
                (0..=2, _) | (_, None) => {
                    let scope = ["pan", "ids", "acme/note"][dice.pick(3)];
                    let uses = u32::try_from(dice.roll(4)).unwrap();
                    let ttl = HOUR * u32::try_from(1 + dice.roll(40)).unwrap();
                    let items = (0..=dice.roll(5)).map(|_| TokenizeItem { max_uses: uses, ..lasting(PAN, ttl) });
                    let issued = tester.issue_all(scope, items.collect()).await;
                    tokens.extend(issued.into_iter().map(|issued| (scope, issued.token)));
                }
                (3 | 4, Some((scope, token))) => {
                    // At the same time: all but one are stale, and run again.
                    let calls = (0..3).map(|_| {
                        let (tester, token) = (tester.clone(), token.clone());
                        tokio::spawn(async move { tester.show(scope, &[&token, &token]).await })
                    });
                    for call in calls.collect::<Vec<_>>() {
                        call.await.unwrap().unwrap();
                    }
                }
                (5, Some((scope, token))) => _ = tester.renew(scope, &[&token], Some(5 * HOUR)).await.unwrap(),
                (6, Some((scope, token))) => _ = tester.revoke(scope, &[&token, &token], &[]).await.unwrap(),
                (7, _) => {
                    f.site.clock.advance(HOUR * u32::try_from(dice.roll(30)).unwrap());
                    purge_all(&f).await;
                }
                _ => f = with_ids(f.restart()),
            }
        }
        assert_clean(&f.site_of_checked());
    }
}

#[tokio::test]
async fn a_commit_that_fails_leaves_nothing_half_c_05() {
    for fault in [Fault::LOST, Fault::UNKNOWN] {
        let (f, gate) = Fixture::gated();
        let tester = f.tester();
        let token = tester.issue("pan", limited(PAN, 3)).await;
        gate.shut();
        let (revoking, text) = (f.tester(), token.token.clone());
        let call =
            tokio::spawn(async move { revoking.revoke("pan", &[&text], &[]).await.map(drop).map_err(|f| name(&f)) });
        gate.come().await;
        gate.go(fault);
        assert_eq!(call.await.unwrap(), Err("unavailable".to_owned()));
        gate.lift();
        let mut site = f.close();
        site.restart(None);
        assert_clean(&site);
        let f = Fixture::over(site);
        f.tester().issue("pan", item(PAN)).await;
        assert_clean(&f.site_of_checked());
    }
}

// === C-04: an older row is put back ===

#[tokio::test]
async fn a_row_from_before_a_change_is_stale_c_04() {
    for scope in ["pan", "ids"] {
        for change in ["revoke", "use", "renew"] {
            let f = fixture();
            let tester = f.tester();
            tester.issue(scope, item(b"a neighbour")).await;
            let token = tester.issue(scope, limited(PAN, 2)).await;
            let old = f.row(&token.handle);
            let action = match change {
                "revoke" => {
                    tester.revoke(scope, &[&token.token], &[]).await.unwrap();
                    Action::Revoke
                }
                "use" => {
                    assert!(tester.show(scope, &[&token.token, &token.token]).await.is_ok());
                    Action::Detokenize
                }
                _ => {
                    f.site.clock.advance(HOUR);
                    tester.renew(scope, &[&token.token], Some(HOUR)).await.unwrap();
                    Action::Renew
                }
            };
            let mut site = f.close();
            let changed = newest(&site, action);
            site.edit(|rows| rows.put(Table::Tokens, token.handle.as_bytes(), &old));
            let report = verified(&site);
            let finding = the_one(&report);
            assert_eq!((finding.kind, finding.handle), (Kind::Stale, token.handle), "{change}");
            assert_eq!((finding.event, finding.scope.as_str()), (changed, scope), "{change}");
            assert_eq!((report.records, report.expected, report.groups_wrong_in_all), (2, Some(2), 1));
            // The vault runs on such a row: the check is what finds it.
            let f = Fixture::over(site);
            f.tester().issue("pan", item(PAN)).await;
            assert_eq!(found(&verified(&f.close())), [(Kind::Stale, token.handle)], "later, too");
        }
    }
}

#[tokio::test]
async fn a_sum_that_is_rolled_back_with_its_record_does_not_help_c_04() {
    for scope in ["pan", "ids"] {
        let f = fixture();
        let tester = f.tester();
        let (other, token) = (tester.issue(scope, item(b"a")).await, tester.issue(scope, item(PAN)).await);
        let then = f.site.dump();
        tester.revoke(scope, &[&token.token], &[]).await.unwrap();
        let late = tester.issue("ssn", item(b"b")).await;
        tester.revoke("ssn", &[&late.token], &[]).await.unwrap();
        let mut site = f.close();
        let first = site.check().iter().position(|event| event.action() == Action::Revoke);
        let revoked = first.unwrap() as u64;
        roll_back(&mut site, Table::Tokens, &then);
        let gone = verified(&site);
        let found_now = found(&gone);
        assert_eq!(found_now, [(Kind::Missing, late.handle), (Kind::Stale, token.handle)]);
        roll_back(&mut site, Table::State, &then);
        let report = verified(&site);
        assert_eq!(report.groups_wrong_in_all, 0, "each sum is right by itself");
        assert_eq!((report.records, report.expected), (2, Some(3)));
        assert_eq!(found(&report), found_now);
        assert!(report.findings.iter().any(|finding| finding.event == Some(revoked)), "{report:#?}");
        assert!(report.findings.iter().all(|finding| finding.handle != other.handle));
        // With the head, too, the start already refuses: the log has gone on.
        let now = site.dump();
        let head = then[&(Table::Tree, b"head".to_vec())].clone();
        site.edit(|rows| rows.put(Table::Tree, b"head", &head));
        assert!(site.open().is_err());
        let report = verified(&site);
        assert!(report.log.is_some_and(|log| log.contains("another state was put back")) && report.fits);
        // And with the events, the checkpoint outside stands against it.
        for table in Table::ALL {
            roll_back(&mut site, table, &then);
        }
        assert!(site.open().is_err());
        let report = verified(&site);
        assert!(report.log.is_some_and(|log| log.contains("checkpoint outside vouches for")), "all but the checkpoint");
        for table in Table::ALL {
            roll_back(&mut site, table, &now);
        }
    }
}

// === C-05: rows that go and come ===

#[tokio::test]
async fn a_record_that_is_gone_is_missing_c_05() {
    for scope in ["pan", "ids"] {
        for with_its_expiry in [false, true] {
            let f = fixture();
            let tester = f.tester();
            let tokens = tester.issue_all(scope, (0..5).map(|_| lasting(PAN, HOUR)).collect()).await;
            f.site.clock.advance(2 * HOUR);
            let [one, two] = [tester.issue(scope, item(PAN)).await, tester.issue(scope, item(PAN)).await];
            let issued = f.site.check().len() as u64 - 2;
            f.site.clock.advance(DAY);
            assert_eq!(purge_all(&f).await, 5, "purged ones are not missing");
            let mut site = f.close();
            let leads = leads_to(&site, &one.handle);
            assert_eq!(leads.len(), 1);
            site.edit(|rows| {
                rows.delete(Table::Tokens, one.handle.as_bytes());
                leads.iter().filter(|_| with_its_expiry).for_each(|key| rows.delete(Table::Expiry, key));
            });
            let report = verified(&site);
            assert_eq!((report.records, report.expected), (1, Some(2)));
            assert_eq!(report.groups_wrong[0].scope, scope);
            assert_eq!((report.groups_wrong[0].expected, report.groups_wrong[0].found), (Some(2), 1));
            if with_its_expiry {
                // Nothing tells it from those that were purged, but its number.
                assert_eq!(report.findings.len(), 6, "{report:#?}");
                assert!(report.findings.iter().all(|finding| !finding.certain && finding.kind == Kind::Missing));
                assert!(report.findings.iter().any(|finding| finding.handle == one.handle));
            } else {
                let finding = the_one(&report);
                assert_eq!((finding.kind, finding.handle), (Kind::Missing, one.handle));
                assert_eq!((finding.event, finding.scope.as_str()), (Some(issued), scope));
            }
            assert!(report.findings.iter().all(|finding| finding.handle != two.handle));
            drop(tokens);
        }
    }
}

#[tokio::test]
async fn without_a_purge_what_is_gone_with_all_its_traces_is_certain_c_05() {
    let f = fixture();
    let tokens = f.tester().issue_all("pan", (0..3).map(|_| item(PAN)).collect()).await;
    let mut site = f.close();
    let leads = leads_to(&site, &tokens[1].handle);
    site.edit(|rows| {
        tokens[1..].iter().for_each(|token| rows.delete(Table::Tokens, token.handle.as_bytes()));
        for key in &leads {
            rows.delete(Table::Expiry, key);
        }
    });
    let mut expected: Vec<_> = tokens[1..].iter().map(|token| (Kind::Missing, token.handle)).collect();
    expected.sort_unstable();
    assert_eq!(found(&verified(&site)), expected);
    site.edit(|rows| rows.delete(Table::Tokens, tokens[0].handle.as_bytes()));
    assert_eq!(found(&verified(&site)).len(), 3, "the last of a group");
}

#[tokio::test]
async fn a_copy_under_another_handle_is_added_c_05() {
    let f = fixture();
    let token = f.tester().issue("pan", item(PAN)).await;
    let mut site = f.close();
    let row = site.row(Table::Tokens, token.handle.as_bytes()).unwrap();
    let copies = [Handle::new(token.handle.second(), [9; 16]), Handle::new(0, [9; 16]), Handle::new(u32::MAX, [9; 16])];
    for copy in copies {
        site.edit(|rows| rows.put(Table::Tokens, copy.as_bytes(), &row));
        let report = verified(&site);
        let finding = the_one(&report);
        assert_eq!((finding.kind, finding.handle), (Kind::Added, copy));
        assert_eq!((report.records, report.expected), (1, Some(1)), "it does not count as a record");
        site.edit(|rows| rows.delete(Table::Tokens, copy.as_bytes()));
    }
    assert_clean(&site);
    site.edit(|rows| rows.put(Table::Tokens, b"no handle", &row));
    let report = verified(&site);
    assert!(!report.is_clean() && report.more == 1);
}

#[tokio::test]
async fn a_purged_record_that_is_put_back_is_added_c_05() {
    for scope in ["pan", "ids"] {
        for (number, with_expiry) in [(1, false), (1, true), (3, true)] {
            let f = fixture();
            let tester = f.tester();
            let purged = tester.issue_all(scope, (0..number).map(|_| lasting(PAN, MILLI)).collect()).await;
            tester.issue(scope, item(PAN)).await;
            let then = f.site.dump();
            f.site.clock.advance(2 * DAY);
            assert_eq!(purge_all(&f).await, number);
            let mut site = f.close();
            let back = |site: &mut Site| {
                site.edit(|rows| {
                    for ((table, key), row) in &then {
                        let is_one = purged.iter().any(|token| token.handle.as_bytes()[..] == key[..]);
                        if *table == Table::Tokens && is_one || *table == Table::Expiry && with_expiry {
                            rows.put(*table, key, row);
                        }
                    }
                });
            };
            back(&mut site);
            let report = verified(&site);
            let mut expected: Vec<_> = purged.iter().map(|token| (Kind::Added, token.handle)).collect();
            expected.sort_unstable();
            assert_eq!(found(&report), expected);
            assert_eq!((report.records, report.expected), (1 + number, Some(1)));
            if with_expiry {
                // The vault purges them once more, and what it never had is lacking.
                let f = Fixture::over(site);
                assert_eq!(purge_all(&f).await, number);
                let report = verified(&f.close());
                assert!(!report.is_clean() && report.findings.is_empty());
                let lacking = report.groups_wrong[0].expected.unwrap().cast_signed();
                assert_eq!(lacking, 1 - number.cast_signed());
            }
        }
    }
}

// === damage ===

#[tokio::test]
async fn a_record_that_does_not_open_is_damaged_c_05() {
    let f = fixture();
    let tester = f.tester();
    let [token, other] = [tester.issue("pan", item(PAN)).await, tester.issue("ids", item(PAN)).await];
    let mut site = f.close();
    for handle in [token.handle, other.handle] {
        let row = site.row(Table::Tokens, handle.as_bytes()).unwrap();
        for bad in [flipped(&row, 0), flipped(&row, 30), flipped(&row, row.len() - 1), row[..50].to_vec(), Vec::new()] {
            site.edit(|rows| rows.put(Table::Tokens, handle.as_bytes(), &bad));
            assert_eq!(found(&verified(&site)), [(Kind::Damaged, handle)]);
        }
        site.edit(|rows| rows.put(Table::Tokens, handle.as_bytes(), &row));
    }
    let rows = [token.handle, other.handle].map(|handle| site.row(Table::Tokens, handle.as_bytes()).unwrap());
    site.edit(|batch| {
        batch.put(Table::Tokens, token.handle.as_bytes(), &rows[1]);
        batch.put(Table::Tokens, other.handle.as_bytes(), &rows[0]);
    });
    let report = verified(&site);
    let handles: Vec<Handle> = report.findings.iter().map(|finding| finding.handle).collect();
    assert!(
        handles.contains(&token.handle) && handles.contains(&other.handle),
        "rows that changed places: {report:#?}"
    );
}

fn flipped(row: &[u8], at: usize) -> Vec<u8> {
    let mut row = row.to_vec();
    row[at] ^= 1;
    row
}

#[tokio::test]
async fn a_sum_that_was_edited_is_told_from_records_that_were_c_05() {
    let f = fixture();
    f.tester().issue("pan", item(PAN)).await;
    let mut site = f.close();
    let then = site.dump();
    let (_, group) = then.keys().find(|(table, _)| *table == Table::State).unwrap();
    let row = then[&(Table::State, group.clone())].clone();
    let mut edits: Vec<Option<Vec<u8>>> = (0..row.len()).map(|at| Some(flipped(&row, at))).collect();
    edits.extend([None, Some(Vec::new()), Some(row[..20].to_vec())]);
    for edit in edits {
        site.edit(|rows| match &edit {
            Some(row) => rows.put(Table::State, group, row),
            None => rows.delete(Table::State, group),
        });
        let report = verified(&site);
        assert!(!report.is_clean() && report.fits && report.findings.is_empty(), "{report:#?}");
        assert_eq!(report.groups_wrong_in_all, 1);
    }
    // A vault that meets one goes on: tokens are not hostages of their sums. The head still knows what there is.
    let f = Fixture::over(site);
    f.tester().issue("pan", item(PAN)).await;
    let report = verified(&f.close());
    assert!(report.fits && report.groups_wrong_in_all == 1);
    assert_eq!((report.records, report.expected), (2, Some(2)));
}

#[tokio::test]
async fn without_a_head_nothing_is_called_right_c_04() {
    let f = fixture();
    f.tester().issue("pan", item(PAN)).await;
    let mut site = f.close();
    let head = site.row(Table::Tree, b"head").unwrap();
    for edit in [None, Some(flipped(&head, 50)), Some(Vec::new())] {
        site.edit(|rows: &mut Batch| match &edit {
            Some(row) => rows.put(Table::Tree, b"head", row),
            None => rows.delete(Table::Tree, b"head"),
        });
        let report = verified(&site);
        assert!(!report.is_clean() && !report.fits && report.log.is_some());
        assert_eq!(report.against, Against::Nothing);
    }
    site.store.commit(&Batch::default()).unwrap();
}

// === the index of events ===

fn of_index(site: &Site) -> Vec<IndexFinding> {
    let report = verify_index(&*site.store, &mut |_| {}).unwrap();
    let of = |table| site.dump().keys().filter(|(other, _)| *other == table).count() as u64;
    assert_eq!((report.rows, report.events), (of(Table::EventIndex), of(Table::Events)));
    assert_eq!((report.more, report.blocks_left), (0, 0));
    report.findings
}

/// All rows of the index that begin so.
fn index_rows(site: &Site, kind: &[u8]) -> Vec<Vec<u8>> {
    let rows = site.dump().into_keys().filter(|(table, key)| *table == Table::EventIndex && key.starts_with(kind));
    rows.map(|(_, key)| key).collect()
}

#[tokio::test]
async fn a_row_of_the_index_that_is_gone_changed_or_added_is_named() {
    let f = fixture();
    let tester = f.tester();
    let pan = tester.issue("pan", item(PAN)).await;
    let id = tester.issue("ids", item(PAN)).await;
    for _ in 0..3 {
        tester.show("pan", &[&pan.token]).await.unwrap();
        tester.revoke("ids", &[&id.token], &[]).await.unwrap();
    }
    let mut site = f.close();
    assert_eq!(of_index(&site), []);
    let by_handle = format!("the handle {}", pan.handle);
    let handle_rows = index_rows(&site, &[b"h", &pan.handle.as_bytes()[..]].concat());
    assert_eq!(handle_rows.len(), 3);
    let sequence = |key: &[u8]| u64::from_be_bytes(key[key.len() - 8..].try_into().unwrap());
    let finding = |event, kind, by: &str| IndexFinding { event: Some(event), kind, by: by.to_owned() };
    let before = site.dump();

    // Gone: one, then every one of a kind.
    site.edit(|rows| rows.delete(Table::EventIndex, &handle_rows[1]));
    assert_eq!(of_index(&site), [finding(sequence(&handle_rows[1]), IndexKind::Missing, &by_handle)]);
    roll_back(&mut site, Table::EventIndex, &before);
    for (kind, by) in [(b"c", "its caller"), (b"s", "its scope"), (b"i", "what was issued in its second")] {
        let rows = index_rows(&site, kind);
        site.edit(|batch| rows.iter().for_each(|key| batch.delete(Table::EventIndex, key)));
        let found = of_index(&site);
        assert_eq!(found.len(), rows.len(), "{by}");
        assert!(found.iter().all(|finding| finding.kind == IndexKind::Missing && finding.by == by), "{found:?}");
        roll_back(&mut site, Table::EventIndex, &before);
    }

    // Changed: the marks of what was issued.
    let issue = index_rows(&site, b"i").remove(0);
    site.edit(|rows| rows.put(Table::EventIndex, &issue, &[0xab, 0xcd]));
    let expected = finding(sequence(&issue), IndexKind::Changed, "what was issued in its second");
    assert_eq!(of_index(&site), [expected]);
    roll_back(&mut site, Table::EventIndex, &before);

    // Added: to an event about something else, to one that is not there, and what leads nowhere.
    let beyond = [&handle_rows[0][..21], &u64::MAX.to_be_bytes()].concat();
    let elsewhere = [&handle_rows[0][..21], &0_u64.to_be_bytes()].concat();
    site.edit(|rows| [&beyond[..], &elsewhere, b"zzz"].iter().for_each(|key| rows.put(Table::EventIndex, key, &[])));
    let expected = [
        IndexFinding { event: None, kind: IndexKind::Extra, by: "nothing".to_owned() },
        finding(0, IndexKind::Extra, &by_handle),
        finding(u64::MAX, IndexKind::Extra, &by_handle),
    ];
    assert_eq!(of_index(&site), expected);
    roll_back(&mut site, Table::EventIndex, &before);

    // Moved from one event to another: as many rows as before.
    let moved = [&handle_rows[0][..21], &0_u64.to_be_bytes()].concat();
    site.edit(|rows| {
        rows.delete(Table::EventIndex, &handle_rows[2]);
        rows.put(Table::EventIndex, &moved, &[]);
    });
    let expected =
        [finding(0, IndexKind::Extra, &by_handle), finding(sequence(&handle_rows[2]), IndexKind::Missing, &by_handle)];
    assert_eq!(of_index(&site), expected);
    roll_back(&mut site, Table::EventIndex, &before);
    assert_eq!(of_index(&site), []);
}

#[tokio::test]
async fn the_index_of_what_the_vault_wrote_and_dropped_is_right() {
    let f = fixture();
    let tester = f.tester();
    for _ in 0..700 {
        tester.issue("pan", lasting(PAN, HOUR)).await;
    }
    f.site.clock.advance(40 * DAY);
    assert!(purge_all(&f).await > 0);
    let site = f.close();
    assert_eq!(of_index(&site), []);
}
