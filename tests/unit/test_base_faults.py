"""Fault points: silent until armed."""

from __future__ import annotations

import asyncio
import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wrenn.base.faults import FaultInjected, arm_faults, fault_point


async def test_an_unarmed_point_does_nothing() -> None:
    arm_faults("elsewhere=error")
    await fault_point("here")


async def test_an_armed_point_raises_what_was_asked_for() -> None:
    arm_faults("a=error,b=enospc")
    with pytest.raises(FaultInjected, match="a"):
        await fault_point("a")
    with pytest.raises(OSError) as caught:
        await fault_point("b")
    assert caught.value.errno == errno.ENOSPC


async def test_a_numbered_point_acts_only_at_that_pass() -> None:
    arm_faults("a#2=error")
    await fault_point("a")
    with pytest.raises(FaultInjected):
        await fault_point("a")
    await fault_point("a")


async def test_a_file_arms_points_of_a_program_that_runs(tmp_path: Path) -> None:
    armed = tmp_path / "armed"
    armed.write_text("")
    arm_faults(f"@{armed}")
    await fault_point("a")
    armed.write_text("a=error")
    with pytest.raises(FaultInjected):
        await fault_point("a")
    armed.write_text("")
    await fault_point("a")


async def test_a_held_point_shows_that_it_is_reached_and_waits(tmp_path: Path) -> None:
    held = tmp_path / "held"
    arm_faults(f"a=hold:{held}")
    waiting = asyncio.create_task(fault_point("a"))
    async with asyncio.timeout(10):
        while not held.exists():
            await asyncio.sleep(0)
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    held.unlink()
    async with asyncio.timeout(10):
        await waiting


async def test_a_misspelt_action_is_an_error() -> None:
    arm_faults("a=explode")
    with pytest.raises(ValueError, match="explode"):
        await fault_point("a")


def test_kill_ends_the_process_at_once() -> None:
    program = (
        "import asyncio\n"
        "from wrenn.base.faults import arm_faults, fault_point\n"
        "arm_faults('a=kill')\n"
        "try: asyncio.run(fault_point('a'))\n"
        "finally: print('cleaned up')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")
