"""Transfers that never end hold up nothing else (`control/hosts/upload_slots.py`, `finish_transfer.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from wrenn.base.errors import DeadlineExceeded
from wrenn.base.ids import HostId, TeamId
from wrenn.control.hosts import HostTransfer, HostTransferState, UploadSlots, finish_transfer
from wrenn.testing import virtual_time
from wrenn.testing.virtual_time import VirtualClock, VirtualTimeLoop

RUNNING, DONE = HostTransferState.RUNNING, HostTransferState.DONE


def test_a_host_whose_uploads_never_end_holds_up_only_its_own() -> None:
    async def main() -> None:
        slots: UploadSlots[int] = UploadSlots(VirtualClock())
        endless, other, team = HostId.new(), HostId.new(), TeamId.new()
        assert [slots.take(key, endless, team) for key in range(4)] == [True, True, False, False]
        assert slots.busy_hosts() == {endless}
        assert slots.take(10, other, team)
        assert not slots.take(10, other, team), "it is under way"
        assert slots.not_now() == {0, 1, 10}
        slots.release(0)
        assert slots.take(2, endless, team)

    virtual_time.run(main, lambda: VirtualTimeLoop(lambda: 0.0))


def test_the_uploads_of_all_hosts_are_bounded_and_one_that_failed_waits_a_minute() -> None:
    async def main() -> None:
        slots: UploadSlots[int] = UploadSlots(VirtualClock())
        taken = [key for key in range(100) if slots.take(key, HostId.new(), TeamId.new())]
        assert len(taken) == 64
        assert slots.free == 0
        slots.note_failure(0)
        slots.release(0)
        assert slots.free == 1
        assert 0 in slots.not_now()
        await asyncio.sleep(61)
        assert 0 not in slots.not_now()

    virtual_time.run(main, lambda: VirtualTimeLoop(lambda: 0.0))


def test_uploads_of_one_team_leave_slots_for_the_others_whatever_hosts_they_are_on() -> None:
    async def main() -> None:
        slots: UploadSlots[int] = UploadSlots(VirtualClock())
        greedy, other = TeamId.new(), TeamId.new()
        taken = [key for key in range(100) if slots.take(key, HostId.new(), greedy)]
        assert len(taken) == 21, "half as many as are free then"
        assert slots.busy_teams() == {greedy}
        assert slots.take(100, HostId.new(), other)
        assert slots.take(101, HostId.new(), None)

    virtual_time.run(main, lambda: VirtualTimeLoop(lambda: 0.0))


def test_a_transfer_that_gets_no_further_is_given_up_and_a_slow_one_is_not() -> None:
    async def finish(answers: Iterator[HostTransfer]) -> float:
        async def call() -> HostTransfer:
            await asyncio.sleep(20)
            return next(answers)

        async def before_call() -> None:
            pass

        begun = asyncio.get_running_loop().time()
        await finish_transfer(call, before_call=before_call, retry_s=60)
        return asyncio.get_running_loop().time() - begun

    def slow() -> Iterator[HostTransfer]:
        for done_b in range(20):
            for _ in range(40):
                yield HostTransfer(RUNNING, done_b=done_b)
        yield HostTransfer(DONE)

    def stalled() -> Iterator[HostTransfer]:
        yield HostTransfer(RUNNING, done_b=5)
        while True:
            # Less than it was is no progress either, and neither is the same again.
            yield HostTransfer(RUNNING, done_b=3)
            yield HostTransfer(RUNNING, done_b=5)

    async def main() -> None:
        assert await finish(slow()) > 15_000
        begun = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded, match="no further"):
            await finish(stalled())
        assert asyncio.get_running_loop().time() - begun < 1000

    virtual_time.run(main, lambda: VirtualTimeLoop(lambda: 0.0))
