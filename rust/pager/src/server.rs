//! Fills the memory of one VM: the pages that it waits for first, then those that it will need.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::vec;

use sys::rustix;
use sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use sys::userfault::{Event, Unfilled, Userfault};

use crate::diff::DiffError;
use crate::image::{Content, Image, PAGE, PageNumber};
use crate::order::Recorder;
use crate::regions::Regions;

/// How long to wait when the VMM is changing its memory map at this moment: it cannot be filled meanwhile.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000 };
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
const ENDED: i32 = 3;
const NOT_MAPPED: i32 = 2;
const CHANGING: i32 = 11;
const PRESENT: i32 = 17;

/// Why a VM cannot be served any longer.
#[derive(Debug)]
pub enum ServeError {
    /// The image cannot be used.
    Diff(DiffError),
    /// A thread waits for an address that is none of the VM's memory.
    Address(u64),
    /// The kernel refused something.
    Io(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diff(error) => error.fmt(f),
            Self::Address(address) => write!(f, "a fault at {address:#x}, where the VM has no memory"),
            Self::Io(error) => write!(f, "the VM's memory could not be filled: {error}"),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Diff(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::Address(_) => None,
        }
    }
}

impl From<DiffError> for ServeError {
    fn from(error: DiffError) -> Self {
        Self::Diff(error)
    }
}

impl From<io::Error> for ServeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What has become of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    /// The VM has never had it.
    Missing,
    /// The VM has it.
    Filled,
    /// The VM gave it back, and gets zeros in its place.
    Removed,
}

/// How an attempt to fill pages ended.
enum Outcome {
    Done,
    /// The memory map is being changed, which has to be read about first.
    Changing,
    /// The VM has ended.
    Ended,
}

/// Counts of what was done, for the log.
#[derive(Default)]
pub struct Figures {
    faults: u64,
    filled_by_faults: u64,
    filled_before: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { faults, filled_by_faults, filled_before } = self;
        write!(f, "faults={faults} pages_filled_by_faults={filled_by_faults} pages_filled_before={filled_before}")
    }
}

/// A VM that is being served.
pub struct Server {
    image: Image,
    regions: Regions,
    memory: Userfault,
    connection: UnixStream,
    chunk_pages: u64,
    order: vec::IntoIter<PageNumber>,
    recorder: Option<Recorder>,
    pages: Vec<Page>,
    figures: Figures,
}

impl Server {
    /// Prepares to serve; `chunk_pages` are filled at once.
    pub fn new(
        image: Image,
        regions: Regions,
        memory: Userfault,
        connection: UnixStream,
        chunk_pages: u64,
        order: vec::IntoIter<PageNumber>,
        recorder: Option<Recorder>,
    ) -> Server {
        let pages = vec![Page::Missing; image.pages() as usize];
        Server { image, regions, memory, connection, chunk_pages, order, recorder, pages, figures: Figures::default() }
    }

    /// Serves until the VM has ended.
    pub fn run(mut self) -> Result<Figures, ServeError> {
        let mut waiting: Vec<u64> = Vec::new();
        let mut events = Vec::new();
        loop {
            let timeout = match (waiting.is_empty(), self.order.len()) {
                (false, _) => Some(RETRY),
                (true, 0) => None,
                (true, _) => Some(NOW),
            };
            if timeout.is_none() {
                self.flush();
            }
            if self.has_ended(timeout)? {
                break;
            }
            self.memory.read(&mut events)?;
            for event in events.drain(..) {
                match event {
                    Event::Fault(address) => waiting.push(address),
                    Event::Removed(start, end) => self.remove(start, end),
                    Event::Other(_) => {}
                }
            }
            let before = waiting.len();
            let mut left = Vec::new();
            for address in waiting.drain(..) {
                match self.serve(address)? {
                    Outcome::Done => {}
                    Outcome::Changing => left.push(address),
                    Outcome::Ended => return Ok(self.end()),
                }
            }
            waiting = left;
            if before == 0 && matches!(self.fill_next()?, Outcome::Ended) {
                break;
            }
        }
        Ok(self.end())
    }

    fn end(mut self) -> Figures {
        self.flush();
        self.figures
    }

    fn flush(&mut self) {
        if let Some(recorder) = self.recorder.as_mut() {
            recorder.flush();
        }
    }

    /// Waits for something to do. The VMM's end of the connection is open for as long as it lives.
    fn has_ended(&mut self, timeout: Option<Timespec>) -> Result<bool, ServeError> {
        let mut descriptors = [PollFd::new(&self.memory, PollFlags::IN), PollFd::new(&self.connection, PollFlags::IN)];
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        // A VMM says nothing more: what comes is its end.
        Ok(!descriptors[1].revents().is_empty())
    }

    fn remove(&mut self, start: u64, end: u64) {
        let mut address = start;
        while address < end {
            if let Some(page) = self.regions.page(address) {
                self.pages[page as usize] = Page::Removed;
            }
            address += PAGE as u64;
        }
    }

    fn serve(&mut self, address: u64) -> Result<Outcome, ServeError> {
        let address = address & !(PAGE as u64 - 1);
        let page = self.regions.page(address).ok_or(ServeError::Address(address))?;
        let outcome = match self.pages[page as usize] {
            Page::Missing => {
                let first = page - page % self.chunk_pages;
                let outcome = self.fill_missing(first, first + self.chunk_pages, page)?;
                if matches!(outcome, Outcome::Done) {
                    self.figures.faults += 1;
                    if let Some(recorder) = self.recorder.as_mut() {
                        recorder.add(page);
                    }
                }
                outcome
            }
            Page::Removed => {
                let outcome = judge(self.memory.zero(address, PAGE as u64))?.1;
                if matches!(outcome, Outcome::Done) {
                    self.pages[page as usize] = Page::Filled;
                }
                outcome
            }
            Page::Filled => {
                // It was filled before this fault was read; or it is gone again, without a word of the kernel.
                self.pages[page as usize] = Page::Missing;
                self.fill_missing(page, page + 1, page)?
            }
        };
        if matches!(outcome, Outcome::Done) {
            // It may have been filled before this fault was read, or not be mapped any more.
            self.memory.wake(address, PAGE as u64)?;
        }
        Ok(outcome)
    }

    /// Fills the next pages of the order.
    fn fill_next(&mut self) -> Result<Outcome, ServeError> {
        let Some(page) = self.order.next() else { return Ok(Outcome::Done) };
        let before = self.figures.filled_by_faults;
        let first = page - page % self.chunk_pages;
        let outcome = self.fill_missing(first, first + self.chunk_pages, page)?;
        let filled = self.figures.filled_by_faults - before;
        self.figures.filled_by_faults = before;
        self.figures.filled_before += filled;
        Ok(outcome)
    }

    /// Fills those pages of a range that the VM has never had, `needed` before the others.
    fn fill_missing(&mut self, first: PageNumber, end: PageNumber, needed: PageNumber) -> Result<Outcome, ServeError> {
        let end = end.min(self.image.pages());
        for (mut page, end) in [(needed, end), (first, needed)] {
            while page < end {
                if self.pages[page as usize] != Page::Missing {
                    page += 1;
                    continue;
                }
                let missing = self.pages[page as usize..end as usize].iter().take_while(|p| **p == Page::Missing);
                let limit = missing.count() as u64;
                let Some((address, mapped)) = self.regions.address(page) else {
                    page += 1;
                    continue;
                };
                let (count, content) = self.image.content(page, limit.min(mapped))?;
                let result = match content {
                    Content::Zeros => self.memory.zero(address, count * PAGE as u64),
                    Content::Bytes(bytes) => self.memory.copy(address, bytes),
                };
                let (filled, outcome) = match judge(result)? {
                    (None, outcome) => (count, outcome),
                    (Some(filled), outcome) => (filled.min(count), outcome),
                };
                self.pages[page as usize..(page + filled) as usize].fill(Page::Filled);
                self.figures.filled_by_faults += filled;
                page += filled;
                match outcome {
                    // What stopped it is a page that is there, or is not mapped.
                    Outcome::Done if filled < count => {
                        self.pages[page as usize] = Page::Filled;
                        page += 1;
                    }
                    Outcome::Done => {}
                    other => return Ok(other),
                }
            }
        }
        Ok(Outcome::Done)
    }
}

/// Returns how many pages were filled if not all were, and how to go on.
fn judge(result: Result<(), Unfilled>) -> Result<(Option<u64>, Outcome), ServeError> {
    let Err(Unfilled { done, error }) = result else { return Ok((None, Outcome::Done)) };
    let filled = Some(done / PAGE as u64);
    match error.raw_os_error() {
        Some(PRESENT | NOT_MAPPED) => Ok((filled, Outcome::Done)),
        Some(CHANGING) => Ok((filled, Outcome::Changing)),
        Some(ENDED) => Ok((filled, Outcome::Ended)),
        _ => Err(error.into()),
    }
}
