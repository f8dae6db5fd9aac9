//! `multipart/form-data`, parsed as it arrives.

use bytes::{Bytes, BytesMut};

use crate::files::FilesError;
use crate::files::inflate::Upload;

/// Longest head of a part: a path of 4 KiB, escaped.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The headers of a part.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PartHead {
    /// The name of the form field.
    pub name: Option<String>,
    /// The file name with all its directories.
    pub filename: Option<String>,
}

/// The position of the reader.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Before the first boundary.
    Preamble,
    /// Inside a part.
    Part,
    /// Directly after a boundary.
    Boundary,
    /// After the last boundary.
    End,
}

/// Reads one part after another.
#[derive(Debug)]
pub struct Multipart {
    /// The body.
    upload: Upload,
    /// `\r\n--` and the boundary.
    delimiter: Vec<u8>,
    /// Bytes that were received but not returned yet.
    pending: BytesMut,
    /// The position of the reader.
    place: Place,
}

fn invalid(text: &str) -> FilesError {
    FilesError::Invalid(format!("malformed multipart body: {text}"))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, _) = needle.split_first()?;
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|b| b == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// Returns the boundary in a content type; `None` if it is not multipart.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, _) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameter(content_type, "boundary")
}

/// Returns a parameter of a header, quoted or not.
fn parameter(header: &str, wanted: &str) -> Option<String> {
    let mut rest = header.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = if let Some(quoted) = after.trim_start().strip_prefix('"') {
            unquote(quoted)
        } else {
            let (value, after) = after.split_once(';').unwrap_or((after, ""));
            (value.trim().to_owned(), after)
        };
        if name.trim_matches([' ', '\t', ';']).eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

/// Splits a quoted text at its closing quote. Only quote and backslash can be escaped by a backslash.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' if characters.peek().is_some_and(|(_, c)| matches!(c, '"' | '\\')) => {
                value.extend(characters.next().map(|(_, c)| c));
            }
            other => value.push(other),
        }
    }
    (value, "")
}

fn parse_head(head: &[u8]) -> PartHead {
    let text = String::from_utf8_lossy(head);
    let mut parsed = PartHead::default();
    for line in text.split("\r\n") {
        let Some((name, value)) = line.split_once(':') else { continue };
        if !name.trim().eq_ignore_ascii_case("content-disposition") {
            continue;
        }
        parsed.name = parameter(value, "name");
        let extended = parameter(value, "filename*").and_then(|v| {
            let (_, encoded) = v.rsplit_once('\'')?;
            String::from_utf8(crate::paths::percent_decode(encoded, false)).ok()
        });
        // In an unquoted name browsers and the SDKs write quotes and line ends as %22, %0D and %0A.
        let plain =
            || parameter(value, "filename").map(|f| f.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n"));
        parsed.filename = extended.or_else(plain);
    }
    parsed
}

impl Multipart {
    /// Creates a reader for this body.
    pub fn new(upload: Upload, boundary: &str) -> Self {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first boundary may be at the very start; with a line end before it, it looks like all others.
        Self { upload, delimiter, pending: BytesMut::from(&b"\r\n"[..]), place: Place::Preamble }
    }

    async fn fill(&mut self) -> Result<(), FilesError> {
        let bytes = self.upload.next().await?.ok_or_else(|| invalid("it ends too early"))?;
        self.pending.extend_from_slice(&bytes);
        Ok(())
    }

    /// Returns the head of the next part, skipping the rest of the current one; `None` at the end.
    pub async fn next_part(&mut self) -> Result<Option<PartHead>, FilesError> {
        while self.place == Place::Preamble || self.place == Place::Part {
            while self.next_bytes().await?.is_some() {}
        }
        if self.place == Place::End {
            return Ok(None);
        }
        while self.pending.len() < 2 {
            self.fill().await?;
        }
        if self.pending.starts_with(b"--") {
            self.place = Place::End;
            return Ok(None);
        }
        // `pending` begins with the line end of the boundary, so that a part without headers is found too.
        let length = loop {
            if let Some(at) = find(&self.pending, b"\r\n\r\n") {
                break at;
            }
            if self.pending.len() > MAX_HEAD_BYTES {
                return Err(invalid("the head of a part is too long"));
            }
            self.fill().await?;
        };
        let head = self.pending.split_to(length + 4);
        self.place = Place::Part;
        Ok(Some(parse_head(&head)))
    }

    /// Returns the next bytes of this part; `None` at its end.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, FilesError> {
        if self.place == Place::Boundary || self.place == Place::End {
            return Ok(None);
        }
        loop {
            if let Some(at) = find(&self.pending, &self.delimiter) {
                if at > 0 {
                    return Ok(Some(self.pending.split_to(at).freeze()));
                }
                let _ = self.pending.split_to(self.delimiter.len());
                self.place = Place::Boundary;
                return Ok(None);
            }
            // The last bytes may be the start of a boundary.
            let safe = self.pending.len().saturating_sub(self.delimiter.len() - 1);
            if safe > 0 {
                return Ok(Some(self.pending.split_to(safe).freeze()));
            }
            self.fill().await?;
        }
    }

    /// Reads and discards the rest of the body, so that a client that is still sending receives the response.
    pub async fn discard(&mut self) {
        self.upload.discard().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundary_is_found_quoted_or_not() {
        assert_eq!(boundary("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(boundary("Multipart/Form-Data; charset=x; boundary=\"a;b\"").as_deref(), Some("a;b"));
        assert_eq!(boundary("application/octet-stream"), None);
    }

    #[test]
    fn file_names_keep_their_directories() {
        let head =
            parse_head(b"\r\nContent-Disposition: form-data; name=\"file\"; filename=\"/a/b \\\"c\\\".txt\"\r\n\r\n");
        assert_eq!(head.name.as_deref(), Some("file"));
        assert_eq!(head.filename.as_deref(), Some("/a/b \"c\".txt"));
        let head = parse_head(b"Content-Disposition: form-data; name=file; filename*=utf-8''%2Fa%2F%C3%A4");
        assert_eq!(head.filename.as_deref(), Some("/a/ä"));
    }

    #[test]
    fn a_needle_is_found_behind_its_own_beginning() {
        assert_eq!(find(b"\r\r\n--b", b"\r\n--b"), Some(1));
        assert_eq!(find(b"abc", b"\r\n"), None);
    }
}
