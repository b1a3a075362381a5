//! How the C library keeps freed memory, and how a daemon that works now and then becomes small in between.
#![allow(
    unsafe_code,
    reason = "mallopt, madvise and the list of what is loaded are C; this module has nothing else"
)]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use nix::libc;

/// Freed memory that is kept for the next buffer instead of being given back at once, in bytes. A proxy's buffers come
/// and go with every answer; by default each of 64 KiB costs the kernel a call and 16 fresh pages.
const KEPT: i32 = 8 << 20;

/// Tells glibc to keep freed memory; does nothing elsewhere. To be called once, first thing in `main`.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets parameters of the allocator; nothing else runs yet.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
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
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * OWN_MAPPING);
    }
}

/// Gives freed memory back to the system, and the mapping of our own code, of which a daemon that waits needs a small part:
/// what runs next is mapped again from the page cache, 16 pages at a time. For a daemon that works now and then, after the
/// work; nobody should wait for what it does next in microseconds. A debugger's breakpoints are lost by it.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes the allocator's own locks, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
    // Code for 32 bits may have been changed by the loader, and would come back as it is in the file.
    #[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
    // SAFETY: `unmap_code` is what dl_iterate_phdr calls, and keeps nothing.
    unsafe {
        libc::dl_iterate_phdr(Some(unmap_code), std::ptr::null_mut());
    }
}

/// Called with what is loaded, one after another; looks at the first one, which is the program, and ends the walk.
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
unsafe extern "C" fn unmap_code(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader describes what is loaded and stays so, with a table of so many segments.
    let (base, segments) = unsafe {
        let info = &*info;
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    // SAFETY: asks for a number.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    for segment in segments {
        let may = segment.p_flags & (libc::PF_R | libc::PF_W | libc::PF_X);
        if segment.p_type == libc::PT_LOAD && may == libc::PF_R | libc::PF_X {
            let begin = (base + segment.p_vaddr).next_multiple_of(page);
            let end = (base + segment.p_vaddr + segment.p_filesz) / page * page;
            // SAFETY: whole pages of a mapping of a file that nothing has written to: the next access reads the same again.
            unsafe {
                libc::madvise(
                    begin as *mut libc::c_void,
                    end.saturating_sub(begin) as usize,
                    libc::MADV_DONTNEED,
                );
            }
        }
    }
    1
}

#[cfg(test)]
mod tests {
    /// Of the process, in KiB.
    fn mapped_from_files() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn code_that_was_given_back_runs_again() {
        let text = "a: [1, 2]\n".repeat(100);
        let before = (mapped_from_files(), crate::secret::hex(text.as_bytes()));
        super::give_back();
        let after = mapped_from_files();
        assert!(after < before.0, "{after} KiB of {}", before.0);
        assert_eq!(crate::secret::hex(text.as_bytes()), before.1);
    }
}
