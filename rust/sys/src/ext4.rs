//! Grows a mounted ext4 file system, and returns its free blocks.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use crate::check;

/// `_IOW('f', 16, __u64)`.
const RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// `_IOWR('X', 121, struct fstrim_range)`, whose size is 24 bytes.
const TRIM_FS: libc::c_ulong = 0xc018_5879;

/// Grows the file system that contains `file` to this number of its blocks. Idempotent.
pub fn grow(file: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: an open descriptor, and a pointer to the 64-bit number that the kernel reads.
    check(libc::c_long::from(unsafe { libc::ioctl(file.as_raw_fd(), RESIZE_FS as _, &raw const blocks) })).map(drop)
}

/// Informs the disk that the free blocks of the file system that contains `file` are not needed. Idempotent.
pub fn trim(file: &File) -> io::Result<()> {
    // `struct fstrim_range`: from the start, to the end, whatever the length of a free piece.
    let mut range = [0_u64, u64::MAX, 0];
    // SAFETY: an open descriptor, and a pointer to the three 64-bit numbers that the kernel reads and writes.
    check(libc::c_long::from(unsafe { libc::ioctl(file.as_raw_fd(), TRIM_FS as _, &raw mut range) })).map(drop)
}
