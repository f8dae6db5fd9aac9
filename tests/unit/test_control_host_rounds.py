"""Work that is done for every host in rounds (`control/hosts/rounds.py`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

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
        cert_epoch=0,
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


class Counted:
    """Work with many hosts, of which some are dead: there it lasts until they are released."""

    def __init__(self, dead: Sequence[Host] = ()) -> None:
        self._dead = {host.host_id for host in dead}
        self.released = asyncio.Event()
        self.at_once = 0
        self.most_at_once = 0
        self.dead_begun = 0
        self.ended: list[HostId] = []

    async def work(self, at: Host) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if at.host_id in self._dead:
            self.dead_begun += 1
            await self.released.wait()
        else:
            await asyncio.sleep(0)
        self.at_once -= 1
        self.ended.append(at.host_id)


async def test_a_thousand_hosts_are_worked_on_a_few_at_a_time() -> None:
    rounds, counted = HostRounds("visit", places=8, round_wait_s=60), Counted()
    await rounds.run([host(f"host {number}") for number in range(1000)], counted.work)
    assert len(counted.ended) == 1000
    assert counted.most_at_once == 8
    await rounds.close()


async def test_dead_hosts_hold_up_the_others_for_a_moment_once_and_then_not_at_all() -> None:
    place_s = 0.3
    rounds = HostRounds("visit", round_wait_s=10, places=4, slow_places=4, place_s=place_s)
    dead = [host(f"dead {number}") for number in range(8)]
    living = [host(f"living {number}") for number in range(50)]
    loop, counted = asyncio.get_running_loop(), Counted(dead)
    began_s = loop.time()
    unfinished = asyncio.create_task(rounds.run([*dead, *living], counted.work))
    async with asyncio.timeout(10):
        while len(counted.ended) < len(living):
            await asyncio.sleep(0.01)
    # The calls to dead hosts go on, without places: two turns of four.
    assert loop.time() - began_s >= 2 * place_s
    assert counted.at_once == len(dead)
    assert counted.most_at_once <= len(dead) + 4
    counted.released.set()
    await unfinished
    again, began_s = Counted(dead), loop.time()
    unfinished = asyncio.create_task(rounds.run([*dead, *living], again.work))
    async with asyncio.timeout(10):
        while len(again.ended) < len(living):
            await asyncio.sleep(0)
    # Unless this machine stood still meanwhile.
    is_at_once = loop.time() - began_s < place_s
    assert again.dead_begun == 4 or not is_at_once, "the living ones waited for no place of theirs"
    again.released.set()
    await unfinished
    # All answered quickly now, so they are among the others the next time.
    last = Counted()
    await rounds.run(dead, last.work)
    await rounds.run(dead, last.work)
    assert len(last.ended) == 2 * len(dead)
    await rounds.close()


async def test_a_host_that_waits_for_a_place_is_worked_on_as_it_is_then() -> None:
    rounds = HostRounds("visit", places=1, round_wait_s=0.02)
    visits, seen = Visits(), list[str]()

    async def work(at: Host) -> None:
        seen.append(at.address)
        await visits.work(at)

    await rounds.run([SLOW, FAST], work)
    await rounds.run([SLOW, replace(FAST, address="https://127.0.0.1:2")], work)
    assert visits.begun == ["slow"]
    visits.released.set()
    await rounds.run([], work)
    await asyncio.sleep(0.01)
    assert visits.ended == ["slow", "fast"]
    assert seen[-1] == "https://127.0.0.1:2"
    await rounds.close()


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
