"""A program that hangs says where, and one whose end hangs ends all the same."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

_PROGRAM = """
import asyncio, sys, time
from wrenn.base.stack_dumps import dump_stacks_on_signal, limit_end

async def wait_for_nothing():
    await asyncio.Event().wait()

async def main():
    dump_stacks_on_signal()
    waiting = asyncio.create_task(wait_for_nothing())
    await asyncio.sleep(0)
    print("ready", flush=True)
    if sys.argv[1] == "blocked":
        time.sleep(60)
    if sys.argv[1] == "end":
        limit_end(0.2)
    await waiting

asyncio.run(main())
"""


def run(how: str, *, signals: bool) -> tuple[int, str]:
    """Exit code and standard error of the program, which is killed after the signal."""
    command = [sys.executable, "-c", textwrap.dedent(_PROGRAM), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if signals:
            process.send_signal(signal.SIGUSR1)
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                process.kill()
        _, errors = process.communicate(timeout=20)
    return process.returncode, errors


def test_tasks_and_threads_are_shown_and_the_program_goes_on() -> None:
    code, errors = run("waits", signals=True)
    assert code == -signal.SIGKILL, "it went on until it was killed"
    assert "in wait_for_nothing" in errors
    assert "most recent call first" in errors


def test_threads_are_shown_while_the_event_loop_stands_still() -> None:
    code, errors = run("blocked", signals=True)
    assert code == -signal.SIGKILL
    assert "in main" in errors


def test_an_end_that_hangs_is_cut_off() -> None:
    code, errors = run("end", signals=False)
    assert code == 1
    assert "Timeout" in errors
