"""Agents and the control plane: registration, refresh with rotation, heartbeats (docs/design/hosts.md)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from sqlalchemy import text

from wrenn.base.clock import SystemClock
from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import HostId, SandboxId
from wrenn.control.auth import Tokens, ensure_secret
from wrenn.control.db import Database
from wrenn.control.hosts import Authority
from wrenn.protocol.api import HOST_RENEWAL_HEADER

from .conftest import client, refused, run_sql
from .host_agents import (
    AgentPlayer,
    create_host,
    csr_of,
    elsewhere,
    forget_hosts,
    in_about,
    new_key,
    registered,
    unwatched,
)
from .people import People, Person, make_admin

pytestmark = pytest.mark.asyncio(loop_scope="module")

DAY_S = 86_400
_PEM: Any = (
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def root(people: People) -> Person:
    """An admin of the platform."""
    person = await people.sign_up(name="Root")
    await make_admin(people.database_url, person)
    return person


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def few_hosts(people: People) -> AsyncIterator[None]:
    """Every host is called some times a second: none outlives its test."""
    yield
    await forget_hosts(people.database_url)


class Later:
    """A clock that is so many seconds ahead."""

    def __init__(self, seconds: float) -> None:
        self._ahead = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def monotonic(self) -> float:
        raise AssertionError("not asked")


async def status_of(person: Person, player: AgentPlayer) -> dict[str, Any]:
    answer = await person.get(f"/v1/hosts/{player.host_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_an_agent_registers_with_its_own_key(people: People, root: Person):
    host, token = await create_host(root, name="a-host", provider="acme", availability_zone="z1")
    assert host == {
        "id": host["id"], "name": "a-host", "type": "regular", "provider": "acme", "availability_zone": "z1",
        "status": "pending", "created_by": root.user_id, "created_at": host["created_at"],
        "updated_at": host["updated_at"], "tags": [],
    }  # fmt: skip
    player = AgentPlayer(people.second.url)
    answer = await player.register(token)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json()) == {"host", "token", "refresh_token", "cert_pem", "ca_cert_pem"}
    shown = answer.json()["host"]
    assert (shown["id"], shown["address"], shown["arch"]) == (host["id"], player.address, "x86_64")
    assert (shown["cpu_cores"], shown["memory_mb"], shown["disk_gb"]) == (4, 8192, 100)
    assert shown["status"] == "pending", "it has not said that it serves"
    certificate = player.certificate
    assert certificate.public_key() == player.key.public_key()
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(player.ca_cert_pem.encode()))
    assert certificate.subject.rfc4514_string() == f"CN={host['id']}"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(host["id"]), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert in_about(7 * DAY_S, certificate.not_valid_after_utc)
    assert shown["cert_expires_at"] == certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    await unwatched(people.database_url, player)
    assert (await player.heartbeat()).status_code == 204
    now = await status_of(root, player)
    assert now["status"] == "online"
    assert now["last_heartbeat_at"]


async def test_what_is_stored_is_no_secret(people_database: Database, root: Person):
    _, token = await create_host(root)
    player = await registered(root)
    for table in ("host_registration_tokens", "host_refresh_tokens", "hosts", "audit_logs", "events"):
        for row in await people_database.execute(text(f"SELECT * FROM {table}")):
            assert not any(secret in str(row) for secret in (token, player.refresh_token, player.token))
    found = await people_database.execute(
        text("SELECT cert_fingerprint FROM hosts WHERE id = :id"), {"id": HostId.parse(player.host_id).value}
    )
    assert found.scalar_one() == player.certificate.fingerprint(hashes.SHA256()).hex()


async def test_of_two_machines_with_one_token_one_registers(people: People, root: Person):
    host, token = await create_host(root)
    players = [AgentPlayer(url) for url in (people.url, people.second.url) * 3]
    answers = await asyncio.gather(*(player.register(token) for player in players))
    won = [p for p, a in zip(players, answers, strict=True) if a.status_code == 201]
    assert sorted(answer.status_code for answer in answers) == [201] + [401] * 5
    assert (await status_of(root, won[0]))["address"] == won[0].address
    assert (await won[0].heartbeat()).status_code == 204
    refused(await AgentPlayer(people.url).register(token), 401, "unauthorized")
    assert host["id"] == won[0].host_id


async def test_a_token_is_good_as_long_as_its_maker_administers_the_host(people: People, root: Person):
    second, ada, bob = await people.sign_up(), await people.sign_up(), await people.sign_up()
    for admin in (second, bob):
        path = f"/v1/admin/users/{admin.user_id}/admin"
        assert (await root.put(path, {"admin": True, "accept_unverified": True})).status_code == 204
    assert (await root.put(f"/v1/admin/teams/{ada.team_id}/byoc", {"enabled": True})).status_code == 204
    members: dict[str, Person] = {}
    for role in ("admin", "demoted", "removed"):
        members[role] = await ada.add(await people.sign_up(), "admin")
    tokens = [(await create_host(maker))[1] for maker in (second, bob)]
    own = {"type": "byoc", "team_id": ada.team_id}
    tokens += [(await create_host(maker, **own))[1] for maker in (ada, *members.values())]
    # The right of the second admin of the platform, of one who is deactivated, and of two admins of the team ends.
    await root.put(f"/v1/admin/users/{second.user_id}/admin", {"admin": False})
    await root.put(f"/v1/admin/users/{bob.user_id}/active", {"active": False})
    path = f"/v1/teams/{ada.team_id}/members"
    await ada.patch(f"{path}/{members['demoted'].user_id}", {"role": "member"})
    await ada.delete(f"{path}/{members['removed'].user_id}")
    statuses: list[int] = []
    for number, token in enumerate(tokens):
        player = AgentPlayer(people.url)
        if number >= 2:
            player.address = elsewhere()
        statuses.append((await player.register(token)).status_code)
    assert statuses == [401, 401, 201, 201, 401, 401]


async def test_a_token_is_good_for_an_hour(people: People, root: Person):
    host, token = await create_host(root)
    row = f"host_id = '{HostId.parse(host['id']).value}'"
    await run_sql(
        people.database_url,
        f"UPDATE host_registration_tokens SET expires_at = expires_at - interval '59 minutes' WHERE {row}",
    )
    player = AgentPlayer(people.url)
    refused(await player.register(token, csr_pem="none"), 400, "invalid_request")
    await run_sql(
        people.database_url,
        f"UPDATE host_registration_tokens SET expires_at = expires_at - interval '1 minute' WHERE {row}",
    )
    refused(await player.register(token), 401, "unauthorized")
    again = await root.post(f"/v1/hosts/{host['id']}/token")
    assert (await player.register(again.json()["registration_token"])).status_code == 201


@pytest.mark.parametrize("token", ["", "x" * 300, 1])
async def test_what_cannot_be_a_token_is_bad_input(people: People, token: Any):
    refused(await AgentPlayer(people.url).register(token), 400, "invalid_request")
    refused(await AgentPlayer(people.url).refresh(refresh_token=token), 400, "invalid_request")


@pytest.mark.parametrize("token", ["0" * 64, "A" * 64, "none", "\x00", "ä"])
async def test_a_wrong_token_is_refused(people: People, token: str):
    refused(await AgentPlayer(people.url).register(token), 401, "unauthorized")
    refused(await AgentPlayer(people.url).refresh(refresh_token=token), 401, "unauthorized")


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", ":8010", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:08", "10.0.0.1:8010/x", "0.0.0.0:8010",
        "[::]:8010", "::1:8010", "[::ffff:0.0.0.0]:8010", "[fe80::1%eth0]:8010", "224.0.0.1:8010", "a b:1", "a\n:1",
        "user@a:1", "1.2.3:80", f"host-{'0' * 25}:8010", f"HOST-{'Z' * 25}:8010", "host-x.example:1", "-a.example:1", f"{'a' * 64}.example:1", "a..b:1", "x" * 300 + ":1", "ä.example:1",
    ],
)  # fmt: skip
async def test_an_address_that_cannot_be_called_is_refused(people: People, root: Person, address: str):
    refused(await AgentPlayer(people.url, address=address).register("0" * 64), 400, "invalid_request")


async def test_an_address_may_be_a_name_or_ipv6(root: Person):
    for address, shown, name in (
        ("Rack-1.Example:8010", "rack-1.example:8010", x509.DNSName("rack-1.example")),
        ("[2001:DB8::1]:8010", "[2001:db8::1]:8010", x509.IPAddress(ipaddress.ip_address("2001:db8::1"))),
    ):
        host, token = await create_host(root)
        player = AgentPlayer(root.url, address=address)
        answer = await player.register(token)
        assert answer.status_code == 201, answer.text
        assert answer.json()["host"]["address"] == shown
        names = player.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.DNSName(host["id"]), name]
        # Nobody serves there.
        assert (await root.delete(f"/v1/hosts/{host['id']}")).status_code == 204


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:8010", "127.9.9.9:8010", "[::1]:8010", "[::ffff:127.0.0.1]:8010", "169.254.169.254:80",
        "[fe80::1]:8010", "[::ffff:169.254.169.254]:80", "localhost:8010", "a.LocalHost:8010",
    ],
)  # fmt: skip
async def test_a_host_of_a_team_is_not_at_an_address_of_the_control_plane(
    people: People, root: Person, address: str
):
    answer = await root.put(f"/v1/admin/teams/{root.team_id}/byoc", {"enabled": True})
    assert answer.status_code == 204, answer.text
    host, token = await create_host(root, type="byoc", team_id=root.team_id)
    player = AgentPlayer(people.url, address=address)
    message = refused(await player.register(token), 400, "invalid_request")
    assert message.startswith("address:")
    assert (await player.register(token, address=elsewhere())).status_code == 201, "the token is still good"
    refused(await player.refresh(address=address), 400, "invalid_request")
    assert (await player.heartbeat()).status_code == 204
    assert (await player.refresh()).status_code == 200
    assert player.host_id == host["id"]


async def test_the_id_of_another_host_is_not_signed(pki: Path):
    authority = Authority.from_settings(str(pki / "ca.pem"), str(pki / "ca.key"))
    assert authority is not None
    for name in (str(HostId.new()), "HOST-x.example"):
        with pytest.raises(InvalidRequest):
            authority.sign_agent(csr_of(new_key()), HostId.new(), name, cert_epoch=0)


async def test_files_of_another_host_are_not_taken_over(people: People, root: Person):
    former = await registered(root)
    host, token = await create_host(root)
    player = AgentPlayer(people.url)
    answer = await player.register(token, former_host_id=former.host_id)
    message = refused(answer, 409, "conflict")
    assert host["id"] in message
    assert former.host_id in message
    assert (await former.heartbeat()).status_code == 204, "nothing was revoked"
    refused(await player.register(token, former_host_id="host-x"), 400, "invalid_request")
    refused(await player.register("0" * 64, former_host_id=former.host_id), 401, "unauthorized")
    assert (await player.register(token, former_host_id=str(HostId.new()))).status_code == 201, "not used up"
    assert player.host_id == host["id"]
    # Its own host's, and those of one that was deleted.
    again = await root.post(f"/v1/hosts/{host['id']}/token?force=true")
    own = await player.register(again.json()["registration_token"], former_host_id=host["id"])
    assert own.status_code == 201, own.text
    assert (await root.delete(f"/v1/hosts/{host['id']}")).status_code == 204
    _, other = await create_host(root)
    assert (await player.register(other, former_host_id=host["id"])).status_code == 201


def bad_requests() -> dict[str, str]:
    altered = csr_of(new_key()).splitlines()
    altered[3] = altered[3][:-4] + "AAAA"
    return {
        "no PEM": "none",
        "another PEM": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "RSA": csr_of(rsa.generate_private_key(65537, 2048)),
        "another curve": csr_of(ec.generate_private_key(ec.SECP384R1())),
        "altered": "\n".join(altered),
        "too large": csr_of(new_key()) + " " * 16 * 1024,
        "not ASCII": csr_of(new_key()) + "ä",
    }


async def test_a_request_with_another_key_or_a_wrong_signature_uses_no_token_up(people: People, root: Person):
    _, token = await create_host(root)
    player = AgentPlayer(people.url)
    for what, csr_pem in bad_requests().items():
        answer = await player.register(token, csr_pem=csr_pem)
        assert answer.status_code == 400, what
        assert "csr_pem" in answer.json()["error"]["message"], what
    assert (await player.register(token)).status_code == 201


async def test_a_refresh_leaves_the_former_token_until_the_new_one_is_used(root: Person):
    player = await registered(root)
    first = player.refresh_token
    former = player.certificate
    player.key = new_key()
    # Two answers are lost.
    for _ in range(2):
        assert (await player.refresh(keep=False)).status_code == 200
    assert (await player.refresh()).status_code == 200
    assert player.certificate.serial_number != former.serial_number
    assert player.certificate.public_key() == player.key.public_key()
    assert (await player.refresh(keep=False, refresh_token=first)).status_code == 200, "still valid"
    assert (await player.heartbeat()).status_code == 204
    refused(await player.refresh(refresh_token=first), 401, "unauthorized")
    second = player.refresh_token
    assert (await player.refresh()).status_code == 200
    third = player.refresh_token
    assert (await player.refresh()).status_code == 200, "the first use of the third revokes the second"
    refused(await player.refresh(refresh_token=second), 401, "unauthorized")
    assert (await player.refresh(keep=False, refresh_token=third)).status_code == 200


async def test_a_token_of_before_a_refresh_works_until_the_new_one_is_used(root: Person):
    player = await registered(root)
    old = player.token
    assert (await player.refresh()).status_code == 200
    assert (await player.heartbeat(token=old)).status_code == 204
    assert (await player.heartbeat()).status_code == 204
    refused(await player.heartbeat(token=old), 401, "unauthorized")


async def test_answers_that_are_lost_again_and_again_leave_few_tokens(
    root: Person, people_database: Database
):
    player = await registered(root)
    for _ in range(10):
        assert (await player.refresh(keep=False)).status_code == 200
    assert (await player.refresh()).status_code == 200
    count = "SELECT count(*) FROM host_refresh_tokens WHERE host_id = :id"
    found = await people_database.execute(text(count), {"id": HostId.parse(player.host_id).value})
    assert found.scalar_one() <= 9
    assert (await player.heartbeat()).status_code == 204


async def test_old_revoked_tokens_are_deleted(root: Person, people_database: Database):
    player = await registered(root)
    first = player.refresh_token
    for _ in range(18):
        assert (await player.refresh()).status_code == 200
    count = "SELECT count(*) FROM host_refresh_tokens WHERE host_id = :id"
    found = await people_database.execute(text(count), {"id": HostId.parse(player.host_id).value})
    assert found.scalar_one() == 16
    refused(await player.refresh(refresh_token=first), 401, "unauthorized")
    assert (await player.heartbeat()).status_code == 204
    assert (await player.refresh()).status_code == 200


async def test_a_refresh_may_name_another_address(people: People, root: Person):
    player = await registered(root)
    assert (await player.refresh(address="rack-2.example:9")).json()["host"]["address"] == "rack-2.example:9"
    names = player.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(player.host_id), x509.DNSName("rack-2.example")]
    for address in ("0.0.0.0:9", f"{HostId.new()}:9"):
        refused(await player.refresh(address=address), 400, "invalid_request")
    assert (await root.delete(f"/v1/hosts/{player.host_id}")).status_code == 204


async def test_a_refresh_token_expires(people: People, root: Person):
    player = await registered(root)
    row = f"host_id = '{HostId.parse(player.host_id).value}'"
    move = "UPDATE host_refresh_tokens SET expires_at = expires_at - interval '{}' WHERE {}"
    await run_sql(people.database_url, move.format("59 days 23 hours", row))
    assert (await player.refresh(keep=False)).status_code == 200
    await run_sql(people.database_url, move.format("61 minutes", row))
    refused(await player.refresh(), 401, "unauthorized")


async def test_a_host_that_registers_again_keeps_its_id_and_takes_the_credentials_of_the_former(
    people: People, root: Person
):
    former = await registered(root)
    await unwatched(people.database_url, former)
    assert (await former.heartbeat()).status_code == 204
    refused(await root.post(f"/v1/hosts/{former.host_id}/token"), 400, "invalid_request")
    await run_sql(
        people.database_url,
        f"UPDATE hosts SET status = 'unreachable' WHERE id = '{HostId.parse(former.host_id).value}'",
    )
    answer = await root.post(f"/v1/hosts/{former.host_id}/token")
    assert answer.status_code == 201, answer.text
    again = AgentPlayer(root.url)
    assert (await again.register(answer.json()["registration_token"])).status_code == 201
    assert again.host_id == former.host_id
    await unwatched(people.database_url, again)
    # Its answer may not have arrived, or not fit on the disk.
    assert (await former.heartbeat()).status_code == 204
    assert (await again.heartbeat()).status_code == 204
    refused(await former.heartbeat(), 401, "unauthorized")
    refused(await former.refresh(), 401, "unauthorized")
    assert (await again.heartbeat()).status_code == 204
    assert (await status_of(root, again))["status"] == "online"


async def test_a_heartbeat_marks_a_host_up(people: People, root: Person, people_database: Database):
    player = await registered(root)
    host_id = HostId.parse(player.host_id)
    await run_sql(
        people.database_url, f"UPDATE hosts SET status = 'unreachable' WHERE id = '{host_id.value}'"
    )
    for _ in range(2):
        assert (await player.heartbeat()).status_code == 204
    entries = await people_database.execute(
        text("SELECT action, scope FROM audit_logs WHERE resource_id = :id ORDER BY created_at"),
        {"id": player.host_id},
    )
    # That nobody answers at its address is seen too.
    seen = [(row.action, row.scope) for row in entries if row.action != "marked_down"]
    assert seen[:3] == [("create", "admin"), ("register", "admin"), ("marked_up", "admin")]


async def test_who_may_not_send_a_heartbeat(people: People, root: Person, data_dir: Path):
    player, other = await registered(root), await registered(root)
    refused(await player.heartbeat(host_id=other.host_id), 403, "forbidden")
    refused(await player.heartbeat(host_id="host-x"), 403, "forbidden")
    for token in ("", "none", root.token, player.refresh_token, player.token[:-4] + "AAAA", "ä"):
        encoded: Any = token.encode()
        refused(await player.heartbeat(token=encoded), 401, "unauthorized")
    refused(
        await player.heartbeat(token="", headers={"Authorization": f"Bearer {root.token}"}),
        401,
        "unauthorized",
    )
    secret = ensure_secret(data_dir)
    of_long_ago = Tokens(secret, Later(-8 * DAY_S))
    wrong_key = Tokens(type(secret)("x" * 32), SystemClock())
    parsed = HostId.parse(player.host_id)
    for tokens in (of_long_ago, wrong_key, Tokens(secret, SystemClock())):
        made_up = tokens.issue_host(parsed, uuid.uuid4())
        refused(await player.heartbeat(token=made_up), 401, "unauthorized")
    assert (await player.heartbeat()).status_code == 204


async def test_a_host_token_opens_nothing_else(people: People, root: Person):
    player = await registered(root)
    async with client(people.url, None) as api:
        for path in ("/v1/hosts", f"/v1/hosts/{player.host_id}", "/v1/me", "/v1/sandboxes"):
            for headers in (
                {"Authorization": f"Bearer {player.token}"},
                {"X-Host-Token": player.token},
                {"X-API-Key": player.token},
            ):
                refused(await api.get(path, headers=headers), 401, "unauthorized")


async def test_a_heartbeat_may_say_more_than_is_known_within_limits(root: Person):
    player = await registered(root)
    large = b'{"a": "' + b"x" * 128_000 + b'"}'
    for body in (b"", b"{}", b' {"a": [1], "b": {"c": null}}', large):
        assert (await player.heartbeat(content=body)).status_code == 204, body[:20]
    wrong = (
        b'{"inventory": 1}',
        b'{"inventory": "no digest"}',
        b'{"active": []}',
        b'{"active": {"cl-1": 1}}',
        b'{"active": {"%s": 1e300}}' % str(SandboxId.new()).encode(),
        b'{"active": {"%s": "now"}}' % str(SandboxId.new()).encode(),
        b'{"host": 1}',
        b'{"host": {"cpuCores": "many"}}',
        b'{"host": {"diskB": "-1"}}',
    )
    for body in wrong:
        assert (await player.heartbeat(content=body)).status_code == 204, "what it says is left out"
    for body in (b"x", b"[]", b"null", b"\xff", b"[" * 60_000):
        refused(await player.heartbeat(content=body), 400, "invalid_request")
    refused(await player.heartbeat(content=large + b" " * 5000), 413, "too_large")


async def test_a_host_that_sends_too_many_heartbeats_is_refused_and_no_other(root: Person):
    greedy, other = await registered(root), await registered(root)
    answers = await asyncio.gather(*(greedy.heartbeat() for _ in range(60)))
    codes = Counter(answer.status_code for answer in answers)
    assert codes[204] >= 30
    assert codes[429] > 0
    assert (await other.heartbeat()).status_code == 204


async def test_a_host_whose_heartbeats_are_large_may_send_fewer(root: Person):
    """What it takes to decode them is taken from others."""
    greedy, other = await registered(root), await registered(root)
    large = b'{"a": [' + b"1.0," * 32_000 + b"1]}"
    answers = await asyncio.gather(*(greedy.heartbeat(content=large) for _ in range(24)))
    codes = Counter(answer.status_code for answer in answers)
    assert codes[204] > 0
    assert codes[429] > 0
    assert codes.total() == codes[204] + codes[429]
    assert (await other.heartbeat()).status_code == 204


async def test_a_revoked_token_does_not_use_up_what_its_host_may_do(root: Person):
    """Whoever has stolen it could hold up the heartbeats of the host for as long as it is valid."""
    stolen = await registered(root)
    answer = await root.post(f"/v1/hosts/{stolen.host_id}/token?force=true")
    host = AgentPlayer(root.url)
    assert (await host.register(answer.json()["registration_token"])).status_code == 201
    assert host.host_id == stolen.host_id
    refused(await stolen.heartbeat(), 401, "unauthorized")
    names = host.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [host.host_id, f"{host.host_id}.e1"]
    # What it sends is not read any more.
    refused(await stolen.heartbeat(content=b"x"), 401, "unauthorized")
    flood = await asyncio.gather(*(stolen.heartbeat() for _ in range(60)))
    assert {answer.status_code for answer in flood} <= {401, 429}
    assert (await host.heartbeat()).status_code == 204


async def test_a_deleted_host_gets_a_code_of_its_own(people: People, root: Person):
    player = await registered(root)
    pending, token = await create_host(root)
    for host_id in (player.host_id, pending["id"]):
        assert (await root.delete(f"/v1/hosts/{host_id}")).status_code == 204
    refused(await player.heartbeat(), 404, "host_deleted")
    refused(await player.refresh(), 404, "host_deleted")
    refused(await AgentPlayer(people.url).register(token), 401, "unauthorized")


async def test_wrong_tokens_are_slowed_down(people: People, root: Person, forget_attempts: None):
    """And none of them holds up a valid one from the same address."""
    gone = await registered(root)
    assert (await root.delete(f"/v1/hosts/{gone.host_id}")).status_code == 204
    _, token = await create_host(root)
    player = AgentPlayer(people.url)
    refused(await player.register("0" * 64), 401, "unauthorized")
    await run_sql(people.database_url, "UPDATE attempts SET count = 48 WHERE subject LIKE 'enrol%'")
    for _ in range(4):
        refused(await gone.refresh(), 404, "host_deleted")
    answers = [(await player.register("0" * 64)).status_code for _ in range(4)]
    assert answers == [401, 401, 401, 429]
    refused(await player.refresh(refresh_token="0" * 64), 429, "rate_limited")
    await run_sql(
        people.database_url,
        "UPDATE attempts SET blocked_until = now() + interval '1 hour' WHERE subject LIKE 'enrol%'",
    )
    assert (await player.register(token)).status_code == 201
    revoked = player.refresh_token
    assert (await player.refresh()).status_code == 200
    assert (await player.heartbeat()).status_code == 204
    assert (await player.refresh()).status_code == 200
    refused(await player.refresh(refresh_token=revoked), 429, "rate_limited")
    refused(await player.register(token), 429, "rate_limited")
    refused(await gone.refresh(), 404, "host_deleted")


async def test_the_certificate_serves_and_the_control_planes_calls(
    people: People, root: Person, pki: Path, tmp_path: Path
):
    """The one that was issued for this host, demanded by its id, whatever address it is reached at."""
    player, other = await registered(root), await registered(root)
    for each in (player, other):
        (tmp_path / f"{each.host_id}.pem").write_text(each.cert_pem)
        key = each.key.private_bytes(*_PEM)
        (tmp_path / f"{each.host_id}.key").write_bytes(key)
    (tmp_path / "ca.pem").write_text(player.ca_cert_pem)

    def serving(host_id: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "ca.pem")
        context.load_cert_chain(tmp_path / f"{host_id}.pem", tmp_path / f"{host_id}.key")
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def calling(certificate: Path, key: Path) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        context.load_cert_chain(certificate, key)
        return context

    control = calling(pki / "control.pem", pki / "control.key")
    agents = calling(tmp_path / f"{other.host_id}.pem", tmp_path / f"{other.host_id}.key")
    assert await greeted(serving(player.host_id), control, player.host_id)
    assert await greeted(serving(player.host_id), control, "127.0.0.1")
    assert not await greeted(serving(other.host_id), control, player.host_id), "another host"
    assert not await greeted(serving(player.host_id), agents, player.host_id), "an agent may not call"


async def greeted(server: ssl.SSLContext, calling: ssl.SSLContext, name: str) -> bool:
    """Whether both ends accept each other."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(b"hello")
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=calling, server_hostname=name
            )
        except ssl.SSLError:
            return False
        try:
            return await reader.read() == b"hello"
        except OSError:
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_a_certificate_of_a_replica_that_knows_no_withdrawals_is_renewed_at_once(
    people: People, root: Person
):
    """During an upgrade such a replica may answer the registration after a withdrawal, and new ones do not reach the host."""
    host_id = HostId.parse((player := await registered(root)).host_id)
    assert HOST_RENEWAL_HEADER not in (await player.heartbeat()).headers
    await run_sql(people.database_url, f"UPDATE hosts SET cert_epoch = 1 WHERE id = '{host_id.value}'")
    for status in ("online", "unreachable"):
        await run_sql(
            people.database_url, f"UPDATE hosts SET status = '{status}' WHERE id = '{host_id.value}'"
        )
        assert HOST_RENEWAL_HEADER in (await player.heartbeat()).headers
    assert (await player.refresh()).status_code == 200
    names = player.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert f"{host_id}.e1" in names.get_values_for_type(x509.DNSName)
    for _ in range(2):
        assert HOST_RENEWAL_HEADER not in (await player.heartbeat()).headers
    await run_sql(
        people.database_url,
        f"UPDATE host_refresh_tokens SET cert_epoch = NULL WHERE host_id = '{host_id.value}'",
    )
    assert HOST_RENEWAL_HEADER in (await player.heartbeat()).headers
