"""Three hosts and two replicas behind HAProxy: placement, broken links, crashes, renewal, drain, deletion (docs/design/hosts.md).

The tests share the fleet; each leaves it as it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections import Counter

import httpx2
import pytest
from websockets.asyncio.client import connect

from tests.fleet.kit import DOMAIN, Fleet, Host, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _one_on_each_host(fleet: Fleet) -> dict[int, str]:
    """A sandbox on every host, by the host's number."""
    found: dict[int, str] = {}
    for _ in range(4 * len(fleet.hosts)):
        sandbox_id = await fleet.create()
        found.setdefault(fleet.host_of(sandbox_id).number, sandbox_id)
        if len(found) == len(fleet.hosts):
            return found
    raise AssertionError(found)


async def test_sandboxes_are_spread_and_every_replica_reaches_every_host(fleet: Fleet) -> None:
    created = [await fleet.create() for _ in range(6)]
    spread = Counter(fleet.host_of(sandbox_id).number for sandbox_id in created)
    assert set(spread) == {1, 2, 3}, spread
    # Balanced over both replicas.
    for sandbox_id in created:
        assert [await fleet.exec(sandbox_id) for _ in range(4)] == [200] * 4
    await fleet.remove_sandboxes()
    await fleet.assert_equal_truth()


async def test_streams_and_names_of_ports_pass_haproxy(fleet: Fleet) -> None:
    """The wildcard certificate and WebSockets of `deploy/haproxy`, from every host."""
    tls = ssl.create_default_context(cafile=fleet.ca_file)
    key = {"X-API-Key": fleet.key}
    for sandbox_id in (await _one_on_each_host(fleet)).values():
        path = f"/v1/sandboxes/{sandbox_id}"
        stream = fleet.url.replace("https:", "wss:") + f"{path}/exec/stream"
        async with connect(stream, ssl=tls, additional_headers=key, proxy=None) as opened:
            await opened.send(json.dumps({"type": "start", "cmd": "echo", "args": ["streamed"]}))
            said = [json.loads(message) async for message in opened]
        assert ("stdout", "streamed\n") in [(each["type"], each.get("data")) for each in said]

        port = fleet.host_of(sandbox_id).number + 18_080
        async with fleet.api() as api:
            serve = {"cmd": "python3", "args": ["-m", "http.server", str(port)], "background": True}
            assert (await api.post(f"{path}/exec", json=serve)).status_code < 300
            name = f"{port}-{sandbox_id}.{DOMAIN}"

            async def answers(api: httpx2.AsyncClient = api, name: str = name) -> object:
                found = await api.get("/", headers={"Host": name}, extensions={"sni_hostname": name})
                return found.status_code == 200 and "Directory listing" in found.text

            await until(answers)
    await fleet.remove_sandboxes()


async def test_a_replica_that_is_killed_takes_no_sandbox_and_no_host_with_it(fleet: Fleet) -> None:
    sandboxes = await _one_on_each_host(fleet)
    fleet.replicas["replica-1"].kill()
    await fleet.replicas["replica-1"].wait_ended()
    for sandbox_id in sandboxes.values():
        assert await fleet.exec(sandbox_id) == 200
    for host in fleet.hosts:
        assert await fleet.status_of(host) == "online"
    await fleet.start_replica("replica-1")
    assert set((await fleet.sandboxes()).values()) == {"running"}
    await fleet.remove_sandboxes()


async def test_a_link_that_is_cut_makes_sandboxes_missing_and_they_run_again_when_it_works_again(
    fleet: Fleet,
) -> None:
    sandboxes = await _one_on_each_host(fleet)
    victim = fleet.hosts[1]
    lost = sandboxes[victim.number]
    await victim.cut()
    try:
        await fleet.wait_status(victim, "unreachable")

        async def missing() -> object:
            return (await fleet.sandboxes())[lost] == "missing"

        await until(missing)
        others = {fleet.host_of(await fleet.create()).number for _ in range(3)}
        assert victim.number not in others
    finally:
        await victim.reconnect()

    async def running() -> object:
        return set((await fleet.sandboxes()).values()) == {"running"}

    await until(running)
    await fleet.wait_status(victim, "online")
    assert await fleet.exec(lost) == 200
    assert victim.sandbox_ids() >= {lost}, "nothing was removed or stopped"
    await fleet.remove_sandboxes()


async def test_an_agent_that_is_killed_finds_its_sandboxes_and_its_credentials_again(fleet: Fleet) -> None:
    sandboxes = await _one_on_each_host(fleet)
    victim = fleet.hosts[2]
    before = (victim.data_dir / "credentials.json").read_bytes()
    await victim.end(kill=True)
    victim.start()

    async def answers() -> object:
        return await fleet.exec(sandboxes[victim.number]) == 200

    await until(answers)
    assert (victim.data_dir / "credentials.json").read_bytes() == before
    await fleet.remove_sandboxes()


async def test_a_host_whose_credentials_were_revoked_gets_nothing_until_it_registers_again(
    fleet: Fleet,
) -> None:
    sandboxes = await _one_on_each_host(fleet)
    victim = fleet.hosts[1]
    kept = sandboxes[victim.number]
    assert victim.process is not None
    issued = await fleet.call("POST", f"/v1/hosts/{victim.host_id}/token?force=true")
    assert await fleet.status_of(victim) == "unreachable"
    assert await fleet.exec(kept) == 503

    async def missing() -> object:
        return (await fleet.sandboxes())[kept] == "missing"

    await until(missing)
    # Its agent still serves, with a certificate that is valid.
    assert victim.process.poll() is None
    before = victim.sandbox_ids()
    for _ in range(3):
        await fleet.create()
    assert victim.sandbox_ids() == before
    assert await fleet.status_of(victim) == "unreachable"

    await victim.end()
    fleet.leave_token(victim, issued["registration_token"])
    victim.start()
    await fleet.wait_status(victim, "online")

    async def runs() -> object:
        return await fleet.exec(kept) == 200

    await until(runs)
    assert victim.sandbox_ids() == before
    await fleet.remove_sandboxes()


async def test_a_certificate_is_renewed_while_commands_run_and_none_fails(fleet: Fleet) -> None:
    sandboxes = await _one_on_each_host(fleet)
    victim = fleet.hosts[0]
    sandbox_id = sandboxes[victim.number]
    statuses: list[int] = []
    renewed = asyncio.Event()

    async def keep_calling() -> None:
        while not renewed.is_set():
            statuses.append(await fleet.exec(sandbox_id))

    calling = asyncio.create_task(keep_calling())
    former = victim.expire_certificate()

    async def changed() -> object:
        return victim.credentials()["cert_pem"] != former["cert_pem"]

    await until(changed)
    await asyncio.sleep(1)
    renewed.set()
    await calling
    assert set(statuses) == {200}, Counter(statuses)
    assert len(statuses) > 10
    now = victim.credentials()
    assert now["key_pem"] != former["key_pem"]
    assert now["host_id"] == former["host_id"]
    await fleet.remove_sandboxes()


async def test_a_drained_host_gets_no_sandbox_and_its_own_are_paused(fleet: Fleet) -> None:
    await _one_on_each_host(fleet)
    victim = fleet.hosts[2]
    path = f"/v1/hosts/{victim.host_id}"
    await fleet.call("POST", f"{path}/drain", {"policy": "pause"})
    # Neither end of the agent nor of a replica ends the drain.
    await victim.end(kill=True)
    victim.start()
    fleet.replicas["replica-2"].kill()
    await fleet.replicas["replica-2"].wait_ended()

    async def drained() -> object:
        return (await fleet.call("GET", path))["drain"]["state"] == "drained"

    await until(drained)
    await fleet.start_replica("replica-2")
    on_victim = victim.sandbox_ids()
    statuses = await fleet.sandboxes()
    assert {status for each, status in statuses.items() if each in on_victim} == {"paused"}
    assert {status for each, status in statuses.items() if each not in on_victim} == {"running"}
    for _ in range(4):
        assert fleet.host_of(await fleet.create()) is not victim
    paused = f"/v1/sandboxes/{next(iter(on_victim))}"
    async with fleet.api() as api:
        refused = await api.post(f"{paused}/resume")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "host_draining")
        await fleet.call("POST", f"{path}/uncordon")
        assert (await api.post(f"{paused}/resume")).status_code == 200
    await fleet.remove_sandboxes()


async def test_an_agent_at_the_address_of_another_host_is_not_taken_for_it(fleet: Fleet) -> None:
    """A host whose agent registers the address of another one gets no sandbox, and the other loses none."""
    await _one_on_each_host(fleet)
    victim = fleet.hosts[0]
    liar = Host(9, fleet.folder / "liar", environment=dict(fleet.hosts[1].environment))
    made = await fleet.call("POST", "/v1/hosts", {"type": "regular", "name": "liar"})
    liar.host_id = made["host"]["id"]
    fleet.leave_token(
        liar, made["registration_token"], url=f"https://{fleet.hosts[1].control_address}:{fleet.port}"
    )
    liar.environment |= {
        "WRENN_DATA_DIR": str(liar.data_dir),
        "WRENN_AGENT_LISTEN": f"{fleet.hosts[1].address}:8020",
        "WRENN_AGENT_ADDRESS": f"{victim.address}:8010",
    }
    liar.start()
    try:
        await fleet.wait_status(liar, "online")
        for _ in range(3):
            sandbox_id = await fleet.create()
            assert sandbox_id not in liar.sandbox_ids()
        assert set((await fleet.sandboxes()).values()) == {"running"}
    finally:
        await liar.end()
    await fleet.call("DELETE", f"/v1/hosts/{liar.host_id}?force=true")
    await fleet.remove_sandboxes()


async def test_a_deleted_host_removes_what_it_has_and_its_agent_ends(fleet: Fleet) -> None:
    await _one_on_each_host(fleet)
    extra = fleet.hosts[1]
    assert extra.process is not None
    preview = await fleet.call("GET", f"/v1/hosts/{extra.host_id}/delete-preview")
    assert set(preview["sandbox_ids"]) == extra.sandbox_ids()
    async with fleet.api(key=False) as api:
        refused = await api.delete(f"/v1/hosts/{extra.host_id}")
        assert refused.status_code == 409
        assert set(refused.json()["error"]["sandbox_ids"]) == extra.sandbox_ids()
        assert (await api.delete(f"/v1/hosts/{extra.host_id}?force=true")).status_code == 204
    assert await asyncio.wait_for(extra.process.wait_ended(), 20) == 0
    assert not extra.sandbox_ids()
    assert not (extra.data_dir / "credentials.json").exists()
    assert "running" in set((await fleet.sandboxes()).values())
    # Started again, it says what to do.
    extra.start()
    assert await asyncio.wait_for(extra.process.wait_ended(), 20) == os.EX_CONFIG
    assert "wrenn agent join" in extra.log.read_text()
    await fleet.join(extra)
    await fleet.wait_status(extra, "online")
    await fleet.remove_sandboxes()
