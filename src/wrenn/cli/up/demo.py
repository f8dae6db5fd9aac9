"""The demonstration: create a sandbox, run a program in it, remove it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from wrenn.cli.settings import read_env
from wrenn.cli.up.layout import Layout
from wrenn.sdk import Sandbox

PROGRAM: Final = """\
import os, platform
print(f"Hello from Python {platform.python_version()} on Linux {platform.release()}, host name {platform.node()}.")
a, b = 0, 1
for _ in range(90):
    a, b = b, a + b
print(f"The 90th Fibonacci number is {a}; I am process {os.getpid()} in a machine of my own.")
"""


def demonstrate(layout: Layout) -> None:
    """Run the demonstration and print each step with its duration."""
    credentials = read_env(layout.env)
    url, key = credentials["WRENN_BASE_URL"], credentials["WRENN_API_KEY"]
    with _timed("create a sandbox"):
        sandbox = Sandbox.create(base_url=url, api_key=key, request_timeout_s=120)
    try:
        with _timed("write a Python program into it"):
            sandbox.files.write("/root/hello.py", PROGRAM)
        with _timed("run it"):
            result = sandbox.commands.run(["python3", "/root/hello.py"], check=True)
        for line in result.stdout.splitlines():
            _say(f"      │ {line}")
    finally:
        with _timed("remove the sandbox"):
            sandbox.kill()


def print_next_steps(layout: Layout, url: str, sign_in_link: str | None) -> None:
    """Print the locations of files, and three commands to try. The key itself is not printed."""
    _say(f"\nThe platform runs at {url} (API description: {url}/docs).")
    if sign_in_link is not None:
        _say(
            "\nOpen the dashboard with this link. It works once, for ten minutes; `wrenn open` makes another:"
        )
        _say(f"  {sign_in_link}\n")
    else:
        _say("`wrenn open` opens the dashboard and signs you in.")
    _say(f"The API key is in {layout.env}, readable by its owner only.")
    command = "wrenn" if shutil.which("wrenn") else sys.argv[0]
    _say("\nTry:")
    _say(f"  . {layout.env} && id=$({command} create)")
    _say(f"  {command} exec \"$id\" 'uname -a; id'")
    _say(f'  {command} rm "$id"')


@contextmanager
def _timed(what: str) -> Generator[None]:
    started = time.monotonic()
    yield
    _say(f"  {(time.monotonic() - started) * 1000:6.0f} ms  {what}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
