//! The program `cloakroom`: what must be so for the whole process, and then the command line.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use zeroizing_alloc::ZeroAlloc;

/// Memory that is freed is wiped first, whoever allocated it: values pass through buffers of libraries that do not wipe.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    if let Err(error) = forbid_core_dumps() {
        eprintln!("cloakroom: cannot forbid core dumps, which would hold values and keys: {error}");
        return ExitCode::FAILURE;
    }
    cloakroom::cli::main()
}

/// A core file would have every value and key in clear. The limit keeps the system from writing one; not being dumpable
/// also keeps other processes of the same user from attaching.
fn forbid_core_dumps() -> rustix::io::Result<()> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
