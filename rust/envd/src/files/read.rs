//! `GET /files`.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use sys::rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use sys::rustix::io::Errno;
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::body::{Body, Part};
use crate::files::FilesError;
use crate::files::query::Query;
use crate::files::range::{self, Wanted};
use crate::filesystem::as_user;
use crate::filesystem::fault::Fault;
use crate::paths;
use crate::server::access::has_token;

/// Bytes read from the disk at once.
const CHUNK: usize = 256 * 1024;
/// Chunks read ahead of the client.
const MAX_AHEAD: usize = 2;

/// Opens a file as the acting user. Magic links in `/proc` are not followed: they would bypass directory
/// permissions and lead to files that the agent has open.
pub fn open(path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    // Non-blocking, otherwise a pipe would block the thread until its other end is opened.
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    Ok(File::from(openat2(CWD, path, flags, mode, ResolveFlags::NO_MAGICLINKS)?))
}

/// An open file with its metadata.
struct Opened {
    /// The file.
    file: File,
    /// Size reported by the file system; 0 for files in `/proc`.
    size: u64,
    /// Modification time in seconds.
    modified: i64,
    /// Entity tag, which changes with every change of the file.
    tag: String,
}

fn open_regular(path: &Path) -> Result<Opened, Fault> {
    let fault = |e| Fault::new("read", path, e);
    let file = open(path, OFlags::RDONLY, Mode::empty()).map_err(fault)?;
    let about = file.metadata().map_err(fault)?;
    if about.is_dir() {
        return Err(Fault::errno("read", path, Errno::ISDIR));
    }
    if !about.is_file() {
        return Err(Fault::errno("read", path, Errno::INVAL));
    }
    // The change time is set by the kernel and cannot be set back, unlike the modification time.
    let tag = format!("\"{:x}-{:x}-{:x}.{:x}\"", about.ino(), about.size(), about.ctime(), about.ctime_nsec());
    Ok(Opened { file, size: about.size(), modified: about.mtime(), tag })
}

/// Reads up to [`CHUNK`] bytes at an offset, fewer only at the end.
fn read_chunk(file: &File, offset: u64, longest: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; longest.min(CHUNK)];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.into())
}

/// Guesses a content type by the file name extension; types that a browser would execute are never returned.
fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("txt" | "log" | "md" | "py" | "sh" | "rs" | "toml" | "yaml" | "yml" | "cfg" | "ini") => {
            "text/plain; charset=utf-8"
        }
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("csv") => "text/csv; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("xml") => "text/xml; charset=utf-8",
        Some("pdf") => "application/pdf",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("gif") => "image/gif",
        Some("svg") => "image/svg+xml",
        Some("webp") => "image/webp",
        Some("zip") => "application/zip",
        Some("gz") => "application/gzip",
        _ => "application/octet-stream",
    }
}

/// Whether the client accepts the file without encoding.
fn takes_identity(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()) else { return true };
    let mut any = true;
    for item in value.split(',') {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        let quality = parameters.trim().strip_prefix("q=").and_then(|q| q.trim().parse::<f32>().ok()).unwrap_or(1.0);
        match name.trim() {
            "identity" => return quality > 0.0,
            "*" => any = quality > 0.0,
            _ => {}
        }
    }
    any
}

/// Handles `GET` and `HEAD`.
pub async fn answer(agent: &Arc<Agent>, request: Request<Incoming>) -> Response<Body> {
    match give(agent, &request).await {
        Ok(response) => response,
        Err(error) => error.answer(),
    }
}

async fn give(agent: &Arc<Agent>, request: &Request<Incoming>) -> Result<Response<Body>, FilesError> {
    let headers = request.headers();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let user = query.admit(agent, has_token(agent, headers), "read")?;
    let name = query.name()?.ok_or_else(|| FilesError::Invalid("the path is missing".into()))?;
    let path = paths::resolve(&name, &user.home);
    if !takes_identity(headers) {
        return Err(FilesError::NotAcceptable);
    }
    let to_open = path.clone();
    let (opened, beginning) = as_user::<_, Fault>(agent, &user, move |_| {
        let opened = open_regular(&to_open)?;
        // Small files, and those without a size, are read at once.
        let small = opened.size <= CHUNK as u64;
        let beginning = small.then(|| read_chunk(&opened.file, 0, CHUNK)).transpose();
        Ok((opened, beginning.map_err(|e| Fault::new("read", &to_open, e))?))
    })
    .await?;

    let untold = opened.size == 0 && beginning.as_ref().is_some_and(|b| !b.is_empty());
    let size = if untold { 0 } else { opened.size };
    // A range of a file that has changed since would be combined with ranges of the old content.
    let unchanged = headers.get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == opened.tag.as_bytes());
    let range = headers.get(header::RANGE).filter(|_| unchanged);
    let wanted = match range.and_then(|r| r.to_str().ok()) {
        Some(range) if !untold => range::parse(Some(range), size),
        _ => Wanted::Whole,
    };
    let mut response = Response::new(Body::empty());
    let (from, to) = match wanted {
        Wanted::Whole => (0, size),
        Wanted::Part(from, to) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut response, header::CONTENT_RANGE, &format!("bytes {from}-{}/{size}", to - 1));
            (from, to)
        }
        Wanted::Outside => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(response);
        }
    };
    set(&mut response, header::CONTENT_TYPE, content_type(&path));
    let file_name = paths::header_file_name(path.file_name().unwrap_or_default());
    set(&mut response, header::CONTENT_DISPOSITION, &format!("inline; {file_name}"));
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    if !untold {
        set(&mut response, header::ETAG, &opened.tag);
    }
    set(&mut response, header::LAST_MODIFIED, &http_date(opened.modified));
    set(&mut response, header::VARY, "Accept-Encoding");
    *response.body_mut() = match beginning {
        Some(bytes) if !untold => {
            let end = bytes.len().min(to as usize);
            Body::from_bytes(bytes.slice(end.min(from as usize)..end))
        }
        _ if untold => stream(agent, opened.file, 0, None),
        _ => stream(agent, opened.file, from, Some(to - from)),
    };
    Ok(response)
}

fn set(response: &mut Response<Body>, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Streams a file. `None`: to its end, wherever that is.
fn stream(agent: &Arc<Agent>, file: File, from: u64, length: Option<u64>) -> Body {
    let agent = agent.clone();
    let (parts, receiver) = mpsc::channel(MAX_AHEAD);
    tokio::spawn(async move {
        let file = Arc::new(file);
        let (mut at, mut left) = (from, length.unwrap_or(u64::MAX));
        loop {
            let (reader, longest) = (file.clone(), usize::try_from(left).unwrap_or(usize::MAX));
            let chunk = agent.threads.files.run(move || read_chunk(&reader, at, longest)).await;
            // The file became shorter or unreadable: dropping the channel closes the connection.
            let Ok(Ok(chunk)) = chunk else { return };
            at += chunk.len() as u64;
            left -= chunk.len() as u64;
            let at_end = chunk.is_empty();
            if length.is_some() && at_end && left > 0 {
                return;
            }
            let last = left == 0 || at_end;
            let part = if last { Part::Last(chunk) } else { Part::More(chunk) };
            if parts.send(part).await.is_err() || last {
                return;
            }
        }
    });
    Body::sized(receiver, length)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Civil date from days since 1970, counted in eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    let (weekday, month) = (DAYS[days.rem_euclid(7) as usize], MONTHS[month as usize]);
    format!("{weekday}, {day:02} {month} {year:04} {:02}:{:02}:{:02} GMT", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_for_http() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(1_709_164_800), "Thu, 29 Feb 2024 00:00:00 GMT");
    }

    #[test]
    fn identity_is_taken_unless_it_is_refused() {
        let with = |v: &'static str| HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(v))]);
        assert!(takes_identity(&HeaderMap::new()));
        assert!(takes_identity(&with("gzip, br")));
        assert!(takes_identity(&with("*;q=0, identity")));
        assert!(!takes_identity(&with("identity;q=0, br")));
        assert!(!takes_identity(&with("br, *;q=0")));
    }
}
