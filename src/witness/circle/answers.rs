//! Answers of witnesses that are of no use, and what is said of each.

use super::*;
use crate::https::Answer;
use crate::witness::fixture::{History, witness_key};

fn said(status: u16, content_type: &str, body: &[u8]) -> String {
    let (log, key) = (History::new(9), witness_key("w.example/1").verifier());
    let heard = Answer { status, content_type: content_type.to_owned(), body: body.to_vec() };
    match read(&heard, &key, &log.note(5)) {
        Reply::Failed(said) => said,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_cosignature_and_no_size_is_said_in_a_few_words() {
    let none = "its answer holds no good cosignature by w.example/1+";
    for body in [&b""[..], b"\xff\xfe", b"no line of a note\n", "\u{2014} w.example/1 AAAAAAAA\n".as_bytes()] {
        assert!(said(200, "text/plain", body).starts_with(none), "{body:?}");
    }
    for body in [&b""[..], b"\xff\n", b"7", b"07\n", b"-1\n", b"seven\n"] {
        assert!(said(409, SIZE_TYPE, body).starts_with("it told no size: "), "{body:?}");
    }
    assert_eq!(said(404, "text/plain", b"no such log\n"), "it answered 404: \"no such log\"");
    let long = said(503, "text/plain", "x".repeat(100_000).as_bytes());
    assert!(long.len() < 300, "{} bytes", long.len());
}

#[test]
fn a_witness_whose_authorities_can_not_be_read_is_no_member() {
    let missing = Path::new("/nowhere/authorities.pem");
    let key = witness_key("w.example/1").verifier();
    let refused = Member::new("https://w.example/".parse().unwrap(), key, Some(missing)).map(drop).unwrap_err();
    assert!(refused.to_string().contains("/nowhere/authorities.pem"), "{refused}");
}
