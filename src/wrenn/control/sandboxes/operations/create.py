"""Creates a sandbox: checks the request, places it on a host, and waits until it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from wrenn.base.errors import Cancelled, Conflict, DeadlineExceeded, InvalidRequest, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.ids import BuildId, SandboxId
from wrenn.base.tasks import OwnedTasks
from wrenn.control.audit import SYSTEM
from wrenn.control.auth import Caller
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.identity import lock_active_team
from wrenn.control.placement import Wanted
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.network_policy import NetworkRules
from wrenn.control.sandboxes.operations import placement_store
from wrenn.control.sandboxes.operations.capacity import Capacity, added_usage
from wrenn.control.sandboxes.operations.waiting import WaitLimits, wait_started
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import CommandDefaults, Idempotency, Ingress, Origin, Sandbox, Spec
from wrenn.control.sandboxes.types import CreateSandbox
from wrenn.control.templates import Reference, Template, TemplateType, find_template
from wrenn.protocol.api import (
    DEFAULT_DISK_SIZE_MB,
    IDEMPOTENCY_KEY_HEADER,
    IDEMPOTENCY_KEY_LIMIT,
)


@dataclass(frozen=True, slots=True)
class SandboxSizeLimits:
    """The sizes that this installation allows for one sandbox."""

    vcpus: int
    memory_min_mb: int
    memory_max_mb: int
    disk_max_mb: int


@dataclass(frozen=True, slots=True)
class Size:
    """The size that a request states explicitly; None: not stated."""

    vcpus: int | None
    memory_mb: int | None
    disk_size_mb: int | None

    def of(self, template: Template, spec: Spec) -> Spec:
        """Return the spec with the size of a sandbox from this template.

        Raises:
            InvalidRequest: it differs from a snapshot's, or the disk is smaller than a base's.
        """
        if template.type is TemplateType.SNAPSHOT:
            self._check_snapshot(template)
            return replace(
                spec,
                vcpus=template.vcpus,
                memory_mb=template.memory_mb,
                disk_size_mb=template.disk_size_mb,
            )
        if self.disk_size_mb is not None and self.disk_size_mb < template.disk_size_mb:
            raise InvalidRequest(
                f"disk_size_mb: the disk of {template.name} has {template.disk_size_mb} MB and can only be made larger."
            )
        return replace(
            spec,
            vcpus=self.vcpus or template.vcpus,
            memory_mb=self.memory_mb or template.memory_mb,
            disk_size_mb=self.disk_size_mb or max(template.disk_size_mb, spec.disk_size_mb),
        )

    def _check_snapshot(self, template: Template) -> None:
        for field, asked, has in (
            ("vcpus", self.vcpus, template.vcpus),
            ("memory_mb", self.memory_mb, template.memory_mb),
            ("disk_size_mb", self.disk_size_mb, template.disk_size_mb),
        ):
            if asked is not None and asked != has:
                raise InvalidRequest(
                    f"{field}: a sandbox from the snapshot {template.name} has {has}, not {asked}; leave it out."
                )


@dataclass(frozen=True, slots=True)
class _Request:
    """A checked request. `template`: what it is made from; None: the one that `spec` names. `build_id`: the build that it is for."""

    spec: Spec
    size: Size
    idempotency: Idempotency | None
    template: Template | None
    build_id: BuildId | None


class CreateObserver(Protocol):
    """Is told what became of creates."""

    def created(self, *, place_s: float, start_s: float) -> None:
        """A sandbox runs: `place_s` passed until its row was written, `start_s` from then on."""
        ...

    def failed(self, code: str) -> None:
        """A create failed with the error of this code."""
        ...


class Creations:
    """Creates sandboxes: checks the request, places the sandbox on a host, and waits until it runs."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        changes: ChangeNotifier,
        reconciler: Reconciler,
        capacity: Capacity,
        limits: SandboxSizeLimits,
        network_rules: NetworkRules,
        wait_limits: WaitLimits,
        observer: CreateObserver,
    ) -> None:
        self._observer = observer
        self._database = database
        self._hints = hints
        self._changes = changes
        self._reconciler = reconciler
        self._capacity = capacity
        self._limits = limits
        self._network_rules = network_rules
        self._wait_limits = wait_limits
        self._tasks = OwnedTasks()

    async def close(self) -> None:
        """Stop the background tasks of requests."""
        await self._tasks.close()

    async def create(
        self,
        caller: Caller,
        body: CreateSandbox,
        idempotency_key: str | None,
        *,
        sandbox_id: SandboxId | None = None,
        template: Template | None = None,
        build_id: BuildId | None = None,
    ) -> Sandbox:
        """Create a sandbox and return it when it runs, under this id if one is given.

        `template`: what it is made from; None: the one that `body` names. `build_id`: the build that it is for.

        With an idempotency key the same request returns the same sandbox, until that one fails to start. A cancellation
        (the client went away) leaves a request with a key to go on; without one nobody would know the sandbox, so it is
        removed. The same holds when it takes too long.

        Raises:
            InvalidRequest, NotFound: not a template; out of range. Conflict: the key belongs to another request.
            NoCapacity, QuotaExceeded, RateLimited: nothing was changed. Else the reason why it did not start; nothing of it is left.
        """
        spec = self._check(body)
        asked = Size(
            vcpus=body.vcpus if "vcpus" in body.model_fields_set else None,
            memory_mb=body.memory_mb if "memory_mb" in body.model_fields_set else None,
            disk_size_mb=body.disk_size_mb if "disk_size_mb" in body.model_fields_set else None,
        )
        idempotency = _idempotency(idempotency_key, spec)
        sandbox_id = sandbox_id or SandboxId.new()
        request = _Request(spec, asked, idempotency, template, build_id)
        with self._reporting_failure(), self._changes.watch(sandbox_id) as change:
            insertion = asyncio.ensure_future(self._insert(caller, sandbox_id, request))
            try:
                begun_s = time.perf_counter()
                repeated = await asyncio.shield(insertion)
                placed_s = time.perf_counter()
                await fault_point("control.create.after_insert")
                self._reconciler.wake()
                if repeated is None:
                    sandbox = await wait_started(change, self._wait_limits)
                    start_s = time.perf_counter() - placed_s
                    self._observer.created(place_s=placed_s - begun_s, start_s=start_s)
                    return sandbox
                with self._changes.watch(repeated.sandbox_id) as earlier:
                    earlier.wake()
                    return await wait_started(earlier, self._wait_limits)
            except (asyncio.CancelledError, DeadlineExceeded):
                if idempotency is None:
                    self._tasks.start("remove abandoned sandbox", self._abandon(sandbox_id, insertion))
                raise

    @contextmanager
    def _reporting_failure(self) -> Generator[None]:
        try:
            yield
        except asyncio.CancelledError:
            self._observer.failed(Cancelled.code)
            raise
        except WrennError as error:
            self._observer.failed(error.code)
            raise

    def _check(self, body: CreateSandbox) -> Spec:
        limits = self._limits
        Reference.parse(body.template, field="template")
        if not 1 <= body.vcpus <= limits.vcpus:
            raise InvalidRequest(f"vcpus: must be between 1 and {limits.vcpus}.")
        if not limits.memory_min_mb <= body.memory_mb <= limits.memory_max_mb:
            raise InvalidRequest(
                f"memory_mb: must be between {limits.memory_min_mb} and {limits.memory_max_mb}."
            )
        # As large as its template's in any case: a file system is never made smaller.
        if not DEFAULT_DISK_SIZE_MB <= body.disk_size_mb <= limits.disk_max_mb:
            raise InvalidRequest(
                f"disk_size_mb: must be between {DEFAULT_DISK_SIZE_MB} and {limits.disk_max_mb}."
            )
        return Spec(
            body.template,
            body.vcpus,
            body.memory_mb,
            body.envs,
            body.limits,
            Ingress(tuple(sorted(set(body.public_ports))), body.all_ports_public, body.request_host),
            self._network_rules.policy(
                allow_internet=body.network.allow_internet, allow=body.network.allow, deny=body.network.deny
            ),
            body.name,
            body.metadata,
            body.disk_size_mb,
            tuple(sorted(set(body.host_tags))),
        )

    async def _insert(self, caller: Caller, sandbox_id: SandboxId, request: _Request) -> Sandbox | None:
        """Place the sandbox and insert its row; returns the earlier sandbox if the request is a repetition."""
        spec, idempotency = request.spec, request.idempotency

        async def insert(tx: Transaction) -> Sandbox | None:
            available = await self._capacity.lock_and_read(tx, caller.team_id)
            await lock_active_team(tx, caller.team_id)
            if idempotency is not None:
                earlier = await placement_store.find_repeated(tx, caller.team_id, idempotency.key)
                if earlier is not None:
                    return _same_request(*earlier, idempotency)
            placed, origin, wanted = spec, Origin(spec.template), _wanted(spec)
            reference = Reference.parse(spec.template, field="template")
            template = request.template or await find_template(tx, caller.team_id, reference)
            if template is not None:
                named = spec.template if reference.template_id is None else template.name
                placed = replace(
                    request.size.of(template, spec),
                    template=named,
                    envs={**template.defaults.env, **spec.envs},
                )
                origin = Origin(
                    template.image,
                    template.snapshot_id,
                    template.template_id,
                    CommandDefaults(template.defaults.user or "root", template.defaults.working_dir),
                    request.build_id,
                )
                wanted = _wanted(placed)
            available.team.require_within_quota(added_usage(placed.vcpus, placed.memory_mb, new=1))
            host = await (
                available.choose(wanted) if template is None else available.choose_for(template, wanted)
            )
            await placement_store.insert_sandboxes(
                tx,
                self._hints,
                by=caller.actor,
                ids=[sandbox_id],
                team_id=caller.team_id,
                host_id=host.host_id,
                spec=placed,
                origin=origin,
                idempotency=idempotency,
            )
            return None

        return await self._capacity.transaction_asking_hosts(insert)

    async def _abandon(self, sandbox_id: SandboxId, insertion: asyncio.Future[Sandbox | None]) -> None:
        # The row may be on its way to the database still.
        await asyncio.wait({insertion})
        if insertion.cancelled() or insertion.exception() is not None:
            return
        await desired_state_store.set_desired_stopped(
            self._database, self._hints, [sandbox_id], by=SYSTEM, cause="create_abandoned"
        )
        self._reconciler.wake()


def _wanted(spec: Spec) -> Wanted:
    return Wanted(
        spec.template, spec.vcpus, spec.memory_mb, spec.disk_size_mb, host_tags=frozenset(spec.host_tags)
    )


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
