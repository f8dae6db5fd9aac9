//! The only crate with `unsafe`: thin safe wrappers over kernel calls that neither `std` nor `rustix` offers.
//!
//! - [`spawn`]: a child without a fork of the address space.
//! - [`wait`]: reaping of children.
//! - [`credentials`]: acting as another user in one thread.
//! - [`interface`]: link, address and route of a network device.
//! - [`module`]: loading a kernel module.
//! - [`entropy`]: feeding the kernel's random numbers.
//! - [`ext4`]: growing a mounted file system.
//! - [`pty`]: making and sizing terminals.
//! - [`ready`]: waiting for a descriptor in the runtime.
//! - [`socket`]: options of a connection; [`connections`]: ending those of others.
//!
//! `rustix` is re-exported so that there is one version of it.

pub mod connections;
pub mod credentials;
pub mod entropy;
pub mod ext4;
pub mod interface;
pub mod module;
pub mod pty;
pub mod ready;
pub mod socket;
pub mod spawn;
pub mod wait;

pub use rustix;

use std::io;

/// The result of a raw call: -1 becomes the thread's `errno`.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
