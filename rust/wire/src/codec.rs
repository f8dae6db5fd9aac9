//! Converts frame contents to messages and back, in the two encodings of the Connect protocol.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Anything generated from `proto/`.
pub trait Message: prost::Message + Default + Serialize + DeserializeOwned {}

impl<T: prost::Message + Default + Serialize + DeserializeOwned> Message for T {}

/// The encoding of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// proto3 JSON.
    Json,
    /// Binary protobuf.
    Proto,
}

/// A parsed content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentType {
    /// The encoding of messages.
    pub codec: Codec,
    /// Whether messages are in frames.
    pub streaming: bool,
}

/// Contents that cannot be decoded.
#[derive(Debug)]
pub enum CodecError {
    /// Invalid JSON for this message.
    Json(serde_json::Error),
    /// Invalid protobuf for this message.
    Proto(prost::DecodeError),
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "malformed JSON message: {error}"),
            Self::Proto(error) => write!(f, "malformed protobuf message: {error}"),
        }
    }
}

impl std::error::Error for CodecError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::Proto(error) => Some(error),
        }
    }
}

impl ContentType {
    /// Parses a `Content-Type` header. `None`: not a type of the Connect protocol.
    pub fn parse(header: &str) -> Option<Self> {
        let essence = header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let (codec, streaming) = match essence.as_str() {
            "application/json" => (Codec::Json, false),
            "application/proto" => (Codec::Proto, false),
            "application/connect+json" => (Codec::Json, true),
            "application/connect+proto" => (Codec::Proto, true),
            _ => return None,
        };
        Some(Self { codec, streaming })
    }

    /// The header's text.
    pub fn text(self) -> &'static str {
        match (self.codec, self.streaming) {
            (Codec::Json, false) => "application/json",
            (Codec::Proto, false) => "application/proto",
            (Codec::Json, true) => "application/connect+json",
            (Codec::Proto, true) => "application/connect+proto",
        }
    }
}

impl Codec {
    /// Decodes a message. Unknown fields are ignored.
    pub fn decode<M: Message>(self, bytes: &[u8]) -> Result<M, CodecError> {
        match self {
            // An empty body is an empty message in both codecs.
            Self::Json if bytes.is_empty() => Ok(M::default()),
            Self::Json => serde_json::from_slice(bytes).map_err(CodecError::Json),
            Self::Proto => M::decode(bytes).map_err(CodecError::Proto),
        }
    }

    /// Encodes a message.
    pub fn encode<M: Message>(self, message: &M) -> Vec<u8> {
        match self {
            // Generated messages have string keys only, so this does not fail; any client would reject
            // `null`.
            Self::Json => serde_json::to_vec(message).unwrap_or_else(|_| b"null".to_vec()),
            Self::Proto => message.encode_to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::{EntryInfo, FileType};
    use crate::process::{ProcessEvent, SendSignalRequest, StartRequest, process_event};

    #[test]
    fn json_is_written_as_the_sdks_read_it() {
        let entry = EntryInfo { name: "a".into(), size: 5, r#type: FileType::File as i32, ..Default::default() };
        assert_eq!(Codec::Json.encode(&entry), br#"{"name":"a","type":"FILE_TYPE_FILE","size":"5"}"#);
    }

    #[test]
    fn bytes_are_base64_in_json() {
        let event = ProcessEvent {
            event: Some(process_event::Event::Data(process_event::DataEvent {
                output: Some(process_event::data_event::Output::Stdout(vec![0xff, 0])),
            })),
        };
        assert_eq!(Codec::Json.encode(&event), br#"{"data":{"stdout":"/wA="}}"#);
        assert_eq!(Codec::Json.decode::<ProcessEvent>(br#"{"data":{"stdout":"/wA="}}"#).expect("good"), event);
    }

    #[test]
    fn unknown_fields_are_passed_over_and_wrong_types_are_not() {
        let request: StartRequest =
            Codec::Json.decode(br#"{"process":{"cmd":"x"},"later":{"a":[1]}}"#).expect("tolerant");
        assert_eq!(request.process.expect("given").cmd, "x");
        assert!(Codec::Json.decode::<StartRequest>(br#"{"process":7}"#).is_err());
    }

    #[test]
    fn signals_are_read_by_name_and_by_number() {
        for body in [&br#"{"signal":"SIGNAL_SIGKILL"}"#[..], br#"{"signal":9}"#] {
            assert_eq!(Codec::Json.decode::<SendSignalRequest>(body).expect("good").signal, 9);
        }
    }

    #[test]
    fn protobuf_round_trips() {
        let event = ProcessEvent {
            event: Some(process_event::Event::End(process_event::EndEvent {
                exit_code: -1,
                status: "signal: killed".into(),
                ..Default::default()
            })),
        };
        assert_eq!(Codec::Proto.decode::<ProcessEvent>(&Codec::Proto.encode(&event)).expect("good"), event);
    }

    #[test]
    fn content_types_are_told_apart() {
        let found = ContentType::parse("Application/Connect+JSON; charset=utf-8").expect("known");
        assert_eq!(found, ContentType { codec: Codec::Json, streaming: true });
        assert_eq!(ContentType::parse("text/plain"), None);
    }
}
