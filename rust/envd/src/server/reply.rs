//! Responses of the plain HTTP endpoints.

use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::body::Body;

/// The body of every plain error.
#[derive(Serialize)]
struct ErrorBody<'a> {
    /// The HTTP status again.
    code: u16,
    /// What failed, for which thing.
    message: &'a str,
}

/// A response without a body.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A JSON response.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Only maps with unusual keys fail to serialize, and no response has one.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Body::from_bytes(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An error response.
pub fn error(status: StatusCode, message: &str) -> Response<Body> {
    json(status, &ErrorBody { code: status.as_u16(), message })
}
