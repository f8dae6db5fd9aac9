"""The event stream: everything once, in an order that no late commit breaks, on every replica."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import httpx2
import pytest
from sqlalchemy import text

from wrenn.base.errors import RateLimited
from wrenn.base.ids import TeamId
from wrenn.control.audit import SYSTEM, AuditAction, Resource, record
from wrenn.control.audit.entries import Scope
from wrenn.control.db import Database, Transaction
from wrenn.control.events import feed as feed_module
from wrenn.control.events import store
from wrenn.control.events.feed import Feed
from wrenn.control.events.records import Audience, Event, Position
from wrenn.control.events.retention import Retention
from wrenn.control.events.subscription import QUEUE_LIMIT, Ended, Subscription
from wrenn.control.identity.store import ensure_user, insert_team

from .conftest import DEADLINE_S, Platform, client, make_team, refused
from .event_reader import EVENTS, Reader, reading

TEAM = TeamId(uuid.UUID(int=7))


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


@pytest.mark.asyncio(loop_scope="module")
async def test_the_lifecycle_of_a_sandbox_is_streamed_as_it_happens(team_platform: Platform):
    platform = team_platform
    async with reading(platform.api, types="sandbox") as reader:
        path = await platform.create()
        for verb in ("pause", "resume"):
            await platform.api.post(f"{path}/{verb}")
        await platform.api.patch(f"{path}/timeout", json={"timeout_sec": 99})
        await platform.api.post(f"{path}/ping")
        await platform.api.delete(path)
        found = await reader.take(6)
    assert [kind for kind, _ in found] == [
        f"sandbox.{what}" for what in ("created", "running", "paused", "resumed", "updated", "destroyed")
    ]
    assert {event["resource_id"] for _, event in found} == {id_of(path)}
    assert [event["data"]["status"] for _, event in found] == [
        "pending", "running", "paused", "running", "running", "stopped",
    ]  # fmt: skip
    assert found[3][1]["data"]["previous_status"] == "paused"
    assert found[4][1]["data"]["timeout_sec"] == 99


@pytest.mark.asyncio(loop_scope="module")
async def test_events_of_templates_and_the_audit_log_are_streamed_too(team_platform: Platform):
    platform = team_platform
    async with reading(platform.api, types="template,audit") as reader:
        path = await platform.create()
        await platform.api.post("/v1/snapshots", json={"sandbox_id": id_of(path), "name": "one"})
        await platform.api.delete("/v1/snapshots/one")
        found = await reader.take(5)
    told = [(kind, event["data"].get("action", event["resource_id"])) for kind, event in found]
    assert sorted(told[1:3]) == [("audit.recorded", "create"), ("template.snapshot.created", "one")]
    assert sorted(told[3:]) == [("audit.recorded", "delete"), ("template.snapshot.deleted", "one")]
    entry = (await platform.api.get("/v1/audit-logs")).json()["items"][-1]
    assert found[0][1]["resource_id"] == entry["id"]
    assert found[0][1]["data"]["actor_name"] == "test"


async def test_what_changes_all_the_time_is_no_event(platform: Platform):
    path = await platform.create()
    async with reading(platform.api) as reader:
        before = await count(platform)
        for ahead_s in (60, 120, 180):
            await platform.control.database.execute(
                text("UPDATE sandboxes SET last_active_at = now() - interval '1 hour'")
            )
            # The clock of the host is fast: later than any use that it has reported.
            at = platform.host.age(id_of(path), -ahead_s)
            async with asyncio.timeout(DEADLINE_S):
                while not await used_since(platform, at - ahead_s - 1):
                    await asyncio.sleep(0.05)
        assert await count(platform) == before
        await platform.api.delete(path)
        assert await reader.until("sandbox.destroyed") in (
            ["sandbox.destroyed"], ["audit.recorded", "sandbox.destroyed"],
        )  # fmt: skip


async def used_since(platform: Platform, unix_s: float) -> bool:
    found = await platform.control.database.execute(
        text("SELECT extract(epoch FROM max(last_active_at)) >= :s FROM sandboxes"), {"s": unix_s}
    )
    return found.scalar_one()


async def count(platform: Platform) -> int:
    return (await platform.control.database.execute(text("SELECT count(*) FROM events"))).scalar_one()


async def test_every_replica_streams_events_and_a_stream_continues_at_another(
    platform: Platform, second_platform: Platform
):
    async with (
        reading(platform.api, types="sandbox") as here,
        reading(second_platform.api, types="sandbox") as there,
    ):
        path = await platform.create()
        for reader in (here, there):
            assert await reader.until("sandbox.running") == ["sandbox.created", "sandbox.running"]
        assert here.last_id == there.last_id
    await second_platform.api.post(f"{path}/pause")
    await platform.api.post(f"{path}/resume")
    async with reading(second_platform.api, here.last_id, types="sandbox") as again:
        await platform.api.delete(path)
        assert await again.until("sandbox.destroyed") == [
            "sandbox.paused", "sandbox.resumed", "sandbox.destroyed",
        ]  # fmt: skip


async def test_hosts_are_the_platforms_and_teams_are_apart(platform: Platform):
    stranger = await make_team(platform.settings.database_url or "", "eve")
    async with client(platform.url, stranger) as api, reading(api) as reader:
        platform.host.silence()
        await wait_event(platform, "host.down")
        platform.host.answer_again()
        await wait_event(platform, "host.up")
        await platform.create()
        own = await TeamOf(platform).id("eve")
        await platform.control.database.transaction(
            lambda tx: record(tx, own, SYSTEM, AuditAction(Resource.TEAM, "hidden", scope=Scope.ADMIN), "x")
        )
        await platform.control.database.transaction(
            lambda tx: record(tx, own, SYSTEM, AuditAction(Resource.TEAM, "shown"), "x")
        )
        ((_, event),) = await reader.take(1)
        assert event["data"]["action"] == "shown"
    async with client(platform.url, None) as nobody:
        refused(await nobody.get(EVENTS), 401, "unauthorized")


class TeamOf:
    """Looks teams up by name."""

    def __init__(self, platform: Platform) -> None:
        self._database = platform.control.database

    async def id(self, name: str) -> TeamId:
        found = await self._database.execute(text("SELECT id FROM teams WHERE name = :n"), {"n": name})
        return TeamId(found.scalar_one())


async def wait_event(platform: Platform, kind: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        query = text("SELECT count(*) FROM events WHERE type = :t")
        while not (await platform.control.database.execute(query, {"t": kind})).scalar_one():
            await asyncio.sleep(0.05)


async def test_late_commits_are_neither_lost_nor_early(platform: Platform, database_url: str):
    """Transactions that write and then wait commit in another order than they wrote; a stream shows each once, and a
    stream that is broken off and resumed all the time shows the same in the same order."""
    own = await TeamOf(platform).id("ada")
    databases = [Database(database_url) for _ in range(3)]

    async def write(number: int) -> None:
        for turn in range(12):

            async def work(tx: Transaction, turn: int = turn) -> None:
                await record(tx, own, SYSTEM, AuditAction(Resource.TEAM, "early"), f"{number}.{turn}.early")
                await tx.execute(text("SELECT pg_sleep(:s)"), {"s": 0.02 * ((number + turn) % 4)})
                await record(tx, own, SYSTEM, AuditAction(Resource.TEAM, "late"), f"{number}.{turn}.late")

            await databases[number % 3].transaction(work)

    async def follow_in_pieces(after: str) -> list[str]:
        names: list[str] = []
        while len(names) < total:
            async with reading(platform.api, after, types="audit") as reader:
                for _ in range(min(5, total - len(names))):
                    names += await names_of(reader, 1)
                after = reader.last_id
        return names

    total = 6 * 12 * 2
    async with reading(platform.api, types="audit") as reader:
        pieces = asyncio.create_task(follow_in_pieces(reader.last_id))
        writers = [asyncio.create_task(write(n)) for n in range(6)]
        whole = await names_of(reader, total)
        await asyncio.gather(*writers)
        assert len(set(whole)) == total
        async with asyncio.timeout(2 * DEADLINE_S):
            assert await pieces == whole
    for database in databases:
        await database.close()


async def names_of(reader: Reader, number: int) -> list[str]:
    return [event["data"]["resource_id"] for _, event in await reader.take(number)]


async def test_an_open_transaction_holds_back_what_came_after_it(database: Database):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: Transaction) -> None:
        await record(tx, TEAM, SYSTEM, AuditAction(Resource.TEAM, "slow"), "x")
        begun.set()
        await go_on.wait()

    start = await store.now(database)
    task = asyncio.create_task(database.transaction(slow))
    await begun.wait()
    await database.transaction(lambda tx: record(tx, TEAM, SYSTEM, AuditAction(Resource.TEAM, "quick"), "x"))
    assert await store.read(database, start, limit=9) == ([], True)
    go_on.set()
    await task
    found, unsettled = await store.read(database, start, limit=9)
    assert ([event.facts["action"] for event in found], unsettled) == (["slow", "quick"], False)


@pytest.mark.parametrize("after", ["x", "1", "1-", "-1-1", "9" * 19 + "-1", "1-2-3", "1_0-1"])
@pytest.mark.asyncio(loop_scope="module")
async def test_an_id_that_is_none_is_refused(team_platform: Platform, after: str):
    platform = team_platform
    refused(await platform.api.get(EVENTS, headers={"Last-Event-ID": after}), 400, "invalid_request")
    refused(await platform.api.get(EVENTS, params={"after": after}), 400, "invalid_request")
    refused(await platform.api.get(EVENTS, params={"types": "sandbox;x"}), 400, "invalid_request")


async def test_a_client_that_reconnects_too_late_must_reload_everything(platform: Platform):
    await platform.create()
    async with reading(platform.api) as reader:
        early = reader.last_id
    await platform.create()
    database = platform.control.database
    assert await Retention(database, keep_s=3600).prune_once() == 0
    await database.execute(text("UPDATE events SET created_at = now() - make_interval(hours => 2)"))
    assert await Retention(database, keep_s=3600).prune_once() > 0
    for after in (early, f"{2**50}-1"):
        async with reading(platform.api, after, expect="reset", types="sandbox") as reader:
            await platform.create()
            assert await reader.until("sandbox.running") == ["sandbox.created", "sandbox.running"]
            late = reader.last_id
    async with reading(platform.api, late):
        pass


async def test_a_database_that_was_copied_to_another_server_goes_on(platform: Platform):
    database = platform.control.database
    await platform.create()
    await database.execute(text("UPDATE events SET txid = txid + 1000000000"))
    await database.execute(text("INSERT INTO events_pruned (txid, id) VALUES (5000000000, 1)"))
    await store.drop_foreign(database)
    async with reading(platform.api, types="sandbox") as reader:
        first = reader.last_id
    await platform.create()
    async with reading(platform.api, first, types="sandbox") as reader:
        assert await reader.until("sandbox.running") == ["sandbox.created", "sandbox.running"]


async def test_a_revoked_keys_stream_ends(platform: Platform):
    stranger = await make_team(platform.settings.database_url or "", "eve")
    async with client(platform.url, stranger) as api, reading(api) as theirs, reading(platform.api) as ours:
        await platform.control.database.execute(
            text("DELETE FROM team_api_keys WHERE team_id = (SELECT id FROM teams WHERE name = 'eve')")
        )
        assert await theirs.next() is None
        await platform.create()
        assert await ours.next() is not None


async def test_a_shutdown_ends_streams_at_once(platform: Platform):
    async with reading(platform.api) as reader:
        platform.control.begin_shutdown()
        assert await reader.next() is None
    refused(await platform.api.get(EVENTS), 503, "host_unavailable")


async def test_a_reader_that_takes_nothing_is_cut_and_loses_nothing(platform: Platform):
    """A client with a small buffer reads the head of the stream and then nothing, while more comes than buffers hold."""
    own = await TeamOf(platform).id("ada")
    total = 0

    async def write(tx: Transaction) -> None:
        facts = {f"fact{n}": "x" * 256 for n in range(16)}
        deed = AuditAction(Resource.TEAM, "many", facts=facts)
        await record(tx, own, SYSTEM, deed, *(str(number) for number in range(total, total + 250)))

    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.setblocking(False)
    url = httpx2.URL(platform.url)
    loop = asyncio.get_running_loop()
    with contextlib.closing(stuck):
        await loop.sock_connect(stuck, (url.host, url.port))
        head = f"GET {EVENTS}?types=audit HTTP/1.1\r\nHost: x\r\nX-API-Key: {platform.key.reveal()}\r\n\r\n"
        await loop.sock_sendall(stuck, head.encode())
        begun = b""
        while (match := re.search(rb"\nid: (\S+)\nevent: ready", begun)) is None:
            begun += await loop.sock_recv(stuck, 4096)
        after = match[1].decode()
        assert len(platform.control.feed.subscriptions()) == 1
        async with asyncio.timeout(2 * DEADLINE_S):
            while platform.control.feed.subscriptions():
                await platform.control.database.transaction(write)
                total += 250
                await asyncio.sleep(0.02)
    async with reading(platform.api, after, types="audit") as again:
        names = await names_of(again, total)
    assert names == [str(number) for number in range(total)]


def event(number: int) -> Event:
    return Event(Position(1, number), TEAM, Scope.TEAM, "x.y", "r", {}, datetime.now(UTC))


async def test_a_full_queue_ends_its_reader_only():
    audience = Audience(TEAM, frozenset({Scope.TEAM}))
    slow, quick = Subscription(audience), Subscription(audience)
    for number in range(QUEUE_LIMIT + 1):
        for subscription in (slow, quick):
            subscription.offer(event(number))
        assert len(await quick.take(timeout_s=0)) == 1
    assert (slow.ended, quick.ended) == (Ended.SLOW, None)
    assert await slow.take(timeout_s=0) == []


async def test_many_readers_share_one_read(database: Database):
    feed = Feed(database)
    task = asyncio.create_task(feed.run())
    audience = Audience(TEAM, frozenset({Scope.TEAM}))
    async with AsyncExitStack() as stack:
        readers = [(await stack.enter_async_context(feed.subscribe(audience)))[0] for _ in range(100)]
        await database.transaction(lambda tx: record(tx, TEAM, SYSTEM, AuditAction(Resource.TEAM, "x"), "y"))
        feed.wake()
        taken = [await reader.take(timeout_s=DEADLINE_S) for reader in readers]
        assert len({id(events[0]) for events in taken}) == 1, "one object for all"
        with pytest.raises(Exception, match="100 event streams"):
            await stack.enter_async_context(feed.subscribe(audience))
    assert feed.subscriptions() == []
    task.cancel()
    await asyncio.wait({task})


async def test_the_teams_of_one_owner_leave_streams_for_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    # From half of these on an owner has a limit.
    monkeypatch.setattr(feed_module, "_IN_REPLICA", 400)
    feed = Feed(database)

    async def make(tx: Transaction) -> list[TeamId]:
        ada = await ensure_user(tx, email="ada@example.com", name="ada", is_admin=False)
        eve = await ensure_user(tx, email="eve@example.com", name="eve", is_admin=False)
        owners = [ada, ada, ada, eve]
        return [await insert_team(tx, owner, name="team", is_default=False) for owner in owners]

    *of_ada, of_eve = await database.transaction(make)
    async with AsyncExitStack() as stack:

        async def subscribe(team_id: TeamId) -> None:
            await stack.enter_async_context(feed.subscribe(Audience(team_id, frozenset({Scope.TEAM}))))

        for team_id in of_ada[:2]:
            for _ in range(100):
                await subscribe(team_id)
        with pytest.raises(RateLimited, match="this team's owner may have 200 event streams"):
            await subscribe(of_ada[2])
        await subscribe(of_eve)
    async with feed.subscribe(Audience(of_ada[2], frozenset({Scope.TEAM}))):
        assert len(feed.subscriptions()) == 1
