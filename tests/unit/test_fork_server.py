"""How a program that was forked ends: as the interpreter ends one."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

import pytest


def run(program: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a program whose function `main` runs as a forked one's does."""
    source = f"{dedent(program)}\nfrom wrenn.testing.fork_server import _run_and_exit as run\nrun(main)\nprint('on')"
    # Without a buffer nothing is left to be written at the end.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("ending", "code", "errors"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(-1)", 255, ""),
        ("sys.exit('no such file')", 1, "no such file\n"),
    ],
)
def test_its_exit_code_is_the_interpreters(ending: str, code: int, errors: str):
    assert run(f"import sys\ndef main():\n  print('ran')\n  {ending}") == (code, "ran\n", errors)


def test_an_exception_is_shown():
    code, output, errors = run("def main():\n  raise ValueError('wrong')")
    assert (code, output) == (1, "")
    assert errors.endswith("ValueError: wrong\n")


def test_threads_are_awaited_and_functions_of_the_end_are_called_after_them():
    program = """
        import atexit, concurrent.futures, threading, time

        def main():
            atexit.register(print, "end")
            threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
            pool = concurrent.futures.ThreadPoolExecutor()
            pool.submit(lambda: (time.sleep(0.6), print("pool")))
    """
    assert run(program) == (0, "thread\npool\nend\n", "")


def test_output_that_is_lost_is_an_error():
    code, _, _ = run(
        "import os, sys\ndef main():\n  print('x')\n  os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
    )
    assert code != 0
