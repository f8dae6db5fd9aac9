"""What runs and listens in a guest, as its agent reads it from the kernel. A guest may lie, within bounds."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar, cast

from wrenn.base.errors import AgentFailure, Unavailable
from wrenn.base.units import KIB, MIB
from wrenn.guest.connect import ENVD_PORT, GuestConnection
from wrenn.guest.values import guest_text, json_object
from wrenn.linux.threads import run_to_end

T = TypeVar("T")

_TIMEOUT_S: Final = 10.0
_LISTENERS_LIMIT_B: Final = 64 * KIB
_PROCESSES_LIMIT_B: Final = 2 * MIB
_AT_ONCE: Final = 32
"""Guests of one host whose answers are read at the same time: they have at most 64 MiB together."""
_LISTENERS_LIMIT: Final = 256
_PROCESSES_LIMIT: Final = 1024
_PID_LIMIT: Final = 2**22
_NUMBER_LIMIT: Final = 2**53


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that accepts TCP connections. `pid` 0: it is not known whose it is."""

    port: int
    address: str
    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class GuestProcess:
    """A program that runs, whoever started it. `cpu_ms` is the CPU time that it has used so far."""

    pid: int
    ppid: int
    user: str
    state: str
    command: str
    cpu_ms: int
    memory_b: int
    threads: int


@dataclass(frozen=True, slots=True)
class GuestProcesses:
    """All programs, and when they were read, by the guest's clock."""

    at_ms: int
    processes: Sequence[GuestProcess]


class Inspector:
    """Reads what runs and listens in the guests of one host. Of each guest it reads one answer at a time, and it parses one at a time."""

    def __init__(self) -> None:
        self._reading = asyncio.Semaphore(_AT_ONCE)
        self._parsing = asyncio.Lock()

    async def listeners(self, guest: GuestConnection) -> list[Listener]:
        """Return the sockets that accept TCP connections, without that of the guest agent.

        Raises:
            InvalidState: the guest agent is too old. Unavailable: no answer in time. AgentFailure: an answer that makes no sense.
        """
        found = await self._read(guest, "/listeners", _LISTENERS_LIMIT_B, _listeners)
        return [listener for listener in found if listener.port != ENVD_PORT]

    async def processes(self, guest: GuestConnection) -> GuestProcesses:
        """Return all programs that run.

        Raises:
            As `listeners`.
        """
        return await self._read(guest, "/processes", _PROCESSES_LIMIT_B, _processes)

    async def _read(self, guest: GuestConnection, path: str, limit_b: int, parse: Callable[[bytes], T]) -> T:
        try:
            async with asyncio.timeout(_TIMEOUT_S), guest.inspecting, self._reading:
                body = await guest.get(path, timeout_s=_TIMEOUT_S, limit_b=limit_b)
                # Parsing holds the interpreter's lock for milliseconds: several threads of it would crowd out the event loop.
                async with self._parsing:
                    return await run_to_end(partial(parse, body))
        except TimeoutError as error:
            raise Unavailable(
                f"The sandbox did not say within {_TIMEOUT_S:.0f} s what runs in it."
            ) from error


def _listeners(body: bytes) -> list[Listener]:
    return [
        Listener(
            _number(each, "port", 65_535),
            _address(each.get("address")),
            _number(each, "pid", _PID_LIMIT, default=0),
            guest_text(each.get("name", "")),
        )
        for each in _items(json_object(body), "listeners", _LISTENERS_LIMIT)
    ]


def _processes(body: bytes) -> GuestProcesses:
    found = json_object(body)
    processes = [
        GuestProcess(
            _number(each, "pid", _PID_LIMIT),
            _number(each, "ppid", _PID_LIMIT),
            guest_text(each.get("user", "")),
            guest_text(each.get("state", ""))[:1],
            guest_text(each.get("command", "")),
            _number(each, "cpu_ms", _NUMBER_LIMIT),
            _number(each, "memory_bytes", _NUMBER_LIMIT),
            _number(each, "threads", _PID_LIMIT),
        )
        for each in _items(found, "processes", _PROCESSES_LIMIT)
    ]
    # Only a guest that lies sends a pid twice; whoever lists processes by their pids relies on there being one of each.
    one_of_each_pid = {process.pid: process for process in processes}
    return GuestProcesses(_number(found, "at_ms", _NUMBER_LIMIT), list(one_of_each_pid.values()))


def _items(found: dict[str, Any], name: str, limit: int) -> list[dict[str, Any]]:
    items = found.get(name)
    if not isinstance(items, list):
        raise AgentFailure(f"The sandbox sent no list of {name}.")
    several = cast("list[object]", items)
    if len(several) > limit or not all(isinstance(item, dict) for item in several):
        raise AgentFailure(f"The sandbox sent a list of {name} that cannot be read.")
    return cast("list[dict[str, Any]]", several)


def _number(found: dict[str, Any], name: str, largest: int, *, default: int | None = None) -> int:
    value = found.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise AgentFailure("The sandbox sent a number that is not possible.", context={"name": name})
    return value


def _address(value: object) -> str:
    try:
        return str(ipaddress.ip_address(value)) if isinstance(value, str) and len(value) <= 45 else ""
    except ValueError:
        return ""
