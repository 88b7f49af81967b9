//! What both forms of a log have in common: entry after entry, checkpoint after checkpoint.

use std::collections::VecDeque;
use std::fmt;

use super::Settings;
use super::export::Consistency;
use super::report::{Altered, Fault, Report, Vouched};
use super::trust::Trust;
use crate::clock::Timestamp;
use crate::event::view::{Renderer, View};
use crate::event::{Action, DecodeError, Outcome, decode};
use crate::merkle::note::{Checkpoint, KeyId, Name, Note, NoteError};
use crate::merkle::{Hash, Peaks, TileId, empty_root, verify_consistency};

/// Checkpoints that fit nothing, of which a hostile export could have millions.
const MAX_MISFITS: usize = 16;

/// Where something was noticed.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Line(u64),
    File(String),
    Tile(TileId, Option<u8>),
    Kept(String),
    End,
}

/// Holds a log against its checkpoints as it comes by.
#[derive(Clone)]
pub(super) struct Verifier {
    log: Option<Name>,
    trust: Trust,
    /// Those that had been kept and are not reached yet, smallest first.
    kept: VecDeque<Claim>,
    /// The tree of the hashes as written.
    written: Peaks,
    /// The tree of the hashes of the entries' bytes, since they differ from what is written.
    content: Option<Peaks>,
    /// The size of the last checkpoint that fits.
    covered: u64,
    /// The size of the last checkpoint, whether it fits or not.
    spoken: Option<u64>,
    misfits: Vec<Misfit>,
    wanted: Option<u64>,
    /// One more than the last entry without a body.
    dropped_end: u64,
    any_body: bool,
    /// Up to which entry the log itself says that bodies were dropped.
    purged: u64,
    /// The checkpoint that a proof leads to from the end, if that is how a part ends.
    beyond: Option<Claim>,
    stopped: bool,
    report: Report,
}

/// A note that was read and is not checked yet.
#[derive(Clone, Debug)]
struct Claim {
    place: Place,
    checkpoint: Checkpoint,
    note: Note,
}

/// A checkpoint with a good signature and another root.
#[derive(Clone, Debug)]
struct Misfit {
    claim: Claim,
    since: u64,
}

impl Verifier {
    pub(super) fn new(settings: &Settings) -> Self {
        let log = settings.keys.first().map(|key| key.name().clone());
        let mut verifier = Self {
            trust: Trust::new(&settings.keys),
            kept: VecDeque::new(),
            written: Peaks::new(),
            content: None,
            covered: 0,
            spoken: None,
            misfits: Vec::new(),
            wanted: settings.sequence,
            dropped_end: 0,
            any_body: false,
            purged: 0,
            beyond: None,
            stopped: false,
            report: Report { log: log.clone(), ..Report::default() },
            log,
        };
        let mut kept = Vec::new();
        for given in &settings.checkpoints {
            let place = Place::Kept(given.name.clone());
            match verifier.claim(place.clone(), &given.note) {
                // Of nothing, which needs no log to look at.
                Ok(claim) if claim.checkpoint.size() == 0 => verifier.hold_against(claim, empty_root()),
                Ok(claim) => kept.push(claim),
                Err(fault) => verifier.report.note(None, place, fault),
            }
        }
        kept.sort_by_key(|claim| claim.checkpoint.size());
        verifier.kept = kept.into();
        verifier
    }

    /// The log's name: that of its key.
    pub(super) fn log(&self) -> &str {
        self.log.as_ref().map_or("", Name::as_str)
    }

    /// The sequence of the next entry.
    pub(super) fn next(&self) -> u64 {
        self.written.size()
    }

    /// What was found so far.
    #[cfg(test)]
    pub(super) fn found(&self) -> &Report {
        &self.report
    }

    /// Whether nothing more can be said about what follows.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Begins behind entries that are only claimed.
    pub(super) fn start(&mut self, peaks: Peaks) {
        (self.report.first, self.covered) = (peaks.size(), peaks.size());
        self.written = peaks;
        while let Some(claim) = self.kept.pop_front_if(|claim| claim.checkpoint.size() < self.written.size()) {
            let size = claim.checkpoint.size();
            self.report.note(None, claim.place, Fault::BeforeStart { size });
        }
        self.meet_kept();
    }

    /// The next entry. What it returns can be held against further forms of the same event.
    ///
    /// `leaf` is the hash of `bytes`, `written` the one that stands beside them.
    pub(super) fn body<'a>(&mut self, place: &Place, bytes: &'a [u8], leaf: Hash, written: Hash) -> Option<View<'a>> {
        let view = View::read(bytes);
        match &view {
            _ if written != leaf => self.fault(place, Fault::Hash(Altered::Unknown)),
            Some(view) => self.heed(place, view),
            None => {
                let refused = decode(bytes).err().unwrap_or(DecodeError::NotCanonical);
                self.fault(place, Fault::Leaf(refused));
            }
        }
        self.any_body = true;
        self.append(written, leaf);
        view
    }

    /// The next entry, whose bytes can't be read at all; that was noted. The tree goes on with its hash.
    pub(super) fn lost(&mut self, written: Hash) {
        self.any_body = true;
        self.append(written, written);
    }

    /// The next entry, of which only the hash is left.
    pub(super) fn dropped(&mut self, place: &Place, hash: Hash) {
        if self.any_body {
            self.fault(place, Fault::DroppedLater);
        }
        self.report.dropped += 1;
        self.dropped_end = self.next() + 1;
        self.append(hash, hash);
    }

    /// Something is wrong with the next entry.
    pub(super) fn fault(&mut self, place: &Place, fault: Fault) {
        self.report.note(Some(self.next()), place, fault);
    }

    /// Something is wrong with the entry from `entry` on, or with none in particular.
    pub(super) fn fault_at(&mut self, entry: Option<u64>, place: &Place, fault: Fault) {
        self.report.note(entry, place, fault);
    }

    /// Something is wrong with at least one entry from `first` to before `end`. What is known better is not said again.
    pub(super) fn fault_within(&mut self, first: u64, end: u64, place: &Place, fault: Fault) {
        if !self.report.names_one_of(first, end) {
            self.report.note(Some(first), place, fault);
        }
    }

    /// Something is wrong with the next entry, and what follows has no place in the tree any more.
    pub(super) fn stop(&mut self, place: &Place, fault: Fault) {
        self.fault(place, fault);
        self.stopped = true;
    }

    /// The entry that was asked for, if it is this one.
    pub(super) fn keep_if_wanted(&mut self, sequence: u64, view: &View<'_>, renderer: &mut Renderer) {
        if self.wanted == Some(sequence) {
            let mut line = Vec::new();
            renderer.event(view, self.log(), sequence, &mut line);
            self.report.event = String::from_utf8(line).ok();
        }
    }

    /// A checkpoint that stands behind the entries that it is about.
    pub(super) fn checkpoint(&mut self, place: &Place, note: &str) {
        self.spoken = Some(self.next());
        match self.claim(place.clone(), note) {
            Ok(claim) => match (claim.checkpoint.size(), self.next()) {
                (size, end) if size < end => self.fault_at(None, place, Fault::Misplaced { size, end }),
                (size, end) if size > end => self.fault(place, Fault::NotReached { size, end }),
                _ => self.hold(claim),
            },
            Err(fault) => self.fault_at(None, place, fault),
        }
    }

    /// A line that should be a checkpoint and is none.
    pub(super) fn refuse_checkpoint(&mut self, place: &Place) {
        self.spoken = Some(self.next());
        self.fault_at(None, place, Fault::Form("the line is not a checkpoint as an export writes it"));
    }

    /// A checkpoint of a larger log, and the proof that this one is its beginning.
    pub(super) fn checkpoint_beyond(&mut self, place: &Place, note: &str, proof: &Consistency) {
        let Consistency { from, to, ref hashes } = *proof;
        self.spoken = Some(self.next());
        let claim = match self.claim(place.clone(), note) {
            Ok(claim) if claim.checkpoint.size() == to && from == self.next() => claim,
            Ok(claim) => {
                let fault = Fault::Misplaced { size: claim.checkpoint.size(), end: self.next() };
                return self.fault_at(None, place, fault);
            }
            Err(fault) => return self.fault_at(None, place, fault),
        };
        let keys = match self.trust.signers(&claim.note, to) {
            Ok(keys) => keys,
            Err(fault) => return self.fault_at(None, place, fault),
        };
        let root = *claim.checkpoint.root();
        let leads = |peaks: &Peaks| verify_consistency(from, &peaks.root(), to, &root, hashes);
        let told = match (leads(&self.written), self.content.as_ref().map(leads)) {
            (Ok(()), _) => Altered::Bytes,
            (Err(_), Some(Ok(()))) => Altered::Hash,
            (Err(error), _) => return self.fault_at(Some(self.covered), place, Fault::Consistency(error)),
        };
        self.vouch(&claim, keys, told);
        self.beyond = Some(claim);
    }

    /// What there is to say, with the last kept checkpoints, successions and drops looked at.
    pub(super) fn finish(mut self) -> Report {
        if !self.stopped {
            self.finish_kept();
            self.finish_end();
        }
        let fits = self.report.vouched.as_ref().map(|vouched| (vouched.size, vouched.note.clone()));
        let misfits = std::mem::take(&mut self.misfits);
        for (at, Misfit { claim, since }) in misfits.iter().enumerate() {
            let (size, note) = (claim.checkpoint.size(), claim.note.to_string());
            let twin = misfits[..at].iter().map(|earlier| &earlier.claim).find(|earlier| {
                earlier.checkpoint.size() == size && earlier.checkpoint.root() != claim.checkpoint.root()
            });
            let other = fits.as_ref().filter(|(fits, _)| *fits >= size).map(|(_, other)| other.clone());
            let (entry, fault) = if let Some(other) = other.or(twin.map(|twin| twin.note.to_string())) {
                (None, Fault::Fork { one: note, other })
            } else {
                let known = self.report.names_one_of(*since, size);
                (Some(*since).filter(|_| !known), Fault::OtherRoot { since: *since, size, note })
            };
            self.report.note(entry, &claim.place, fault);
        }
        self.report.rotations = self.trust.confirmed().to_vec();
        self.report
    }

    fn finish_kept(&mut self) {
        let end = self.next();
        for claim in std::mem::take(&mut self.kept) {
            let size = claim.checkpoint.size();
            match &self.beyond {
                Some(beyond) if beyond.checkpoint.size() == size => {
                    let root = *beyond.checkpoint.root();
                    self.hold_against(claim, root);
                }
                _ => self.report.note(Some(end), claim.place, Fault::NotReached { size, end }),
            }
        }
    }

    fn finish_end(&mut self) {
        let (end, first) = (self.next(), self.report.first);
        if self.dropped_end > self.purged {
            self.report.note(Some(self.purged.max(first)), Place::End, Fault::DroppedUnsaid);
        }
        match self.spoken {
            None if end == first => self.report.note(None, Place::End, Fault::Empty),
            // A checkpoint of entries of which none is here is easily had, and whoever is to be shown them sees nothing.
            Some(_) if end == first && self.report.vouched.as_ref().is_some_and(|vouched| vouched.size > 0) => {
                self.report.note(None, Place::End, Fault::NoEntries);
            }
            spoken if spoken != Some(end) => {
                let covered = self.covered;
                // Where the log is known to have been longer, what is missing is what is wrong.
                let cut = self.report.findings.iter().any(|found| matches!(found.fault, Fault::NotReached { .. }));
                self.report.note(Some(covered).filter(|_| !cut), Place::End, Fault::Uncovered(end - covered));
            }
            _ => {}
        }
    }

    /// What an event says about the log itself.
    fn heed(&mut self, place: &Place, view: &View<'_>) {
        if self.report.last_time.is_some_and(|last| view.time() < last) {
            self.fault(place, Fault::Time);
        }
        let time: Timestamp = view.time();
        self.report.first_time.get_or_insert(time);
        self.report.last_time = Some(time);
        self.trust.heed(self.next(), view);
        if view.action() == Action::Purge && view.outcome() == Outcome::Allowed {
            self.purged = self.purged.max(dropped_before(view.detail()).unwrap_or(0));
        }
    }

    fn append(&mut self, written: Hash, content: Hash) {
        if written != content && self.content.is_none() {
            self.content = Some(self.written.clone());
        }
        self.written.append(written);
        if let Some(tree) = &mut self.content {
            tree.append(content);
        }
        self.report.entries += 1;
        self.meet_kept();
    }

    fn meet_kept(&mut self) {
        while let Some(claim) = self.kept.pop_front_if(|claim| claim.checkpoint.size() == self.written.size()) {
            self.hold(claim);
        }
    }

    fn claim(&self, place: Place, text: &str) -> Result<Claim, Fault> {
        let note = Note::parse(text).map_err(Fault::Note)?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(Fault::Note)?;
        if self.log.as_ref().is_some_and(|log| log != checkpoint.origin()) {
            return Err(Fault::Note(NoteError::OtherLog { found: checkpoint.origin().clone() }));
        }
        Ok(Claim { place, checkpoint, note })
    }

    /// Holds a checkpoint against the tree as it stands.
    fn hold(&mut self, claim: Claim) {
        let root = self.written.root();
        self.hold_against(claim, root);
    }

    fn hold_against(&mut self, claim: Claim, root: Hash) {
        let size = claim.checkpoint.size();
        let keys = match self.trust.signers(&claim.note, size) {
            Ok(keys) => keys,
            Err(fault) => return self.report.note(None, &claim.place, fault),
        };
        let signed = *claim.checkpoint.root();
        if signed == root {
            self.vouch(&claim, keys, Altered::Bytes);
        } else if self.content.as_ref().is_some_and(|content| content.root() == signed) {
            self.vouch(&claim, keys, Altered::Hash);
        } else if self.misfits.len() < MAX_MISFITS {
            self.misfits.push(Misfit { claim, since: self.covered });
        } else {
            self.report.more_findings += 1;
        }
    }

    /// A checkpoint fits: with the hashes as written, or with those of the entries' bytes.
    fn vouch(&mut self, claim: &Claim, keys: Vec<KeyId>, altered: Altered) {
        if let Some(content) = self.content.take() {
            self.report.told(altered);
            if altered == Altered::Hash {
                self.written = content;
            }
        }
        self.covered = self.next();
        self.report.checkpoints += 1;
        let (size, root) = (claim.checkpoint.size(), *claim.checkpoint.root());
        let vouched = Vouched { size, root, keys, note: claim.note.to_string() };
        if let Place::Kept(name) = &claim.place {
            self.report.kept.push((name.clone(), vouched.clone()));
        }
        if self.report.vouched.as_ref().is_none_or(|newest| newest.size <= size) {
            self.report.vouched = Some(vouched);
        }
    }
}

/// Reads `events before <N> dropped`, which may be followed by more.
fn dropped_before(detail: &str) -> Option<u64> {
    let (number, rest) = detail.strip_prefix("events before ")?.split_once(' ')?;
    if rest == "dropped" || rest.starts_with("dropped ") || rest.starts_with("dropped,") {
        number.parse().ok()
    } else {
        None
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::File(name) => f.write_str(name),
            Self::Tile(id, None) => write!(f, "{id}"),
            Self::Tile(id, Some(position)) => write!(f, "{id}, hash {position}"),
            Self::Kept(name) => write!(f, "checkpoint {name}"),
            Self::End => f.write_str("at the end"),
        }
    }
}
