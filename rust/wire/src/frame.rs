//! Converts bytes to Connect frames and back: one flag byte, four bytes of length (big endian), contents.

use std::fmt;

/// Length of a frame's head.
pub const HEAD_LEN: usize = 5;
/// Flag of a frame whose contents are compressed. The agent never offers compression and rejects it.
pub const FLAG_COMPRESSED: u8 = 0x01;
/// Flag of the last frame of a stream.
pub const FLAG_END: u8 = 0x02;

/// Why the bytes are not valid frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A frame exceeds the limit.
    TooLong {
        /// The length in its head.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// A frame is compressed, which was not negotiated.
    Compressed,
    /// The bytes end inside a frame.
    CutOff {
        /// Bytes of the incomplete frame.
        have: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, limit } => {
                write!(f, "message of {length} bytes is longer than the limit of {limit}")
            }
            Self::Compressed => f.write_str("compressed messages are not supported"),
            Self::CutOff { have } => write!(f, "the stream ends inside a message ({have} bytes of it came)"),
        }
    }
}

impl std::error::Error for FrameError {}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// `FLAG_*` bits.
    pub flags: u8,
    /// Contents.
    pub contents: Vec<u8>,
}

impl Frame {
    /// Whether this is the last frame of its stream.
    pub fn is_end(&self) -> bool {
        self.flags & FLAG_END != 0
    }
}

/// Encodes a frame.
pub fn encode(flags: u8, contents: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_LEN + contents.len());
    bytes.push(flags);
    bytes.extend_from_slice(&(contents.len() as u32).to_be_bytes());
    bytes.extend_from_slice(contents);
    bytes
}

/// Splits a byte stream into frames.
#[derive(Debug)]
pub struct FrameDecoder {
    /// Bytes of frames that were not returned yet.
    pending: Vec<u8>,
    /// Longest contents accepted.
    limit: usize,
}

impl FrameDecoder {
    /// Creates a decoder that rejects contents longer than `limit`.
    pub fn new(limit: usize) -> Self {
        Self { pending: Vec::new(), limit }
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Returns the next complete frame, or `None` if more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((head, rest)) = self.pending.split_first_chunk::<HEAD_LEN>() else {
            return Ok(None);
        };
        let [flags, a, b, c, d] = *head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.limit {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        if flags & FLAG_COMPRESSED != 0 {
            return Err(FrameError::Compressed);
        }
        if rest.len() < length {
            return Ok(None);
        }
        let contents = rest[..length].to_vec();
        self.pending.drain(..HEAD_LEN + length);
        Ok(Some(Frame { flags, contents }))
    }

    /// Reports the end of the bytes.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.pending.is_empty() { Ok(()) } else { Err(FrameError::CutOff { have: self.pending.len() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_the_bytes_are_cut() {
        let mut bytes = encode(0, b"one");
        bytes.extend(encode(0, b""));
        bytes.extend(encode(FLAG_END, b"{}"));
        for step in 1..bytes.len() {
            let mut decoder = FrameDecoder::new(16);
            let mut frames = Vec::new();
            for part in bytes.chunks(step) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().expect("good bytes") {
                    frames.push(frame);
                }
            }
            decoder.finish().expect("nothing left");
            assert_eq!(frames.len(), 3);
            assert_eq!(frames[0].contents, b"one");
            assert!(frames[2].is_end());
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_its_contents_come() {
        let mut decoder = FrameDecoder::new(10);
        decoder.push(&[0, 0, 0, 0, 11]);
        assert_eq!(decoder.next_frame(), Err(FrameError::TooLong { length: 11, limit: 10 }));
    }

    #[test]
    fn a_compressed_frame_is_refused() {
        let mut decoder = FrameDecoder::new(10);
        decoder.push(&encode(FLAG_COMPRESSED, b"x"));
        assert_eq!(decoder.next_frame(), Err(FrameError::Compressed));
    }

    #[test]
    fn an_end_inside_a_frame_is_noticed() {
        let mut decoder = FrameDecoder::new(10);
        decoder.push(&[0, 0, 0, 0, 4, 1]);
        assert_eq!(decoder.next_frame(), Ok(None));
        assert_eq!(decoder.finish(), Err(FrameError::CutOff { have: 6 }));
    }
}
