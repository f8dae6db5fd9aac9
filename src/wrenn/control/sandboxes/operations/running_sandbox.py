"""Finds the running sandbox that a request is about, and resumes it first if it is paused and has `auto_resume`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import InvalidState, Unavailable
from wrenn.base.ids import SandboxId, TeamId
from wrenn.control.auth import Actor, Credential, OpenCalls
from wrenn.control.db import Database
from wrenn.control.hosts import HostClient, HostClients, HostEndpoint
from wrenn.control.sandboxes import store
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.operations.resume import Resumes
from wrenn.control.sandboxes.reconcile import comparison_store
from wrenn.control.sandboxes.records import CommandDefaults, Sandbox
from wrenn.control.sandboxes.state import Desired, State

_PING_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A running sandbox, its team, the client for its host, and what applies to commands that say nothing about it."""

    sandbox_id: SandboxId
    team_id: TeamId
    host: HostClient
    defaults: CommandDefaults


class RunningSandboxes:
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

    async def find_or_resume(self, credential: Credential, text_id: str) -> RunningSandbox:
        """Return the running sandbox that a request is about, resumed first if it has `auto_resume`; one query if it runs already.

        Raises:
            As `resume_if_needed`.
        """
        found = await self._lookup.locate(credential, text_id)
        return await self.resume_if_needed(found.sandbox, found.host, by=found.caller.actor)

    async def find(self, credential: Credential, text_id: str) -> tuple[Sandbox, RunningSandbox]:
        """Return the running sandbox that a request is about, for a call that only looks: a paused one is not resumed.

        Raises:
            InvalidState: it does not run. Unavailable: its host does not answer.
        """
        found = await self._lookup.locate(credential, text_id)
        return found.sandbox, await self._running(found.sandbox, found.host)

    @asynccontextmanager
    async def opened(self, credential: Credential, text_id: str) -> AsyncGenerator[RunningSandbox]:
        """Like `find_or_resume`, for a call that may last long: the body is cancelled once the credential no longer allows it.

        Raises:
            As `resume_if_needed`. AccessLost: the body was cancelled.
        """
        found = await self._lookup.locate(credential, text_id)
        running = await self.resume_if_needed(found.sandbox, found.host, by=found.caller.actor)
        async with self._open_calls.while_allowed(credential, found.caller):
            yield running

    async def resume_if_needed(self, sandbox: Sandbox, host: HostEndpoint, *, by: Actor) -> RunningSandbox:
        """Return the sandbox, which was on `host`, once it is running, and resume it first if it has `auto_resume`. The caller has checked access.

        If the host is checking whether the sandbox is idle, this waits for the result, so that a sandbox in use is not refused.

        Raises:
            InvalidState: it does not run. Unavailable: its host does not answer. Else the reason why it was not resumed.
        """
        if not sandbox.is_usable and _may_run_soon(sandbox):
            sandbox = await self._resumes.wake_up(sandbox, by)
        return await self._running(sandbox, host)

    async def _running(self, sandbox: Sandbox, host: HostEndpoint) -> RunningSandbox:
        if sandbox.status is State.MISSING:
            raise Unavailable(f"The host of sandbox {sandbox.sandbox_id} does not answer now.")
        if sandbox.state_text == State.PAUSED:
            raise InvalidState(f"Sandbox {sandbox.sandbox_id} is paused: resume it first.")
        if not sandbox.is_usable:
            raise InvalidState(f"Sandbox {sandbox.sandbox_id} is {sandbox.state_text}, not running.")
        if sandbox.host_id != host.host_id:
            # It was moved meanwhile.
            located = await store.find_location(self._database, sandbox.sandbox_id)
            assert located is not None, "rows are kept"
            sandbox, host = located
        return RunningSandbox(
            sandbox.sandbox_id, sandbox.team_id, self._clients.at(host), sandbox.command_defaults
        )

    async def ping(self, credential: Credential, text_id: str) -> None:
        """Reset the idle timer; resumes the sandbox first if it has `auto_resume`."""
        running = await self.find_or_resume(credential, text_id)
        await running.host.ping_sandbox(running.sandbox_id, timeout_s=_PING_TIMEOUT_S)
        await comparison_store.record_ping(self._database, running.sandbox_id)


def _may_run_soon(sandbox: Sandbox) -> bool:
    """Whether it is paused or being paused and has `auto_resume`, or is only being checked for idleness."""
    if sandbox.desired is Desired.STOPPED:
        return False
    idle_check_pending = sandbox.status is State.RUNNING and sandbox.idle_ms > 0
    return idle_check_pending or (sandbox.auto_resume and sandbox.status in (State.RUNNING, State.PAUSED))
