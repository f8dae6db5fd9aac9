"""Pause and resume: one of many wins, nothing is lost, and the row says what is true in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from sqlalchemy import text

from tests.held_points import held_points
from wrenn.agent.sandboxes import State
from wrenn.base.errors import AgentFailure, InternalError, StorageFull, WrennError
from wrenn.base.faults import FaultInjected
from wrenn.base.ids import SandboxId
from wrenn.base.units import MIB
from wrenn.control.sandboxes import pause_all
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost

from .conftest import DEADLINE_S, Platform, client, make_team, refused, running_platform, with_memory

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = ("timeout_sec", "on_expiry", "auto_resume", "template", "vcpus", "memory_mb", "created_at")


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not done():
            await asyncio.sleep(0.02)


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's: a test has a team of its own."""
    return team_platform


@pytest.fixture
def second_platform(team_replica: Platform) -> Platform:
    return team_replica


@pytest.fixture
async def quiet(settings: Settings, host: AgentHost, database_url: str) -> AsyncIterator[Platform]:
    """A platform that compares only when a test says so."""
    key = await make_team(database_url, "ada")
    async with running_platform(replace(settings, host_interval_s=600.0), host, key) as platform:
        yield platform


@pytest_asyncio.fixture(loop_scope="module")
async def paused(platform: Platform) -> str:
    path = await platform.create()
    assert (await platform.api.post(f"{path}/pause")).status_code == 200
    return path


@pytest.mark.parametrize("prefix", ["sandboxes", "capsules"])
async def test_a_paused_sandbox_comes_back_with_its_files(platform: Platform, prefix: str):
    path = (await platform.create(envs={"A": "1"}, timeout_sec=900)).replace("sandboxes", prefix)
    before = (await platform.api.get(path)).json()
    await platform.api.post(f"{path}/exec", json={"cmd": "touch", "args": ["/root/kept", "kept"]})
    answer = await platform.api.post(f"{path}/pause")
    assert answer.status_code == 200
    assert answer.json()["status"] == "paused"
    assert "host_ip" not in answer.json()
    assert platform.host.state(id_of(path)) == State.PAUSED
    assert [s["status"] for s in (await platform.api.get(f"/v1/{prefix}")).json()] == ["paused"]
    answer = await platform.api.post(f"{path}/resume")
    assert answer.status_code == 200
    after = answer.json()
    assert after["status"] == "running"
    assert after["host_ip"].startswith("127.")
    assert {name: after[name] for name in LIMITS} == {name: before[name] for name in LIMITS}
    body = {"cmd": "sh", "args": ["-c", "ls; echo $A"]}
    assert (await platform.api.post(f"{path}/exec", json=body)).json()["stdout"] == "kept\n1\n"


async def test_what_is_paused_says_so_to_every_call(platform: Platform, paused: str):
    said = [
        refused(await platform.api.post(f"{paused}/exec", json={"cmd": "true"}), 409, "invalid_state"),
        refused(await platform.api.post(f"{paused}/ping"), 409, "invalid_state"),
        refused(await platform.api.get(f"{paused}/processes"), 409, "invalid_state"),
        refused(await platform.api.post(f"{paused}/files/list", json={"path": "/"}), 409, "invalid_state"),
    ]
    assert all("is paused: resume it" in text for text in said)
    assert "is paused" in refused(await platform.api.post(f"{paused}/pause"), 409, "invalid_state")
    assert platform.host.calls["pause_sandbox"] == 1


async def test_what_is_being_paused_or_resumed_says_so(platform: Platform):
    path = await platform.create()
    for verb, call in (("pause", "pause_sandbox"), ("resume", "resume_sandbox")):
        platform.host.switches.hold[call] = held = asyncio.Event()
        change = asyncio.create_task(platform.api.post(f"{path}/{verb}"))
        await platform.host.wait_call(call)
        for method, rest, body in (
            ("POST", "/exec", {"cmd": "true"}), ("POST", "/pause", None), ("POST", "/resume", None), ("POST", "/fork", {}),
        ):  # fmt: skip
            answer = await platform.api.request(method, path + rest, json=body)
            assert f"being {verb}d" in refused(answer, 409, "invalid_state")
        answer = await platform.api.post("/v1/snapshots", json={"sandbox_id": id_of(path)})
        assert f"being {verb}d" in refused(answer, 409, "invalid_state")
        held.set()
        assert (await change).status_code == 200


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_of_many_at_once_one_wins(platform: Platform, second_platform: Platform, verb: str):
    path = await platform.create()
    if verb == "resume":
        await platform.api.post(f"{path}/pause")
    both = (platform, second_platform)
    answers = await asyncio.gather(*(both[n % 2].api.post(f"{path}/{verb}") for n in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    for answer in answers:
        if answer.status_code == 409:
            refused(answer, 409, "invalid_state")
    assert platform.host.calls[f"{verb}_sandbox"] == 1


async def test_pausing_and_resuming_at_once_ends_in_one_of_both(
    platform: Platform, second_platform: Platform
):
    path = await platform.create()
    for _ in range(5):
        answers = await asyncio.gather(
            platform.api.post(f"{path}/pause"), second_platform.api.post(f"{path}/resume")
        )
        assert all(answer.status_code in (200, 409) for answer in answers)
        status = (await platform.api.get(path)).json()["status"]
        state = platform.host.state(id_of(path))
        assert (status, state) in (("running", State.RUNNING), ("paused", State.PAUSED))
        if status == "paused":
            assert (await platform.api.post(f"{path}/resume")).status_code == 200


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_a_delete_wins_over_all(platform: Platform, verb: str):
    path = await platform.create()
    if verb == "resume":
        await platform.api.post(f"{path}/pause")
    platform.host.switches.hold[f"{verb}_sandbox"] = held = asyncio.Event()
    change = asyncio.create_task(platform.api.post(f"{path}/{verb}"))
    await platform.host.wait_call(f"{verb}_sandbox")
    assert (await platform.api.delete(path)).status_code == 204
    assert "removed" in refused(await change, 409, "invalid_state")
    held.set()
    await until(lambda: not platform.host.sandbox_ids)
    assert (await platform.api.get(path)).json()["status"] == "stopped"


async def test_deletes_pauses_and_resumes_at_once_leave_nothing(
    platform: Platform, second_platform: Platform
):
    paths = [await platform.create() for _ in range(4)]
    calls = [
        request
        for path in paths
        for request in (
            platform.api.post(f"{path}/pause"), second_platform.api.post(f"{path}/resume"), platform.api.delete(path),
        )
    ]  # fmt: skip
    answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers[2::3]} == {204}
    assert {answer.status_code for answer in answers} <= {200, 204, 409}
    await until(lambda: not platform.host.sandbox_ids)
    for path in paths:
        assert (await platform.api.get(path)).json()["status"] == "stopped"


async def test_a_paused_sandbox_can_be_deleted(platform: Platform, paused: str):
    assert (await platform.api.delete(paused)).status_code == 204
    assert not platform.host.sandbox_ids
    assert "stopped" in refused(await platform.api.post(f"{paused}/resume"), 409, "invalid_state")


REFUSALS = [
    (StorageFull("The disk of the host is full."), 507, "storage_full"),
    (AgentFailure("The guest did not freeze."), 502, "agent_error"),
    (InternalError("/secret/path exploded"), 500, "internal_error"),
]


async def test_a_refused_pause_leaves_it_running_and_a_refused_resume_paused(platform: Platform):
    path = await platform.create()
    for verb, status in (("pause", "running"), ("resume", "paused")):
        for failure, code, name in REFUSALS:
            platform.host.switches.fail[f"{verb}_sandbox"] = failure
            assert "secret" not in refused(await platform.api.post(f"{path}/{verb}"), code, name)
            found = (await platform.api.get(path)).json()
            assert found["status"] == status
            assert ("reason" in found["metadata"]) == (status == "paused")
        platform.host.switches.fail.clear()
        assert (await platform.api.post(f"{path}/{verb}")).status_code == 200
    assert (await platform.api.post(f"{path}/exec", json={"cmd": "true"})).json()["exit_code"] == 0


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize(("verb", "status"), [("pause", "paused"), ("resume", "running")])
async def test_a_lost_answer_changes_no_outcome(
    settings: Settings, host: AgentHost, database_url: str, verb: str, status: str
):
    key = await make_team(database_url, "ada")
    # Calls are repeated for longer than any machine takes for two of them.
    async with running_platform(replace(settings, start_retry_s=60.0), host, key) as platform:
        path = await platform.create()
        if verb == "resume":
            await platform.api.post(f"{path}/pause")
        host.switches.lose_answer = {f"{verb}_sandbox"}
        change = asyncio.create_task(platform.api.post(f"{path}/{verb}"))
        await host.wait_call(f"{verb}_sandbox", count=2)
        host.switches.lose_answer.clear()
        answer = await change
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == status


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_answers_that_stay_lost_leave_a_row_that_is_true(
    settings: Settings, host: AgentHost, database_url: str, verb: str
):
    key = await make_team(database_url, "ada")
    async with running_platform(replace(settings, start_retry_s=0.2), host, key) as platform:
        path = await platform.create()
        if verb == "resume":
            await platform.api.post(f"{path}/pause")
        host.switches.lose_answer = {f"{verb}_sandbox"}
        refused(await platform.api.post(f"{path}/{verb}"), 503, "host_unavailable")
        host.switches.lose_answer.clear()
        # The host did it: a pause is found out; what runs though nobody waits for it any more is paused again.
        await platform.wait_status(path, "paused")
        await until(lambda: host.state(id_of(path)) == State.PAUSED)
        assert (await platform.api.post(f"{path}/resume")).status_code == 200


async def test_a_silent_host_changes_nothing_of_what_is_paused(platform: Platform, paused: str):
    running = await platform.create()
    platform.host.silence("resume_sandbox", "pause_sandbox")
    # Longer than it takes to call a sandbox missing: the running one shows it.
    await platform.wait_status(running, "missing")
    assert (await platform.api.get(paused)).json()["status"] == "paused"
    refused(await platform.api.post(f"{paused}/resume"), 503, "host_unavailable")
    assert "missing" in refused(await platform.api.post(f"{running}/pause"), 409, "invalid_state")
    assert (await platform.api.get(paused)).json()["status"] == "paused"
    platform.host.answer_again()
    await platform.wait_status(running, "running")
    assert (await platform.api.post(f"{paused}/resume")).status_code == 200


async def test_a_pause_that_a_silent_host_did_shows_when_it_is_back(platform: Platform):
    path = await platform.create()
    platform.host.silence()
    await platform.wait_status(path, "missing")
    await platform.host.agent.sandboxes.pause(SandboxId.parse(id_of(path)))
    platform.host.answer_again()
    await platform.wait_status(path, "paused")
    assert (await platform.api.post(f"{path}/resume")).status_code == 200


async def test_what_was_saved_under_another_vmm_is_not_started_and_says_so(platform: Platform, paused: str):
    running = await platform.create()
    body = {"sandbox_id": id_of(running), "name": "saved"}
    assert (await platform.api.post("/v1/snapshots", json=body)).status_code == 201
    host = platform.host
    former, host.vmm = host.vmm, "simulated 2"
    await host.restart()
    await platform.control.monitor.look_once()
    calls = host.calls["resume_sandbox"] + host.calls["ensure_sandbox"]
    for path, body in ((f"{paused}/resume", {}), ("/v1/sandboxes", {"template": "saved"})):
        said = refused(await platform.api.post(path, json=body), 503, "no_hosts_available")
        assert "cannot restore it now: with another VMM or accelerator than the snapshot." in said
    assert host.calls["resume_sandbox"] + host.calls["ensure_sandbox"] == calls, "the host is not asked"
    assert (await platform.api.get(paused)).json()["status"] == "paused"
    host.vmm = former
    await host.restart()
    await platform.control.monitor.look_once()
    assert (await platform.api.post(f"{paused}/resume")).status_code == 200
    assert (await platform.api.post("/v1/sandboxes", json={"template": "saved"})).status_code == 201


async def test_what_a_paused_sandbox_needs_is_learned_from_its_host(platform: Platform, paused: str):
    """A replica of a former version does not store it."""
    database = platform.control.database
    await database.execute(text("UPDATE sandboxes SET platform = '{}'"))
    live = text("SELECT platform ->> 'vmm' FROM sandboxes WHERE status NOT IN ('stopped', 'error')")
    async with asyncio.timeout(DEADLINE_S):
        while (await database.execute(live)).scalar_one() is None:
            # It shares a comparison that began before.
            await platform.control.comparison.compare_once()
    assert (await platform.api.post(f"{paused}/resume")).status_code == 200


async def test_what_fell_back_to_its_last_pause_says_so_until_it_is_resumed(platform: Platform):
    path = await platform.create()
    for verb in ("pause", "resume"):
        assert (await platform.api.post(f"{path}/{verb}")).status_code == 200
    platform.host.kill_guest(id_of(path))
    found = await platform.wait_status(path, "paused")
    assert "ended by itself or was killed. This is what it was at its last pause." in str(found["metadata"])
    resumed = await platform.api.post(f"{path}/resume")
    assert resumed.status_code == 200
    assert "reason" not in resumed.json()["metadata"]


@pytest.mark.asyncio(loop_scope="function")
async def test_what_changes_while_a_host_is_compared_is_not_undone(quiet: Platform):
    paused, resumed = await quiet.create(), await quiet.create()
    await quiet.api.post(f"{resumed}/pause")
    quiet.host.switches.hold["list_sandboxes"] = held = asyncio.Event()
    listed = quiet.host.calls["list_sandboxes"]
    comparing = asyncio.create_task(quiet.control.comparison.compare_once())
    await quiet.host.wait_call("list_sandboxes", count=listed + 1)
    assert (await quiet.api.post(f"{paused}/pause")).status_code == 200
    assert (await quiet.api.post(f"{resumed}/resume")).status_code == 200
    created = await quiet.create()
    held.set()
    await comparing
    statuses = [(await quiet.api.get(path)).json()["status"] for path in (paused, resumed, created)]
    assert statuses == ["paused", "running", "running"]
    assert (quiet.host.calls["pause_sandbox"], quiet.host.calls["remove_sandbox"]) == (2, 0)


async def test_a_host_in_the_middle_of_it_is_left_alone(platform: Platform, paused: str, tmp_path: Path):
    running = await platform.create()
    # Both stand still on their way, and fail there in the end.
    fail = "agent.pause.after_memory=error,agent.resume.after_disk=error"
    sandboxes = platform.host.agent.sandboxes
    with held_points(tmp_path, "agent.pause.after_freeze", "agent.resume.after_slot", then=fail) as held:
        on_the_way = [
            asyncio.create_task(sandboxes.pause(SandboxId.parse(id_of(running)))),
            asyncio.create_task(sandboxes.resume(SandboxId.parse(id_of(paused)))),
        ]
        await until(lambda: platform.host.state(id_of(running)) is State.PAUSING)
        await until(lambda: platform.host.state(id_of(paused)) is State.RESUMING)
        await platform.control.comparison.compare_once()
        assert (await platform.api.get(running)).json()["status"] == "running"
        assert (await platform.api.get(paused)).json()["status"] == "paused"
        held.release()
        failed = await asyncio.gather(*on_the_way, return_exceptions=True)
    assert [type(error) for error in failed] == [FaultInjected, FaultInjected]
    await platform.control.comparison.compare_once()
    states = [platform.host.state(id_of(path)) for path in (running, paused)]
    assert states == [State.RUNNING, State.PAUSED]
    assert platform.host.calls["remove_sandbox"] == 0


async def test_a_paused_sandbox_whose_files_are_gone_is_an_error_with_the_reason(
    platform: Platform, paused: str
):
    forgotten = await platform.create()
    await platform.api.post(f"{forgotten}/pause")
    host = platform.host
    (host.agent.layout.snapshots / host.record(id_of(paused)).snapshot / "manifest.json").unlink()
    await host.remove(id_of(forgotten))
    await host.restart()  # which looks at what was saved
    found = await platform.wait_status(paused, "error")
    assert "damaged" in str(found["metadata"])
    found = await platform.wait_status(forgotten, "error")
    assert "files" in str(found["metadata"])
    refused(await platform.api.post(f"{paused}/resume"), 409, "invalid_state")
    # Its files may be repaired, so that the host says so is no reason to remove them at once.
    for _ in range(3):
        await platform.control.comparison.compare_once()
    assert host.sandbox_ids == {id_of(paused)}
    await platform.control.database.execute(
        text("UPDATE sandboxes SET last_updated = now() - interval '8 d' WHERE status = 'error'")
    )
    await until(lambda: not host.sandbox_ids)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_host_that_does_not_name_a_paused_sandbox_for_a_moment_does_not_cost_it(
    settings: Settings, host: AgentHost, database_url: str
):
    key = await make_team(database_url, "ada")
    async with running_platform(replace(settings, unknown_grace_s=60.0), host, key) as platform:
        path, running = await platform.create(), await platform.create()
        await platform.api.post(f"{path}/pause")
        for each in (path, running):
            await host.remove(id_of(each))
        for _ in range(3):
            await platform.control.comparison.compare_once()
        assert (await platform.api.get(path)).json()["status"] == "paused"
        assert (await platform.api.get(running)).json()["status"] == "running"


async def test_a_sandbox_whose_journal_cannot_be_read_is_left_alone_until_it_is_repaired_or_deleted(
    platform: Platform, paused: str
):
    host = platform.host
    running, deleted = await platform.create(), await platform.create()
    assert (await platform.api.post(f"{deleted}/pause")).status_code == 200
    contents: dict[str, str] = {}
    journals = {
        path: host.agent.layout.sandboxes / id_of(path) / "journal.json"
        for path in (paused, running, deleted)
    }
    # While it runs, the agent writes a journal again when what is paused is on disk.
    await host.stop()
    for path, journal in journals.items():
        contents[path] = journal.read_text()
        journal.write_text("{")
    await host.start()
    assert host.sandbox_ids == set()
    found = await until_reason(platform, running, "journal")
    assert found["status"] == "running"
    await asyncio.sleep(2 * platform.settings.unknown_grace_s)
    for _ in range(2):
        await platform.control.comparison.compare_once()
    assert (await platform.api.get(paused)).json()["status"] == "paused"
    assert (await platform.api.get(running)).json()["status"] == "running"
    assert "journal" in refused(await platform.api.post(f"{paused}/resume"), 409, "invalid_state")
    folder = host.agent.layout.sandboxes / id_of(deleted)
    assert folder.exists()
    assert (await platform.api.delete(deleted)).status_code == 204
    assert not folder.exists()
    (host.agent.layout.sandboxes / id_of(paused) / "journal.json").write_text(contents[paused])
    (host.agent.layout.sandboxes / id_of(running) / "journal.json").write_text(contents[running])
    await host.restart()
    assert (await platform.api.post(f"{paused}/resume")).status_code == 200


async def until_reason(platform: Platform, path: str, word: str) -> dict[str, Any]:
    """The sandbox, once its reason has this word."""
    async with asyncio.timeout(DEADLINE_S):
        while word not in str((found := (await platform.api.get(path)).json())["metadata"]):
            await asyncio.sleep(0.05)
    return found


async def test_a_resume_of_what_the_host_has_lost_is_refused_and_becomes_an_error(
    platform: Platform, paused: str
):
    await platform.host.remove(id_of(paused))
    refused(await platform.api.post(f"{paused}/resume"), 404, "not_found")
    # The heartbeat that tells of the removal may have been compared while the sandbox was to be resumed.
    await platform.control.comparison.compare_once()
    await platform.wait_status(paused, "error")


@pytest.mark.asyncio(loop_scope="function")
async def test_a_paused_sandbox_takes_no_memory_and_no_slot_until_it_is_resumed(
    settings: Settings, host: AgentHost, database_url: str
):
    host.sandbox_limit = 2
    key = await make_team(database_url, "ada")
    async with running_platform(with_memory(settings, 2 * 512 * MIB), host, key) as platform:
        first = await platform.create()
        await platform.create()
        assert (await platform.api.post(f"{first}/pause")).status_code == 200
        third = await platform.create()
        full = refused(await platform.api.post(f"{first}/resume"), 503, "no_hosts_available")
        assert "sandbox slots" in full
        assert (await platform.api.get(first)).json()["status"] == "paused"
        await platform.api.delete(third)
        assert (await platform.api.post(f"{first}/resume")).status_code == 200


@pytest.mark.asyncio(loop_scope="function")
async def test_resumes_at_once_never_exceed_the_memory(
    settings: Settings, host: AgentHost, database_url: str
):
    key = await make_team(database_url, "ada")
    async with running_platform(with_memory(settings, 2 * 512 * MIB), host, key) as platform:
        paths: list[str] = []
        for _ in range(4):
            paths.append(await platform.create())
            await platform.api.post(f"{paths[-1]}/pause")
        answers = await asyncio.gather(*(platform.api.post(f"{path}/resume") for path in paths))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503]


@pytest_asyncio.fixture(loop_scope="module")
async def stranger(platform: Platform) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(platform.url, await platform.other_team()) as api:
        yield api


async def test_another_teams_sandbox_cannot_be_changed(
    platform: Platform, paused: str, stranger: httpx2.AsyncClient
):
    running = await platform.create(auto_resume=True)
    for method, path, body in (
        ("POST", f"{running}/pause", None), ("POST", f"{paused}/resume", None), ("POST", f"{running}/fork", {}),
        ("PATCH", f"{running}/timeout", {"timeout_sec": 1}),
    ):  # fmt: skip
        refused(await stranger.request(method, path, json=body), 404, "not_found")
    found = [(await platform.api.get(path)).json() for path in (running, paused)]
    assert [(s["status"], s["timeout_sec"]) for s in found] == [("running", 0), ("paused", 0)]


async def test_pause_all_pauses_running_and_starting_sandboxes_of_all_teams(
    platform: Platform, stranger: httpx2.AsyncClient
):
    database_url = str(platform.settings.database_url)
    mine, theirs = await platform.create(), (await stranger.post("/v1/sandboxes", json={})).json()["id"]
    paused_before = await platform.create()
    await platform.api.post(f"{paused_before}/pause")
    platform.host.switches.hold["ensure_sandbox"] = held = asyncio.Event()
    starting = asyncio.create_task(platform.create())
    await platform.host.wait_call("ensure_sandbox", count=4)
    pausing = asyncio.create_task(pause_all(database_url, timeout_s=DEADLINE_S))
    await platform.host.wait_call("pause_sandbox", count=3)
    held.set()
    assert await pausing == 3
    for path in (mine, f"/v1/sandboxes/{theirs}", await starting):
        assert platform.host.state(id_of(path)) == State.PAUSED
    assert await pause_all(database_url, timeout_s=DEADLINE_S) == 0
    assert (await platform.api.post(f"{mine}/resume")).status_code == 200


async def test_pause_all_says_what_it_could_not_do(platform: Platform):
    database_url = str(platform.settings.database_url)
    await platform.create()
    platform.host.switches.fail["pause_sandbox"] = StorageFull("The disk of the host is full.")
    with pytest.raises(WrennError, match=r"1 of 1 sandboxes were not paused.*disk of the host is full"):
        await pause_all(database_url, timeout_s=3)
    platform.host.switches.fail.clear()
    assert await pause_all(database_url, timeout_s=DEADLINE_S) == 1
