"""Writes that the target of a move has the sandbox, if it has room."""

from __future__ import annotations

from wrenn.base.errors import NoCapacity, NotFound, Unavailable
from wrenn.base.faults import fault_point
from wrenn.control.db import Hints, Transaction
from wrenn.control.placement import Wanted
from wrenn.control.sandboxes.operations.capacity import Capacity
from wrenn.control.sandboxes.reconcile import work_store
from wrenn.control.sandboxes.records import Work


class CommittingMoves:
    """Commits moves. `owner` names this replica's leases."""

    def __init__(self, *, capacity: Capacity, hints: Hints, owner: str) -> None:
        self._capacity = capacity
        self._hints = hints
        self._owner = owner

    async def commit_move(self, work: Work, generation: int) -> bool:
        """Make the target the host of a leased sandbox, whose copy there has this generation; False: the lease is lost.

        Raises:
            NoCapacity, NotFound, Unavailable: the target has no room any more, or is not used for new sandboxes now.
        """
        assert work.move_to is not None, "it is being moved"
        target = work.move_to.host_id
        wanted = moved(
            image=work.origin.image,
            vcpus=work.spec.vcpus,
            memory_mb=work.spec.memory_mb,
            disk_size_mb=work.spec.disk_size_mb,
            resumes=work.move_resumes,
        )

        async def commit(tx: Transaction) -> bool:
            admission = await self._capacity.lock_and_read(tx, work.team_id)
            try:
                await admission.choose_among(wanted, [target])
            except (NoCapacity, NotFound, Unavailable) as error:
                raise type(error)(
                    f"The host that it was to be moved to cannot take it now. {error.message}"
                ) from error
            was_written = await work_store.finish_moved(tx, self._hints, work, generation, owner=self._owner)
            await fault_point("control.move.before_commit")
            return was_written

        return await self._capacity.transaction(commit)


def moved(*, image: str, vcpus: int, memory_mb: int, disk_size_mb: int, resumes: bool) -> Wanted:
    """Return what is to be placed for a sandbox that is moved: one that stays paused needs no memory and no processors."""
    return Wanted(
        image,
        vcpus if resumes else 0,
        memory_mb if resumes else 0,
        disk_size_mb,
        # All that it needs is brought along.
        is_obtainable=True,
    )
