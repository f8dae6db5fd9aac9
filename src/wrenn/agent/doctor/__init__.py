"""`wrenn doctor`: checks that this machine can run sandboxes, and lists resources of ours that nothing owns.

`machine.py` checks the machine, `stored_files.py` the files of snapshots; `owners.py` determines what is owned, `leftovers.py` lists
and removes the rest, `vanished.py` that of deleted installations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from wrenn.agent.doctor.check_result import Check, Severity
from wrenn.agent.doctor.leftovers import Leftover, find_leftovers, remove_leftovers
from wrenn.agent.doctor.machine import check_machine
from wrenn.agent.doctor.owners import find_owners
from wrenn.agent.doctor.stored_files import check_stored_files
from wrenn.agent.doctor.vanished import find_vanished, remove_vanished
from wrenn.agent.layout import Layout
from wrenn.agent.settings import Settings
from wrenn.network import find_block

__all__ = ["Check", "Leftover", "Report", "Severity", "examine", "fix"]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an examination. The machine is healthy when no check failed and there are no leftovers.

    Attributes:
        leftovers: what belongs to this installation and has no owner.
        vanished: what other installations left whose data folder is gone; says nothing about this one.
    """

    checks: list[Check]
    leftovers: list[Leftover]
    vanished: list[Leftover]

    @property
    def healthy(self) -> bool:
        """Whether `wrenn doctor` exits with 0."""
        return not self.leftovers and not any(check.failed for check in self.checks)


async def examine(settings: Settings) -> Report:
    """Check the machine and list every leftover of this installation. Changes nothing."""
    checks = await check_machine(settings)
    vanished = await find_vanished()
    block = find_block(settings.data_dir)
    if block is None:
        # Never started since the machine's boot: there is nothing of its own that could be left over.
        return Report(checks, [], vanished)
    layout = Layout(settings.data_dir, block)
    leftovers, owners = await find_leftovers(layout, partial(find_owners, layout))
    return Report([*checks, check_stored_files(owners.stored), owners.check], leftovers, vanished)


async def fix(settings: Settings) -> Report:
    """Remove leftovers of this and of vanished installations, then examine the machine again."""
    if (block := find_block(settings.data_dir)) is not None:
        layout = Layout(settings.data_dir, block)
        await remove_leftovers(layout, partial(find_owners, layout))
    await remove_vanished()
    return await examine(settings)
