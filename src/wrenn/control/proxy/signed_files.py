"""Finds the sandbox of a signed URL that does not name it: the SDKs leave it out if all sandboxes are below one address.

The tokens of all running sandboxes are tried. That costs processor time, so one search runs at a time, few wait, and the attempts
of an address are limited as those with wrong credentials are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import RateLimited, Unauthorized
from wrenn.base.ids import SandboxId
from wrenn.base.secrets import Secret
from wrenn.control.db import Database
from wrenn.control.http import Rates, address_of, digest_of
from wrenn.control.proxy.access_tokens import AccessTokens
from wrenn.control.proxy.file_signature import SignedFile
from wrenn.control.proxy.lookup_cache import LookupCache
from wrenn.control.proxy.port_target import PortTarget
from wrenn.control.proxy.request_head import is_foreign
from wrenn.control.sandboxes import newest_running
from wrenn.protocol.guest_agent import GUEST_AGENT_PORT
from wrenn.relay import Scope

TRIED: Final = 10_000
"""Running sandboxes whose tokens are tried, the newest: some 30 ms."""
_AT_ONCE: Final = 200
"""Tokens that are tried before other tasks run."""
_WAITING: Final = 32
"""Searches that wait for one another; further ones are refused."""
_WAITING_OF_ADDRESS: Final = 4
"""Of them, so many of one address: it must not take the places of all others."""
_FOUND: Final = 1000
"""URLs whose sandbox is remembered, some 5 KB each at most."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """A signed URL, and the address of the first client that shows it."""

    file: SignedFile
    address: str = field(compare=False)


class SignedFiles:
    """Finds the sandboxes of signed URLs among those that run."""

    def __init__(self, *, database: Database, tokens: AccessTokens, rates: Rates, clock: Clock) -> None:
        self._database = database
        self._tokens = tokens
        self._rates = rates
        self._running = LookupCache[None, list[tuple[SandboxId, Secret]]](self._list, clock)
        self._known: dict[SandboxId, Secret] = {}
        self._found = LookupCache[_Signed, SandboxId | None](
            self._search, clock, keep=lambda found: found is not None, most=_FOUND
        )
        self._turn = asyncio.Lock()
        self._waiting: Counter[str] = Counter()

    async def target(self, scope: Scope) -> PortTarget | None:
        """Return the guest agent that a signed URL without a sandbox is for; None: the request is not by such a URL.

        Raises:
            Unauthorized: it was signed with the token of no running sandbox. RateLimited.
        """
        file = SignedFile.of(scope)
        if file is None or not file.signature:
            return None
        shown = digest_of(file.digest, kind=b"signed file")
        attempt = self._rates.begin(scope, shown, is_visit=True, is_foreign=is_foreign(scope["headers"]))
        try:
            sandbox_id = await self._found.get(_Signed(file, address_of(scope)))
            if sandbox_id is None:
                attempt.failed()
                raise Unauthorized("invalid signature")
            return PortTarget(sandbox_id, GUEST_AGENT_PORT, by_headers=True, by_signature=True, is_e2b=True)
        finally:
            attempt.succeeded(proves=False)  # unless it has failed

    async def _search(self, signed: _Signed) -> SandboxId | None:
        file, address = signed.file, signed.address
        if self._waiting.total() >= _WAITING or self._waiting[address] >= _WAITING_OF_ADDRESS:
            raise RateLimited("Too many signed URLs without a sandbox at once.")
        self._waiting[address] += 1
        try:
            async with self._turn:
                for number, (sandbox_id, token) in enumerate(await self._running.get(None)):
                    if number % _AT_ONCE == _AT_ONCE - 1:
                        await asyncio.sleep(0)
                    if file.is_signed_with(token):
                        return sandbox_id
                return None
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]

    async def _list(self, _: None) -> list[tuple[SandboxId, Secret]]:
        tokens: dict[SandboxId, Secret] = {}
        for number, sandbox_id in enumerate(await newest_running(self._database, most=TRIED)):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            tokens[sandbox_id] = self._known.get(sandbox_id) or self._tokens.of(sandbox_id)
        self._known = tokens
        return list(tokens.items())

    def forget_all(self) -> None:
        """Drop what is remembered, because something changed."""
        self._running.forget_all()
        self._found.forget_all()
