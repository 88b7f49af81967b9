//! The vault as it would be without the allocator that wipes what is freed. Only for a test: it must find values in this
//! one's memory, or finding none in the real one's would prove nothing.

use mimalloc::MiMalloc;
use std::process::ExitCode;

/// The one that the program has, too, but for what wipes there.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cloakroom::cli::main()
}
