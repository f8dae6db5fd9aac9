//! Reading of `/proc`, bounded.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

/// Processes that are looked at.
pub const MAX_PROCESSES: usize = 4096;

/// Returns the ids of running processes, in ascending order.
pub fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).take(MAX_PROCESSES).collect();
    pids.sort_unstable();
    pids
}

/// Reads a file up to a limit; empty if it cannot be read, for instance because its process has ended.
pub fn read(path: impl AsRef<Path>, limit: u64) -> Vec<u8> {
    let mut content = Vec::new();
    if let Ok(file) = File::open(path) {
        // What was read before an error is used.
        let _ = file.take(limit).read_to_end(&mut content);
    }
    content
}

/// Returns a text for display: at most `limit` characters, without control characters.
pub fn shown(text: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_the_processes() {
        assert!(pids().contains(&std::process::id()));
    }

    #[test]
    fn texts_are_cut_and_have_no_control_characters() {
        assert_eq!(shown(b"a\x1b[1m\nb\xff", 100), "a [1m b\u{fffd}");
        assert_eq!(shown("äöü".as_bytes(), 2), "äö");
    }

    #[test]
    fn a_file_that_is_gone_is_empty() {
        assert!(read("/proc/0/stat", 10).is_empty());
        assert_eq!(read("/proc/self/stat", 3).len(), 3);
    }
}
