"""Finds the running sandbox that a request is about, and resumes it first if it should be."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import InvalidState, Unavailable
from wrenn.base.ids import SandboxId, TeamId
from wrenn.control.auth import Actor, Credential, OpenCalls
from wrenn.control.db import Database
from wrenn.control.hosts import HostClient, HostClients
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.operations.resume import Resumes
from wrenn.control.sandboxes.reconcile import comparison_store
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import Desired, State

_PING_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """A running sandbox, its team, and the client for its host."""

    sandbox_id: SandboxId
    team_id: TeamId
    host: HostClient


class Targets:
    """Finds the running sandbox that a request is about, and resumes it first if it has `auto_resume`."""

    def __init__(
        self,
        *,
        database: Database,
        clients: HostClients,
        lookup: Lookup,
        resumes: Resumes,
        open_calls: OpenCalls,
    ) -> None:
        self._database = database
        self._clients = clients
        self._lookup = lookup
        self._resumes = resumes
        self._open_calls = open_calls

    async def target(self, credential: Credential, text_id: str) -> Target:
        """Return the running sandbox that a request is about; one query.

        Raises:
            as `ready`.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox = await self.ready(found.sandbox, by=found.caller.actor)
        return Target(sandbox.sandbox_id, sandbox.team_id, self._clients.at(found.address))

    @asynccontextmanager
    async def opened(self, credential: Credential, text_id: str) -> AsyncGenerator[Target]:
        """Like `target`, for a call that may last long: the body is cancelled once the credential no longer allows it.

        Raises:
            as `ready`. AccessLost: the body was cancelled.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox = await self.ready(found.sandbox, by=found.caller.actor)
        async with self._open_calls.while_allowed(credential, found.caller):
            yield Target(sandbox.sandbox_id, sandbox.team_id, self._clients.at(found.address))

    async def ready(self, sandbox: Sandbox, *, by: Actor) -> Sandbox:
        """Return the sandbox once it is running, and resume it first if it has `auto_resume`. The caller has checked access.

        One with `auto_resume` is resumed first. While a time-out asks the host whether the sandbox is idle, the answer is
        waited for: a sandbox in use is not refused.

        Raises:
            InvalidState: it does not run. Unavailable: its host is silent. Else why it could not be resumed.
        """
        if not sandbox.is_usable and _may_run_soon(sandbox):
            sandbox = await self._resumes.wake_up(sandbox, by)
        if sandbox.status is State.MISSING:
            raise Unavailable(f"The host of sandbox {sandbox.sandbox_id} does not answer now.")
        if sandbox.now_is == State.PAUSED:
            raise InvalidState(f"Sandbox {sandbox.sandbox_id} is paused: resume it first.")
        if not sandbox.is_usable:
            raise InvalidState(f"Sandbox {sandbox.sandbox_id} is {sandbox.now_is}, not running.")
        return sandbox

    async def ping(self, credential: Credential, text_id: str) -> None:
        """Reset the idle timer."""
        target = await self.target(credential, text_id)
        await target.host.ping_sandbox(target.sandbox_id, timeout_s=_PING_TIMEOUT_S)
        await comparison_store.record_ping(self._database, target.sandbox_id)


def _may_run_soon(sandbox: Sandbox) -> bool:
    """Whether it is paused or being paused and has `auto_resume`, or is only being checked for idleness."""
    if sandbox.desired is Desired.STOPPED:
        return False
    asked_whether_idle = sandbox.status is State.RUNNING and sandbox.idle_ms > 0
    return asked_whether_idle or (sandbox.auto_resume and sandbox.status in (State.RUNNING, State.PAUSED))
