//! The memory diff of a snapshot: which pages differ from the image below it. Format: docs/design/snapshots.md.
//!
//! Who started this program has compared the digest of the tables with the snapshot's manifest. All numbers are checked here anyway, and
//! the data is compared with its digest before the first page of a chunk is used.

use std::fmt;

use sys::mapping::Mapping;
use xxhash_rust::xxh3::xxh3_64;

use crate::image::{PAGE, PageNumber};

const MAGIC: &[u8; 8] = b"WRNNMEM1";
/// Magic, six numbers of 64 bits, and the digest of the tables.
const HEADER: usize = 8 + 6 * 8 + 16;
const RUN: usize = 12;
const CHUNK: usize = 16;
/// In place of the position of the data: pages of zeros.
const ZEROS: u32 = u32::MAX;

/// Why a diff is not used.
#[derive(Debug, PartialEq, Eq)]
pub enum DiffError {
    /// It does not begin as a diff does.
    NotADiff,
    /// Its size is not what its header says.
    Torn {
        /// The size in bytes.
        file: usize,
    },
    /// It belongs to a machine with more or less memory.
    OtherSize {
        /// Pages of that machine.
        pages: u64,
    },
    /// A run or chunk is outside of the memory or of the data, or overlaps another one.
    Tables,
    /// Data is not what was written.
    Damaged {
        /// The first data page of the chunk.
        data: u32,
    },
}

impl fmt::Display for DiffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADiff => write!(f, "the memory diff is not one of this version"),
            Self::Torn { file } => write!(f, "the memory diff has {file} bytes, other than its header says"),
            Self::OtherSize { pages } => write!(f, "the memory diff belongs to a machine of {pages} pages"),
            Self::Tables => write!(f, "the page map of the memory diff cannot be"),
            Self::Damaged { data } => write!(f, "the memory diff is damaged at its page {data}"),
        }
    }
}

impl std::error::Error for DiffError {}

#[derive(Clone, Copy)]
struct Run {
    page: u32,
    count: u32,
    data: u32,
}

struct Chunk {
    data: u32,
    count: u32,
    digest: u64,
    verified: bool,
}

/// What the diff says about a page, and about how many pages from there on.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: the image below has them.
    Nothing(u64),
    /// They are zero.
    Zeros(u64),
    /// They begin at this page of the data.
    Data(u32, u64),
}

/// An open diff.
pub struct Diff {
    file: Mapping,
    /// Sorted by page.
    runs: Vec<Run>,
    /// Sorted by data; they follow one another.
    chunks: Vec<Chunk>,
}

impl Diff {
    /// Reads and checks the tables of a diff for a machine with so many pages.
    pub fn new(file: Mapping, pages: u64) -> Result<Diff, DiffError> {
        let (runs, chunks) = tables(file.bytes(), pages)?;
        Ok(Diff { file, runs, chunks })
    }

    /// Looks a page up.
    pub fn find(&self, page: PageNumber) -> Found {
        let next = self.runs.partition_point(|run| u64::from(run.page) <= page);
        if let Some(run) = next.checked_sub(1).map(|last| self.runs[last]) {
            let into = page - u64::from(run.page);
            if into < u64::from(run.count) {
                let left = u64::from(run.count) - into;
                return if run.data == ZEROS { Found::Zeros(left) } else { Found::Data(run.data + into as u32, left) };
            }
        }
        Found::Nothing(self.runs.get(next).map_or(u64::MAX, |run| u64::from(run.page) - page))
    }

    /// Returns the content of pages of the data, after a comparison of all that belongs to them with its digest.
    pub fn data(&mut self, first: u32, count: u64) -> Result<&[u8], DiffError> {
        let end = u64::from(first) + count;
        let mut at = self.chunks.partition_point(|chunk| chunk.data <= first) - 1;
        while let Some(chunk) = self.chunks.get_mut(at).filter(|chunk| u64::from(chunk.data) < end) {
            if !chunk.verified {
                if xxh3_64(content(self.file.bytes(), chunk.data, u64::from(chunk.count))) != chunk.digest {
                    return Err(DiffError::Damaged { data: chunk.data });
                }
                chunk.verified = true;
            }
            at += 1;
        }
        Ok(content(self.file.bytes(), first, count))
    }
}

/// The data begins after the page of the header.
fn content(file: &[u8], first: u32, count: u64) -> &[u8] {
    let start = (first as usize + 1) * PAGE;
    &file[start..start + count as usize * PAGE]
}

fn tables(file: &[u8], pages: u64) -> Result<(Vec<Run>, Vec<Chunk>), DiffError> {
    if file.len() < HEADER || !file.starts_with(MAGIC) {
        return Err(DiffError::NotADiff);
    }
    let field = |number: usize| u64_at(file, 8 + number * 8);
    let [page, of_machine, data, runs, chunks, offset] = std::array::from_fn(field);
    if page != PAGE as u64 {
        return Err(DiffError::NotADiff);
    }
    if of_machine != pages {
        return Err(DiffError::OtherSize { pages: of_machine });
    }
    let torn = DiffError::Torn { file: file.len() };
    let size = file.len() as u64;
    // None of these numbers can be larger than the file, so that no product overflows.
    if [data, runs, chunks, offset].iter().any(|number| *number > size)
        || offset != (data + 1) * page
        || offset + runs * RUN as u64 + chunks * CHUNK as u64 != size
    {
        return Err(torn);
    }
    let (of_runs, of_chunks) = file[offset as usize..].split_at(runs as usize * RUN);
    let mut runs: Vec<Run> = of_runs
        .chunks_exact(RUN)
        .map(|row| Run { page: u32_at(row, 0), count: u32_at(row, 4), data: u32_at(row, 8) })
        .collect();
    let chunks: Vec<Chunk> = of_chunks
        .chunks_exact(CHUNK)
        .map(|row| Chunk { data: u32_at(row, 0), count: u32_at(row, 4), digest: u64_at(row, 8), verified: false })
        .collect();
    // Chunks follow one another and are all of the data; so do the runs that have data.
    let follow = |spans: &[(u32, u32)]| {
        spans.iter().try_fold(0_u64, |end, (first, count)| {
            (u64::from(*first) == end && *count > 0).then_some(end + u64::from(*count))
        }) == Some(data)
    };
    let of_chunks: Vec<(u32, u32)> = chunks.iter().map(|chunk| (chunk.data, chunk.count)).collect();
    let mut with_data: Vec<(u32, u32)> =
        runs.iter().filter(|run| run.data != ZEROS).map(|run| (run.data, run.count)).collect();
    with_data.sort_unstable();
    if !follow(&of_chunks) || !follow(&with_data) {
        return Err(DiffError::Tables);
    }
    runs.sort_unstable_by_key(|run| run.page);
    let mut end = 0;
    for run in &runs {
        if run.count == 0 || u64::from(run.page) < end {
            return Err(DiffError::Tables);
        }
        end = u64::from(run.page) + u64::from(run.count);
    }
    if end > pages { Err(DiffError::Tables) } else { Ok((runs, chunks)) }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::image::tests::file_of;

    const PAGES: u64 = 100;

    /// A diff of these runs (page, count, zeros or not); every data page contains its number.
    fn written(runs: &[(u32, u32, bool)]) -> Vec<u8> {
        let mut rows = Vec::new();
        let mut data = 0_u32;
        for (page, count, zeros) in runs {
            rows.push([*page, *count, if *zeros { ZEROS } else { data }]);
            data += if *zeros { 0 } else { *count };
        }
        let content: Vec<u8> = (0..data).flat_map(|page| vec![page as u8 + 1; PAGE]).collect();
        let chunks: Vec<(u32, u32)> = if data > 3 { vec![(0, 3), (3, data - 3)] } else { vec![(0, data)] };
        let chunks: Vec<_> = chunks.into_iter().filter(|(_, count)| *count > 0).collect();
        let mut file = MAGIC.to_vec();
        let offset = (u64::from(data) + 1) * PAGE as u64;
        for number in [PAGE as u64, PAGES, data.into(), rows.len() as u64, chunks.len() as u64, offset] {
            file.extend(number.to_le_bytes());
        }
        file.resize(PAGE, 0);
        file.extend(&content);
        file.extend(rows.iter().flatten().flat_map(|number| number.to_le_bytes()));
        for (first, count) in chunks {
            file.extend(first.to_le_bytes());
            file.extend(count.to_le_bytes());
            file.extend(xxh3_64(&content[first as usize * PAGE..(first + count) as usize * PAGE]).to_le_bytes());
        }
        file
    }

    fn opened(file: &[u8]) -> Result<Diff, DiffError> {
        Diff::new(Mapping::of(&file_of(file)).unwrap(), PAGES)
    }

    fn refused(file: &[u8]) -> DiffError {
        opened(file).err().expect("a diff that must be refused")
    }

    #[test]
    fn pages_are_found_with_what_follows_them() {
        let diff = opened(&written(&[(90, 10, false), (10, 2, false), (20, 5, true)])).unwrap();
        assert_eq!(diff.find(0), Found::Nothing(10));
        assert_eq!(diff.find(10), Found::Data(10, 2));
        assert_eq!(diff.find(11), Found::Data(11, 1));
        assert_eq!(diff.find(12), Found::Nothing(8));
        assert_eq!(diff.find(24), Found::Zeros(1));
        assert_eq!(diff.find(25), Found::Nothing(65));
        assert_eq!(diff.find(99), Found::Data(9, 1));
    }

    #[test]
    fn data_is_compared_with_its_digest_when_it_is_used() {
        let mut file = written(&[(10, 8, false)]);
        let mut diff = opened(&file).unwrap();
        assert_eq!(diff.data(7, 1).unwrap(), vec![8; PAGE]);
        assert_eq!(diff.data(2, 2).unwrap()[PAGE..], vec![4; PAGE]);
        file[PAGE + 5 * PAGE] = 0;
        let mut diff = opened(&file).unwrap();
        assert!(diff.data(0, 3).is_ok());
        assert_eq!(diff.data(7, 1), Err(DiffError::Damaged { data: 3 }));
        assert_eq!(diff.data(2, 2), Err(DiffError::Damaged { data: 3 }));
    }

    #[test]
    fn a_diff_without_pages_is_one() {
        assert_eq!(opened(&written(&[])).unwrap().find(5), Found::Nothing(u64::MAX));
    }

    #[test]
    fn files_that_are_no_diff_are_refused() {
        assert_eq!(refused(b"x"), DiffError::NotADiff);
        assert_eq!(refused(&vec![0; 2 * PAGE]), DiffError::NotADiff);
        let file = written(&[(10, 8, false)]);
        for length in [HEADER, PAGE, file.len() - 1] {
            assert!(matches!(refused(&file[..length]), DiffError::Torn { .. }));
        }
        // Each number of the header as large as can be.
        for number in 0..6 {
            let mut file = file.clone();
            file[8 + number * 8..16 + number * 8].fill(0xFF);
            refused(&file);
        }
    }

    #[test]
    fn tables_that_cannot_be_are_refused() {
        for runs in [
            &[(95, 10, false)][..],
            &[(10, 5, false), (12, 5, false)],
            &[(10, 5, true), (14, 5, false)],
            &[(10, 0, true)],
            &[(u32::MAX, u32::MAX - 1, true)],
        ] {
            assert_eq!(refused(&written(runs)), DiffError::Tables);
        }
        let good = written(&[(10, 8, false)]);
        let tables = PAGE + 8 * PAGE;
        for (at, value) in [(tables + 8, 1_u32), (tables + 4, 7), (tables + RUN, 1), (tables + RUN + 4, 2)] {
            let mut file = good.clone();
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert_eq!(refused(&file), DiffError::Tables);
        }
    }
}
