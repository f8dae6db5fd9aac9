"""The audit log: every action once, with who did it; append-only; pages without gaps or repeats."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from wrenn.base.errors import InternalError
from wrenn.base.ids import HostId, SandboxId, TeamId
from wrenn.control.audit import SYSTEM, Actor, ActorKind, AuditAction, Resource, Status, record
from wrenn.control.audit.entries import Scope
from wrenn.control.audit_log import store
from wrenn.control.audit_log.retention import Retention
from wrenn.control.audit_log.store import Filter, read
from wrenn.control.db import Database, Transaction, settled_moment
from wrenn.control.fleet import issue_local_token
from wrenn.control.hosts import HostEndpoint, HostReport
from wrenn.control.hosts.store import record_seen, record_silent

from .conftest import DEADLINE_S, Platform, client, make_team, refused

LOGS = "/v1/audit-logs"
TEAM = TeamId(uuid.UUID(int=7))


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


async def logged(platform: Platform, **params: str | int) -> list[dict[str, Any]]:
    answer = await platform.api.get(LOGS, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


async def wait_logged(platform: Platform, done: Callable[[list[str]], bool]) -> list[dict[str, Any]]:
    """The entries, oldest first, once their actions are as wanted."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            items = (await logged(platform))[::-1]
            if done([item["action"] for item in items]):
                return items
            await asyncio.sleep(0.05)


async def test_each_action_is_logged_once_with_its_caller(platform: Platform):
    path = await platform.create(timeout_sec=600)
    again = {"Idempotency-Key": "once"}
    ids = [(await platform.api.post("/v1/sandboxes", json={}, headers=again)).json()["id"] for _ in range(2)]
    other, _ = ids
    for verb in ("pause", "pause", "resume", "resume"):
        await platform.api.post(f"{path}/{verb}")
    await platform.api.patch(f"{path}/timeout", json={"timeout_sec": 60})
    await platform.api.post("/v1/snapshots", json={"sandbox_id": id_of(path), "name": "one"})
    copy = (await platform.api.post(f"{path}/fork", json={"count": 1})).json()["sandboxes"][0]["id"]
    await platform.api.delete("/v1/snapshots/one")
    for _ in range(2):
        await platform.api.delete(path)
    items = (await logged(platform))[::-1]
    sandbox, first = "sandbox", id_of(path)
    assert [(i["resource_type"], i["resource_id"], i["action"], i["status"]) for i in items] == [
        (sandbox, first, "create", "success"),
        (sandbox, other, "create", "success"),
        (sandbox, first, "pause", "success"),
        (sandbox, first, "resume", "success"),
        (sandbox, first, "set_timeout", "info"),
        ("snapshot", "one", "create", "success"),
        (sandbox, copy, "create", "success"),
        (sandbox, first, "fork", "success"),
        ("snapshot", "one", "delete", "warning"),
        (sandbox, first, "destroy", "warning"),
    ]
    assert {(i["actor_type"], i["actor_name"], i["scope"]) for i in items} == {("api_key", "test", "team")}
    assert items[0]["metadata"] == {"template": "minimal"}
    assert items[6]["metadata"]["forked_from"] == first
    assert items[0]["actor_id"].startswith("key-")
    assert items[0]["id"].startswith("log-")


async def test_what_nobody_asked_for_is_logged_as_the_systems(platform: Platform):
    path = await platform.create(timeout_sec=1)
    platform.host.age(id_of(path), 60)
    await platform.wait_status(path, "paused")
    lost = await platform.create()
    platform.host.kill_guest(id_of(lost))
    await platform.wait_status(lost, "error")
    mortal = await platform.create(lifetime_sec=1, on_expiry="kill")
    await platform.wait_status(mortal, "stopped")
    platform.host.switches.fail["ensure_sandbox"] = InternalError("no")
    assert (await platform.api.post("/v1/sandboxes", json={})).status_code >= 500
    mine = [item for item in (await logged(platform))[::-1] if item["actor_type"] == "system"]
    assert [(i["resource_id"], i["action"], i["status"]) for i in mine[:3]] == [
        (id_of(path), "pause", "info"),
        (id_of(lost), "marked_error", "error"),
        (id_of(mortal), "destroy", "warning"),
    ]
    assert (mine[3]["action"], mine[3]["metadata"]["code"]) == ("marked_error", "internal_error")
    assert all("actor_id" not in item and "actor_name" not in item for item in mine)
    assert [i["metadata"]["cause"] for i in (mine[0], mine[2])] == ["idle", "expired"]


async def test_a_silent_host_is_in_the_log_of_its_sandboxes(platform: Platform):
    path = await platform.create()
    platform.host.silence()
    await platform.wait_status(path, "missing")
    platform.host.answer_again()
    await platform.wait_status(path, "running")
    actions = [item["action"] for item in (await logged(platform))[::-1]]
    assert actions == ["create", "marked_missing", "marked_running"]


async def test_hosts_stand_in_the_platforms_log_once_a_change(database: Database, database_url: str):
    host_id, _ = await issue_local_token(database_url, name="one")
    await database.execute(text("UPDATE hosts SET address = 'https://127.0.0.1:1'"))
    host = HostEndpoint(host_id, "https://127.0.0.1:1", 0)
    for _ in range(2):
        await record_seen(database, host, HostReport())
    for _ in range(2):
        await asyncio.gather(*(record_silent(database, host, missing_after_s=90) for _ in range(3)))
        await asyncio.gather(*(record_seen(database, host, HostReport()) for _ in range(3)))
    # An answer of a machine that is not the host any more, or none from where it was, changes nothing.
    former = HostEndpoint(host_id, "https://127.0.0.1:2", 0)
    await record_silent(database, former, missing_after_s=90)
    assert (await database.execute(text("SELECT is_reachable FROM hosts"))).scalar_one()
    await record_silent(database, host, missing_after_s=90)
    await record_seen(database, former, HostReport())
    assert not (await database.execute(text("SELECT is_reachable FROM hosts"))).scalar_one()
    await record_seen(database, host, HostReport())
    until = await settled_moment(database)
    page = await read(database, TeamId(uuid.UUID(int=0)), list(Scope), Filter(), until=until, limit=50)
    assert [(i.action, i.resource_id) for i in page.entries][::-1] == [
        (action, str(host_id)) for action in ("create", "token", *("marked_down", "marked_up") * 3)
    ]


async def test_a_team_sees_its_own_log_only(platform: Platform):
    await platform.create()
    stranger = await make_team(platform.settings.database_url or "", "eve")
    async with client(platform.url, stranger) as api:
        assert (await api.get(LOGS)).json() == {"items": []}
    async with client(platform.url, None) as nobody:
        refused(await nobody.get(LOGS), 401, "unauthorized")


BAD = {
    "limit": ["limit=0", "limit=-1", "limit=x"],
    "before: ": [
        "before=yesterday", "before=2026-01-01", "before=2026-02-30T00:00:00Z", "before=2026-01-01T00:00:00",
        "before=0001-01-01T00:00:00%2B10:00",
    ],
    "before_id: ": [
        "before_id=log-0000000000000000000000000", "before_id=log-1&before=2026-01-01T00:00:00Z",
        "before=2026-01-01T00:00:00Z&before_id=log-zzzzzzzzzzzzzzzzzzzzzzzzz",
    ],
    "resource_type": ["resource_type=%00", "resource_type=" + ",".join(map(str, range(51)))],
    "action": ["action=a'b", f"action={'a' * 65}"],
}  # fmt: skip


async def test_a_bad_parameter_is_named(platform: Platform):
    for name, queries in BAD.items():
        for query in queries:
            answer = await platform.api.get(f"{LOGS}?{query}")
            assert refused(answer, 400, "invalid_request").startswith(name), query


async def test_filters_and_limits(platform: Platform, database: Database):
    own = await team_of(platform)

    async def write(tx: Transaction) -> None:
        for resource in (Resource.SANDBOX, Resource.SNAPSHOT, Resource.TEAM):
            for action in ("create", "delete"):
                await record(tx, own, SYSTEM, AuditAction(resource, action), "x")
        await record(tx, own, SYSTEM, AuditAction(Resource.MEMBER, "add", scope=Scope.ADMIN), "hidden")
        await record(tx, own, SYSTEM, AuditAction(Resource.HOST, "many"), *(str(n) for n in range(300)))

    await database.transaction(write)
    assert len(await logged(platform)) == 50
    assert len(await logged(platform, limit=1000)) == 200
    found = await logged(platform, resource_type="sandbox,snapshot", action="create")
    assert {(i["resource_type"], i["action"]) for i in found} == {
        ("sandbox", "create"),
        ("snapshot", "create"),
    }
    answer = await platform.api.get(f"{LOGS}?resource_type=team&resource_type=sandbox&action=delete")
    assert len(answer.json()["items"]) == 2
    assert await logged(platform, resource_type="member") == []
    assert await logged(platform, resource_type="nothing") == []


async def team_of(platform: Platform) -> TeamId:
    row = await platform.control.database.execute(text("SELECT team_id FROM team_api_keys LIMIT 1"))
    return TeamId(row.scalar_one())


async def test_pages_have_no_gap_and_no_repeat_while_writers_commit_out_of_order(
    platform: Platform, database_url: str
):
    """Writers hold their transactions open for different times, so entries commit in another order than their times.

    Each walk goes from the newest to the oldest. What a later walk finds in the range of an earlier one must have been in it.
    """
    own = await team_of(platform)
    writers = [Database(database_url) for _ in range(3)]
    stop = asyncio.Event()
    written = 0

    async def write(database: Database, number: int) -> None:
        nonlocal written
        turn = 0
        while not stop.is_set():
            turn += 1
            name = f"{number}.{turn}"

            async def work(
                tx: Transaction, name: str = name, hold_s: float = 0.04 * ((number + turn) % 5)
            ) -> None:
                await record(tx, own, SYSTEM, AuditAction(Resource.TEAM, "early"), name)
                await tx.execute(text("SELECT pg_sleep(:s)"), {"s": hold_s})
                await record(tx, own, SYSTEM, AuditAction(Resource.TEAM, "late"), name)

            await database.transaction(work)
            written += 2

    async def walk() -> list[tuple[str, str]]:
        seen: list[tuple[str, str]] = []
        params: dict[str, str | int] = {"limit": 11}
        while True:
            page = (await platform.api.get(LOGS, params=params)).json()
            if not page["items"]:
                return seen
            seen += [(item["created_at"], item["id"]) for item in page["items"]]
            params |= {"before": page["next_before"], "before_id": page["next_before_id"]}

    tasks = [asyncio.create_task(write(writers[n % 3], n)) for n in range(6)]
    walks: list[list[tuple[str, str]]] = []
    async with asyncio.timeout(2 * DEADLINE_S):
        while len(walks) < 6 or written < 100:
            walks.append(await walk())
        stop.set()
        await asyncio.gather(*tasks)
    everything = await walk()
    for database in writers:
        await database.close()
    assert len(everything) == len({entry_id for _, entry_id in everything}) == written
    assert everything == sorted(everything, reverse=True)
    for seen in filter(None, walks):
        assert seen == [entry for entry in everything if entry <= seen[0]], "a gap"


async def test_the_log_cannot_be_changed(database: Database):
    await database.transaction(lambda tx: record(tx, TEAM, SYSTEM, AuditAction(Resource.TEAM, "x"), "y"))
    for statement in (
        "UPDATE audit_logs SET action = 'z'",
        "UPDATE audit_logs SET action = 'z' WHERE false",
        "DELETE FROM audit_logs",
        "TRUNCATE audit_logs",
        "SELECT wrenn_audit_expire(0, 100)",
    ):
        with pytest.raises(DBAPIError, match="append-only"):
            await database.execute(text(statement))
    with pytest.raises(DBAPIError, match="append-only"):
        await database.transaction(_delete_with_the_setting)
    left = await database.execute(text("SELECT action FROM audit_logs"))
    assert left.scalars().all() == ["x"]


async def _delete_with_the_setting(tx: Transaction) -> None:
    await tx.execute(text("SET LOCAL wrenn.audit_retention_days = '1'"))
    await tx.execute(text("DELETE FROM audit_logs"))


async def test_old_entries_go_when_that_is_wanted_and_only_they(database: Database):
    await database.transaction(lambda tx: record(tx, TEAM, SYSTEM, AuditAction(Resource.TEAM, "new"), "y"))
    await database.execute(text("ALTER TABLE audit_logs DISABLE TRIGGER audit_stamp"))
    await database.execute(
        text(
            "INSERT INTO audit_logs (team_id, actor_type, resource_type, action, created_at)"
            " SELECT gen_random_uuid(), 'system', 'team', 'old', now() - make_interval(days => 31)"
            " FROM generate_series(1, 2500)"
        )
    )
    assert await Retention(database, days=0).expire_once() == 0
    assert await Retention(database, days=40).expire_once() == 0
    assert await Retention(database, days=30).expire_once() == 2500
    left = await database.execute(text("SELECT action FROM audit_logs"))
    assert left.scalars().all() == ["new"]


async def test_an_entry_is_small_and_has_the_time_of_the_clock(database: Database):
    actor = Actor(ActorKind.USER, "usr-x", "n" * 1000)

    async def write(tx: Transaction) -> datetime:
        await tx.execute(text("SELECT pg_sleep(0.1)"))
        await record(
            tx, TEAM, actor, AuditAction(Resource.TEAM, "x", Status.INFO, facts={"a": "b" * 1000}), "y" * 999
        )
        return (await tx.execute(text("SELECT now()"))).scalar_one()

    begun = await database.transaction(write)
    until = await settled_moment(database)
    page = await read(database, TEAM, [Scope.TEAM], Filter(), until=until, limit=9)
    (entry,) = page.entries
    assert [len(str(v)) for v in (entry.actor.name, entry.facts["a"], entry.resource_id)] == [256] * 3
    assert (entry.created_at - begun).total_seconds() >= 0.1


async def test_a_failed_change_leaves_no_entry(database: Database):
    async def work(tx: Transaction) -> None:
        await record(tx, TEAM, SYSTEM, AuditAction(Resource.TEAM, "x"), "y")
        raise LookupError

    with pytest.raises(LookupError):
        await database.transaction(work)
    assert (await database.execute(text("SELECT count(*) FROM audit_logs"))).scalar_one() == 0


async def test_ids_are_the_same_in_the_database(database: Database):
    for value in (0, 1, 35, 36, 2**64 - 1, 2**64, 2**127, 2**128 - 1, uuid.uuid4().int, uuid.uuid4().int):
        for kind in (SandboxId, HostId):
            known = kind(uuid.UUID(int=value))
            found = await database.execute(
                text("SELECT wrenn_wire_id(:p, :i)"), {"p": kind.PREFIX, "i": known.value}
            )
            assert found.scalar_one() == str(known)


async def test_a_team_searches_for_words_twice_at_once_at_most(platform: Platform):
    database = Database(str(platform.settings.database_url))
    locked, release = asyncio.Event(), asyncio.Event()

    async def hold(tx: Transaction) -> None:
        await tx.execute(text("LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE"))
        locked.set()
        await release.wait()

    holding = asyncio.create_task(database.transaction(hold))
    await locked.wait()
    searches = [
        asyncio.create_task(platform.api.get(LOGS, params={"q": "nothing has this"})) for _ in range(3)
    ]
    done, others = await asyncio.wait(searches, return_when=asyncio.FIRST_COMPLETED)
    refused(done.pop().result(), 429, "rate_limited")
    release.set()
    await holding
    assert [search.result().status_code for search in (await asyncio.wait(others))[0]] == [200, 200]
    assert (await platform.api.get(LOGS, params={"q": "nothing has this"})).status_code == 200
    await database.close()


async def test_the_log_is_searched_by_words_and_by_time(platform: Platform):
    first = id_of(await platform.create(name="one"))
    await platform.api.patch(f"/v1/sandboxes/{first}", json={"name": "Renamed 100% _x"})
    await platform.create()
    everything = await logged(platform)
    for words, actions in {
        first.upper(): ["set_description", "create"],
        "RENAMED 100%": ["set_description"],
        "_x set_description": ["set_description"],
        f"{first} create": ["create"],
        "name %": ["set_description"],
        "nothing has this": [],
        "": [item["action"] for item in everything],
    }.items():
        assert [item["action"] for item in await logged(platform, q=words)] == actions, words
    newest = everything[0]["created_at"]
    assert await logged(platform, since=newest) == everything[:1]
    assert await logged(platform, since=everything[1]["created_at"], before=newest) == everything[1:2]
    assert await logged(platform, since="2999-01-01T00:00:00Z") == []
    for params in ({"since": "yesterday"}, {"q": "a b c d e f g h i"}, {"q": "x" * 201}, {"q": "a\0"}):
        refused(await platform.api.get(LOGS, params=params), 400, "invalid_request")


async def test_a_search_looks_at_a_part_of_the_log_at_a_time(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store, "SEARCHED", 3)
    rare = id_of(await platform.create())
    for number in range(5):
        await platform.api.patch(f"/v1/sandboxes/{rare}", json={"name": f"name {number}"})
    pages: list[list[str]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await platform.api.get(LOGS, params={"q": "create", "limit": 2, **cursor})).json()
        pages.append([item["action"] for item in page["items"]])
        if "next_before" not in page:
            break
        cursor = {"before": page["next_before"], "before_id": page["next_before_id"]}
    assert pages == [[], ["create"], []]
