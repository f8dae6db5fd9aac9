"""Names and labels of sandboxes, searching lists by them, pages, and who made a sandbox."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from importlib.metadata import version

import pytest
import pytest_asyncio

from wrenn import AsyncSandbox, InvalidRequestError, Sandbox

from .conftest import Platform, refused
from .event_reader import reading
from .people import People
from .typed_commands import wrenn

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def shared(people: People) -> AsyncIterator[Platform]:
    """The module's platform, without sandboxes at the end."""
    platform = people.platform
    yield platform
    for sandbox in (await platform.api.get("/v1/sandboxes")).json():
        await platform.api.delete(f"/v1/sandboxes/{sandbox['id']}")


async def names(platform: Platform, query: str) -> list[str]:
    """Names of the sandboxes that a list with this query has."""
    answer = await platform.api.get(f"/v1/sandboxes{query}")
    assert answer.status_code == 200, answer.text
    return [sandbox.get("name", "") for sandbox in answer.json()]


async def test_a_sandbox_has_the_name_labels_and_maker_of_its_request(shared: Platform):
    labels = {"team": "blue", "ticket": "A-1 = ä", "empty": ""}
    path = await shared.create(name="builder", metadata=labels)
    twin = await shared.create(name="builder")
    found = (await shared.api.get(path)).json()
    assert found["name"] == "builder"
    assert labels.items() <= found["metadata"].items()
    assert found["metadata"]["agent_version"] == version("wrenn")
    assert found["disk_size_mb"] == 5120
    assert found["created_by"]["type"] == "api_key"
    assert found["created_by"]["name"] == "test"
    assert twin != path
    unnamed = (await shared.api.get(await shared.create())).json()
    assert "name" not in unnamed
    copy = (await shared.api.post(f"{path}/fork", json={})).json()["sandboxes"][0]
    assert (copy["name"], copy["created_by"]) == ("builder", found["created_by"])
    assert labels.items() <= copy["metadata"].items()


async def test_lists_are_searched_by_name_labels_and_state(shared: Platform):
    await shared.create(name="web-1", metadata={"team": "blue", "tier": "web"})
    await shared.create(name="web-10", metadata={"team": "red", "tier": "web"})
    paused = await shared.create(name="50%_\\", metadata={"team": "blue"})
    await shared.api.post(f"{paused}/pause")
    for query, expected in {
        "": ["50%_\\", "web-10", "web-1"],
        "?name=web-1": ["web-1"],
        "?name=web-*": ["web-10", "web-1"],
        "?name=*": ["50%_\\", "web-10", "web-1"],
        "?name=50%25_%5C": ["50%_\\"],
        "?name=5%25": [],
        "?name=web__": [],
        "?metadata=team%3Dblue": ["50%_\\", "web-1"],
        "?metadata=team%3Dblue&metadata=tier%3Dweb": ["web-1"],
        "?metadata=team%3D": [],
        f"?metadata=agent_version%3D{version('wrenn')}": [],
        "?state=paused": ["50%_\\"],
        "?state=running,paused&name=web-*": ["web-10", "web-1"],
        "?state=missing": [],
    }.items():
        assert await names(shared, query) == expected, query


async def test_pages_follow_one_another_and_without_limit_there_are_none(shared: Platform):
    for number in range(5):
        await shared.create(name=f"n{number}")
    first = await shared.api.get("/v1/sandboxes?limit=2")
    await shared.create(name="later")
    seen, cursor = [s["name"] for s in first.json()], first.headers["x-next-cursor"]
    while cursor:
        page = await shared.api.get("/v1/capsules", params={"limit": 2, "cursor": cursor})
        seen += [s["name"] for s in page.json()]
        cursor = page.headers.get("x-next-cursor")
    assert seen == ["n4", "n3", "n2", "n1", "n0"]
    whole = await shared.api.get("/v1/sandboxes")
    assert len(whole.json()) == 6
    assert "x-next-cursor" not in whole.headers


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?limit=many", "limit"),
        ("?cursor=x", "cursor"),
        ("?limit=1&cursor=x", "cursor"),
        ("?limit=1&cursor=" + "A" * 1000, "cursor"),
        ("?limit=1&cursor=MjAyNnxjbC14", "cursor"),
        ("?state=stopped", "state"),
        ("?state=", "state"),
        ("?metadata=team", "metadata"),
        ("?metadata=%3Dx", "metadata"),
        ("?metadata=a%3D%00", "NUL"),
        ("?name=%00", "NUL"),
        ("?q=%00", "NUL"),
        ("?q=" + "x" * 129, "q"),
        ("?sort=size", "sort"),
        ("?sort=", "sort"),
        ("?sort=--name", "sort"),
        ("?name=" + "x" * 129, "name"),
        ("?metadata=a%3Db" * 1 + "&metadata=a%3Db" * 64, "metadata"),
    ],
)
async def test_a_search_that_cannot_be_read_is_refused(shared: Platform, query: str, words: str):
    assert words in refused(await shared.api.get(f"/v1/sandboxes{query}"), 400, "invalid_request")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "x" * 129}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": 7}, "name"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": None}}, "metadata"),
        ({"metadata": ["a"]}, "metadata"),
        ({"metadata": {"": "x"}}, "metadata"),
        ({"metadata": {"a=b": "x"}}, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata"),
        ({"metadata": {"k": "a\0b"}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(65)}}, "metadata"),
        ({"metadata": {"kernel_version": "mine"}}, "written by the platform"),
    ],
)
async def test_names_and_labels_have_bounds(shared: Platform, body: dict[str, object], words: str):
    assert words in refused(await shared.api.post("/v1/sandboxes", json=body), 400, "invalid_request")


async def test_the_client_gives_names_and_finds_by_them(shared: Platform):
    key, url = shared.key.reveal(), shared.url
    labels = {"q": "1 & 2=3"}
    async with await AsyncSandbox.create(name="b&c", metadata=labels, api_key=key, base_url=url) as sandbox:
        info = await sandbox.info()
        assert (info.name, info.labels) == ("b&c", {"q": "1 & 2=3"})
        assert info.created_by is not None
        assert info.created_by.name == "test"
        for found in (
            await AsyncSandbox.list(name="b&*", api_key=key, base_url=url),
            await AsyncSandbox.list(metadata=labels, state=["running"], api_key=key, base_url=url),
        ):
            assert [s.id for s in found] == [sandbox.id]
        assert await AsyncSandbox.list(name="b", api_key=key, base_url=url) == []


async def test_the_command_line_gives_names_labels_and_policies(shared: Platform):
    async def run(*words: str) -> str:
        code, output, errors = await wrenn(shared, *words)
        assert code == 0, (words, errors)
        return output

    closed = ("--no-internet", "--allow", "44.0.0.1", "--deny", "44.0.0.0/8")
    made = (await run("create", "--name", "cli", "--label", "team=blue", *closed)).strip()
    assert await run("network", made) == "internet  no\nallow     44.0.0.1\ndeny      44.0.0.0/8\n"
    assert (
        await run("network", made, "--reset", "--deny", "45.0.0.0/8")
        == "internet  yes\ndeny      45.0.0.0/8\n"
    )
    for words in (("list", "--label", "team=blue"), ("ls", "--name", "cl*", "--state", "running")):
        assert made in await run(*words)
    assert made not in await run("ls", "--label", "team=red")
    assert "no internet" not in await run("info", made)


async def test_the_sdk_and_the_command_line_list_page_by_page(shared: Platform):
    for number in range(5):
        await shared.create(name=f"paged-{number}")
    key, url = shared.key.reveal(), shared.url
    whole = await AsyncSandbox.list(name="paged-*", api_key=key, base_url=url)
    assert [info.name for info in whole] == [f"paged-{number}" for number in (4, 3, 2, 1, 0)]

    def ids(*, limit: int | None = None, page_size: int = 100) -> list[str]:
        found = Sandbox.iter(name="paged-*", limit=limit, page_size=page_size, api_key=key, base_url=url)
        return [info.id for info in found]

    assert await asyncio.to_thread(ids, page_size=2) == [info.id for info in whole]
    assert await asyncio.to_thread(ids, page_size=2, limit=3) == [info.id for info in whole[:3]]
    assert await asyncio.to_thread(ids, limit=5) == [info.id for info in whole]
    paged = AsyncSandbox.iter(state=["running"], name="paged-*", page_size=1, api_key=key, base_url=url)
    assert [info.id async for info in paged] == [info.id for info in whole]
    newest = await AsyncSandbox.list(name="paged-*", limit=2, api_key=key, base_url=url)
    assert newest == whole[:2]
    # An iterator that is left in the middle keeps no connection.
    left = AsyncSandbox.iter(name="paged-*", page_size=1, api_key=key, base_url=url)
    assert (await anext(left)).id == whole[0].id
    await left.aclose()
    for limit, page_size in ((0, 100), (None, 0), (None, 1001)):
        with pytest.raises(InvalidRequestError):
            await asyncio.to_thread(ids, limit=limit, page_size=page_size)
    code, out, _ = await wrenn(shared, "list", "--name", "paged-*", "--limit", "2", "--json")
    assert (code, [one["name"] for one in json.loads(out)]) == (0, ["paged-4", "paged-3"])


async def test_a_text_is_searched_in_all_that_a_list_shows(shared: Platform):
    web = await shared.create(name="Web-1", metadata={"team": "Blue sky", "tier": "x"})
    await shared.create(name="50%_\\", metadata={"Blue": ""})
    unnamed = web.rpartition("/")[2]
    for query, expected in {
        "": ["50%_\\", "Web-1"],
        "   ": ["50%_\\", "Web-1"],
        "web": ["Web-1"],
        "EB-1": ["Web-1"],
        "blue": ["50%_\\", "Web-1"],
        "blue sky": ["Web-1"],
        "%": ["50%_\\"],
        "_": ["50%_\\"],
        "\\": ["50%_\\"],
        "MINIM": ["50%_\\", "Web-1"],
        "agent_version": [],
        "'; --": [],
        unnamed: ["Web-1"],
        unnamed[:12]: ["Web-1"],
        unnamed[3:15].upper(): ["Web-1"],
        unnamed[4:16]: [],
        "zzzzzzzzzzzzzzzzzzzzzzzzz": [],
    }.items():
        answer = await shared.api.get("/v1/sandboxes", params={"q": query})
        assert [each["name"] for each in answer.json()] == expected, query


async def test_lists_are_filtered_by_template_and_creator(shared: Platform):
    path = await shared.create(name="a")
    made_by = (await shared.api.get(path)).json()["created_by"]["id"]
    for query, expected in {
        "?template=minimal": ["a"],
        "?template=min": [],
        f"?created_by={made_by}": ["a"],
        "?created_by=usr-0000000000000000000000000": [],
        # No word that a random id could have.
        f"?created_by={made_by}&q=no-such-name": [],
    }.items():
        assert await names(shared, query) == expected, query


async def test_lists_have_an_order_and_its_pages_are_the_list(shared: Platform):
    for name, memory in (("b", 128), ("", 256), ("é", 128), ("B", 256), ("a", 128)):
        await shared.create(name=name, memory_mb=memory)
    for sort, expected in {
        "created_at": [["b"], [""], ["é"], ["B"], ["a"]],
        "-created_at": [["a"], ["B"], ["é"], [""], ["b"]],
        # What is the same in this is in the order of random ids.
        "memory_mb": [["a", "b", "é"], ["", "B"]],
        "-memory_mb": [["", "B"], ["a", "b", "é"]],
    }.items():
        whole = await names(shared, f"?sort={sort}")
        rest = iter(whole)
        assert [sorted(next(rest) for _ in group) for group in expected] == expected, sort
        await paged_as(shared, sort, whole)


async def paged_as(shared: Platform, sort: str, whole: list[str]) -> None:
    """Pages of any size are the whole list, one after the other."""
    for limit in (1, 2, 4):
        seen: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            params = {"sort": sort, "limit": limit, **({"cursor": cursor} if cursor else {})}
            page = await shared.api.get("/v1/sandboxes", params=params)
            assert page.status_code == 200, page.text
            seen += [each.get("name", "") for each in page.json()]
            cursor = page.headers.get("x-next-cursor")
        assert seen == whole


@pytest.mark.parametrize(
    "sort", ["name", "-name", "template", "status", "-status", "last_active_at", "-last_active_at"]
)
async def test_pages_in_every_order_are_the_list(shared: Platform, sort: str):
    paused = await shared.create(name="x|y=z")
    for name in ("", "x", "X", "ä|", "-"):
        await shared.create(name=name)
    await shared.api.post(f"{paused}/pause")
    await paged_as(shared, sort, await names(shared, f"?sort={sort}"))


async def test_a_cursor_is_for_its_order_only(shared: Platform):
    for name in ("a", "b"):
        await shared.create(name=name)
    by_name = (await shared.api.get("/v1/sandboxes?sort=name&limit=1")).headers["x-next-cursor"]
    usual = (await shared.api.get("/v1/sandboxes?limit=1")).headers["x-next-cursor"]
    for query in (f"cursor={by_name}", f"sort=-name&cursor={by_name}", f"sort=name&cursor={usual}"):
        answer = await shared.api.get(f"/v1/sandboxes?limit=1&{query}")
        assert "cursor" in refused(answer, 400, "invalid_request")


async def test_name_and_metadata_are_changed_with_an_event(shared: Platform):
    path = await shared.create(name="old", metadata={"a": "1"}, timeout_sec=60)
    before = (await shared.api.get(path)).json()
    async with reading(shared.api, types="sandbox,audit") as reader:
        changed = await shared.api.patch(path, json={"name": "new"})
        assert changed.status_code == 200, changed.text
        assert (changed.json()["name"], changed.json()["metadata"]["a"]) == ("new", "1")
        # The same again is no change.
        assert (await shared.api.patch(path, json={"name": "new"})).json() == changed.json()
        changed = (await shared.api.patch(path, json={"metadata": {"b": "2"}})).json()
        seen = await reader.take(4)
    assert changed["name"] == "new"
    assert (changed["metadata"]["b"], "a" in changed["metadata"]) == ("2", False)
    assert changed["metadata"]["agent_version"] == before["metadata"]["agent_version"]
    assert changed["last_active_at"] == before["last_active_at"], "no activity"
    events = [event for kind, event in seen if kind == "sandbox.updated"]
    assert [(e["data"]["name"], e["data"]["metadata_changed"]) for e in events] == [
        ("new", False),
        ("new", True),
    ]
    entries = [event["data"] for kind, event in seen if kind == "audit.recorded"]
    assert [(e["action"], e["metadata"]) for e in entries] == [("set_description", {"name": "new"})] * 2
    assert (await shared.api.patch(path, json={"name": ""})).json().get("name") is None
    assert (await shared.api.get(f"{path.replace('sandboxes', 'capsules')}")).status_code == 200


async def test_what_is_no_name_or_metadata_changes_nothing(shared: Platform):
    path = await shared.create(name="kept", metadata={"a": "1"})
    for body in (
        {"name": "x" * 129},
        {"name": "a\nb"},
        {"metadata": {"kernel_version": "mine"}},
        {"metadata": {"a=b": "x"}},
        {"metadata": {"k": "x" * 513}},
        {"name": "other", "metadata": {"": "x"}},
        {"name": "other", "vcpus": 2},
    ):
        refused(await shared.api.patch(path, json=body), 400, "invalid_request")
    now = (await shared.api.get(path)).json()
    assert (now["name"], now["metadata"]["a"]) == ("kept", "1")
    await shared.api.delete(path)
    refused(await shared.api.patch(path, json={"name": "x"}), 409, "invalid_state")
