"""A sandbox does not outlive a client that was killed, and one that somebody paused is kept."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, update

from wrenn import AsyncSandbox, Sandbox
from wrenn.base.ids import SandboxId
from wrenn.base.secrets import Secret
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.sdk._lease import LIFETIME_S, Lease
from wrenn.sdk.settings import ClientSettings

from .conftest import DEADLINE_S, Platform
from .typed_commands import command, environment

SYNC = """
import sys
from wrenn import Sandbox
with Sandbox.create() as sandbox:
    print(sandbox.id, flush=True)
    sys.stdin.read()
"""
ASYNC = """
import asyncio, sys
from wrenn import AsyncSandbox
async def main():
    async with await AsyncSandbox.create() as sandbox:
        print(sandbox.id, flush=True)
        sys.stdin.read()
asyncio.run(main())
"""
WITHOUT_BLOCK = "from wrenn import Sandbox; Sandbox.create()"
PAUSES = """
import sys
from wrenn import Sandbox
with Sandbox.create() as sandbox:
    sandbox.pause()
    print(sandbox.id, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def credentials(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRENN_BASE_URL", platform.url)
    monkeypatch.setenv("WRENN_API_KEY", platform.key.reveal())


async def info(platform: Platform, sandbox_id: str) -> dict[str, object]:
    return (await platform.api.get(f"/v1/sandboxes/{sandbox_id}")).json()


def left_s(found: dict[str, object]) -> float:
    """Until the end of its lifetime."""
    return (datetime.fromisoformat(str(found["expires_at"])) - datetime.now(UTC)).total_seconds()


async def pass_lifetime(platform: Platform, sandbox_id: str) -> None:
    """As if its lifetime had passed, where it has one."""
    passed = (
        update(sandboxes)
        .where(sandboxes.c.id == SandboxId.parse(sandbox_id).value, sandboxes.c.expires_at.is_not(None))
        .values(expires_at=func.now(), due_at=func.now())
    )
    await platform.control.database.execute(passed)
    platform.control.reconciler.wake()


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not done():
            await asyncio.sleep(0.02)


async def killed_after_first_line(platform: Platform, *argv: str) -> str:
    """The first line of the program's output. It is killed then, like a machine that loses its power."""
    process = await asyncio.create_subprocess_exec(
        *argv, env=environment(platform), stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(4 * DEADLINE_S):
            line = await process.stdout.readline()
    finally:
        process.kill()
        await process.communicate()
    return line.decode().strip()


@pytest.mark.parametrize("program", [SYNC, ASYNC], ids=["sync", "async"])
async def test_a_killed_program_leaves_no_sandbox_behind(platform: Platform, program: str) -> None:
    box = await killed_after_first_line(platform, sys.executable, "-c", program)
    found = await info(platform, box)
    assert (found["status"], found["on_expiry"]) == ("running", "kill")
    assert LIFETIME_S - DEADLINE_S < left_s(found) <= LIFETIME_S
    await pass_lifetime(platform, box)
    await platform.wait_status(f"/v1/sandboxes/{box}", "stopped")


async def test_a_killed_run_leaves_no_sandbox_behind(platform: Platform, tmp_path: Path) -> None:
    # The simulated host starts programs of this machine, whose paths are not those of the folder; so the program is
    # waited for while it is copied, by a pipe that has no end.
    os.mkfifo(tmp_path / "program.sh")
    process = await asyncio.create_subprocess_exec(
        *command("run", str(tmp_path / "program.sh")),
        env=environment(platform), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL,
    )  # fmt: skip
    writer = await asyncio.to_thread(os.open, tmp_path / "program.sh", os.O_WRONLY)
    try:
        os.write(writer, b"#!/bin/sh\n")
        await until(lambda: bool(platform.host.sandbox_ids))
        (box,) = platform.host.sandbox_ids
        found = await platform.wait_status(f"/v1/sandboxes/{box}", "running")
    finally:
        process.kill()
        await process.wait()
        os.close(writer)
    assert (found["on_expiry"], found["lift_on_pause"]) == ("kill", True)
    await pass_lifetime(platform, box)
    await platform.wait_status(f"/v1/sandboxes/{box}", "stopped")


@pytest.mark.parametrize("program", [SYNC, ASYNC, WITHOUT_BLOCK], ids=["sync", "async", "no block"])
async def test_a_program_killed_while_it_creates_leaves_no_sandbox_behind(
    platform: Platform, program: str
) -> None:
    answered = platform.host.switches.hold["ensure_sandbox"] = asyncio.Event()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment(platform), stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        await platform.host.wait_call("ensure_sandbox")
    finally:
        process.kill()
        await process.communicate()
        answered.set()
    await until(lambda: bool(platform.host.sandbox_ids))
    (box,) = platform.host.sandbox_ids
    found = await platform.wait_status(f"/v1/sandboxes/{box}", "running")
    assert found["on_expiry"] == "kill"
    assert left_s(found) <= LIFETIME_S
    await pass_lifetime(platform, box)
    await platform.wait_status(f"/v1/sandboxes/{box}", "stopped")


async def test_a_sandbox_that_was_created_without_a_block_has_no_end(platform: Platform) -> None:
    sandbox = await AsyncSandbox.create()
    found = await sandbox.info()
    assert (found.expires_at, found.on_expiry, found.lift_on_pause) == (None, "pause", False)
    log = (await platform.api.get("/v1/audit-logs")).json()
    assert "set_timeout" not in str(log)
    await sandbox.close()
    # What was asked for is not changed by the lifetime of the beginning.
    asked = await AsyncSandbox.create(on_expiry="kill", timeout_sec=50)
    found = await asked.info()
    assert (found.expires_at, found.on_expiry, found.timeout_sec) == (None, "kill", 50)
    await asked.close()


async def test_a_sandbox_that_was_paused_on_purpose_outlives_its_killed_program(platform: Platform) -> None:
    box = await killed_after_first_line(platform, sys.executable, "-c", PAUSES)
    await pass_lifetime(platform, box)
    await platform.control.reconciler.reconcile_once()
    found = await info(platform, box)
    assert (found["status"], found.get("expires_at")) == ("paused", None)
    assert (await platform.api.post(f"/v1/sandboxes/{box}/resume")).status_code == 200
    assert "expires_at" not in await info(platform, box)


async def test_a_pause_by_anybody_keeps_it_and_one_for_idleness_does_not(platform: Platform) -> None:
    lifetime = {"lifetime_sec": 600, "on_expiry": "kill", "lift_on_pause": True}
    kept, idle = await platform.create(**lifetime), await platform.create(**lifetime, timeout_sec=1)
    hard = await platform.create(**lifetime | {"lift_on_pause": False})
    for path in (kept, hard):
        assert (await platform.api.post(f"{path}/pause")).status_code == 200
    await platform.wait_status(idle, "paused")
    for path in (kept, idle, hard):
        await pass_lifetime(platform, path.rpartition("/")[2])
    for path in (idle, hard):
        await platform.wait_status(path, "stopped")
    assert (await platform.api.get(kept)).json()["status"] == "paused"


async def test_copies_do_not_have_a_lifetime_that_nobody_renews(platform: Platform) -> None:
    path = await platform.create(lifetime_sec=600, on_expiry="kill", lift_on_pause=True)
    (copy,) = (await platform.api.post(f"{path}/fork", json={})).json()["sandboxes"]
    assert "expires_at" not in copy


async def test_the_lifetime_is_extended_until_the_end_through_lost_connections(platform: Platform) -> None:
    path = await platform.create(lifetime_sec=60, on_expiry="kill", lift_on_pause=True)
    box = path.rpartition("/")[2]
    lease = Lease(ClientSettings(platform.key, platform.url, 60.0), box, renew_every_s=0.05)
    lease.start()
    async with asyncio.timeout(DEADLINE_S):
        while left_s(await info(platform, box)) < LIFETIME_S - DEADLINE_S:
            await asyncio.sleep(0.02)
    # Not a word of it in the audit log, where it would bury what people did.
    log = (await platform.api.get("/v1/audit-logs")).json()
    assert "set_timeout" not in str(log)
    # Somebody pauses it: not extended any more; it begins anew when the sandbox runs again.
    assert (await platform.api.post(f"{path}/pause")).status_code == 200
    assert "expires_at" not in await info(platform, box)
    assert (await platform.api.post(f"{path}/resume")).status_code == 200
    async with asyncio.timeout(DEADLINE_S):
        while "expires_at" not in await info(platform, box):
            await asyncio.sleep(0.02)
    # Somebody sets another limit: that counts.
    await platform.api.patch(f"{path}/timeout", json={"lifetime_sec": 3600})
    await asyncio.to_thread(lease.stop)
    assert left_s(await info(platform, box)) > LIFETIME_S
    assert not any(thread.name == "wrenn-lease" for thread in threading.enumerate())

    refused = Lease(ClientSettings(Secret("wrn_no"), "http://127.0.0.1:9", 60.0), box, renew_every_s=0.01)
    refused.start()
    refused.renew_soon()
    await asyncio.to_thread(refused.stop)
    assert not any(thread.name == "wrenn-lease" for thread in threading.enumerate())


async def test_the_end_of_a_block_ends_the_extending(platform: Platform) -> None:
    def use() -> None:
        with Sandbox.create() as sandbox:
            assert sandbox.info().lift_on_pause
            assert any(thread.name == "wrenn-lease" for thread in threading.enumerate())
        with Sandbox.create(lifetime_sec=3600) as own:
            # Its own limit counts.
            found = own.info()
            assert (found.lift_on_pause, found.on_expiry) == (False, "pause")
        kept = Sandbox.create()
        with kept:
            kept.pause()
        assert kept.info().expires_at is None
        kept.kill()

    await asyncio.to_thread(use)
    async with await AsyncSandbox.create() as sandbox:
        assert (await sandbox.info()).lift_on_pause
        await sandbox.set_timeout(lifetime_sec=3600)
        assert not (await sandbox.info()).lift_on_pause
    assert not any(thread.name == "wrenn-lease" for thread in threading.enumerate())
    assert (await platform.api.get("/v1/sandboxes")).json() == []
