"""The entry of one sandbox in this host's registry: its record, its VM, and the work that is under way on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from wrenn.agent.sandboxes.journal import Record, SandboxSpec, State
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.agent.sandboxes.transfers import Transfer
from wrenn.base.errors import InvalidState, StaleGeneration, WrennError
from wrenn.base.ids import SandboxId
from wrenn.base.steps import StepLog, recording

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Entry:
    """A sandbox of this host.

    Attributes:
        starting: its bring-up or resume, while it is under way.
        transfer: its upload, or the fetch that it is adopted with, while that is under way.
        merging: the merge of its disk's layers, while it is under way.
        removing: its removal, while it is under way.
        steps: those of its last create, pause or resume, as far as it is done; empty: of an agent before this one.
        lock: held by the operation that changes it.
        lock_holder: that operation, if a removal may cancel it.
        durable_lock: held while its durable journal is written; never while waiting for `lock`.
    """

    record: Record
    running: RunningSandbox | None = None
    starting: asyncio.Task[None] | None = None
    transfer: Transfer | None = None
    merging: asyncio.Task[object] | None = None
    removing: asyncio.Task[None] | None = None
    lock_holder: asyncio.Task[Any] | None = None
    steps: StepLog = field(default_factory=lambda: StepLog(""))
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    durable_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def sandbox_id(self) -> SandboxId:
        """The sandbox's id."""
        return self.record.spec.sandbox_id

    @asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Hold the lock for an operation that a removal may cancel.

        Raises:
            InvalidState: the sandbox is being removed.
        """
        async with self.lock:
            if self.removing is not None:
                raise self.being_removed()
            self.lock_holder = asyncio.current_task()
            try:
                yield
            finally:
                self.lock_holder = None

    @contextmanager
    def recording(self, operation: str) -> Generator[None]:
        """Record the steps of an operation that begins."""
        self.steps = StepLog(operation)
        with recording(self.steps):
            yield

    def cancel_operation(self) -> None:
        """Cancel the operation that holds the lock, if there is one."""
        if self.lock_holder is not None:
            self.lock_holder.cancel()

    def not_running(self) -> InvalidState:
        """Return the error of an operation that the sandbox's state does not allow."""
        return InvalidState(f"Sandbox {self.sandbox_id} is {self.record.state}.")

    def being_removed(self) -> InvalidState:
        """Return the error of an operation on a sandbox that is being removed."""
        return InvalidState(f"Sandbox {self.sandbox_id} is being removed.")

    def is_older_than(self, spec: SandboxSpec) -> bool:
        """Whether this host has an older generation of the sandbox."""
        return 0 < self.record.spec.generation < spec.generation

    def require_generation(self, generation: int) -> None:
        """Check that a call is for the copy of the sandbox that this host has. 0, here or there, is not known and accepted.

        Raises:
            StaleGeneration: it is for another one.
        """
        own = self.record.spec.generation
        if own and generation and generation != own:
            raise StaleGeneration(
                f"Sandbox {self.sandbox_id} has generation {own} on this host; the call is for generation {generation}."
            )

    def require_running(self) -> RunningSandbox:
        """Return its VM.

        Raises:
            InvalidState: it does not run.
        """
        if self.running is None or self.record.state is not State.RUNNING:
            raise self.not_running()
        return self.running

    @contextmanager
    def logging_failure(self, event: str) -> Generator[None]:
        """Log `event` with the error that leaves the block. All callers may be gone by then, so the log must have it."""
        try:
            yield
        except Exception as error:
            context = error.context if isinstance(error, WrennError) else {}
            _log.warning(event, extra={"sandbox_id": str(self.sandbox_id), **context}, exc_info=error)
            raise
