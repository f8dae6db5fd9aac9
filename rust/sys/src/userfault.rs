//! Fills the memory of another process when it is touched for the first time (userfaultfd).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::check;

const UFFDIO_WAKE: libc::Ioctl = 0x8010_AA02_u32 as libc::Ioctl;
const UFFDIO_COPY: libc::Ioctl = 0xC028_AA03_u32 as libc::Ioctl;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xC020_AA04_u32 as libc::Ioctl;
const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_REMOVE: u8 = 0x15;
/// Size of `struct uffd_msg`.
const MESSAGE: usize = 32;
/// Messages that one call reads.
const MESSAGES: usize = 64;

/// What the kernel reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A thread waits for the page with this address.
    Fault(u64),
    /// The memory from the first address to before the second one was given back to the kernel.
    Removed(u64, u64),
    /// Something else, by its number.
    Other(u8),
}

/// Why a range was not filled, or not wholly.
#[derive(Debug)]
pub struct Unfilled {
    /// Bytes at its start that were.
    pub done: u64,
    /// What the kernel says about the next one.
    pub error: io::Error,
}

/// A descriptor by which the memory of another process is filled.
pub struct Userfault(OwnedFd);

impl Userfault {
    /// Takes a descriptor that another process made, whatever it is: one of another kind gives errors later.
    pub fn new(descriptor: OwnedFd) -> io::Result<Userfault> {
        let flags = rustix::fs::fcntl_getfl(&descriptor)?;
        rustix::fs::fcntl_setfl(&descriptor, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Userfault(descriptor))
    }

    /// Appends what the kernel has to report now to `events`.
    pub fn read(&self, events: &mut Vec<Event>) -> io::Result<()> {
        let mut buffer = [0_u8; MESSAGE * MESSAGES];
        let size = match rustix::io::read(&self.0, &mut buffer) {
            Ok(size) => size,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        events.extend(buffer[..size].chunks_exact(MESSAGE).map(parse));
        Ok(())
    }

    /// Copies whole pages to `address`, and wakes who waits for them.
    pub fn copy(&self, address: u64, pages: &[u8]) -> Result<(), Unfilled> {
        // struct uffdio_copy: target, source, length, mode, result.
        let mut request = [address, pages.as_ptr() as u64, pages.len() as u64, 0, 0];
        // SAFETY: `request` has the layout of uffdio_copy and is live, and so is `pages`, from which the kernel only reads.
        let outcome =
            check(unsafe { libc::syscall(libc::SYS_ioctl, self.0.as_raw_fd(), UFFDIO_COPY, request.as_mut_ptr()) });
        filled(outcome, request[4])
    }

    /// Makes `length` bytes at `address` zero, and wakes who waits for them.
    pub fn zero(&self, address: u64, length: u64) -> Result<(), Unfilled> {
        // struct uffdio_zeropage: start, length, mode, result.
        let mut request = [address, length, 0, 0];
        // SAFETY: `request` has the layout of uffdio_zeropage and is live.
        let outcome =
            check(unsafe { libc::syscall(libc::SYS_ioctl, self.0.as_raw_fd(), UFFDIO_ZEROPAGE, request.as_mut_ptr()) });
        filled(outcome, request[3])
    }

    /// Wakes who waits for this range.
    pub fn wake(&self, address: u64, length: u64) -> io::Result<()> {
        let mut request = [address, length];
        // SAFETY: `request` has the layout of uffdio_range and is live.
        check(unsafe { libc::syscall(libc::SYS_ioctl, self.0.as_raw_fd(), UFFDIO_WAKE, request.as_mut_ptr()) })
            .map(drop)
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn filled(outcome: io::Result<libc::c_long>, result: u64) -> Result<(), Unfilled> {
    // The kernel writes the bytes that it filled, or a negative error.
    let done = u64::try_from(result as i64).unwrap_or(0);
    outcome.map(drop).map_err(|error| Unfilled { done, error })
}

fn parse(message: &[u8]) -> Event {
    let field = |at: usize| message[at..at + 8].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    match message[0] {
        EVENT_PAGEFAULT => Event::Fault(field(16)),
        EVENT_REMOVE => Event::Removed(field(8), field(16)),
        other => Event::Other(other),
    }
}
