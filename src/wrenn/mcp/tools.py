"""The tools. Their docstrings and parameter descriptions are what the model reads."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Final, Literal

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from wrenn.mcp.results import CommandOutput, Directory, Entry, FileText, PortUrl, Process, SandboxSummary
from wrenn.mcp.session import LimitReached, Limits, Session
from wrenn.sdk import AsyncSandbox, CommandTimeoutError, WrennError

INSTRUCTIONS: Final = (
    "Sandboxes are small Linux virtual machines in which any code can be run safely. Create one, use it by its id, and remove it with"
    " kill_sandbox when it is no longer needed. Files and running programs stay between calls; an unused sandbox is paused and continues"
    " at the next call. You are root."
)
_ENTRIES: Final = 500
_LINK_S: Final = 3600
_INTERPRETERS: Final = {"python": ("python3", "py"), "bash": ("bash", "sh"), "javascript": ("node", "js")}
_READS: Final = ToolAnnotations(read_only_hint=True)
_ADDS: Final = ToolAnnotations(destructive_hint=False)
_DESTROYS: Final = ToolAnnotations(destructive_hint=True, idempotent_hint=True)

SandboxId = Annotated[str, Field(description="id of the sandbox, cl-…", max_length=64)]
FilePath = Annotated[str, Field(description="absolute path in the sandbox", max_length=4096)]
Port = Annotated[int, Field(description="port on which a program listens", ge=1, le=65535)]
WorkingDirectory = Annotated[str | None, Field(description="working directory", max_length=4096)]
TimeLimit = Annotated[int, Field(description="seconds after which it is killed", ge=1)]


def add_tools(server: MCPServer, session_of: Callable[[], Session]) -> None:
    """Register all tools with a server. `session_of` returns the session of the client whose call is being served."""

    @server.tool(annotations=_ADDS)
    async def create_sandbox(
        template: Annotated[str, Field(description="what it is created from", max_length=256)] = "minimal",
        name: Annotated[str | None, Field(description="a name to recognize it by", max_length=100)] = None,
        allow_internet: Annotated[bool, Field(description="whether it can reach the internet")] = True,  # noqa: FBT002
    ) -> SandboxSummary:
        """Start a new sandbox. It is ready when this returns."""
        async with _failures_as_results():
            return SandboxSummary.of(
                await session_of().create(template, name=name, allow_internet=allow_internet)
            )

    @server.tool(annotations=_READS)
    async def list_sandboxes() -> list[SandboxSummary]:
        """List the sandboxes of this session, running and paused, newest first."""
        async with _failures_as_results():
            return [SandboxSummary.of(info) for info in await session_of().list()]

    @server.tool()
    async def run_command(
        sandbox_id: SandboxId,
        command: Annotated[str, Field(description="a command line for bash", max_length=100_000)],
        working_directory: WorkingDirectory = None,
        timeout_sec: TimeLimit = 60,
    ) -> CommandOutput:
        """Run a command and return its output when it has ended. For servers use start_process."""
        session = session_of()
        async with _failures_as_results(), session.open(sandbox_id) as sandbox:
            return await _output(sandbox, command, working_directory, timeout_sec, session.limits)

    @server.tool()
    async def run_code(
        sandbox_id: SandboxId,
        code: Annotated[str, Field(description="the program's text", max_length=1_000_000)],
        language: Literal["python", "bash", "javascript"] = "python",
        working_directory: WorkingDirectory = None,
        timeout_sec: TimeLimit = 60,
    ) -> CommandOutput:
        """Run a program and return what it prints. Each run is a new process: variables are lost, files remain."""
        session = session_of()
        program, suffix = _INTERPRETERS[language]
        path = f"/tmp/run-{uuid.uuid4().hex}.{suffix}"  # noqa: S108 - in the guest, with a name that cannot be guessed
        async with _failures_as_results(), session.open(sandbox_id) as sandbox:
            await sandbox.files.write(path, code)
            try:
                return await _output(sandbox, [program, path], working_directory, timeout_sec, session.limits)
            finally:
                await sandbox.files.remove(path)

    @server.tool()
    async def start_process(
        sandbox_id: SandboxId,
        command: Annotated[str, Field(description="a command line for bash", max_length=100_000)],
        working_directory: WorkingDirectory = None,
    ) -> Process:
        """Start a program, for example a server, that keeps running in the background."""
        async with _failures_as_results(), session_of().open(sandbox_id) as sandbox:
            started = await sandbox.commands.run(command, cwd=working_directory, background=True)
            return Process(pid=started.pid)

    @server.tool(annotations=_READS)
    async def list_files(sandbox_id: SandboxId, path: FilePath) -> Directory:
        """List a directory."""
        async with _failures_as_results(), session_of().open(sandbox_id) as sandbox:
            entries = await sandbox.files.list(path)
            return Directory(
                entries=[Entry.of(entry) for entry in entries[:_ENTRIES]], truncated=len(entries) > _ENTRIES
            )

    @server.tool(annotations=_READS)
    async def read_file(
        sandbox_id: SandboxId,
        path: FilePath,
        offset: Annotated[int, Field(description="first byte to read", ge=0)] = 0,
    ) -> FileText:
        """Read a part of a text file."""
        session = session_of()
        async with _failures_as_results(), session.open(sandbox_id) as sandbox:
            size = (await sandbox.files.stat(path)).size
            data = await sandbox.files.read(path, "bytes", offset=offset, length=session.limits.output_b)
            return FileText.of(data, offset=offset, size=size)

    @server.tool()
    async def write_file(
        sandbox_id: SandboxId,
        path: FilePath,
        text: Annotated[str, Field(description="the file's new content", max_length=2_000_000)],
    ) -> str:
        """Write a text file, replacing it if it exists. Missing directories are created."""
        async with _failures_as_results(), session_of().open(sandbox_id) as sandbox:
            await sandbox.files.write(path, text)
            return f"Wrote {len(text.encode())} bytes to {path}."

    @server.tool(annotations=_READS)
    async def get_port_url(sandbox_id: SandboxId, port: Port) -> PortUrl:
        """Return a URL at which the user can open a port of the sandbox, for example a web server, in a browser. It is valid for an hour."""
        async with _failures_as_results(), session_of().open(sandbox_id) as sandbox:
            return PortUrl(url=await sandbox.get_url(port, expires_in_sec=_LINK_S), expires_in_sec=_LINK_S)

    @server.tool(annotations=_ADDS)
    async def pause_sandbox(sandbox_id: SandboxId) -> str:
        """Save a sandbox with its files and running programs, and stop it. The next call that uses it resumes it."""
        async with _failures_as_results(), session_of().open(sandbox_id, resume=False) as sandbox:
            await sandbox.pause()
            return f"{sandbox_id} is paused."

    @server.tool(annotations=_ADDS)
    async def fork_sandbox(
        sandbox_id: SandboxId, count: Annotated[int, Field(description="number of copies", ge=1, le=16)] = 1
    ) -> list[SandboxSummary]:
        """Make copies of a sandbox with its files and running programs, for example to try several ways on from here."""
        async with _failures_as_results():
            return [SandboxSummary.of(info) for info in await session_of().fork(sandbox_id, count)]

    @server.tool(annotations=_DESTROYS)
    async def kill_sandbox(sandbox_id: SandboxId) -> str:
        """Remove a sandbox with everything in it."""
        async with _failures_as_results(), session_of().open(sandbox_id, resume=False) as sandbox:
            await sandbox.kill()
            return f"{sandbox_id} is removed."


async def _output(
    sandbox: AsyncSandbox, command: str | Sequence[str], cwd: str | None, timeout_sec: int, limits: Limits
) -> CommandOutput:
    """Run a command within the limits of a session; one that reaches its time limit has an output too."""
    try:
        result = await sandbox.commands.run(command, cwd=cwd, timeout_s=min(timeout_sec, limits.call_s))
    except CommandTimeoutError as error:
        result = error.result
    return CommandOutput.of(result, limits.output_b)


@asynccontextmanager
async def _failures_as_results() -> AsyncGenerator[None]:
    """Return expected failures to the model, with the message that says what to do."""
    try:
        yield
    except (LimitReached, WrennError) as error:
        raise ToolError(str(error)) from error
