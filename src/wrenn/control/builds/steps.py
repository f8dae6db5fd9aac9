"""Carries out the steps of a build in its sandbox."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from wrenn.base.errors import (
    AgentFailure,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    TooLarge,
)
from wrenn.base.ids import SandboxId, random_hex
from wrenn.base.units import KIB
from wrenn.control.builds.log_writer import LogWriter
from wrenn.control.builds.stage_copy import Place, copy_between
from wrenn.control.hosts import Command, HostClient, HostNotResponding, Kind, StartProcess
from wrenn.recipe import Copy, Env, ReadyCheck, Run, Start, State, Step, User, Workdir
from wrenn.recipe.archive import ContextArchive, archive_of_directory

_SHELL: Final = "/bin/sh"
_ROOT: Final = "0:0"
DEFAULT_ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""Of programs in a base that does not say what theirs are."""
_NO_PROGRAM: Final = (126, 127)
"""Exit codes that agents report for a program that does not exist or may not be executed."""
_SHORT_TIMEOUT_S: Final = 60.0
_SETTLE_TIMEOUT_S: Final = 330.0
_ENVIRONMENT_LIMIT_B: Final = 128 * KIB
_START_S: Final = 0.5
"""After so long a program that was started is expected to run."""
_READY_LIMIT_S: Final = 1800.0
"""Of a check without a limit of its own."""


class StepFailed(InvalidRequest):
    """A step ended with another exit code than 0, or could not be carried out."""

    code = "build_failed"

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class BuildSandbox:
    """The running sandbox of a build, and what writes its log. `stage`: returns the place where files of another stage are."""

    sandbox_id: SandboxId
    host: HostClient
    context: ContextArchive
    log: LogWriter
    stage: Callable[[int], Awaitable[Place]]

    @property
    def place(self) -> Place:
        """Where the files of this sandbox are."""
        return Place(self.sandbox_id, self.host)

    async def environment(self) -> dict[str, str] | None:
        """Return the variables that programs have in the sandbox, without those of the session; None: its `env` did not say.

        Raises:
            WrennError: the sandbox or its host failed.
        """
        found = bytearray()

        def take(kind: Kind, data: bytes) -> None:
            if kind is Kind.STDOUT:
                found.extend(data)
            if len(found) > _ENVIRONMENT_LIMIT_B:
                # The program is killed. It is the base's, and may be any.
                raise TooLarge("The environment of the base is too large.")

        try:
            end = await self.host.exec(
                self.sandbox_id,
                StartProcess(cmd="env", args=["-0"], timeout_ms=round(_SHORT_TIMEOUT_S * 1000)),
                take,
            )
        except TooLarge:
            return None
        if end.exit_code in _NO_PROGRAM:
            return dict(DEFAULT_ENVIRONMENT)
        if end.exit_code != 0:
            return None
        pairs = found.decode(errors="replace").split("\0")
        variables = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        found_here = {name: variables[name] for name in ("PATH", "LANG") if name in variables}
        return found_here or dict(DEFAULT_ENVIRONMENT)

    async def carry_out(self, step: Step) -> int | None:
        """Carry out one step; returns the exit code of its program, if it runs one.

        Raises:
            StepFailed: it failed for a reason of the recipe. WrennError: the sandbox or its host failed.
        """
        match step:
            case Run():
                return await self._run(step)
            case Env():
                return None
            case Workdir():
                await self._make_directory(step)
                return None
            case User():
                await self._user(step)
                return None
            case Copy():
                await self._copy(step)
                return None
            case Start():
                await self._start(step)
                return None

    async def _run(self, step: Run) -> int:
        try:
            return await self._exec(step.argv, step.state, step.timeout_s)
        except HostNotResponding:
            raise
        except DeadlineExceeded as error:
            raise StepFailed(f"It took longer than {step.timeout_s:g} s and was killed.") from error

    async def _exec(self, argv: tuple[str, ...], state: State, timeout_s: float) -> int:
        start = StartProcess(
            cmd=argv[0],
            args=argv[1:],
            envs=state.environment,
            cwd=state.workdir,
            user=state.user,
            timeout_ms=round(timeout_s * 1000),
        )
        try:
            end = await self.host.exec(self.sandbox_id, start, self.log.output)
        except NotFound as error:
            raise StepFailed(error.message) from error
        if end.exit_code != 0:
            raise StepFailed(f"It ended with exit code {end.exit_code}.", exit_code=end.exit_code)
        return end.exit_code

    async def _as_root(self, command: str, what: str) -> None:
        try:
            await self._exec((_SHELL, "-c", command), State(), _SHORT_TIMEOUT_S)
        except StepFailed as error:
            raise StepFailed(f"It could not {what}. {error.message}") from error

    async def _make_directory(self, step: Workdir) -> None:
        """Create a directory and its parents, for the current user wherever they are; those that exist are not changed."""
        try:
            there, missing = PurePosixPath(step.path), list[str]()
            while there.name and not await self.place.is_directory(str(there)):
                missing.append(there.name)
                there = there.parent
            if missing:
                # Not with a program, which the image need not have.
                query = {"path": str(there), "user": "root", "owner": step.state.user}
                pieces = iter([archive_of_directory("/".join(reversed(missing)))])
                await self.host.transfers.write(self.sandbox_id, "files/tar", query, _in_thread(pieces))
        except (Conflict, InvalidRequest) as error:
            raise StepFailed(f"It could not create {step.path}. {error.message}") from error

    async def _user(self, step: User) -> None:
        if not step.create:
            try:
                # As this user: the guest finds it, without a program that the image need not have.
                await self.host.stat(self.sandbox_id, "/", user=step.name, timeout_s=_SHORT_TIMEOUT_S)
            except InvalidRequest as error:
                raise StepFailed(f"It could not find the user {step.name}. {error.message}") from error
            return
        name = shlex.quote(step.name.partition(":")[0])
        await self._as_root(
            f"id -- {name} >/dev/null 2>&1 || {{ useradd --create-home --shell /bin/bash -- {name} && "
            f"mkdir -p /etc/sudoers.d && echo {name} 'ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/{name} && "
            f"chmod 0440 /etc/sudoers.d/{name}; }}",
            f"create the user {step.name}",
        )

    async def _copy(self, step: Copy) -> None:
        if step.stage is not None:
            await self._copy_of_stage(step, step.stage)
            return
        selection = await asyncio.to_thread(self.context.select, step)
        is_directory = step.into_directory or await self.place.is_directory(step.destination)
        query = {
            "path": selection.directory(destination_is_directory=is_directory),
            "user": "root",
            # Otherwise files would belong to the owner of the home or of the file that they replace.
            "owner": step.owner or _ROOT,
        }
        pieces = selection.chunks(destination_is_directory=is_directory)
        await self.host.transfers.write(self.sandbox_id, "files/tar", query, _in_thread(pieces))

    async def _copy_of_stage(self, step: Copy, stage: int) -> None:
        source = await self.stage(stage)
        try:
            await copy_between(step, source, self.place)
        except InvalidRequest as error:
            raise StepFailed(error.message) from error

    async def _start(self, step: Start) -> None:
        # Not through a shell, which the image need not have.
        state = step.state
        command = Command(step.argv[0], step.argv[1:], state.environment, state.workdir, state.user)
        try:
            pid, _ = await self.host.start_process(
                self.sandbox_id, command, tag=f"start-{random_hex(4)}", timeout_s=_SHORT_TIMEOUT_S
            )
        except NotFound as error:
            raise StepFailed(error.message) from error
        await asyncio.sleep(_START_S)
        running = await self.host.list_processes(self.sandbox_id, timeout_s=_SHORT_TIMEOUT_S)
        if pid not in {process.pid for process in running}:
            self.log.note("The program that was started has ended already. What it started itself may go on.")

    async def settle(self) -> None:
        """Write everything to the disk and return free blocks, which then take nothing in the image.

        Raises:
            StepFailed: the guest could not.
        """
        try:
            await self.host.settle_disk(self.sandbox_id, timeout_s=_SETTLE_TIMEOUT_S)
        except AgentFailure:
            # The host, or the guest agent in a base with memory, is of a version that cannot.
            await self._as_root("sync; fstrim / 2>/dev/null; sync", "write its disk")

    async def wait_ready(self, check: ReadyCheck, state: State) -> None:
        """Run the check at its interval until it succeeds.

        Raises:
            StepFailed: it failed as often as is allowed, or for too long.
        """
        begun = time.monotonic()
        limit_s = min(check.limit_s or _READY_LIMIT_S, _READY_LIMIT_S)
        failures = 0
        while True:
            await asyncio.sleep(check.interval_s)
            try:
                await self._exec(check.argv, state, check.timeout_s)
            except HostNotResponding:
                raise
            except (StepFailed, DeadlineExceeded):
                waited_s = time.monotonic() - begun
                failures += waited_s > check.start_period_s
                if (check.retries and failures >= check.retries) or waited_s >= limit_s:
                    raise StepFailed(
                        f"It was not ready after {waited_s:.0f} s and {failures} attempts."
                    ) from None
                continue
            return


async def _in_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Read pieces that come from a file without holding up the event loop."""
    while True:
        piece = await asyncio.to_thread(next, pieces, None)
        if piece is None:
            return
        yield piece
