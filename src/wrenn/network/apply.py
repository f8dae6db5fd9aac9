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
from wrenn.network.limits import CLOSED_TIMEOUTS, FlowTable
from wrenn.network.plan import FORWARDING, SlotPlan
from wrenn.network.reachable_networks import ReachableNetworks


async def bring_up(plan: SlotPlan) -> None:
    """Create the slot. On failure or cancellation everything is removed again.

    Raises:
        KernelError, CommandError: a step failed.
    """
    async with Undo() as undo:
        # One undo step for all steps, pushed before the first: everything of the slot is in its namespace or
        # attached to its veth, and removing what does not exist is harmless.
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
    """Remove a slot, or what exists of a partly created one.

    The veth is removed first, which takes effect at once. The kernel frees a namespace later, and until then
    the names of its links would be in use.
    """
    await send_all([RemoveLink(host_link)])
    await remove_namespace(namespace)


async def ensure_flow_table(table: FlowTable) -> dict[str, str]:
    """Let the kernel track at least as many connections as `table` requires, and closed ones no longer than that allows for.

    Returns the previous values of changed settings.

    Raises:
        KernelError: the kernel refuses.
    """

    def set_limits() -> dict[str, str]:
        wanted = {"netfilter/nf_conntrack_max": table.size, "netfilter/nf_conntrack_buckets": table.buckets}
        raised = {key: value for key, value in wanted.items() if read_number(key) < value}
        shortened = {key: value for key, value in CLOSED_TIMEOUTS.items() if read_number(key) > value}
        return set_sysctls({key: str(value) for key, value in (raised | shortened).items()})

    return await in_namespace(None, set_limits)


async def install_root_table(
    block: Block, reach: ReachableNetworks, on_link: Iterable[IPv4Network]
) -> dict[str, str]:
    """Install the block's table, or replace it atomically, and enable IPv4 forwarding.

    Returns the previous values of the kernel settings that this changed.
    """
    await apply_batch(root_table(block, reach, on_link))
    return await in_namespace(None, partial(set_sysctls, FORWARDING))
