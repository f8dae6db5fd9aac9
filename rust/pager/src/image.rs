//! The memory that a VM is restored from: an image, of which the holes are zero, and over it the diff of a snapshot.

use std::fs::File;
use std::io;

use sys::mapping::Mapping;
use sys::rustix;

use crate::diff::{Diff, DiffError, Found};

/// Size of a page.
pub const PAGE: usize = 4096;

/// Number of a page of the VM's memory.
pub type PageNumber = u64;

/// What pages are filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Zeros,
    Image,
    Data(u32),
}

/// Content of pages that follow one another.
pub enum Content<'image> {
    /// They are zero.
    Zeros,
    /// These bytes.
    Bytes(&'image [u8]),
}

/// The memory of a VM.
pub struct Image {
    file: Mapping,
    /// First page of each range with data, and the page after its last one; sorted.
    data: Vec<(PageNumber, PageNumber)>,
    diff: Option<Diff>,
}

impl Image {
    /// Opens the image. Its size is that of the VM's memory.
    pub fn new(file: &File) -> io::Result<Image> {
        let size = file.metadata()?.len();
        if size == 0 || !size.is_multiple_of(PAGE as u64) {
            return Err(io::Error::other(format!("an image of {size} bytes")));
        }
        Ok(Image { data: extents(file, size)?, file: Mapping::of(file)?, diff: None })
    }

    /// Puts a diff over the image.
    pub fn set_diff(&mut self, file: &File) -> Result<(), Box<dyn std::error::Error>> {
        self.diff = Some(Diff::new(Mapping::of(file)?, self.pages())?);
        Ok(())
    }

    /// Its size.
    pub fn pages(&self) -> u64 {
        (self.file.bytes().len() / PAGE) as u64
    }

    /// Returns the content of the page, and of as many after it as can be filled by one call, at most `limit`.
    pub fn content(&mut self, page: PageNumber, limit: u64) -> Result<(u64, Content<'_>), DiffError> {
        let limit = limit.min(self.pages() - page);
        let (source, count) = self.source(page, limit);
        Ok(match source {
            Source::Zeros => (count, Content::Zeros),
            Source::Image => {
                let start = page as usize * PAGE;
                (count, Content::Bytes(&self.file.bytes()[start..start + count as usize * PAGE]))
            }
            Source::Data(first) => {
                let diff = self.diff.as_mut().expect("a source that the diff returned");
                (count, Content::Bytes(diff.data(first, count)?))
            }
        })
    }

    fn source(&self, page: PageNumber, limit: u64) -> (Source, u64) {
        let limit = match self.diff.as_ref().map(|diff| diff.find(page)) {
            Some(Found::Zeros(count)) => return (Source::Zeros, count.min(limit)),
            Some(Found::Data(first, count)) => return (Source::Data(first), count.min(limit)),
            Some(Found::Nothing(count)) => count.min(limit),
            None => limit,
        };
        let next = self.data.partition_point(|(first, _)| *first <= page);
        let end = next.checked_sub(1).map_or(0, |last| self.data[last].1);
        if page < end {
            return (Source::Image, limit.min(end - page));
        }
        (Source::Zeros, self.data.get(next).map_or(limit, |(first, _)| limit.min(first - page)))
    }
}

/// The ranges of a sparse file that are not holes, widened to whole pages.
fn extents(file: &File, size: u64) -> io::Result<Vec<(PageNumber, PageNumber)>> {
    let page = PAGE as u64;
    let mut found: Vec<(PageNumber, PageNumber)> = Vec::new();
    let mut end = 0;
    while end < size {
        let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(end)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start))?;
        let (first, last) = (start / page, end.div_ceil(page));
        match found.last_mut() {
            Some((_, before)) if *before >= first => *before = last,
            _ => found.push((first, last)),
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use std::io::Write;

    use super::*;

    /// A file without a name that has this content.
    pub fn file_of(content: &[u8]) -> File {
        let mut file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn holes_are_zero_and_the_rest_is_the_image() {
        let file = file_of(&vec![7; 3 * PAGE]);
        file.set_len(20 * PAGE as u64).unwrap();
        rustix::io::pwrite(&file, &[9; PAGE], 10 * PAGE as u64).unwrap();
        let mut image = Image::new(&file).unwrap();
        assert_eq!(image.pages(), 20);
        for (page, count, byte) in [(0, 3, Some(7)), (2, 1, Some(7)), (3, 7, None), (10, 1, Some(9)), (11, 9, None)] {
            let (found, content) = image.content(page, 100).unwrap();
            assert_eq!(found, count);
            match (content, byte) {
                (Content::Zeros, None) => {}
                (Content::Bytes(bytes), Some(byte)) => assert_eq!(bytes, vec![byte; count as usize * PAGE]),
                _ => panic!("other content at page {page}"),
            }
        }
        assert_eq!(image.content(0, 2).unwrap().0, 2);
    }

    #[test]
    fn images_of_other_sizes_than_whole_pages_are_refused() {
        for size in [0, 1, PAGE + 1] {
            assert!(Image::new(&file_of(&vec![0; size])).is_err());
        }
    }
}
