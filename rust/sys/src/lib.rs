//! The only crate with `unsafe`: thin safe wrappers over kernel calls that neither `std` nor `rustix` offers.
//!
//! - [`spawn`]: starts a child without a fork of the address space.
//! - [`wait`]: reaps children.
//! - [`credentials`]: acts as another user in one thread.
//! - [`interface`]: link, address and route of a network device.
//! - [`module`]: loads a kernel module.
//! - [`entropy`]: adds entropy to the kernel's random number generator.
//! - [`ext4`]: grows a mounted file system.
//! - [`pty`]: creates and resizes terminals.
//! - [`ready`]: waits for a descriptor in the runtime.
//! - [`inherited`]: descriptors of the parent; [`mapping`]: files in memory; [`userfault`]: fills the memory of another process;
//!   [`seccomp`]: limits this one to some system calls.
//! - [`socket`]: options of a connection; [`connections`]: resets connections of others.
//!
//! `rustix` is re-exported so that there is one version of it.

pub mod connections;
pub mod credentials;
pub mod entropy;
pub mod ext4;
pub mod inherited;
pub mod interface;
pub mod mapping;
pub mod module;
pub mod pty;
pub mod ready;
pub mod seccomp;
pub mod socket;
pub mod spawn;
pub mod userfault;
pub mod wait;

pub use rustix;

use std::io;

/// Converts the result of a raw call: -1 becomes the thread's `errno`.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
