//! Which mutant is on. Compiled into the copy that `switch.py` makes, never into the vault.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::LazyLock;

static ON: LazyLock<u32> = LazyLock::new(|| match std::env::var("MUTANT").as_deref() {
    Ok("record") => u32::MAX,
    Ok(number) => number.parse().expect("MUTANT is the number of a mutant"),
    Err(_) => 0,
});

/// Whether this one is on. `MUTANT=record` turns none on and writes down which test comes past which.
pub fn on(number: u32) -> bool {
    let on = *ON;
    if on == u32::MAX {
        _ = SEEN.try_with(|seen| seen.borrow_mut().0.insert(number));
        return false;
    }
    on == number
}

/// The mutants that one thread came past. A test's thread has the name of the test.
struct Seen(BTreeSet<u32>);

thread_local! {
    static SEEN: RefCell<Seen> = const { RefCell::new(Seen(BTreeSet::new())) };
}

impl Drop for Seen {
    fn drop(&mut self) {
        let Ok(path) = std::env::var("MUTANT_SEEN") else { return };
        let numbers: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        let line = format!("{}\t{}\n", std::thread::current().name().unwrap_or("?"), numbers.join(" "));
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).expect("MUTANT_SEEN can be written");
        file.write_all(line.as_bytes()).expect("MUTANT_SEEN can be written");
    }
}
