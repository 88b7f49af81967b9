//! Parts of the vault under every order of events that a scheduler can think of (`tests/models`).

use super::tree;
use std::process::{Command, Stdio};

/// No order of events makes the writer's queue lose or repeat a call or wait forever, a change go unnoticed, the vault's time
/// fall, a closed connection sleep on, or two callers use up one token at once. The parts are those of the source, and with a
/// fault planted into each the same models find it.
#[test]
#[ignore = "long: 100,000 orders of events for each of nine models, two minutes with what it builds"]
fn no_order_of_events_breaks_what_threads_meet_at_p_07() {
    const MODELS: usize = 9;
    let done = Command::new(env!("CARGO"))
        .args(["run", "--release", "--locked", "--quiet", "--manifest-path", "tests/models/Cargo.toml"])
        .args(["--target-dir", "target/models"])
        .current_dir(tree::root())
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null())
        .output()
        .expect("cargo can be started");
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "an order fails, or a planted fault was not found: see above");
    assert_eq!(said.matches("no order fails").count(), MODELS, "not all of them ran");
    assert_eq!(said.matches("was found").count(), MODELS, "not all planted faults were looked for");
}
