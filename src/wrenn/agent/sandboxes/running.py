"""A sandbox that runs: its VM, its network address, the way to its guest, and the calls under way in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidState, WrennError
from wrenn.base.secrets import Secret
from wrenn.guest import Commands, Files, GuestConnection
from wrenn.linux.connections import reset_connections
from wrenn.vm import Vm


@dataclass(slots=True)
class RunningSandbox:
    """What the verbs of a running sandbox need. One object a generation of the VM.

    Attributes:
        address: slot address, reachable from this host only.
        last_active_at: wall time of the last use, seconds.
        closed: why no call may begin now; empty: it may.
    """

    vm: Vm
    address: str
    token: Secret
    guest: GuestConnection
    last_active_at: float
    closed: str = ""
    _uses: int = 0
    _unused: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def commands(self) -> Commands:
        """Programs in the guest."""
        return Commands(self.guest)

    @property
    def files(self) -> Files:
        """Files in the guest."""
        return Files(self.guest)

    @asynccontextmanager
    async def use(self, clock: Clock) -> AsyncGenerator[RunningSandbox]:
        """A call: activity from its begin to its end, and what a pause waits for.

        Raises:
            InvalidState: no call may begin; or the call was cut off because the sandbox is being paused.
        """
        if self.closed:
            raise InvalidState(self.closed)
        self._uses += 1
        self._unused.clear()
        self.last_active_at = clock.now().timestamp()
        guest = self.guest
        try:
            yield self
        except WrennError as error:
            if guest.session.closed and self.closed:
                raise InvalidState(f"{self.closed} The call was cut off; what it began goes on.") from error
            raise
        finally:
            self._uses -= 1
            self.last_active_at = clock.now().timestamp()
            if not self._uses:
                self._unused.set()

    def idle_s(self, clock: Clock) -> float:
        """For how long nobody has used it."""
        return 0.0 if self._uses else clock.now().timestamp() - self.last_active_at

    async def drain(self, reason: str, *, grace_s: float) -> None:
        """Let no call begin, and wait until those under way have ended, but not longer than `grace_s`."""
        self.closed = reason
        if self._uses:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._unused.wait()

    async def disconnect(self) -> None:
        """Break off whatever is connected to the guest from this host."""
        await self.guest.close()
        await asyncio.to_thread(reset_connections, self.address)

    async def reopen(self) -> None:
        """Let calls begin again."""
        if self.guest.session.closed:
            self.guest = GuestConnection(self.address, self.token)
        self.closed = ""
