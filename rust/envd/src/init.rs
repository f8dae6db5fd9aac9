//! `POST /init`: the host gives a guest its identity. Called at create and after every restore, before any
//! user process runs. Also the sandbox's environment variables for `/envs`.
//!
//! Order: random numbers, clock, names, connections of the former sandbox, environment variables, and the
//! token, before which no other request is accepted. Processes that were running in a snapshot continue after
//! all that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use sys::rustix;
use sys::rustix::time::{ClockId, Timespec};

use crate::agent::{Agent, Mode, NAMING_TIMEOUT};
use crate::body::{Body, BodyError, read_whole};
use crate::rpc::MAX_MESSAGE_BYTES;
use crate::server::{Ends, reply};
use crate::variables_file;

/// Fewest bytes of entropy that are accepted.
const MIN_ENTROPY_BYTES: usize = 32;
/// Most bytes used; the kernel's pool has 256 bits.
const MAX_ENTROPY_BYTES: usize = 4096;
/// How long writing the files with the machine's names is delayed if no request needs them.
const NAMING_DELAY: Duration = Duration::from_millis(100);
/// Longest host name Linux takes.
const MAX_HOSTNAME_BYTES: usize = 64;

/// The body of `/init`. Unknown fields are ignored; absent ones leave values unchanged.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct InitRequest {
    /// Environment variables of every process. If given, they replace the former ones.
    env_vars: Option<BTreeMap<String, String>>,
    /// The secret that every further request must have.
    access_token: Option<String>,
    /// The current time, RFC 3339.
    timestamp: Option<String>,
    /// The user if a request names none.
    default_user: Option<String>,
    /// The working directory if a request names none.
    default_workdir: Option<String>,
    /// The host name.
    hostname: Option<String>,
    /// 32 hexadecimal digits.
    machine_id: Option<String>,
    /// Base64 of secret random bytes.
    entropy: Option<String>,
    /// Identifies the boot or restore of the sandbox.
    #[serde(rename = "lifecycleID")]
    lifecycle_id: Option<String>,
}

/// An invalid body, or a step that the kernel refused.
#[derive(Debug)]
enum InitError {
    /// The request is invalid.
    Invalid(String),
    /// A step failed.
    Step {
        /// Name of the step.
        step: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// A validated body.
#[derive(Debug, Default)]
struct Plan {
    /// Bytes to mix in.
    entropy: Option<Vec<u8>>,
    /// The time.
    time: Option<Timespec>,
    /// The host name.
    hostname: Option<String>,
    /// The machine id.
    machine_id: Option<String>,
}

fn invalid(text: impl Into<String>) -> InitError {
    InitError::Invalid(text.into())
}

fn plan(request: &InitRequest) -> Result<Plan, InitError> {
    let mut plan = Plan::default();
    if let Some(entropy) = &request.entropy {
        let bytes = base64::engine::general_purpose::STANDARD.decode(entropy);
        let bytes = bytes.map_err(|e| invalid(format!("entropy is no base64: {e}")))?;
        if !(MIN_ENTROPY_BYTES..=MAX_ENTROPY_BYTES).contains(&bytes.len()) {
            return Err(invalid(format!("entropy must be {MIN_ENTROPY_BYTES} to {MAX_ENTROPY_BYTES} bytes")));
        }
        plan.entropy = Some(bytes);
    }
    if let Some(text) = request.timestamp.as_deref().filter(|t| !t.is_empty()) {
        let time = parse_time(text).ok_or_else(|| invalid(format!("timestamp {text:?} is no RFC 3339 time")))?;
        plan.time = Some(time);
    }
    if let Some(name) = request.hostname.as_deref().filter(|n| !n.is_empty()) {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if name.len() > MAX_HOSTNAME_BYTES || !name.bytes().all(good) || name.starts_with(['-', '.']) {
            return Err(invalid(format!("hostname must be 1 to {MAX_HOSTNAME_BYTES} letters, digits, '-' or '.'")));
        }
        plan.hostname = Some(name.to_owned());
    }
    if let Some(id) = request.machine_id.as_deref().filter(|i| !i.is_empty()) {
        if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid("machineId must be 32 hexadecimal digits"));
        }
        plan.machine_id = Some(id.to_ascii_lowercase());
    }
    Ok(plan)
}

/// Parses RFC 3339 with up to nanoseconds.
fn parse_time(text: &str) -> Option<Timespec> {
    let time: wire::Timestamp = serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()?;
    (time.seconds >= 0).then_some(Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) })
}

/// Carries out the plan on a machine that the agent owns.
fn apply(plan: &Plan) -> Result<(), InitError> {
    let step = |step: &'static str| move |source: io::Error| InitError::Step { step, source };
    if let Some(bytes) = &plan.entropy {
        sys::entropy::feed(bytes).map_err(step("mix in entropy"))?;
    }
    if let Some(time) = plan.time {
        rustix::time::clock_settime(ClockId::Realtime, time).map_err(|e| step("set the clock")(e.into()))?;
    }
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes()).map_err(|e| step("set the host name")(e.into()))?;
    }
    Ok(())
}

/// Writes the files with the machine's names.
///
/// If no process runs yet: soon, and other requests wait for it in [`Agent::named`]. If processes are frozen:
/// now, because they would see the former names. In no case does a disk that hangs make the restore fail.
async fn write_names(agent: &Arc<Agent>, plan: Plan) {
    let naming = Arc::clone(&agent.naming).lock_owned();
    let Ok(naming) = tokio::time::timeout(NAMING_TIMEOUT, naming).await else {
        eprintln!("envd: init: the files with the names stay as they are: the disk does not answer");
        return;
    };
    if agent.freezer.is_frozen() {
        // The thread goes on if it takes longer.
        let written = agent.threads.system.run(move || write_names_now(&plan, naming));
        if tokio::time::timeout(NAMING_TIMEOUT, written).await.is_err() {
            eprintln!("envd: init: the files with the names are not written yet");
        }
        return;
    }
    let agent = agent.clone();
    tokio::spawn(async move {
        // Until a request needs the files, the guest's only CPU is better used for the response.
        let _ = tokio::time::timeout(NAMING_DELAY, agent.naming_wanted.notified()).await;
        if let Err(error) = agent.threads.system.run(move || write_names_now(&plan, naming)).await {
            eprintln!("envd: init: the files with the names stay as they are: {error}");
        }
    });
}

fn write_names_now(plan: &Plan, naming: tokio::sync::OwnedMutexGuard<()>) {
    let hostname = plan.hostname.as_deref().map_or(Ok(()), write_hostname);
    let machine_id = plan.machine_id.as_deref().map_or(Ok(()), write_machine_id);
    for (what, written) in [("host name", hostname), ("machine id", machine_id)] {
        if let Err(error) = written {
            // A read-only image keeps its own files; the kernel has the new name nevertheless.
            eprintln!("envd: init: write the {what}: {error}");
        }
    }
    drop(naming);
}

/// Replaces the file, not the target of a link in its place. A file with this content is not touched: a
/// resumed sandbox has its own names. Not synced: the disk is a copy that lives only as long as the guest.
fn write_own(path: &str, text: &str) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(about) if !about.is_file() => fs::remove_file(path)?,
        Ok(about) if about.len() == text.len() as u64 && fs::read(path)? == text.as_bytes() => return Ok(()),
        _ => {}
    }
    // If it were truncated first, ext4 would allocate a new block and write it to the disk at once.
    let mut file = fs::File::options().write(true).create(true).truncate(false).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn write_hostname(name: &str) -> io::Result<()> {
    if !Path::new("/etc").is_dir() {
        return Ok(());
    }
    write_own("/etc/hostname", &format!("{name}\n"))?;
    // A pipe in its place would never end.
    let hosts = if Path::new("/etc/hosts").is_file() { fs::read("/etc/hosts").unwrap_or_default() } else { Vec::new() };
    write_own("/etc/hosts", &hosts_with(&String::from_utf8_lossy(&hosts), name))
}

/// Returns the hosts file with this name at 127.0.1.1 and no other entry for that address.
fn hosts_with(hosts: &str, name: &str) -> String {
    let mut text = String::new();
    if hosts.trim().is_empty() {
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    for line in hosts.lines().filter(|l| l.split_whitespace().next() != Some("127.0.1.1")) {
        text.push_str(line);
        text.push('\n');
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "127.0.1.1\t{name}");
    text
}

fn write_machine_id(id: &str) -> io::Result<()> {
    let text = format!("{id}\n");
    if Path::new("/etc").is_dir() {
        write_own("/etc/machine-id", &text)?;
    }
    // Debian links this file to the other; a copy has to be updated too.
    let second = "/var/lib/dbus/machine-id";
    if fs::symlink_metadata(second).is_ok_and(|m| m.is_file()) {
        write_own(second, &text)?;
    }
    Ok(())
}

/// Whether connections of a former sandbox may exist: the guest was running before, until a snapshot or under
/// another identity, and a process in it may wait on one. Not if a host repeats a request because a response
/// was lost: it sends the same lifecycle id.
fn has_former_connections(agent: &Agent, request: &InitRequest) -> bool {
    let settings = agent.settings();
    let same_life = request.lifecycle_id.is_some() && request.lifecycle_id == settings.lifecycle_id;
    let frozen = agent.freezer.is_frozen();
    settings.initialised && (frozen || (!same_life && agent.freezer.may_have_programs()))
}

/// Resets the connections of the former sandbox: their peers do not exist, and processes that wait on them
/// would wait forever. This includes the agent's own, so that streams of former callers end; their processes
/// keep running.
fn reset_connections(ends: Ends) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let refused = match sys::connections::reset_all(ends.local.ip(), ends.peer) {
        Ok(reset) => reset.refused,
        Err(error) => Some(error),
    };
    if let Some(error) = refused
        && !TOLD.swap(true, Ordering::Relaxed)
    {
        eprintln!("envd: init: connections of the former life cannot be ended: {error}");
    }
}

/// Carries out all steps in order.
async fn apply_in_order(agent: &Arc<Agent>, request: InitRequest, ends: Ends) -> Result<(), InitError> {
    let plan = plan(&request)?;
    if agent.mode == Mode::Pid1 {
        apply(&plan)?;
        write_names(agent, plan).await;
        if !ends.is_local() && has_former_connections(agent, &request) {
            reset_connections(ends);
        }
    }
    let has_variables = request.env_vars.is_some();
    remember(agent, request);
    if agent.mode == Mode::Pid1 && has_variables {
        variables_file::write(agent);
    }
    agent.freezer.thaw().map_err(|source| InitError::Step { step: "let programs go on", source })
}

/// Handles `POST /init`. Idempotent.
pub async fn answer(agent: &Arc<Agent>, request: Request<Incoming>, ends: Ends) -> Response<Body> {
    let bytes = match read_whole(request.into_body(), MAX_MESSAGE_BYTES).await {
        Ok(bytes) => bytes,
        Err(error @ BodyError::TooLong { .. }) => {
            return reply::error(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string());
        }
        Err(error) => return reply::error(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let parsed = if bytes.is_empty() { Ok(InitRequest::default()) } else { serde_json::from_slice(&bytes) };
    let outcome = match parsed {
        Ok(request) => apply_in_order(agent, request, ends).await,
        Err(error) => Err(invalid(format!("malformed body: {error}"))),
    };
    match outcome {
        Ok(()) => reply::empty(StatusCode::NO_CONTENT),
        Err(InitError::Invalid(text)) => reply::error(StatusCode::BAD_REQUEST, &text),
        Err(InitError::Step { step, source }) => {
            eprintln!("envd: init: {step}: {source}");
            reply::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot {step}: {source}"))
        }
    }
}

fn remember(agent: &Agent, request: InitRequest) {
    let mut settings = agent.settings();
    if let Some(env) = request.env_vars {
        settings.env = env;
    }
    let settings = &mut *settings;
    replace_if_given(&mut settings.default_user, request.default_user);
    replace_if_given(&mut settings.default_workdir, request.default_workdir);
    replace_if_given(&mut settings.lifecycle_id, request.lifecycle_id);
    replace_if_given(&mut settings.access_token, request.access_token);
    settings.initialised = true;
}

fn replace_if_given(place: &mut Option<String>, given: Option<String>) {
    if given.is_some() {
        *place = given;
    }
}

/// Returns the environment variables of the sandbox, without those of a user.
pub fn sandbox_env(agent: &Agent) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("E2B_SANDBOX".to_owned(), "true".to_owned())]);
    env.extend(agent.settings().env.clone());
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_nanosecond() {
        let time = parse_time("2026-01-02T03:04:05.123456789Z").expect("good");
        assert_eq!((time.tv_sec, time.tv_nsec), (1_767_323_045, 123_456_789));
        let time = parse_time("2026-01-02T04:04:05+01:00").expect("good");
        assert_eq!((time.tv_sec, time.tv_nsec), (1_767_323_045, 0));
        assert!(parse_time("yesterday").is_none());
    }

    #[test]
    fn the_hosts_file_names_the_machine_once() {
        let once = hosts_with("127.0.0.1 localhost\n127.0.1.1 old\n", "new");
        assert_eq!(once, "127.0.0.1 localhost\n127.0.1.1\tnew\n");
        assert_eq!(hosts_with(&once, "new"), once);
        assert!(hosts_with("", "x").contains("127.0.0.1\tlocalhost"));
    }

    #[test]
    fn bad_names_and_ids_are_refused() {
        let with = |json: &str| plan(&serde_json::from_str(json).expect("a body"));
        assert!(with(r#"{"hostname":"a b"}"#).is_err());
        assert!(with(r#"{"machineId":"xyz"}"#).is_err());
        assert!(with(r#"{"entropy":"AAAA"}"#).is_err());
        assert!(with(r#"{"timestamp":"no"}"#).is_err());
        assert!(with(r#"{"hostname":"sandbox-1","volumeMounts":[],"hyperloopIP":"x"}"#).is_ok());
    }

    #[tokio::test]
    async fn names_that_cannot_be_written_hold_up_nothing() {
        let agent = Agent::new(Mode::Process);
        // Another request has been writing them since the disk hangs.
        let _hanging = agent.naming.lock().await;
        let limit = 3 * NAMING_TIMEOUT;
        tokio::time::timeout(limit, write_names(&agent, Plan::default())).await.expect("before anything ran");
        agent.freezer.freeze().await;
        for _ in 0..2 {
            tokio::time::timeout(limit, write_names(&agent, Plan::default())).await.expect("after a restore");
        }
        tokio::time::timeout(limit, agent.named()).await.expect("other requests");
    }
}
