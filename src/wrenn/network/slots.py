"""The pool of network slots: some are prepared in advance; each serves one sandbox and is then destroyed.

A slot is never reused: the conntrack and neighbour state of one sandbox must not affect the next. An index is
used again only after all others of the block.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import Conflict, DeadlineExceeded, NoCapacity, NotFound
from wrenn.base.faults import fault_point
from wrenn.base.loops import Loop
from wrenn.base.tasks import OwnedTasks
from wrenn.linux.connections import reset_connections
from wrenn.linux.link_counters import LinkCounters, read_counters
from wrenn.linux.nft import apply_batch
from wrenn.linux.tap import NamedTap, give_tap, open_tap
from wrenn.network.apply import bring_up, remove_slot
from wrenn.network.block import SLOT_LIMIT, Block
from wrenn.network.firewall import TAP, egress_change, root_table_removal
from wrenn.network.limits import NetworkLimits
from wrenn.network.name_proxy import ConnectionBudget, NameProxy
from wrenn.network.plan import NO_RATE, plan_slot
from wrenn.network.policy import EgressPolicy
from wrenn.network.reachable_networks import ReachableNetworks
from wrenn.network.root_firewall import RootFirewall
from wrenn.network.sweep import remove_stray_slots

_log = logging.getLogger(__name__)

PREPARE_TIMEOUT_S: Final = 60.0
"""Preparing takes about 30 ms; with many creates at once, less than a second; the first on a slow host, many seconds."""

REMOVE_TIMEOUT_S: Final = 20.0
RETRY_S: Final = 5.0
FIREWALL_CHECK_S: Final = 10.0
"""Longest time that the host is without our table after somebody flushed all rules, or that a newly joined
network is reachable."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A prepared network: a namespace with a tap for the VMM, which the host reaches at `address`."""

    index: int
    namespace: str
    address: str

    def open_tap(self) -> int:
        """Open the slot's tap for one VMM. The caller closes the descriptor."""
        return open_tap(self.namespace, TAP)

    def give_tap(self, uid: int) -> NamedTap:
        """Let the VMM's user `uid` open the slot's tap, and return where it is."""
        tap = NamedTap(self.namespace, TAP)
        give_tap(tap, uid)
        return tap


class Slots:
    """The slots of one block. An index is in exactly one state: taken, ready, being prepared or being removed."""

    def __init__(
        self,
        block: Block,
        *,
        vmm_uid: int,
        vmm_gid: int,
        ready_target: int = 4,
        limit: int = SLOT_LIMIT,
        reach: ReachableNetworks | None = None,
        limits: NetworkLimits = NO_RATE,
    ) -> None:
        assert 0 <= ready_target <= limit <= SLOT_LIMIT, "a block has no more slots than its addresses"
        self._block = block
        self._reach = reach or ReachableNetworks()
        self._firewall = RootFirewall(block, self._reach)
        self._vmm_uid = vmm_uid
        self._vmm_gid = vmm_gid
        self._ready_target = ready_target
        self._limit = limit
        self._limits = limits
        self._taken: dict[int, str] = {}
        self._ready: deque[int] = deque()
        self._preparing: set[int] = set()
        self._removals: dict[int, asyncio.Task[object]] = {}
        """A failed removal stays here, so that its index is not used again; `remove` retries it."""
        self._proxies: dict[int, NameProxy] = {}
        """Of slots whose policy has names."""
        self._connections_by_name = ConnectionBudget()
        self._last_index = 0
        self._refilling = Loop("prepare network slots")
        self._background = OwnedTasks()
        self._removers = OwnedTasks()

    @property
    def taken(self) -> dict[int, str]:
        """Taken slots with their owners."""
        return dict(self._taken)

    @property
    def held(self) -> frozenset[int]:
        """All slots that this pool manages, including the free ones."""
        return frozenset({*self._taken, *self._ready, *self._preparing, *self._removals})

    async def start(self, adopted: dict[int, str]) -> None:
        """Adopt the slots in `adopted`, remove all others of the block, and start preparing new ones.

        The firewall is replaced atomically; connections of adopted slots are not interrupted.
        """
        for index, owner in adopted.items():
            self.adopt(index, owner)
        if settings_before := await self._firewall.install():
            _log.info("kernel settings changed for good", extra={"before": settings_before})
        await remove_stray_slots(self._block, self._taken)
        self._background.start("prepare network slots", self._refill())
        self._background.start("check firewall", self._keep_firewall())

    def adopt(self, index: int, owner: str) -> None:
        """Mark an existing slot as taken by `owner`.

        Raises:
            Conflict: it is not free.
        """
        if index in self.held:
            raise Conflict(f"Network slot {index} is already in use.")
        self._taken[index] = owner

    async def acquire(self, owner: str) -> Slot:
        """Take a new slot for `owner`: a ready one, or one prepared now. If cancelled, none is taken.

        Raises:
            NoCapacity: the block has no free slot.
            DeadlineExceeded: preparing took too long.
        """
        index = self._ready.popleft() if self._ready else await self._prepare()
        self._taken[index] = owner
        self._refilling.wake()
        return Slot(index, self._block.namespace(index), self.address(index))

    def address(self, index: int) -> str:
        """Where the host reaches the sandbox in this slot."""
        return str(self._block.address(index))

    def reset_connections(self, address: str) -> None:
        """Reset this host's connections to the sandbox at `address`. Blocking."""
        reset_connections(address)

    def counters(self, index: int) -> LinkCounters | None:
        """Return the counters of the slot's link in the root namespace."""
        return read_counters(self._block.host_link(index))

    async def set_egress(self, index: int, policy: EgressPolicy) -> None:
        """Apply `policy` to a taken slot, atomically and to established connections too.

        A slot starts with the default policy.

        Raises:
            NotFound: the slot is not taken.
        """
        if index not in self._taken:
            raise NotFound(f"Network slot {index} is not in use.")
        await fault_point("network.egress.before")
        if policy.allow_names:
            proxy = await self._proxy(index)
            await proxy.set_names(policy.allow_names)
        await apply_batch(egress_change(policy, self._reach), namespace=self._block.namespace(index))
        if not policy.allow_names:
            await self._close_proxy(index)

    async def release(self, index: int, owner: str) -> None:
        """Release a slot. It is destroyed in the background; `remove` waits for that. Idempotent.

        A slot that has another owner by now is not touched: a release may be repeated much later.
        """
        if self._taken.get(index) == owner:
            del self._taken[index]
            self._start_removal(index)

    async def remove(self, index: int, owner: str) -> None:
        """Release a slot and wait until it is destroyed. Idempotent, and can be retried after a failure.

        If cancelled, the removal continues in the background.

        Raises:
            WrennError: the removal failed.
        """
        await self.release(index, owner)
        removal = self._removals.get(index)
        if removal is not None and removal.done():
            removal = self._start_removal(index)
        if removal is not None:
            await asyncio.shield(removal)

    async def close(self) -> None:
        """Stop preparing, remove the free slots, and remove the firewall if no slot is taken.

        Taken slots keep working, but reach no server by name until a successor sets their policies.
        """
        await self._background.close()
        while self._ready:
            self._start_removal(self._ready.popleft())
        if self._removals:
            await asyncio.wait(self._removals.values(), timeout=REMOVE_TIMEOUT_S)
        await self._removers.close()
        for index in list(self._proxies):
            await self._close_proxy(index)
        if not self.held:
            await apply_batch(root_table_removal(self._block))

    async def _prepare(self) -> int:
        index = self._reserve()
        plan = plan_slot(
            self._block,
            index,
            vmm_uid=self._vmm_uid,
            vmm_gid=self._vmm_gid,
            reach=self._reach,
            limits=self._limits,
        )
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                await bring_up(plan)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"A network slot was not ready within {PREPARE_TIMEOUT_S:.0f} s.", context={"slot": index}
            ) from error
        finally:
            self._preparing.discard(index)
        return index

    def _reserve(self) -> int:
        held = self.held
        if len(held) >= self._limit:
            raise NoCapacity(f"All {self._limit} network slots of this host are in use.")
        index = self._last_index % self._limit + 1
        while index in held:
            index = index % self._limit + 1
        self._last_index = index
        self._preparing.add(index)
        return index

    def _start_removal(self, index: int) -> asyncio.Task[object]:
        removal = self._removers.start(f"remove network slot {index}", self._remove(index))
        self._removals[index] = removal
        return removal

    async def _proxy(self, index: int) -> NameProxy:
        if (proxy := self._proxies.get(index)) is None:
            proxy = NameProxy(
                self._block.namespace(index),
                self._reach.name_servers,
                self._reach.blocked(),
                self._connections_by_name,
            )
            await proxy.start()
            self._proxies[index] = proxy
        return proxy

    async def _close_proxy(self, index: int) -> None:
        if (proxy := self._proxies.pop(index, None)) is not None:
            await proxy.close()

    async def _remove(self, index: int) -> None:
        async with asyncio.timeout(REMOVE_TIMEOUT_S):
            # Its sockets would keep the namespace alive.
            await self._close_proxy(index)
            await remove_slot(self._block.namespace(index), self._block.host_link(index))
        del self._removals[index]
        self._refilling.wake()

    async def _refill(self) -> None:
        """Keep `ready_target` slots ready. They are prepared one at a time, so that refilling does not slow down a burst of creates."""
        while True:
            await self._refilling.attempt(self._prepare_missing, otherwise=None)
            # A create that needs a slot raises the error itself.
            await self._refilling.wait(RETRY_S if self._refilling.status.failures else None)

    async def _prepare_missing(self) -> None:
        while len(self._ready) < self._ready_target and len(self.held) < self._limit:
            self._ready.append(await self._prepare())

    async def _keep_firewall(self) -> None:
        """Check the root table regularly: a restart of the host's firewall service flushes all rules, and the host may join or leave networks."""
        loop = Loop("check the firewall")
        await loop.run(self._ensure_firewall, every_s=FIREWALL_CHECK_S, at_once=False)

    async def _ensure_firewall(self) -> None:
        if (reason := await self._firewall.ensure()) is not None:
            _log.warning(
                "firewall table was written again", extra={"table": self._block.table, "reason": reason}
            )
