"""Finds the sandbox that a caller names, and checks that it is the caller's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from wrenn.base.errors import Conflict, InvalidRequest, InvalidState, NotFound
from wrenn.base.ids import BuildId, SandboxId, TeamId
from wrenn.control.auth import Authenticator, Caller, Credential
from wrenn.control.db import Database
from wrenn.control.hosts import HostEndpoint
from wrenn.control.sandboxes import store
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.selection import SandboxFilter, cursor_after
from wrenn.control.sandboxes.state import ENDED, Desired, State
from wrenn.control.snapshots import SnapshotSource

IsBuildRunning = Callable[[Database, BuildId], Awaitable[bool]]
"""Whether there is such a build and it has not ended."""


class SandboxOfBuild(Conflict):
    """The sandbox belongs to a build that runs: nobody else may use or change it."""

    code = "sandbox_of_build"


@dataclass(frozen=True, slots=True)
class LocatedSandbox:
    """A sandbox of the caller, in any state, and its host."""

    caller: Caller
    sandbox: Sandbox
    host: HostEndpoint


class Lookup:
    """Finds sandboxes for a caller: checks the credential and that the sandbox belongs to the caller's team."""

    def __init__(
        self, database: Database, authenticator: Authenticator, is_build_running: IsBuildRunning
    ) -> None:
        self._is_build_running = is_build_running
        self._database = database
        self._authenticator = authenticator

    async def list(self, caller: Caller, selected: SandboxFilter) -> tuple[list[Sandbox], str | None]:
        """Return the caller's live sandboxes that match the filter, in its order, and the cursor of the next page.

        In the order of creation, sandboxes that are made while pages are read are on none of them, those that end are missing, and
        nothing is on two. In another order a sandbox whose value changes meanwhile may be on two pages or on none.
        """
        if selected.limit is None:
            return await store.live_of_team(self._database, caller.team_id, selected), None
        one_more = replace(selected, limit=selected.limit + 1)
        found = await store.live_of_team(self._database, caller.team_id, one_more)
        page = found[: selected.limit]
        return page, cursor_after(page[-1], selected.sort) if len(found) > len(page) else None

    async def count(self, team_ids: Sequence[TeamId]) -> Mapping[TeamId, int]:
        """Count the live sandboxes of these teams; teams without any are left out."""
        return await store.count_live(self._database, team_ids)

    async def get(self, credential: Credential, text_id: str) -> Sandbox:
        """Return one sandbox of the caller, in any state.

        Raises:
            Unauthorized, Forbidden, InvalidRequest, NotFound.
        """
        return (await self.find(credential, text_id)).sandbox

    async def locate(self, credential: Credential, text_id: str) -> LocatedSandbox:
        """Return one sandbox of the caller that the caller may use and change, in any state, with its host; one query.

        Raises:
            Unauthorized, Forbidden, InvalidRequest, NotFound. SandboxOfBuild: only its build may.
        """
        found = await self.find(credential, text_id)
        await self.require_build_ended(found.sandbox)
        return found

    async def require_build_ended(self, sandbox: Sandbox) -> None:
        """Check that the sandbox is not that of a running build; one query if it was made for a build.

        Raises:
            SandboxOfBuild: only its build may use and change it.
        """
        if sandbox.build_id is None or sandbox.status in ENDED:
            return
        if await self._is_build_running(self._database, sandbox.build_id):
            raise SandboxOfBuild(
                f"Sandbox {sandbox.sandbox_id} belongs to the build {sandbox.build_id} while that runs."
                " To end both, cancel the build."
            )

    async def find(self, credential: Credential, text_id: str) -> LocatedSandbox:
        """Return one sandbox of the caller to look at, in any state, with its host; one query.

        Raises:
            Unauthorized, Forbidden, InvalidRequest, NotFound.
        """
        try:
            sandbox_id = SandboxId.parse(text_id)
        except InvalidRequest:
            # A stranger is told about the key first.
            await self._authenticator.identify(credential)
            raise
        caller, located = await store.locate(self._database, credential, sandbox_id)
        self._authenticator.accept(caller)
        if located is None:
            raise NotFound(f"There is no sandbox {sandbox_id}.")
        return LocatedSandbox(caller, *located)

    async def source(self, credential: Credential, text_id: str) -> tuple[Caller, SnapshotSource]:
        """Return the caller and a running or paused sandbox as the source of a snapshot.

        Raises:
            As `locate`. InvalidState: it neither runs nor is paused.
        """
        found = await self.locate(credential, text_id)
        sandbox = found.sandbox
        is_paused = (
            sandbox.status is State.PAUSED and sandbox.desired is Desired.PAUSED and not sandbox.is_moving
        )
        if not sandbox.is_usable and not is_paused:
            raise InvalidState(
                f"Sandbox {sandbox.sandbox_id} is {sandbox.state_text}: a snapshot is taken of one that runs or is paused."
            )
        return found.caller, snapshot_source_of(sandbox, found.host)


def snapshot_source_of(sandbox: Sandbox, host: HostEndpoint) -> SnapshotSource:
    """Convert a sandbox to the source of a snapshot."""
    return SnapshotSource(
        team_id=sandbox.team_id,
        sandbox_id=sandbox.sandbox_id,
        host=host,
        image=sandbox.image,
        vcpus=sandbox.vcpus,
        memory_mb=sandbox.memory_mb,
        disk_size_mb=sandbox.disk_size_mb,
    )
