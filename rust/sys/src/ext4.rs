//! Grows a mounted ext4 file system.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use crate::check;

/// `_IOW('f', 16, __u64)`.
const RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// Grows the file system that contains `file` to this number of its blocks. Idempotent.
pub fn grow(file: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: an open descriptor, and a pointer to the 64-bit number that the kernel reads.
    check(libc::c_long::from(unsafe { libc::ioctl(file.as_raw_fd(), RESIZE_FS as _, &raw const blocks) })).map(drop)
}
