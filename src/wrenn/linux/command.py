"""Runs a host command without a shell, with a deadline and a clean environment; it is always killed and reaped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from wrenn.base.errors import WrennError

_OUTPUT_LIMIT_B: Final = 16 * 1024 * 1024
_PIPE_TIMEOUT_S: Final = 1.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandError(WrennError):
    """A host command failed, is missing, or did not end in time. `context` has argv, exit code and the end of stderr."""

    code = "internal_error"


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> bytes:
    """Run `argv` and return its standard output.

    The environment contains only PATH, LANG=C.UTF-8 and `env`. On a timeout or cancellation the whole process
    group is killed and reaped before this returns.

    Raises:
        CommandError: not found, non-zero exit code, or no end within `timeout_s`.
    """
    name = Path(argv[0]).name
    # In a task of its own: if asyncio is cancelled while it connects the pipes, it waits forever.
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": _PATH, "LANG": "C.UTF-8", **(env or {})},
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
            limit=_OUTPUT_LIMIT_B,
        )
    )
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.shield(_end_unwanted(starting))
        raise
    except OSError as error:
        raise CommandError(
            f"The host command {name} could not be started.", context={"argv": list(argv)}
        ) from error
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate(stdin or None)
    except TimeoutError as error:
        raise CommandError(
            f"The host command {name} did not end within {timeout_s:.0f} s.", context={"argv": list(argv)}
        ) from error
    finally:
        if process.returncode is None:
            await asyncio.shield(_end(process))
    if process.returncode != 0:
        raise CommandError(
            f"The host command {name} failed with exit code {process.returncode}.",
            context={
                "argv": list(argv),
                "exit_code": process.returncode,
                "stderr": stderr[-4000:].decode(errors="replace"),
            },
        )
    return stdout


async def _end_unwanted(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    """Kill a process whose start was cancelled, once it has started."""
    with contextlib.suppress(OSError):  # the start failed
        await _end(await starting)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process group, reap the process and read its pipes to the end, which closes them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):  # a descendant in another session may still have them open
        async with asyncio.timeout(_PIPE_TIMEOUT_S):
            await process.communicate()
