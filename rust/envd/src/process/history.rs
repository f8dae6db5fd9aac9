//! The last output of a process, kept for those who come later.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use sys::rustix;

use crate::process::pump::Kind;

/// Longest output that is kept of one process.
const KEEP_BYTES: usize = 1024 * 1024;
/// What each may keep when all of them together are at their bound.
const KEEP_AT_LEAST_BYTES: usize = 16 * 1024;
/// Chunks below this length take up what comes next: output of single bytes must not cost an allocation each.
const MERGE_BELOW_BYTES: usize = 16 * 1024;
/// Of the guest's memory, this part may be taken by output that is kept.
const SHARE_OF_MEMORY: usize = 16;
/// And never more than this.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// What all histories together keep now.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// What all histories together may keep.
pub fn bound() -> usize {
    static BOUND: OnceLock<usize> = OnceLock::new();
    *BOUND.get_or_init(|| {
        let info = rustix::system::sysinfo();
        let memory = (info.totalram as usize).saturating_mul(info.mem_unit as usize);
        (memory / SHARE_OF_MEMORY).min(MOST_BYTES)
    })
}

/// Output of one kind, in one piece.
#[derive(Debug)]
struct Chunk {
    kind: Kind,
    bytes: Vec<u8>,
}

/// The last output of one process, the oldest first. It takes memory as the process writes, not before.
#[derive(Debug, Default)]
pub struct History {
    chunks: VecDeque<Chunk>,
    /// In all chunks together; counted in [`KEPT`] too.
    length: usize,
    /// Bytes that were here once.
    missed: u64,
}

impl History {
    /// Bytes that came before the oldest that is kept.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Bytes that are kept.
    pub fn length(&self) -> u64 {
        self.length as u64
    }

    /// What is kept, in its order.
    pub fn chunks(&self) -> impl Iterator<Item = (Kind, &[u8])> {
        self.chunks.iter().map(|c| (c.kind, c.bytes.as_slice()))
    }

    /// Adds output, in exchange for the oldest where there is too much.
    pub fn push(&mut self, kind: Kind, bytes: &[u8]) {
        let before = self.length;
        match self.chunks.back_mut() {
            Some(last) if last.kind == kind && last.bytes.len() + bytes.len() <= MERGE_BELOW_BYTES => {
                last.bytes.extend_from_slice(bytes);
            }
            last => {
                if let Some(last) = last {
                    last.bytes.shrink_to_fit();
                }
                self.chunks.push_back(Chunk { kind, bytes: bytes.to_vec() });
            }
        }
        self.length += bytes.len();
        let all = KEPT.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        let limit = if all <= bound() { KEEP_BYTES } else { before.clamp(KEEP_AT_LEAST_BYTES, KEEP_BYTES) };
        self.trim(limit);
    }

    fn trim(&mut self, limit: usize) {
        while self.length > limit {
            let excess = self.length - limit;
            let Some(first) = self.chunks.front_mut() else { return };
            let gone = if first.bytes.len() <= excess {
                self.chunks.pop_front().map_or(0, |c| c.bytes.len())
            } else {
                first.bytes.drain(..excess);
                excess
            };
            self.length -= gone;
            self.missed += gone as u64;
            KEPT.fetch_sub(gone, Ordering::Relaxed);
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.length, Ordering::Relaxed);
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
        let written: Vec<u8> = (0..3 * KEEP_BYTES).map(|i| (i % 251) as u8).collect();
        for chunk in written.chunks(1000) {
            history.push(Kind::Stdout, chunk);
        }
        assert_eq!(all(&history), &written[written.len() - KEEP_BYTES..]);
        assert_eq!(history.missed(), 2 * KEEP_BYTES as u64);
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
    fn single_bytes_share_a_chunk() {
        let mut history = History::default();
        for _ in 0..2 * MERGE_BELOW_BYTES {
            history.push(Kind::Terminal, b"x");
        }
        assert_eq!(history.chunks().count(), 2);
    }
}
