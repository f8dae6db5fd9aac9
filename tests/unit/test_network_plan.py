"""What is decided about slots, before anything is done."""

from __future__ import annotations

import json
from ipaddress import IPv4Network

import pytest

from wrenn.base.errors import InvalidRequest
from wrenn.linux.netlink import AddAddress, AddHostRoute, AddNeighbour, AddVeth, BringUp
from wrenn.network import Block, EgressPolicy
from wrenn.network.firewall import PROTECTED, egress_change, root_table, slot_table
from wrenn.network.plan import TAP_MAC, plan_slot

BLOCK = Block(15)


def test_every_slot_looks_the_same_to_its_guest():
    one, two = (plan_slot(BLOCK, slot, vmm_uid=1, vmm_gid=2) for slot in (1, 4094))
    facing_the_guest = [request for request in one.inside if getattr(request, "link", "") == "tap0"]
    assert facing_the_guest == [request for request in two.inside if getattr(request, "link", "") == "tap0"]
    assert BringUp("tap0", TAP_MAC) in facing_the_guest
    assert AddAddress("tap0", "169.254.0.22", 30) in facing_the_guest


def test_both_ends_of_a_slot_know_each_other_without_asking():
    plan = plan_slot(BLOCK, 258, vmm_uid=1, vmm_gid=2)
    outer, inner = "02:fc:02:0f:01:02", "02:fc:01:0f:01:02"
    assert plan.pair == (AddVeth("wr15v258", outer, "eth0", inner, "wrenn-15-258"),)
    assert AddNeighbour("eth0", "169.254.1.1", outer) in plan.inside
    assert AddNeighbour("wr15v258", "10.11.241.2", inner) in plan.outside
    assert AddHostRoute("wr15v258", "10.11.241.2", "169.254.1.1") in plan.outside


def test_no_two_slots_share_a_name_or_hardware_address():
    plans = [plan_slot(Block(b), n, vmm_uid=1, vmm_gid=2) for b in (0, 1, 15) for n in (1, 15, 256, 4094)]
    for field in ("namespace", "host_link", "address", "pair"):
        assert len({getattr(plan, field) for plan in plans}) == len(plans)


def test_protected_destinations_come_before_any_policy():
    for policy in (EgressPolicy.allow_all(), EgressPolicy.allow_only(["10.0.0.0/8", "169.254.169.254"])):
        flush, first, *_ = egress_change(policy)
        assert "flush" in flush
        assert "reject" in json.dumps(first)
        assert all(str(network.network_address) in json.dumps(first) for network in PROTECTED)


@pytest.mark.parametrize(
    ("policy", "verdicts"),
    [
        (EgressPolicy.allow_all(), ["reject", "accept"]),
        (EgressPolicy.deny_all(), ["reject", "reject"]),
        (EgressPolicy.allow_only(["192.0.2.0/24"]), ["reject", "accept", "reject"]),
        (EgressPolicy.deny(["192.0.2.0/24"]), ["reject", "reject", "accept"]),
        (EgressPolicy.allow_only([]), ["reject", "reject"]),
    ],
)
def test_a_policy_ends_in_a_verdict_for_everything(policy: EgressPolicy, verdicts: list[str]):
    rules = json.loads(json.dumps(egress_change(policy)[1:]))
    assert [next(iter(rule["add"]["rule"]["expr"][-1])) for rule in rules] == verdicts


def test_a_policy_is_part_of_the_one_batch_of_its_slot():
    policy = EgressPolicy.deny(["192.0.2.0/24"])
    batch = slot_table(BLOCK.address(1), policy)
    assert all(rule in batch for rule in egress_change(policy)[1:])


def test_overlapping_networks_are_merged():
    policy = EgressPolicy.allow_only(["192.0.2.0/25", "192.0.2.128/25", "192.0.2.7"])
    assert policy.networks == (IPv4Network("192.0.2.0/24"),)


@pytest.mark.parametrize(
    "text", ["example.org", "192.0.2.1/24", "2001:db8::/32", "", "0.0.0.0/33", "1.2.3.4; drop"]
)
def test_what_is_no_ipv4_network_is_refused(text: str):
    with pytest.raises(InvalidRequest, match="IPv4 network"):
        EgressPolicy.allow_only([text])


def test_a_list_may_not_be_endless():
    with pytest.raises(InvalidRequest, match="1000"):
        EgressPolicy.deny(f"10.{n // 256}.{n % 256}.0/24" for n in range(1001))


def test_the_root_table_names_no_single_slot():
    text = json.dumps(root_table(BLOCK))
    assert '"wr15v*"' in text
    assert "10.11.240.0" in text
    assert "169.254.0.21" not in text
