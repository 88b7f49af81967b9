//! Lines that are not as an export writes them, and what is said about a log that does not hold.

use super::made::{Log, event, key, only, trusting, verified, with_kept};
use crate::event::{Action, Event, Outcome};
use crate::merkle::leaf_hash;
use crate::merkle::note::{LogKey, Name};
use crate::secret::SecretKey;
use crate::verify::report::Altered;
use crate::verify::{Fault, Gone, export};

/// The only fault of a log of four entries whose second line is changed.
fn with_second(change: impl FnOnce(String) -> String) -> Fault {
    let mut lines = Log::of_size(4).lines(&[4]);
    let line = String::from_utf8(std::mem::take(&mut lines[1])).unwrap();
    let changed = change(line.clone());
    assert_ne!(changed, line);
    lines[1] = changed.into_bytes();
    only(&verified(&trusting(&[1]), &lines.concat())).clone()
}

/// The hash in capitals, which no export writes.
fn shouted(line: &str) -> String {
    let at = line.find(export::HASH).unwrap() + export::HASH.len();
    format!("{}{}{}", &line[..at], line[at..at + 64].to_uppercase(), &line[at + 64..])
}

#[test]
fn each_form_that_is_none_is_named() {
    let head = Fault::Form("the line does not begin with a sequence and a hash");
    let hash = Fault::Form("the hash is not 64 lower-case hexadecimal digits");
    let base64 = Fault::Form("the leaf is not base64");
    assert_eq!(with_second(|line| line.replacen(":1,", ":01,", 1)), head);
    assert_eq!(with_second(|line| line.replacen(":1,", ":,", 1)), head);
    assert_eq!(with_second(|line| line.replacen(":1,", ":18446744073709551616,", 1)), head);
    assert_eq!(with_second(|line| line.replacen("\"hash\":\"", "\"hash\":\"0", 1)), head);
    assert_eq!(with_second(|line| line.replacen(":1,", ":2,", 1)), Fault::Sequence { expected: 1, found: 2 });
    assert_eq!(with_second(|line| shouted(&line)), hash);
    assert_eq!(with_second(|line| line.replacen(export::LEAF, ",\"leaf\":\"*", 1)), base64);
    assert_eq!(with_second(|line| shouted(&line).replacen(export::LEAF, ",\"leaf\":\"*", 1)), base64);
    let behind = Fault::Form("behind the hash there is no leaf");
    assert_eq!(with_second(|line| line.replacen(export::LEAF, ",\"bead\":\"", 1)), behind);
    let cut = Fault::Form("the line has no end: the export was cut, or is being written");
    let mut whole = Log::of_size(4).export();
    whole.pop();
    assert_eq!(only(&verified(&trusting(&[1]), &whole)), &cut);
    // A dropped entry has its hash in the same form.
    let mut dropped = Vec::new();
    export::dropped(0, &leaf_hash(&Log::of_size(1).leaves[0]), &mut dropped);
    let dropped = shouted(std::str::from_utf8(&dropped).unwrap());
    assert_eq!(only(&verified(&trusting(&[1]), dropped.as_bytes())), &hash);
}

#[test]
fn of_many_checkpoints_that_fit_nothing_some_are_shown_and_all_are_counted_a_03() {
    let log = Log::of_size(20);
    let mut forked = log.clone();
    forked.put(0, &event(0, 8));
    let report = |count: u64| {
        let kept = (1..=count).map(|size| forked.kept(size)).collect();
        verified(&with_kept(kept), &log.export())
    };
    for count in [1, 15, 16, 17, 20] {
        let report = report(count);
        assert_eq!((report.findings.len() as u64, report.more_findings), (count.min(16), count.saturating_sub(16)));
        assert!(report.findings.iter().all(|finding| matches!(finding.fault, Fault::Fork { .. })));
    }
}

#[test]
fn findings_say_where_and_what() {
    let mut log = Log::of_size(4);
    let signed = log.note(4);
    log.put(2, &event(2, 8));
    let mut lines = log.lines(&[]);
    lines.push(super::made::checkpoint(&signed));
    let report = verified(&trusting(&[1]), &lines.concat());
    let Fault::OtherRoot { since: 0, size: 4, note } = only(&report) else { panic!("{report:?}") };
    assert_eq!(note, &signed);
    assert_eq!(only(&report).evidence(), [signed.as_str()]);
    assert!(report.findings[0].to_string().starts_with("entry 0, line 5: "), "{}", report.findings[0]);
    assert_eq!(report.first_bad(), Some(0));
    assert!(Fault::Empty.evidence().is_empty());
    let said = [
        (Gone::Missing.to_string(), "the file is missing"),
        (Gone::Length { expected: 3, found: 4 }.to_string(), "the file has 4 bytes where 3 belong"),
        (Gone::Torn.to_string(), "the file ends within an entry"),
        (Altered::Unknown.to_string(), "one of the two was altered"),
        (Altered::Bytes.to_string(), "the hash is the one that was signed"),
        (Altered::Hash.to_string(), "the bytes are those that were signed"),
    ];
    for (said, begin) in said {
        assert!(said.starts_with(begin), "{said}");
    }
}

/// A succession that says less than it must changes nothing: the old key goes on alone.
#[test]
fn what_is_no_succession_is_not_followed_a_04() {
    let (old, new) = (key(1).verifier(), key(2).verifier());
    let elsewhere = LogKey::from_seed(Name::new("example.org/log/2").unwrap(), &SecretKey::new([2; 32])).verifier();
    let good = format!("log key {old} is succeeded by {new}");
    let rotation = |detail: &str| Event {
        action: Action::RotateKeys.into(),
        outcome: Outcome::Allowed.into(),
        reason: String::new(),
        detail: detail.to_owned(),
        ..event(0, 0)
    };
    let events = [
        rotation(&good.replace("log key", "a key")),
        rotation(&good.replace("succeeded", "followed")),
        rotation(&good.replace(&new.to_string(), "nobody")),
        rotation(&format!("log key {new} is succeeded by {old}")),
        rotation(&format!("log key {old} is succeeded by {old}")),
        rotation(&format!("log key {old} is succeeded by {elsewhere}")),
        Event { outcome: Outcome::Denied.into(), reason: "POLICY_DENIED".to_owned(), ..rotation(&good) },
        Event { action: Action::Purge.into(), ..rotation(&good) },
    ];
    for other in events {
        let mut log = Log::of_size(6);
        log.put(2, &other);
        let report = verified(&trusting(&[1]), &log.export());
        assert!(report.holds() && report.rotations.is_empty(), "{}: {report:?}", other.detail);
        log.keys = vec![(0, vec![2])];
        assert!(!verified(&trusting(&[1]), &log.export()).holds(), "{}", other.detail);
    }
    // The control: with the right words the old one alone is not enough any more.
    let mut log = Log::of_size(6);
    log.put(2, &rotation(&good));
    let report = verified(&trusting(&[1]), &log.export());
    assert_eq!(only(&report), &Fault::Retired { old: old.id(), sequence: 2 });
}
