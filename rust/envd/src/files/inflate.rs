//! The body of an upload, decompressed if necessary.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use hyper::body::Incoming;

use crate::body::next_bytes;
use crate::files::FilesError;

/// Compressed bytes processed at once: gzip expands at most a thousandfold, so this limits the memory for a
/// hostile upload.
const STEP: usize = 2048;

/// A body that is read piece by piece.
#[derive(Debug)]
pub struct Upload {
    /// The request body.
    body: Incoming,
    /// Present while the body is compressed and not at its end.
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
    /// Compressed bytes that were not decompressed yet.
    packed: Bytes,
}

fn broken(error: &std::io::Error) -> FilesError {
    FilesError::Invalid(format!("the body is no gzip: {error}"))
}

impl Upload {
    /// Creates a reader for a body with this `Content-Encoding`.
    pub fn new(body: Incoming, encoding: Option<&str>) -> Result<Self, FilesError> {
        let gzip = match encoding.map(|e| e.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") => None,
            Some("gzip" | "x-gzip") => Some(MultiGzDecoder::new(Vec::new())),
            Some(other) => {
                return Err(FilesError::Invalid(format!("content encoding {other:?} is not supported: use gzip")));
            }
        };
        Ok(Self { body, gzip, packed: Bytes::new() })
    }

    /// Returns the next bytes of content; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FilesError> {
        loop {
            let Some(gzip) = &mut self.gzip else { return Ok(next_bytes(&mut self.body).await?) };
            if self.packed.is_empty() {
                match next_bytes(&mut self.body).await? {
                    Some(bytes) => self.packed = bytes,
                    None => return self.finish(),
                }
            }
            let step = self.packed.split_to(STEP.min(self.packed.len()));
            gzip.write_all(&step).map_err(|e| broken(&e))?;
            let content = std::mem::take(gzip.get_mut());
            if !content.is_empty() {
                return Ok(Some(content.into()));
            }
        }
    }

    fn finish(&mut self) -> Result<Option<Bytes>, FilesError> {
        let Some(gzip) = self.gzip.take() else { return Ok(None) };
        let rest = gzip.finish().map_err(|e| broken(&e))?;
        Ok((!rest.is_empty()).then(|| rest.into()))
    }

    /// Reads and discards the rest: otherwise a client that is still sending would see a broken connection
    /// instead of the response.
    pub async fn discard(&mut self) {
        while let Ok(Some(_)) = next_bytes(&mut self.body).await {}
    }
}
