"""Builds of the platform's templates by its admins. Costs about 15 s."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from wrenn.base.ids import HostId
from wrenn.control.audit import PLATFORM_TEAM, SYSTEM
from wrenn.control.audit.tables import audit_logs
from wrenn.control.db import Transaction
from wrenn.control.snapshots import store as snapshot_store
from wrenn.control.templates import templates

from .conftest import DEADLINE_S, Platform, client, refused
from .people import make_admin, sign_up

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    return team_platform


async def admin_of(platform: Platform) -> Any:
    admin = await sign_up(platform.url)
    await make_admin(str(platform.settings.database_url), admin)
    return admin


async def built(admin: Any, body: dict[str, object]) -> dict[str, Any]:
    answer: httpx2.Response = await admin.post("/v1/admin/builds", {"skip_pre_post": True, **body})
    assert answer.status_code == 201, answer.text
    path = f"/v1/admin/builds/{answer.json()['id']}"
    async with asyncio.timeout(2 * DEADLINE_S):
        while (found := (await admin.get(path)).json())["status"] in ("pending", "running"):
            await asyncio.sleep(0.1)
    assert found["status"] == "success", found
    return found


async def test_streams_of_logs_end_with_what_allowed_them(platform: Platform):
    root, admin, ada = await admin_of(platform), await admin_of(platform), await sign_up(platform.url)
    key = await ada.make_key(scope="read")
    long = {"name": "long", "recipe": ["RUN --timeout=1h sleep 3000"], "skip_pre_post": True}
    own = (await ada.post("/v1/builds", long)).json()["id"]
    common = (await root.post("/v1/admin/builds", long)).json()["id"]
    streams = (
        (f"/v1/builds/{own}", {"X-API-Key": key["key"]}),
        (f"/v1/admin/builds/{common}", {"Authorization": f"Bearer {admin.token}"}),
    )
    async with AsyncExitStack() as stack:
        opened: list[httpx2.Response] = []
        for path, headers in streams:
            api = await stack.enter_async_context(client(platform.url, None))
            api.headers.update({**headers, "Accept": "text/event-stream"})
            answer = await stack.enter_async_context(api.stream("GET", f"{path}/logs"))
            assert answer.status_code == 200
            opened.append(answer)
        assert (await ada.delete(f"/v1/api-keys/{key['id']}")).status_code == 204
        rights = f"/v1/admin/users/{admin.user_id}/admin"
        assert (await root.put(rights, {"admin": False})).status_code == 204
        async with asyncio.timeout(DEADLINE_S):
            for answer in opened:
                # It is not whole, so its connection is closed.
                with pytest.raises(httpx2.RemoteProtocolError):
                    assert "event: end" not in (await answer.aread()).decode()
    assert (await ada.post(f"/v1/builds/{own}/cancel")).status_code == 204
    assert (await root.post(f"/v1/admin/builds/{common}/cancel")).status_code == 204


@pytest.mark.parametrize("healthcheck", [None, "--interval=0.1s true"])
async def test_what_the_platform_builds_is_for_all_teams(platform: Platform, healthcheck: str | None):
    admin = await admin_of(platform)
    name = f"common-{uuid.uuid4().hex[:8]}"
    body: dict[str, object] = {"name": name, "recipe": ["RUN echo for all > /srv-common"]}
    body |= {"healthcheck": healthcheck} if healthcheck else {}
    made = await built(admin, body)
    template = (await platform.api.get(f"/v1/templates/{name}")).json()
    assert (template["id"], template["platform"]) == (made["template_id"], True)
    assert template["type"] == ("snapshot" if healthcheck else "base")
    path = await platform.create(template=name)
    ran = await platform.api.post(f"{path}/exec", json={"cmd": "cat", "args": ["/srv-common"]})
    assert ran.json()["stdout"] == "for all\n"
    # A team sees the template, and nothing of how it was made.
    refused(await platform.api.get(f"/v1/builds/{made['id']}"), 404, "not_found")
    refused(await platform.api.post(f"/v1/builds/{made['id']}/cancel"), 404, "not_found")
    refused(await platform.api.delete(f"/v1/templates/{name}"), 403, "forbidden")
    assert made["id"] in [each["id"] for each in (await admin.get("/v1/admin/builds")).json()]
    steps = (await admin.get(f"/v1/admin/builds/{made['id']}/logs")).json()
    assert [step["ok"] for step in steps] == [True]
    # Its layers are the platform's.
    again = await built(admin, body)
    steps = (await admin.get(f"/v1/admin/builds/{again['id']}/logs")).json()
    assert [step["cached"] for step in steps] == [True]
    assert (await platform.api.delete(path)).status_code == 204
    assert (await admin.delete(f"/v1/admin/templates/{name}")).status_code == 204
    refused(await platform.api.get(f"/v1/templates/{name}"), 404, "not_found")


async def test_the_audit_log_of_the_platform_has_its_builds(platform: Platform):
    admin = await admin_of(platform)
    name = f"audited-{uuid.uuid4().hex[:8]}"
    made = await built(admin, {"name": name, "recipe": ["RUN true"]})
    entries = (await admin.get("/v1/admin/audit-logs")).json()["items"]
    found = {
        (each["resource_type"], each["action"])
        for each in entries
        if each["resource_id"] in (made["id"], name)
    }
    assert found >= {("build", "create"), ("build", "finish"), ("template", "create")}
    assert (await admin.delete(f"/v1/admin/templates/{name}")).status_code == 204


async def test_the_platforms_own_team_is_nobodys(platform: Platform):
    admin = await admin_of(platform)
    answer = await admin.post(
        "/v1/admin/builds", {"name": "cancelled", "recipe": ["RUN sleep 3000"], "skip_pre_post": True}
    )
    build_id = answer.json()["id"]
    listed = (await admin.get("/v1/admin/teams")).json()
    assert "platform" not in [team["slug"] for team in listed["teams"]]
    team = f"team-{'0' * 25}"
    for method, path in (("GET", f"/v1/teams/{team}"), ("DELETE", f"/v1/admin/teams/{team}")):
        assert (await admin.call(method, path)).status_code in (400, 403, 404)
    assert (await admin.post(f"/v1/admin/builds/{build_id}/cancel")).status_code == 204
    async with asyncio.timeout(DEADLINE_S):
        while (await admin.get(f"/v1/admin/builds/{build_id}")).json()["status"] != "cancelled":
            await asyncio.sleep(0.1)
    refused(
        await admin.post("/v1/admin/builds", {"name": "minimal", "recipe": ["RUN true"]}),
        409,
        "name_reserved",
    )
    refused(
        await admin.post("/v1/admin/builds", {"name": "x", "recipe": ["NOTHING"]}), 400, "invalid_request"
    )


async def test_templates_of_the_platform_go_with_their_host(platform: Platform):
    admin = await admin_of(platform)
    name = f"hosted-{uuid.uuid4().hex[:8]}"
    await built(admin, {"name": name, "recipe": ["RUN true"], "healthcheck": "--interval=0.1s true"})

    class RolledBack(Exception):
        pass

    async def retire(tx: Transaction) -> None:
        found = await tx.execute(select(templates.c.host_id).where(templates.c.name == name))
        await snapshot_store.retire_on_hosts(tx, [HostId(found.scalar_one())], by=SYSTEM)
        status = await tx.execute(select(templates.c.status).where(templates.c.name == name))
        assert status.scalar_one() == "removing"
        entries = await tx.execute(
            select(audit_logs.c.action).where(
                audit_logs.c.team_id == PLATFORM_TEAM.value, audit_logs.c.resource_id == name
            )
        )
        assert "delete" in entries.scalars().all()
        raise RolledBack

    with pytest.raises(RolledBack):
        await platform.control.database.transaction(retire)
    assert (await admin.delete(f"/v1/admin/templates/{name}")).status_code == 204
