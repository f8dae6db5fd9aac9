"""Work in threads that a cancellation does not leave behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from wrenn.linux import threads


async def test_a_cancellation_is_raised_when_the_work_has_ended_and_its_result_is_dropped() -> None:
    began, go_on = threading.Event(), threading.Event()
    dropped: list[int] = []

    def work() -> int:
        began.set()
        assert go_on.wait(10)
        return 7

    task = asyncio.create_task(threads.run_to_end(work, drop=dropped.append))
    await asyncio.to_thread(began.wait, 10)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert dropped == [7]


async def test_the_result_and_the_error_of_the_work_are_its_callers() -> None:
    def fail() -> None:
        raise ValueError("no")

    assert await threads.run_to_end(lambda: 3) == 3
    with pytest.raises(ValueError, match="no"):
        await threads.run_to_end(fail)


async def test_memory_that_is_written_for_minutes_holds_up_neither_other_work_nor_the_watch_of_the_disk() -> (
    None
):
    go_on = threading.Event()
    writing = [
        asyncio.create_task(threads.run_to_end(lambda: go_on.wait(30), pool=threads.SAVING))
        for _ in range(64)
    ]
    try:
        async with asyncio.timeout(10):
            assert await threads.run_to_end(lambda: 3) == 3
            assert await threads.run_to_end(lambda: 4, pool=threads.DISK_WATCH) == 4
    finally:
        go_on.set()
    assert all(await asyncio.gather(*writing))


PROGRAM = """
import asyncio, threading, uvloop
from wrenn.linux import syscalls
from wrenn.linux.threads import start_in_own_thread

ended = False

def copy_and_close():
    syscalls.copy_descriptors()
    syscalls.close_all_but({0, 1, 2})

def copy_descriptors_on_and_on():
    while not ended:
        start_in_own_thread(copy_and_close).result()

async def start_processes():
    global ended
    copying = threading.Thread(target=copy_descriptors_on_and_on)
    copying.start()
    for _ in range(100):
        process = await asyncio.create_subprocess_exec("/bin/true")
        await process.wait()
    ended = True

uvloop.run(start_processes())
"""


def test_threads_with_descriptors_of_their_own_do_not_hold_up_the_start_of_a_process() -> None:
    """uvloop waits for the end of a pipe with the interpreter's lock held; about 1 s, and for ever if a thread has a copy of it."""
    subprocess.run([sys.executable, "-c", PROGRAM], timeout=60, check=True)
