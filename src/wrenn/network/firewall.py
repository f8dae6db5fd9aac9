"""Generates the nft rules: one table in each slot's namespace, one in the root namespace. Nothing is applied here.

The two overlap on purpose. If somebody flushes the root table, the slot's own table still blocks access to
other sandboxes, metadata services and private networks, and accepts connections only from the host. Only the
root table knows the host's own addresses and the networks that the host is directly connected to.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Final

from wrenn.base.networks import ALL_SLOTS, PROTECTED_NETWORKS
from wrenn.linux.nft import NftCommand
from wrenn.network.block import Block
from wrenn.network.limits import new_flows_per_s
from wrenn.network.policy import EgressPolicy
from wrenn.network.reachable_networks import ReachableNetworks

GUEST: Final = "169.254.0.21"
HOST_GATEWAY: Final = "169.254.1.1"
"""The host's address as every slot sees it; the only address that may open connections to a guest."""

TAP: Final = "tap0"
UPLINK: Final = "eth0"
SLOT_TABLE: Final = "wrenn"

NAME_PORTS: Final = (80, 443)
"""Ports at which a guest reaches servers by name, if its policy has names: HTTP and TLS."""
NAME_CONNECTIONS_LIMIT: Final = 256
"""Most connections of one guest to servers by name at once. Each takes at most about 130 KiB of the agent's memory."""
NAME_CONNECTIONS_PER_S: Final = 100
"""New connections of one guest to servers by name. Each costs time of the agent's event loop, also if it is closed at once."""
PROXY_MARK: Final = 0x77726E
"""Mark of the packets of the proxy that connects to servers by name. A guest's packets never carry one."""

PING_FLOWS_LIMIT: Final = 64
"""Most ICMP echo flows of one guest to its gateway. The guest chooses identifier and code, and each pair of them is a flow."""
_DNS_PORT: Final = 53

_Statement = dict[str, object]
_ACCEPT: Final[_Statement] = {"accept": None}
_DROP: Final[_Statement] = {"drop": None}
_COUNTER: Final[_Statement] = {"counter": None}
_REJECT: Final[_Statement] = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}


def slot_table(
    address: IPv4Address, policy: EgressPolicy, reach: ReachableNetworks, *, flows: int
) -> list[NftCommand]:
    """Return the commands that replace the table in the namespace of the slot at `address`. `flows` limits the guest's connections.

    The kernel does not count closed TCP connections among the connections at once, but keeps them in its table for a
    while. So the rate of new connections is limited too.
    """
    too_many = [
        # The first packet only: of a flow without answers, as of many UDP protocols, each packet is new.
        [
            _ct_state("new"),
            _IS_FIRST,
            _faster_than(new_flows_per_s(flows), burst=flows),
            _COUNTER,
            _DROP,
        ],
        [_ct_state("new"), _more_than(flows), _COUNTER, _DROP],
    ]
    from_guest, to_uplink = _meta("iifname", TAP), _meta("oifname", UPLINK)
    from_uplink, to_guest = _meta("iifname", UPLINK), _meta("oifname", TAP)
    original, reply = _ct("direction", "original"), _ct("direction", "reply")
    table = _Table(SLOT_TABLE)
    return [
        *table.fresh(),
        table.base_chain("guard", "filter", "prerouting", -300),
        table.rule("guard", from_guest, _ip("saddr", "!=", GUEST), _COUNTER, _DROP),
        table.rule("guard", from_guest, _meta("nfproto", "ipv6"), _DROP),
        table.base_chain("to_guest", "nat", "prerouting", -100),
        table.rule(
            "to_guest",
            from_uplink,
            _ip("saddr", "==", HOST_GATEWAY),
            _ip("daddr", "==", str(address)),
            _meta("l4proto", {"set": ["tcp", "udp"]}),
            {"dnat": {"family": "ip", "addr": GUEST}},
        ),
        table.base_chain("from_guest", "nat", "postrouting", 100),
        table.rule("from_guest", to_uplink, {"snat": {"family": "ip", "addr": str(address)}}),
        *_name_rules(policy, reach),
        table.base_chain("forward", "filter", "forward", 0, policy="drop"),
        table.chain("egress"),
        table.rule("forward", _ct_state("invalid"), _DROP),
        table.rule("forward", from_guest, to_uplink, reply, _ACCEPT),
        *(table.rule("forward", from_guest, *rule) for rule in too_many),
        # Every packet of a connection that the guest opened, not only the first: a stricter policy closes
        # existing connections too.
        table.rule("forward", from_guest, to_uplink, original, {"goto": {"target": "egress"}}),
        table.rule("forward", from_uplink, to_guest, reply, _ACCEPT),
        table.rule("forward", from_uplink, to_guest, _ip("saddr", "==", HOST_GATEWAY), _ACCEPT),
        # Programs of the host in the namespace, which download container images, are held to the same policy.
        table.base_chain("output", "filter", "output", 0),
        table.rule("output", to_uplink, reply, _ACCEPT),
        table.rule("output", to_uplink, _ct_state("related"), _ACCEPT),
        *(table.rule("output", to_uplink, *rule) for rule in too_many),
        table.rule("output", to_uplink, {"goto": {"target": "egress"}}),
        *_egress_rules(policy, reach),
    ]


def egress_change(policy: EgressPolicy, reach: ReachableNetworks) -> list[NftCommand]:
    """Return the commands that apply `policy` to a slot that has a `slot_table`."""
    table = _Table(SLOT_TABLE)
    return [
        {"flush": {"chain": table.name_chain("egress")}},
        *_egress_rules(policy, reach),
        *_name_rules(policy, reach),
    ]


def root_table(block: Block, reach: ReachableNetworks, on_link: Iterable[IPv4Network]) -> list[NftCommand]:
    """Return the commands that replace the block's table in the root namespace. Established connections are not interrupted.

    `on_link`: the networks that the host is directly connected to.
    """
    any_slot = block.host_link_prefix + "*"
    from_slot, to_slot = _meta("iifname", any_slot), _meta("oifname", any_slot)
    reply = _ct("direction", "reply")
    name_servers = _to_name_servers(reach)
    table = _Table(block.table)
    return [
        *table.fresh(),
        # After conntrack and before any DNAT: a port that the host forwards elsewhere counts as the host's
        # own.
        table.base_chain("prerouting", "filter", "prerouting", -150),
        table.chain("from_slot"),
        table.rule("prerouting", from_slot, {"goto": {"target": "from_slot"}}),
        table.rule("from_slot", _meta("nfproto", "ipv6"), _DROP),
        table.rule("from_slot", _ct_state("invalid"), _COUNTER, _DROP),
        table.rule("from_slot", _ip("saddr", "!=", _networks([block.subnet])), _COUNTER, _DROP),
        table.rule("from_slot", reply, _ACCEPT),
        table.rule("from_slot", _ip("daddr", "==", _networks([ALL_SLOTS])), _COUNTER, _DROP),
        *(table.rule("from_slot", *match, _COUNTER, _ACCEPT) for match in name_servers),
        table.rule("from_slot", _ip("daddr", "==", _networks(PROTECTED_NETWORKS)), _COUNTER, _DROP),
        table.rule("from_slot", _match("!=", _fib_type(), "unicast"), _COUNTER, _DROP),
        *(table.rule("from_slot", *match, _COUNTER, _DROP) for match in _to(reach.blocked(on_link))),
        table.rule("from_slot", _COUNTER, _ACCEPT),
        table.base_chain("input", "filter", "input", 0),
        table.rule("input", from_slot, reply, _ACCEPT),
        # A name server may be an address of the host.
        *(table.rule("input", from_slot, *match, _ACCEPT) for match in name_servers),
        table.rule("input", from_slot, _COUNTER, _DROP),
        table.base_chain("forward", "filter", "forward", 0),
        table.rule("forward", from_slot, *_clamp_segments()),
        table.rule("forward", to_slot, *_clamp_segments()),
        table.rule("forward", to_slot, reply, _ACCEPT),
        table.rule("forward", to_slot, _COUNTER, _DROP),
        table.base_chain("postrouting", "nat", "postrouting", 100),
        table.rule(
            "postrouting",
            _ip("saddr", "==", _networks([block.subnet])),
            _meta("oifname", any_slot, op="!="),
            {"masquerade": None},
        ),
    ]


def root_table_removal(block: Block) -> list[NftCommand]:
    """Return the commands that remove the block's table. It need not exist."""
    table = {"table": {"family": "inet", "name": block.table}}
    return [{"add": table}, {"delete": table}]


def _egress_rules(policy: EgressPolicy, reach: ReachableNetworks) -> list[NftCommand]:
    """First the rules for all sandboxes, then the policy: allowed before denied networks, `allow_internet` last."""
    table = _Table(SLOT_TABLE)
    steps = [
        (_to([ALL_SLOTS]), _REJECT),
        (_to_name_servers(reach), _ACCEPT),
        (_to(PROTECTED_NETWORKS), _REJECT),
        (_to(reach.blocked()), _REJECT),
        # The proxy has checked the name.
        ([(_meta("mark", PROXY_MARK),)] if policy.allow_names else [], _ACCEPT),
        (_to(policy.allow), _ACCEPT),
        (_to(policy.deny), _REJECT),
        ([()], _ACCEPT if policy.allow_internet else _REJECT),
    ]
    return [
        table.rule("egress", *match, _COUNTER, verdict) for matches, verdict in steps for match in matches
    ]


def _name_rules(policy: EgressPolicy, reach: ReachableNetworks) -> list[NftCommand]:
    """What reaches programs of the host in the namespace: with names in the policy, connections that are redirected to the proxy.

    Whether a connection is redirected is decided by its first packet. One to a blocked destination is not, and is
    rejected as ever; one to an allowed network needs no name.
    """
    from_guest, to_name_port = (
        _meta("iifname", TAP),
        _payload("tcp", "dport", "==", {"set": list(NAME_PORTS)}),
    )
    echo_request = _payload("icmp", "type", "==", "echo-request")
    table = _Table(SLOT_TABLE)
    commands = [
        table.base_chain("to_proxy", "nat", "prerouting", -100),
        {"flush": {"chain": table.name_chain("to_proxy")}},
        table.base_chain("input", "filter", "input", 0, policy="drop"),
        {"flush": {"chain": table.name_chain("input")}},
        table.rule("input", _ct_state("established", "related"), _ACCEPT),
        # The limit of flows counts what is forwarded only.
        table.rule("input", from_guest, echo_request, _more_than(PING_FLOWS_LIMIT), _COUNTER, _DROP),
        table.rule("input", echo_request, _ACCEPT),
    ]
    if not policy.allow_names:
        return commands
    directly = [ALL_SLOTS, *PROTECTED_NETWORKS, *reach.blocked(), *policy.allow]
    redirected = _match("in", {"ct": {"key": "status"}}, "dnat")
    too_fast = _faster_than(NAME_CONNECTIONS_PER_S, burst=NAME_CONNECTIONS_LIMIT)
    return [
        *commands,
        *(table.rule("to_proxy", from_guest, *match, {"return": None}) for match in _to(directly)),
        table.rule("to_proxy", from_guest, to_name_port, _COUNTER, {"redirect": None}),
        table.rule("input", from_guest, to_name_port, too_fast, _COUNTER, _DROP),
        table.rule("input", from_guest, to_name_port, _more_than(NAME_CONNECTIONS_LIMIT), _COUNTER, _DROP),
        table.rule("input", from_guest, to_name_port, redirected, _ACCEPT),
    ]


class _Table:
    """Builds commands for one table of the family inet."""

    def __init__(self, name: str) -> None:
        self._name = name

    def fresh(self) -> list[NftCommand]:
        table = {"table": {"family": "inet", "name": self._name}}
        return [{"add": table}, {"delete": table}, {"add": table}]

    def name_chain(self, name: str) -> _Statement:
        return {"family": "inet", "table": self._name, "name": name}

    def chain(self, name: str) -> NftCommand:
        return {"add": {"chain": self.name_chain(name)}}

    def base_chain(
        self, name: str, kind: str, hook: str, priority: int, policy: str = "accept"
    ) -> NftCommand:
        placed = {"type": kind, "hook": hook, "prio": priority, "policy": policy}
        return {"add": {"chain": self.name_chain(name) | placed}}

    def rule(self, chain: str, *expressions: _Statement) -> NftCommand:
        place: _Statement = {"family": "inet", "table": self._name, "chain": chain}
        return {"add": {"rule": place | {"expr": list(expressions)}}}


def _match(op: str, left: object, right: object) -> _Statement:
    return {"match": {"op": op, "left": left, "right": right}}


def _meta(key: str, value: object, *, op: str = "==") -> _Statement:
    return _match(op, {"meta": {"key": key}}, value)


def _ct(key: str, value: str) -> _Statement:
    return _match("==", {"ct": {"key": key}}, value)


def _ct_state(*states: str) -> _Statement:
    return _match("in", {"ct": {"key": "state"}}, list(states))


_IS_FIRST: Final = _match("==", {"&": [{"ct": {"key": "status"}}, "confirmed"]}, 0)
"""Of its flow: the kernel confirms a flow when its first packet has passed."""


def _payload(protocol: str, field: str, op: str, value: object) -> _Statement:
    return _match(op, {"payload": {"protocol": protocol, "field": field}}, value)


def _ip(field: str, op: str, value: object) -> _Statement:
    return _payload("ip", field, op, value)


def _networks(networks: Iterable[IPv4Network]) -> _Statement:
    # nft rejects a set with overlapping members.
    members = collapse_addresses(networks)
    return {"set": [{"prefix": {"addr": str(net.network_address), "len": net.prefixlen}} for net in members]}


def _to(networks: Iterable[IPv4Network]) -> list[tuple[_Statement, ...]]:
    """Match destinations in `networks`. Returns no match for no networks, since nft rejects empty sets."""
    listed = list(networks)
    return [(_ip("daddr", "==", _networks(listed)),)] if listed else []


def _to_name_servers(reach: ReachableNetworks) -> list[tuple[_Statement, ...]]:
    return [
        (
            *match,
            _meta("l4proto", {"set": ["tcp", "udp"]}),
            _payload("th", "dport", "==", _DNS_PORT),
        )
        for match in _to(IPv4Network(server) for server in reach.name_servers)
    ]


def _fib_type() -> _Statement:
    return {"fib": {"result": "type", "flags": ["daddr"]}}


def _more_than(flows: int) -> _Statement:
    return {"ct count": {"val": flows, "inv": True}}


def _faster_than(per_s: int, *, burst: int) -> _Statement:
    return {"limit": {"rate": per_s, "per": "second", "burst": burst, "inv": True}}


def _clamp_segments() -> list[_Statement]:
    """Guests have an MTU of 1500; the path may have a smaller one, and some networks drop the ICMP messages about it."""
    flags = {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["syn", "rst"]]}
    size = {"tcp option": {"name": "maxseg", "field": "size"}}
    return [_match("==", flags, "syn"), {"mangle": {"key": size, "value": {"rt": {"key": "mtu"}}}}]
