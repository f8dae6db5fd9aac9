//! Conversion of file names to text and back, and of a request's path to an absolute path.
//!
//! Linux names are bytes; protobuf and JSON carry text. A byte that is not part of valid UTF-8 is represented
//! by the private-use character U+10FE00 + byte (so U+10FE80 to U+10FEFF), which ordinary names never
//! contain. In a name that does contain one of these characters, each of its four bytes is escaped. So the
//! mapping is one to one in both directions.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// The character for byte 0; bytes below 128 are never escaped.
const ESCAPE_BASE: u32 = 0x0010_FE00;

fn is_escape(character: char) -> bool {
    (ESCAPE_BASE + 0x80..=ESCAPE_BASE + 0xFF).contains(&u32::from(character))
}

fn push_escaped(text: &mut String, bytes: &[u8]) {
    // Every value from the base on to base + 255 is a character, so nothing is lost here.
    text.extend(bytes.iter().filter_map(|b| char::from_u32(ESCAPE_BASE + u32::from(*b))));
}

/// Converts a name to text.
pub fn to_text(name: impl AsRef<OsStr>) -> String {
    let mut text = String::with_capacity(name.as_ref().len());
    for chunk in name.as_ref().as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_escape(character) {
                push_escaped(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(character);
            }
        }
        push_escaped(&mut text, chunk.invalid());
    }
    text
}

/// Converts a text to a name.
pub fn to_name(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        if is_escape(character) {
            bytes.push((u32::from(character) - ESCAPE_BASE) as u8);
        } else {
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    OsString::from_vec(bytes)
}

/// Returns the absolute path for a request: `~` is the home, relative paths start at the home; `.` and `..`
/// are removed lexically.
pub fn resolve(path: &OsStr, home: &str) -> PathBuf {
    let bytes = path.as_bytes();
    let joined = match bytes {
        b"~" => PathBuf::from(home),
        [b'~', b'/', rest @ ..] => Path::new(home).join(without_leading_slashes(rest)),
        _ => Path::new(home).join(path),
    };
    clean(&joined)
}

/// The part after `~/` may itself begin with slashes, which must not make it absolute.
fn without_leading_slashes(bytes: &[u8]) -> &OsStr {
    let start = bytes.iter().position(|b| *b != b'/').unwrap_or(bytes.len());
    OsStr::from_bytes(&bytes[start..])
}

/// Removes `.`, `..` and doubled slashes lexically.
fn clean(path: &Path) -> PathBuf {
    let mut result = PathBuf::from("/");
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => result.push(name),
            std::path::Component::ParentDir => {
                result.pop();
            }
            _ => {}
        }
    }
    result
}

/// Formats permissions as Go does.
pub fn permissions_text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => "d",
        0o120_000 => "L",
        0o060_000 => "D",
        0o020_000 => "Dc",
        0o010_000 => "p",
        0o140_000 => "S",
        _ => "",
    };
    let mut text = String::with_capacity(13);
    // Go's order of letters: d a l T L D p S u g c t.
    let (before_ids, after_ids) = kind.split_at(kind.len().min(1));
    text.push_str(before_ids);
    for (bit, letter) in [(0o4000, 'u'), (0o2000, 'g')] {
        if mode & bit != 0 {
            text.push(letter);
        }
    }
    text.push_str(after_ids);
    if mode & 0o1000 != 0 {
        text.push('t');
    }
    if text.is_empty() {
        text.push('-');
    }
    for shift in [6, 3, 0] {
        let bits = mode >> shift;
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            text.push(if bits & bit != 0 { letter } else { '-' });
        }
    }
    text
}

/// Decodes percent-encoding to bytes. Invalid escapes are kept.
pub fn percent_decode(text: &str, plus_is_space: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
        let escaped = match after {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            bytes.push(high << 4 | low);
            rest = &after[2..];
        } else {
            bytes.push(if plus_is_space && *first == b'+' { b' ' } else { *first });
            rest = after;
        }
    }
    bytes
}

/// Encodes a name for a `Content-Disposition` header (RFC 8187).
pub fn header_file_name(name: &OsStr) -> String {
    let plain = name.as_bytes().iter().all(|b| b.is_ascii_graphic() && !b"\"\\".contains(b) || *b == b' ');
    if plain {
        return format!("filename=\"{}\"", to_text(name));
    }
    let mut text = String::from("filename*=utf-8''");
    for byte in name.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_from_its_text() {
        let names: [&[u8]; 6] =
            [b"plain", b"new\nline", b"\xff\xfe", "grün-€".as_bytes(), b"half \xe2\x82", "\u{10FE80}x".as_bytes()];
        for name in names {
            let name = OsStr::from_bytes(name);
            assert_eq!(to_name(&to_text(name)), name);
        }
        assert_eq!(to_text(OsStr::from_bytes(b"\xff")), "\u{10FEFF}");
    }

    #[test]
    fn paths_count_from_the_home() {
        let at = |p: &str| resolve(OsStr::new(p), "/home/user").to_string_lossy().into_owned();
        assert_eq!(at("a/b"), "/home/user/a/b");
        assert_eq!(at("~"), "/home/user");
        assert_eq!(at("~/x"), "/home/user/x");
        assert_eq!(at("~//x"), "/home/user/x");
        assert_eq!(at(""), "/home/user");
        assert_eq!(at("/a/./b//c/../d/"), "/a/b/d");
        assert_eq!(at("/../.."), "/");
    }

    #[test]
    fn permissions_are_written_as_go_writes_them() {
        for (mode, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o040_755, "drwxr-xr-x"),
            (0o120_777, "Lrwxrwxrwx"),
            (0o104_755, "urwxr-xr-x"),
            (0o041_777, "dtrwxrwxrwx"),
            (0o020_666, "Dcrw-rw-rw-"),
            (0o010_600, "prw-------"),
            (0o140_755, "Srwxr-xr-x"),
        ] {
            assert_eq!(permissions_text(mode), text);
        }
    }

    #[test]
    fn percent_escapes_are_bytes() {
        assert_eq!(percent_decode("a%20b+c%ff%zz%4", true), b"a b c\xff%zz%4");
        assert_eq!(percent_decode("a+b", false), b"a+b");
    }

    #[test]
    fn names_in_headers_are_quoted_or_escaped() {
        assert_eq!(header_file_name(OsStr::new("a b.txt")), "filename=\"a b.txt\"");
        assert_eq!(header_file_name(OsStr::new("ä\".txt")), "filename*=utf-8''%C3%A4%22.txt");
    }
}
