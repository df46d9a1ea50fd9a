//! The one setting of the process's allocator that the way of the data needs.

use std::ffi::{c_int, c_long};

use libmimalloc_sys::mi_option_set;

/// `mi_option_purge_delay` of mimalloc 3; the crate does not name it, so its version is pinned.
const PURGE_DELAY: c_int = 15;

/// Long enough that memory which goes round between fetch, batch and columns stays in the process under load.
const PURGE_DELAY_MS: c_long = 10_000;

/// Lets freed memory go back to the kernel after ten seconds instead of one. librdkafka allocates for every fetch and
/// message and the pipeline for every batch; fresh pages for all of that cost a third of the CPU time. Has no effect in a
/// program whose allocator is another one. Call it first in `main`, while there is one thread.
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    // SAFETY: it writes one number of mimalloc's table of options, no other thread runs yet.
    unsafe { mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn the_option_is_the_purge_delay() {
        // SAFETY: reads one number of mimalloc's table of options.
        let read = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(read(), 1_000, "mimalloc's default; if it differs, the number of the option has changed");
        keep_freed_memory();
        assert_eq!(read(), PURGE_DELAY_MS);
    }
}
