"""Moves a sandbox to another host: chooses the host, writes it down, then waits for the reconciler (docs/design/moves.md)."""

from __future__ import annotations

from dataclasses import replace

from wrenn.base.errors import Conflict, Forbidden, NoCapacity, NotFound
from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId
from wrenn.control.auth import Caller, Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.hosts import Host
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.operations.capacity import Admission, Capacity
from wrenn.control.sandboxes.operations.commit_move import moved
from wrenn.control.sandboxes.operations.invalid_state import raise_invalid_state
from wrenn.control.sandboxes.operations.waiting import WaitLimits, wait_moved, wait_resumed
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import State


class Moves:
    """Moves sandboxes between hosts."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        lookup: Lookup,
        changes: ChangeNotifier,
        reconciler: Reconciler,
        capacity: Capacity,
        wait_limits: WaitLimits,
    ) -> None:
        self._database = database
        self._hints = hints
        self._lookup = lookup
        self._changes = changes
        self._reconciler = reconciler
        self._capacity = capacity
        self._wait_limits = wait_limits

    async def move(
        self, credential: Credential, text_id: str, *, host_id: str | None, pause: bool
    ) -> Sandbox:
        """Move a paused sandbox to another host, and return it when it is there. With `pause` a running one is paused for that, and resumed there.

        Raises:
            InvalidState: it is in another state, or somebody else is changing it. Conflict: it is on that host.
            Forbidden: the caller may not name a host. NotFound: there is no such host.
            NoCapacity, Unavailable: no host can take it; says why. Else the reason why it was not moved; it stays where it is.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox, caller = found.sandbox, found.caller
        target = None if host_id is None else HostId.parse(host_id)
        with self._changes.watch(sandbox.sandbox_id) as change:
            begun = await self._capacity.transaction_asking_hosts(
                lambda tx: self._begin(tx, sandbox, caller, target, pause=pause)
            )
            if begun is None:
                rule = "only one that is paused or runs" if pause else "only a paused one"
                await raise_invalid_state(self._database, sandbox, f"{rule} can be moved")
            await fault_point("control.move.after_desired")
            self._reconciler.wake()
            chosen, resumes = begun
            done = await wait_moved(change, chosen, self._wait_limits)
            return await wait_resumed(change, self._wait_limits) if resumes else done

    async def _begin(
        self, tx: Transaction, found: Sandbox, caller: Caller, target: HostId | None, *, pause: bool
    ) -> tuple[HostId, bool] | None:
        """Choose the target and write it down; return it, and whether the sandbox is resumed there. None: it cannot be moved now."""
        admission = await self._capacity.lock_and_read(tx, found.team_id)
        # A former move may have ended since it was found: its host is known only under the lock.
        locked = await desired_state_store.lock(tx, found.sandbox_id)
        assert locked is not None, "rows are kept"
        sandbox, _ = locked
        if sandbox.is_moving:
            return None
        resumes = pause and sandbox.status is State.RUNNING
        host = await choose_target(admission, sandbox, target, caller, resumes=resumes)
        was_set = await desired_state_store.set_moving(
            tx,
            self._hints,
            sandbox.sandbox_id,
            sandbox.host_id,
            host.host_id,
            resumes=resumes,
            pauses=resumes,
            by=caller.actor,
        )
        return (host.host_id, resumes) if was_set else None


async def choose_target(
    admission: Admission,
    sandbox: Sandbox,
    target: HostId | None,
    caller: Caller | None,
    *,
    resumes: bool,
) -> Host:
    """Choose where a sandbox is moved to: `target`, if the caller may name it, or the best host.

    Raises:
        As `Moves.move`.
    """
    source = await admission.find_host(sandbox.host_id)
    wanted = replace(
        moved(
            image=sandbox.image,
            vcpus=sandbox.vcpus,
            memory_mb=sandbox.memory_mb,
            disk_size_mb=sandbox.disk_size_mb,
            resumes=resumes,
        ),
        platform=sandbox.platform,
        host_tags=frozenset(sandbox.host_tags),
        not_on=sandbox.host_id,
    )
    if target is None:
        host = await admission.choose(wanted)
    else:
        named = await admission.find_host(target)
        _require_may_name(caller, named)
        assert named is not None, "looked at"
        if target == sandbox.host_id:
            raise Conflict(f"Sandbox {sandbox.sandbox_id} is on that host.")
        host = await admission.choose_among(wanted, [target])
    if source is not None and source.team_id is not None and host.team_id != source.team_id:
        raise NoCapacity("What was saved on a team's own host is not restored on a host of the platform.")
    return host


def _require_may_name(caller: Caller | None, host: Host | None) -> None:
    """Return if the caller may choose this host.

    Raises:
        Forbidden: only admins may name hosts. NotFound: there is no such host that the caller may see.
    """
    is_admin = caller is not None and caller.account is not None and caller.account.is_admin
    may_administer = caller is not None and caller.role.may_administer
    if not is_admin and not may_administer:
        raise Forbidden(
            "To name the host needs an admin of the platform, or one of the team that the host belongs to."
        )
    if host is None or not (is_admin or (caller is not None and host.team_id == caller.team_id)):
        raise NotFound("There is no such host.")
