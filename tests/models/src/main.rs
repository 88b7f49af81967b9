//! `models [NAME]`: tries each model, or those whose names contain NAME, under SCHEDULES orders of events (100,000 if nothing is
//! said), half of them drawn at random and half with priorities that change a few times, from SEED.
//!
//! The parts of the vault are compiled as they stand, with this package's `sync` in the place of the vault's, and again with a
//! fault in each (`build.rs`). A model that lets a fault pass fails, as does one that finds one where none was planted. It then
//! prints the order, and `ORDER=… models NAME` runs that again.
//!
//! Each use of a number is taken to be seen by all at once: orders that only weaker memory allows are not tried.

mod caller;
mod crypto;
mod sync;
#[allow(dead_code, reason = "models need a part of it")]
#[path = "../../../src/clock.rs"]
mod clock;

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, FailurePersistence, Runner};
use std::process::ExitCode;
use std::time::Instant;

/// One edition of the parts, in modules that are called as in the vault, with the models of them.
macro_rules! edition {
    ($name:ident, $folder:literal) => {
        #[allow(dead_code, reason = "models need a part of it, and a fault may leave something unused")]
        mod $name {
            pub mod ledger {
                mod inbox {
                    include!(concat!(env!("OUT_DIR"), "/", $folder, "/ledger/inbox.rs"));
                }
                mod recent {
                    include!(concat!(env!("OUT_DIR"), "/", $folder, "/ledger/recent.rs"));
                }
                mod time {
                    include!(concat!(env!("OUT_DIR"), "/", $folder, "/ledger/time.rs"));
                }
                include!("models/ledger.rs");
            }
            pub mod tls {
                mod connections {
                    include!(concat!(env!("OUT_DIR"), "/", $folder, "/tls/connections.rs"));
                }
                include!("models/tls.rs");
            }
            pub mod vault {
                mod under_way {
                    include!(concat!(env!("OUT_DIR"), "/", $folder, "/vault/under_way.rs"));
                }
                pub mod uses {
                    include!(concat!(env!("OUT_DIR"), "/", $folder, "/vault/uses.rs"));
                    include!("models/uses.rs");
                }
                include!("models/vault.rs");
            }

            /// Name, model, and whether this edition has a fault that it must find.
            pub const MODELS: [(&str, fn()); 9] = [
                ("inbox_takes_all", ledger::inbox_takes_all),
                ("inbox_hands_back", ledger::inbox_hands_back),
                ("inbox_keeps_checkpoint", ledger::inbox_keeps_checkpoint),
                ("stale_is_refused", ledger::stale_is_refused),
                ("mark_never_falls", ledger::mark_never_falls),
                ("closed_is_noticed", tls::closed_is_noticed),
                ("idle_means_none", vault::idle_means_none),
                ("one_at_a_time", vault::uses::one_at_a_time),
                ("nobody_waits_forever", vault::uses::nobody_waits_forever),
            ];
        }
    };
}

edition!(sound, "sound");
edition!(a, "a");
edition!(b, "b");

/// Which model finds which edition's fault.
const FINDS: [(&str, &str); 9] = [
    ("a", "inbox_takes_all"),
    ("b", "inbox_hands_back"),
    ("a", "stale_is_refused"),
    ("b", "stale_is_refused"),
    ("a", "mark_never_falls"),
    ("a", "closed_is_noticed"),
    ("a", "idle_means_none"),
    ("a", "one_at_a_time"),
    ("b", "nobody_waits_forever"),
];

fn main() -> ExitCode {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let schedules = usize::try_from(number("SCHEDULES", 100_000)).expect("not that many");
    let random = u64::from(std::process::id()) ^ 0x9e37_79b9_7f4a_7c15;
    let seed = number("SEED", random);
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let chosen: Vec<_> = sound::MODELS.into_iter().filter(|(name, _)| name.contains(&wanted)).collect();
    if let Ok(order) = std::env::var("ORDER") {
        for (name, model) in chosen {
            println!("{name}");
            Runner::new(ReplayScheduler::new_from_encoded(&order), config(true)).run(model);
        }
        return ExitCode::SUCCESS;
    }
    println!("{} models, {schedules} orders each, SEED={seed}", chosen.len());
    let mut failed = 0;
    for (name, model) in chosen {
        let begin = Instant::now();
        let tried = try_all(model, schedules, seed, true);
        let what = if tried.is_ok() { "no order fails" } else { "FAILED: the order is above" };
        println!("{name}: {what} ({} s)", begin.elapsed().as_secs());
        failed += u32::from(tried.is_err());
        for (edition, models) in [("a", a::MODELS), ("b", b::MODELS)] {
            let Some((_, planted)) =
                models.into_iter().find(|(other, _)| *other == name && FINDS.contains(&(edition, name)))
            else {
                continue;
            };
            // What is expected need not be shown.
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| ()));
            let tried = try_all(planted, schedules, seed, false);
            std::panic::set_hook(hook);
            let what = if tried.is_err() { "found" } else { "NOT FOUND" };
            println!("{name}: the planted fault {edition} was {what}");
            failed += u32::from(tried.is_ok());
        }
    }
    println!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn config(prints_order: bool) -> Config {
    let mut config = Config::new();
    if !prints_order {
        config.failure_persistence = FailurePersistence::None;
    }
    // An order in which a thread can always go on without the others getting anywhere is a fault, too.
    config.max_steps = shuttle::MaxSteps::FailAfter(100_000);
    config
}

/// On a thread of its own: where two tasks of a model panic at once, the thread that runs them all is counted as panicking ever
/// after, and could not put the hook back.
fn try_all(model: fn(), schedules: usize, seed: u64, prints_order: bool) -> Result<(), ()> {
    let all = move || {
        Runner::new(RandomScheduler::new_from_seed(seed, schedules.div_ceil(2)), config(prints_order)).run(model);
        Runner::new(PctScheduler::new_from_seed(seed, 3, schedules / 2), config(prints_order)).run(model);
    };
    std::thread::spawn(all).join().map_err(|_| ())
}
