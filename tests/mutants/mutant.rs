//! Which mutant is on. Compiled into the copy that `switch.py` makes, never into the vault.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::sync::LazyLock;

static ON: LazyLock<u32> = LazyLock::new(|| match std::env::var("MUTANT").as_deref() {
    Ok("record") => u32::MAX,
    Ok(number) => number.parse().expect("MUTANT is the number of a mutant"),
    Err(_) => 0,
});

/// Where the numbers are written that any thread came past, one a line, some of them more than once.
static SEEN: LazyLock<File> = LazyLock::new(|| {
    let path = std::env::var_os("MUTANT_SEEN").expect("MUTANT_SEEN says where");
    File::options().append(true).create(true).open(path).expect("MUTANT_SEEN can be written")
});

thread_local! {
    static WRITTEN: RefCell<BTreeSet<u32>> = const { RefCell::new(BTreeSet::new()) };
}

/// Whether this one is on. `MUTANT=record` turns none on and writes down which ones the process comes past, at once: a
/// thread that is still there when the process ends has no end of its own.
pub fn on(number: u32) -> bool {
    let on = *ON;
    if on == u32::MAX {
        if let Ok(true) = WRITTEN.try_with(|written| written.borrow_mut().insert(number)) {
            (&*SEEN).write_all(format!("{number}\n").as_bytes()).expect("MUTANT_SEEN can be written");
        }
        return false;
    }
    on == number
}
