//! Dispatch of requests by path.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use wire::code::{Code, ConnectError};
use wire::process::{StreamInputRequest, StreamInputResponse};

use crate::agent::Agent;
use crate::body::Body;
use crate::process::input::InputStream;
use crate::rpc::{client_stream, error_answer, server_stream, unary};
use crate::server::{Ends, access, reply, request_log};
use crate::{connect, disk, files, filesystem, init, inspect, metrics, process, snapshot};

/// Handles a request.
pub async fn answer(agent: Arc<Agent>, request: Request<Incoming>, ends: Ends) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if let Err(refusal) = access::check(&agent, &method, &path, request.headers(), ends) {
        return refusal;
    }
    // Only the host has ids for requests; programs in the guest do not write into the log.
    let id = request_log::id_of(request.headers()).filter(|_| access::has_token(&agent, request.headers()));
    let response = dispatch(agent, method, &path, request, ends).await;
    if let Some(id) = id {
        request_log::log(&id, &path, &response);
    }
    response
}

async fn dispatch(
    agent: Arc<Agent>,
    method: Method,
    path: &str,
    request: Request<Incoming>,
    ends: Ends,
) -> Response<Body> {
    if !matches!(path, "/health" | "/init" | "/snapshot/finish") {
        agent.named().await;
    }
    if let Some(name) = path.strip_prefix("/process.Process/") {
        return process_call(&agent, &method, name, request).await;
    }
    if let Some(name) = path.strip_prefix("/filesystem.Filesystem/") {
        return filesystem_call(&agent, &method, name, request).await;
    }
    match (&method, path) {
        (&Method::GET | &Method::HEAD, "/health") => reply::empty(StatusCode::NO_CONTENT),
        (&Method::POST, "/init") => init::answer(&agent, request, ends).await,
        (&Method::GET, "/metrics") => metrics::answer(&agent),
        (&Method::GET, "/listeners") => inspect::listeners(&agent).await,
        (&Method::GET, "/processes") => inspect::processes(&agent).await,
        (&Method::GET, "/envs") => reply::json(StatusCode::OK, &init::sandbox_env(&agent)),
        (&Method::GET | &Method::HEAD, "/files") => files::read::answer(&agent, request).await,
        (&Method::POST, "/files") => files::write::answer(&agent, request).await,
        (&Method::GET, "/connect") => connect::answer(&agent.forwarded, request, ends.local.port()).await,
        (&Method::GET, "/files/tar") => files::tar::read(&agent, &request).await,
        (&Method::POST, "/files/tar") => files::tar::write(&agent, request).await,
        (&Method::POST, "/disk/grow") => disk::grow(&agent, request).await,
        (&Method::POST, "/disk/settle") => disk::settle(&agent).await,
        (&Method::POST, "/snapshot/prepare") => snapshot::prepare(&agent).await,
        (&Method::POST, "/snapshot/finish") => snapshot::finish(&agent),
        (
            _,
            "/health" | "/init" | "/metrics" | "/listeners" | "/processes" | "/envs" | "/files" | "/files/tar"
            | "/connect" | "/snapshot/prepare" | "/snapshot/finish" | "/disk/grow" | "/disk/settle",
        ) => reply::error(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method"),
        _ => reply::error(StatusCode::NOT_FOUND, "there is nothing at this path"),
    }
}

fn no_method(name: &str) -> Response<Body> {
    error_answer(&ConnectError::new(Code::Unimplemented, format!("there is no method {name:?}")))
}

async fn process_call(agent: &Arc<Agent>, method: &Method, name: &str, request: Request<Incoming>) -> Response<Body> {
    if method != Method::POST {
        return reply::error(StatusCode::METHOD_NOT_ALLOWED, "calls are sent by POST");
    }
    match name {
        "List" => unary(request, async |_: wire::process::ListRequest, _| Ok(process::list::list(agent))).await,
        "Start" => server_stream(request, async |r, caller| process::start::start(agent, r, caller).await).await,
        "Connect" => server_stream(request, async |r, caller| process::connect::connect(agent, r, &caller)).await,
        "Update" => unary(request, async |r, _| process::update::update(agent, r)).await,
        "SendInput" => unary(request, async |r, _| process::input::send_input(agent, r).await).await,
        "SendSignal" => unary(request, async |r, _| process::signal::send_signal(agent, r).await).await,
        "CloseStdin" => unary(request, async |r, _| process::input::close_stdin(agent, r).await).await,
        "StreamInput" => {
            let mut stream = InputStream::default();
            client_stream::<StreamInputRequest, StreamInputResponse>(request, async |r, _| stream.take(agent, r).await)
                .await
        }
        _ => no_method(name),
    }
}

async fn filesystem_call(
    agent: &Arc<Agent>,
    method: &Method,
    name: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    if method != Method::POST {
        return reply::error(StatusCode::METHOD_NOT_ALLOWED, "calls are sent by POST");
    }
    match name {
        "Stat" => unary(request, async |r, c| filesystem::stat::stat(agent, r, &c).await).await,
        "MakeDir" => unary(request, async |r, c| filesystem::make_dir::make_dir(agent, r, &c).await).await,
        "Move" => unary(request, async |r, c| filesystem::rename::rename(agent, r, &c).await).await,
        "ListDir" => unary(request, async |r, c| filesystem::list_dir::list_dir(agent, r, &c).await).await,
        "Remove" => unary(request, async |r, c| filesystem::remove::remove(agent, r, &c).await).await,
        "WatchDir" => server_stream(request, async |r, c| filesystem::watch_dir::watch_dir(agent, r, &c).await).await,
        "CreateWatcher" => unary(request, async |r, c| filesystem::watcher::create(agent, r, &c).await).await,
        "GetWatcherEvents" => unary(request, async |r, _| filesystem::watcher::events(agent, &r).await).await,
        "RemoveWatcher" => unary(request, async |r, _| filesystem::watcher::remove(agent, &r)).await,
        _ => no_method(name),
    }
}
