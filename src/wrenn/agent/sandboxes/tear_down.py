"""Removes a sandbox: journal, VMM, connections, cgroup, network, then files, of which the journal is last.

Nothing waits for the guest or its clients: the VMM is killed before connections are closed.

Its layers and snapshots are removed by the garbage collector, unless other sandboxes reference them.

Every step is idempotent: the same code serves a removal, a retry, and recovery after the agent was killed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from wrenn.agent.confinement import Confiner
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import journal
from wrenn.agent.sandboxes.journal import Record, State
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.base.errors import StorageFull
from wrenn.base.faults import fault_point
from wrenn.linux.files import remove_tree
from wrenn.linux.threads import run_to_end
from wrenn.network import SlotPool
from wrenn.vm import Driver


@dataclass(frozen=True, slots=True)
class TearDown:
    """Removes sandboxes."""

    layout: Layout
    driver: Driver
    slots: SlotPool
    confiner: Confiner

    async def run(self, record: Record, running: RunningSandbox | None) -> None:
        """Remove all resources that `record` names. Idempotent: may be repeated after a failure at any step."""
        directory = self.layout.sandbox(record.spec.sandbox_id)
        if directory.exists():
            with suppress(StorageFull):  # removing is what a full disk needs most
                journal.save(directory, replace(record, state=State.REMOVING))
        await fault_point("agent.delete.after_journal")
        # The VMM must be gone before its disk and its network are: it would write into what is freed.
        if running is not None:
            running.being_removed = True
            reason = f"Sandbox {record.spec.sandbox_id} is being removed. The call was cut off."
            running.cut_off(reason)
            await running.vm.kill()
            await running.disconnect(reason)
        elif record.process is not None:
            await self.driver.kill(record.process, directory)
        await self.confiner.release(str(record.spec.sandbox_id))
        await self.driver.clean(directory)
        await fault_point("agent.delete.after_kill")
        if record.slot is not None:
            await self.slots.release(record.slot, str(record.spec.sandbox_id))
        await fault_point("agent.delete.after_network")
        # Not in the loop's own threads, which may all be flushing snapshots of others.
        await run_to_end(partial(remove_tree, directory))
