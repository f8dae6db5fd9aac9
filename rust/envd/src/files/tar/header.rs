//! One header block of a tar archive: ustar with GNU's additions.

use std::ops::Range;

/// Archives are made of blocks of this size.
pub const BLOCK: usize = 512;
/// A block.
pub type Block = [u8; BLOCK];

/// A stored segment of a sparse file; everything else is holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Segments in a header of type [`SPARSE`].
const SEGMENTS_IN_HEADER: usize = 4;
/// Segments in each block after it.
const SEGMENTS_IN_BLOCK: usize = 21;
const SEGMENT_LEN: usize = 24;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const KIND: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const USER_NAME: Range<usize> = 265..297;
const GROUP_NAME: Range<usize> = 297..329;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
const SPARSE_MAP: usize = 386;
const SPARSE_MORE: usize = 482;
const REAL_SIZE: Range<usize> = 483..495;
const GNU_MAGIC: &[u8; 8] = b"ustar  \0";
const USTAR_MAGIC: &[u8; 6] = b"ustar\0";

/// Entry types, as the letter in the header.
pub mod kind {
    /// A file; so is 0.
    pub const FILE: u8 = b'0';
    /// A hard link to a file that came before.
    pub const HARD_LINK: u8 = b'1';
    /// A symbolic link.
    pub const SYMLINK: u8 = b'2';
    /// A character device.
    pub const CHAR_DEVICE: u8 = b'3';
    /// A block device.
    pub const BLOCK_DEVICE: u8 = b'4';
    /// A directory.
    pub const DIRECTORY: u8 = b'5';
    /// A named pipe.
    pub const FIFO: u8 = b'6';
    /// Treated like [`FILE`].
    pub const CONTIGUOUS: u8 = b'7';
    /// A sparse file (GNU).
    pub const SPARSE: u8 = b'S';
    /// The name of the next entry (GNU).
    pub const LONG_NAME: u8 = b'L';
    /// The link target of the next entry (GNU).
    pub const LONG_LINK: u8 = b'K';
    /// Extended header for the next entry (POSIX).
    pub const EXTENDED: u8 = b'x';
    /// Extended header for all following entries (POSIX).
    pub const GLOBAL: u8 = b'g';
}

/// The content of a header. Names are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// One of [`kind`].
    pub kind: u8,
    /// Name in the archive.
    pub name: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner and group ids.
    pub owner: (u32, u32),
    /// Owner and group names.
    pub owner_names: (String, String),
    /// Size of the data after the header.
    pub size: u64,
    /// Unix seconds.
    pub mtime: i64,
    /// Device numbers.
    pub device: (u32, u32),
}

fn text(block: &Block, range: Range<usize>) -> Vec<u8> {
    let field = &block[range];
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    field[..end].to_vec()
}

/// Parses a number: octal digits, or with the highest bit set a big-endian two's complement.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let sign = if first & 0x40 != 0 { -1_i64 } else { 0 };
        let start = sign << 6 | i64::from(first & 0x3F);
        return rest.iter().try_fold(start, |n, b| n.checked_mul(256)?.checked_add(i64::from(*b)));
    }
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0_i64, |n, b| match b {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

/// The sum of all bytes, with the checksum field counted as spaces.
fn checksum(block: &Block) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
    sum(&block[..CHECKSUM.start]) + sum(&block[CHECKSUM.end..]) + 8 * u64::from(b' ')
}

impl Header {
    /// Parses a block; the error describes what is wrong with it.
    pub fn parse(block: &Block) -> Result<Self, &'static str> {
        if number(&block[CHECKSUM]).and_then(|n| u64::try_from(n).ok()) != Some(checksum(block)) {
            return Err("a header is damaged");
        }
        let unsigned = |range: Range<usize>| number(&block[range]).and_then(|n| u64::try_from(n).ok());
        let mut name = text(block, NAME);
        if block[MAGIC].starts_with(USTAR_MAGIC) && block[PREFIX.start] != 0 {
            let mut whole = text(block, PREFIX);
            whole.push(b'/');
            whole.append(&mut name);
            name = whole;
        }
        let part = |range| unsigned(range).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        Ok(Self {
            kind: block[KIND],
            name,
            link: text(block, LINK),
            mode: part(MODE) & 0o7777,
            owner: (part(UID), part(GID)),
            owner_names: (String::new(), String::new()),
            size: unsigned(SIZE).ok_or("a size is no number")?,
            mtime: number(&block[MTIME]).unwrap_or(0),
            device: (part(MAJOR), part(MINOR)),
        })
    }

    /// Encodes the header. Names longer than their field are truncated: a [`kind::LONG_NAME`] entry precedes
    /// them.
    pub fn block(&self) -> Block {
        let mut block = [0; BLOCK];
        put_text(&mut block[NAME], &self.name);
        put_number(&mut block[MODE], i64::from(self.mode));
        put_number(&mut block[UID], i64::from(self.owner.0));
        put_number(&mut block[GID], i64::from(self.owner.1));
        put_number(&mut block[SIZE], self.size as i64);
        put_number(&mut block[MTIME], self.mtime);
        block[KIND] = self.kind;
        put_text(&mut block[LINK], &self.link);
        block[MAGIC].copy_from_slice(GNU_MAGIC);
        put_text(&mut block[USER_NAME.start..USER_NAME.end - 1], self.owner_names.0.as_bytes());
        put_text(&mut block[GROUP_NAME.start..GROUP_NAME.end - 1], self.owner_names.1.as_bytes());
        if matches!(self.kind, kind::CHAR_DEVICE | kind::BLOCK_DEVICE) {
            put_number(&mut block[MAJOR], i64::from(self.device.0));
            put_number(&mut block[MINOR], i64::from(self.device.1));
        }
        seal(&mut block);
        block
    }

    /// Encodes the header of a sparse file, and the blocks with the rest of its segments.
    pub fn sparse_blocks(&self, real_size: u64, segments: &[Segment]) -> Vec<Block> {
        let mut first = self.block();
        let (here, rest) = segments.split_at(segments.len().min(SEGMENTS_IN_HEADER));
        put_segments(&mut first[SPARSE_MAP..], here);
        first[SPARSE_MORE] = u8::from(!rest.is_empty());
        put_number(&mut first[REAL_SIZE], real_size as i64);
        seal(&mut first);
        let mut blocks = vec![first];
        let mut chunks = rest.chunks(SEGMENTS_IN_BLOCK).peekable();
        while let Some(chunk) = chunks.next() {
            let mut block = [0; BLOCK];
            put_segments(&mut block, chunk);
            block[SEGMENTS_IN_BLOCK * SEGMENT_LEN] = u8::from(chunks.peek().is_some());
            blocks.push(block);
        }
        blocks
    }
}

/// Parses what the header of a sparse file has beyond [`Header`]: its real size, its first segments, whether
/// more blocks with segments follow.
pub fn parse_sparse(block: &Block) -> Option<(u64, Vec<Segment>, bool)> {
    let real_size = u64::try_from(number(&block[REAL_SIZE])?).ok()?;
    Some((real_size, segments(&block[SPARSE_MAP..], SEGMENTS_IN_HEADER)?, block[SPARSE_MORE] != 0))
}

/// Parses a block of segments, and whether another one follows.
pub fn parse_more_sparse(block: &Block) -> Option<(Vec<Segment>, bool)> {
    Some((segments(block, SEGMENTS_IN_BLOCK)?, block[SEGMENTS_IN_BLOCK * SEGMENT_LEN] != 0))
}

fn segments(fields: &[u8], count: usize) -> Option<Vec<Segment>> {
    let mut found = Vec::new();
    for field in fields.chunks_exact(SEGMENT_LEN).take(count).take_while(|f| f[0] != 0) {
        let (offset, length) = field.split_at(SEGMENT_LEN / 2);
        found.push(Segment {
            offset: u64::try_from(number(offset)?).ok()?,
            length: u64::try_from(number(length)?).ok()?,
        });
    }
    Some(found)
}

fn put_segments(fields: &mut [u8], segments: &[Segment]) {
    for (field, segment) in fields.chunks_exact_mut(SEGMENT_LEN).zip(segments) {
        let (offset, length) = field.split_at_mut(SEGMENT_LEN / 2);
        put_number(offset, segment.offset as i64);
        put_number(length, segment.length as i64);
    }
}

fn put_text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Writes octal digits with a NUL after them if they fit, otherwise base 256.
fn put_number(field: &mut [u8], value: i64) {
    let digits = field.len() - 1;
    if (0..1 << (3 * digits).min(62)).contains(&value) {
        let text = format!("{value:0digits$o}");
        field[..digits].copy_from_slice(text.as_bytes());
        return;
    }
    let bytes = value.to_be_bytes();
    let fill = if value < 0 { 0xFF } else { 0 };
    field.fill(fill);
    let length = bytes.len().min(field.len());
    let start = field.len() - length;
    field[start..].copy_from_slice(&bytes[bytes.len() - length..]);
    field[0] |= 0x80;
}

fn seal(block: &mut Block) {
    let text = format!("{:06o}\0 ", checksum(block));
    block[CHECKSUM].copy_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for (size, mtime) in [(0, 0), (5, -1), (1 << 40, 1 << 40)] {
            let header = Header {
                kind: kind::FILE,
                name: b"a/\xff".to_vec(),
                link: b"to".to_vec(),
                mode: 0o4755,
                owner: (1000, 3_000_000_000),
                size,
                mtime,
                ..Header::default()
            };
            assert_eq!(Header::parse(&header.block()), Ok(header));
        }
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(number(b"\x80\x00\x01\x00"), Some(256));
        assert_eq!(number(b"9"), None);
    }

    #[test]
    fn a_damaged_header_is_seen() {
        let mut block = Header { kind: kind::FILE, name: b"x".to_vec(), ..Header::default() }.block();
        block[0] = b'y';
        assert!(Header::parse(&block).is_err());
    }

    #[test]
    fn many_pieces_go_over_several_blocks() {
        let pieces: Vec<_> = (0..60).map(|n| Segment { offset: n * 8192, length: 4096 }).collect();
        let header = Header { kind: kind::SPARSE, size: 60 * 4096, ..Header::default() };
        let blocks = header.sparse_blocks(1 << 20, &pieces);
        let (real_size, mut found, mut more) = parse_sparse(&blocks[0]).expect("a sparse header");
        assert_eq!((real_size, blocks.len()), (1 << 20, 4));
        for block in &blocks[1..] {
            assert!(more);
            let (here, next) = parse_more_sparse(block).expect("pieces");
            found.extend(here);
            more = next;
        }
        assert!(!more);
        assert_eq!(found, pieces);
    }
}
