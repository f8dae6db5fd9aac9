"""Work that is done for every host in rounds (`control/hosts/rounds.py`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from wrenn.base.ids import HostId
from wrenn.control.hosts import FirstMet, Host, HostRounds, HostStatus


def host(name: str) -> Host:
    return Host(
        host_id=HostId.new(),
        name=name,
        address="https://127.0.0.1:1",
        status=HostStatus.ONLINE,
        cpu_cores=0,
        memory_b=0,
        disk_b=0,
        disk_available_b=0,
        sandbox_disk_b=0,
        sandbox_limit=0,
        templates=frozenset(),
        silent_s=0.0,
        is_reachable=True,
    )


SLOW, FAST = host("slow"), host("fast")


class Visits:
    """Work that stands still at the slow host until it is released."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.released = asyncio.Event()

    async def work(self, at: Host) -> None:
        self.begun.append(at.name)
        if at is SLOW:
            await self.released.wait()
        self.ended.append(at.name)


@pytest.fixture
async def rounds() -> AsyncIterator[HostRounds]:
    made = HostRounds("visit", round_wait_s=0.05)
    yield made
    await made.close()


async def test_a_slow_host_is_left_out_of_later_rounds_until_it_is_done(rounds: HostRounds) -> None:
    visits = Visits()
    await rounds.run([SLOW, FAST], visits.work)
    assert visits.ended == ["fast"]
    began = asyncio.get_running_loop().time()
    for _ in range(20):
        await rounds.run([SLOW, FAST], visits.work)
    assert asyncio.get_running_loop().time() - began < 0.05 * 10, "no round waited for it"
    assert (visits.begun.count("slow"), visits.ended.count("fast")) == (1, 21)
    visits.released.set()
    await asyncio.sleep(0.01)
    await rounds.run([SLOW, FAST], visits.work)
    assert visits.ended.count("slow") == 2


async def test_work_begins_after_the_call_also_where_a_round_is_under_way(rounds: HostRounds) -> None:
    visits = Visits()
    first = asyncio.create_task(rounds.run([SLOW], visits.work))
    await asyncio.sleep(0)
    second, third = (asyncio.create_task(rounds.run([SLOW], visits.work)) for _ in range(2))
    await asyncio.sleep(0.01)
    assert visits.begun == ["slow"]
    visits.released.set()
    await asyncio.gather(first, second, third)
    assert visits.ended == ["slow", "slow"], "the waiting ones shared the next"


async def test_a_host_that_fails_fails_no_other(rounds: HostRounds, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def work(at: Host) -> None:
        if at is SLOW:
            raise RuntimeError("broken\nsecret statement")
        await asyncio.sleep(0)
        done.append(at.name)

    with caplog.at_level(logging.WARNING):
        await rounds.run([SLOW, FAST], work)
    assert done == ["fast"]
    (record,) = caplog.records
    assert vars(record)["cause"] == "RuntimeError: broken"
    assert vars(record)["host_id"] == str(SLOW.host_id)


async def test_the_work_with_a_host_has_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    rounds, visits = HostRounds("visit", deadline_s=0.02), Visits()
    with caplog.at_level(logging.WARNING):
        await rounds.run([SLOW, FAST], visits.work)
        await rounds.run([SLOW, FAST], visits.work)
    assert (visits.begun.count("slow"), visits.ended) == (2, ["fast", "fast"])
    assert "not finished within" in vars(caplog.records[0])["cause"]


async def test_closing_ends_the_work(rounds: HostRounds) -> None:
    ended = asyncio.Event()

    async def work(_: Host) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    await rounds.run([SLOW], work)
    await rounds.close()
    assert ended.is_set()


def test_what_a_host_names_no_more_is_forgotten_and_others_keep_theirs() -> None:
    met: FirstMet[str] = FirstMet()
    met.update(SLOW.host_id, ["a", "b"], now=1.0)
    met.update(FAST.host_id, ["a"], now=2.0)
    assert met.update(SLOW.host_id, ["b", "c"], now=3.0) == {"b": 1.0, "c": 3.0}
    assert met.update(SLOW.host_id, ["a", "b"], now=4.0) == {"a": 4.0, "b": 1.0}
    assert met.update(FAST.host_id, ["a"], now=5.0) == {"a": 2.0}
    met.keep_hosts([SLOW])
    assert met.update(FAST.host_id, ["a"], now=6.0) == {"a": 6.0}
    met.forget(SLOW.host_id, "b")
    assert met.update(SLOW.host_id, ["b"], now=7.0) == {"b": 7.0}


def test_what_was_tried_comes_after_what_was_not() -> None:
    met: FirstMet[int] = FirstMet()
    tried: list[int] = []
    for now in range(3):
        for item in list(met.update(SLOW.host_id, range(6), now=now))[:2]:
            met.postpone(SLOW.host_id, item)
            tried.append(item)
    assert tried == list(range(6))
