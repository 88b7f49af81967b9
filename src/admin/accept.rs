//! An operator accepts that the tokens which a restore has suspended may be spent again.
//!
//! Each step is one commit with an event that names its tokens, so that it is known of each when it was accepted; cut off in
//! between, it goes on where it is run again.

use crate::crypto::Handle;
use crate::crypto::record::{Header, Record, State};
use crate::event::{self, Action, Event, ItemOutcome};
use crate::keys::entropy;
use crate::ledger::{Changes, Submission};
use crate::store::{Order, Row, Table};
use crate::vault::{BATCH_AT_MOST, Failure, Vault};
use std::collections::{BTreeMap, HashSet};

/// What the events say.
const DETAIL: &str = "accepted by an operator: what the restore had suspended may be used again";
/// Records of one commit are at most about so long together: the queue before the writer, which has at least 8 MiB, has
/// room for them.
const BYTES_AT_ONCE: usize = 4 << 20;
const AFTER_ALL: [u8; 1 + Handle::LENGTH] = [0xff; 1 + Handle::LENGTH];

/// Lets every suspended token be spent again. How many there were.
///
/// # Errors
/// If the store can't be read, or the log not written.
pub async fn accept(vault: &Vault) -> Result<u64, Failure> {
    let (mut next, mut accepted) = (Vec::new(), 0);
    loop {
        let rows = vault.rows().scan(Table::Tokens, &next, &AFTER_ALL, Order::Ascending, BATCH_AT_MOST)?;
        let Some((last, _)) = rows.last() else { return Ok(accepted) };
        next = [&last[..], &[0]].concat();
        for (path, records) in suspended(vault, &rows) {
            let mut rest = &records[..];
            while let Some(some) = rest.split_off(..fitting(rest)).filter(|some| !some.is_empty()) {
                accepted += accept_some(vault, &path, some).await?;
            }
        }
    }
}

/// The suspended ones among these, by their scope.
fn suspended<'r>(vault: &Vault, rows: &'r [Row]) -> BTreeMap<String, Vec<(Handle, Record<'r>)>> {
    let paths = vault.keyring().paths();
    let mut found = BTreeMap::<String, Vec<_>>::new();
    for (key, row) in rows {
        // What is no record stays, for `cloakroom verify` to find.
        let (Ok(handle), Ok(record)) = (Handle::try_from(&key[..]), Record::parse(row)) else { continue };
        let header = record.claimed_header();
        if let Some(path) = paths.get(&header.scope).filter(|_| header.state == State::Suspended) {
            found.entry(path.clone()).or_default().push((handle, record));
        }
    }
    found
}

/// How many of these one commit takes: one at least, if there is one.
fn fitting(records: &[(Handle, Record<'_>)]) -> usize {
    let mut bytes = 0;
    let fit = |(_, record): &&(Handle, Record<'_>)| {
        let fits = bytes < BYTES_AT_ONCE;
        bytes += record.padded_bytes();
        fits
    };
    records.iter().take_while(fit).count()
}

/// How many of them were.
async fn accept_some(vault: &Vault, scope: &str, records: &[(Handle, Record<'_>)]) -> Result<u64, Failure> {
    let basis = vault.ledger().basis();
    let (keyring, now) = (vault.keyring(), vault.ledger().clock().now());
    let (mut changes, mut outcomes) = (Changes::default(), Vec::new());
    for (handle, record) in records {
        let scope = record.claimed_header().scope;
        let key = keyring.data_keys(&HashSet::from([scope])).remove(&scope);
        let unlocked = key.as_ref().and_then(|key| record.unlock_outer(keyring.vault(), handle, key).ok());
        let (Some(unlocked), Some(key)) = (unlocked, key) else {
            tracing::error!(%handle, "a suspended record does not open and stays as it is: it was changed or damaged");
            outcomes.push(ItemOutcome::Corrupt);
            continue;
        };
        let record_version = unlocked.header().record_version.wrapping_add(1);
        let header = Header { state: State::Active, changed: now, record_version, ..*unlocked.header() };
        let row = unlocked.relock(keyring.vault(), handle, &key, &header, entropy::bytes()?);
        changes.replace(keyring.state(), handle, &unlocked.imprint(), &row);
        outcomes.push(ItemOutcome::Done);
    }
    let done = outcomes.iter().filter(|outcome| **outcome == ItemOutcome::Done).count();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let event = Event {
        scope: scope.to_owned(),
        handles: event::handles(records.iter().map(|(handle, _)| Some(handle.as_bytes()))),
        item_outcomes: outcomes.into_iter().map(Into::into).collect(),
        requested: count(records.len()),
        succeeded: count(done),
        ..vault.own(Action::Restore, DETAIL.to_owned())?
    };
    vault.ledger().record(Submission::new(basis, event).with_changes(changes)).await?;
    Ok(done as u64)
}
