"""Maintains the block's table in the root namespace: restores it if it was removed, updates it when the host's networks change."""

from __future__ import annotations

from ipaddress import IPv4Network

from wrenn.base.networks import ALL_SLOTS, is_within
from wrenn.linux.namespaces import in_namespace
from wrenn.linux.netlink import on_link_networks
from wrenn.linux.nft import list_tables
from wrenn.network.apply import install_root_table
from wrenn.network.block import Block
from wrenn.network.reachable_networks import ReachableNetworks


class RootFirewall:
    """Installs the table and maintains it. Calls must not overlap."""

    def __init__(self, block: Block, reach: ReachableNetworks) -> None:
        self._block = block
        self._reach = reach
        self._on_link: frozenset[IPv4Network] = frozenset()

    async def install(self) -> dict[str, str]:
        """Install the table, or replace it atomically. Established connections are not interrupted.

        Returns the previous values of the kernel settings that this changed.
        """
        on_link = await self._read_on_link()
        changed = await install_root_table(self._block, self._reach, on_link)
        self._on_link = on_link
        return changed

    async def ensure(self) -> str | None:
        """Restore the table if it was removed, or update it if the host has joined or left a network.

        Returns why it was written, or None if it was up to date.
        """
        if self._block.table not in await list_tables():
            reason = "gone"
        elif await self._read_on_link() != self._on_link:
            reason = "host networks changed"
        else:
            return None
        await self.install()
        return reason

    async def _read_on_link(self) -> frozenset[IPv4Network]:
        found = await in_namespace(None, on_link_networks)
        # The slots' own routes change with them, and are protected in any case.
        return frozenset(network for network in found if not is_within(network, (ALL_SLOTS,)))
