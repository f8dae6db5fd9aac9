"""Resolves the names in addresses of hosts, and never to the control plane's own machine.

An agent of a team's own host chooses the name that it registers. `HostAddress.check_remote` refuses literal addresses; what a name
resolves to may change at any time, so it is looked at for each connection.

A team also chooses whether its name servers answer, and a look-up cannot be ended. So names that were resolved quickly the last time
have threads of their own, and one that is slow for once gives its place to the next after a second.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from wrenn.control.hosts.addresses import is_own_machine

_AT_ONCE: Final = 8
"""Look-ups that are begun and have not taken a second yet: of known names, and of all others."""
_KNOWN_THREADS: Final = 64
"""Also for those of known names that take longer, until the resolver gives up."""
_QUICK_S: Final = 1.0
_KNOWN: Final = 10_000

_Lookup = tuple[str, int, socket.AddressFamily]


class RemoteResolver(AbstractResolver):
    """Leaves out loopback, link-local and unspecified addresses. A host that is at one of these registers the address itself."""

    def __init__(self) -> None:
        self._known_threads = ThreadPoolExecutor(_KNOWN_THREADS, "resolve known hosts")
        self._other_threads = ThreadPoolExecutor(_AT_ONCE, "resolve hosts")
        self._places = asyncio.Semaphore(_AT_ONCE)
        # Names that were resolved within `_QUICK_S` the last time, the newest last.
        self._known: OrderedDict[str, None] = OrderedDict()
        # Under way: whoever asks for the same name waits for the same answer.
        self._lookups: dict[_Lookup, asyncio.Task[list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a name.

        Raises:
            OSError: it cannot be resolved, or to no address of another machine.
        """
        key = host, port, family
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = asyncio.create_task(self._look_up(key), name=f"resolve {host}")
            lookup.add_done_callback(lambda done: self._ended(key, done))
        found = await asyncio.shield(lookup)
        if remote := [each for each in found if not is_own_machine(each["host"].partition("%")[0])]:
            return remote
        raise OSError(None, "The name of the host resolves to no address of another machine.")

    async def close(self) -> None:
        """Wait for no look-up any more."""
        for lookup in list(self._lookups.values()):
            lookup.cancel()
        for threads in (self._known_threads, self._other_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, key: _Lookup) -> list[ResolveResult]:
        loop, host = asyncio.get_running_loop(), key[0]
        if self._known.pop(host, ...) is ...:
            answer = loop.run_in_executor(self._other_threads, _addresses, *key)
        else:
            async with self._places:
                answer = loop.run_in_executor(self._known_threads, _addresses, *key)
                await asyncio.wait({answer}, timeout=_QUICK_S)
        found, took_s = await answer
        if took_s <= _QUICK_S:
            self._known[host] = None
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        return found

    def _ended(self, key: _Lookup, lookup: asyncio.Task[list[ResolveResult]]) -> None:
        del self._lookups[key]
        if not lookup.cancelled():
            lookup.exception()  # seen, also if nobody waits any more


def _addresses(host: str, port: int, family: socket.AddressFamily) -> tuple[list[ResolveResult], float]:
    """Resolve a name, and return how long that took."""
    began = time.monotonic()
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    took_s = time.monotonic() - began
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=port,
            family=kind,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, protocol, _, address in found
    ], took_s
