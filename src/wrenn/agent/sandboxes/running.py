"""A running sandbox: its VM, address, clients for its guest, and the calls that are under way in it.

What counts as activity: a call, from its begin to its end, even if no data flows. The exception is a stream whose process or
server continues without it (a terminal, a background process's output, a port's response or WebSocket): it counts when it begins,
and then only when bytes pass. A forgotten terminal therefore does not keep its sandbox awake, nor does a call that only looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidState, StorageFull, WrennError
from wrenn.base.secrets import Secret
from wrenn.guest import Commands, Files, GuestConnection, GuestPorts, Processes
from wrenn.linux import threads
from wrenn.vm import Machine

_CLOSE_TIMEOUT_S: Final = 0.25
"""For each group of connections to end. A close waits until the peer has taken what was sent, and a guest need not take it."""


@dataclass(slots=True, eq=False)
class GuestStream:
    """A caller's connection with a program in the guest: a followed process, an HTTP request, a WebSocket, raw bytes.

    It is in use until it is `opened`; from then on only when bytes pass.

    Attributes:
        counts_as_active: in use, however silent it is.
        is_finite: a pause gives it time to end.
    """

    _running: RunningSandbox
    _clock: Clock
    counts_as_active: bool = True
    is_finite: bool = True

    @property
    def guest(self) -> GuestConnection:
        """Connection to the guest agent of this VM."""
        return self._running.guest

    @property
    def ports(self) -> GuestPorts:
        """Client for the guest's ports."""
        return self._running.ports

    @property
    def processes(self) -> Processes:
        """Client for the guest's processes."""
        return self._running.processes

    def mark_active(self) -> None:
        """Record that bytes passed: the sandbox is in use now."""
        self._running.last_active_at = self._clock.now().timestamp()

    def mark_open(self, *, is_finite: bool) -> None:
        """Count the stream as activity only when bytes pass from now on. A pause waits for it only if `is_finite`."""
        self.counts_as_active = False
        self.is_finite = is_finite


@dataclass(slots=True)
class RunningSandbox:
    """A sandbox with a running VM. Each resume makes a new object.

    Attributes:
        address: slot address, reachable from this host only.
        last_active_at: wall time of the last activity, seconds.
        reset_connections: resets this host's connections to an address; blocking.
        closed: why new calls are refused; empty if they are not.
        guest_frozen: the processes of the guest may be frozen.
        suspend_reason: why the disk watch has suspended its VM; empty if it has not.
        being_removed: whether its removal has begun; no more calls are made to the guest or the VM then.
        ports: client for the guest's ports.
    """

    vm: Machine
    address: str
    token: Secret
    guest: GuestConnection
    last_active_at: float
    reset_connections: Callable[[str], object]
    closed: str = ""
    guest_frozen: bool = False
    suspend_reason: str = ""
    being_removed: bool = False
    ports: GuestPorts = field(init=False)
    _users: dict[asyncio.Task[object], GuestStream | None] = field(
        default_factory=dict[asyncio.Task[object], "GuestStream | None"]
    )
    """The tasks that make a call now, with their stream if they have one."""
    _cut: dict[asyncio.Task[object], str] = field(default_factory=dict[asyncio.Task[object], str])
    """Tasks whose calls were cut off, with the reason that their callers get."""
    _unused: asyncio.Event = field(default_factory=asyncio.Event)
    _closing: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])
    """Closes of connections that were not waited for to their end."""

    def __post_init__(self) -> None:
        self.ports = GuestPorts(self.address, self.guest.headers("root"), self.guest.pace)

    @property
    def commands(self) -> Commands:
        """Client that runs commands in the guest."""
        return Commands(self.guest)

    @property
    def processes(self) -> Processes:
        """Client that starts and follows processes in the guest."""
        return Processes(self.guest)

    @property
    def files(self) -> Files:
        """Client for files in the guest."""
        return Files(self.guest)

    @asynccontextmanager
    async def use(self, clock: Clock) -> AsyncGenerator[RunningSandbox]:
        """Make a call: it counts as activity from begin to end, and a pause waits for it.

        Raises:
            InvalidState: no call may begin; or the call was cut off, for the reason that `disconnect` was given.
            StorageFull: the sandbox is suspended because of its disk use.
        """
        async with self._call(clock, None):
            yield self

    @asynccontextmanager
    async def observe(self, clock: Clock) -> AsyncGenerator[RunningSandbox]:
        """Make a short call that only looks: it is no activity, and a pause cuts it off.

        Raises:
            as `use`.
        """
        async with self._call(clock, GuestStream(self, clock, counts_as_active=False, is_finite=False)):
            yield self

    @asynccontextmanager
    async def _call(self, clock: Clock, stream: GuestStream | None) -> AsyncGenerator[None]:
        if self.suspend_reason:
            raise StorageFull(f"The sandbox is suspended. {self.suspend_reason}")
        if self.closed:
            raise InvalidState(self.closed)
        task = asyncio.current_task()
        assert task is not None, "calls are made by tasks"
        cancelling = task.cancelling()
        self._users[task] = stream
        self._unused.clear()
        if stream is None or stream.counts_as_active:
            self.last_active_at = clock.now().timestamp()
        try:
            yield
        except (asyncio.CancelledError, WrennError) as error:
            if task not in self._cut:
                raise
            if isinstance(error, asyncio.CancelledError) and task.uncancel() > cancelling:
                raise  # somebody else cancelled it too
            raise InvalidState(self._cut[task]) from error
        finally:
            del self._users[task]
            self._cut.pop(task, None)
            if stream is None or stream.counts_as_active:
                self.last_active_at = clock.now().timestamp()
            if not self._has_calls_to_drain():
                self._unused.set()

    @asynccontextmanager
    async def open_stream(
        self, clock: Clock, *, counts_as_active: bool = True
    ) -> AsyncGenerator[GuestStream]:
        """Open a caller's stream to a program in the guest.

        Raises:
            as `use`.
        """
        stream = GuestStream(self, clock, counts_as_active=counts_as_active)
        async with self._call(clock, stream):
            yield stream

    def _has_calls_to_drain(self) -> bool:
        """Return whether any call is under way that a pause waits for."""
        return any(stream is None or stream.is_finite for stream in self._users.values())

    def idle_s(self, clock: Clock) -> float:
        """Return how long the sandbox has been idle, in seconds; 0 also after the host's clock was set back."""
        in_use = any(stream is None or stream.counts_as_active for stream in self._users.values())
        return 0.0 if in_use else max(0.0, clock.now().timestamp() - self.last_active_at)

    async def drain(self, reason: str, *, grace_s: float) -> None:
        """Refuse new calls with `reason`, and wait up to `grace_s` for those under way."""
        self.closed = reason
        if self._has_calls_to_drain():
            self._unused.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._unused.wait()

    def cut_off(self, reason: str) -> None:
        """Let calls under way fail with `reason`. Called before their connections break, which a call may notice first."""
        self._cut.update(dict.fromkeys(self._users, reason))

    async def disconnect(self, reason: str) -> None:
        """Close all connections from this host to the guest; calls under way fail with `reason`.

        Takes less than a second, whatever the other ends do.
        """
        self.cut_off(reason)
        # First the connections: a call that is cancelled would else kill what it began in the guest.
        await self._close(self.guest.close())
        for task in self._users:
            task.cancel()
        # After the tasks: the end of a connection would be taken for the end of an answer that has no length.
        await self._close(self.ports.close())
        # What was not closed by now ends here, and the closes with it.
        await asyncio.wait({threads.start(self.reset_connections, self.address)}, timeout=_CLOSE_TIMEOUT_S)

    async def release(self) -> None:
        """Close all connections to the VMM and the guest, without waiting for calls in progress. The VM keeps running. Idempotent."""
        self.vm.disconnect()
        await self.guest.close()
        await self.ports.close()

    async def _close(self, close: Coroutine[Any, Any, object]) -> None:
        closing = asyncio.create_task(close, name=f"close connections to {self.address}")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.wait({closing}, timeout=_CLOSE_TIMEOUT_S)

    async def unsuspend_vm(self) -> None:
        """Unsuspend the VM after an operation, unless the disk watch has suspended it or it is being removed."""
        if not self.being_removed and not self.suspend_reason:
            await self.vm.unsuspend()

    def unless_being_removed(self, step: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
        """Wrap an undo step that talks to the guest or VM; it is skipped during removal, when neither may answer."""

        async def undo() -> None:
            if not self.being_removed:
                await step()

        return undo

    async def reopen(self) -> None:
        """Accept calls again."""
        if self.guest.session.closed:
            self.guest = GuestConnection(self.address, self.token)
        self.closed = ""
