//! Descriptors that the parent process has left open for this one.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::check;

/// Standard input, output and errors belong to the standard library.
const FIRST: RawFd = 3;

/// Takes over a descriptor by its number. Each number may be taken once.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number < FIRST {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: takes no pointer. It also makes sure that the descriptor is open, and that no child gets it.
    check(unsafe { libc::syscall(libc::SYS_fcntl, number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and nothing in this program has opened it, so nothing else closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
