"""Which builds of the queue are taken: over the real database, without hosts. And archives that no build has."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sqlalchemy import update

from wrenn.base.clock import SystemClock
from wrenn.base.ids import BuildId, TeamId
from wrenn.base.secrets import Secret
from wrenn.control.audit import SYSTEM
from wrenn.control.builds import AbandonedArchives, store
from wrenn.control.builds.records import BuildRequest, LogKind
from wrenn.control.builds.tables import build_logs, builds
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import store as identity
from wrenn.control.objects import ObjectStore, StoreSettings, UrlSigner

REQUEST = BuildRequest(
    recipe=("RUN true",),
    dockerfile="",
    build_args={},
    base_template="minimal",
    healthcheck="",
    skip_pre_post=True,
    use_cache=True,
)


async def team_of(database: Database, owner: str) -> TeamId:
    """A new team of this owner."""

    async def make(tx: Transaction) -> TeamId:
        user_id = await identity.ensure_user(tx, email=f"{owner}@example.com", name=owner, is_admin=False)
        return await identity.insert_team(tx, user_id, name="own", is_default=False)

    return await database.transaction(make)


async def queued(database: Database, team_id: TeamId, archive_key: str | None = None) -> BuildId:
    build_id = BuildId.new()
    values = {
        "team_id": team_id.value, "name": "own", "tags": ["latest"], "request": REQUEST.to_json(),
        "archive_key": archive_key, "vcpus": 1, "memory_mb": 256, "disk_size_mb": 5120, "total_steps": 1,
    }  # fmt: skip
    made = await database.transaction(lambda tx: store.insert_pending(tx, build_id, values, by=SYSTEM))
    assert made is not None
    return build_id


async def taken(database: Database, *, most: int = 10, reserved: int = 0) -> list[BuildId]:
    found = await store.take(
        database,
        owner="replica",
        lease_s=600,
        most=most,
        reserved=reserved,
        most_of_team=2,
        most_of_owner=3,
        running_here=[],
    )
    return [build.build_id for build in found]


async def test_teams_of_one_owner_share_what_an_owner_may_run(database: Database) -> None:
    first, second = await team_of(database, "ada"), await team_of(database, "ada")
    other = await team_of(database, "eve")
    of_ada = [await queued(database, team) for team in (first, first, first, second, second)]
    of_eve = await queued(database, other)
    found = await taken(database)
    assert set(found) == {of_ada[0], of_ada[1], of_ada[3], of_eve}
    assert await taken(database) == []


async def test_some_places_are_for_owners_of_whom_no_build_runs(database: Database) -> None:
    ada, eve = await team_of(database, "ada"), await team_of(database, "eve")
    of_ada = [await queued(database, ada) for _ in range(2)]
    assert await taken(database, most=2, reserved=1) == of_ada[:1]
    assert await taken(database, most=1, reserved=1) == []
    of_eve = await queued(database, eve)
    assert await taken(database, most=1, reserved=1) == [of_eve]
    assert await taken(database, most=2, reserved=1) == of_ada[1:]


async def test_what_a_former_attempt_wrote_is_deleted(database: Database) -> None:
    team = await team_of(database, "ada")
    build_id = await queued(database, team)
    assert await taken(database) == [build_id]
    await store.append_log(database, build_id, 1, [(1, LogKind.NOTE, {"text": "of the first"})])
    await database.execute(update(builds).values(lease_until=None, lease_owner=None))
    assert await taken(database) == [build_id]
    assert (await database.execute(build_logs.select())).all() == []


async def test_archives_of_no_build_are_deleted_when_they_are_old(database: Database, tmp_path: Path) -> None:
    objects = ObjectStore(StoreSettings(tmp_path.as_uri()), UrlSigner(Secret("x" * 32), SystemClock()))
    team = await team_of(database, "ada")
    unused, young = BuildId.new(), BuildId.new()
    used = await queued(database, team, f"{team}/uploads/x")
    for name in (used, unused, young, "strange"):
        await objects.put(f"{team}/uploads/{name}", b"archive")
        if name != young:
            long_ago = time.time() - 25 * 3600
            os.utime(tmp_path / f"{team}/uploads/{name}", (long_ago, long_ago))
    await AbandonedArchives(database=database, objects=objects, clock=SystemClock()).delete_once()
    left = {found.key.rpartition("/")[2] async for page in objects.pages(str(team)) for found in page}
    assert left == {str(used), str(young), "strange"}
    await objects.close()
