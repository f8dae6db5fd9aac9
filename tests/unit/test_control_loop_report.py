"""What the background loops did last reaches `wrenn status`."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

from wrenn.base.loops import Loop
from wrenn.cli.status import Status, loops_in_words, read_loops
from wrenn.control.loop_report import FILE, LoopReport


async def _reported(folder: Path, *loops: Loop) -> None:
    report = LoopReport(folder, loops)
    running = asyncio.create_task(report.run())
    async with asyncio.timeout(10):
        while not (folder / FILE).exists():
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})


def _status(folder: Path) -> Status:
    return Status(
        data_dir=str(folder),
        url=None,
        cli_version="1",
        platform_version=None,
        programs={},
        accelerator=None,
        sandboxes=None,
        paused=None,
        disk_free_mb=None,
        loops=read_loops(folder),
    )


async def test_a_loop_that_fails_is_named_with_its_error(tmp_path: Path) -> None:
    async def fail() -> None:
        raise ValueError("no answer")

    async def succeed() -> None:
        pass

    failing, fine = Loop("look at hosts"), Loop("read events")
    await failing.attempt(fail, otherwise=None)
    await fine.attempt(succeed, otherwise=None)
    await _reported(tmp_path, failing, fine)
    assert loops_in_words(_status(tmp_path)) == "look at hosts fails: no answer"
    assert [(loop.name, loop.failures) for loop in read_loops(tmp_path)] == [
        ("look at hosts", 1),
        ("read events", 0),
    ]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


async def test_loops_that_all_run_are_counted(tmp_path: Path) -> None:
    await _reported(tmp_path, Loop("look at hosts"), Loop("read events"))
    assert loops_in_words(_status(tmp_path)) == "2 run"


async def test_without_a_report_that_can_be_read_nothing_is_known_of_loops(tmp_path: Path) -> None:
    assert loops_in_words(_status(tmp_path)) == "unknown"
    (tmp_path / FILE).write_text('[{"name": "of another version", "unknown": 1}]')
    assert loops_in_words(_status(tmp_path)) == "unknown"
