"""Commands in a sandbox: run to completion, streamed, or in the background."""

from __future__ import annotations

import builtins
import math
import time
from collections.abc import Mapping, Sequence
from typing import Final, Literal, overload

from wrenn.sdk._aio import Callback, invoke
from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._async.streams import AsyncProcessStream, send_signal
from wrenn.sdk._frames import TIMED_OUT, message_of
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk._tail import Tail
from wrenn.sdk.errors import CommandExitError, CommandTimeoutError, DeadlineExceededError, InvalidRequestError
from wrenn.sdk.types import CommandResult, OnDisconnect, ProcessInfo, Signal

SHELL: Final = "$SHELL"
"""A command with this name runs the sandbox's shell: bash if the image has it, otherwise sh."""
ANSWER_MARGIN_S: Final = 15.0
"""How much longer than the command's time limit its call may take: the platform kills the command and
responds before that."""


class AsyncProcessHandle:
    """A command that runs in the background."""

    def __init__(self, commands: AsyncCommands, pid: int, tag: str) -> None:
        self._commands = commands
        self.pid = pid
        self.tag = tag

    async def kill(self, signal: Signal = "SIGKILL") -> bool:
        """Send the signal; returns False if the process has already ended."""
        return await self._commands.kill(self.tag, signal)

    async def is_running(self) -> bool:
        """Whether the process is still running."""
        return any(
            (process.pid, process.tag) == (self.pid, self.tag) for process in await self._commands.list()
        )

    async def connect(self, *, replay: bool = True) -> AsyncProcessStream:
        """Stream the output of the process, as `commands.connect` does."""
        return await self._commands.connect(self.tag, replay=replay)

    def __repr__(self) -> str:
        return f"AsyncProcessHandle(pid={self.pid}, tag={self.tag!r})"


class AsyncCommands:
    """`sandbox.commands`."""

    def __init__(self, api: AsyncApi, sandbox_id: str) -> None:
        self._api = api
        self._sandbox_id = sandbox_id

    @overload
    async def run(
        self,
        cmd: str | Sequence[str],
        *,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout_s: float | None = 30,
        background: Literal[False] = False,
        check: bool = False,
        on_stdout: Callback | None = None,
        on_stderr: Callback | None = None,
    ) -> CommandResult: ...

    @overload
    async def run(
        self,
        cmd: str | Sequence[str],
        *,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        background: Literal[True],
        tag: str | None = None,
    ) -> AsyncProcessHandle: ...

    async def run(
        self,
        cmd: str | Sequence[str],
        *,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout_s: float | None = 30,
        background: bool = False,
        tag: str | None = None,
        check: bool = False,
        on_stdout: Callback | None = None,
        on_stderr: Callback | None = None,
    ) -> CommandResult | AsyncProcessHandle:
        """Run a command: a string is run by `bash -c`, or `sh -c` in an image without bash; a list is started without a shell.

        In the foreground it returns the output and the exit code once the command itself has ended; processes
        that it left in the background continue to run. After `timeout_s` (rounded up to whole seconds; 0 or
        None: never) the platform kills it with its children. With `background=True` it returns a handle at
        once, and `tag` names the process.

        `on_stdout` and `on_stderr` are called with each piece of text as it is written; a slow callback slows
        the command down. The result then has at most the last 16 MiB of each stream, and `truncated` says
        whether there was more.

        A call whose connection broke is not retried, because the command may have run.

        Raises:
            CommandTimeoutError: the command did not end within `timeout_s`; `result` has the output until
                then.
            CommandExitError: `check=True`, and the exit code is not 0.
        """
        argv = _argv(cmd)
        limit_s = _time_limit(timeout_s)
        if not background and (limit_s is None or on_stdout is not None or on_stderr is not None):
            # Also without a limit: proxies in between would cut a response that takes hours.
            stream = await self.stream(
                argv, envs=envs, cwd=cwd, user=user, timeout_s=limit_s, on_disconnect="kill"
            )
            result = await _with_callbacks(stream, on_stdout, on_stderr, limit_s)
            if check and result.exit_code != 0:
                raise CommandExitError(result)
            return result
        if on_stdout is not None or on_stderr is not None:
            raise InvalidRequestError("A background command has no callbacks: use commands.connect().")
        message: dict[str, object] = {"cmd": argv[0], "args": argv[1:]}
        options = {"envs": dict(envs) if envs else None, "cwd": cwd, "user": user}
        message.update({name: value for name, value in options.items() if value is not None})
        if background:
            message["background"] = True
            if tag is not None:
                message["tag"] = tag
            body = await self._api.call("POST", path_of(self._sandbox_id, "exec"), json=message)
            started = Fields("process", json_of(body))
            return AsyncProcessHandle(self, started.integer("pid"), started.text("tag"))
        assert limit_s is not None, "without a limit it is followed"
        message["timeout_sec"] = math.ceil(limit_s)
        body = await self._api.call(
            "POST",
            path_of(self._sandbox_id, "exec"),
            json=message,
            timeout_s=math.ceil(limit_s) + ANSWER_MARGIN_S,
        )
        result = CommandResult.parse(Fields("exec result", json_of(body)))
        if check and result.exit_code != 0:
            raise CommandExitError(result)
        return result

    async def list(self) -> builtins.list[ProcessInfo]:
        """List the running processes that were started through the platform."""
        body = await self._api.call("GET", path_of(self._sandbox_id, "processes"), repeatable=True)
        answer = Fields("process list", json_of(body))
        return [ProcessInfo.parse(fields) for fields in answer.objects("processes", "process")]

    async def stream(
        self,
        cmd: str | Sequence[str],
        *,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool = False,
        tag: str | None = None,
        timeout_s: float | None = None,
        on_disconnect: OnDisconnect = "kill",
    ) -> AsyncProcessStream:
        """Start a command and stream it: iterate over its output, and write to its input with `stdin=True`.

        After `timeout_s` (rounded up to whole seconds; 0 or None: never) the platform kills it with its
        children. If the stream is closed before its end, it is killed too; with `on_disconnect="keep"` it
        continues to run, and `connect` attaches to it again. If the output is not read for a minute, the
        stream is closed. A program that does not exist ends with exit code 127, as in a shell.
        """
        argv = _argv(cmd)
        timeout_s = _time_limit(timeout_s)
        start = message_of(
            type="start",
            cmd=argv[0],
            args=argv[1:],
            envs=dict(envs) if envs else None,
            cwd=cwd,
            user=user,
            stdin=stdin,
            tag=tag,
            timeout_sec=None if timeout_s is None else math.ceil(timeout_s),
            encoding="binary",
            on_disconnect=on_disconnect,
        )
        socket = await self._api.socket(path_of(self._sandbox_id, "exec", "stream"))
        return await AsyncProcessStream(self._api, self._sandbox_id, socket, has_stdin=stdin).begin(start)

    async def connect(self, process: int | str, *, replay: bool = True) -> AsyncProcessStream:
        """Attach to the process with this pid or tag. With `replay` its buffered output comes first, at most 1 MiB.

        Closing the stream does not end the process. Several clients may attach to one process.

        Raises:
            NotFoundError: no such process. The result of a process that has ended is available for an hour,
                or for half a minute once it was read; if there are more than 256 such results, the oldest is
                dropped.
        """
        params = {"encoding": "binary", "replay": "true" if replay else "false"}
        path = path_of(self._sandbox_id, "processes", str(process), "stream")
        socket = await self._api.socket(path, params=params)
        return await AsyncProcessStream(self._api, self._sandbox_id, socket, has_stdin=True).begin(None)

    async def kill(self, process: int | str, signal: Signal = "SIGKILL") -> bool:
        """Send a signal to the process with this pid or tag; returns False if there is none.

        Not retried if the connection breaks: by then another process may have the pid.
        """
        return await send_signal(self._api, self._sandbox_id, process, signal)


def _time_limit(timeout_s: float | None) -> float | None:
    """Normalize a time limit: 0 means none, as everywhere on the platform."""
    if timeout_s is not None and not timeout_s >= 0:
        raise InvalidRequestError(f"timeout_s must be at least 0, not {timeout_s}.")
    return timeout_s or None


def _argv(cmd: str | Sequence[str]) -> builtins.list[str]:
    try:
        argv = [SHELL, "-c", cmd] if isinstance(cmd, str) else list(cmd)
    except TypeError as error:
        raise InvalidRequestError(f"cmd must be a text or a list of texts, not {cmd!r}.") from error
    if not argv or not argv[0]:
        raise InvalidRequestError("The command is empty.")
    return argv


async def _with_callbacks(
    stream: AsyncProcessStream,
    on_stdout: Callback | None,
    on_stderr: Callback | None,
    timeout_s: float | None,
) -> CommandResult:
    """Call the callbacks with the output of the command until its end."""
    begun = time.monotonic()
    callbacks = {"stdout": on_stdout, "stderr": on_stderr}
    tails = {name: Tail() for name in callbacks}
    async with stream:
        try:
            while True:
                left_s = None
                if timeout_s is not None:
                    left_s = math.ceil(timeout_s) + ANSWER_MARGIN_S - (time.monotonic() - begun)
                if left_s is not None and left_s <= 0:
                    raise DeadlineExceededError(f"The command did not end within {timeout_s:g} s.")
                output = await stream.read(left_s)
                if output is None:
                    break
                tails[output.stream].add(output.data)
                callback = callbacks[output.stream]
                if callback is not None and output.text:
                    await invoke(callback, output.text)
        except DeadlineExceededError as error:
            raise CommandTimeoutError(error.message, result=_result(stream, tails, begun)) from error
    return _result(stream, tails, begun)


def _result(stream: AsyncProcessStream, tails: Mapping[str, Tail], begun: float) -> CommandResult:
    """Return what is known of the command; if its end is unknown, it was killed at its time limit."""
    end = stream.end or TIMED_OUT
    return CommandResult(
        stdout_bytes=tails["stdout"].data(),
        stderr_bytes=tails["stderr"].data(),
        exit_code=end.exit_code,
        duration_ms=round((time.monotonic() - begun) * 1000),
        signal=end.signal,
        signal_name=end.signal_name,
        out_of_memory=end.out_of_memory,
        timed_out=stream.end is None,
        truncated=any(tail.is_truncated for tail in tails.values()),
    )
