"""Host names in allow lists: which are taken, and what they stand for."""

from __future__ import annotations

import pytest

from wrenn.base.errors import InvalidRequest
from wrenn.base.host_names import HostPattern, destination_text, parse_destinations
from wrenn.base.networks import NETWORKS_LIMIT


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("example.com", "example.com", True),
        ("Example.COM.", "example.com", True),
        ("example.com", "www.example.com", False),
        ("example.com", "badexample.com", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("*.example.com", "example.com.attacker.net", False),
        ("_dmarc.xn--bcher-kva.example", "_dmarc.xn--bcher-kva.example", True),
    ],
)
def test_a_pattern_stands_for_one_name_or_for_all_below_it(pattern: str, name: str, matches: bool):
    assert HostPattern.parse(pattern).matches(name) is matches


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "*.",
        "*.*.com",
        "a.*.com",
        "*example.com",
        "localhost",
        "a..com",
        ".example.com",
        "-a.com",
        "a-.com",
        "a b.com",
        "a.com/path",
        "http://a.com",
        "a.com:443",
        "bücher.example",
        "ｅxample.com",
        "a.com\n",
        "x.127",
        "0x7f.0.0.0x1",
        "a" * 64 + ".com",
        "a." * 126 + "com",
    ],
)
def test_what_is_no_name_is_refused(text: str):
    with pytest.raises(InvalidRequest):
        HostPattern.parse(text)


def test_networks_and_names_may_be_mixed_and_keep_their_order():
    given = ["*.example.com", "9.9.9.9", "example.com", "44.0.0.0/8", "EXAMPLE.com"]
    assert [destination_text(found) for found in parse_destinations(given)] == given[:4]
    with pytest.raises(InvalidRequest, match="IPv6"):
        parse_destinations(["2001:db8::/32"])
    with pytest.raises(InvalidRequest, match="at most"):
        parse_destinations(["example.com"] * (NETWORKS_LIMIT + 1))
