//! The Connect protocol over HTTP: content types, headers, one message in and one or many out.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use wire::code::{Code, ConnectError};
use wire::codec::{Codec, ContentType, Message};
use wire::frame::{FLAG_END, FrameDecoder, encode};

use crate::agent::Agent;
use crate::body::{Body, BodyError, read_whole};
use crate::server::request_log::Failed;
use crate::users::{User, UserError};

/// Longest message in either direction of a call.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Default interval of keep-alives on a silent stream.
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(90);

/// The caller of a request and its options.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user named by Basic auth.
    pub user_name: Option<String>,
    /// The encoding of messages.
    pub codec: Codec,
    /// The client's timeout.
    pub timeout: Option<Duration>,
    /// Longest silence on a stream.
    pub keepalive: Duration,
}

impl Caller {
    fn new(headers: &HeaderMap, codec: Codec) -> Result<Self, ConnectError> {
        let number = |name: &str| -> Result<Option<u64>, ConnectError> {
            let Some(value) = headers.get(name) else { return Ok(None) };
            let number = value.to_str().ok().and_then(|v| v.trim().parse().ok());
            number.map(Some).ok_or_else(|| {
                ConnectError::new(Code::InvalidArgument, format!("header {name} must be a whole number"))
            })
        };
        let timeout = number("connect-timeout-ms")?.map(Duration::from_millis);
        let keepalive = number("keepalive-ping-interval")?.filter(|s| *s > 0).map(Duration::from_secs);
        Ok(Self { user_name: basic_user(headers), codec, timeout, keepalive: keepalive.unwrap_or(DEFAULT_KEEPALIVE) })
    }

    /// The user to act as.
    pub fn user(&self, agent: &Agent) -> Result<User, ConnectError> {
        Ok(agent.user(self.user_name.as_deref())?)
    }
}

impl From<UserError> for ConnectError {
    fn from(error: UserError) -> Self {
        let code = match error {
            UserError::Unknown { .. } => Code::Unauthenticated,
            UserError::Unreadable { .. } => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<BodyError> for ConnectError {
    fn from(error: BodyError) -> Self {
        let code = match error {
            BodyError::TooLong { .. } => Code::ResourceExhausted,
            BodyError::Broken(_) => Code::Canceled,
        };
        Self::new(code, error.to_string())
    }
}

/// Returns the user of `Authorization: Basic`, perhaps with a group (`user:group:`); a password is ignored, since
/// the access token authenticates.
pub fn basic_user(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let name = decoded.strip_suffix(':').or_else(|| Some(decoded.split_once(':')?.0)).unwrap_or(&decoded);
    (!name.is_empty()).then(|| name.to_owned())
}

fn content_type(headers: &HeaderMap) -> Option<ContentType> {
    ContentType::parse(headers.get(header::CONTENT_TYPE)?.to_str().ok()?)
}

fn answer(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// A unary error.
pub fn error_answer(error: &ConnectError) -> Response<Body> {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = answer(status, "application/json", Body::from_bytes(error.to_json()));
    response.extensions_mut().insert(Failed(error.code));
    response
}

/// The end-of-stream frame.
pub fn end_frame(error: Option<&ConnectError>) -> Vec<u8> {
    encode(FLAG_END, &ConnectError::end_of_stream(error))
}

/// A message as a frame.
pub fn message_frame<M: Message>(codec: Codec, message: &M) -> Vec<u8> {
    encode(0, &codec.encode(message))
}

fn unsupported() -> Response<Body> {
    let mut response = answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json", Body::empty());
    response.headers_mut().insert(
        "accept-post",
        header::HeaderValue::from_static(
            "application/json, application/proto, application/connect+json, application/connect+proto",
        ),
    );
    response
}

fn malformed(error: impl std::fmt::Display) -> ConnectError {
    ConnectError::new(Code::InvalidArgument, error.to_string())
}

/// Rejects compressed bodies, which the agent never offers.
fn refuse_compression(headers: &HeaderMap, name: &str) -> Result<(), ConnectError> {
    match headers.get(name).map(http::HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Ok(()),
        Some(_) => Err(ConnectError::new(Code::Unimplemented, "compressed messages are not supported")),
    }
}

/// Handles a call with one message in, one out.
pub async fn unary<I: Message, O: Message>(
    request: Request<Incoming>,
    action: impl AsyncFnOnce(I, Caller) -> Result<O, ConnectError>,
) -> Response<Body> {
    let Some(kind) = content_type(request.headers()).filter(|k| !k.streaming) else { return unsupported() };
    let outcome = async {
        refuse_compression(request.headers(), "content-encoding")?;
        let caller = Caller::new(request.headers(), kind.codec)?;
        let bytes = read_whole(request.into_body(), MAX_MESSAGE_BYTES).await?;
        let input = kind.codec.decode(&bytes).map_err(malformed)?;
        let timeout = caller.timeout;
        let work = action(input, caller);
        match timeout {
            None => work.await,
            Some(timeout) => tokio::time::timeout(timeout, work)
                .await
                .unwrap_or_else(|_| Err(ConnectError::new(Code::DeadlineExceeded, "the call took too long"))),
        }
    };
    match outcome.await {
        Ok(output) => answer(StatusCode::OK, kind.text(), Body::from_bytes(kind.codec.encode(&output))),
        Err(error) => error_answer(&error),
    }
}

/// Handles a call with one message in, many out. The action returns the body, whose last frame it writes
/// itself.
pub async fn server_stream<I: Message>(
    request: Request<Incoming>,
    action: impl AsyncFnOnce(I, Caller) -> Result<Body, ConnectError>,
) -> Response<Body> {
    let Some(kind) = content_type(request.headers()).filter(|k| k.streaming) else { return unsupported() };
    let outcome = async {
        refuse_compression(request.headers(), "connect-content-encoding")?;
        let caller = Caller::new(request.headers(), kind.codec)?;
        let bytes = read_whole(request.into_body(), MAX_MESSAGE_BYTES + wire::frame::HEAD_LEN).await?;
        let mut frames = FrameDecoder::new(MAX_MESSAGE_BYTES);
        frames.push(&bytes);
        let frame = frames.next_frame().map_err(malformed)?;
        let frame = frame.filter(|f| !f.is_end()).ok_or_else(|| malformed("the request holds no message"))?;
        let input = kind.codec.decode(&frame.contents).map_err(malformed)?;
        action(input, caller).await
    };
    match outcome.await {
        Ok(body) => answer(StatusCode::OK, kind.text(), body),
        Err(error) => failed_stream(kind, &error),
    }
}

/// Handles a call with many messages in, one out. The action receives them as they arrive.
pub async fn client_stream<I: Message, O: Message>(
    request: Request<Incoming>,
    mut action: impl AsyncFnMut(I, &Caller) -> Result<(), ConnectError>,
) -> Response<Body> {
    let Some(kind) = content_type(request.headers()).filter(|k| k.streaming) else { return unsupported() };
    let outcome = async {
        refuse_compression(request.headers(), "connect-content-encoding")?;
        let caller = Caller::new(request.headers(), kind.codec)?;
        let mut body = request.into_body();
        let mut frames = FrameDecoder::new(MAX_MESSAGE_BYTES);
        while let Some(bytes) = crate::body::next_bytes(&mut body).await? {
            frames.push(&bytes);
            while let Some(frame) = frames.next_frame().map_err(malformed)? {
                if !frame.is_end() {
                    let input = kind.codec.decode(&frame.contents).map_err(malformed)?;
                    action(input, &caller).await?;
                }
            }
        }
        frames.finish().map_err(malformed)
    };
    if let Err(error) = outcome.await {
        return failed_stream(kind, &error);
    }
    let mut bytes = message_frame(kind.codec, &O::default());
    bytes.extend(end_frame(None));
    answer(StatusCode::OK, kind.text(), Body::from_bytes(Bytes::from(bytes)))
}

/// A stream that is an error and nothing else.
fn failed_stream(kind: ContentType, error: &ConnectError) -> Response<Body> {
    let mut response = answer(StatusCode::OK, kind.text(), Body::from_bytes(end_frame(Some(error))));
    response.extensions_mut().insert(Failed(error.code));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_name_is_taken_from_basic_auth() {
        let mut headers = HeaderMap::new();
        assert_eq!(basic_user(&headers), None);
        headers.insert(header::AUTHORIZATION, "Basic cm9vdDo=".parse().expect("a header"));
        assert_eq!(basic_user(&headers).as_deref(), Some("root"));
        headers.insert(header::AUTHORIZATION, "Basic cm9vdDpwYXNzd29yZA==".parse().expect("a header"));
        assert_eq!(basic_user(&headers).as_deref(), Some("root"), "a password is ignored");
        headers.insert(header::AUTHORIZATION, "Basic cm9vdDp3d3c6".parse().expect("a header"));
        assert_eq!(basic_user(&headers).as_deref(), Some("root:www"), "with a group");
        headers.insert(header::AUTHORIZATION, "Bearer cm9vdDo=".parse().expect("a header"));
        assert_eq!(basic_user(&headers), None);
    }
}
