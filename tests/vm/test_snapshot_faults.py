"""Kill each process at each named step of pause, resume, snapshot and fork. The rule: afterwards the sandbox is as before the
call or as after it, it can be used, what it held is there, and `wrenn doctor` lists nothing.

`make test` kills at some points here, and at all of them over the simulated driver (`tests/agent/test_faults.py`,
`tests/integration/test_control_snapshot_crash.py`); `make test-faults` kills at all of them here too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from pathlib import Path

import httpx2
import pytest

from tests.vm.platform import Platform
from tests.vm.test_faults import create, points, quietly, wait_status
from wrenn.linux import cgroups

AGENT = [
    "pause.after_journal", "pause.after_hold", "pause.after_freeze", "pause.after_memory", "pause.after_state", "pause.after_manifest", "pause.after_kill", "pause.after_release", "pause.after_paused",
    "resume.after_journal", "resume.after_slot", "resume.after_disk", "resume.after_spawn", "resume.after_ready", "resume.after_running",
    "snapshot.after_draft", "snapshot.after_hold", "snapshot.after_freeze", "snapshot.after_memory", "snapshot.after_state", "snapshot.after_overlay", "snapshot.after_thaw", "snapshot.after_manifest",
]  # fmt: skip
CONTROL = [
    "pause.after_desired", "pause.after_rpc", "pause.after_apply",
    "resume.after_desired", "resume.after_rpc", "resume.after_apply",
    "snapshot.after_insert", "snapshot.after_rpc", "snapshot.after_apply",
    "fork.after_snapshot", "fork.after_insert", "fork.after_apply",
]  # fmt: skip
VMM = [
    "pause.after_hold", "pause.after_freeze", "pause.after_memory", "pause.after_state", "pause.after_manifest",
    "resume.after_spawn", "resume.after_ready",
    "snapshot.after_hold", "snapshot.after_freeze", "snapshot.after_memory", "snapshot.after_overlay", "snapshot.after_thaw",
]  # fmt: skip
COPIES = ["snapshot.after_memory", "create.after_spawn", "create.after_ready"]
AGENT_SAMPLE = {"pause.after_memory", "resume.after_spawn", "snapshot.after_overlay"}
# The control plane does not know what runs its sandboxes: the simulated driver shows the same.
CONTROL_SAMPLE = {"fork.after_snapshot"}
VMM_SAMPLE = {"pause.after_memory", "resume.after_spawn", "snapshot.after_overlay"}
MONITORS = ("firecracker", "qemu-system-x86")
"""Names of processes, as the kernel cuts them."""


async def sh(api: httpx2.AsyncClient, sandbox_id: str, script: str) -> str:
    answer = await api.post(f"/v1/sandboxes/{sandbox_id}/exec", json={"cmd": "sh", "args": ["-c", script]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["exit_code"] == 0, answer.text
    return answer.json()["stdout"]


async def filled(api: httpx2.AsyncClient, *, paused_once: bool = False) -> tuple[str, str]:
    """A sandbox with random data in memory and on disk, and its digests."""
    sandbox_id = (await create(api))["id"]
    fill = "head -c 2000000 /dev/urandom | tee /dev/shm/held > /root/held; sync; sha256sum /dev/shm/held /root/held"
    seen = await sh(api, sandbox_id, fill)
    if paused_once:
        for verb in ("pause", "resume"):
            answer = await api.post(f"/v1/sandboxes/{sandbox_id}/{verb}")
            assert answer.status_code == 200, answer.text
    return sandbox_id, seen


async def call(api: httpx2.AsyncClient, verb: str, sandbox_id: str) -> httpx2.Response | None:
    if verb == "snapshot":
        # Its own name: that of a snapshot which was broken off is free again only when its worker's lease has run out.
        body = {"sandbox_id": sandbox_id, "name": f"kept-{uuid.uuid4()}"}
        return await quietly(api.post("/v1/snapshots", json=body))
    count = {"count": 2} if verb == "fork" else None
    return await quietly(api.post(f"/v1/sandboxes/{sandbox_id}/{verb}", json=count))


async def assert_usable(api: httpx2.AsyncClient, sandbox_id: str, seen: str) -> None:
    """It runs or is paused; and then it answers with what it held."""
    async with asyncio.timeout(40):
        while (
            answer := await api.post(f"/v1/sandboxes/{sandbox_id}/exec", json={"cmd": "true"})
        ).status_code != 200:
            assert answer.status_code == 409, answer.text
            status = (await api.get(f"/v1/sandboxes/{sandbox_id}")).json()["status"]
            assert status in ("running", "paused"), status
            # A verb that was broken off is gone on with when its worker's lease has run out.
            await asyncio.sleep(0.1)
            if status == "paused":
                answer = await api.post(f"/v1/sandboxes/{sandbox_id}/resume")
                assert answer.status_code in (200, 409), answer.text
    assert await sh(api, sandbox_id, "sha256sum /dev/shm/held /root/held") == seen
    # Nothing of it stands still: a write reaches the disk, a new process runs.
    assert await sh(api, sandbox_id, "echo more >> /root/more && sync && cat /root/more") != ""


async def clean_up(platform: Platform, api: httpx2.AsyncClient) -> None:
    for row in (await api.get("/v1/sandboxes")).json():
        assert (await api.delete(f"/v1/sandboxes/{row['id']}")).status_code == 204
    for template in (await api.get("/v1/snapshots", params={"type": "snapshot"})).json():
        assert (await api.delete(f"/v1/snapshots/{template['name']}")).status_code == 204
    await platform.settled()


@pytest.mark.parametrize("point", points(AGENT, AGENT_SAMPLE))
async def test_an_agent_killed_at_any_step_loses_nothing(platform: Platform, point: str) -> None:
    verb = point.partition(".")[0]
    async with platform.client() as api:
        bystander, kept = await filled(api)
        sandbox_id, seen = await filled(api)
        if verb == "resume":
            assert (await api.post(f"/v1/sandboxes/{sandbox_id}/pause")).status_code == 200
        platform.arm("agent", f"agent.{point}=kill")
        calling = asyncio.create_task(call(api, verb, sandbox_id))
        await platform.wait_killed("agent")
        platform.start("agent")
        await calling
        await platform.wait_ready()
        await platform.settled()
        await assert_usable(api, sandbox_id, seen)
        await assert_usable(api, bystander, kept)
        await clean_up(platform, api)


@pytest.mark.parametrize("point", points(CONTROL, CONTROL_SAMPLE))
async def test_a_control_plane_killed_at_any_step_loses_nothing(platform: Platform, point: str) -> None:
    verb = point.partition(".")[0]
    async with platform.client() as api:
        sandbox_id, seen = await filled(api)
        if verb == "resume":
            assert (await api.post(f"/v1/sandboxes/{sandbox_id}/pause")).status_code == 200
        platform.arm("control", f"control.{point}=kill")
        calling = asyncio.create_task(call(api, verb, sandbox_id))
        await platform.wait_killed("control")
        platform.start("control")
        await calling
        await platform.wait_ready()
        await platform.settled()
        await assert_usable(api, sandbox_id, seen)
        await clean_up(platform, api)


@pytest.mark.parametrize("point", points(VMM, VMM_SAMPLE))
async def test_a_vmm_killed_at_any_step_leaves_what_was_saved_last(platform: Platform, point: str) -> None:
    async with platform.client() as api:
        sandbox_id, seen = await filled(api, paused_once=True)
        await kill_during(platform, api, point, sandbox_id, *MONITORS)
        await platform.settled()
        await assert_usable(api, sandbox_id, seen)
        await clean_up(platform, api)


@pytest.mark.parametrize("point", points(COPIES, {"create.after_spawn"}))
async def test_a_vmm_killed_during_a_fork_leaves_the_sandbox_and_no_part_of_a_copy(
    platform: Platform, point: str
) -> None:
    async with platform.client() as api:
        sandbox_id, seen = await filled(api, paused_once=True)
        async with platform.held("agent", f"agent.{point}") as reached:
            calling = asyncio.create_task(call(api, "fork", sandbox_id))
            await reached
            # Of the sandbox, or of its copies.
            names = [sandbox_id] if point.startswith("snapshot") else copies(platform, sandbox_id)
            kill([pid for name in names for pid in processes_of(platform, name, *MONITORS)])
        await calling
        await assert_usable(api, sandbox_id, seen)
        await clean_up(platform, api)


async def kill_during(
    platform: Platform, api: httpx2.AsyncClient, point: str, sandbox_id: str, *programs: str
) -> None:
    """Carry out the verb of a step, and kill these of the sandbox's processes when it is reached."""
    verb = point.partition(".")[0]
    if verb == "resume":
        assert (await api.post(f"/v1/sandboxes/{sandbox_id}/pause")).status_code == 200
    async with platform.held("agent", f"agent.{point}") as reached:
        calling = asyncio.create_task(call(api, verb, sandbox_id))
        await reached
        kill(processes_of(platform, sandbox_id, *programs))
    await calling


def processes_of(platform: Platform, sandbox_id: str, *programs: str) -> list[int]:
    """Those of a sandbox's processes that run these programs. It may have no journal of them yet, but it has a cgroup."""
    found = cgroups.members(platform.layout.cgroup(sandbox_id))
    return [pid for pid in found if Path(f"/proc/{pid}/comm").read_text().strip() in programs]


def copies(platform: Platform, sandbox_id: str) -> list[str]:
    """The other sandboxes that have processes."""
    return [name for name in cgroups.children(platform.layout.cgroup_root) if name != sandbox_id]


def kill(pids: list[int]) -> None:
    assert pids, "there is nothing to kill"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def test_a_vmm_killed_in_its_first_pause_is_an_error_with_its_reason(platform: Platform) -> None:
    async with platform.client() as api:
        sandbox_id, _ = await filled(api)
        async with platform.held("agent", "agent.pause.after_freeze") as reached:
            calling = asyncio.create_task(call(api, "pause", sandbox_id))
            await reached
            kill(processes_of(platform, sandbox_id, *MONITORS))
        answer = await calling
        assert answer is not None
        assert answer.status_code >= 500
        await wait_status(api, sandbox_id, "error")
        row = (await api.get(f"/v1/sandboxes/{sandbox_id}")).json()
        assert "ended" in row["metadata"]["reason"]
        await clean_up(platform, api)


async def test_postgresql_killed_during_pauses_and_resumes_loses_nothing(platform: Platform) -> None:
    async with platform.client() as api:
        pausing, seen = await filled(api)
        resuming, held = await filled(api)
        assert (await api.post(f"/v1/sandboxes/{resuming}/pause")).status_code == 200
        calls = [
            asyncio.create_task(call(api, "pause", pausing)),
            asyncio.create_task(call(api, "resume", resuming)),
        ]
        await asyncio.sleep(0.05)
        postmaster = int((platform.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
        await asyncio.sleep(0.2)
        await platform.start_database()
        await asyncio.gather(*calls)
        await platform.settled()
        await assert_usable(api, pausing, seen)
        await assert_usable(api, resuming, held)
        await clean_up(platform, api)


async def test_everything_killed_during_a_pause_comes_back(platform: Platform) -> None:
    async with platform.client() as api:
        sandbox_id, seen = await filled(api)
        platform.arm("agent", "agent.pause.after_memory=sleep:10")
        calling = asyncio.create_task(call(api, "pause", sandbox_id))
        await asyncio.sleep(1)
        os.kill(
            int((platform.data_dir / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL
        )
        await asyncio.gather(platform.kill("agent"), platform.kill("control"))
        await calling
        await platform.start_database()
        platform.start("agent")
        platform.start("control")
        await platform.wait_ready()
        await platform.settled()
        await assert_usable(api, sandbox_id, seen)
        await clean_up(platform, api)
