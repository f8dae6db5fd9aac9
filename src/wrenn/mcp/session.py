"""The sandboxes of one client of the MCP server: it sees those that it created, and no others of the team.

A model follows instructions from texts that it reads, so it gets no access to sandboxes that the user did not give to it. Which ones
belong to a session is stored as their metadata, so that a restarted server finds them again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, Final
from weakref import WeakValueDictionary

from wrenn.sdk import AsyncSandbox, NetworkPolicy, NotFoundError, SandboxInfo

MARK: Final = "wrenn-mcp-session"
"""Key of the metadata entry with the session that created a sandbox."""


class LimitReached(Exception):
    """The session is not allowed more; the message says which limit and what to do."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may use.

    Attributes:
        sandboxes: running and paused sandboxes at a time.
        idle_s: a sandbox that is unused for so long is paused; the next call resumes it. Seconds.
        call_s: the longest time for a command, in seconds.
        output_b: bytes of each output of a command that are returned, and of a file that is read.
        internet: whether its sandboxes may reach the internet.
    """

    sandboxes: int = 5
    idle_s: int = 900
    call_s: int = 300
    output_b: int = 64 * 1024
    internet: bool = True


class Session:
    """The sandboxes of one client.

    Args:
        name: identifies the session; sandboxes of an earlier one of this name belong to it.
        limits: what it may use.
        api_key: the client's own key; None: the credentials of this program.
    """

    _creating: ClassVar[WeakValueDictionary[str, asyncio.Lock]] = WeakValueDictionary()

    def __init__(self, name: str, limits: Limits, api_key: str | None = None) -> None:
        self.name = name
        self.limits = limits
        self._key = api_key

    async def list(self) -> list[SandboxInfo]:
        """Return the session's sandboxes, newest first, at most twice the limit.

        There may be more than the limit if several servers share one session's name.
        """
        return await AsyncSandbox.list(
            metadata={MARK: self.name}, limit=2 * self.limits.sandboxes, api_key=self._key
        )

    async def create(self, template: str, *, name: str | None, allow_internet: bool) -> SandboxInfo:
        """Start a sandbox.

        Raises:
            LimitReached: the session has as many as it may, or wants the internet and may not.
        """
        if allow_internet and not self.limits.internet:
            raise LimitReached(
                "Sandboxes of this session cannot reach the internet: pass allow_internet=false."
            )
        # One at a time: otherwise concurrent calls would all see the same number of sandboxes.
        async with self._creating.setdefault(f"{self.name}\0{self._key}", asyncio.Lock()):
            await self._check_limit(1)
            sandbox = await AsyncSandbox.create(
                template,
                name=name,
                timeout_sec=self.limits.idle_s,
                lifetime_sec=0,
                metadata={MARK: self.name},
                network=None if allow_internet else NetworkPolicy(allow_internet=False),
                api_key=self._key,
            )
        try:
            return await sandbox.info()
        finally:
            await sandbox.close()

    async def fork(self, sandbox_id: str, count: int) -> list[SandboxInfo]:
        """Copy a running sandbox of the session.

        Raises:
            LimitReached: the session may not have so many more.
        """
        async with self._creating.setdefault(f"{self.name}\0{self._key}", asyncio.Lock()):
            await self._check_limit(count)
            async with self.open(sandbox_id) as sandbox:
                copies = await sandbox.fork(count)
        try:
            return [await copy.info() for copy in copies]
        finally:
            for copy in copies:
                await copy.close()

    async def _check_limit(self, count: int) -> None:
        present = len(await self.list())
        if present + count > self.limits.sandboxes:
            raise LimitReached(
                f"This session has {present} sandboxes of at most {self.limits.sandboxes}. Remove one with kill_sandbox first."
            )

    @asynccontextmanager
    async def open(self, sandbox_id: str, *, resume: bool = True) -> AsyncGenerator[AsyncSandbox]:
        """Connect to a sandbox of the session, and close the connections at the end.

        Raises:
            NotFoundError: there is none with this id, or it is not the session's.
        """
        sandbox = await AsyncSandbox.connect(sandbox_id, resume=False, api_key=self._key)
        try:
            info = await sandbox.info()
            if info.metadata.get(MARK) != self.name:
                raise NotFoundError(
                    f"This session has no sandbox {sandbox_id}: list_sandboxes shows those that it has."
                )
            if resume and info.status == "paused":
                await sandbox.resume()
            yield sandbox
        finally:
            await sandbox.close()


def name_of_key(api_key: str) -> str:
    """Return the name of the session of all clients that use an API key. It does not reveal the key."""
    return hashlib.sha256(b"wrenn mcp session\0" + api_key.encode()).hexdigest()[:32]
