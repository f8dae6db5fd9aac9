//! `Start`: from a request to a child.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sys::rustix::fs::OFlags;
use sys::rustix::pipe::{PipeFlags, pipe_with};
use sys::spawn::{Command, SpawnError, Step};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use wire::code::{Code, ConnectError, Reason};
use wire::process::{ProcessConfig, StartRequest};

use crate::agent::{Agent, Mode, lock};
use crate::body::Body;
use crate::environment;
use crate::paths;
use crate::process::process_cgroup::ProcessCgroup;
use crate::process::pump::{self, Kind, PumpOptions, Source};
use crate::process::registry::{Input, MAX_PROCESSES, Process, Starting};
use crate::process::shell;
use crate::process::signal::kill_all_of;
use crate::process::update::size;
use crate::rpc::Caller;
use crate::threads::NoThread;
use crate::users::User;

/// The OOM killer prefers user processes to the agent.
const OOM_SCORE_ADJ: &std::ffi::CStr = c"100";
/// Limits on open files of user processes, as on a Debian machine.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// How long a start may wait for the file systems of the working directory and the program.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the output of a process that has ended.
const MAX_DRAIN: Duration = Duration::from_secs(60);

/// A validated request.
struct Plan {
    /// Paths to try.
    programs: Vec<CString>,
    /// Arguments, beginning with the name.
    args: Vec<CString>,
    /// `NAME=value`.
    env: Vec<CString>,
    /// Working directories to try.
    dirs: Vec<CString>,
}

/// The child's three descriptors and our ends of them.
struct Stdio {
    /// Passed to the child.
    child: [OwnedFd; 3],
    /// Our end for writing.
    input: Input,
    /// Our ends for reading.
    sources: [Option<Source>; 2],
}

fn invalid(text: impl Into<String>) -> ConnectError {
    ConnectError::new(Code::InvalidArgument, text)
}

fn c_string(bytes: impl Into<Vec<u8>>, what: &str) -> Result<CString, ConnectError> {
    CString::new(bytes).map_err(|_| invalid(format!("{what} holds a NUL character")))
}

/// A name with a slash is used unchanged; other names are looked up in `PATH`.
fn programs(cmd: &OsStr, path: &str) -> Result<Vec<CString>, ConnectError> {
    if cmd.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(cmd.as_bytes(), "the command")?]);
    }
    let candidate = |dir: &str| {
        let dir = if dir.is_empty() { "." } else { dir };
        let mut bytes = format!("{dir}/").into_bytes();
        bytes.extend_from_slice(cmd.as_bytes());
        c_string(bytes, "the command")
    };
    path.split(':').map(candidate).collect()
}

fn plan(agent: &Agent, user: &User, config: &ProcessConfig) -> Result<Plan, ConnectError> {
    if config.cmd.is_empty() {
        return Err(invalid("the command is empty"));
    }
    let cmd = paths::to_name(&config.cmd);
    let env = environment::of_process(agent, user, &config.envs);
    let programs = programs(&cmd, env.get("PATH").map_or("", String::as_str))?;
    let mut args = vec![c_string(cmd.into_vec(), "the command")?];
    for arg in &config.args {
        args.push(c_string(paths::to_name(arg).into_vec(), "an argument")?);
    }
    let mut lines = Vec::with_capacity(env.len());
    for (name, value) in env {
        if name.is_empty() || name.contains('=') {
            return Err(invalid(format!("{name:?} is no name of a variable")));
        }
        let mut line = name.into_bytes();
        line.push(b'=');
        line.extend(paths::to_name(&value).into_vec());
        lines.push(c_string(line, "a variable")?);
    }
    let asked = config.cwd.clone().filter(|d| !d.is_empty());
    let asked = asked.or_else(|| agent.settings().default_workdir.clone()).filter(|d| !d.is_empty());
    let dirs = match asked {
        Some(dir) => vec![paths::resolve(&paths::to_name(&dir), &user.home)],
        // A user without a home can still run programs.
        None => vec![user.home.clone().into(), "/".into()],
    };
    let dirs = dirs.into_iter().map(|d| c_string(d.into_os_string().into_vec(), "the working directory"));
    Ok(Plan { programs, args, env: lines, dirs: dirs.collect::<Result<_, _>>()? })
}

/// Opens the null device.
fn null_device() -> io::Result<OwnedFd> {
    static NULL: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(null) = NULL.get() {
        return null.try_clone();
    }
    let file = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    NULL.get_or_init(|| file.into()).try_clone()
}

/// Creates a pipe whose end on our side is non-blocking: `(ours, the child's)`, ours for reading or writing.
fn pipe(we_read: bool) -> io::Result<(AsyncFd<OwnedFd>, OwnedFd)> {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
    let (ours, theirs, interest) =
        if we_read { (reading, writing, Interest::READABLE) } else { (writing, reading, Interest::WRITABLE) };
    sys::rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    Ok((sys::ready::register(ours, interest)?, theirs))
}

fn pipes(stdin: bool) -> io::Result<Stdio> {
    let (input, child_in) = if stdin {
        let (ours, theirs) = pipe(false)?;
        (Input::Pipe(tokio::sync::Mutex::new(Some(ours))), theirs)
    } else {
        (Input::None, null_device()?)
    };
    let (out, child_out) = pipe(true)?;
    let (err, child_err) = pipe(true)?;
    let source = |kind, end| Some(Source { kind, end: Arc::new(end) });
    let sources = [source(Kind::Stdout, out), source(Kind::Stderr, err)];
    Ok(Stdio { child: [child_in, child_out, child_err], input, sources })
}

fn terminal(owner: Option<u32>, columns: u16, rows: u16) -> io::Result<Stdio> {
    let pty = sys::pty::open(owner, columns, rows)?;
    let master = Arc::new(sys::ready::register(pty.master, Interest::READABLE | Interest::WRITABLE)?);
    let child = [pty.slave.try_clone()?, pty.slave.try_clone()?, pty.slave];
    let sources = [Some(Source { kind: Kind::Terminal, end: master.clone() }), None];
    Ok(Stdio { child, input: Input::Terminal(master, tokio::sync::Mutex::new(())), sources })
}

fn refused(config: &ProcessConfig, dirs: &[CString], error: SpawnError) -> ConnectError {
    let SpawnError { step, source } = error;
    let name = &config.cmd;
    let errno = source.raw_os_error().unwrap_or_default();
    let is_full = [libc_errno::ENOSPC, libc_errno::EDQUOT].contains(&errno);
    let too_many = [libc_errno::EAGAIN, libc_errno::ENOMEM, libc_errno::ENFILE, libc_errno::EMFILE].contains(&errno);
    let (code, text) = match step {
        _ if is_full => (Code::ResourceExhausted, format!("not enough disk space to start '{name}'")),
        Step::Execute if source.kind() == io::ErrorKind::NotFound => {
            (Code::NotFound, format!("command '{name}' not found"))
        }
        Step::Execute if source.kind() == io::ErrorKind::PermissionDenied => {
            (Code::PermissionDenied, format!("command '{name}' may not be executed: {source}"))
        }
        Step::Directory => {
            let dir = dirs.first().map(|d| d.to_string_lossy().into_owned()).unwrap_or_default();
            match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    (Code::PermissionDenied, format!("working directory '{dir}' may not be entered"))
                }
                _ => (Code::InvalidArgument, format!("cwd '{dir}' does not exist or is no directory")),
            }
        }
        _ if too_many => (Code::ResourceExhausted, exhausted(name, errno, &source)),
        Step::Execute => (Code::InvalidArgument, format!("command '{name}' cannot be executed: {source}")),
        Step::Ids => (Code::PermissionDenied, format!("cannot run '{name}' as this user: {source}")),
        Step::Clone | Step::Setup => (Code::Internal, format!("cannot start '{name}': {source}")),
    };
    ConnectError::new(code, text).because(is_full.then_some(Reason::StorageFull))
}

/// Describes the exhausted resource.
fn exhausted(name: &str, errno: i32, source: &io::Error) -> String {
    match errno {
        libc_errno::EAGAIN => format!("no process is left to start '{name}': the limit of processes is reached"),
        libc_errno::ENOMEM => format!("no memory is left to start '{name}'"),
        _ => format!("no file descriptor is left to start '{name}': {source}"),
    }
}

/// Error numbers for which `io::ErrorKind` has no stable name.
mod libc_errno {
    pub const EAGAIN: i32 = 11;
    pub const ENOMEM: i32 = 12;
    pub const ENFILE: i32 = 23;
    pub const EMFILE: i32 = 24;
    pub const ENOSPC: i32 = 28;
    pub const EDQUOT: i32 = 122;
}

/// Starts a process and follows it. The process outlives the stream, but not the caller's timeout.
///
/// A child waits for the file systems of its working directory and its program, and its parent's thread with it. So that is
/// done by a thread of its own, and given up after [`START_TIMEOUT`].
pub async fn start(agent: &Arc<Agent>, request: StartRequest, caller: Caller) -> Result<Body, ConnectError> {
    if agent.freezer.is_frozen() {
        // A child born in a frozen cgroup does not reach its program before it is thawed.
        return Err(ConnectError::new(Code::Unavailable, "the sandbox is stopped for a snapshot"));
    }
    let user = caller.user(agent)?;
    let starting = agent
        .processes
        .announce()
        .ok_or_else(|| ConnectError::new(Code::ResourceExhausted, format!("{MAX_PROCESSES} processes run already")))?;
    // A task of its own: a caller that leaves now must not leave a child that is not registered, or that begins minutes later.
    let (answer, answered) = oneshot::channel();
    tokio::spawn(launch(agent.clone(), Launch { request, caller, user, starting }, answer));
    answered.await.unwrap_or_else(|_| Err(failed(NoThread::Died)))
}

/// What is to be started.
struct Launch {
    request: StartRequest,
    caller: Caller,
    user: User,
    starting: Arc<Starting>,
}

/// A child, and what it was made of.
struct Born {
    pid: Result<u32, ConnectError>,
    config: ProcessConfig,
    cgroup: Option<ProcessCgroup>,
}

fn failed(error: NoThread) -> ConnectError {
    let code = if error == NoThread::Died { Code::Internal } else { Code::ResourceExhausted };
    ConnectError::new(code, format!("the program was not started: {error}"))
}

/// Starts a process, registers it, and answers with the stream of its events. After [`START_TIMEOUT`] it is given up.
async fn launch(agent: Arc<Agent>, launch: Launch, answer: oneshot::Sender<Result<Body, ConnectError>>) {
    let starting = launch.starting.clone();
    let mut beginning = pin!(begin(&agent, launch));
    // Whoever asked may have left; the process runs nevertheless.
    if let Ok(outcome) = tokio::time::timeout(START_TIMEOUT, &mut beginning).await {
        if outcome.is_err() {
            agent.processes.withdraw(&starting);
        }
        drop(answer.send(outcome));
        return;
    }
    // What has not begun by now is not registered any more.
    agent.processes.give_up(&starting);
    let text =
        "the program was not started: the file system of its working directory, or of the program, does not answer";
    drop(answer.send(Err(ConnectError::new(Code::DeadlineExceeded, text))));
    drop(beginning.await);
    agent.processes.withdraw(&starting);
}

async fn begin(agent: &Arc<Agent>, launch: Launch) -> Result<Body, ConnectError> {
    let Launch { request, caller, user, starting } = launch;
    let privileged = sys::rustix::process::geteuid().is_root();
    let changes_ids = change_ids(privileged, &user)?;
    let stdio = match &request.pty {
        Some(pty) => {
            let (columns, rows) = size(pty);
            terminal(privileged.then_some(user.ids.uid), columns, rows)
        }
        None => pipes(request.stdin.unwrap_or(true)),
    };
    let stdio = stdio.map_err(|e| ConnectError::new(Code::ResourceExhausted, format!("no room for a process: {e}")))?;
    let Stdio { child, input, sources } = stdio;
    let options = ChildOptions {
        config: request.process.unwrap_or_default(),
        user,
        stdio: child,
        terminal: request.pty.is_some(),
        changes_ids,
    };
    let (worker, note) = (agent.clone(), starting.clone());
    let born = agent.threads.starts.run(move || spawn(&worker, options, &note)).await.map_err(failed)?;
    let pid = match born.pid {
        Ok(pid) if !starting.is_given_up() => pid,
        outcome => {
            agent.processes.give_up(&starting);
            if let Some(process_cgroup) = born.cgroup {
                agent.process_cgroups.give_back(process_cgroup);
            }
            return Err(outcome.err().unwrap_or_else(|| failed(NoThread::Stuck)));
        }
    };
    let (process, exit) = Process::new(pid, born.config, request.tag, input);
    *lock(&process.cgroup) = born.cgroup;
    agent.processes.register(&starting, &process);
    let (body, _) = process.followers.follow(process.pid, &caller, true, false);
    let overdue = Arc::new(AtomicBool::new(false));
    let drain = (request.drain_ms > 0).then(|| Duration::from_millis(request.drain_ms.into()).min(MAX_DRAIN));
    let options = PumpOptions { overdue: overdue.clone(), drain };
    let pump = tokio::spawn(pump::run(agent.clone(), process.clone(), sources, exit, options));
    if let Some(timeout) = caller.timeout {
        tokio::spawn(kill_when_late(agent.clone(), process, timeout, overdue, pump));
    }
    Ok(body)
}

/// What a child is made of.
struct ChildOptions {
    config: ProcessConfig,
    user: User,
    stdio: [OwnedFd; 3],
    terminal: bool,
    changes_ids: bool,
}

/// Starts a child. Blocks on the disk. Our copies of the child's descriptors are closed at the end, or the end of its output
/// would never be seen.
fn spawn(agent: &Agent, options: ChildOptions, starting: &Starting) -> Born {
    let ChildOptions { mut config, user, stdio, terminal, changes_ids } = options;
    config.cmd = shell::resolve(config.cmd, &config.args, &user.shell);
    let plan = match plan(agent, &user, &config) {
        Ok(plan) if !starting.is_given_up() => plan,
        outcome => {
            let error = outcome.err().unwrap_or_else(|| failed(NoThread::Stuck));
            return Born { pid: Err(error), config, cgroup: None };
        }
    };
    let process_cgroup = if agent.mode == Mode::Pid1 { agent.process_cgroups.take() } else { None };
    let shared =
        if agent.mode == Mode::Pid1 && process_cgroup.is_none() { agent.process_cgroups.overflow() } else { None };
    let [child_in, child_out, child_err] = &stdio;
    let command = Command {
        programs: &plan.programs,
        args: &plan.args,
        env: &plan.env,
        dirs: &plan.dirs,
        stdio: [child_in.as_fd(), child_out.as_fd(), child_err.as_fd()],
        terminal,
        ids: changes_ids.then_some(&user.ids),
        oom_score_adj: Some(OOM_SCORE_ADJ),
        open_files: (agent.mode == Mode::Pid1).then_some(OPEN_FILES),
        cgroup: process_cgroup.as_ref().map(ProcessCgroup::directory).or(shared),
    };
    let pid = sys::spawn::spawn(&command, &starting.pid).map_err(|error| refused(&config, &plan.dirs, error));
    Born { pid, config, cgroup: process_cgroup }
}

/// Without root, everything runs as the agent's user.
fn change_ids(privileged: bool, user: &User) -> Result<bool, ConnectError> {
    let same = sys::rustix::process::geteuid().as_raw() == user.ids.uid;
    if privileged || same {
        return Ok(privileged);
    }
    Err(ConnectError::new(Code::PermissionDenied, format!("only root can run processes as '{}'", user.name)))
}

async fn kill_when_late(
    agent: Arc<Agent>,
    process: Arc<Process>,
    timeout: Duration,
    overdue: Arc<AtomicBool>,
    mut pump: tokio::task::JoinHandle<()>,
) {
    tokio::select! {
        _ = &mut pump => {}
        () = tokio::time::sleep(timeout) => {
            overdue.store(true, Ordering::Relaxed);
            process.released.notify_one();
            kill_all_of(&agent, &process);
        }
    }
}
