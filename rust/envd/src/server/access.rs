//! Authentication of requests.

use http::{HeaderMap, Method, Response, StatusCode};

use crate::agent::{Agent, Mode};
use crate::body::Body;
use crate::server::{Ends, reply};

/// The header with the access token.
const TOKEN_HEADER: &str = "x-access-token";

/// What a path requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing.
    Free,
    /// The rules of `/init`.
    Init,
    /// The token, or a signature that the endpoint checks itself.
    TokenOrSignature,
    /// The token.
    Token,
}

fn need(method: &Method, path: &str) -> Need {
    match (method, path) {
        (_, "/health") => Need::Free,
        (_, "/init") => Need::Init,
        (&Method::GET | &Method::POST | &Method::HEAD, "/files") => Need::TokenOrSignature,
        _ => Need::Token,
    }
}

/// Whether the header has the token.
pub fn has_token(agent: &Agent, headers: &HeaderMap) -> bool {
    agent.accepts_token(headers.get(TOKEN_HEADER).map(http::HeaderValue::as_bytes))
}

/// Checks a request. `Err`: the error response.
#[allow(clippy::result_large_err)] // A response, not an error: it is moved once and sent.
pub fn check(
    agent: &Agent,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    ends: Ends,
) -> Result<(), Response<Body>> {
    let need = need(method, path);
    if need == Need::Free {
        return Ok(());
    }
    if need == Need::Init {
        // A program inside the guest may not set up the guest, not even before the host has done so.
        let may_try = agent.mode == Mode::Process || !ends.is_local() || agent.access_token().is_some();
        return if may_try && has_token(agent, headers) { Ok(()) } else { Err(unauthorized()) };
    }
    if !agent.is_ready() {
        return Err(not_initialised(path));
    }
    if need == Need::TokenOrSignature || has_token(agent, headers) { Ok(()) } else { Err(unauthorized()) }
}

/// A 401 in the format of plain errors, for RPC too.
pub fn unauthorized() -> Response<Body> {
    reply::error(
        StatusCode::UNAUTHORIZED,
        "unauthorized access, please provide a valid access token or method signing if supported",
    )
}

/// Connect clients read the code by name, plain ones by number.
fn not_initialised(path: &str) -> Response<Body> {
    let text = "not initialised";
    if path.starts_with("/process.Process/") || path.starts_with("/filesystem.Filesystem/") {
        return crate::rpc::error_answer(&wire::code::ConnectError::new(wire::code::Code::Unavailable, text));
    }
    reply::error(StatusCode::SERVICE_UNAVAILABLE, text)
}
