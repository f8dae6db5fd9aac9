//! `GET` and `POST /files`: contents of files, streamed in both directions.
//!
//! - [`read`], [`write`]: the two calls; [`query`]: their common query parameters; [`signature`]: access
//!   without a token.
//! - [`replace`]: atomic replacement of a file; [`owner`]: ownership of written files.
//! - [`range`], [`multipart`], [`inflate`]: the formats. [`tar`]: whole directories.

pub mod inflate;
pub mod multipart;
pub mod owner;
pub mod query;
pub mod range;
pub mod read;
pub mod replace;
pub mod signature;
pub mod tar;
pub mod write;

use std::fmt;

use http::{Response, StatusCode};

use crate::body::{Body, BodyError};
use crate::filesystem::fault::Fault;
use crate::server::reply;
use crate::users::UserError;

/// Why a file could not be read or written.
#[derive(Debug)]
pub enum FilesError {
    /// The request is invalid.
    Invalid(String),
    /// Neither token nor signature.
    Unauthorized(&'static str),
    /// There is no such user.
    User(UserError),
    /// A file operation failed.
    Disk(Fault),
    /// The body could not be read.
    Body(BodyError),
    /// The client accepts no available encoding.
    NotAcceptable,
    /// Too many concurrent directory transfers.
    Busy,
}

impl fmt::Display for FilesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(text) => f.write_str(text),
            Self::Unauthorized(text) => f.write_str(text),
            Self::User(error) => error.fmt(f),
            Self::Disk(fault) => fault.fmt(f),
            Self::Body(error) => error.fmt(f),
            Self::NotAcceptable => f.write_str("no acceptable encoding: files are sent as they are"),
            Self::Busy => f.write_str("too many directories are being transferred: try again when one has ended"),
        }
    }
}

impl std::error::Error for FilesError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::User(error) => Some(error),
            Self::Disk(fault) => Some(fault),
            Self::Body(error) => Some(error),
            Self::Invalid(_) | Self::Unauthorized(_) | Self::NotAcceptable | Self::Busy => None,
        }
    }
}

impl From<Fault> for FilesError {
    fn from(fault: Fault) -> Self {
        Self::Disk(fault)
    }
}

impl From<BodyError> for FilesError {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl From<UserError> for FilesError {
    fn from(error: UserError) -> Self {
        Self::User(error)
    }
}

impl FilesError {
    fn answer(&self) -> Response<Body> {
        let status = match self {
            Self::Invalid(_) | Self::Body(BodyError::Broken(_)) => StatusCode::BAD_REQUEST,
            Self::Body(BodyError::TooLong { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized(_) | Self::User(UserError::Unknown { .. }) => StatusCode::UNAUTHORIZED,
            Self::User(UserError::Unreadable { .. }) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Disk(fault) => fault.status(),
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        reply::error(status, &self.to_string())
    }
}
