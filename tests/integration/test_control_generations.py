"""A host that returns with sandboxes which were started elsewhere gives way. Nothing moves sandboxes yet: tests set the generation.

Takes about 8 s.
"""

from __future__ import annotations

import asyncio

from wrenn.base.ids import SandboxId
from wrenn.control.fleet import issue_local_token

from .conftest import DEADLINE_S, Platform, refused, run_sql


async def change(platform: Platform, path: str, values: str) -> None:
    sandbox_id = SandboxId.parse(path.rsplit("/", 1)[1])
    await run_sql(
        str(platform.settings.database_url),
        f"UPDATE sandboxes SET {values}, version = version + 1 WHERE id = '{sandbox_id.value}'",
    )


def name_of(path: str) -> str:
    return path.rsplit("/", 1)[1]


async def wait_gone(platform: Platform, path: str) -> None:
    # What the host has is as before, so that nothing else calls for a comparison.
    await platform.control.comparison.compare_once()
    async with asyncio.timeout(DEADLINE_S):
        while name_of(path) in platform.host.sandbox_ids:
            await asyncio.sleep(0.05)


async def test_a_copy_whose_sandbox_runs_elsewhere_is_removed_and_the_newer_one_is_not_touched(
    platform: Platform,
) -> None:
    running, paused, newer = [await platform.create() for _ in range(3)]
    assert (await platform.api.post(f"{paused}/pause")).status_code == 200
    assert platform.host.record(name_of(running)).spec.generation == 1
    host_id, _ = await issue_local_token(str(platform.settings.database_url), name="elsewhere")
    for path in (running, paused):
        await change(platform, path, f"host_id = '{host_id.value}', generation = 2")
    # As of a database that was restored from a backup: the host has a newer copy than its row.
    await change(platform, newer, f"host_id = '{host_id.value}', generation = 0")
    await wait_gone(platform, running)
    await wait_gone(platform, paused)
    assert name_of(newer) in platform.host.sandbox_ids
    # That the older copy went is no news of the sandbox itself.
    for path in (running, paused):
        assert (await platform.api.get(path)).json()["status"] not in ("stopped", "error")


async def test_an_outdated_copy_on_the_right_host_is_removed_too(platform: Platform) -> None:
    path = await platform.create()
    await change(platform, path, "generation = 2")
    await wait_gone(platform, path)
    found = await platform.wait_status(path, "error")
    assert "not on its host" in str(found["metadata"])


async def test_a_call_with_an_older_generation_is_refused(platform: Platform) -> None:
    await run_sql(str(platform.settings.database_url), "ALTER TABLE sandboxes ALTER generation SET DEFAULT 5")
    path = await platform.create()
    assert platform.host.record(name_of(path)).spec.generation == 5
    await change(platform, path, "generation = 4")
    answer = await platform.api.post(f"{path}/pause")
    assert "has generation 5" in refused(answer, 409, "stale_generation")
    await platform.control.comparison.compare_once()
    assert (await platform.api.get(path)).json()["status"] == "running"
    # A removal is never taken back, so it is for any generation.
    assert (await platform.api.delete(path)).status_code == 204
    await wait_gone(platform, path)
