//! Runs a function under libFuzzer, and bounds what each input may cost: time of the processor, and memory.
//!
//! libFuzzer counts time in whole seconds, and memory by what the process has ever held. Both are too coarse for a parser,
//! so both are counted here: the processor's time (not the wall's, on a machine that others use), and every byte that is
//! allocated and not yet freed, by whichever thread. This crate is apart from the vault because it can't do without
//! unsafe code; the vault's own crate forbids it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CString, c_char, c_int};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

// Named so that it is linked, and with it the library that its build script makes.
use libfuzzer_sys as _;

/// No input may take longer.
pub const TIME_AT_MOST: Duration = Duration::from_millis(100);
/// No input may need more memory, beyond what was held before it.
pub const BYTES_AT_MOST: usize = 64 << 20;
/// What takes too long is tried again so often: the first time may have paid for what is made once.
const TRIES: usize = 3;

/// What is fuzzed.
pub type Target = fn(&[u8]);

static TARGET: OnceLock<Target> = OnceLock::new();
static SLOWEST_MICROS: AtomicU64 = AtomicU64::new(0);
static LARGEST_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Runs `target` under libFuzzer with its `arguments`, the first of which names the program (libFuzzer calls it again for
/// a merge). Prints at the end what the most expensive input cost; does not return.
pub fn run(target: Target, arguments: &[String]) -> ! {
    TARGET.set(target).expect("a process runs one target");
    let default = std::panic::take_hook();
    // Before anything is unwound: also a panic that somebody would catch is a finding.
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        std::process::abort();
    }));
    let arguments: Vec<CString> =
        arguments.iter().map(|one| CString::new(one.as_str()).expect("an argument has no zero byte")).collect();
    let mut pointers: Vec<*mut c_char> = arguments.iter().map(|one| one.as_ptr().cast_mut()).collect();
    let mut count = c_int::try_from(pointers.len()).expect("few arguments");
    pointers.push(std::ptr::null_mut());
    let mut pointers = pointers.as_mut_ptr();
    // SAFETY: `count` strings that end in zero and live until the process ends, with a null behind them, as for `main`.
    let code = unsafe {
        libc::atexit(print_figures);
        LLVMFuzzerRunDriver(&raw mut count, &raw mut pointers, run_one)
    };
    std::process::exit(code)
}

extern "C" fn run_one(data: *const u8, length: usize) -> c_int {
    // SAFETY: libFuzzer hands over `length` bytes, and changes none of them before this returns.
    let input = if length == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, length) } };
    let target = TARGET.get().expect("set before the driver runs");
    let mut least = Duration::MAX;
    for _ in 0..TRIES {
        let before = COUNTED.begin();
        let started = processor_time();
        target(input);
        least = least.min(processor_time().saturating_sub(started));
        let bytes = COUNTED.peak.load(Relaxed).saturating_sub(before);
        LARGEST_BYTES.fetch_max(bytes, Relaxed);
        if least <= TIME_AT_MOST {
            break;
        }
    }
    SLOWEST_MICROS.fetch_max(u64::try_from(least.as_micros()).unwrap_or(u64::MAX), Relaxed);
    if least > TIME_AT_MOST {
        eprintln!("too slow: {} ms of the processor, {} are allowed", least.as_millis(), TIME_AT_MOST.as_millis());
        std::process::abort();
    }
    0
}

extern "C" fn print_figures() {
    let (micros, bytes) = (SLOWEST_MICROS.load(Relaxed), LARGEST_BYTES.load(Relaxed));
    eprintln!("figures: slowest_us={micros} largest_bytes={bytes}");
}

/// What all threads of this process have worked.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the structure that it is given.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(code, 0, "the process has a clock");
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        argc: *mut c_int,
        argv: *mut *mut *mut c_char,
        run: extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
}

/// libfuzzer-sys calls what its macro would define; libFuzzer is given [`run_one`] instead.
#[unsafe(no_mangle)]
fn rust_fuzzer_test_input(_: &[u8]) -> c_int {
    unreachable!("the driver was given another function")
}

/// The system's allocator, counted.
struct Counted {
    live: AtomicUsize,
    peak: AtomicUsize,
    /// More than this at once is a finding.
    limit: AtomicUsize,
}

#[global_allocator]
static COUNTED: Counted =
    Counted { live: AtomicUsize::new(0), peak: AtomicUsize::new(0), limit: AtomicUsize::new(usize::MAX) };

impl Counted {
    /// An input begins: gives what is held now.
    fn begin(&self) -> usize {
        let live = self.live.load(Relaxed);
        self.peak.store(live, Relaxed);
        self.limit.store(live.saturating_add(BYTES_AT_MOST), Relaxed);
        live
    }

    fn more(&self, bytes: usize) {
        let live = self.live.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(live, Relaxed);
        if live > self.limit.load(Relaxed) {
            // Once: what says so may allocate.
            self.limit.store(usize::MAX, Relaxed);
            eprintln!("too large: more than {BYTES_AT_MOST} bytes held for one input, {bytes} of them asked for last");
            std::process::abort();
        }
    }
}

// SAFETY: each call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.more(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.more(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.live.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.more(size);
        self.live.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}
