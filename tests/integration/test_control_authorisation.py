"""Every operation of the served API description with every kind of credential, over two replicas: 401, 403 and 404 as the
table says. An operation without a row fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import httpx2
import pytest
import pytest_asyncio

from wrenn.base.ids import ImageId, InvitationId

from .conftest import client, run_sql
from .host_agents import registered, unwatched
from .people import People, Person, make_admin

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG_AGO: Final = "now() - interval '1 second'"


class Who(Enum):
    """Whom an operation is for."""

    ANYBODY = "needs no credentials"
    COOKIE = "a session's cookie or token"
    TEAM = "a key or a user of the team"
    ACCOUNT = "any user, whatever the team"
    MEMBER = "a user who is a member of the token's team"
    TEAM_ADMIN = "an admin or the owner of the team"
    OWNER = "the owner of the team"
    ROOT = "an admin of the platform"
    HOST = "the agent of a host"


@dataclass(frozen=True)
class Row:
    """What is expected of one operation.

    Attributes:
        who: whom it is for.
        body, params: valid ones, with {sandbox}, {member} and the like for things of the first team.
        foreign: the answer to a user or key of another team who names a thing of the first; None: it names nothing.
        sees: a key that may only look may do it.
        outside: a key for sandboxes only may not do it.
        found: what a GET answers to whom it is for.
    """

    who: Who
    body: Any = None
    params: dict[str, str] = field(default_factory=dict[str, str])
    foreign: int | None = None
    sees: bool = False
    outside: bool = False
    found: int = 200


SANDBOX = "/v1/sandboxes/{sandbox_id}"
PATHS: Final = {"path": "/tmp/a"}


def in_sandbox(body: Any = None, *, sees: bool = False, **params: str) -> Row:
    return Row(Who.TEAM, body, params, foreign=404, sees=sees)


TABLE: Final[dict[str, Row]] = {
    "GET /health": Row(Who.ANYBODY),
    "POST /v1/auth/signup": Row(Who.ANYBODY, {"email": "x", "password": "x", "name": "x"}),
    "POST /v1/auth/login": Row(Who.ANYBODY, {"email": "nobody@example.com", "password": "wrong password"}),
    "POST /v1/auth/sign-in-link": Row(Who.ANYBODY, {"token": "none"}),
    "POST /v1/auth/verify-email": Row(Who.ANYBODY, {"token": "none"}),
    "POST /v1/auth/verify-email/resend": Row(Who.ANYBODY, {"email": "nobody@example.com"}),
    "POST /v1/auth/password-reset": Row(Who.ANYBODY, {"email": "nobody@example.com"}),
    "POST /v1/auth/password-reset/confirm": Row(
        Who.ANYBODY, {"token": "none", "new_password": "long enough"}
    ),
    "POST /v1/auth/refresh": Row(Who.COOKIE, {}),
    "POST /v1/auth/logout": Row(Who.COOKIE, {}),
    "GET /v1/auth/oauth": Row(Who.ANYBODY),
    "GET /v1/auth/oauth/{provider}": Row(Who.ANYBODY),
    "GET /v1/auth/oauth/{provider}/callback": Row(Who.ANYBODY),
    "POST /v1/auth/switch-team": Row(Who.ACCOUNT, {"team_id": "{team}"}, foreign=403),
    "GET /v1/me": Row(Who.ACCOUNT),
    "PATCH /v1/me": Row(Who.MEMBER, {"name": "x"}),
    "DELETE /v1/me": Row(Who.ACCOUNT, {"confirmation": "no"}),
    "POST /v1/me/password": Row(Who.ACCOUNT, {"current_password": "x", "new_password": "long enough"}),
    "DELETE /v1/me/providers/{provider}": Row(Who.ACCOUNT),
    # No provider is set up here: 404 to whom it is for.
    "GET /v1/me/providers/{provider}/connect": Row(Who.ACCOUNT, found=404),
    "GET /v1/users/search": Row(Who.ACCOUNT, params={"email": "abc"}),
    "GET /v1/teams": Row(Who.ACCOUNT),
    "POST /v1/teams": Row(Who.ACCOUNT, {"name": "x"}),
    "GET /v1/teams/{team_id}": Row(Who.MEMBER, foreign=403),
    "GET /v1/teams/{team_id}/members": Row(Who.MEMBER, foreign=403),
    "POST /v1/teams/{team_id}/leave": Row(Who.MEMBER, {}, foreign=403),
    "PATCH /v1/teams/{team_id}": Row(Who.TEAM_ADMIN, {"name": "x"}, foreign=403),
    "POST /v1/teams/{team_id}/members": Row(Who.TEAM_ADMIN, {"email": "nobody@example.com"}, foreign=403),
    "GET /v1/teams/{team_id}/invitations": Row(Who.TEAM_ADMIN, foreign=403),
    "DELETE /v1/teams/{team_id}/invitations/{invitation_id}": Row(Who.TEAM_ADMIN, foreign=403),
    "POST /v1/invitations/accept": Row(Who.ACCOUNT, {"token": "none"}, found=404),
    "PATCH /v1/teams/{team_id}/members/{user_id}": Row(Who.TEAM_ADMIN, {"role": "member"}, foreign=403),
    "DELETE /v1/teams/{team_id}/members/{user_id}": Row(Who.TEAM_ADMIN, foreign=403),
    "POST /v1/teams/{team_id}/transfer": Row(Who.OWNER, {"user_id": "{member}"}, foreign=403),
    "DELETE /v1/teams/{team_id}": Row(Who.OWNER, foreign=403),
    "GET /v1/api-keys": Row(Who.MEMBER),
    "POST /v1/api-keys": Row(Who.MEMBER, {}),
    # Revoking what is not there is a success; that a stranger's revocation does nothing, another test shows.
    "DELETE /v1/api-keys/{key_id}": Row(Who.MEMBER, foreign=204),
    "GET /v1/admin/users": Row(Who.ROOT),
    "PUT /v1/admin/users/{user_id}/active": Row(Who.ROOT, {"active": True}),
    "PUT /v1/admin/users/{user_id}/admin": Row(Who.ROOT, {"admin": False}),
    "GET /v1/admin/teams": Row(Who.ROOT),
    "GET /v1/admin/metrics": Row(Who.ROOT),
    "GET /v1/admin/hosts/metrics": Row(Who.ROOT),
    "PUT /v1/admin/teams/{team_id}/byoc": Row(Who.ROOT, {"enabled": True}),
    "DELETE /v1/admin/teams/{team_id}": Row(Who.ROOT),
    "GET /v1/admin/teams/{team_id}/limits": Row(Who.ROOT),
    "PUT /v1/admin/teams/{team_id}/limits": Row(Who.ROOT, {}),
    "POST /v1/hosts": Row(Who.ROOT, {"type": "regular"}),
    "GET /v1/hosts": Row(Who.MEMBER),
    "GET /v1/hosts/explain": Row(Who.ROOT),
    "GET /v1/hosts/{host_id}": Row(Who.MEMBER, foreign=404),
    "GET /v1/hosts/{host_id}/delete-preview": Row(Who.MEMBER, foreign=404),
    "DELETE /v1/hosts/{host_id}": Row(Who.TEAM_ADMIN, foreign=404),
    "POST /v1/hosts/{host_id}/drain": Row(Who.TEAM_ADMIN, {}, foreign=404),
    "POST /v1/hosts/{host_id}/uncordon": Row(Who.TEAM_ADMIN, {}, foreign=404),
    "POST /v1/hosts/{host_id}/token": Row(Who.TEAM_ADMIN, {}, foreign=404),
    "GET /v1/hosts/{host_id}/tags": Row(Who.MEMBER, foreign=404),
    "POST /v1/hosts/{host_id}/tags": Row(Who.MEMBER, {"tag": "x"}, foreign=404),
    "DELETE /v1/hosts/{host_id}/tags/{tag}": Row(Who.MEMBER, foreign=404),
    # Their tokens are in the body.
    "POST /v1/hosts/register": Row(Who.ANYBODY, {"token": "x"}),
    "POST /v1/hosts/auth/refresh": Row(Who.ANYBODY, {"refresh_token": "x"}),
    "POST /v1/hosts/{host_id}/heartbeat": Row(Who.HOST, {}),
    "POST /v1/hosts/{host_id}/metrics": Row(Who.HOST, {"series": []}),
    "GET /v1/hosts/{host_id}/images/{image_id}": Row(Who.HOST, found=404),
    "POST /v1/hosts/{host_id}/images/{image_id}/chunk-urls": Row(Who.HOST, {"digests": ["ab" * 32]}),
    "POST /v1/hosts/{host_id}/images/{image_id}/damaged-chunks": Row(Who.HOST, {"digests": ["ab" * 32]}),
    "POST /v1/hosts/{host_id}/images/{image_id}/upload-urls": Row(Who.HOST, {"digests": ["ab" * 32]}),
    "PUT /v1/hosts/{host_id}/images/{image_id}/manifest": Row(Who.HOST, {}),
    # Their signature is the credential: what each lets in, tests/integration/test_images_store.py shows.
    "GET /v1/store/{key}": Row(Who.ANYBODY),
    "PUT /v1/store/{key}": Row(Who.ANYBODY, {}),
    "GET /v1/limits": Row(Who.TEAM, sees=True, outside=True),
    "GET /v1/events": Row(Who.TEAM, sees=True, outside=True),
    "GET /v1/audit-logs": Row(Who.TEAM, sees=True, outside=True),
    "GET /v1/admin/audit-logs": Row(Who.ROOT),
    "POST /v1/sandboxes": Row(Who.TEAM, {"vcpus": 0}),
    "GET /v1/sandboxes": Row(Who.TEAM, sees=True),
    f"PATCH {SANDBOX}": in_sandbox({"name": "other"}),
    "GET /v1/sandboxes/metrics": Row(Who.TEAM, sees=True),
    "GET /v1/sandboxes/metrics/stream": Row(Who.TEAM, sees=True),
    "GET /v1/sandboxes/stats": Row(Who.TEAM, sees=True),
    "GET /v1/usage": Row(Who.TEAM, sees=True, outside=True),
    f"GET {SANDBOX}/metrics": in_sandbox(sees=True),
    "GET " + SANDBOX: in_sandbox(sees=True),
    "DELETE " + SANDBOX: in_sandbox(),
    "POST " + SANDBOX + "/ping": in_sandbox(),
    "POST " + SANDBOX + "/pause": in_sandbox(),
    "POST " + SANDBOX + "/move": in_sandbox({"pause": False}),
    "POST " + SANDBOX + "/resume": in_sandbox(),
    "POST " + SANDBOX + "/recover": in_sandbox(),
    "POST " + SANDBOX + "/fork": in_sandbox({}),
    "PATCH " + SANDBOX + "/network": in_sandbox({}),
    "PATCH " + SANDBOX + "/disk": in_sandbox({"disk_size_mb": 5120}),
    "PATCH " + SANDBOX + "/timeout": in_sandbox({}),
    "POST " + SANDBOX + "/exec": in_sandbox({"cmd": "true"}),
    "GET " + SANDBOX + "/processes": in_sandbox(sees=True),
    "GET " + SANDBOX + "/processes/all": in_sandbox(sees=True),
    "GET " + SANDBOX + "/console": in_sandbox(sees=True),
    "GET " + SANDBOX + "/ports": in_sandbox(sees=True),
    "DELETE " + SANDBOX + "/processes/{selector}": in_sandbox(),
    "POST " + SANDBOX + "/files/write": in_sandbox(),
    "POST " + SANDBOX + "/files/stream/write": in_sandbox(),
    "POST " + SANDBOX + "/files/download-link": in_sandbox(PATHS),
    "GET /v1/downloads/{token}": Row(Who.ANYBODY, found=404),
    "POST " + SANDBOX + "/files/read": in_sandbox(PATHS),
    "POST " + SANDBOX + "/files/stream/read": in_sandbox(PATHS),
    "POST " + SANDBOX + "/files/list": in_sandbox(PATHS),
    "POST " + SANDBOX + "/files/mkdir": in_sandbox(PATHS),
    "POST " + SANDBOX + "/files/remove": in_sandbox(PATHS),
    "POST " + SANDBOX + "/files/stat": in_sandbox(PATHS),
    "POST " + SANDBOX + "/files/move": in_sandbox({"source": "/tmp/a", "destination": "/tmp/b"}),
    "POST " + SANDBOX + "/files/tar/read": in_sandbox(PATHS),
    "POST " + SANDBOX + "/files/tar/write": in_sandbox(path="/tmp/a"),
    "GET " + SANDBOX + "/files/watch": in_sandbox(sees=True, path="/root"),
    "POST " + SANDBOX + "/ports/{port}/link": in_sandbox({}),
    "POST /v1/snapshots": Row(Who.TEAM, {"sandbox_id": "{sandbox}"}, foreign=404),
    "GET /v1/snapshots": Row(Who.TEAM, sees=True),
    "DELETE /v1/snapshots/{name}": Row(Who.TEAM, foreign=404),
    "GET /v1/templates": Row(Who.TEAM, sees=True),
    "GET /v1/templates/{template}": Row(Who.TEAM, foreign=404, sees=True),
    "DELETE /v1/templates/{template}": Row(Who.TEAM, foreign=404, outside=True),
    "PUT /v1/templates/{template}/tags/{tag}": Row(Who.TEAM, foreign=404, outside=True),
    "POST /v1/builds": Row(
        Who.TEAM, {"name": "built", "recipe": ["RUN true"], "skip_pre_post": True}, outside=True
    ),
    "GET /v1/builds": Row(Who.TEAM, sees=True),
    "GET /v1/builds/{build_id}": Row(Who.TEAM, foreign=404, sees=True),
    "GET /v1/builds/{build_id}/logs": Row(Who.TEAM, foreign=404, sees=True),
    "POST /v1/builds/{build_id}/cancel": Row(Who.TEAM, foreign=404, outside=True),
    "POST /v1/admin/builds": Row(Who.ROOT, {"name": "built", "recipe": ["RUN true"], "skip_pre_post": True}),
    "GET /v1/admin/builds": Row(Who.ROOT),
    "GET /v1/admin/builds/{build_id}": Row(Who.ROOT),
    "GET /v1/admin/builds/{build_id}/logs": Row(Who.ROOT),
    "POST /v1/admin/builds/{build_id}/cancel": Row(Who.ROOT),
    "POST /v1/registry-credentials": Row(
        Who.TEAM, {"registry": "registry.example.com", "username": "x", "password": "x"}, outside=True
    ),
    "GET /v1/registry-credentials": Row(Who.TEAM, sees=True, outside=True),
    # As with keys: what is not there is removed already.
    "DELETE /v1/registry-credentials/{registry}": Row(Who.TEAM, foreign=204, outside=True),
    "GET /v1/admin/templates": Row(Who.ROOT),
    "DELETE /v1/admin/templates/{template}": Row(Who.ROOT),
}
E2B_SANDBOX: Final = "/e2b/sandboxes/{sandbox_id}"
E2B: Final[dict[str, Row]] = {
    "GET /e2b/health": Row(Who.ANYBODY),
    "POST /e2b/sandboxes": Row(Who.TEAM, {"templateID": "minimal", "timeout": 0}),
    "POST /e2b/v2/sandboxes": Row(Who.TEAM, {"templateID": "minimal", "timeout": 0}),
    "GET /e2b/sandboxes": Row(Who.TEAM, sees=True),
    "GET /e2b/v2/sandboxes": Row(Who.TEAM, sees=True),
    f"GET {E2B_SANDBOX}": in_sandbox(sees=True),
    f"DELETE {E2B_SANDBOX}": in_sandbox(),
    f"POST {E2B_SANDBOX}/timeout": in_sandbox({"timeout": 60}),
    "POST /e2b/v3/templates": Row(Who.TEAM, {"name": "announced"}, outside=True),
    "GET /e2b/templates/{templateID}/files/{hash}": Row(Who.TEAM, sees=True, found=201),
    # The link is the permission; this one is not valid.
    "PUT /e2b/templates/uploads/{link}": Row(Who.ANYBODY),
    "POST /e2b/v2/templates/{templateID}/builds/{buildID}": Row(
        Who.TEAM, {"fromTemplate": "minimal"}, foreign=404, outside=True
    ),
    "GET /e2b/templates/{templateID}/builds/{buildID}/status": Row(Who.TEAM, foreign=404, sees=True),
    "GET /e2b/templates/aliases/{alias}": Row(Who.TEAM, foreign=404, sees=True),
    "POST /e2b/templates/tags": Row(
        Who.TEAM, {"target": "{template}", "tags": ["x"]}, foreign=404, outside=True
    ),
    "DELETE /e2b/templates/tags": Row(
        Who.TEAM, {"name": "{template}", "tags": ["x"]}, foreign=404, outside=True
    ),
    "GET /e2b/templates/{templateID}/tags": Row(Who.TEAM, foreign=404, sees=True),
    "DELETE /e2b/templates/{templateID}": Row(Who.TEAM, foreign=404),
    f"POST {E2B_SANDBOX}/refreshes": in_sandbox({"duration": 60}),
    f"POST {E2B_SANDBOX}/pause": in_sandbox(),
    f"POST {E2B_SANDBOX}/resume": in_sandbox({}),
    f"POST {E2B_SANDBOX}/connect": in_sandbox({"timeout": 60}),
    "POST /e2b/v2/sandboxes/{sandbox_id}/connect": in_sandbox({}),
    f"POST {E2B_SANDBOX}/fork": in_sandbox({}),
    f"PUT {E2B_SANDBOX}/network": in_sandbox({}),
    "GET /e2b/sandboxes/metrics": Row(Who.TEAM, params={"sandbox_ids": "{sandbox}"}, sees=True),
    f"GET {E2B_SANDBOX}/metrics": in_sandbox(sees=True),
    f"POST {E2B_SANDBOX}/snapshots": in_sandbox({}),
    "GET /e2b/snapshots": Row(Who.TEAM, sees=True),
    # Refused to everybody with 501, once it is known who asks.
    "GET /e2b/volumes": Row(Who.TEAM, foreign=501, sees=True, found=501),
    "POST /e2b/volumes": Row(Who.TEAM, {}, foreign=501),
    "GET /e2b/volumes/{volume_id}": Row(Who.TEAM, foreign=501, sees=True, found=501),
    "DELETE /e2b/volumes/{volume_id}": Row(Who.TEAM, foreign=501),
    "GET /e2b/secrets": Row(Who.TEAM, foreign=501, sees=True, found=501),
    "POST /e2b/secrets": Row(Who.TEAM, {}, foreign=501),
    "GET /e2b/secrets/{secret_id}": Row(Who.TEAM, foreign=501, sees=True, found=501),
    "POST /e2b/secrets/{secret_id}": Row(Who.TEAM, {}, foreign=501),
    "DELETE /e2b/secrets/{secret_id}": Row(Who.TEAM, foreign=501),
    f"GET {E2B_SANDBOX}/logs": in_sandbox(sees=True),
    "GET /e2b/v2/sandboxes/{sandbox_id}/logs": in_sandbox(sees=True),
    "GET /e2b/templates": Row(Who.TEAM, sees=True),
    "GET /e2b/v2/templates": Row(Who.TEAM, sees=True),
    "GET /e2b/templates/{templateID}": Row(Who.TEAM, foreign=404, sees=True, found=404),
    "PATCH /e2b/templates/{templateID}": Row(Who.TEAM, {}, foreign=404, outside=True),
    "PATCH /e2b/v2/templates/{templateID}": Row(Who.TEAM, {}, foreign=404, outside=True),
}
"""The operations of the e2b API, which has a description of its own."""


@dataclass
class World:
    """Two teams, things of the first, and every kind of caller."""

    url: str
    things: dict[str, str]
    operations: list[str]
    callers: dict[str, dict[str, str]]


def bearer(person: Person) -> dict[str, str]:
    return {"Authorization": f"Bearer {person.token}"}


def api_key(key: dict[str, Any]) -> dict[str, str]:
    return {"X-API-Key": key["key"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(people: People) -> World:
    """All of it once: nothing that the tests do is let through, so nothing changes."""
    ada, eve = await people.sign_up(name="Ada"), await people.sign_up(name="Eve")
    member, gone, off, out, root = [await people.sign_up() for _ in range(5)]
    member_here, gone_here, off_here = [await ada.add(person) for person in (member, gone, off)]
    sandbox = (await ada.post("/v1/sandboxes")).json()["id"]
    kept = await ada.post("/v1/snapshots", {"sandbox_id": sandbox, "name": "ours"})
    assert kept.status_code == 201, kept.text
    build = await ada.post("/v1/builds", {"name": "built", "recipe": ["RUN true"], "skip_pre_post": True})
    assert build.status_code == 201, build.text
    announced = await ada.post("/e2b/v3/templates", {"name": "announced"})
    assert announced.status_code == 202, announced.text
    keys = {scope: await ada.make_key(scope=scope) for scope in ("full", "sandboxes", "read")}
    old = await ada.make_key(expires_at="2999-01-01T00:00:00Z")
    revoked = await ada.make_key()
    foreign = await eve.make_key()
    await make_admin(people.database_url, root)
    # After the sandbox was made, as new ones of such a team run on its own hosts only.
    assert (await root.put(f"/v1/admin/teams/{ada.team_id}/byoc", {"enabled": True})).status_code == 204
    agent = await registered(ada, type="byoc", team_id=ada.team_id)
    other_agent = await registered(ada, type="byoc", team_id=ada.team_id)
    for each in (agent, other_agent):
        await unwatched(people.database_url, each)
    await run_sql(
        people.database_url,
        f"UPDATE team_api_keys SET expires_at = {LONG_AGO} WHERE key_prefix = '{old['key_prefix']}'",
    )
    assert (await ada.delete(f"/v1/api-keys/{revoked['id']}")).status_code == 204
    assert (await ada.delete(f"/v1/teams/{ada.team_id}/members/{gone.user_id}")).status_code == 204
    assert (await root.put(f"/v1/admin/users/{off.user_id}/active", {"active": False})).status_code == 204
    # A token whose session has ended, and one of a user who is deactivated though the session was forgotten.
    assert (await out.post("/v1/auth/logout")).status_code == 204
    await run_sql(
        people.database_url,
        "UPDATE sessions SET ended_at = NULL FROM users WHERE users.id = user_id AND"
        " users.status = 'disabled'",
    )
    async with client(people.url, None) as api:
        descriptions = [(await api.get(path)).json() for path in ("/openapi.json", "/e2b/openapi.json")]
    operations = [
        f"{method.upper()} {path}"
        for description in descriptions
        for path, methods in description["paths"].items()
        for method in methods
    ]
    return World(
        # What was made through the first replica is refused by the second: nothing is kept in a replica.
        url=people.second.url,
        things={
            "sandbox": sandbox,
            "sandbox_id": sandbox,
            "team": ada.team_id,
            "team_id": ada.team_id,
            "user_id": member.user_id,
            "member": member.user_id,
            "key_id": keys["full"]["id"],
            "invitation_id": str(InvitationId.new()),
            "name": "ours",
            "template": "ours",
            "volume_id": "x",
            "secret_id": "x",
            "build_id": build.json()["id"],
            "selector": "1",
            "port": "8080",
            "provider": "github",
            "registry": "registry.example.com",
            "host_id": agent.host_id,
            "image_id": str(ImageId.new()),
            "key": "platform/chunks/ab/x",
            "tag": "x",
            "templateID": "ours",
            "alias": "ours",
            "buildID": announced.json()["buildID"],
            "hash": "0" * 64,
            "link": "none",
        },
        operations=operations,
        callers={
            "none": {},
            "malformed key": {"X-API-Key": "wrn_short"},
            "wrong key": {"X-API-Key": f"wrn_{'0' * 32}"},
            "wrong key beside a good token": {"X-API-Key": f"wrn_{'0' * 32}", **bearer(ada)},
            "expired key": api_key(old),
            "revoked key": api_key(revoked),
            "foreign key": api_key(foreign),
            "full key": api_key(keys["full"]),
            "sandboxes key": api_key(keys["sandboxes"]),
            "read key": api_key(keys["read"]),
            "malformed token": {"Authorization": "Bearer not.a.token"},
            "no bearer": {"Authorization": f"Basic {ada.token}"},
            "altered token": {"Authorization": f"Bearer {ada.token[:-6]}AAAAAA"},
            "ended session": bearer(out),
            "deactivated user": bearer(off_here),
            "removed member": bearer(gone_here),
            "foreign user": bearer(eve),
            "member": bearer(member_here),
            "host token": {"X-Host-Token": agent.token},
            "another host's token": {"X-Host-Token": other_agent.token},
            "host token as bearer": {"Authorization": f"Bearer {agent.token}"},
            "host token as key": {"X-API-Key": agent.token},
            "user token as host token": {"X-Host-Token": ada.token},
        },
    )


async def call(world: World, operation: str, row: Row, caller: str) -> httpx2.Response:
    """One call with all names filled in."""

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub(r"\{(\w+)\}", lambda match: world.things[match[1]], value)
        return {k: filled(v) for k, v in value.items()} if isinstance(value, dict) else value  # type: ignore[reportUnknownVariableType]

    method, path = operation.split(" ", 1)
    headers = dict(world.callers[caller])
    content: dict[str, Any] = {"json": filled(row.body)} if row.body is not None else {}
    if path.endswith("/write"):
        content = {"data": {"path": "/tmp/a"}, "files": {"file": b"x"}}
    sent: dict[str, Any] = {"params": filled(row.params), "headers": headers, **content}
    async with client(world.url, None) as api, api.stream(method, filled(path), **sent) as answer:
        if answer.status_code >= 300:  # what is let in may go on for ever
            await answer.aread()
        return answer


def expected(operation: str, row: Row, caller: str) -> int | None:
    """The status that refuses, or None: it is let in, and what it answers is other tests' matter."""
    if row.who is Who.ANYBODY:
        return None
    if row.who is Who.COOKIE:
        # None has the cookie. A token does for a logout, whatever its team.
        if operation.endswith("/logout") and caller in ("member", "foreign user", "removed member"):
            return None
        return 403 if operation.endswith("/logout") and caller == "deactivated user" else 401
    if row.who is Who.HOST:
        if caller == "another host's token":
            return 403
        return None if caller == "host token" else 401
    if row.who is Who.TEAM:
        return expected_of_team(row, caller)
    # From here on: for users only.
    match caller:
        case "removed member":
            return None if row.who is Who.ACCOUNT and row.foreign is None else 403
        case "deactivated user":
            return 403
        case "foreign user":
            return 403 if row.who is Who.ROOT else row.foreign
        case "member":
            return 403 if row.who in (Who.TEAM_ADMIN, Who.OWNER, Who.ROOT) else None
        case _:
            return 401


def expected_of_team(row: Row, caller: str) -> int | None:
    """Of an operation that keys may do."""
    match caller:
        case "full key" | "member":
            return None
        case "sandboxes key":
            return 403 if row.outside else None
        case "read key":
            return None if row.sees else 403
        case "foreign key" | "foreign user":
            return row.foreign
        case "removed member" | "deactivated user":
            return 403
        case _:
            return 401


CALLERS: Final = (
    "none", "malformed key", "wrong key", "wrong key beside a good token", "expired key", "revoked key",
    "foreign key", "full key", "sandboxes key", "read key", "malformed token", "no bearer", "altered token",
    "ended session", "deactivated user", "removed member", "foreign user", "member",
    "host token", "another host's token", "host token as bearer", "host token as key", "user token as host token",
)  # fmt: skip


async def test_every_operation_has_a_row(world: World):
    assert sorted(world.operations) == sorted(TABLE | E2B)
    assert set(CALLERS) == set(world.callers)


@pytest.mark.parametrize("operation", TABLE | E2B)
async def test_who_may_not_is_refused(world: World, operation: str):
    row = (TABLE | E2B)[operation]
    wrong: dict[str, str] = {}
    for caller in CALLERS:
        status = expected(operation, row, caller)
        if status is None:
            continue
        answer = await call(world, operation, row, caller)
        if answer.status_code != status:
            wrong[caller] = f"{answer.status_code} instead of {status}: {answer.text[:200]}"
    assert wrong == {}


LOOKS: Final = [
    operation
    for operation, row in (TABLE | E2B).items()
    if operation.startswith("GET") and row.who is not Who.ANYBODY
]


@pytest.mark.parametrize("operation", LOOKS)
async def test_who_may_look_sees(world: World, operation: str):
    """The other half: the refusals above are not those of a door that is shut for all."""
    row = (TABLE | E2B)[operation]
    for caller in CALLERS:
        if expected(operation, row, caller) is None:
            answer = await call(world, operation, row, caller)
            assert answer.status_code == row.found, f"{caller}: {answer.text}"


async def test_a_host_sends_heartbeats_with_its_token(world: World):
    operation = "POST /v1/hosts/{host_id}/heartbeat"
    assert (await call(world, operation, TABLE[operation], "host token")).status_code == 204
