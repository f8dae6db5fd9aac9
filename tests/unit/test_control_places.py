"""Neither removals nor starts wait behind calls to hosts that hang: each kind has places of its own."""

from __future__ import annotations

import pytest

from wrenn.control.sandboxes.reconcile.reconciler import free_slots
from wrenn.control.sandboxes.reconcile.work_store import WorkSlots


@pytest.mark.parametrize(
    ("removals", "others", "free"),
    [
        (0, 0, WorkSlots(64, removals=True, others=True)),
        (0, 63, WorkSlots(1, removals=True, others=True)),
        (0, 64, WorkSlots(64, removals=True, others=False)),
        (63, 64, WorkSlots(1, removals=True, others=False)),
        (64, 0, WorkSlots(64, removals=False, others=True)),
        (64, 63, WorkSlots(1, removals=False, others=True)),
        (64, 64, WorkSlots(0, removals=False, others=False)),
    ],
)
def test_calls_of_one_kind_that_hang_leave_the_places_of_the_other(
    removals: int, others: int, free: WorkSlots
) -> None:
    assert free_slots(removals=removals, others=others) == free
