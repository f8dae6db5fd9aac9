"""A delete does not wait behind calls to hosts that hang: removals have places of their own."""

from __future__ import annotations

import pytest

from wrenn.control.sandboxes.reconciler import places


@pytest.mark.parametrize(
    ("removals", "others", "limit", "only_removals"),
    [
        (0, 0, 64, False),
        (0, 63, 1, False),
        (0, 64, 64, True),
        (63, 64, 1, True),
        (64, 64, 0, True),
        (127, 0, 1, False),
        (128, 0, 0, False),
    ],
)
def test_starts_that_hang_leave_places_for_removals(
    removals: int, others: int, limit: int, *, only_removals: bool
) -> None:
    assert places(removals=removals, others=others) == (limit, only_removals)
