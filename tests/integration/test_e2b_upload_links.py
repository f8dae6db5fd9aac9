"""Links for uploads of e2b's template builder end with the access of their holder, and what a team uploaded goes with the team."""

from __future__ import annotations

import httpx2
import pytest

from tests.integration.conftest import client
from tests.integration.people import People
from tests.integration.test_e2b_builder import HASH, archive, rows
from wrenn.base.ids import TeamId
from wrenn.base.secrets import Secret
from wrenn.control.db import Database
from wrenn.control.e2b import BuilderRetention
from wrenn.control.e2b.builder_files import key_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

_FILES = f"/e2b/templates/any/files/{HASH}"


async def put(url: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as anybody:
        return await anybody.put(url, content=archive(a="one"))


async def test_a_link_ends_with_the_key_that_got_it(people: People) -> None:
    ada = await people.sign_up()
    made = await ada.make_key(scope="full")
    async with client(people.url, Secret(made["key"])) as api:
        by_key = (await api.get(_FILES)).json()["url"]
    by_person = (await ada.get(_FILES)).json()["url"]
    assert (await ada.delete(f"/v1/api-keys/{made['id']}")).status_code == 204
    refused = await put(by_key)
    assert (refused.status_code, "not valid any more" in refused.text) == (404, True)
    assert (await put(by_person)).status_code == 204
    assert (await put(by_person)).status_code == 404


async def test_what_a_team_uploaded_and_announced_goes_with_the_team(people: People) -> None:
    ada = await people.sign_up()
    team = (await ada.post("/v1/teams", {"name": "second"})).json()
    ada = await ada.at(team["id"])
    url = (await ada.get(_FILES)).json()["url"]
    assert (await put(url)).status_code == 204
    later = (await ada.get(_FILES)).json()["url"]
    assert (await ada.post("/e2b/v3/templates", {"name": "app"})).status_code == 202
    assert (await ada.delete(f"/v1/teams/{team['id']}")).status_code == 204
    assert (await put(later)).status_code == 404
    database = Database(people.database_url)
    team_id = TeamId.parse(team["id"])
    assert await rows(database, f"SELECT id FROM announced_builds WHERE team_id = '{team_id.value}'") == []
    objects = people.platform.control.objects
    assert await objects.size_of(key_of(team_id, HASH)) is not None
    await BuilderRetention(database, objects).delete_old()
    assert await objects.size_of(key_of(team_id, HASH)) is None
    assert await rows(database, f"SELECT hash FROM builder_files WHERE team_id = '{team_id.value}'") == []
    await database.close()
