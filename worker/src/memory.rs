//! How the process treats memory that was freed.
//!
//! By default glibc serves large blocks by `mmap` and gives them back to the kernel when they are freed. A training step
//! frees and takes the same few megabytes again and again, so each step pays for page faults and zeroing. Keeping freed blocks
//! costs nothing but the peak's memory, which the next step needs anyway.
//!
//! Threads other than the first would still give memory back: each has an arena made of heaps of at most 64 MB, and a heap
//! that falls empty is unmapped whatever the thresholds say. One arena for all threads has no such heaps. A step makes a few
//! hundred allocations in tens of milliseconds, so the slots do not wait for each other at its lock.

/// Freed blocks up to this size stay with the process. glibc's upper limit for the threshold on 64-bit systems; larger
/// ones, such as a whole dataset's features, still go back to the kernel.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES_MAX: libc::c_int = 32 * 1024 * 1024;

/// Free memory at the heap's end that is kept before any goes back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIM_BYTES: libc::c_int = 1024 * 1024 * 1024;

/// Arenas of the process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: libc::c_int = 1;

/// Keeps freed memory for the next training step. Call it once, before any thread starts; says whether it took effect.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_freed() -> bool {
    // SAFETY: mallopt only sets three of the allocator's numbers; it may be called at any time and takes no pointers.
    #[expect(unsafe_code, reason = "glibc offers no other way to set them from inside the process")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES_MAX) == 1
            && libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_BYTES) == 1
            && libc::mallopt(libc::M_ARENA_MAX, ARENAS) == 1
    }
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed() -> bool {
    false
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn the_allocator_takes_the_settings() {
        assert!(super::keep_freed());
    }
}
