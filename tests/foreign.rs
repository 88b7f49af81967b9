//! Cloakroom from outside: a client and a reader of stored records in Python, which share nothing with this crate but
//! its protos and documents. They are in `tests/foreign/`; this runs them on the program and shows what they say.

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn a_foreign_client_and_a_foreign_reader_find_what_the_documents_say_t_05_t_11() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/run");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory");
    let done = Command::new(program)
        .arg(env!("CARGO_BIN_EXE_cloakroom"))
        .env("CARGO_TARGET_DIR", target)
        .stdin(Stdio::null())
        .output()
        .expect("tests/foreign/run can't be started");
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "tests/foreign/run failed: its output is above");
    let last = said.lines().last().unwrap_or_default();
    let passed = last.strip_suffix(" passed, 0 failed").and_then(|passed| passed.parse::<u32>().ok());
    assert!(passed.is_some_and(|passed| passed > 0), "tests/foreign/run checked nothing: {last}");
}
