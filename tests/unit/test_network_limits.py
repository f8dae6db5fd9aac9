"""All sandboxes of a full host fit into its connection table, and each slot limits the rate of its links."""

from __future__ import annotations

import json

import pytest

from wrenn.base.units import GIB
from wrenn.linux.netlink import LimitRate
from wrenn.network import SLOT_LIMIT, Block, NetworkLimits
from wrenn.network.limits import ENTRIES_A_FLOW, HOST_FLOWS, plan_flow_table
from wrenn.network.plan import plan_slot


@pytest.mark.parametrize("memory_gib", [1, 4, 24, 512])
@pytest.mark.parametrize("flows", [1000, 10_000])
def test_every_slot_has_its_flows_beside_those_of_the_host(memory_gib: int, flows: int) -> None:
    table = plan_flow_table(memory_b=memory_gib * GIB, flows=flows)
    assert table.size == HOST_FLOWS + table.slots * flows * ENTRIES_A_FLOW
    assert 1 <= table.slots <= SLOT_LIMIT
    assert table.buckets * 4 == table.size - table.size % 4


def test_a_small_machine_has_fewer_slots_and_a_large_one_all() -> None:
    assert plan_flow_table(memory_b=24 * GIB, flows=500).slots == SLOT_LIMIT
    assert plan_flow_table(memory_b=4 * GIB, flows=1000).slots == 378
    assert plan_flow_table(memory_b=4 * GIB, flows=10_000).slots == 37


def test_a_slot_limits_flows_and_both_directions() -> None:
    limits = NetworkLimits(flows=1234, bit_per_s=8_000_000)
    plan = plan_slot(Block(0), 7, vmm_uid=0, vmm_gid=0, limits=limits)
    assert '"val": 1234' in json.dumps(plan.firewall)
    assert plan.inside[-1] == LimitRate("eth0", 8_000_000)
    assert plan.outside[-1] == LimitRate(plan.host_link, 8_000_000)


def test_without_a_rate_there_is_no_queue() -> None:
    plan = plan_slot(Block(0), 7, vmm_uid=0, vmm_gid=0, limits=NetworkLimits(bit_per_s=0))
    assert not [r for r in (*plan.inside, *plan.outside) if isinstance(r, LimitRate)]
