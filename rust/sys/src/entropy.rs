//! Adds entropy to the kernel's random number generator, so that clones of one snapshot do not generate the
//! same numbers.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::check;

/// `RNDADDENTROPY`: mix bytes in and credit them.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
/// `RNDRESEEDCRNG`: reseed the generator now.
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Mixes in secret random bytes and reseeds the generator.
pub fn feed(bytes: &[u8]) -> io::Result<()> {
    let device = File::options().write(true).open("/dev/random")?;
    // struct rand_pool_info: bits of entropy, bytes of data, data.
    let mut order = Vec::with_capacity(8 + bytes.len());
    order.extend_from_slice(&((bytes.len() * 8) as i32).to_ne_bytes());
    order.extend_from_slice(&(bytes.len() as i32).to_ne_bytes());
    order.extend_from_slice(bytes);
    // SAFETY: `order` has the layout of rand_pool_info and is live; the kernel copies, so alignment does not matter.
    check(unsafe { libc::syscall(libc::SYS_ioctl, device.as_raw_fd(), RNDADDENTROPY, order.as_ptr()) })?;
    // SAFETY: takes no argument.
    check(unsafe { libc::syscall(libc::SYS_ioctl, device.as_raw_fd(), RNDRESEEDCRNG, 0) })?;
    Ok(())
}
