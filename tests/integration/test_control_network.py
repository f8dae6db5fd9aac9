"""Network policies: at create, while it runs, while it is paused, in copies, and when the host did not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Network

import pytest
import pytest_asyncio

from wrenn import AsyncSandbox, InvalidRequestError, NetworkPolicy
from wrenn.agent.sandboxes import NetworkSettings
from wrenn.base.errors import Unavailable
from wrenn.base.ids import SandboxId
from wrenn.base.networks import NETWORKS_LIMIT, network_text
from wrenn.control.settings import Settings
from wrenn.network.policy import EgressPolicy
from wrenn.testing.agent_host import AgentHost

from .conftest import DEADLINE_S, Platform, make_team, refused, running_platform
from .people import People

EVERYTHING: dict[str, object] = {"allow_internet": True, "allow": [], "deny": []}
CLOSED: dict[str, object] = {
    "allow_internet": False,
    "allow": ["44.0.0.0/8", "45.1.2.3"],
    "deny": ["44.1.0.0/16"],
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def shared(people: People) -> AsyncIterator[Platform]:
    """The module's platform, without sandboxes at the end."""
    platform = people.platform
    yield platform
    for sandbox in (await platform.api.get("/v1/sandboxes")).json():
        await platform.api.delete(f"/v1/sandboxes/{sandbox['id']}")


def on_host(platform: Platform, path: str) -> dict[str, object]:
    """The policy that the host has."""
    policy = platform.host.record(path.rpartition("/")[2]).network.policy
    deny = [network_text(network) for network in policy.deny]
    return {"allow_internet": policy.allow_internet, "allow": list(policy.allow_texts), "deny": deny}


async def test_a_sandbox_reaches_the_internet_unless_its_request_says_otherwise(shared: Platform):
    usual, closed = await shared.create(), await shared.create(network=CLOSED)
    assert on_host(shared, usual) == EVERYTHING
    assert on_host(shared, closed) == CLOSED
    assert (await shared.api.get(usual)).json()["network"] == EVERYTHING
    listed = {found["id"]: found["network"] for found in (await shared.api.get("/v1/sandboxes")).json()}
    assert listed[closed.rpartition("/")[2]] == CLOSED


@pytest.mark.parametrize("prefix", ["sandboxes", "capsules"])
async def test_a_change_names_only_what_changes(shared: Platform, prefix: str):
    path = await shared.create(network=CLOSED)
    twin = f"/v1/{prefix}/{path.rpartition('/')[2]}/network"
    expected: dict[str, object] = dict(CLOSED)
    changes: list[dict[str, object]] = [
        {"allow_internet": True},
        {"allow": []},
        {"deny": ["45.0.0.0/8"], "allow": None},
        {},
    ]
    for change in changes:
        expected |= {name: value for name, value in change.items() if value is not None}
        answer = await shared.api.patch(twin, json=change)
        assert answer.status_code == 200, answer.text
        assert answer.json()["network"] == expected == on_host(shared, path)


async def test_a_paused_sandbox_can_be_changed_and_copies_have_the_policy(shared: Platform):
    path = await shared.create()
    assert (await shared.api.post(f"{path}/pause")).status_code == 200
    assert (await shared.api.patch(f"{path}/network", json=CLOSED)).json()["status"] == "paused"
    assert (await shared.api.post(f"{path}/resume")).json()["network"] == CLOSED
    copies = (await shared.api.post(f"{path}/fork", json={"count": 2})).json()["sandboxes"]
    for copy in copies:
        assert copy["network"] == CLOSED == on_host(shared, f"/v1/sandboxes/{copy['id']}")


async def test_servers_are_allowed_by_name_where_all_else_is_denied(shared: Platform):
    named: dict[str, object] = {
        "allow_internet": False,
        "allow": ["44.0.0.0/8", "example.com", "*.example.org"],
        "deny": [],
    }
    path = await shared.create(network={**named, "allow": ["44.0.0.0/8", "Example.com", "*.example.org"]})
    assert (await shared.api.get(path)).json()["network"] == named == on_host(shared, path)
    refused(await shared.api.patch(f"{path}/network", json={"allow_internet": True}), 400, "invalid_request")
    denied = {"allow_internet": True, "deny": ["0.0.0.0/1", "128.0.0.0/1"]}
    changed = await shared.api.patch(f"{path}/network", json=denied)
    assert changed.status_code == 200, changed.text
    assert on_host(shared, path) == {**named, **denied}
    await shared.api.post(f"{path}/pause")
    await shared.api.post(f"{path}/resume")
    assert on_host(shared, path) == {**named, **denied}


async def test_a_sandbox_that_has_ended_has_no_network(shared: Platform):
    path = await shared.create()
    assert (await shared.api.delete(path)).status_code == 204
    message = refused(await shared.api.patch(f"{path}/network", json=CLOSED), 409, "invalid_state")
    assert "stopped" in message


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"allow": ["example.org"], "allow_internet": True}, "all else is denied"),
        ({"allow": ["*.example.org"], "allow_internet": True, "deny": ["0.0.0.0/1"]}, "all else is denied"),
        ({"allow": ["localhost"], "allow_internet": False}, "not a host name"),
        ({"allow": ["*"], "allow_internet": False}, "not a host name"),
        ({"allow": ["https://example.org/"], "allow_internet": False}, "not a host name"),
        ({"allow": ["a" * 300 + ".org"], "allow_internet": False}, "allow"),
        ({"deny": ["example.org"]}, "network.deny"),
        ({"deny": ["44.0.0.1/8"]}, "network.deny"),
        ({"deny": ["::/0"]}, "no IPv6"),
        ({"allow": ["44.0.0.1"] * (NETWORKS_LIMIT + 1)}, "allow"),
        ({"allow": ["1" * 100]}, "allow"),
        ({"allow": "44.0.0.1"}, "allow"),
        ({"allow": [7]}, "allow"),
        ({"allow_internet": "no"}, "allow_internet"),
        ({"allow": ["10.11.0.0/16"]}, "never reachable"),
        ({"allow": ["10.11.4.7"]}, "never reachable"),
        ({"allow": ["169.254.169.254"]}, "never reachable"),
        ({"allow": ["127.0.0.1"]}, "never reachable"),
        ({"allow": ["192.168.0.0/16"]}, "WRENN_GUEST_PRIVATE_NETWORKS"),
        ({"allow": ["100.64.0.1"]}, "WRENN_GUEST_PRIVATE_NETWORKS"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused_and_changes_nothing(
    shared: Platform, network: dict[str, object], words: str
):
    created = await shared.api.post("/v1/sandboxes", json={"network": network})
    assert words in refused(created, 400, "invalid_request")
    path = await shared.create(network=CLOSED)
    changed = await shared.api.patch(f"{path}/network", json=network)
    assert words in refused(changed, 400, "invalid_request")
    assert (await shared.api.get(path)).json()["network"] == CLOSED == on_host(shared, path)


async def test_an_older_change_that_arrives_late_is_not_put_in_force(shared: Platform):
    path = await shared.create()
    await shared.api.patch(f"{path}/network", json=CLOSED)
    late = NetworkSettings(EgressPolicy(allow_internet=True), revision=1)
    await shared.host.agent.sandboxes.set_network(SandboxId.parse(path.rpartition("/")[2]), late)
    assert on_host(shared, path) == CLOSED


async def test_a_change_is_in_the_audit_log(shared: Platform):
    path = await shared.create()
    await shared.api.patch(f"{path}/network", json=CLOSED)
    found = await shared.api.get(
        "/v1/audit-logs", params={"resource_type": "sandbox", "action": "set_network"}
    )
    assert found.status_code == 200, found.text
    facts = found.json()["items"][0]["metadata"]
    assert facts == {"allow_internet": False, "allow": "44.0.0.0/8 45.1.2.3", "deny": "44.1.0.0/16"}


async def test_the_client_sets_and_shows_policies(shared: Platform):
    key, policy = shared.key.reveal(), NetworkPolicy(allow_internet=False, allow=("44.0.0.0/8",))
    async with await AsyncSandbox.create(network=policy, api_key=key, base_url=shared.url) as sandbox:
        assert (await sandbox.info()).network == policy
        changed = await sandbox.set_network(deny=["44.1.0.0/16"])
        assert changed.network == NetworkPolicy(
            allow_internet=False, allow=("44.0.0.0/8",), deny=("44.1.0.0/16",)
        )
        with pytest.raises(InvalidRequestError, match="never reachable"):
            await sandbox.set_network(allow=["10.11.0.0/16"])
        with pytest.raises(InvalidRequestError, match="Nothing to set"):
            await sandbox.set_network()


@pytest.mark.asyncio(loop_scope="function")
async def test_a_host_that_missed_a_change_gets_it_when_it_answers(
    settings: Settings, host: AgentHost, database_url: str
):
    key = await make_team(database_url, "ada")
    opened = replace(settings, private_networks=(IPv4Network("10.0.0.0/8"),))
    async with running_platform(opened, host, key) as platform:
        path = await platform.create()
        host.switches.fail["set_network"] = Unavailable("The host is silent.")
        wanted = {"allow_internet": False, "allow": ["10.1.0.0/16"], "deny": []}
        answer = await platform.api.patch(f"{path}/network", json=wanted)
        assert "comes into force" in refused(answer, 503, "host_unavailable")
        assert (await platform.api.get(path)).json()["network"] == wanted
        assert on_host(platform, path) == EVERYTHING
        host.switches.fail.clear()
        async with asyncio.timeout(DEADLINE_S):
            while on_host(platform, path) != wanted:
                await asyncio.sleep(0.02)
