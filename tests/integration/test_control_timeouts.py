"""Idle sandboxes are put away on time, those in use never, and a life ends when it was said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import func, text, update

from wrenn.agent.sandboxes import State
from wrenn.base.errors import StorageFull, Unavailable
from wrenn.base.ids import SandboxId
from wrenn.base.units import MIB
from wrenn.control.db import Database
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost

from .conftest import (
    DEADLINE_S,
    Platform,
    make_team,
    platform_for_a_team,
    platform_on_a_database_of_its_own,
    refused,
    running_platform,
    with_memory,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR_S = 3600


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


def moment(text: object) -> datetime:
    return datetime.fromisoformat(str(text))


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not done():
            await asyncio.sleep(0.02)


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's: a test has a team of its own."""
    return team_platform


@pytest.fixture
def database(database_of_module: Database) -> Database:
    return database_of_module


@pytest.fixture
def second_platform(team_replica: Platform) -> Platform:
    return team_replica


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def quiet_of_module(
    data_dir: Path, pki: Path, template_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Platform]:
    agent_dir = tmp_path_factory.mktemp("quiet") / "agent"
    async with platform_on_a_database_of_its_own(
        data_dir, pki, template_url, agent_dir, host_interval_s=600.0
    ) as platform:
        yield platform


@pytest_asyncio.fixture(loop_scope="module")
async def quiet(quiet_of_module: Platform) -> AsyncIterator[Platform]:
    """A platform that asks its host for nothing by itself, so that only time-outs act."""
    async with platform_for_a_team(quiet_of_module) as platform:
        yield platform


async def make_due(platform: Platform, path: str, **values: object) -> None:
    """As if its time were up by the database's word; its host's is another matter."""
    row = {"due_at": func.now(), **values}
    await platform.control.database.execute(
        update(sandboxes).where(sandboxes.c.id == SandboxId.parse(id_of(path)).value).values(row)
    )
    platform.control.reconciler.wake()


async def test_an_idle_sandbox_is_paused_on_time_and_the_row_says_so_at_once(quiet: Platform):
    path = await quiet.create(timeout_sec=1)
    begun = time.monotonic()
    await quiet.api.post(f"{path}/exec", json={"cmd": "true"})
    await until(lambda: quiet.host.state(id_of(path)) == State.PAUSED)
    on_host = time.monotonic()
    found = await quiet.wait_status(path, "paused")
    # Not by the comparison with the host, for which nobody waits here.
    assert time.monotonic() - on_host < DEADLINE_S
    assert 1.0 <= on_host - begun < DEADLINE_S
    assert found["timeout_sec"] == 1
    assert "is paused" in refused(
        await quiet.api.post(f"{path}/exec", json={"cmd": "true"}), 409, "invalid_state"
    )


async def test_without_a_time_out_it_is_never_paused(quiet: Platform):
    path = await quiet.create()
    quiet.host.age(id_of(path), HOUR_S)
    await quiet.control.reconciler.reconcile_once()
    await make_due(quiet, path, due_at=None)
    assert (await quiet.api.get(path)).json()["status"] == "running"
    assert quiet.host.calls["pause_sandbox"] == 0


async def test_a_sandbox_that_was_used_meanwhile_goes_on_and_the_row_learns_of_it(quiet: Platform):
    path = await quiet.create(timeout_sec=HOUR_S)
    used_at = quiet.host.age(id_of(path), -30)
    await make_due(quiet, path)
    await quiet.host.wait_call("pause_sandbox")
    await until(lambda: quiet.host.state(id_of(path)) == State.RUNNING)
    async with asyncio.timeout(DEADLINE_S):
        while moment((found := (await quiet.api.get(path)).json())["last_active_at"]).timestamp() < int(
            used_at
        ):
            await asyncio.sleep(0.02)
    assert found["status"] == "running"
    assert (await quiet.api.post(f"{path}/exec", json={"cmd": "true"})).status_code == 200
    assert quiet.host.calls["pause_sandbox"] == 1


async def test_a_command_that_runs_longer_than_the_time_out_is_not_paused_under_its_caller(quiet: Platform):
    path = await quiet.create(timeout_sec=1)
    answer = await quiet.api.post(f"{path}/exec", json={"cmd": "sleep", "args": ["2.2"]})
    assert answer.json()["exit_code"] == 0
    # It was asked for meanwhile, and not once in a hurry.
    assert 1 <= quiet.host.calls["pause_sandbox"] <= 12
    await quiet.wait_status(path, "paused")


@pytest.mark.parametrize("in_use", [True, False])
async def test_a_call_while_the_host_is_asked_waits_for_its_word(quiet: Platform, in_use: bool):
    path = await quiet.create(timeout_sec=60)
    quiet.host.age(id_of(path), 0 if in_use else 61)
    quiet.host.switches.hold["pause_sandbox"] = held = asyncio.Event()
    await make_due(quiet, path)
    await quiet.host.wait_call("pause_sandbox")
    call = asyncio.create_task(quiet.api.post(f"{path}/exec", json={"cmd": "true"}))
    await asyncio.sleep(0)
    held.set()
    if in_use:
        assert (await call).status_code == 200
    else:
        assert "is paused" in refused(await call, 409, "invalid_state")


async def test_who_wants_it_paused_does_not_ask_whether_it_is_idle(quiet: Platform):
    path = await quiet.create(timeout_sec=60)
    quiet.host.switches.hold["pause_sandbox"] = held = asyncio.Event()
    await make_due(quiet, path)
    await quiet.host.wait_call("pause_sandbox")
    pause = asyncio.create_task(quiet.api.post(f"{path}/pause"))
    await quiet.host.wait_call("pause_sandbox", count=2)
    held.set()
    answer = await pause
    assert (answer.status_code, answer.json()["status"]) == (200, "paused")


async def test_a_ping_and_a_call_through_another_replica_put_the_pause_off(quiet: Platform):
    path = await quiet.create(timeout_sec=60)
    quiet.host.age(id_of(path), 61)
    assert (await quiet.api.post(f"{path}/ping")).status_code == 204
    await make_due(quiet, path)
    await quiet.host.wait_call("pause_sandbox")
    async with asyncio.timeout(DEADLINE_S):
        while (await quiet.api.post(f"{path}/exec", json={"cmd": "true"})).status_code != 200:
            await asyncio.sleep(0.02)
    assert quiet.host.state(id_of(path)) == State.RUNNING


async def test_two_replicas_pause_it_once(platform: Platform, second_platform: Platform):
    paths = [await platform.create(timeout_sec=1) for _ in range(4)]
    for path in paths:
        await second_platform.wait_status(path, "paused")
    assert platform.host.calls["pause_sandbox"] == len(paths)


async def test_the_comparison_brings_the_last_use_so_that_a_busy_sandbox_is_not_asked_for(platform: Platform):
    path = await platform.create(timeout_sec=HOUR_S)
    # First at the host, which a heartbeat may have compared at any time.
    used_at = platform.host.age(id_of(path), 30)
    await platform.control.comparison.compare_once()
    await platform.control.database.execute(
        text("UPDATE sandboxes SET last_active_at = now() - interval '1 hour' WHERE id = :id"),
        {"id": SandboxId.parse(id_of(path)).value},
    )
    await platform.control.comparison.compare_once()
    found = (await platform.api.get(path)).json()
    assert moment(found["last_active_at"]).timestamp() == int(used_at)
    platform.host.age(id_of(path), -HOUR_S)
    await platform.control.comparison.compare_once()
    found = (await platform.api.get(path)).json()
    assert moment(found["last_active_at"]).timestamp() < time.time() + 1, "the host's clock is fast"
    assert platform.host.calls["pause_sandbox"] == 0


async def test_an_unreachable_or_failing_host_loses_no_sandbox_and_is_asked_again(
    quiet: Platform, database: Database
):
    path = await quiet.create(timeout_sec=1)
    for failure in (Unavailable("silent"), StorageFull("The disk of the host is full.")):
        quiet.host.switches.fail["pause_sandbox"] = failure
        calls = quiet.host.calls["pause_sandbox"]
        quiet.host.age(id_of(path), 60)
        await make_due(quiet, path)
        await quiet.host.wait_call("pause_sandbox", count=calls + 1)
        answer = await quiet.api.post(f"{path}/exec", json={"cmd": "true"})
        assert answer.status_code == 200
        assert quiet.host.calls["pause_sandbox"] == calls + 1, "it is not asked again at once"
    quiet.host.switches.fail.clear()
    quiet.host.age(id_of(path), 60)
    await make_due(quiet, path)
    await quiet.wait_status(path, "paused")


async def test_a_lost_answer_to_a_time_out_loses_no_sandbox(platform: Platform):
    path = await platform.create(timeout_sec=1)
    platform.host.switches.lose_answer = {"pause_sandbox"}
    await until(lambda: platform.host.state(id_of(path)) == State.PAUSED)
    found = await platform.wait_status(path, "paused")
    assert found["timeout_sec"] == 1
    assert (await platform.api.post(f"{path}/resume")).status_code == 200


async def test_a_life_ends_in_a_pause_however_busy_it_is(quiet: Platform):
    path = await quiet.create(lifetime_sec=1)
    created = (await quiet.api.get(path)).json()
    assert moment(created["expires_at"]) - moment(created["created_at"]) <= timedelta(seconds=2)
    assert created["on_expiry"] == "pause"
    quiet.host.age(id_of(path), -HOUR_S)
    await quiet.wait_status(path, "paused")
    # A life that ended in a pause is not held against who resumes it.
    answer = await quiet.api.post(f"{path}/resume")
    assert answer.status_code == 200
    assert "expires_at" not in answer.json()
    await quiet.control.reconciler.reconcile_once()
    assert (await quiet.api.get(path)).json()["status"] == "running"


@pytest.mark.parametrize("paused", [True, False])
async def test_a_life_ends_in_a_removal(quiet: Platform, paused: bool):
    path = await quiet.create(lifetime_sec=HOUR_S, on_expiry="kill")
    if paused:
        await quiet.api.post(f"{path}/pause")
    await make_due(quiet, path, expires_at=func.now())
    await quiet.wait_status(path, "stopped")
    assert not quiet.host.sandbox_ids


async def test_a_removal_on_a_silent_host_is_done_when_it_is_back(platform: Platform):
    path = await platform.create(lifetime_sec=HOUR_S, on_expiry="kill")
    platform.host.silence("remove_sandbox")
    await platform.wait_status(path, "missing")
    await make_due(platform, path, expires_at=func.now())
    await platform.host.wait_call("remove_sandbox")
    platform.host.answer_again()
    await platform.wait_status(path, "stopped")


async def test_the_limits_can_be_changed(quiet: Platform):
    path = await quiet.create()

    async def change(**body: object) -> dict[str, object]:
        answer = await quiet.api.patch(f"{path}/timeout", json=body)
        assert answer.status_code == 200, answer.text
        assert (await quiet.api.get(path)).json() == answer.json()
        return answer.json()

    in_an_hour = datetime.now(UTC) + timedelta(seconds=HOUR_S)
    found = await change(lifetime_sec=HOUR_S, on_expiry="kill")
    assert abs(moment(found["expires_at"]) - in_an_hour) < timedelta(seconds=5)
    assert (found["on_expiry"], found["timeout_sec"]) == ("kill", 0)
    assert (await change(lifetime_sec=60, extend_only=True))["expires_at"] == found["expires_at"]
    assert (await change(timeout_sec=7))["expires_at"] == found["expires_at"]
    assert moment((await change(lifetime_sec=60))["expires_at"]) < in_an_hour - timedelta(seconds=60)
    found = await change(lifetime_sec=0, on_expiry="pause", timeout_sec=0)
    assert "expires_at" not in found
    assert "expires_at" not in await change(lifetime_sec=60, extend_only=True)
    assert await change() | {"last_updated": ""} == found | {"last_updated": ""}


async def test_a_shorter_time_out_holds_at_once(quiet: Platform):
    path = await quiet.create(timeout_sec=HOUR_S)
    await quiet.api.patch(f"{path}/timeout", json={"timeout_sec": 1})
    await quiet.wait_status(path, "paused")


async def test_a_paused_sandbox_can_be_given_a_life_and_an_ended_one_not(quiet: Platform):
    path = await quiet.create()
    await quiet.api.post(f"{path}/pause")
    await quiet.api.patch(f"{path}/timeout", json={"lifetime_sec": 1, "on_expiry": "kill"})
    await quiet.wait_status(path, "stopped")
    answer = await quiet.api.patch(f"{path}/timeout", json={"lifetime_sec": 1})
    assert "stopped" in refused(answer, 409, "invalid_state")


BAD_LIMITS: list[dict[str, object]] = [
    {"timeout_sec": -1},
    {"timeout_sec": 1.5},
    {"timeout_sec": "1"},
    {"lifetime_sec": 2**31},
    {"on_expiry": "burn"},
    {"extend_only": 1},
]


async def test_bad_limits_are_refused(platform: Platform, subtests: pytest.Subtests):
    path = await platform.create()
    for body in BAD_LIMITS:
        with subtests.test(repr(body)):
            name = next(iter(body))
            answer = await platform.api.patch(f"{path}/timeout", json=body)
            assert name in refused(answer, 400, "invalid_request")
            if name != "extend_only":
                assert name in refused(
                    await platform.api.post("/v1/sandboxes", json=body), 400, "invalid_request"
                )
    assert len((await platform.api.get("/v1/sandboxes")).json()) == 1


async def test_a_call_wakes_what_was_made_to_be_woken_and_many_calls_wake_it_once(
    platform: Platform, second_platform: Platform
):
    path = await platform.create(auto_resume=True)
    assert (await platform.api.get(path)).json()["auto_resume"] is True
    await platform.api.post(f"{path}/pause")
    both = (platform, second_platform)
    calls = [both[n % 2].api.post(f"{path}/exec", json={"cmd": "true"}) for n in range(6)]
    answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200] * 6
    assert platform.host.calls["resume_sandbox"] == 1
    assert (await platform.api.get(path)).json()["status"] == "running"
    # Looking is not calling.
    await platform.api.post(f"{path}/pause")
    await platform.api.get(path)
    await platform.api.get("/v1/sandboxes")
    assert platform.host.state(id_of(path)) == State.PAUSED
    assert (await platform.api.post(f"{path}/files/list", json={"path": "/"})).status_code == 200


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_a_call_joins_the_change_under_way(platform: Platform, verb: str):
    path = await platform.create(auto_resume=True)
    if verb == "resume":
        await platform.api.post(f"{path}/pause")
    platform.host.switches.hold[f"{verb}_sandbox"] = held = asyncio.Event()
    change = asyncio.create_task(platform.api.post(f"{path}/{verb}"))
    await platform.host.wait_call(f"{verb}_sandbox")
    call = asyncio.create_task(platform.api.post(f"{path}/exec", json={"cmd": "true"}))
    await asyncio.sleep(0)
    held.set()
    assert (await call).status_code == 200
    assert (await change).status_code == 200
    assert platform.host.calls["resume_sandbox"] == 1


@pytest.mark.asyncio(loop_scope="function")
async def test_a_call_that_cannot_wake_it_says_why(settings: Settings, host: AgentHost, database_url: str):
    key = await make_team(database_url, "ada")
    async with running_platform(with_memory(settings, 512 * MIB), host, key) as platform:
        path = await platform.create(auto_resume=True)
        await platform.api.post(f"{path}/pause")
        other = await platform.create()
        answer = await platform.api.post(f"{path}/exec", json={"cmd": "true"})
        assert "memory" in refused(answer, 503, "no_hosts_available")
        await platform.api.delete(other)
        host.switches.fail["resume_sandbox"] = StorageFull("The disk of the host is full.")
        refused(await platform.api.post(f"{path}/exec", json={"cmd": "true"}), 507, "storage_full")
        assert (await platform.api.get(path)).json()["status"] == "paused"
        await platform.api.delete(path)
        refused(await platform.api.post(f"{path}/exec", json={"cmd": "true"}), 409, "invalid_state")


async def test_what_was_paused_for_idleness_is_woken_and_paused_again(quiet: Platform):
    path = await quiet.create(timeout_sec=1, auto_resume=True)
    for _ in range(2):
        await quiet.wait_status(path, "paused")
        assert (await quiet.api.post(f"{path}/exec", json={"cmd": "true"})).status_code == 200
    await quiet.wait_status(path, "paused")
