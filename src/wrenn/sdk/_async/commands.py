"""Commands in a sandbox: run to the end, or in the background."""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, overload

from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk.errors import CommandExitError, InvalidRequestError, NotFoundError
from wrenn.sdk.types import CommandResult, ProcessInfo

Signal = Literal["SIGKILL", "SIGTERM"]

ANSWER_MARGIN_S: Final = 15.0
"""How much longer than the command itself its call may take: the platform ends the command and says so before that."""


class AsyncProcessHandle:
    """A command that runs in the background."""

    def __init__(self, commands: AsyncCommands, pid: int, tag: str) -> None:
        self._commands = commands
        self.pid = pid
        self.tag = tag

    async def kill(self, signal: Signal = "SIGKILL") -> bool:
        """Send the signal; False when the process has ended already."""
        return await self._commands.kill(self.tag, signal)

    async def is_running(self) -> bool:
        """True until it has ended."""
        return any(
            (process.pid, process.tag) == (self.pid, self.tag) for process in await self._commands.list()
        )

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
        timeout_s: float = 30,
        background: Literal[False] = False,
        check: bool = False,
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
        timeout_s: float = 30,
        background: bool = False,
        tag: str | None = None,
        check: bool = False,
    ) -> CommandResult | AsyncProcessHandle:
        """Run a command: a text goes through `/bin/sh -c`, a list is started as it is.

        In the foreground it returns the output and the exit code once the command has ended; after `timeout_s` (rounded
        up to whole seconds) the platform kills it with its children. With `background=True` it returns a handle at once,
        and `tag` names the process.

        A call that broke off is not repeated: nobody can tell whether the command ran.

        Raises:
            DeadlineExceededError: no end within `timeout_s`.
            CommandExitError: `check=True`, and the exit code is not 0.
        """
        argv = ["/bin/sh", "-c", cmd] if isinstance(cmd, str) else builtins.list(cmd)
        if not argv or not argv[0]:
            raise InvalidRequestError("The command is empty.")
        if not timeout_s > 0:
            raise InvalidRequestError(f"timeout_s must be above 0, not {timeout_s}.")
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
        message["timeout_sec"] = math.ceil(timeout_s)
        body = await self._api.call(
            "POST",
            path_of(self._sandbox_id, "exec"),
            json=message,
            timeout_s=math.ceil(timeout_s) + ANSWER_MARGIN_S,
        )
        result = CommandResult.parse(Fields("exec result", json_of(body)))
        if check and result.exit_code != 0:
            raise CommandExitError(result)
        return result

    async def list(self) -> builtins.list[ProcessInfo]:
        """The processes that were started through the platform and still run."""
        body = await self._api.call("GET", path_of(self._sandbox_id, "processes"), repeatable=True)
        answer = Fields("process list", json_of(body))
        return [ProcessInfo.parse(fields) for fields in answer.objects("processes", "process")]

    async def kill(self, process: int | str, signal: Signal = "SIGKILL") -> bool:
        """Send a signal to the process with this pid or tag; False when there is none.

        Not repeated when the connection breaks: by then the pid may be another's.
        """
        try:
            await self._api.call(
                "DELETE", path_of(self._sandbox_id, "processes", str(process)), params={"signal": signal}
            )
        except NotFoundError:
            return False
        return True
