//! Options of a connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use crate::check;

/// Fails a connection if the peer acknowledges nothing for this long, instead of after a quarter of an hour.
pub fn set_user_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    let millis = timeout.as_millis() as libc::c_uint;
    // SAFETY: `millis` is live and its true size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_setsockopt,
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            &raw const millis,
            size_of::<libc::c_uint>(),
        )
    })
    .map(drop)
}
