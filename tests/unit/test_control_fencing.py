"""Which copies of a sandbox give way, by generation."""

from __future__ import annotations

from typing import Any, cast

import pytest

from wrenn.base.ids import SandboxId
from wrenn.control.hosts import HostSandbox, HostSandboxState
from wrenn.control.sandboxes.reconcile.fencing import OtherRow, fence, must_give_way, removable_generation
from wrenn.control.sandboxes.records import Sandbox

SANDBOX = SandboxId.new()


class Row:
    """As far as it is looked at."""

    def __init__(self, generation: int) -> None:
        self.generation = generation


def seen_with(generation: int) -> HostSandbox:
    return HostSandbox(SANDBOX, HostSandboxState.RUNNING, "", "", 0.0, {}, 0, generation=generation)


@pytest.mark.parametrize(
    ("on_host", "row", "has_row", "is_seen", "is_outdated"),
    [
        (1, 1, True, True, False),
        (0, 7, True, True, False),  # not known
        (6, 7, True, False, True),
        (8, 7, False, False, False),  # the row was read too early
    ],
)
def test_copies_of_a_hosts_own_rows(
    on_host: int, row: int, *, has_row: bool, is_seen: bool, is_outdated: bool
):
    rows: Any = {SANDBOX: cast("Sandbox", Row(row))}
    fenced = fence(rows, {SANDBOX: seen_with(on_host)})
    found = (SANDBOX in fenced.rows, SANDBOX in fenced.seen, SANDBOX in fenced.outdated)
    assert found == (has_row, is_seen, is_outdated)


def test_what_has_no_row_here_is_seen_and_a_row_without_copy_stays():
    other = SandboxId.new()
    rows: Any = {other: cast("Sandbox", Row(3))}
    fenced = fence(rows, {SANDBOX: seen_with(5)})
    assert (list(fenced.rows), list(fenced.seen), list(fenced.outdated)) == ([other], [SANDBOX], [])


@pytest.mark.parametrize(
    ("on_host", "row", "gives_way", "removable"),
    [
        (3, None, True, 0),
        (3, OtherRow(has_ended=True, is_here=False, generation=1), True, 0),
        (3, OtherRow(has_ended=True, is_here=True, generation=3, is_damaged=True), False, None),  # damaged
        (3, OtherRow(has_ended=False, is_here=True, generation=3), False, None),  # begun since
        (2, OtherRow(has_ended=False, is_here=False, generation=3), True, 2),
        (3, OtherRow(has_ended=False, is_here=False, generation=3), True, 3),
        (0, OtherRow(has_ended=False, is_here=False, generation=3), True, 3),
        (4, OtherRow(has_ended=False, is_here=False, generation=3), False, None),  # the newer one
        (
            4,
            OtherRow(has_ended=False, is_here=False, generation=3, move_generation=4),
            True,
            4,
        ),  # of a move that was taken back
        (
            4,
            OtherRow(has_ended=False, is_here=False, generation=3, is_moving_here=True, move_generation=4),
            False,
            None,
        ),
        (5, OtherRow(has_ended=False, is_here=False, generation=3, move_generation=4), False, None),
        (
            2,
            OtherRow(has_ended=False, is_here=False, generation=3, move_generation=3),
            True,
            2,
        ),  # where it was before
    ],
)
def test_copies_whose_row_is_elsewhere(
    on_host: int, row: OtherRow | None, *, gives_way: bool, removable: int | None
):
    seen = seen_with(on_host)
    assert must_give_way(seen, row) is gives_way
    if removable is not None:
        assert removable_generation(seen, row) == removable
