//! The witness's judgement: what it refuses and how, what it remembers, and that no order of requests gets two histories
//! cosigned.

use super::fixture::{History, witness_key};
use super::*;
use crate::clock::{FakeClock, Timestamp};
use crate::merkle::leaf_hash;
use proptest::prelude::*;
use std::fs;
use std::sync::Barrier;

const NAME: &str = "witness.example/1";

/// A witness's directory, and what it is opened with.
struct Site {
    folder: tempfile::TempDir,
    clock: Arc<FakeClock>,
    logs: Vec<VerifierKey>,
}

impl Site {
    fn new(logs: &[&History]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Witness::create_state(&folder.path().join("state")).unwrap();
        let clock = FakeClock::at(Timestamp::from_millis(1_790_000_000_500));
        Self { folder, clock, logs: logs.iter().map(|log| log.verifier()).collect() }
    }

    fn state(&self) -> std::path::PathBuf {
        self.folder.path().join("state")
    }

    fn open(&self) -> Witness {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Witness, StateError> {
        Witness::open(witness_key(NAME), &self.logs, &self.state(), Arc::clone(&self.clock) as _)
    }

    /// Every file but the lock, with its content.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.state()).unwrap().map(|entry| entry.unwrap());
        let file = |entry: fs::DirEntry| {
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap_or_default())
        };
        entries.map(file).filter(|(name, _)| name != "lock").collect()
    }
}

/// When the line cosigns the note, in seconds.
fn cosigned(note: &str, line: &str) -> Option<u64> {
    Note::parse(&format!("{note}{line}")).unwrap().cosigned_by(&witness_key(NAME).verifier()).unwrap()
}

#[test]
fn a_log_is_cosigned_as_it_grows_and_nothing_is_forgotten() {
    let log = History::new(200);
    let site = Site::new(&[&log]);
    let mut last = 0;
    for size in [0, 1, 2, 3, 7, 8, 100, 128, 200] {
        // A new process each time: what counts is on disk.
        let line = site.open().add_checkpoint(&log.body(last, size)).unwrap();
        assert_eq!(cosigned(&log.note(size), &line), Some(1_790_000_000));
        last = size;
    }
    assert_eq!(site.files().len(), 1, "one file for a log");
}

#[test]
fn an_equal_checkpoint_is_cosigned_again_with_the_time_that_it_is_then() {
    let log = History::new(5);
    let site = Site::new(&[&log]);
    let witness = site.open();
    witness.add_checkpoint(&log.body(0, 5)).unwrap();
    let before = site.files();
    site.clock.advance(std::time::Duration::from_mins(1));
    let later = log.note_with(5, vec!["time 2026-11-22T06:30:00.000Z".to_owned()]);
    let request = Request { old: 5, proof: vec![], note: later.clone() };
    let line = witness.add_checkpoint(request.to_body().as_bytes()).unwrap();
    assert_eq!(cosigned(&later, &line), Some(1_790_000_060));
    assert_eq!(site.files(), before);
}

/// A body that is refused with this status, whatever was cosigned before.
struct Case {
    what: &'static str,
    status: u16,
    body: Vec<u8>,
}

#[test]
fn everything_that_does_not_extend_what_was_cosigned_is_refused_and_changes_nothing_a_05() {
    let log = History::new(100);
    let site = Site::new(&[&log]);
    let witness = site.open();
    witness.add_checkpoint(&log.body(0, 40)).unwrap();
    let before = site.files();
    for Case { what, status, body } in cases(&log) {
        let refused = witness.add_checkpoint(&body).expect_err(what);
        assert_eq!(refused.status(), status, "{what}: {refused}");
        assert_eq!(site.files(), before, "{what}");
    }
    let refused = witness.add_checkpoint(&log.body(0, 100)).unwrap_err();
    assert!(matches!(refused, Refused::OtherSize(40)), "{refused}");
    witness.add_checkpoint(&log.body(40, 100)).unwrap();
}

fn cases(log: &History) -> Vec<Case> {
    let case = |what, status, body: &[u8]| Case { what, status, body: body.to_vec() };
    let with = |change: &dyn Fn(&mut Request)| {
        let mut request = log.request(40, 50);
        change(&mut request);
        request.to_body().into_bytes()
    };
    let good = String::from_utf8(log.body(40, 50)).unwrap();
    let forged = log.fork(30, 100);
    let stranger = log.clone().signed_with([9; 32]);
    let elsewhere = History::of("log.example/other", 50);
    let two_keys = good.clone() + stranger.note(50).lines().last().unwrap() + "\n";
    let broken = good.replace("— log.example/vault ", "— log.example/vault A");
    vec![
        case("an empty body", 400, b""),
        case("not UTF-8", 400, b"old 40\n\n\xff"),
        case("no proof and no empty line", 400, log.note(50).as_bytes()),
        case("no first line", 400, format!("\n\n{}", log.note(50)).as_bytes()),
        case("an old size with a zero in front", 400, good.replace("old 40", "old 040").as_bytes()),
        case("an old size with a sign", 400, good.replace("old 40", "old +40").as_bytes()),
        case("a negative old size", 400, good.replace("old 40", "old -1").as_bytes()),
        case("an old size that no number holds", 400, good.replace("old 40", "old 18446744073709551616").as_bytes()),
        case("two spaces", 400, good.replace("old 40", "old  40").as_bytes()),
        case("a carriage return", 400, good.replace("old 40\n", "old 40\r\n").as_bytes()),
        case(
            "a hash of 31 bytes",
            400,
            good.replacen("old 40\n", &format!("old 40\n{}\n", "A".repeat(42)), 1).as_bytes(),
        ),
        case("64 lines of proof", 400, &with(&|request| request.proof = vec![leaf_hash(b"x"); 64])),
        case(
            "more bytes than a request has",
            400,
            &with(&|request| request.note += &"x".repeat(REQUEST_BYTES_AT_MOST)),
        ),
        case("no signature", 400, &good.as_bytes()[..good.find('—').unwrap()]),
        case("no last line feed", 400, good.trim_end().as_bytes()),
        case("a size with a zero in front", 400, good.replace("\n50\n", "\n050\n").as_bytes()),
        case("an old size above the checkpoint's", 400, good.replace("old 40", "old 51").as_bytes()),
        case("an unknown log", 404, &elsewhere.body(0, 50)),
        case("an unknown key of a known log", 403, &stranger.body(40, 50)),
        case("a signature of something else", 403, good.replace("\n50\n", "\n51\n").as_bytes()),
        case("a signature that is none", 400, broken.as_bytes()),
        case("an older size than what was cosigned", 409, &log.body(20, 30)),
        case("an older size, from what was cosigned", 400, &with(&|request| request.note = log.note(30))),
        case("from the beginning", 409, &log.body(0, 50)),
        case("from nothing cosigned", 409, &log.body(39, 50)),
        case("from beyond", 409, &log.body(41, 50)),
        case("the same size with another root", 409, &forged.body(40, 40)),
        case("a fork before what was cosigned", 422, &forged.body(40, 50)),
        case("no proof", 422, &with(&|request| request.proof.clear())),
        case("a proof with a hash too few", 422, &with(&|request| request.proof.truncate(request.proof.len() - 1))),
        case("a proof with a hash too many", 422, &with(&|request| request.proof.push(leaf_hash(b"x")))),
        case("a proof with another hash", 422, &with(&|request| request.proof[0] = leaf_hash(b"x"))),
        case("the proof of another size", 422, &with(&|request| request.proof = log.proof(40, 51))),
        case("the same with a proof", 422, &{
            let request = Request { proof: log.proof(30, 40), ..log.request(40, 40) };
            request.to_body().into_bytes()
        }),
        case("two keys, the unknown one for nothing", 409, two_keys.replace("old 40", "old 39").as_bytes()),
    ]
}

#[test]
fn a_request_is_read_up_to_its_longest_and_no_further() {
    let of_length = |length: usize| {
        let head = "old 7\n\n";
        format!("{head}{}", "x".repeat(length - head.len())).into_bytes()
    };
    let longest = Request::parse(&of_length(REQUEST_BYTES_AT_MOST)).unwrap();
    assert_eq!((longest.old, longest.note.len()), (7, REQUEST_BYTES_AT_MOST - 7));
    for more in [1, 2, 4096] {
        let refused = Request::parse(&of_length(REQUEST_BYTES_AT_MOST + more));
        assert_eq!(refused, Err("the request is longer than 256 KiB"), "{more} more");
    }
}

#[test]
fn the_first_checkpoint_needs_no_proof_and_has_none() {
    let log = History::new(50);
    let site = Site::new(&[&log]);
    let witness = site.open();
    let request = Request { proof: log.proof(20, 50), ..log.request(0, 50) };
    assert_eq!(witness.add_checkpoint(request.to_body().as_bytes()).unwrap_err().status(), 422);
    assert_eq!(witness.add_checkpoint(&log.body(20, 50)).unwrap_err().status(), 409);
    let empty = Checkpoint::new(log.key().name().clone(), 0, leaf_hash(b"not nothing"), vec![]).unwrap();
    let empty = Request { old: 0, proof: vec![], note: empty.sign(&[&log.key()]) };
    assert_eq!(witness.add_checkpoint(empty.to_body().as_bytes()).unwrap_err().status(), 422);
    assert_eq!(site.files().len(), 0);
    witness.add_checkpoint(&log.body(0, 50)).unwrap();
}

#[test]
fn a_log_with_two_keys_is_one_log() {
    let log = History::new(50);
    let successor = log.clone().signed_with([9; 32]);
    let site = Site::new(&[&log, &successor]);
    let witness = site.open();
    witness.add_checkpoint(&log.body(0, 20)).unwrap();
    assert_eq!(witness.add_checkpoint(&successor.body(0, 20)).unwrap_err().status(), 409);
    witness.add_checkpoint(&successor.body(20, 30)).unwrap();
    witness.add_checkpoint(&log.body(30, 50)).unwrap();
}

#[test]
fn of_two_signatures_one_that_is_trusted_is_enough_and_a_wrong_one_of_a_known_key_spoils_it() {
    let log = History::new(50);
    let successor = log.clone().signed_with([9; 32]);
    let second = |note: &str| note.lines().last().unwrap().to_owned() + "\n";
    let site = Site::new(&[&log]);
    let witness = site.open();
    let both = Request { note: log.note(20) + &second(&successor.note(20)), ..log.request(0, 20) };
    witness.add_checkpoint(both.to_body().as_bytes()).unwrap();
    let wrong = Request { note: log.note(30) + &second(&log.note(31)), ..log.request(20, 30) };
    assert_eq!(witness.add_checkpoint(wrong.to_body().as_bytes()).unwrap_err().status(), 403);
}

#[test]
fn logs_do_not_mix() {
    let (log, other) = (History::new(50), History::of("log.example/other", 50));
    let site = Site::new(&[&log, &other]);
    let witness = site.open();
    witness.add_checkpoint(&log.body(0, 20)).unwrap();
    witness.add_checkpoint(&other.body(0, 10)).unwrap();
    drop(witness);
    let witness = site.open();
    witness.add_checkpoint(&other.body(10, 20)).unwrap();
    witness.add_checkpoint(&log.body(20, 30)).unwrap();
    assert_eq!(site.files().len(), 2);
}

#[test]
fn of_requests_at_the_same_time_each_sees_what_the_one_before_left() {
    let log = History::new(100);
    let site = Site::new(&[&log]);
    let witness = site.open();
    let mut last = 0;
    while last < 100 {
        // All from the same size to different ones: exactly one is right when its turn comes.
        let sizes: Vec<u64> = (1..=8).map(|step| last + step).filter(|size| *size <= 100).collect();
        let start = Barrier::new(sizes.len());
        let outcomes: Vec<(u64, Result<String, Refused>)> = std::thread::scope(|scope| {
            let submit = |size: u64| {
                let (start, witness, body) = (&start, &witness, log.body(last, size));
                scope.spawn(move || {
                    start.wait();
                    (size, witness.add_checkpoint(&body))
                })
            };
            let threads: Vec<_> = sizes.iter().map(|size| submit(*size)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let won: Vec<u64> = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(size, _)| *size).collect();
        assert_eq!(won.len(), 1, "one goes on from {last}: {won:?}");
        let told = |refused: &Refused| matches!(refused, Refused::OtherSize(size) if *size == won[0]);
        assert!(outcomes.iter().all(|(_, outcome)| outcome.as_ref().err().is_none_or(told)));
        last = won[0];
    }
}

// === what is on disk ===

#[test]
fn a_crash_before_the_rename_leaves_what_was_there() {
    let log = History::new(50);
    let site = Site::new(&[&log]);
    site.open().add_checkpoint(&log.body(0, 20)).unwrap();
    let old = site.files();
    site.open().add_checkpoint(&log.body(20, 30)).unwrap();
    let (name, newer) = site.files().pop_first().unwrap();
    // Whole, in part, and nothing yet: each as a crash may leave it.
    for left in [&newer[..], &newer[..newer.len() / 2], b""] {
        fs::write(site.state().join(&name), &old[&name]).unwrap();
        fs::write(site.state().join(&name).with_extension("new"), left).unwrap();
        let witness = site.open();
        assert!(matches!(witness.add_checkpoint(&log.body(0, 40)), Err(Refused::OtherSize(20))));
        witness.add_checkpoint(&log.body(20, 40)).unwrap();
        assert_eq!(site.files().len(), 1, "what was left was used up");
    }
}

#[test]
fn what_can_not_be_written_is_not_cosigned_and_may_be_tried_again() {
    let log = History::new(50);
    let site = Site::new(&[&log]);
    let witness = site.open();
    witness.add_checkpoint(&log.body(0, 20)).unwrap();
    let (name, _) = site.files().pop_first().unwrap();
    let new = site.state().join(&name).with_extension("new");
    fs::create_dir(&new).unwrap();
    for _ in 0..2 {
        let refused = witness.add_checkpoint(&log.body(20, 30)).unwrap_err();
        assert!(matches!(refused, Refused::NotStored(_)), "{refused}");
        assert_eq!(refused.status(), 503);
    }
    // The old file is as it was, so nothing is uncertain.
    fs::remove_dir(&new).unwrap();
    witness.add_checkpoint(&log.body(20, 30)).unwrap();
}

#[test]
fn after_a_rename_of_which_nobody_knows_whether_it_happened_only_a_start_helps() {
    let log = History::new(50);
    let site = Site::new(&[&log]);
    let witness = site.open();
    witness.add_checkpoint(&log.body(0, 20)).unwrap();
    let (name, content) = site.files().pop_first().unwrap();
    let file = site.state().join(&name);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(matches!(witness.add_checkpoint(&log.body(20, 30)), Err(Refused::NotStored(_))));
    fs::remove_dir(&file).unwrap();
    fs::write(&file, content).unwrap();
    for size in [20, 30] {
        let refused = witness.add_checkpoint(&log.body(20, size)).unwrap_err();
        assert!(matches!(refused, Refused::Uncertain), "{refused}");
        assert_eq!(refused.status(), 503);
    }
    drop(witness);
    site.open().add_checkpoint(&log.body(20, 30)).unwrap();
}

#[test]
fn damage_is_an_error_at_the_start_and_never_a_new_beginning() {
    let (log, other) = (History::new(50), History::of("log.example/other", 50));
    let site = Site::new(&[&log, &other]);
    let witness = site.open();
    witness.add_checkpoint(&log.body(0, 20)).unwrap();
    let (name, whole) = site.files().pop_first().unwrap();
    witness.add_checkpoint(&other.body(0, 20)).unwrap();
    let foreign = site.files().into_iter().find(|(file, _)| *file != name).unwrap().1;
    drop(witness);
    let file = site.state().join(&name);
    let refuse = |content: &[u8], what: &str| {
        fs::write(&file, content).unwrap();
        let error = site.try_open().map(drop).expect_err(what);
        assert!(matches!(error, StateError::Damaged { .. } | StateError::Newer(_)), "{what}: {error}");
        assert_eq!(fs::read(&file).unwrap(), content, "nothing was changed");
    };
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        refuse(&changed, &format!("byte {place} changed"));
        refuse(&whole[..place], &format!("cut after {place} bytes"));
    }
    refuse(&[&whole[..], b"\n"].concat(), "a line more");
    refuse(&foreign, "another log's");
    let newer = String::from_utf8(whole.clone()).unwrap().replace("state-v1", "state-v2");
    refuse(newer.as_bytes(), "a newer format");
    fs::write(&file, &whole).unwrap();
    site.open().add_checkpoint(&log.body(20, 30)).unwrap();
}

#[test]
fn the_frozen_state_is_read_and_written() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/vectors/cosignature_v1.json")).unwrap();
    let frozen = &vectors["state"];
    let text = |name: &str| frozen[name].as_str().unwrap();
    let log: VerifierKey = vectors["log"].as_str().unwrap().parse().unwrap();
    let site = Site { logs: vec![log.clone()], ..Site::new(&[]) };
    fs::write(site.state().join(text("file")), text("content")).unwrap();
    let witness = site.open();
    let request = Request { old: 0, proof: vec![], note: text("note").to_owned() };
    let size = frozen["size"].as_u64().unwrap();
    assert!(
        matches!(witness.add_checkpoint(request.to_body().as_bytes()), Err(Refused::OtherSize(told)) if told == size)
    );
    drop(witness);
    // What we write of the same note is the same.
    fs::remove_file(site.state().join(text("file"))).unwrap();
    let directory = Directory::open(&site.state()).unwrap();
    directory.store(log.name(), &Note::parse(text("note")).unwrap()).unwrap();
    assert_eq!(fs::read_to_string(site.state().join(text("file"))).unwrap(), text("content"));
}

#[test]
fn what_the_file_system_refuses_is_an_error_with_the_file_s_name_and_never_a_new_beginning() {
    let log = History::new(50);
    let site = Site::new(&[&log]);
    site.open().add_checkpoint(&log.body(0, 20)).unwrap();
    let (name, whole) = site.files().pop_first().unwrap();
    let file = site.state().join(&name);
    let refused = |at: &std::path::Path| match site.try_open().map(drop).unwrap_err() {
        StateError::Io { path, .. } => assert_eq!(path, at),
        other => panic!("{other}"),
    };
    fs::remove_file(&file).unwrap();
    // What can't be opened, for it leads to itself, and what can be opened and not be read.
    std::os::unix::fs::symlink(&file, &file).unwrap();
    refused(&file);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    refused(&file);
    fs::remove_dir(&file).unwrap();
    fs::write(&file, whole).unwrap();
    // The directory's own lock.
    let lock = site.state().join("lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    refused(&lock);
    fs::remove_dir(&lock).unwrap();
    fs::write(&lock, "").unwrap();
    site.open().add_checkpoint(&log.body(20, 30)).unwrap();
}

#[test]
fn one_process_at_a_time_and_only_where_a_witness_was_made() {
    let log = History::new(5);
    let site = Site::new(&[&log]);
    let witness = site.open();
    assert!(matches!(site.try_open(), Err(StateError::InUse(_))));
    drop(witness);
    drop(site.open());
    // As the place of a disk that is not mounted.
    fs::remove_file(site.state().join("lock")).unwrap();
    assert!(matches!(site.try_open(), Err(StateError::NotState(_))));
    assert!(Witness::create_state(&site.state()).is_err(), "never over something");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is submitted in whatever order, with restarts between: what was cosigned is one history that only grows.
    #[test]
    fn no_order_of_requests_gets_two_histories_cosigned(
        fork_at in 0u64..30,
        steps in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..40, 0u8..8), 1..40),
    ) {
        let honest = History::new(40);
        let forged = honest.fork(fork_at, 40);
        let site = Site::new(&[&honest]);
        let mut witness = Some(site.open());
        let (mut last, mut roots) = (0, Vec::new());
        for (forge, old, size, chance) in steps {
            let history = if forge { &forged } else { &honest };
            // Mostly from what was cosigned last, since all else is refused at once.
            let old = if chance > 0 { last } else { old };
            if chance == 1 {
                drop(witness.take());
            }
            let running = witness.get_or_insert_with(|| site.open());
            let (old, size) = (old.min(size), old.max(size));
            if running.add_checkpoint(&history.body(old, size)).is_ok() {
                prop_assert!(size >= last);
                last = size;
                roots.push((size, history.root(size)));
            }
        }
        let all_of = |history: &History| roots.iter().all(|(size, root)| history.root(*size) == *root);
        prop_assert!(all_of(&honest) || all_of(&forged), "{:?}", roots);
    }

    #[test]
    fn requests_are_read_as_they_are_written_and_nothing_panics(
        old: u64,
        proof in prop::collection::vec(any::<[u8; 32]>(), 0..64),
        note in "[a-z\n—+ ]{0,80}",
        text in "(old [0-9]{0,3}\n)?[ -~\n—+=]{0,200}",
    ) {
        let proof = proof.into_iter().map(crate::merkle::Hash).collect();
        let request = Request { old, proof, note };
        prop_assert_eq!(Request::parse(request.to_body().as_bytes()), Ok(request));
        let _ = Request::parse(text.as_bytes());
    }
}
