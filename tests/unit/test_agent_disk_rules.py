"""The watch of the host's disk cannot be outrun, and holds who takes too much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wrenn.agent.sandboxes.disk_rules import (
    FASTEST_B_PER_S,
    MIN_CHECK_INTERVAL_S,
    DiskLimits,
    next_check_s,
    reason_to_suspend,
)
from wrenn.agent.sandboxes.journal import Record, SandboxSpec, State
from wrenn.base.errors import NoCapacity
from wrenn.base.ids import SandboxId
from wrenn.base.units import GIB, MIB
from wrenn.vm import Shape

LIMITS = DiskLimits(reserve_b=1 * GIB, sandbox_b=8 * GIB)


def reason(
    *, free_b: int, used_b: int = 0, grown_b: int = 0, before: bool = False, waits: bool = False
) -> str:
    return reason_to_suspend(
        free_b=free_b,
        used_b=used_b,
        share_b=8 * GIB,
        grown_b=grown_b,
        limits=LIMITS,
        suspended=before,
        waits=waits,
    )


@pytest.mark.parametrize("free_b", [100 * GIB, 8 * GIB, 2 * GIB, 1 * GIB, 700 * MIB, 600 * MIB])
def test_the_fastest_disk_cannot_write_the_reserve_between_two_looks(free_b: int) -> None:
    """Each look finds writers above the floor of half the reserve, whatever was written since the one before."""
    written_b = next_check_s(free_b, LIMITS.reserve_b) * FASTEST_B_PER_S
    floor_b = LIMITS.reserve_b // 2
    assert written_b <= max((free_b - floor_b) / 2, MIN_CHECK_INTERVAL_S * FASTEST_B_PER_S)
    assert free_b - written_b > LIMITS.reserve_b // 4


def test_a_sandbox_that_writes_below_the_reserve_is_suspended_and_one_that_hardly_writes_is_not() -> None:
    assert not reason(free_b=2 * GIB, grown_b=GIB)
    assert not reason(free_b=900 * MIB, grown_b=1 * MIB)
    assert "host is full" in reason(free_b=900 * MIB, grown_b=5 * MIB)
    assert "host is full" in reason(free_b=200 * MIB, grown_b=1)


def test_a_suspended_sandbox_continues_only_when_there_is_clearly_space() -> None:
    assert reason(free_b=1 * GIB, before=True)
    assert not reason(free_b=1 * GIB + 129 * MIB, before=True)


def test_a_sandbox_whose_writes_wait_is_suspended_however_little_it_has_grown() -> None:
    assert "host is full" in reason(free_b=2 * GIB, waits=True)
    assert "8192 MB" in reason(free_b=2 * GIB, used_b=9 * GIB, waits=True)


def test_a_share_that_is_used_up_holds_however_much_is_free() -> None:
    assert "8192 MB" in reason(free_b=500 * GIB, used_b=8 * GIB + 1)
    assert not reason(free_b=500 * GIB, used_b=8 * GIB)
    unlimited = DiskLimits(reserve_b=GIB, sandbox_b=0)
    share_b = unlimited.share_b(record(5120))
    assert not reason_to_suspend(
        free_b=5 * GIB, used_b=900 * GIB, share_b=share_b, grown_b=0, limits=unlimited, suspended=False
    )


def record(disk_mb: int) -> Record:
    spec = SandboxSpec(SandboxId.new(), "team", "minimal", Shape(1, 512), disk_mb=disk_mb)
    return Record(spec, State.PAUSED)


def test_a_larger_disk_has_a_larger_share() -> None:
    assert LIMITS.share_b(record(5120)) == 8 * GIB
    assert LIMITS.share_b(record(10 * 1024)) == 13 * GIB
    grown = replace(record(5120), disk_mb=7 * 1024)
    assert LIMITS.share_b(grown) == 10 * GIB


def test_a_sandbox_is_admitted_while_all_shares_fit_the_disk_as_often_as_it_may_be_promised() -> None:
    twice = DiskLimits(reserve_b=GIB, sandbox_b=8 * GIB, overcommit=2.0)
    new = record(5120).spec
    others = [record(5120), record(5120), record(10 * 1024)]  # 8 + 8 + 13 GiB
    twice.require_capacity(new, others, disk_b=19 * GIB)
    with pytest.raises(NoCapacity, match="disk is promised"):
        twice.require_capacity(new, others, disk_b=18 * GIB)
    with pytest.raises(NoCapacity):
        twice.require_capacity(record(8 * 1024).spec, others, disk_b=19 * GIB)
    LIMITS.require_capacity(new, others, disk_b=1)  # no limit
    without_shares = DiskLimits(reserve_b=GIB, sandbox_b=0, overcommit=1.0)
    without_shares.require_capacity(new, others, disk_b=25 * GIB)  # 5 + 5 + 10 + 5 GiB
    with pytest.raises(NoCapacity):
        without_shares.require_capacity(new, others, disk_b=24 * GIB)
