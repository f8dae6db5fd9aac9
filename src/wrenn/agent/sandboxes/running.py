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
        held: the guest's programs may stand still.
    """

    vm: Vm
    address: str
    token: Secret
    guest: GuestConnection
    last_active_at: float
    closed: str = ""
    held: bool = False
    _users: set[asyncio.Task[object]] = field(default_factory=set[asyncio.Task[object]])
    _listeners: set[asyncio.Task[object]] = field(default_factory=set[asyncio.Task[object]])
    _cut: set[asyncio.Task[object]] = field(default_factory=set[asyncio.Task[object]])
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
    async def use(self, clock: Clock, *, listening: bool = False) -> AsyncGenerator[RunningSandbox]:
        """A call: activity from its begin to its end, and what a pause waits for.

        One that is only `listening` is activity at its begin, and no pause waits for it.

        Raises:
            InvalidState: no call may begin; or the call was cut off because the sandbox is being paused.
        """
        if self.closed:
            raise InvalidState(self.closed)
        task = asyncio.current_task()
        assert task is not None, "calls are made by tasks"
        cancelling = task.cancelling()
        calls = self._listeners if listening else self._users
        calls.add(task)
        if self._users:
            self._unused.clear()
        self.last_active_at = clock.now().timestamp()
        try:
            yield self
        except (asyncio.CancelledError, WrennError) as error:
            if task not in self._cut:
                raise
            if isinstance(error, asyncio.CancelledError) and task.uncancel() > cancelling:
                raise  # somebody else cancelled it too
            raise InvalidState(f"{self.closed} The call was cut off; what it began goes on.") from error
        finally:
            calls.discard(task)
            self._cut.discard(task)
            if not listening:
                self.last_active_at = clock.now().timestamp()
            if not self._users:
                self._unused.set()

    def idle_s(self, clock: Clock) -> float:
        """For how long nobody has used it."""
        return 0.0 if self._users else clock.now().timestamp() - self.last_active_at

    async def drain(self, reason: str, *, grace_s: float) -> None:
        """Let no call begin, and wait until those under way have ended, but not longer than `grace_s`."""
        self.closed = reason
        if self._users:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._unused.wait()

    async def disconnect(self) -> None:
        """Break off whatever is connected to the guest from this host; calls under way end with an error."""
        # Marked before the connections break, which a call may notice first.
        self._cut |= self._users | self._listeners
        # First the connections: a call that is cancelled would else kill what it began in the guest.
        await self.guest.close()
        for task in self._cut:
            task.cancel()
        await asyncio.to_thread(reset_connections, self.address)

    async def reopen(self) -> None:
        """Let calls begin again."""
        if self.guest.session.closed:
            self.guest = GuestConnection(self.address, self.token)
        self.closed = ""
