//! How the C library keeps freed memory.
#![allow(unsafe_code, reason = "mallopt is a C function; this module has nothing else")]

/// Freed memory that is kept for the next buffer instead of being given back at once, in bytes. A proxy's buffers come
/// and go with every answer; by default each of 64 KiB costs the kernel a call and 16 fresh pages.
const KEPT: i32 = 8 << 20;

/// Tells glibc to keep freed memory; does nothing elsewhere. To be called once, first thing in `main`.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets parameters of the allocator; nothing else runs yet.
    unsafe {
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, KEPT);
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, KEPT);
    }
}

/// From this size on, in bytes, a buffer of [`stay_small`] is a mapping of its own, which is gone when it is freed.
const OWN_MAPPING: i32 = 512 << 10;

/// Tells glibc to have one heap for all threads and to give large buffers back at once: for a daemon that seldom works, on
/// several threads, each of which would keep a heap of its own. To be called once, first thing in `main`.
pub fn stay_small() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets parameters of the allocator; nothing else runs yet.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, OWN_MAPPING);
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, 2 * OWN_MAPPING);
    }
}

/// Gives freed memory back to the system; for a daemon that works now and then, and is to be small in between.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes the allocator's own locks, and moves nothing that is in use.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
