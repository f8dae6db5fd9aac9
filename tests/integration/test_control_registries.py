"""Credentials of registries: set, listed, removed, encrypted, and used by builds of their team only. Costs about 5 s."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from wrenn.base.ids import TeamId
from wrenn.base.secrets import Secret
from wrenn.control.audit import audit_logs
from wrenn.control.registries import ImageLogin
from wrenn.control.registries.tables import registry_credentials

from .conftest import Platform, client, refused
from .people import sign_up
from .typed_commands import wrenn

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/registry-credentials"
REGISTRY = "registry.example.com:5000"
PASSWORD = "correct-horse-battery"
BODY = {"registry": REGISTRY, "username": "robot", "password": PASSWORD}


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    return team_platform


async def test_they_are_set_replaced_listed_and_removed_and_the_password_is_never_shown(platform: Platform):
    answer = await platform.api.post(PATH, json=BODY)
    assert answer.status_code == 201, answer.text
    assert {**answer.json(), "set_at": "", "set_by": ""} == {
        "registry": REGISTRY, "username": "robot", "set_at": "", "set_by": "",
    }  # fmt: skip
    assert (await platform.api.post(PATH, json={**BODY, "username": "other"})).status_code == 201
    await platform.api.post(PATH, json={**BODY, "registry": "docker.io"})
    listed = await platform.api.get(PATH)
    assert [(one["registry"], one["username"]) for one in listed.json()] == [
        ("docker.io", "robot"), (REGISTRY, "other"),
    ]  # fmt: skip
    assert PASSWORD not in listed.text + answer.text
    async with client(platform.url, await platform.other_team("registries-eve")) as stranger:
        assert (await stranger.get(PATH)).json() == []
        assert (await stranger.delete(f"{PATH}/{REGISTRY}")).status_code == 204
    for _ in range(2):
        assert (await platform.api.delete(f"{PATH}/{REGISTRY}")).status_code == 204
    assert [one["registry"] for one in (await platform.api.get(PATH)).json()] == ["docker.io"]


async def test_the_database_has_no_password_and_the_log_of_changes_neither(platform: Platform):
    await platform.api.post(PATH, json=BODY)
    await platform.api.delete(f"{PATH}/{REGISTRY}")
    await platform.api.post(PATH, json=BODY)
    table = registry_credentials
    rows = (
        await platform.control.database.execute(
            select(table).where(table.c.registry == REGISTRY, table.c.username == "robot")
        )
    ).all()
    assert rows
    assert all(PASSWORD not in str(row) and PASSWORD.encode() not in row.sealed_password for row in rows)
    entries = (
        await platform.control.database.execute(
            select(audit_logs).where(
                audit_logs.c.team_id == rows[-1].team_id, audit_logs.c.resource_type == "registry"
            )
        )
    ).all()
    assert [entry.action for entry in sorted(entries, key=lambda entry: entry.created_at)] == [
        "set_credentials", "remove_credentials", "set_credentials",
    ]  # fmt: skip
    assert PASSWORD not in str(entries)


@pytest.mark.parametrize(
    "wrong",
    [
        {"registry": "https://example.com"},
        {"registry": "debian"},
        {"registry": "example.com/team"},
        {"registry": ""},
        {"username": ""},
        {"username": "a:b"},
        {"username": "a\nb"},
        {"username": "a" * 257},
        {"password": ""},
        {"password": "a\0b"},
        {"password": "a" * 8193},
        {"password": None},
        {"other": 1},
    ],
)
async def test_bad_input_is_refused_and_changes_nothing(platform: Platform, wrong: dict[str, object]):
    answer = await platform.api.post(PATH, json={**BODY, **wrong})
    refused(answer, 400, "invalid_request")
    assert PASSWORD not in answer.text
    assert (await platform.api.get(PATH)).json() == []
    refused(await platform.api.delete(f"{PATH}/debian"), 400, "invalid_request")


async def test_a_team_has_at_most_fifty(platform: Platform):
    for number in range(50):
        body = {**BODY, "registry": f"r{number}.example.com"}
        assert (await platform.api.post(PATH, json=body)).status_code == 201
    refused(await platform.api.post(PATH, json=BODY), 409, "conflict")
    assert (await platform.api.post(PATH, json={**BODY, "registry": "r7.example.com"})).status_code == 201


async def test_a_build_gets_those_of_its_registry_and_team(platform: Platform):
    credentials = platform.control.services.registry_credentials
    await platform.api.post(PATH, json=BODY)
    row = (
        await platform.control.database.execute(
            select(registry_credentials.c.team_id).order_by(registry_credentials.c.set_at.desc()).limit(1)
        )
    ).scalar_one()
    team_id = TeamId(row)
    assert await credentials.for_image(team_id, f"{REGISTRY}/team/app:1") == ImageLogin(
        "robot", Secret(PASSWORD)
    )
    for reference in (
        "registry.example.com/app",
        f"docker.io/{REGISTRY}/app",
        "app:1",
        "example.com:5000/app",
    ):
        assert await credentials.for_image(team_id, reference) is None
    assert await credentials.for_image(TeamId.new(), f"{REGISTRY}/app") is None


async def test_they_go_with_their_team(platform: Platform):
    person = await sign_up(platform.url)
    assert (await person.post(PATH, BODY)).status_code == 201
    owner = registry_credentials.c.team_id
    mine = select(owner).where(owner == TeamId.parse(person.team_id).value)
    assert (await platform.control.database.execute(mine)).all() != []
    made = await person.post("/v1/teams", {"name": "second"})
    other = await person.at(made.json()["id"])
    assert (await other.post(PATH, BODY)).status_code == 201
    answer = await other.delete(f"/v1/teams/{other.team_id}")
    assert answer.status_code == 204, answer.text
    second = select(owner).where(owner == TeamId.parse(made.json()["id"]).value)
    assert (await platform.control.database.execute(second)).all() == []
    assert (await platform.control.database.execute(mine)).all() != []


async def test_the_command_reads_the_password_from_standard_input(platform: Platform):
    code, out, err = await wrenn(
        platform, "registries", "login", REGISTRY, "-u", "robot", stdin=f"{PASSWORD}\n".encode()
    )
    assert (code, out) == (0, ""), err
    code, out, _ = await wrenn(platform, "registries", "list")
    assert (code, REGISTRY in out, "robot" in out, PASSWORD in out) == (0, True, True, False)
    assert (await wrenn(platform, "registries", "logout", REGISTRY))[0] == 0
    assert (await platform.api.get(PATH)).json() == []
    code, _, err = await wrenn(platform, "registries", "login", "debian", "-u", "x", stdin=b"p\n")
    assert (code != 0, "HOST:PORT" in err) == (True, True)
