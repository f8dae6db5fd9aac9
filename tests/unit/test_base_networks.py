"""Lists of networks: reading, combining, bounds."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from wrenn.base.errors import InvalidRequest
from wrenn.base.networks import (
    NETWORKS_LIMIT,
    collapse_networks,
    is_within,
    network_text,
    parse_networks,
    without,
)


@pytest.mark.parametrize(
    "text",
    ["example.org", "192.0.2.1/24", "", "0.0.0.0/33", "1.2.3.4; drop", "1.2.3.4/", "١.2.3.4", "1" * 1000],
)
def test_what_is_no_ipv4_network_is_refused(text: str):
    with pytest.raises(InvalidRequest, match="IPv4 network"):
        parse_networks([text])


@pytest.mark.parametrize("text", ["2001:db8::/32", "::1"])
def test_ipv6_is_refused_by_name(text: str):
    with pytest.raises(InvalidRequest, match="no IPv6"):
        parse_networks([text])


def test_a_list_may_not_be_endless():
    def endless():
        while True:
            yield "44.0.0.1"

    with pytest.raises(InvalidRequest, match=str(NETWORKS_LIMIT)):
        parse_networks(endless())


def test_a_list_keeps_its_order_and_names_each_network_once():
    networks = parse_networks(["44.0.2.0/24", "44.0.1.7", "44.0.2.0/24", "44.0.1.7/32"])
    assert [network_text(network) for network in networks] == ["44.0.2.0/24", "44.0.1.7"]


def test_holes_are_cut_out():
    whole, hole = IPv4Network("10.0.0.0/8"), IPv4Network("10.1.2.3/32")
    left = without([whole, IPv4Network("10.1.0.0/16")], [hole])
    assert sum(network.num_addresses for network in left) == whole.num_addresses - 1
    assert not any(network.overlaps(hole) for network in left)
    assert without([hole], [whole]) == ()


def test_a_network_is_within_others_that_cover_it_together():
    halves = [IPv4Network("10.0.0.0/25"), IPv4Network("10.0.0.128/25")]
    assert is_within(IPv4Network("10.0.0.0/24"), collapse_networks(halves))
    assert not is_within(IPv4Network("10.0.0.0/23"), collapse_networks(halves))
