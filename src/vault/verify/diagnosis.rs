//! What is wrong, by name: the suspected groups are gone through record by record and event by event.

use super::history::{self, History, Issues};
use super::{DataKeys, FINDINGS_AT_MOST, Finding, Kind, Report, Subject, Summed, each, scope_name};
use crate::clock::Timestamp;
use crate::crypto::record::{Header, State};
use crate::crypto::state::{Group, Tally, day};
use crate::crypto::{Handle, ScopeId};
use crate::event::{self, Action};
use crate::store::{Found, Order, ReadError, Row, Table, Tier};
use crate::token;
use crate::vault::expiry::{Leads, leads};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);
/// A token is issued by a commit that may come so much later than its record says it was made.
const LATE: Duration = Duration::from_mins(1);
/// Records that may be missing, or put back, and are kept in mind.
const CANDIDATES_AT_MOST: usize = 100_000;

/// Where to look, and what there is too little of: fewer than no records are too many.
pub(super) enum Suspects {
    Groups(BTreeMap<Group, Tally>),
    All { lacking: Tally },
}

/// What records are counted in: each suspected group by itself, or all together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Account {
    All,
    Of(Group),
}

/// A token that was issued and has no record.
struct Absent {
    handle: Handle,
    group: Group,
    event: u64,
    /// Whether a row of `expiry` still leads to it.
    expected: bool,
}

/// A record of which nothing but its age is suspect.
struct Expired {
    handle: Handle,
    tally: Tally,
}

pub(super) struct Diagnosis<'a> {
    subject: &'a Subject<'a>,
    paths: HashMap<ScopeId, String>,
    scopes: HashMap<String, ScopeId>,
    suspects: Suspects,
    /// Events in the log, as they lie there.
    size: u64,
    /// Since when the log says everything: the bodies of older events were dropped, or are in the log before a restore.
    /// `None` if all are there.
    begin: Option<Timestamp>,
    /// When the last of them was written.
    end: Timestamp,
    issues: Issues,
    /// Records that open and should not be there, by the account that lacks or exceeds. See [`Suspects::account`].
    added: HashMap<Account, i128>,
    damaged: HashMap<Account, i128>,
    expired: BTreeMap<Account, Vec<Expired>>,
}

impl Suspects {
    /// What a group's records are counted in; `None` if the group is not suspected.
    fn account(&self, group: Group) -> Option<Account> {
        match self {
            Self::All { .. } => Some(Account::All),
            Self::Groups(groups) => groups.contains_key(&group).then_some(Account::Of(group)),
        }
    }

    fn lacking(&self, account: Account) -> Tally {
        match (self, account) {
            (Self::All { lacking }, _) => *lacking,
            (Self::Groups(groups), Account::Of(group)) => groups.get(&group).copied().unwrap_or_default(),
            (Self::Groups(_), Account::All) => Tally::default(),
        }
    }

    fn days(&self) -> BTreeSet<u32> {
        match self {
            Self::All { .. } => BTreeSet::new(),
            Self::Groups(groups) => groups.keys().map(|group| group.day).collect(),
        }
    }
}

impl<'a> Diagnosis<'a> {
    pub fn new(
        subject: &'a Subject<'a>,
        paths: HashMap<ScopeId, String>,
        suspects: Suspects,
    ) -> Result<Self, ReadError> {
        let last = subject.rows.scan(Table::Events, &[], &[0xff; 9], Order::Descending, 1)?.into_iter().next();
        let sequence = last.as_ref().and_then(|(key, _)| Some(u64::from_be_bytes(key[..].try_into().ok()?)));
        let time = last.and_then(|(_, bytes)| event::decode(&bytes).ok()?.timestamp());
        let scopes = paths.iter().map(|(id, path)| (path.clone(), *id)).collect();
        Ok(Self {
            subject,
            paths,
            scopes,
            suspects,
            size: sequence.map_or(0, |sequence| sequence.saturating_add(1)),
            begin: beginning(subject)?,
            end: time.unwrap_or_default(),
            issues: Issues::default(),
            added: HashMap::new(),
            damaged: HashMap::new(),
            expired: BTreeMap::new(),
        })
    }

    pub fn run(mut self, summed: &Summed, report: &mut Report) -> Result<(), ReadError> {
        for (handle, group) in &summed.damaged {
            self.damaged(handle, *group, report)?;
        }
        report.more += summed.damaged_in_all - summed.damaged.len() as u64 + summed.no_handles;
        self.present(report)?;
        self.put_back(report);
        let mut absent = self.absent(report)?;
        if !absent.is_empty() {
            self.expected(&mut absent)?;
        }
        self.missing(&absent, report);
        Ok(())
    }

    fn damaged(&mut self, handle: &Handle, group: Option<Group>, report: &mut Report) -> Result<(), ReadError> {
        let scope = group.map_or_else(String::new, |group| scope_name(&self.paths, group.scope));
        let issued = match group {
            Some(group) if self.is_told(group) => {
                History::of(self.subject.rows, &mut self.issues, handle, &scope, false)?.issued
            }
            // It does not say where it belongs, or the log says no more who issued it.
            _ => true,
        };
        let (kind, why) = if issued {
            if let Some(account) = group.and_then(|group| self.suspects.account(group)) {
                *self.damaged.entry(account).or_default() += 1;
            }
            (Kind::Damaged, "its outer lock does not open: it was edited, moved or damaged")
        } else {
            (Kind::Added, "no event issued it, and its outer lock does not open: a copy of another record, or made up")
        };
        let day = group.map(|group| group.begins());
        note(report, Finding { kind, handle: *handle, scope, day, certain: true, event: None, why: why.to_owned() });
        Ok(())
    }

    /// Whether all events about the group's tokens are still there.
    fn is_told(&self, group: Group) -> bool {
        self.begin.is_none_or(|begin| group.begins() >= begin)
    }

    // === what is there ===

    fn present(&mut self, report: &mut Report) -> Result<(), ReadError> {
        let mut keys = DataKeys::new(self.subject.keyring);
        for (start, end) in self.ranges() {
            each(self.subject.rows, Table::Tokens, &start, &end, |rows: &[Row]| {
                for (key, row) in rows {
                    let Ok(handle) = Handle::try_from(&key[..]) else { continue };
                    // What does not open was found before.
                    let Ok((header, group, tally)) = keys.open(&handle, row) else { continue };
                    if let Some(account) = self.suspects.account(group) {
                        self.judge(&handle, &header, group, account, tally, report)?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Where records of the suspected days lie: by the second in their handles, and all that have none.
    fn ranges(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let Suspects::Groups(_) = self.suspects else { return vec![(Vec::new(), vec![0xff; 1 + Handle::LENGTH])] };
        let begin = |day: u32| token::second(Group { scope: ScopeId(0), day }.begins());
        let seconds = |day: u32| (begin(day).max(1), begin(day.saturating_add(1)).max(1));
        let range = |(from, to): (u32, u32)| (from.to_be_bytes().to_vec(), to.to_be_bytes().to_vec());
        let days = self.suspects.days();
        [(vec![0; 4], vec![0, 0, 0, 1])].into_iter().chain(days.into_iter().map(seconds).map(range)).collect()
    }

    fn judge(
        &mut self,
        handle: &Handle,
        header: &Header,
        group: Group,
        account: Account,
        tally: Tally,
        report: &mut Report,
    ) -> Result<(), ReadError> {
        let scope = scope_name(&self.paths, group.scope);
        let limited = header.uses_left.is_some();
        let history = History::of(self.subject.rows, &mut self.issues, handle, &scope, limited)?;
        let found = |kind, event, why: String| {
            let day = Some(group.begins());
            Finding { kind, handle: *handle, scope: scope.clone(), day, certain: true, event, why }
        };
        let (version, expected) = (header.record_version, history.version());
        let last = history.last.map(|(sequence, _)| sequence);
        let surplus = Tally::default().minus(&self.suspects.lacking(account));
        let told = self.is_told(group);
        if told && !history.issued {
            *self.added.entry(account).or_default() += 1;
            note(report, found(Kind::Added, None, "no event issued it".to_owned()));
        } else if version < expected || (history.revoked && header.state != State::Revoked) {
            let word = history.last.map_or("", |(_, action)| action.word());
            let why =
                format!("it is at version {version}, and events made it version {expected}, the last one by {word}");
            note(report, found(Kind::Stale, last, why));
        } else if told && version > expected {
            let why = format!("it is at version {version}, and events made it version {expected}");
            note(report, found(Kind::Unlogged, last, why));
        } else if surplus == tally {
            *self.added.entry(account).or_default() += 1;
            note(report, found(Kind::Added, None, PUT_BACK.to_owned()));
        } else if header.expires <= self.end {
            let expired = self.expired.entry(account).or_default();
            if expired.len() < CANDIDATES_AT_MOST {
                expired.push(Expired { handle: *handle, tally });
            }
        }
        Ok(())
    }

    /// Where there are too many by more than one: if those that have expired make up the whole difference, it is they.
    fn put_back(&mut self, report: &mut Report) {
        for (account, expired) in &self.expired {
            let sum = expired.iter().fold(Tally::default(), |sum, expired| sum.plus(&expired.tally));
            if sum != Tally::default().minus(&self.suspects.lacking(*account)) {
                continue;
            }
            *self.added.entry(*account).or_default() += expired.len() as i128;
            for Expired { handle, .. } in expired {
                let (scope, day) = match account {
                    Account::Of(group) => (scope_name(&self.paths, group.scope), Some(group.begins())),
                    Account::All => (String::new(), None),
                };
                let why = PUT_BACK.to_owned();
                note(
                    report,
                    Finding { kind: Kind::Added, handle: *handle, scope, day, certain: true, event: None, why },
                );
            }
        }
    }

    // === what is not ===

    /// Tokens of suspected groups that were issued and have no record.
    fn absent(&self, report: &mut Report) -> Result<Vec<Absent>, ReadError> {
        let mut absent = Vec::new();
        let rows = self.subject.rows;
        for events in self.events()? {
            let (start, end) = (events.start.to_be_bytes(), events.end.to_be_bytes());
            each(rows, Table::Events, &start, &end, |found| {
                for (key, bytes) in found {
                    let Ok(event) = event::decode(bytes) else { continue };
                    let sequence = key[..].try_into().map_or(0, u64::from_be_bytes);
                    self.absent_of(sequence, &event, &mut absent, report)?;
                }
                Ok(())
            })?;
        }
        Ok(absent)
    }

    /// The events that may have issued tokens of the suspected groups.
    fn events(&self) -> Result<Vec<Range<u64>>, ReadError> {
        let Suspects::Groups(_) = self.suspects else { return Ok(std::iter::once(0..self.size).collect()) };
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for day in self.suspects.days() {
            let begin = Group { scope: ScopeId(0), day }.begins();
            let end = begin.checked_add(DAY + LATE).unwrap_or(self.end);
            let at = |time| history::first_at(self.subject.rows, self.size, time);
            let (from, to) = (at(begin)?, at(end)?);
            match ranges.last_mut() {
                Some(last) if last.end >= from => last.end = to,
                _ => ranges.push(from..to),
            }
        }
        Ok(ranges)
    }

    fn absent_of(
        &self,
        sequence: u64,
        event: &event::Event,
        absent: &mut Vec<Absent>,
        report: &mut Report,
    ) -> Result<(), ReadError> {
        let Some(scope) = self.scopes.get(&event.scope).copied() else { return Ok(()) };
        let at = event.timestamp().unwrap_or_default();
        let group = |handle: &Handle| {
            let issued = if handle.second() == 0 { at } else { token::time_of(handle.second()) };
            Group { scope, day: day(issued) }
        };
        let handles: Vec<Handle> = history::issued(event)
            .map(|handle| Handle::from_bytes(*handle))
            .filter(|handle| self.suspects.account(group(handle)).is_some())
            .collect();
        let keys: Vec<&[u8]> = handles.iter().map(|handle| &handle.as_bytes()[..]).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let found = self.subject.rows.get(Table::Tokens, &keys, Tier::Disk)?;
        for (handle, found) in handles.iter().zip(found) {
            if found != Found::Absent {
                continue;
            }
            if absent.len() < CANDIDATES_AT_MOST {
                absent.push(Absent { handle: *handle, group: group(handle), event: sequence, expected: false });
            } else {
                report.more += 1;
            }
        }
        Ok(())
    }

    /// Which of them are still expected: a purge deletes what leads to a record together with it.
    fn expected(&self, absent: &mut [Absent]) -> Result<(), ReadError> {
        let places: HashMap<Handle, usize> =
            absent.iter().enumerate().map(|(place, absent)| (absent.handle, place)).collect();
        each(self.subject.rows, Table::Expiry, &[], &[0xff; 64], |rows| {
            for (key, rest) in rows {
                let Some(Leads::Tokens(handles)) = leads(key, rest) else { continue };
                for place in handles.iter().filter_map(|handle| places.get(handle)) {
                    absent[*place].expected = true;
                }
            }
            Ok(())
        })
    }

    fn missing(&self, absent: &[Absent], report: &mut Report) {
        let mut accounts: BTreeMap<Account, Vec<&Absent>> = BTreeMap::new();
        for one in absent {
            if let Some(account) = self.suspects.account(one.group) {
                accounts.entry(account).or_default().push(one);
            }
        }
        for (account, absent) in accounts {
            let of = |counts: &HashMap<Account, i128>| counts.get(&account).copied().unwrap_or_default();
            let lacking = i128::from(self.suspects.lacking(account).records().cast_signed());
            let lacking = lacking + of(&self.added) - of(&self.damaged);
            if lacking <= 0 {
                // Purged, all of them: nothing is lacking.
                continue;
            }
            let expected = absent.iter().filter(|absent| absent.expected).count() as i128;
            let all = absent.len() as i128 == lacking;
            // If those that are expected are as many as are lacking, the others were purged.
            for one in absent.iter().filter(|one| one.expected || expected < lacking) {
                let certain = all || (one.expected && expected <= lacking);
                let why = match (one.expected, certain) {
                    (true, true) => "it was issued, a row of expiry leads to it, and it is not there".to_owned(),
                    (false, true) => {
                        "it was issued and not purged, and neither it nor what led to it is there".to_owned()
                    }
                    (_, false) => format!(
                        "it was issued and is not there. Of {} like it {lacking} are missing, and the others were purged",
                        absent.len()
                    ),
                };
                let (scope, day) = (scope_name(&self.paths, one.group.scope), Some(one.group.begins()));
                let (handle, event) = (one.handle, Some(one.event));
                note(report, Finding { kind: Kind::Missing, handle, scope, day, certain, event, why });
            }
        }
    }
}

/// When the first event was written whose body is there, unless that is the very first of a vault's first log: one that a
/// restore began says nothing of the records that it found.
fn beginning(subject: &Subject<'_>) -> Result<Option<Timestamp>, ReadError> {
    let first = subject.rows.scan(Table::Events, &[], &[0xff; 9], Order::Ascending, 1)?.into_iter().next();
    let Some((key, bytes)) = first else { return Ok(None) };
    let Ok(event) = event::decode(&bytes) else { return Ok(None) };
    let has_a_past = key[..] != 0_u64.to_be_bytes() || event.action() == Action::Restore;
    Ok(event.timestamp().filter(|_| has_a_past))
}

const PUT_BACK: &str = "it was deleted, and is there again: the sums are right without it";

fn note(report: &mut Report, finding: Finding) {
    if report.findings.len() < FINDINGS_AT_MOST {
        report.findings.push(finding);
    } else {
        report.more += 1;
    }
}
