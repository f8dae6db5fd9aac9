//! Between a thread that works on the disk and the connection: a few chunks in either direction, no more.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::body::Part;

/// Chunks on their way.
pub const MAX_AHEAD: usize = 2;
/// Small pieces are gathered up to this before they are sent.
const GATHER: usize = 256 * 1024;

/// The bytes of an upload. A sender that goes away without [`Chunk::End`] is an error, never an end.
#[derive(Debug)]
pub struct Inflow {
    /// From the connection.
    chunks: mpsc::Receiver<Chunk>,
    /// Not yet read.
    rest: Bytes,
    /// Whether the end has come.
    ended: bool,
}

/// A part of an upload.
#[derive(Debug)]
pub enum Chunk {
    /// Bytes.
    Bytes(Bytes),
    /// There are no more.
    End,
}

impl Inflow {
    /// What comes over this channel.
    pub fn new(chunks: mpsc::Receiver<Chunk>) -> Self {
        Self { chunks, rest: Bytes::new(), ended: false }
    }
}

impl Read for Inflow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.ended {
            match self.chunks.blocking_recv() {
                Some(Chunk::Bytes(bytes)) => self.rest = bytes,
                Some(Chunk::End) => self.ended = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

/// The bytes of an answer. Dropped without [`Outflow::finish`], it cuts the connection.
#[derive(Debug)]
pub struct Outflow {
    /// To the connection.
    parts: mpsc::Sender<Part>,
    /// Not yet sent.
    gathered: Vec<u8>,
}

impl Outflow {
    /// What goes into this channel.
    pub fn new(parts: mpsc::Sender<Part>) -> Self {
        Self { parts, gathered: Vec::with_capacity(GATHER) }
    }

    fn send(&mut self, part: impl FnOnce(Bytes) -> Part, next: Vec<u8>) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.gathered, next);
        self.parts.blocking_send(part(bytes.into())).map_err(|_| io::ErrorKind::ConnectionAborted.into())
    }

    /// Sends what is left and says that it is all.
    pub fn finish(mut self) -> io::Result<()> {
        self.send(Part::Last, Vec::new())
    }
}

impl Write for Outflow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.len() == GATHER {
            self.send(Part::More, Vec::with_capacity(GATHER))?;
        }
        let length = bytes.len().min(GATHER - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
