//! The wire format between the guest agent and its clients.
//!
//! - [`frame`]: bytes to Connect frames and back.
//! - [`codec`]: frame contents to messages and back, in JSON or protobuf.
//! - [`code`]: error codes, their names, HTTP statuses and bodies.
//! - [`process`], [`filesystem`]: the messages, generated from `proto/`.

pub mod code;
pub mod codec;
pub mod frame;

/// Messages of the service `process.Process`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod process {
    include!(concat!(env!("OUT_DIR"), "/process.rs"));
    include!(concat!(env!("OUT_DIR"), "/process.serde.rs"));
}

/// Messages of the service `filesystem.Filesystem`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod filesystem {
    include!(concat!(env!("OUT_DIR"), "/filesystem.rs"));
    include!(concat!(env!("OUT_DIR"), "/filesystem.serde.rs"));
}

pub use pbjson_types::Timestamp;
