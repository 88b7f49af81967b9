//! The log's key is succeeded by another, and a crash may come between any two steps of that.

use super::*;
use crate::ledger::{LogKeys, OpenError, log_keys_row};
use crate::merkle::note::{Checkpoint, LogKey, Name, NoteError, VerifierKey};
use crate::secret::SecretKey;

fn successor() -> LogKey {
    LogKey::from_seed(Name::new(LOG).unwrap(), &SecretKey::new([0x4e; 32]))
}

fn handover(site: &Site) -> Result<Open, OpenError> {
    site.open_with(Box::new(|| 1), Signing::handover(site.log_key(), successor()))
}

/// The commit in which the new key comes into force.
fn succeed(site: &Site, open: &Open) -> u64 {
    let size = open.ledger.head().unwrap().size;
    let keys = site.log_keys().succeeded_by(successor().verifier(), size + 1);
    let basis = open.ledger.basis().decided_by(1);
    let submission = Submission::new(basis, event("rotation", &[])).with_changes(log_keys_row(&open.meta, &keys));
    assert_eq!(submit(&open.ledger, submission).unwrap().wait().unwrap().sequence(), size);
    size + 1
}

fn rotated() -> (Site, u64) {
    let site = Site::new();
    let open = handover(&site).unwrap();
    let size = succeed(&site, &open);
    open.close();
    (site, size)
}

fn note(site: &Site) -> String {
    std::fs::read_to_string(site.checkpoints().file()).unwrap()
}

fn signed_by(note: &str, key: &VerifierKey) -> bool {
    Checkpoint::open(note, key.name(), std::slice::from_ref(key)).is_ok()
}

#[test]
fn both_sign_and_from_then_on_the_new_one_alone_a_04() {
    let (mut site, size) = rotated();
    let (old, new) = (site.log_key().verifier(), successor().verifier());
    let bridge = std::fs::read_to_string(site.checkpoints().file().with_file_name("rotations").join(size.to_string()));
    let bridge = bridge.expect("the note that leads from one to the other is kept");
    assert_eq!(bridge, note(&site));
    assert!(signed_by(&bridge, &old) && signed_by(&bridge, &new));
    assert_eq!(site.log_keys(), LogKeys::of(old.clone()).succeeded_by(new.clone(), size));

    let error = site.open().err().unwrap();
    assert!(matches!(&error, OpenError::RetiredLogKey { known: true, .. }), "{error}");
    site.log_key.1 = [0x4e; 32];
    let open = site.open().unwrap();
    issue_now(&open, 7).wait().unwrap();
    open.close();
    assert!(!signed_by(&note(&site), &old) && signed_by(&note(&site), &new));
    assert_eq!(site.check().len() as u64, site.vouched());
}

#[test]
fn what_the_old_key_signs_alone_is_refused_from_then_on_a_04() {
    let (mut site, size) = rotated();
    let old = site.log_key();
    site.log_key.1 = [0x4e; 32];
    let root = site.newest().unwrap().root().to_owned();
    let forged = Checkpoint::new(old.name().clone(), size, root, Vec::new()).unwrap().sign(&[&old]);
    assert_eq!(site.log_keys().open(&forged).err(), Some(NoteError::Untrusted));
    let earlier = Checkpoint::new(old.name().clone(), size - 1, root, Vec::new()).unwrap();
    assert!(site.log_keys().open(&earlier.sign(&[&old])).is_ok(), "for what it signed before it stays good");
    assert!(site.log_keys().open(&earlier.sign(&[&successor()])).is_err(), "for which the new one is not");
    site.checkpoints().write(&forged).unwrap();
    assert!(matches!(site.open().err(), Some(OpenError::Checkpoint(_))));
}

#[test]
fn a_rotation_that_was_cut_off_goes_on() {
    // Before the commit: nothing has happened, and notes that both have signed are good.
    let site = Site::new();
    let open = handover(&site).unwrap();
    issue_now(&open, 1).wait().unwrap();
    open.close();
    site.open().unwrap().close();
    assert!(signed_by(&note(&site), &site.log_key().verifier()));

    // Behind the commit, before the note.
    let mut site = Site::new();
    let old_note = note(&site);
    let open = handover(&site).unwrap();
    let size = succeed(&site, &open);
    open.close();
    std::fs::remove_dir_all(site.checkpoints().file().with_file_name("rotations")).unwrap();
    site.checkpoints().write(&old_note).unwrap();
    site.restart(None);
    let error = site.open().err().unwrap();
    assert!(error.to_string().contains("rotate-log-key"), "it says what to do: {error}");
    let open = handover(&site).unwrap();
    open.close();
    assert_eq!(site.vouched(), size);
    assert!(signed_by(&note(&site), &site.log_key().verifier()) && signed_by(&note(&site), &successor().verifier()));
}

#[test]
fn the_row_of_the_keys_has_one_spelling() {
    let (site, size) = rotated();
    let keys = site.log_keys();
    assert_eq!(LogKeys::decode(&keys.encode()), Some(keys.clone()));
    let text = String::from_utf8(keys.encode()).unwrap();
    assert_eq!(text, format!("0 {}\n{size} {}\n", site.log_key().verifier(), successor().verifier()));
    for wrong in [&b""[..], b"0\n", b"x key\n", b"0 not+a+key\n", b"\xff"] {
        assert_eq!(LogKeys::decode(wrong), None);
    }
}

#[test]
fn a_key_is_in_force_from_the_size_at_which_it_came() {
    let keys = ["a", "b", "c"]
        .map(|seed| LogKey::from_seed(Name::new(LOG).unwrap(), &SecretKey::new([seed.as_bytes()[0]; 32])).verifier());
    let log = LogKeys::of(keys[0].clone()).succeeded_by(keys[1].clone(), 7);
    assert_eq!(keys.each_ref().map(|key| log.in_force_from(key)), [Some(0), Some(7), None]);
    assert_eq!(log.newest(), &keys[1]);
}
