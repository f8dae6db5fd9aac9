//! The buffered last output of a process, for later readers.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use sys::rustix;

use crate::process::pump::Kind;

/// Most output buffered for one process.
const MAX_BYTES: usize = 1024 * 1024;
/// What each process may buffer when the total limit is reached.
const MIN_BYTES: usize = 16 * 1024;
/// Chunks below this length are extended: output of single bytes must not cost an allocation each.
const MERGE_BELOW_BYTES: usize = 16 * 1024;
/// A chunk counts at least this much: about what an empty one takes. Output that changes between stdout and stderr all the time
/// has a chunk for each piece.
const MIN_CHUNK_BYTES: usize = 64;
/// Buffered output may take this fraction (1/n) of the guest's memory,
const SHARE_OF_MEMORY: usize = 16;
/// but never more than this.
const MAX_TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// Bytes in all histories together.
static BUFFERED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Returns the limit for all histories together.
pub fn bound() -> usize {
    static BOUND: OnceLock<usize> = OnceLock::new();
    *BOUND.get_or_init(|| {
        let info = rustix::system::sysinfo();
        let memory = (info.totalram as usize).saturating_mul(info.mem_unit as usize);
        (memory / SHARE_OF_MEMORY).min(MAX_TOTAL_BYTES)
    })
}

/// A piece of output of one kind.
#[derive(Debug)]
struct Chunk {
    kind: Kind,
    bytes: Vec<u8>,
}

impl Chunk {
    /// What it counts.
    fn cost(&self) -> usize {
        self.bytes.len().max(MIN_CHUNK_BYTES)
    }
}

/// The last output of one process, oldest first. Memory is allocated as the process writes.
#[derive(Debug, Default)]
pub struct History {
    chunks: VecDeque<Chunk>,
    /// Bytes in all chunks together.
    length: usize,
    /// What all chunks count together; counted in [`BUFFERED_BYTES`] too.
    cost: usize,
    /// Bytes that were discarded.
    missed: u64,
}

impl History {
    /// The number of discarded bytes before the oldest buffered one.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// The number of buffered bytes.
    pub fn length(&self) -> u64 {
        self.length as u64
    }

    /// The buffered output, in order.
    pub fn chunks(&self) -> impl Iterator<Item = (Kind, &[u8])> {
        self.chunks.iter().map(|c| (c.kind, c.bytes.as_slice()))
    }

    /// Adds output, and discards the oldest if there is too much.
    pub fn push(&mut self, kind: Kind, bytes: &[u8]) {
        let before = self.cost;
        let added = match self.chunks.back_mut() {
            Some(last) if last.kind == kind && last.bytes.len() + bytes.len() <= MERGE_BELOW_BYTES => {
                let cost = last.cost();
                last.bytes.extend_from_slice(bytes);
                last.cost() - cost
            }
            last => {
                if let Some(last) = last {
                    last.bytes.shrink_to_fit();
                }
                let chunk = Chunk { kind, bytes: bytes.to_vec() };
                let cost = chunk.cost();
                self.chunks.push_back(chunk);
                cost
            }
        };
        self.length += bytes.len();
        self.cost += added;
        let all = BUFFERED_BYTES.fetch_add(added, Ordering::Relaxed) + added;
        let limit = if all <= bound() { MAX_BYTES } else { before.clamp(MIN_BYTES, MAX_BYTES) };
        self.trim(limit);
    }

    fn trim(&mut self, limit: usize) {
        while self.cost > limit {
            let excess = self.cost - limit;
            let Some(first) = self.chunks.front_mut() else { return };
            let before = first.cost();
            // A part of a chunk of the least cost would save nothing.
            let (gone, saved) = if first.bytes.len() <= excess.max(MIN_CHUNK_BYTES) {
                (self.chunks.pop_front().map_or(0, |c| c.bytes.len()), before)
            } else {
                first.bytes.drain(..excess);
                (excess, before - first.cost())
            };
            self.length -= gone;
            self.cost -= saved;
            self.missed += gone as u64;
            BUFFERED_BYTES.fetch_sub(saved, Ordering::Relaxed);
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        BUFFERED_BYTES.fetch_sub(self.cost, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(history: &History) -> Vec<u8> {
        history.chunks().flat_map(|(_, bytes)| bytes.to_vec()).collect()
    }

    #[test]
    fn the_last_bytes_are_kept_in_their_order() {
        let mut history = History::default();
        let written: Vec<u8> = (0..3 * MAX_BYTES).map(|i| (i % 251) as u8).collect();
        for chunk in written.chunks(1000) {
            history.push(Kind::Stdout, chunk);
        }
        assert_eq!(all(&history), &written[written.len() - MAX_BYTES..]);
        assert_eq!(history.missed(), 2 * MAX_BYTES as u64);
    }

    #[test]
    fn kinds_stay_apart() {
        let mut history = History::default();
        for (kind, bytes) in [(Kind::Stdout, b"a"), (Kind::Stdout, b"b"), (Kind::Stderr, b"c"), (Kind::Stdout, b"d")] {
            history.push(kind, bytes);
        }
        let chunks: Vec<_> = history.chunks().collect();
        assert_eq!(
            chunks,
            [(Kind::Stdout, b"ab".as_slice()), (Kind::Stderr, b"c".as_slice()), (Kind::Stdout, b"d".as_slice())]
        );
    }

    #[test]
    fn output_that_changes_its_kind_all_the_time_takes_no_more_memory() {
        let mut history = History::default();
        for _ in 0..MAX_BYTES / MIN_CHUNK_BYTES {
            history.push(Kind::Stdout, b"o");
            history.push(Kind::Stderr, b"e");
        }
        assert_eq!(history.chunks().count(), MAX_BYTES / MIN_CHUNK_BYTES);
        assert_eq!(history.missed() + history.length(), 2 * (MAX_BYTES / MIN_CHUNK_BYTES) as u64);
    }

    #[test]
    fn single_bytes_share_a_chunk() {
        let mut history = History::default();
        for _ in 0..2 * MERGE_BELOW_BYTES {
            history.push(Kind::Terminal, b"x");
        }
        assert_eq!(history.chunks().count(), 2);
    }
}
