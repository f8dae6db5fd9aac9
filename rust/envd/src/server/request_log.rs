//! Failed requests in the log, with the id under which the host logs them.

use http::{HeaderMap, Response, StatusCode};
use wire::code::Code;

use crate::body::Body;

/// The header with the id.
const HEADER: &str = "wrenn-request-id";
/// Longest id. What is longer is no id.
const MAX_ID_BYTES: usize = 64;
/// Of a path, this much is logged.
const MAX_PATH_BYTES: usize = 64;

/// Marks a response that reports a failure in its body, under status 200.
#[derive(Clone, Copy, Debug)]
pub struct Failed(pub Code);

/// Returns the id of a request, if it has one that is short and made of letters, digits, `-` and `_`.
pub fn id_of(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(HEADER)?.to_str().ok()?;
    let is_sound = (1..=MAX_ID_BYTES).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    is_sound.then(|| id.to_owned())
}

/// The line for a response that reports a failure.
fn line(id: &str, path: &str, response: &Response<Body>) -> Option<String> {
    let failure = match response.extensions().get::<Failed>() {
        Some(Failed(code)) => code.name().to_owned(),
        None if response.status() >= StatusCode::BAD_REQUEST => response.status().as_u16().to_string(),
        None => return None,
    };
    // The path may be anything, for one that does not exist.
    let path = path.get(..MAX_PATH_BYTES).unwrap_or(path).escape_debug();
    Some(format!("envd: request {id}: {path} failed: {failure}"))
}

/// Logs a request that failed.
pub fn log(id: &str, path: &str, response: &Response<Body>) {
    if let Some(line) = line(id, path, response) {
        eprintln!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_and_of_safe_characters() {
        let id = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, value.parse().expect("a header"));
            id_of(&headers)
        };
        assert_eq!(id("0a-B_9").as_deref(), Some("0a-B_9"));
        assert_eq!(id(&"a".repeat(64)).map(|id| id.len()), Some(64));
        for bad in ["", "a b", "a;b", "a\u{e9}", &"a".repeat(65)] {
            assert_eq!(id(bad), None, "{bad}");
        }
        assert_eq!(id_of(&HeaderMap::new()), None);
    }

    #[test]
    fn only_failures_are_logged() {
        let mut response = Response::new(Body::empty());
        assert_eq!(line("1", "/files", &response), None);
        *response.status_mut() = StatusCode::NOT_FOUND;
        assert_eq!(line("1", "/files", &response).as_deref(), Some("envd: request 1: /files failed: 404"));
        *response.status_mut() = StatusCode::OK;
        response.extensions_mut().insert(Failed(Code::NotFound));
        assert_eq!(line("1", "/a", &response).as_deref(), Some("envd: request 1: /a failed: not_found"));
    }
}
