"""Changes the egress policy of a sandbox: first the firewall, then the journal."""

from __future__ import annotations

from dataclasses import dataclass, replace

from wrenn.agent.sandboxes.journal import NetworkSettings, Record, State
from wrenn.agent.sandboxes.launch import Save
from wrenn.base.errors import InvalidState
from wrenn.network import SlotPool


@dataclass(frozen=True, slots=True)
class SetNetwork:
    """Changes network settings of sandboxes."""

    slots: SlotPool

    async def run(self, record: Record, network: NetworkSettings, save: Save) -> Record:
        """Apply the network settings and save them; for a paused sandbox they apply from its next resume.

        Settings that are not newer change nothing. After a failure or a crash the firewall may be ahead of the journal;
        the revision then shows the control plane that the change is to be made again.

        Raises:
            InvalidState: it has ended. KernelError, CommandError: the firewall refused. StorageFull.
        """
        if network.revision <= record.network.revision:
            return record
        if record.state not in (State.RUNNING, State.PAUSED):
            raise InvalidState(f"Sandbox {record.spec.sandbox_id} is {record.state}.")
        if record.state is State.RUNNING:
            assert record.slot is not None, "a running sandbox has a slot"
            await self.slots.set_egress(record.slot, network.policy)
        changed = replace(record, network=network)
        save(changed)
        return changed
