"""Relays messages between clients and processes in a sandbox, in both directions.

Nothing is held but the message that is on its way: a client that reads slowly holds the host up, and so the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from wrenn.base.errors import AgentFailure, Cancelled, InvalidRequest, Unauthorized, WrennError
from wrenn.base.ids import random_hex
from wrenn.base.tasks import first_of
from wrenn.control.auth import Credential, credential_of_socket, credential_of_token
from wrenn.control.guests.commands import selector_of
from wrenn.control.guests.stream_frames import (
    CloseInput,
    ExecFrames,
    Frames,
    Input,
    Signal,
    Stop,
    TerminalFrames,
    failed_exec,
    failed_terminal,
    json_object,
)
from wrenn.control.guests.stream_types import (
    TERM,
    Attach,
    ConnectTerminal,
    Resize,
    StartExec,
    StartTerminal,
    checked,
)
from wrenn.control.hosts import (
    OUTPUTS,
    AttachProcess,
    HostStream,
    Kind,
    Size,
    StartProcess,
    parse_end,
    parse_json,
)
from wrenn.control.http import ClientSocket, public_error
from wrenn.control.sandboxes import CommandDefaults, RunningSandbox, RunningSandboxes

_AUTH_TIMEOUT_S: Final = 5.0
_START_TIMEOUT_S: Final = 30.0
_PING_S: Final = 30.0

Opening = tuple[Frames, StartProcess | AttachProcess]


class Streams:
    """Follows processes of a sandbox over WebSockets. Each call serves one WebSocket to its end, and tells its client what went wrong."""

    def __init__(self, running_sandboxes: RunningSandboxes) -> None:
        self._running = running_sandboxes

    async def exec(self, client: ClientSocket, text_id: str) -> None:
        """Serve a WebSocket that starts a program and follows it."""
        await self._serve(client, text_id, _exec_opening, failed_exec)

    async def terminal(self, client: ClientSocket, text_id: str) -> None:
        """Serve a WebSocket that starts a program in a terminal, or follows one that runs there."""
        await self._serve(client, text_id, _terminal_opening, failed_terminal)

    async def attach(
        self, client: ClientSocket, text_id: str, selector: str, *, options: Mapping[str, str]
    ) -> None:
        """Serve a WebSocket that follows a running process."""
        async with _reporting_failures(client, failed_exec), AsyncExitStack() as stack:
            asked = checked(Attach, options)
            process = AttachProcess(selector_of(selector), replay=asked.replay)
            running = await stack.enter_async_context(self._admitted(client, text_id))
            host = await stack.enter_async_context(running.host.stream())
            await host.open(running.sandbox_id, process)
            # That there is no such process is an answer to the handshake, as long as that is open.
            first = await host.receive()
            await client.accept()
            await _relay(client, host, ExecFrames(asked.encoding), first)

    async def _serve(
        self,
        client: ClientSocket,
        text_id: str,
        opening_of: Callable[[dict[str, Any], CommandDefaults], Opening],
        failed: Callable[[WrennError], str],
    ) -> None:
        async with _reporting_failures(client, failed), AsyncExitStack() as stack:
            running = await stack.enter_async_context(self._admitted(client, text_id))
            await client.accept()
            # Before the client's first message, which is on its way: the connection takes some milliseconds.
            host = await stack.enter_async_context(running.host.stream())
            message = await _within(
                client.receive(), _START_TIMEOUT_S, "The first message did not come in time."
            )
            frames, process = opening_of(json_object(message), running.defaults)
            await host.open(running.sandbox_id, process)
            await _relay(client, host, frames, await host.receive())

    @asynccontextmanager
    async def _admitted(self, client: ClientSocket, text_id: str) -> AsyncGenerator[RunningSandbox]:
        """Authenticate by the handshake or the first message, and yield the sandbox while the caller may use it."""
        credential = credential_of_socket(client.handshake)
        if credential is None:
            await client.accept()
            credential = await _credential_in_message(client)
        async with self._running.opened(credential, text_id) as running:
            yield running


@asynccontextmanager
async def _reporting_failures(
    client: ClientSocket, failed: Callable[[WrennError], str]
) -> AsyncGenerator[None]:
    """Send errors of the body to the client and close the socket; nothing is raised."""
    try:
        yield
    except Cancelled:
        return
    except WrennError as error:
        public = public_error(error)
        await client.fail(public, failed(public))
    else:
        await client.close()


async def _credential_in_message(client: ClientSocket) -> Credential:
    late = 'No credentials: the first message must be {"type": "auth", "token": …} within 5 s.'
    try:
        value = json_object(await _within(client.receive(), _AUTH_TIMEOUT_S, late))
    except InvalidRequest as error:
        raise Unauthorized(late) from error
    token = value.get("token")
    if value.get("type") != "auth" or not isinstance(token, str):
        raise Unauthorized(late)
    return credential_of_token(client.handshake, token)


async def _within(work: Coroutine[Any, Any, str | bytes], timeout_s: float, late: str) -> str | bytes:
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError as error:
        raise InvalidRequest(late) from error


def _exec_opening(value: dict[str, Any], defaults: CommandDefaults) -> Opening:
    if value.get("type") != "start":
        raise InvalidRequest("The first message must be a start.")
    start = checked(StartExec, value)
    process = StartProcess(
        cmd=start.cmd,
        args=start.args,
        envs=start.envs,
        cwd=start.cwd or defaults.working_dir,
        user=start.user or defaults.user,
        tag=start.tag or "",
        stdin=start.stdin,
        timeout_ms=(start.timeout_sec or 0) * 1000,
        kill_when_left=start.on_disconnect == "kill",
    )
    return ExecFrames(start.encoding), process


def _terminal_opening(value: dict[str, Any], defaults: CommandDefaults) -> Opening:
    match value.get("type"):
        case "start":
            start = checked(StartTerminal, value)
            tag = start.tag or f"pty-{random_hex(4)}"
            process = StartProcess(
                cmd=start.cmd,
                args=start.args,
                envs={"TERM": TERM, **start.envs},
                cwd=start.cwd or defaults.working_dir,
                user=start.user or defaults.user,
                tag=tag,
                terminal=Size(start.cols, start.rows),
                kill_when_left=start.on_disconnect == "kill",
            )
            return TerminalFrames(start.encoding, tag), process
        case "connect":
            connect = checked(ConnectTerminal, value)
            selector = selector_of(connect.tag)
            process = AttachProcess(selector, replay=connect.replay, terminal=True)
            return TerminalFrames(connect.encoding, connect.tag if connect.confirm else None), process
        case _:
            raise InvalidRequest("The first message must be a start or a connect.")


async def _relay(client: ClientSocket, host: HostStream, frames: Frames, first: bytes) -> None:
    """Relay messages until the process ends, the client leaves, or the host's stream fails.

    Raises:
        Cancelled: the client left. WrennError: the stream failed.
    """
    await first_of(
        _forward_to_client(client, host, frames, first),
        _forward_to_host(client, host, frames),
        _ping(client, host, frames),
    )


async def _forward_to_client(client: ClientSocket, host: HostStream, frames: Frames, message: bytes) -> None:
    while True:
        if message[0] in OUTPUTS:
            for frame in frames.output(message):
                await client.send(frame)
        elif message[0] == Kind.STARTED:
            fact = parse_json(message[1:])
            pid, missed, replayed = (_whole(fact, name) for name in ("pid", "missed", "replayed"))
            if (started := frames.started(pid, missed=missed, replayed=replayed)) is not None:
                await client.send(started)
        elif message[0] == Kind.EXITED:
            for frame in frames.exited(parse_end(message[1:])):
                await client.send(frame)
            return
        message = await host.receive()


def _whole(value: dict[str, Any], name: str) -> int:
    number = value.get(name)
    if not isinstance(number, int):
        raise AgentFailure("The host sent a message that cannot be read.")
    return number


async def _forward_to_host(client: ClientSocket, host: HostStream, frames: Frames) -> None:
    while True:
        match frames.parse_command(await client.receive()):
            case Input(data):
                if data:
                    await host.write(data)
            case CloseInput():
                await host.close_input()
            case Signal(number):
                await host.send_message(Kind.SIGNAL, {"signal": number})
            case Resize() as size:
                await host.send_message(Kind.RESIZE, {"cols": size.cols, "rows": size.rows})
            case Stop():
                return
            case None:
                pass


async def _ping(client: ClientSocket, host: HostStream, frames: Frames) -> None:
    """Ping the client: always in a terminal, else only while input is blocked, when nothing is read that would show that the client left."""
    while True:
        await asyncio.sleep(_PING_S)
        if isinstance(frames, TerminalFrames) or host.is_writing:
            await client.send(frames.ping())
