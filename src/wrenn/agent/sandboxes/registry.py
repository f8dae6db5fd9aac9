"""The sandboxes of this host, and the verbs on them as a whole: ensure, remove, list.

Each sandbox has one entry with one lock; a verb that changes it holds the lock. The work of bringing one up is a task of
its own: a caller that goes away does not stop it, and all callers for one id wait for the same work.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

from wrenn.agent.sandboxes import journal
from wrenn.agent.sandboxes.bring_up import BringUp
from wrenn.agent.sandboxes.journal import Record, SandboxSpec, State
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.agent.sandboxes.tear_down import TearDown
from wrenn.base.errors import Conflict, InvalidState, NotFound, StorageFull, WrennError
from wrenn.base.ids import SandboxId
from wrenn.base.tasks import OwnedTasks
from wrenn.linux.disk_space import free_b

_log = logging.getLogger(__name__)

_STALL_CHECK_S: Final = 2.0
_LOOK_TIMEOUT_S: Final = 2.0


@dataclass(slots=True, eq=False)
class _Entry:
    record: Record
    running: RunningSandbox | None = None
    bringing_up: asyncio.Task[None] | None = None
    watcher: asyncio.Task[object] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sandboxes:
    """See the module head."""

    def __init__(self, *, bring_up: BringUp, tear_down: TearDown, disk_reserve_b: int) -> None:
        self._bring_up = bring_up
        self._tear_down = tear_down
        self._disk_reserve_b = disk_reserve_b
        self._entries: dict[SandboxId, _Entry] = {}
        self._tasks = OwnedTasks()

    def start(self) -> None:
        """Begin to look after VMs."""
        self._tasks.start("look after VMs", self._look_after_all())

    async def close(self) -> None:
        """Let go of all sandboxes without disturbing them; what is being brought up is taken back."""
        bringing_up = [e.bringing_up for e in self._entries.values() if e.bringing_up is not None]
        for task in bringing_up:
            task.cancel()
        if bringing_up:
            await asyncio.wait(bringing_up)
        await self._tasks.close()
        for entry in list(self._entries.values()):
            if entry.running is not None:
                entry.running.vm.disconnect()
                await entry.running.guest.close()

    async def ensure(self, spec: SandboxSpec) -> Record:
        """Bring the sandbox up unless it is; returns when it runs.

        Raises:
            Conflict: it exists with another spec. InvalidState: it is being removed, or its VM has ended.
            StorageFull: the disk is below its reserve. As `BringUp.run` besides.
        """
        entry = self._entries.get(spec.sandbox_id)
        if entry is None:
            if free_b(self._bring_up.layout.data_dir) < self._disk_reserve_b:
                raise StorageFull(
                    "The disk of the host is full: no sandbox can be created until space is freed."
                )
            entry = _Entry(Record(spec, State.STARTING))
            self._entries[spec.sandbox_id] = entry
            entry.bringing_up = asyncio.create_task(
                self._run_bring_up(entry), name=f"bring up {spec.sandbox_id}"
            )
            entry.bringing_up.add_done_callback(_seen)
        if entry.record.spec != spec:
            raise Conflict(f"Sandbox {spec.sandbox_id} exists with other settings.")
        if (work := entry.bringing_up) is not None:
            await _finished(work, spec.sandbox_id)
        if entry.record.state is not State.RUNNING:
            raise InvalidState(f"Sandbox {spec.sandbox_id} is {entry.record.state}.")
        return entry.record

    async def _run_bring_up(self, entry: _Entry) -> None:
        sandbox_id = entry.record.spec.sandbox_id
        try:
            entry.record, entry.running = await self._bring_up.run(entry.record.spec)
        except BaseException as error:
            self._entries.pop(sandbox_id, None)
            if isinstance(error, WrennError):
                _log.warning(
                    "sandbox did not start",
                    extra={"sandbox_id": str(sandbox_id), **error.context},
                    exc_info=error,
                )
            raise
        finally:
            entry.bringing_up = None
        self._watch(entry)

    def adopt(self, record: Record, running: RunningSandbox | None) -> None:
        """Take over a sandbox of a former agent; without `running` its VM has ended."""
        entry = _Entry(record, running)
        self._entries[record.spec.sandbox_id] = entry
        if running is not None:
            self._watch(entry)

    def _watch(self, entry: _Entry) -> None:
        sandbox_id = entry.record.spec.sandbox_id
        entry.watcher = self._tasks.start(f"watch {sandbox_id}", self._wait_end(entry))

    async def _wait_end(self, entry: _Entry) -> None:
        assert entry.running is not None, "only a running sandbox is watched"
        await entry.running.vm.wait_exit()
        async with entry.lock:
            if entry.record.state is not State.RUNNING:
                return
            reason = "The virtual machine ended by itself or was killed."
            entry.record = entry.record.moved(State.LOST, reason=reason)
            sandbox_id = entry.record.spec.sandbox_id
            _log.warning(
                "sandbox lost", extra={"sandbox_id": str(sandbox_id), "vmm_log": entry.running.vm.log_tail()}
            )
            journal.save(self._bring_up.layout.sandbox(sandbox_id), entry.record)
            await entry.running.guest.close()
            entry.running = None

    async def remove(self, sandbox_id: SandboxId) -> None:
        """Take the sandbox down with all that belongs to it. An unknown one is fine; a bring-up is taken back."""
        entry = self._entries.get(sandbox_id)
        if entry is None:
            return
        if (task := entry.bringing_up) is not None:
            task.cancel()
            await asyncio.wait({task})
        async with entry.lock:
            if self._entries.get(sandbox_id) is not entry:
                return  # the bring-up was taken back, or another call removed it
            if entry.record.state is not State.REMOVING:
                entry.record = entry.record.moved(State.REMOVING)
            if entry.watcher is not None:
                entry.watcher.cancel()
            await self._tear_down.run(entry.record, entry.running)
            del self._entries[sandbox_id]

    def get(self, sandbox_id: SandboxId) -> RunningSandbox:
        """The running sandbox.

        Raises:
            NotFound: unknown. InvalidState: not running.
        """
        entry = self._entries.get(sandbox_id)
        if entry is None:
            raise NotFound(f"Sandbox {sandbox_id} is not on this host.")
        if entry.running is None or entry.record.state is not State.RUNNING:
            raise InvalidState(f"Sandbox {sandbox_id} is {entry.record.state}.")
        entry.running.touch(self._bring_up.clock)
        return entry.running

    def list(self) -> list[tuple[Record, RunningSandbox | None]]:
        """All sandboxes this agent knows."""
        return [(entry.record, entry.running) for entry in self._entries.values()]

    async def _look_after_all(self) -> None:
        """A VM that stopped because the disk was full goes on once there is room."""
        while True:
            await asyncio.sleep(_STALL_CHECK_S)
            if free_b(self._bring_up.layout.data_dir) < self._disk_reserve_b // 2:
                continue
            await asyncio.gather(*(self._look_after(*entry) for entry in self.list()))

    async def _look_after(self, record: Record, running: RunningSandbox | None) -> None:
        if running is None:
            return
        fields: dict[str, object] = {"sandbox_id": str(record.spec.sandbox_id)}
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT_S):
                if await running.vm.look_after():
                    _log.warning("sandbox went on after a full disk", extra=fields)
        except Exception as error:  # noqa: BLE001 - one VMM that misbehaves must not end the care for the others
            _log.info("VMM does not answer", extra={**fields, "reason": repr(error)})


def _seen(task: asyncio.Task[None]) -> None:
    """All callers may be gone when the work fails; it was logged."""
    if not task.cancelled():
        task.exception()


async def _finished(work: asyncio.Task[None], sandbox_id: SandboxId) -> None:
    """Wait for a bring-up that others wait for too; its cancellation is not ours."""
    await asyncio.wait({work})
    if work.cancelled():
        raise InvalidState(f"Sandbox {sandbox_id} was removed while it started.")
    work.result()
