"""Carries out what `plan.py` decided. No decisions here."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from ipaddress import IPv4Network

from wrenn.base.faults import fault_point
from wrenn.base.undo import Undo
from wrenn.linux.namespaces import create_namespace, in_namespace, read_number, remove_namespace, set_sysctls
from wrenn.linux.netlink import RemoveLink, send_all
from wrenn.linux.nft import apply_batch
from wrenn.linux.tap import create_tap
from wrenn.network.block import Block
from wrenn.network.firewall import TAP, root_table
from wrenn.network.limits import FlowTable
from wrenn.network.plan import FORWARDING, SlotPlan
from wrenn.network.reach import HostReach


async def bring_up(plan: SlotPlan) -> None:
    """Make the slot. On any failure or cancellation nothing of it is left.

    Raises:
        KernelError, CommandError: a step failed.
    """
    async with Undo() as undo:
        # One way back for all steps, and taken before the first: whatever belongs to the slot lies in its namespace or
        # hangs on its veth, and removing what is not there does no harm.
        undo.push("remove slot", partial(remove_slot, plan.namespace, plan.host_link))
        await create_namespace(plan.namespace)
        await fault_point("network.slot.after_namespace")
        await in_namespace(plan.namespace, partial(set_sysctls, plan.sysctls))
        await fault_point("network.slot.after_sysctls")
        await create_tap(plan.namespace, TAP, uid=plan.tap_uid, gid=plan.tap_gid)
        await fault_point("network.slot.after_tap")
        await send_all(plan.pair)
        await fault_point("network.slot.after_veth")
        await send_all(plan.inside, namespace=plan.namespace)
        await fault_point("network.slot.after_inside")
        await apply_batch(plan.firewall, namespace=plan.namespace)
        await fault_point("network.slot.after_firewall")
        await in_namespace(None, partial(set_sysctls, plan.host_sysctls))
        await send_all(plan.outside)
        await fault_point("network.slot.after_outside")
        undo.keep()


async def remove_slot(namespace: str, host_link: str) -> None:
    """Remove a slot, whole or half made, or what is left of it.

    The veth goes first and at once; the kernel frees a namespace later, and until then its links would hold their names.
    """
    await send_all([RemoveLink(host_link)])
    await remove_namespace(namespace)


async def ensure_flow_table(table: FlowTable) -> dict[str, str]:
    """Let the machine track as many connections as `table` has room for; a larger table stays. Returns what was before.

    Raises:
        KernelError: the kernel does not let us.
    """

    def raise_limits() -> dict[str, str]:
        wanted = {"netfilter/nf_conntrack_max": table.size, "netfilter/nf_conntrack_buckets": table.buckets}
        return set_sysctls({key: str(value) for key, value in wanted.items() if read_number(key) < value})

    return await in_namespace(None, raise_limits)


async def install_root_table(
    block: Block, reach: HostReach, on_link: Iterable[IPv4Network]
) -> dict[str, str]:
    """Put the block's table in place, or replace it in one step, and let the machine forward IPv4.

    Returns the old values of the kernel settings that this changed.
    """
    await apply_batch(root_table(block, reach, on_link))
    return await in_namespace(None, partial(set_sysctls, FORWARDING))
