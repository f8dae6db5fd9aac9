"""Templates: versions, tags, owners; what is deleted with what. Costs about 5 s."""

from __future__ import annotations

import uuid

import httpx2
import pytest
from sqlalchemy import insert, select

from wrenn.base.ids import ImageId, SandboxId, TeamId
from wrenn.control.audit import SYSTEM
from wrenn.control.db import Database, Transaction
from wrenn.control.images import images
from wrenn.control.quotas import Limits
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.control.templates import Defaults, NewBase, insert_base_template

from .conftest import Platform, client, refused
from .people import make_admin, sign_up

pytestmark = pytest.mark.asyncio(loop_scope="module")

MINIMAL_ID = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    return team_platform


@pytest.fixture
def database(database_of_module: Database) -> Database:
    return database_of_module


async def team_of(platform: Platform, database: Database) -> TeamId:
    path = await platform.create()
    sandbox_id = SandboxId.parse(path.rpartition("/")[2])
    found = await database.execute(select(sandboxes.c.team_id).where(sandboxes.c.id == sandbox_id.value))
    return TeamId(found.scalar_one())


async def make_base(
    database: Database, team_id: TeamId | None, name: str, *tags: str, image_id: ImageId | None = None
) -> NewBase:
    """Insert a version, with an image that is in the store, as a build does at its end."""
    image_id = image_id or ImageId.new()
    new = NewBase(
        template_id=uuid.uuid4(),
        team_id=team_id,
        name=name,
        image_id=image_id,
        vcpus=2,
        memory_mb=256,
        disk_size_mb=6000,
        size_bytes=1000,
        defaults=Defaults("ada", "/srv", {"A": "1"}),
        labels={"maintainer": "ada"},
        build_id=None,
        build_key=None,
    )

    async def write(tx: Transaction) -> None:
        await tx.execute(
            insert(images).values(
                id=image_id.value,
                team_id=None if team_id is None else team_id.value,
                status="ready",
                manifest_digest="0" * 64,
            )
        )
        await insert_base_template(tx, new, tags=tags or ("latest",), by=SYSTEM, defaults=Limits())

    await database.transaction(write)
    return new


async def image_status(database: Database, new: NewBase) -> str:
    """Whether the image is `ready` or `removing`; the sweep deletes the row of one that nothing uses."""
    found = await database.execute(select(images.c.status).where(images.c.id == new.image_id.value))
    return found.scalar_one_or_none() or "removing"


async def names(api: httpx2.AsyncClient) -> list[tuple[str, list[str]]]:
    listed = (await api.get("/v1/templates")).json()
    return [(each["name"], each["tags"]) for each in listed if not each["platform"]]


async def test_minimal_is_a_template_of_the_platform_with_the_zero_id(platform: Platform):
    listed = (await platform.api.get("/v1/templates", params={"type": "base"})).json()
    minimal = next(each for each in listed if each["name"] == "minimal")
    assert minimal.pop("created_at").endswith("Z")
    assert minimal == {
        "id": MINIMAL_ID, "name": "minimal", "tags": ["latest"], "type": "base", "vcpus": 1, "memory_mb": 512,
        "disk_size_mb": 5120, "size_bytes": 0, "platform": True,
    }  # fmt: skip
    for reference in ("minimal", "minimal:latest", MINIMAL_ID):
        assert (await platform.api.get(f"/v1/templates/{reference}")).json()["id"] == MINIMAL_ID
        refused(await platform.api.delete(f"/v1/templates/{reference}"), 403, "forbidden")
        refused(await platform.api.put(f"/v1/templates/{reference}/tags/mine"), 403, "forbidden")
    made = platform.host.record((await platform.create(template=MINIMAL_ID)).rpartition("/")[2]).spec
    assert (made.template, made.template_name, made.template_id) == ("minimal", "minimal", MINIMAL_ID)


async def test_a_base_says_what_it_was_made_with(platform: Platform, database: Database):
    new = await make_base(database, await team_of(platform, database), "own")
    found = (await platform.api.get("/v1/templates/own")).json()
    found.pop("created_at")
    assert found == {
        "id": str(new.template_id), "name": "own", "tags": ["latest"], "type": "base", "vcpus": 2, "memory_mb": 256,
        "disk_size_mb": 6000, "size_bytes": 1000, "default_user": "ada", "default_env": {"A": "1"},
        "working_dir": "/srv", "labels": {"maintainer": "ada"}, "platform": False,
    }  # fmt: skip
    refused(
        await platform.api.post("/v1/sandboxes", json={"template": "own", "disk_size_mb": 5500}),
        400,
        "invalid_request",
    )


async def test_tags_move_and_a_version_without_any_goes(platform: Platform, database: Database):
    team_id = await team_of(platform, database)
    first = await make_base(database, team_id, "app", "latest", "v1")
    second = await make_base(database, team_id, "app", "latest", "v2")
    assert await names(platform.api) == [("app", ["latest", "v2"]), ("app", ["v1"])]
    # Back to the first.
    answer = await platform.api.put("/v1/templates/app:v1/tags/latest")
    assert (answer.status_code, answer.json()["tags"]) == (200, ["latest", "v1"])
    assert (await platform.api.get("/v1/templates/app")).json()["id"] == str(first.template_id)
    assert (await platform.api.delete("/v1/templates/app:v2")).status_code == 204
    assert await names(platform.api) == [("app", ["latest", "v1"])]
    assert (await image_status(database, first), await image_status(database, second)) == (
        "ready",
        "removing",
    )
    refused(await platform.api.get("/v1/templates/app:v2"), 404, "not_found")
    refused(await platform.api.delete("/v1/templates/app:v2"), 404, "not_found")
    assert (await platform.api.delete(f"/v1/templates/{first.template_id}")).status_code == 204
    assert await names(platform.api) == []
    assert await image_status(database, first) == "removing"


async def test_a_snapshot_with_a_tag_of_its_own_survives_the_next_one(platform: Platform):
    path = await platform.create()
    body = {"sandbox_id": path.rpartition("/")[2], "name": "state"}
    first = (await platform.api.post("/v1/snapshots", json=body)).json()
    assert (await platform.api.put("/v1/templates/state/tags/good")).status_code == 200
    second = await platform.api.post("/v1/snapshots", json=body, params={"overwrite": "true"})
    assert second.status_code == 201, second.text
    assert await names(platform.api) == [("state", ["latest"]), ("state", ["good"])]
    made = platform.host.record((await platform.create(template="state:good")).rpartition("/")[2]).spec
    assert (made.template_id, made.template_name) == (first["id"], "state:good")
    assert (await platform.api.delete("/v1/templates/state")).status_code == 204
    assert await names(platform.api) == []


async def test_a_teams_template_goes_before_the_platforms_and_is_nobody_elses(
    platform: Platform, database: Database
):
    team_id = await team_of(platform, database)
    name = f"shared-{uuid.uuid4().hex[:8]}"
    common = await make_base(database, None, name)
    assert (await platform.api.get(f"/v1/templates/{name}")).json()["id"] == str(common.template_id)
    own = await make_base(database, team_id, name)
    assert (await platform.api.get(f"/v1/templates/{name}")).json()["id"] == str(own.template_id)
    async with client(platform.url, await platform.other_team(f"eve-{name}")) as stranger:
        assert (await stranger.get(f"/v1/templates/{name}")).json()["id"] == str(common.template_id)
        refused(await stranger.get(f"/v1/templates/{own.template_id}"), 404, "not_found")
        refused(await stranger.delete(f"/v1/templates/{own.template_id}"), 404, "not_found")
        refused(await stranger.put(f"/v1/templates/{own.template_id}/tags/x"), 404, "not_found")
        assert (name, ["latest"]) not in await names(stranger)
    assert (await platform.api.delete(f"/v1/templates/{name}")).status_code == 204
    refused(await platform.api.delete(f"/v1/templates/{name}"), 403, "forbidden")


async def test_admins_manage_the_platforms_templates(platform: Platform, database: Database):
    name = f"ours-{uuid.uuid4().hex[:8]}"
    await make_base(database, None, name)
    admin = await sign_up(platform.url)
    refused(await admin.get("/v1/admin/templates"), 403, "forbidden")
    refused(await admin.delete(f"/v1/admin/templates/{name}"), 403, "forbidden")
    await make_admin(str(platform.settings.database_url), admin)
    listed = (await admin.get("/v1/admin/templates")).json()
    assert [each["platform"] for each in listed if each["name"] == name] == [True]
    refused(await admin.delete("/v1/admin/templates/minimal"), 403, "forbidden")
    refused(await admin.delete(f"/v1/admin/templates/{MINIMAL_ID}"), 403, "forbidden")
    assert (await admin.delete(f"/v1/admin/templates/{name}")).status_code == 204
    refused(await admin.delete(f"/v1/admin/templates/{name}"), 404, "not_found")


async def test_references_that_cannot_be_are_refused(platform: Platform, subtests: pytest.Subtests):
    for reference in ("a:", ":a", "a:b:c", "-a", "a:-b", "ä", "a" * 65, "a:" + "b" * 65):
        with subtests.test(reference):
            refused(await platform.api.get(f"/v1/templates/{reference}"), 400, "invalid_request")
            refused(
                await platform.api.post("/v1/sandboxes", json={"template": reference}), 400, "invalid_request"
            )
    refused(await platform.api.put("/v1/templates/minimal/tags/-x"), 400, "invalid_request")


async def test_a_deleted_team_leaves_no_template(platform: Platform, database: Database):
    owner = await sign_up(platform.url)
    team = (await owner.post("/v1/teams", {"name": "short-lived"})).json()
    owner = await owner.at(team["id"])
    new = await make_base(database, TeamId.parse(team["id"]), "gone")
    assert (await owner.delete(f"/v1/teams/{team['id']}")).status_code == 204
    assert await image_status(database, new) == "removing"
    found = await database.execute(
        select(images.c.id).where(images.c.id == new.image_id.value, images.c.status != "removing")
    )
    assert found.first() is None
