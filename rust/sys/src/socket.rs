//! Options of a connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use crate::check;

/// The user of the process at the other end of a Unix connection.
///
/// `rustix` has a function for this, which does not stand that the other process is of another pid namespace: it has no pid then.
pub fn peer_user(socket: &impl AsFd) -> io::Result<u32> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `credentials` and `size` are live, and `size` is that of `credentials`.
    check(unsafe {
        libc::syscall(
            libc::SYS_getsockopt,
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            &raw mut credentials,
            &raw mut size,
        )
    })?;
    Ok(credentials.uid)
}

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
