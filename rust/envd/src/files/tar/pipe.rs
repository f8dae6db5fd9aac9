//! Connects a thread that works on the disk with the connection, with a few chunks in either direction.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::body::Part;

/// Chunks in transit.
pub const MAX_AHEAD: usize = 2;
/// Small pieces are merged up to this size before they are sent.
const GATHER: usize = 256 * 1024;

/// The bytes of an upload. A sender that is dropped without [`Chunk::End`] is an error, never an end.
#[derive(Debug)]
pub struct Inflow {
    /// From the connection.
    chunks: mpsc::Receiver<Chunk>,
    /// Received but not read yet.
    rest: Bytes,
    /// Whether the end was received.
    ended: bool,
}

/// A part of an upload.
#[derive(Debug)]
pub enum Chunk {
    /// Bytes.
    Bytes(Bytes),
    /// The end of the upload.
    End,
}

impl Inflow {
    /// Creates a reader for this channel.
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

/// The bytes of a response. Dropped without [`Outflow::finish`], it closes the connection.
#[derive(Debug)]
pub struct Outflow {
    /// To the connection.
    parts: mpsc::Sender<Part>,
    /// Not sent yet.
    gathered: Vec<u8>,
}

impl Outflow {
    /// Creates a writer for this channel.
    pub fn new(parts: mpsc::Sender<Part>) -> Self {
        Self { parts, gathered: Vec::with_capacity(GATHER) }
    }

    fn send(&mut self, part: impl FnOnce(Bytes) -> Part, next: Vec<u8>) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.gathered, next);
        self.parts.blocking_send(part(bytes.into())).map_err(|_| io::ErrorKind::ConnectionAborted.into())
    }

    /// Sends the rest and marks the response as complete.
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
