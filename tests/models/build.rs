//! Takes the parts out of the vault's source, as they stand, and again with a fault planted into each, which the models
//! must find.

use std::error::Error;
use std::path::Path;

/// Under `src` of the vault.
const PARTS: [&str; 6] = [
    "ledger/inbox.rs",
    "ledger/recent.rs",
    "ledger/time.rs",
    "tls/connections.rs",
    "vault/under_way.rs",
    "vault/uses.rs",
];

/// In which edition, in which part, what stands there, and what is put in its place.
const FAULTS: [(&str, &str, &str, &str); 9] = [
    // Whoever waits for the end is not told of it.
    (
        "a",
        "ledger/inbox.rs",
        "            content.state = State::Draining;\n        }\n        drop(content);\n        self.arrived.notify_one();\n",
        "            content.state = State::Draining;\n        }\n        drop(content);\n",
    ),
    // What comes after the failure is taken and never looked at.
    (
        "b",
        "ledger/inbox.rs",
        "content.state = State::Closed;\n        content.work.heads.clear();",
        "content.work.heads.clear();",
    ),
    ("a", "ledger/recent.rs", "*commit > basis)", "*commit > basis + 1)"),
    // Forgets where nothing is forgotten yet.
    ("b", "ledger/recent.rs", "self.newest <= basis", "self.newest <= basis + 1"),
    // Read and written in two steps.
    (
        "a",
        "ledger/time.rs",
        "let mark = self.mark.fetch_max(target, Ordering::AcqRel).max(target);",
        "let mark = self.mark.load(Ordering::Acquire).max(target);\n        self.mark.store(mark, Ordering::Release);",
    ),
    // Looks first and leaves the waker afterwards.
    ("a", "tls/connections.rs", "        !self.is_closed()\n    }\n", "        true\n    }\n"),
    // Looks first and listens afterwards.
    (
        "a",
        "vault/under_way.rs",
        "            let mut none = pin!(self.under_way.none.notified());\n            // From here on no news is missed.\n            \
         none.as_mut().enable();\n            if self.under_way.number.load(Ordering::SeqCst) == 0 {\n                \
         return;\n            }\n",
        "            if self.under_way.number.load(Ordering::SeqCst) == 0 {\n                return;\n            }\n            \
         let none = pin!(self.under_way.none.notified());\n",
    ),
    // Sweeps a queue that somebody is in.
    ("a", "vault/uses.rs", "queue.strong_count() > 0", "queue.strong_count() > 1"),
    // Two callers wait for each other.
    ("b", "vault/uses.rs", "        handles.sort_unstable();\n", ""),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = std::env::var("OUT_DIR")?;
    for part in PARTS {
        let source = Path::new("../../src").join(part);
        println!("cargo::rerun-if-changed={}", source.display());
        let text = std::fs::read_to_string(&source).map_err(|error| format!("{}: {error}", source.display()))?;
        // What documents a file can't be included with it.
        let text: String =
            text.lines().filter(|line| !line.starts_with("//!")).map(|line| format!("{line}\n")).collect();
        for edition in ["sound", "a", "b"] {
            let mut text = text.clone();
            for (_, _, there, planted) in FAULTS.iter().filter(|(of, into, ..)| *of == edition && *into == part) {
                if text.matches(there).count() != 1 {
                    return Err(format!(
                        "{part}: the fault can't be planted any more, the source has changed at:\n{there}"
                    )
                    .into());
                }
                text = text.replace(there, planted);
            }
            let file = Path::new(&out).join(edition).join(part);
            std::fs::create_dir_all(file.parent().ok_or("a part is in a folder")?)?;
            std::fs::write(file, text)?;
        }
    }
    Ok(())
}
