//! The error codes of the Connect protocol and the error type that is sent to clients.

use std::fmt;

use base64::Engine as _;
use serde::Serialize;

/// A Connect error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The caller disconnected.
    Canceled,
    /// No other code applies.
    Unknown,
    /// The request is invalid and cannot succeed.
    InvalidArgument,
    /// The caller's timeout was exceeded.
    DeadlineExceeded,
    /// The resource does not exist.
    NotFound,
    /// The resource to create already exists.
    AlreadyExists,
    /// The named user lacks the permission.
    PermissionDenied,
    /// A limit is reached.
    ResourceExhausted,
    /// The operation is not possible in the current state.
    FailedPrecondition,
    /// The method or option does not exist here.
    Unimplemented,
    /// An error of the agent.
    Internal,
    /// Not available at the moment; retry.
    Unavailable,
    /// Token or user is missing or wrong.
    Unauthenticated,
}

impl Code {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Canceled => "canceled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Unauthenticated => "unauthenticated",
        }
    }

    /// The HTTP status of a unary response with this code.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Canceled => 499,
            Self::InvalidArgument | Self::FailedPrecondition => 400,
            Self::DeadlineExceeded => 504,
            Self::NotFound => 404,
            Self::AlreadyExists => 409,
            Self::PermissionDenied => 403,
            Self::ResourceExhausted => 429,
            Self::Unimplemented => 501,
            Self::Unknown | Self::Internal => 500,
            Self::Unavailable => 503,
            Self::Unauthenticated => 401,
        }
    }
}

/// An error for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// The code.
    pub code: Code,
    /// What failed, for which thing.
    pub message: String,
    /// The reason that refines the code, for our own host: see [`Reason`].
    pub reason: Option<Reason>,
}

/// Distinguishes errors that have one code in the Connect protocol. On the wire it is the error's only
/// detail, a `google.protobuf.StringValue`; e2b's clients ignore details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The guest's disk is full.
    StorageFull,
}

impl Reason {
    /// The name on the wire.
    fn name(self) -> &'static str {
        match self {
            Self::StorageFull => "storage_full",
        }
    }

    fn detail(self) -> Detail {
        let name = self.name();
        // Field 1, a string shorter than 128 bytes.
        let mut value = vec![0x0A, name.len() as u8];
        value.extend_from_slice(name.as_bytes());
        Detail {
            r#type: "google.protobuf.StringValue",
            value: base64::engine::general_purpose::STANDARD_NO_PAD.encode(value),
        }
    }
}

impl ConnectError {
    /// An error with this code and text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), reason: None }
    }

    /// The same error with its reason.
    #[must_use]
    pub fn because(self, reason: Option<Reason>) -> Self {
        Self { reason, ..self }
    }

    fn body(&self) -> ErrorBody<'_> {
        let details = self.reason.map(Reason::detail).into_iter().collect();
        ErrorBody { code: self.code.name(), message: &self.message, details }
    }

    /// The body of a unary error response.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.body()).unwrap_or_default()
    }

    /// The contents of an end-of-stream frame: `{}` or the error.
    pub fn end_of_stream(error: Option<&Self>) -> Vec<u8> {
        let error = error.map(Self::body);
        serde_json::to_vec(&EndBody { error }).unwrap_or_default()
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for ConnectError {}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

#[derive(Serialize)]
struct Detail {
    r#type: &'static str,
    value: String,
}

#[derive(Serialize)]
struct EndBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_ends_well_ends_with_an_empty_object() {
        assert_eq!(ConnectError::end_of_stream(None), b"{}");
    }

    #[test]
    fn a_stream_that_fails_carries_code_and_message() {
        let error = ConnectError::new(Code::NotFound, "no \"x\"");
        assert_eq!(
            ConnectError::end_of_stream(Some(&error)),
            br#"{"error":{"code":"not_found","message":"no \"x\""}}"#
        );
    }

    #[test]
    fn a_reason_is_a_detail() {
        let error = ConnectError::new(Code::ResourceExhausted, "full").because(Some(Reason::StorageFull));
        assert_eq!(
            String::from_utf8_lossy(&error.to_json()),
            r#"{"code":"resource_exhausted","message":"full","details":[{"type":"google.protobuf.StringValue","value":"CgxzdG9yYWdlX2Z1bGw"}]}"#
        );
    }
}
