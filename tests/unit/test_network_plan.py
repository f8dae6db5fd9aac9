"""What is decided about slots, before anything is done."""

from __future__ import annotations

import json
from ipaddress import IPv4Network

import pytest

from wrenn.base.errors import InvalidRequest
from wrenn.base.networks import PRIVATE_NETWORKS, PROTECTED_NETWORKS
from wrenn.linux.netlink import AddAddress, AddHostRoute, AddNeighbour, AddVeth, BringUp
from wrenn.network import Block, EgressPolicy, ReachableNetworks
from wrenn.network.firewall import egress_change, root_table, slot_table
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


def test_what_no_sandbox_may_reach_comes_before_any_policy():
    for policy in (EgressPolicy(), EgressPolicy.parse(allow=["10.0.0.0/8", "169.254.169.254"])):
        flush, *rules = egress_change(policy, ReachableNetworks())
        assert "flush" in flush
        texts = [json.dumps(rule) for rule in rules]
        assert ["reject" in text for text in texts[:3]] == [True, True, True]
        for network in (*PROTECTED_NETWORKS, *PRIVATE_NETWORKS):
            covering = (text for text in texts[:3] if str(network.network_address) in text)
            assert next(covering, None) or network == IPv4Network("192.0.0.192/32")


@pytest.mark.parametrize(
    ("policy", "verdicts"),
    [
        (EgressPolicy(), ["accept"]),
        (EgressPolicy(allow_internet=False), ["reject"]),
        (EgressPolicy.parse(allow_internet=False, allow=["44.0.2.0/24"]), ["accept", "reject"]),
        (EgressPolicy.parse(deny=["44.0.2.0/24"]), ["reject", "accept"]),
        (EgressPolicy.parse(allow=["44.0.2.0/24"], deny=["0.0.0.0/0"]), ["accept", "reject", "accept"]),
    ],
)
def test_what_is_allowed_wins_over_what_is_denied(policy: EgressPolicy, verdicts: list[str]):
    assert verdicts_of(policy) == verdicts


def verdicts_of(policy: EgressPolicy) -> list[str]:
    """What the rules of `egress` that belong to the policy decide."""
    commands = json.loads(json.dumps(egress_change(policy, ReachableNetworks())))
    rules = [rule for command in commands if (rule := command.get("add", {}).get("rule"))]
    return [next(iter(rule["expr"][-1])) for rule in rules if rule["chain"] == "egress"][3:]


def test_only_the_proxy_gets_through_by_names_and_only_while_there_are_names():
    named = EgressPolicy.parse(allow_internet=False, allow=["example.com"])
    assert verdicts_of(named) == ["accept", "reject"]
    for policy, count in ((named, 1), (EgressPolicy(allow_internet=False), 0)):
        text = json.dumps(egress_change(policy, ReachableNetworks()))
        assert [text.count('"mark"'), text.count('"redirect"')] == [count, count]


def test_a_policy_is_part_of_the_one_batch_of_its_slot():
    policy, reach = EgressPolicy.parse(deny=["44.0.2.0/24"]), ReachableNetworks()
    batch = slot_table(BLOCK.address(1), policy, reach, flows=1000)
    assert all(rule in batch for rule in egress_change(policy, reach)[1:])


def test_overlapping_networks_are_merged_for_nft():
    policy = EgressPolicy.parse(allow=["44.0.2.0/25", "44.0.2.128/25", "44.0.2.7"])
    assert '"addr": "44.0.2.0", "len": 24' in json.dumps(egress_change(policy, ReachableNetworks()))


def test_the_operators_ranges_are_cut_out_of_what_is_blocked():
    reach = ReachableNetworks.parse(name_servers="10.0.0.53", allowed="10.1.0.0/16,192.168.1.7")
    blocked = reach.blocked([IPv4Network("44.0.2.0/24")])
    assert not any(net.overlaps(hole) for net in blocked for hole in reach.allowed)
    before = sum(net.num_addresses for net in ReachableNetworks().blocked())
    assert sum(net.num_addresses for net in blocked) == before + 256 - 65536 - 1


@pytest.mark.parametrize(
    ("servers", "allowed"), [("10.0.0.0/8", ""), ("name.example", ""), ("", "10.0.0.1/8")]
)
def test_wrong_settings_of_the_operator_are_refused(servers: str, allowed: str):
    with pytest.raises(InvalidRequest):
        ReachableNetworks.parse(name_servers=servers, allowed=allowed)


def test_the_root_table_names_no_single_slot():
    text = json.dumps(root_table(BLOCK, ReachableNetworks(), ()))
    assert '"wr15v*"' in text
    assert "10.11.240.0" in text
    assert "169.254.0.21" not in text
