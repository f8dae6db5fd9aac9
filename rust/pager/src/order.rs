//! The order in which pages were needed when the same memory was restored before.

use std::fs::File;
use std::io::{self, Read, Write};
use std::vec;

use crate::image::PageNumber;

/// Pages that are recorded or read at most: 1 MB. What comes later is not needed by the start of a guest.
const LIMIT: usize = 256 * 1024;
/// Written in pieces of so many.
const PIECE: usize = 1024;
const NUMBER: usize = 4;

/// Pages that are filled before they are needed. Numbers that are none of the memory are left out: an order is only a hint.
pub fn read(file: &File, pages: u64) -> io::Result<vec::IntoIter<PageNumber>> {
    let mut content = Vec::new();
    file.take((LIMIT * NUMBER) as u64).read_to_end(&mut content)?;
    let numbers: Vec<PageNumber> = content
        .chunks_exact(NUMBER)
        .map(|bytes| bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
        .filter(|page| *page < pages)
        .collect();
    Ok(numbers.into_iter())
}

/// Writes down which pages are needed. Nothing depends on the record, so a failed write ends the recording and is only logged: the
/// disk may be full, and the memory of the VM must be served nevertheless.
pub struct Recorder {
    file: File,
    pending: Vec<u8>,
    left: usize,
}

impl Recorder {
    /// Appends to this file.
    pub fn new(file: File) -> Recorder {
        Recorder { file, pending: Vec::with_capacity(PIECE * NUMBER), left: LIMIT }
    }

    /// Adds a page.
    pub fn add(&mut self, page: PageNumber) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        self.pending.extend((page as u32).to_le_bytes());
        if self.pending.len() == PIECE * NUMBER || self.left == 0 {
            self.flush();
        }
    }

    /// Writes what was added.
    pub fn flush(&mut self) {
        if let Err(error) = self.file.write_all(&self.pending) {
            self.left = 0;
            // Not `eprintln!`, which panics if the log cannot be written either: it is on the same disk.
            let _ = writeln!(io::stderr(), "pager: the order of pages is not recorded any further: {error}");
        }
        self.pending.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Seek;

    use super::*;
    use crate::image::tests::file_of;

    #[test]
    fn what_was_recorded_is_read_in_its_order() {
        let mut file = file_of(b"");
        let mut recorder = Recorder::new(file.try_clone().unwrap());
        for page in [7, 3, 900, 5] {
            recorder.add(page);
        }
        recorder.flush();
        file.write_all(b"cut").unwrap();
        file.rewind().unwrap();
        assert_eq!(read(&file, 100).unwrap().collect::<Vec<_>>(), [7, 3, 5]);
    }

    #[test]
    fn a_record_has_an_end() {
        let file = file_of(b"");
        let mut recorder = Recorder::new(file.try_clone().unwrap());
        for _ in 0..LIMIT + 10 {
            recorder.add(1);
        }
        recorder.flush();
        assert_eq!(file.metadata().unwrap().len(), (LIMIT * NUMBER) as u64);
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_nothing_else() {
        let mut recorder = Recorder::new(File::options().write(true).open("/dev/full").unwrap());
        for _ in 0..PIECE + 10 {
            recorder.add(1);
        }
        recorder.flush();
        assert_eq!((recorder.left, recorder.pending.len()), (0, 0));
    }
}
