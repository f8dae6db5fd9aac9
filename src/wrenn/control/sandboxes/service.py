"""Create, look up, list, remove sandboxes: what a request may ask for and what must hold before the reconciler acts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    InvalidState,
    NoCapacity,
    NotFound,
    Unauthorized,
    Unavailable,
    error_class,
)
from wrenn.base.faults import fault_point
from wrenn.base.ids import SandboxId
from wrenn.base.tasks import OwnedTasks
from wrenn.control.auth import UNKNOWN_KEY, Authenticator, Caller, Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.hosts import HostClient, HostClients, Monitor, all_hosts_in
from wrenn.control.placement import Overcommit, Wanted, choose_host
from wrenn.control.sandboxes import store
from wrenn.control.sandboxes.changes import Change, Changes
from wrenn.control.sandboxes.reconciler import Reconciler
from wrenn.control.sandboxes.records import DISK_SIZE_MB, Idempotency, Sandbox, Spec
from wrenn.control.sandboxes.state import ENDED, Desired, State
from wrenn.control.sandboxes.types import CreateSandbox
from wrenn.protocol.api import IDEMPOTENCY_KEY_HEADER, IDEMPOTENCY_KEY_LIMIT, TEMPLATE_NAME_PATTERN
from wrenn.protocol.host import host_pb as pb

_DELETE_TIMEOUT_S: Final = 30.0
_PING_TIMEOUT_S: Final = 10.0
_ANSWER_MARGIN_S: Final = 5.0
"""How much longer a caller waits than the reconciler tries, so that the caller gets the reconciler's reason."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one sandbox may be."""

    vcpus: int
    memory_min_mb: int
    memory_max_mb: int
    start_timeout_s: float


@dataclass(frozen=True, slots=True)
class Target:
    """A running sandbox of the caller, and the agent of its host."""

    sandbox_id: SandboxId
    host: HostClient


class Sandboxes:
    """See the module head."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        authenticator: Authenticator,
        clients: HostClients,
        monitor: Monitor,
        changes: Changes,
        reconciler: Reconciler,
        limits: SandboxLimits,
        overcommit: Overcommit,
    ) -> None:
        self._database = database
        self._hints = hints
        self._authenticator = authenticator
        self._clients = clients
        self._monitor = monitor
        self._changes = changes
        self._reconciler = reconciler
        self._limits = limits
        self._overcommit = overcommit
        self._tasks = OwnedTasks()

    async def close(self) -> None:
        """End what goes on behind requests."""
        await self._tasks.close()

    async def create(self, caller: Caller, body: CreateSandbox, idempotency_key: str | None) -> Sandbox:
        """Create a sandbox and return it when it runs.

        With an idempotency key the same request returns the same sandbox, until that one fails to start. A cancellation
        (the client went away) leaves a request with a key to go on; without one nobody would know the sandbox, so it is
        removed. The same holds when it takes too long.

        Raises:
            InvalidRequest, NotFound: not a template; out of range. Conflict: the key belongs to another request.
            NoCapacity: nothing was changed. Else the reason why it did not start; nothing of it is left.
        """
        spec = self._check(body)
        idempotency = _idempotency(idempotency_key, spec)
        sandbox_id = SandboxId.new()
        with self._changes.watch(sandbox_id) as change:
            insertion = asyncio.ensure_future(self._insert(caller, sandbox_id, spec, idempotency))
            try:
                repeated = await asyncio.shield(insertion)
                await fault_point("control.create.after_insert")
                self._reconciler.wake()
                if repeated is None:
                    return await self._outcome(change)
                with self._changes.watch(repeated.sandbox_id) as earlier:
                    earlier.happened()
                    return await self._outcome(earlier)
            except (asyncio.CancelledError, DeadlineExceeded):
                if idempotency is None:
                    self._tasks.start("remove abandoned sandbox", self._abandon(sandbox_id, insertion))
                raise

    def _check(self, body: CreateSandbox) -> Spec:
        limits = self._limits
        if TEMPLATE_NAME_PATTERN.fullmatch(body.template) is None:
            raise InvalidRequest(
                "template: must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit."
            )
        if not 1 <= body.vcpus <= limits.vcpus:
            raise InvalidRequest(f"vcpus: must be between 1 and {limits.vcpus}.")
        if not limits.memory_min_mb <= body.memory_mb <= limits.memory_max_mb:
            raise InvalidRequest(
                f"memory_mb: must be between {limits.memory_min_mb} and {limits.memory_max_mb}."
            )
        return Spec(body.template, body.vcpus, body.memory_mb, body.timeout_sec, body.envs)

    async def _insert(
        self, caller: Caller, sandbox_id: SandboxId, spec: Spec, idempotency: Idempotency | None
    ) -> Sandbox | None:
        """Place and write down a new sandbox; or the earlier one, if this is a repetition."""

        async def insert(tx: Transaction) -> Sandbox | None:
            await store.lock_placement(tx)
            if idempotency is not None:
                earlier = await store.find_repeated(tx, caller.team_id, idempotency.key)
                if earlier is not None:
                    return _same_request(*earlier, idempotency)
            wanted = Wanted(spec.template, spec.memory_mb, DISK_SIZE_MB)
            host = choose_host(await all_hosts_in(tx), await store.loads(tx), wanted, self._overcommit)
            await store.insert_sandbox(
                tx,
                self._hints,
                sandbox_id=sandbox_id,
                team_id=caller.team_id,
                host_id=host.host_id,
                spec=spec,
                idempotency=idempotency,
            )
            return None

        try:
            return await self._database.transaction(insert)
        except (NoCapacity, NotFound):
            # What the hosts said may be some seconds old: a host may be back, or a template new.
            await self._monitor.look_once()
            return await self._database.transaction(insert)

    async def _outcome(self, change: Change) -> Sandbox:
        """Wait until the sandbox runs; else raise why it does not."""
        timeout_s = self._limits.start_timeout_s + _ANSWER_MARGIN_S
        try:
            sandbox = await change.wait_until(_decided, timeout_s=timeout_s)
        except TimeoutError as error:
            raise DeadlineExceeded(f"The sandbox did not start within {timeout_s:.0f} s.") from error
        if sandbox is None:
            raise NotFound("The sandbox is gone.")
        if sandbox.status is State.ERROR:
            raise error_class(sandbox.failure)(sandbox.reason)
        if sandbox.desired is Desired.STOPPED:
            raise InvalidState(f"Sandbox {sandbox.sandbox_id} was removed.")
        return sandbox

    async def _abandon(self, sandbox_id: SandboxId, insertion: asyncio.Future[Sandbox | None]) -> None:
        # The row may be on its way to the database still.
        await asyncio.wait({insertion})
        if insertion.cancelled() or insertion.exception() is not None:
            return
        await store.want_stopped(self._database, self._hints, [sandbox_id])
        self._reconciler.wake()

    async def list(self, caller: Caller) -> list[Sandbox]:
        """The caller's sandboxes that have not ended, newest first."""
        return await store.live_of_team(self._database, caller.team_id)

    async def get(self, credential: Credential, text_id: str) -> Sandbox:
        """One sandbox of the caller, in any state.

        Raises:
            Unauthorized, InvalidRequest, NotFound.
        """
        return (await self._locate(credential, text_id))[0]

    async def delete(self, credential: Credential, text_id: str) -> None:
        """Remove a sandbox; returns when nothing of it is left. One that has ended is fine.

        Raises:
            Unavailable: its host does not answer; it will be removed when the host is back.
        """
        sandbox, _ = await self._locate(credential, text_id)
        if sandbox.status in ENDED:
            return
        with self._changes.watch(sandbox.sandbox_id) as change:
            await store.want_stopped(self._database, self._hints, [sandbox.sandbox_id])
            await fault_point("control.delete.after_desired")
            self._reconciler.wake()
            try:
                await change.wait_until(_ended, timeout_s=_DELETE_TIMEOUT_S)
            except TimeoutError as error:
                raise Unavailable(
                    f"The host of sandbox {sandbox.sandbox_id} did not answer within {_DELETE_TIMEOUT_S:.0f} s. "
                    "The sandbox will be removed when the host is back."
                ) from error

    async def ping(self, credential: Credential, text_id: str) -> None:
        """Count as activity: resets the inactivity timer."""
        target = await self.target(credential, text_id)
        await target.host.call(
            target.host.rpc.ping_sandbox,
            pb.PingSandboxRequest(sandbox_id=str(target.sandbox_id)),
            timeout_s=_PING_TIMEOUT_S,
        )
        await store.record_activity(self._database, target.sandbox_id)

    async def target(self, credential: Credential, text_id: str) -> Target:
        """The running sandbox that a request is about, with one round trip to the database.

        Raises:
            InvalidState: it does not run. Unavailable: its host is silent.
        """
        sandbox, address = await self._locate(credential, text_id)
        if sandbox.status is State.MISSING:
            raise Unavailable(f"The host of sandbox {sandbox.sandbox_id} does not answer now.")
        if sandbox.status is not State.RUNNING or sandbox.desired is not Desired.RUNNING:
            what = sandbox.status if sandbox.status is not State.RUNNING else "being removed"
            raise InvalidState(f"Sandbox {sandbox.sandbox_id} is {what}, not running.")
        return Target(sandbox.sandbox_id, self._clients.at(address))

    async def _locate(self, credential: Credential, text_id: str) -> tuple[Sandbox, str]:
        try:
            sandbox_id = SandboxId.parse(text_id)
        except InvalidRequest:
            # A stranger is told about the key first.
            await self._authenticator.identify(credential)
            raise
        caller, sandbox, address = await store.locate(self._database, credential.key_hash, sandbox_id)
        if caller is None:
            raise Unauthorized(UNKNOWN_KEY)
        self._authenticator.accept(caller)
        if sandbox is None:
            raise NotFound(f"There is no sandbox {sandbox_id}.")
        return sandbox, address


def _idempotency(key: str | None, spec: Spec) -> Idempotency | None:
    if key is None:
        return None
    if not 1 <= len(key) <= IDEMPOTENCY_KEY_LIMIT or not key.isascii() or not key.isprintable():
        raise InvalidRequest(
            f"{IDEMPOTENCY_KEY_HEADER}: must be 1 to {IDEMPOTENCY_KEY_LIMIT} printable ASCII characters."
        )
    return Idempotency(key, spec.digest())


def _same_request(earlier: Sandbox, digest: bytes, idempotency: Idempotency) -> Sandbox:
    if digest != idempotency.digest:
        raise Conflict(f"This {IDEMPOTENCY_KEY_HEADER} was used for another request.")
    return earlier


def _decided(sandbox: Sandbox) -> bool:
    return sandbox.status in (State.RUNNING, State.MISSING) or _not_to_be(sandbox)


def _not_to_be(sandbox: Sandbox) -> bool:
    return sandbox.status in ENDED or sandbox.desired is Desired.STOPPED


def _ended(sandbox: Sandbox) -> bool:
    return sandbox.status in ENDED
