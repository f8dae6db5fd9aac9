"""Look-ups of hosts' names: name servers that teams choose hold up nobody else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from wrenn.control.hosts.resolver import RemoteResolver

pytestmark = pytest.mark.asyncio

_ADDRESS: Any = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 8010))


class Names:
    """A resolver of the machine: names that begin with `silent` are not answered until the end, others at once."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.end = threading.Event()

    def getaddrinfo(self, name: str, *_args: object, **_options: object) -> list[Any]:
        self.asked[name] += 1
        if name.startswith("silent"):
            self.end.wait(30)
            raise OSError(f"{name} is not answered")
        return [_ADDRESS]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.end.set()


async def test_names_that_are_never_answered_hold_up_no_known_one(names: Names) -> None:
    resolver = RemoteResolver()
    assert (await resolver.resolve("host.example", 8010))[0]["host"] == "192.0.2.1"
    silent = [asyncio.create_task(resolver.resolve(f"silent{number}.example")) for number in range(40)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await resolver.resolve("host.example", 8010)
    for task in silent:
        task.cancel()
    await resolver.close()


async def test_known_names_that_fall_silent_give_their_places_to_others(names: Names) -> None:
    resolver = RemoteResolver()
    for number in range(20):
        await resolver.resolve(f"{number}.example")
    await resolver.resolve("host.example")
    answer = names.getaddrinfo

    def silent(name: str, *_args: object, **_options: object) -> list[Any]:
        return answer(f"silent-{name}" if name != "host.example" else name)

    socket.getaddrinfo = silent  # the fixture restores it
    waiting = [asyncio.create_task(resolver.resolve(f"{number}.example")) for number in range(20)]
    await asyncio.sleep(0)
    async with asyncio.timeout(15):
        assert await resolver.resolve("host.example")
    for task in waiting:
        task.cancel()
    await resolver.close()


async def test_a_name_is_looked_up_once_for_all_that_ask_at_the_same_time(names: Names) -> None:
    resolver = RemoteResolver()
    await asyncio.gather(*(resolver.resolve("host.example") for _ in range(10)))
    assert names.asked["host.example"] == 1
    await resolver.close()


async def test_a_failure_is_raised_for_the_caller(names: Names) -> None:
    resolver = RemoteResolver()
    names.end.set()
    with pytest.raises(OSError, match="not answered"):
        await resolver.resolve("silent.example")
    await resolver.close()
