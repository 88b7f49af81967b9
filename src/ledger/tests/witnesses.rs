//! What the ledger does with witnesses: it shows them what it has, keeps what they sign, and does not open when they object.

use super::*;
use crate::ledger::witnesses::Witnessed;
use crate::merkle::verify_consistency;
use parking_lot::Mutex as Shared;

/// Witnesses as the test wants them: what they are shown is written down, and each proof is checked.
#[derive(Default)]
pub(super) struct Shown {
    /// Sizes in the order in which they were shown.
    sizes: Vec<u64>,
    pub(super) notes: Vec<String>,
    /// The size and root that the proofs are to lead from.
    pub(super) seen: Option<(u64, Hash)>,
    objects: bool,
    /// What they give for a note, or nothing, because they are down.
    pub(super) line: Option<&'static str>,
    pub(super) due: bool,
}

struct Fake(Arc<Shared<Shown>>);

impl Fake {
    fn look(&mut self, note: &str, size: u64, prove: &mut Prove<'_>) {
        let mut shown = self.0.lock();
        let checkpoint = crate::merkle::note::Note::parse(note).unwrap();
        let checkpoint = crate::merkle::note::Checkpoint::parse(checkpoint.text()).unwrap();
        assert_eq!(checkpoint.size(), size);
        if let Some((from, root)) = shown.seen {
            let proof = prove(from).expect("a proof can be made");
            verify_consistency(from, &root, size, checkpoint.root(), &proof).expect("the proof is right");
        }
        shown.seen = Some((size, *checkpoint.root()));
        shown.sizes.push(size);
        shown.notes.push(note.to_owned());
    }
}

impl Witnesses for Fake {
    fn check_start(&mut self, note: &str, size: u64, prove: &mut Prove<'_>) -> Result<(), WitnessError> {
        if self.0.lock().objects {
            return Err(WitnessError::Behind { witness: "w".to_owned(), seen: size + 1, size });
        }
        self.look(note, size, prove);
        Ok(())
    }

    fn cosign(&mut self, note: &str, size: u64, prove: &mut Prove<'_>) -> Vec<String> {
        self.look(note, size, prove);
        self.0.lock().line.map(|line| format!("{line}\n")).into_iter().collect()
    }

    fn is_due(&self) -> bool {
        self.0.lock().due
    }
}

pub(super) fn witnessed(site: &Site) -> Arc<Shared<Shown>> {
    let shown = Arc::new(Shared::new(Shown::default()));
    *site.witnesses.lock().unwrap() = Some(Box::new(Fake(Arc::clone(&shown))));
    shown
}

pub(super) const LINE: &str = "— w.example AAAAAAAA";

pub(super) fn outside(site: &Site) -> String {
    std::fs::read_to_string(site.checkpoints().file()).unwrap()
}

#[test]
fn checkpoints_carry_what_witnesses_sign_and_proofs_lead_there() {
    let mut site = Site::new();
    // Across a full tile, where proofs need the store.
    for events in [1, 254, 1, 1, 300] {
        let shown = witnessed(&site);
        shown.lock().line = Some(LINE);
        let open = site.open().unwrap();
        let before = open.ledger.head().unwrap().size;
        for number in 0..events {
            issue_now(&open, number).wait().unwrap();
        }
        open.close();
        let after = before + u64::from(events);
        assert_eq!(shown.lock().sizes, [before, after], "at the start, and at the end");
        assert!(outside(&site).ends_with(&format!("{LINE}\n")));
        assert_eq!(site.vouched(), after, "it is still the log's own checkpoint");
        check(&site, &[]);
        site.restart(None);
    }
}

#[test]
fn a_log_that_a_witness_contradicts_is_not_opened_a_05() {
    let site = Site::new();
    let (dump, note) = (site.dump(), outside(&site));
    let shown = witnessed(&site);
    shown.lock().objects = true;
    let refused = site.open().map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Witness(WitnessError::Behind { .. })), "{refused}");
    assert!(site.dump() == dump && outside(&site) == note, "nothing was changed");
}

#[test]
fn a_note_is_written_again_only_with_more_cosignatures_than_it_had() {
    let site = Site::new();
    let open = site.open().unwrap();
    let vouched = open.ledger.vouched();
    let (note, rows) = (vouched.note().to_owned(), &*site.store);
    let shown = Arc::new(Shared::new(Shown::default()));
    let mut witnessed = Witnessed::by(Some(Box::new(Fake(Arc::clone(&shown)))));
    assert_eq!(witnessed.cosign(note.clone(), vouched.tree(), rows), note, "they are down");
    assert_eq!(witnessed.complete(vouched.tree(), rows), None, "nobody is due");
    shown.lock().due = true;
    assert_eq!(witnessed.complete(vouched.tree(), rows), None, "they are down still");
    shown.lock().line = Some(LINE);
    assert_eq!(witnessed.complete(vouched.tree(), rows), Some(format!("{note}{LINE}\n")));
    assert_eq!(witnessed.complete(vouched.tree(), rows), None, "nothing more came");
    assert_eq!(shown.lock().sizes, [1, 1, 1, 1], "who is not due is not asked");
    open.close();
}

#[test]
fn a_checkpoint_without_cosignatures_is_completed_when_they_can_be_had() {
    let mut site = Site::new();
    site.period = Duration::from_millis(1);
    let shown = witnessed(&site);
    let open = site.open().unwrap();
    issue_now(&open, 1).wait().unwrap();
    let started = std::time::Instant::now();
    while site.vouched() < 2 {
        assert!(started.elapsed() < HANG, "the checkpoint is written without them");
        std::thread::yield_now();
    }
    assert!(!outside(&site).contains(LINE));
    {
        let mut shown = shown.lock();
        (shown.line, shown.due) = (Some(LINE), true);
    }
    while !outside(&site).contains(LINE) {
        assert!(started.elapsed() < HANG, "it is completed although no event came");
        std::thread::yield_now();
    }
    shown.lock().due = false;
    let notes = shown.lock().notes.clone();
    assert_eq!(notes[1], notes[2], "the same note, not another of the same size");
    open.close();
    check(&site, &[]);
}
