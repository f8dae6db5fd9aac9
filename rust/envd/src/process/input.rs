//! `SendInput`, `StreamInput`, `CloseStdin`.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use sys::rustix;
use tokio::io::unix::AsyncFd;
use wire::code::{Code, ConnectError};
use wire::process::process_input::Input as Given;
use wire::process::stream_input_request::Event;
use wire::process::{
    CloseStdinRequest, CloseStdinResponse, ProcessInput, SendInputRequest, SendInputResponse, StreamInputRequest,
};

use crate::agent::Agent;
use crate::process::registry::{Found, Input, Process};
use crate::process::{not_found, selector};

/// Writes all bytes. Waits while the process does not read.
async fn write_all(end: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = end.writable().await?;
        match ready.try_io(|end| rustix::io::retry_on_intr(|| rustix::io::write(end, bytes)).map_err(io::Error::from)) {
            Ok(Ok(written)) => bytes = &bytes[written..],
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

fn failed(pid: u32, error: &io::Error) -> ConnectError {
    let code = if error.kind() == io::ErrorKind::BrokenPipe { Code::FailedPrecondition } else { Code::Internal };
    ConnectError::new(code, format!("cannot write to process {pid}: {error}"))
}

fn no_stdin(pid: u32) -> ConnectError {
    ConnectError::new(Code::Internal, format!("stdin of process {pid} is not enabled or closed"))
}

async fn write(process: &Process, input: Option<ProcessInput>) -> Result<(), ConnectError> {
    let pid = process.pid;
    match (input.and_then(|i| i.input), &process.input) {
        (None, _) => Ok(()),
        (Some(Given::Stdin(bytes)), Input::Pipe(pipe)) => {
            let pipe = pipe.lock().await;
            let pipe = pipe.as_ref().ok_or_else(|| no_stdin(pid))?;
            write_all(pipe, &bytes).await.map_err(|e| failed(pid, &e))
        }
        (Some(Given::Pty(bytes)), Input::Terminal(terminal, turn)) => {
            let _turn = turn.lock().await;
            write_all(terminal, &bytes).await.map_err(|e| failed(pid, &e))
        }
        (Some(Given::Stdin(_)), Input::None) => Err(no_stdin(pid)),
        (Some(Given::Stdin(_)), Input::Terminal(..)) => {
            Err(ConnectError::new(Code::FailedPrecondition, format!("process {pid} has a terminal: send pty input")))
        }
        (Some(Given::Pty(_)), _) => {
            Err(ConnectError::new(Code::FailedPrecondition, format!("process {pid} has no terminal: send stdin")))
        }
    }
}

fn find_live(agent: &Agent, process: Option<wire::process::ProcessSelector>) -> Result<Arc<Process>, ConnectError> {
    let selector = selector(process)?;
    match agent.processes.find(&selector) {
        Some(Found::Live(process)) => Ok(process),
        _ => Err(not_found(&selector)),
    }
}

/// Writes once.
pub async fn send_input(agent: &Arc<Agent>, request: SendInputRequest) -> Result<SendInputResponse, ConnectError> {
    let process = find_live(agent, request.process)?;
    write(&process, request.input).await?;
    Ok(SendInputResponse {})
}

/// Processes the messages of one `StreamInput` call in order.
#[derive(Debug, Default)]
pub struct InputStream {
    /// The process named in the first message.
    process: Option<Arc<Process>>,
}

impl InputStream {
    /// Processes the next message.
    pub async fn take(&mut self, agent: &Arc<Agent>, request: StreamInputRequest) -> Result<(), ConnectError> {
        match (request.event, &self.process) {
            (Some(Event::Start(start)), None) => {
                self.process = Some(find_live(agent, start.process)?);
                Ok(())
            }
            (Some(Event::Start(_)), Some(_)) => {
                Err(ConnectError::new(Code::InvalidArgument, "only the first message may be a start"))
            }
            (Some(Event::Data(data)), Some(process)) => write(process, data.input).await,
            (Some(Event::Data(_)), None) => {
                Err(ConnectError::new(Code::InvalidArgument, "the first message must be a start"))
            }
            (Some(Event::Keepalive(_)) | None, _) => Ok(()),
        }
    }
}

/// Closes the input of a process. Idempotent.
pub async fn close_stdin(agent: &Arc<Agent>, request: CloseStdinRequest) -> Result<CloseStdinResponse, ConnectError> {
    let process = find_live(agent, request.process)?;
    match &process.input {
        Input::Pipe(pipe) => {
            pipe.lock().await.take();
            Ok(CloseStdinResponse {})
        }
        Input::None => Ok(CloseStdinResponse {}),
        Input::Terminal(..) => Err(ConnectError::new(
            Code::FailedPrecondition,
            "a terminal's input cannot be closed: send Ctrl+D (0x04) instead",
        )),
    }
}
