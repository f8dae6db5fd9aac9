//! Reads an untrusted archive entry by entry: every length is checked before it is used.

use std::fmt;
use std::io::{self, Read};

use crate::files::tar::header::{BLOCK, Block, Header, Segment, kind, parse_more_sparse, parse_sparse};

/// Longest extended header of one entry: a path of 4 KiB, a link, some attributes that are ignored.
const MAX_EXTENSION_BYTES: u64 = 256 * 1024;
/// Most segments of one sparse file: 1 MiB of memory.
const MAX_SEGMENTS: usize = 65_536;
/// Bytes read at once.
const CHUNK: usize = 256 * 1024;

/// Why an archive cannot be read further.
#[derive(Debug)]
pub enum ArchiveError {
    /// Reading its bytes failed.
    Input(io::Error),
    /// It is not an archive of a supported format.
    Malformed(String),
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(error) => write!(f, "the archive cannot be read: {error}"),
            Self::Malformed(text) => write!(f, "the archive is not valid: {text}"),
        }
    }
}

impl std::error::Error for ArchiveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Input(error) => Some(error),
            Self::Malformed(_) => None,
        }
    }
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => malformed("it breaks off"),
            _ => Self::Input(error),
        }
    }
}

fn malformed(text: impl Into<String>) -> ArchiveError {
    ArchiveError::Malformed(text.into())
}

/// One entry. Names are as stored in the archive.
#[derive(Debug)]
pub struct Entry {
    /// Type, mode, time, device.
    pub header: Header,
    /// Size of the file including holes.
    pub size: u64,
    /// The stored segments.
    segments: Vec<Segment>,
}

/// Extended headers that apply to the next entry.
#[derive(Debug, Default)]
struct Ahead {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_version: Option<(u64, u64)>,
    sparse_other: bool,
}

/// An archive that is being read.
#[derive(Debug)]
pub struct Archive<R> {
    input: R,
    /// Unread bytes of the current entry, including the padding of its last block.
    left: u64,
}

fn padded(size: u64) -> Result<u64, ArchiveError> {
    size.checked_next_multiple_of(BLOCK as u64).filter(|n| *n < 1 << 62).ok_or_else(|| malformed("a size is too large"))
}

impl<R: Read> Archive<R> {
    /// Starts at the first byte of an archive.
    pub fn new(input: R) -> Self {
        Self { input, left: 0 }
    }

    /// Returns the next entry, skipping the rest of the current one; `None` at the end mark of the archive.
    pub fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut ahead = Ahead::default();
        loop {
            self.skip()?;
            let mut block: Block = [0; BLOCK];
            self.input.read_exact(&mut block)?;
            if block.iter().all(|b| *b == 0) {
                return Ok(None);
            }
            let header = Header::parse(&block).map_err(malformed)?;
            self.left = padded(header.size)?;
            match header.kind {
                kind::LONG_NAME => ahead.name = Some(self.long_text(header.size)?),
                kind::LONG_LINK => ahead.link = Some(self.long_text(header.size)?),
                kind::EXTENDED => {
                    let facts = self.extension(header.size)?;
                    ahead.read(&facts)?;
                }
                kind::GLOBAL => {}
                _ => return self.entry(header, ahead, &block).map(Some),
            }
        }
    }

    fn skip(&mut self) -> Result<(), ArchiveError> {
        let passed = io::copy(&mut (&mut self.input).take(self.left), &mut io::sink())?;
        if passed < self.left {
            return Err(malformed("it breaks off"));
        }
        self.left = 0;
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(malformed("the facts about an entry are too long"));
        }
        let mut bytes = vec![0; size as usize];
        self.input.read_exact(&mut bytes)?;
        self.left -= size;
        Ok(bytes)
    }

    fn long_text(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = self.extension(size)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        Ok(bytes)
    }

    fn entry(&mut self, mut header: Header, ahead: Ahead, block: &Block) -> Result<Entry, ArchiveError> {
        if let Some(size) = ahead.size {
            self.left = padded(size)?;
            header.size = size;
        }
        header.name = ahead.sparse_name.or(ahead.name).unwrap_or(header.name);
        header.link = ahead.link.unwrap_or(header.link);
        header.mtime = ahead.mtime.unwrap_or(header.mtime);
        // In old archives, a file whose name ends in a slash is a directory.
        if matches!(header.kind, 0 | kind::FILE) && header.name.ends_with(b"/") {
            header.kind = kind::DIRECTORY;
        }
        let stored = header.size;
        let (size, segments) = match (header.kind, ahead.sparse_version) {
            (kind::SPARSE, _) => {
                let (size, segments) = self.old_sparse(block)?;
                (ahead.sparse_size.unwrap_or(size), segments)
            }
            (_, Some((1, 0))) => {
                let size = ahead.sparse_size.ok_or_else(|| malformed("a file with holes has no size"))?;
                (size, self.posix_sparse()?)
            }
            (_, Some(_)) => {
                return Err(malformed("its way to write holes is not known: use GNU's format or POSIX 1.0"));
            }
            (_, None) if ahead.sparse_other => {
                return Err(malformed("its way to write holes is not known: use GNU's format or POSIX 1.0"));
            }
            (0 | kind::FILE | kind::CONTIGUOUS, None) => (stored, vec![Segment { offset: 0, length: stored }]),
            _ => (0, Vec::new()),
        };
        let mut end = 0;
        let mut sum = 0_u64;
        for segment in &segments {
            let next = segment.offset.checked_add(segment.length);
            if segment.offset < end || next.is_none_or(|n| n > size) {
                return Err(malformed("the pieces of a file with holes are not in order"));
            }
            end = segment.offset + segment.length;
            sum += segment.length;
        }
        if sum > self.left || size >= 1 << 62 {
            return Err(malformed("a file is longer than what is stored of it"));
        }
        Ok(Entry { header, size, segments })
    }

    /// Reads the sparse map of GNU's own format, in blocks after the header.
    fn old_sparse(&mut self, block: &Block) -> Result<(u64, Vec<Segment>), ArchiveError> {
        let bad = || malformed("the map of a file with holes is damaged");
        let (size, mut segments, mut more) = parse_sparse(block).ok_or_else(bad)?;
        while more {
            let mut block: Block = [0; BLOCK];
            // These blocks are not counted in the entry's size.
            self.input.read_exact(&mut block)?;
            let (found, next) = parse_more_sparse(&block).ok_or_else(bad)?;
            segments.extend(found);
            more = next;
            if segments.len() > MAX_SEGMENTS {
                return Err(malformed("a file with holes has too many pieces"));
            }
        }
        Ok((size, segments))
    }

    /// Reads the sparse map of POSIX format 1.0: decimal numbers in lines, before the content.
    fn posix_sparse(&mut self) -> Result<Vec<Segment>, ArchiveError> {
        let mut lines = Lines { archive: self, block: [0; BLOCK], at: BLOCK };
        let count = lines.number()?;
        if count > MAX_SEGMENTS as u64 {
            return Err(malformed("a file with holes has too many pieces"));
        }
        let mut segments = Vec::new();
        for _ in 0..count {
            segments.push(Segment { offset: lines.number()?, length: lines.number()? });
        }
        Ok(segments)
    }

    /// Passes the stored bytes of the current entry to `write`, each with its offset in the file.
    pub fn content<E: From<ArchiveError>>(
        &mut self,
        entry: &Entry,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0; CHUNK.min(entry.size as usize)];
        for segment in &entry.segments {
            let (mut at, mut left) = (segment.offset, segment.length);
            while left > 0 {
                let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.input.read_exact(&mut buffer[..length]).map_err(|e| E::from(e.into()))?;
                self.left -= length as u64;
                take(at, &buffer[..length])?;
                at += length as u64;
                left -= length as u64;
            }
        }
        Ok(())
    }
}

/// Lines with numbers, read from whole blocks of the current entry.
struct Lines<'a, R> {
    archive: &'a mut Archive<R>,
    block: Block,
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64, ArchiveError> {
        let mut number = 0_u64;
        loop {
            if self.at == BLOCK {
                if self.archive.left < BLOCK as u64 {
                    return Err(malformed("the map of a file with holes breaks off"));
                }
                self.archive.input.read_exact(&mut self.block)?;
                self.archive.left -= BLOCK as u64;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            let digit = match byte {
                b'0'..=b'9' => u64::from(byte - b'0'),
                b'\n' => return Ok(number),
                _ => return Err(malformed("the map of a file with holes is damaged")),
            };
            let next = number.checked_mul(10).and_then(|n| n.checked_add(digit));
            number = next.ok_or_else(|| malformed("the map of a file with holes is damaged"))?;
        }
    }
}

impl Ahead {
    /// Parses POSIX extended headers: `length key=value`, one on each line.
    fn read(&mut self, mut records: &[u8]) -> Result<(), ArchiveError> {
        let bad = || malformed("the facts about an entry are damaged");
        while !records.is_empty() && records[0] != 0 {
            let space = records.iter().position(|b| *b == b' ').ok_or_else(bad)?;
            let length = decimal(&records[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(bad)?;
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &records[space + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            self.take(&record[..equals], &record[equals + 1..]).ok_or_else(bad)?;
            records = &records[length..];
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(seconds(value)?),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse_size = Some(decimal(value)?),
            b"GNU.sparse.major" => {
                self.sparse_version = Some((decimal(value)?, self.sparse_version.map_or(0, |v| v.1)));
            }
            b"GNU.sparse.minor" => {
                self.sparse_version = Some((self.sparse_version.map_or(0, |v| v.0), decimal(value)?));
            }
            b"GNU.sparse.map" | b"GNU.sparse.numblocks" => self.sparse_other = true,
            _ => {}
        }
        Some(())
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Parses the whole seconds of a time like `-12.5`, rounded down.
fn seconds(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let below = whole.starts_with('-') && fraction.bytes().any(|b| b != b'0');
    Some(seconds - i64::from(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Vec<u8> {
        let mut length = text.len() + 3;
        while format!("{length} {text}\n").len() != length {
            length += 1;
        }
        format!("{length} {text}\n").into_bytes()
    }

    fn with_content(kind: u8, name: &[u8], content: &[u8]) -> Vec<u8> {
        let header = Header { kind, name: name.to_vec(), size: content.len() as u64, ..Header::default() };
        let mut bytes = header.block().to_vec();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn contents(archive: &mut Archive<&[u8]>, entry: &Entry) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        let done: Result<(), ArchiveError> = archive.content(entry, |at, bytes| {
            found.push((at, bytes.to_vec()));
            Ok(())
        });
        done.expect("content");
        found
    }

    #[test]
    fn facts_ahead_of_an_entry_hold_for_it_alone() {
        let long = "n".repeat(300);
        let mut bytes = with_content(kind::EXTENDED, b"pax", &record(&format!("path={long}")));
        bytes.extend(with_content(kind::FILE, b"short", b"first"));
        bytes.extend(with_content(kind::LONG_NAME, b"././@LongLink", b"gnu\xff\0"));
        bytes.extend(with_content(kind::FILE, b"short", b""));
        bytes.extend(with_content(kind::FILE, b"plain", b"third"));
        bytes.extend([0; BLOCK]);
        let mut archive = Archive::new(&bytes[..]);
        let entry = archive.next().expect("good").expect("first");
        assert_eq!(entry.header.name, long.as_bytes());
        assert_eq!(contents(&mut archive, &entry), [(0, b"first".to_vec())]);
        assert_eq!(archive.next().expect("good").expect("second").header.name, b"gnu\xff");
        assert_eq!(archive.next().expect("good").expect("third").header.name, b"plain");
        assert!(archive.next().expect("good").is_none());
    }

    #[test]
    fn holes_of_posix_1_0_are_read() {
        let facts = ["GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=real", "GNU.sparse.realsize=9000"];
        let facts: Vec<u8> = facts.iter().flat_map(|f| record(f)).collect();
        let mut stored = b"1\n4096\n3\n".to_vec();
        stored.resize(BLOCK, 0);
        stored.extend(b"abc");
        let mut bytes = with_content(kind::EXTENDED, b"pax", &facts);
        bytes.extend(with_content(kind::FILE, b"GNUSparseFile.0/real", &stored));
        let mut archive = Archive::new(&bytes[..]);
        let entry = archive.next().expect("good").expect("an entry");
        assert_eq!((entry.header.name.as_slice(), entry.size), (&b"real"[..], 9000));
        assert_eq!(contents(&mut archive, &entry), [(4096, b"abc".to_vec())]);
    }

    #[test]
    fn an_archive_that_lies_about_lengths_is_refused() {
        let long_facts = Header { kind: kind::EXTENDED, size: 1 << 40, ..Header::default() }.block();
        let endless = Header { kind: kind::FILE, size: (1 << 62) - 1, ..Header::default() }.block();
        let cut = with_content(kind::FILE, b"x", &[1; 2000]);
        let overlapping = {
            let pieces = [Segment { offset: 8, length: 8 }, Segment { offset: 4, length: 8 }];
            let header = Header { kind: kind::SPARSE, size: 16, ..Header::default() };
            header.sparse_blocks(100, &pieces)[0]
        };
        for bytes in [&long_facts[..], &endless[..], &cut[..600], &overlapping[..], &[1; 100], &[]] {
            let mut archive = Archive::new(bytes);
            let outcome = archive.next().and_then(|_| archive.next());
            assert!(matches!(outcome, Err(ArchiveError::Malformed(_))), "{outcome:?}");
        }
        for facts in ["8 path=x\n", "999 path=x\n", "x path=x\n", "11 size=-5\n"] {
            assert!(Ahead::default().read(facts.as_bytes()).is_err(), "{facts:?}");
        }
    }
}
