"""Terminals of a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._async.commands import SHELL
from wrenn.sdk._async.streams import AsyncTerminal
from wrenn.sdk._frames import message_of
from wrenn.sdk.types import OnDisconnect


class AsyncPty:
    """`sandbox.pty`."""

    def __init__(self, api: AsyncApi, sandbox_id: str) -> None:
        self._api = api
        self._sandbox_id = sandbox_id

    async def create(
        self,
        cmd: str | Sequence[str] = SHELL,
        *,
        cols: int = 80,
        rows: int = 24,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        tag: str | None = None,
        on_disconnect: OnDisconnect = "keep",
    ) -> AsyncTerminal:
        """Start a program in a terminal of this size: a string is its name, a list its name and arguments.

        By default it is the login shell of the user in the sandbox, or bash, or sh in an image without bash.
        With `on_disconnect="keep"` it continues to run when the terminal is closed, and `connect` with its
        `tag` attaches to it again; with `"kill"` it is killed. An open terminal prevents its sandbox from
        being paused for idleness only while there is input or output.
        """
        argv = [cmd] if isinstance(cmd, str) else list(cmd)
        start = message_of(
            type="start",
            cmd=argv[0],
            args=argv[1:],
            cols=cols,
            rows=rows,
            envs=dict(envs) if envs else None,
            cwd=cwd,
            user=user,
            tag=tag,
            encoding="binary",
            on_disconnect=on_disconnect,
        )
        return await self._opened(start)

    async def connect(self, tag: str | int, *, replay: bool = True) -> AsyncTerminal:
        """Attach to the terminal with this tag or pid. With `replay` its last output is sent again first, at most 1 MiB.

        Several clients may attach to one terminal; all see the same output and may type.

        Raises:
            NotFoundError: no such terminal.
        """
        return await self._opened(
            message_of(type="connect", tag=str(tag), replay=replay, confirm=True, encoding="binary")
        )

    async def _opened(self, first: str) -> AsyncTerminal:
        socket = await self._api.socket(path_of(self._sandbox_id, "pty"))
        return await AsyncTerminal(self._api, self._sandbox_id, socket).begin(first)
