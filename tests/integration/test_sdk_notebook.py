"""The SDK in a notebook: both clients in cells that run, one after the other, inside the kernel's running loop."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE

from .conftest import Platform

KERNEL = """
import ast, asyncio, inspect, sys

async def kernel(cells):
    namespace = {}
    for cell in cells:
        # As IPython runs a cell: await is allowed at its top, and the loop runs already.
        code = compile(cell, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, namespace)
        if inspect.iscoroutine(running):
            await running

asyncio.run(kernel(sys.argv[1:]))
"""
CELLS = [
    "from wrenn import AsyncSandbox, Sandbox\nbox = Sandbox.create()",
    "box.files.write('/tmp/x', 'written')\nprint(box.files.read('/tmp/x'))",
    "_ = box.commands.run('echo streamed', on_stdout=lambda text: print(text, end=''))",
    "other = await AsyncSandbox.create()",
    "print((await other.commands.run('echo awaited')).stdout, end='')",
    "async with await other.commands.stream('echo followed') as process:\n"
    "    async for piece in process:\n        print(piece.text, end='')",
    "await other.kill()\nbox.kill()\nprint('ended')",
]


async def test_both_clients_work_in_the_cells_of_a_notebook(platform: Platform):
    environment = {
        **os.environ, "WRENN_BASE_URL": platform.url, "WRENN_API_KEY": platform.key.reveal()
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", KERNEL, *CELLS, stdout=PIPE, stderr=PIPE, env=environment
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode().split() == ["written", "streamed", "awaited", "followed", "ended"]
