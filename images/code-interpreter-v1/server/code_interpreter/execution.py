"""One run of code in a context: what the kernel reports, as lines, within limits."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from code_interpreter import results, variables
from code_interpreter.contexts import Context

_log = logging.getLogger(__name__)

_OUTPUT_LIMIT_B = 64 << 20
"""Of the lines of one run; what exceeds it is left out, with a note."""
_CHARACTER_B = 12
_POLL_S = 1.0
"""A kernel that says nothing for so long is looked at: it may have died."""
_INTERRUPT_EVERY_S = 2.0
_INTERRUPTS = 15
"""A kernel that does not react to so many is replaced: code would never run in it again."""
_END = {"type": "end_of_execution"}


class Execution:
    """Runs code and yields the lines; must be closed with `abandon` if they are not read to the end."""

    def __init__(self, context: Context, code: str, call_variables: dict[str, str]) -> None:
        self._context = context
        self._code = code
        self._call_variables = call_variables
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._spent_b = 0
        self._left_out = False
        self._task: asyncio.Task[None] | None = None
        self._abandoned = asyncio.Event()

    def begin(self) -> None:
        """Begin, as soon as the context is free."""
        self._task = asyncio.create_task(self._run(), name=f"execution in {self._context.id}")

    async def lines(self, *, silence_s: float) -> AsyncIterator[bytes]:
        """Yield the lines, and a `keepalive` after each silence of so many seconds."""
        while True:
            try:
                line = await asyncio.wait_for(self._lines.get(), silence_s)
            except (TimeoutError, asyncio.TimeoutError):  # noqa: UP041 - two classes before Python 3.11
                yield _encoded({"type": "keepalive"})
                continue
            if line is None:
                return
            yield line

    def abandon(self) -> None:
        """Nobody reads the lines any more: interrupt the code, or never begin it."""
        self._abandoned.set()

    def _put(self, line: dict[str, Any]) -> None:
        encoded = _encoded(line)
        if self._abandoned.is_set():
            return
        if self._spent_b + len(encoded) > _OUTPUT_LIMIT_B:
            if not self._left_out:
                self._left_out = True
                self._put_beginning(line)
                text = f"[output of more than {_OUTPUT_LIMIT_B >> 20} MiB was left out]\n"
                self._lines.put_nowait(_encoded({"type": "stderr", "text": text, "timestamp": None}))
            return
        self._spent_b += len(encoded)
        self._lines.put_nowait(encoded)

    def _put_beginning(self, line: dict[str, Any]) -> None:
        """Put as much of a text as the limit allows, if each character takes as much as the longest do in JSON."""
        if line["type"] in ("stdout", "stderr"):
            text = line["text"][: (_OUTPUT_LIMIT_B - self._spent_b) // _CHARACTER_B]
            self._lines.put_nowait(_encoded({**line, "text": text}))
        self._spent_b = _OUTPUT_LIMIT_B

    async def _run(self) -> None:
        try:
            async with self._context.lock:
                if not self._abandoned.is_set():
                    await self._run_alone()
        except Exception as failure:  # noqa: BLE001 - the client is told whatever it is
            _log.exception("execution failed")
            self._lines.put_nowait(_encoded(results.error(type(failure).__name__, str(failure))))
        finally:
            self._lines.put_nowait(_encoded(_END))
            self._lines.put_nowait(None)

    async def _run_alone(self) -> None:
        context = self._context
        if not await context.is_alive():
            await context.restart()
        if context.ended:
            self._put(results.error("ContextRestarting", "Context was removed"))
            return
        if not await self._request():
            # The kernel had just died, and nobody knew yet.
            await context.restart()
            await self._request()
        # A kernel that died in the run is replaced now rather than at the next one, which then need not wait.
        if not context.ended and not await context.is_alive():
            await context.restart()

    async def _request(self) -> bool:
        """Have the kernel run the code, and report it to the end; returns whether the kernel has begun."""
        context = self._context
        restarts, client = context.restarts, context.client
        content = {
            "code": self._code, "silent": False, "store_history": True, "user_expressions": {},
            "allow_stdin": False, "stop_on_error": True,
        }  # fmt: skip
        metadata = {
            variables.SANDBOX_KEY: variables.of_sandbox(),
            variables.CALL_KEY: self._call_variables,
        }
        request = client.session.msg("execute_request", content, metadata=metadata)
        client.shell_channel.send(request)
        interrupter = asyncio.create_task(self._interrupt_when_abandoned())
        try:
            return await self._report(client, request["header"]["msg_id"], restarts)
        finally:
            interrupter.cancel()

    async def _report(self, client: Any, request_id: str, restarts: int) -> bool:
        """Pass on what belongs to the request until the kernel is idle again, or is another one.

        Returns False if the kernel died before it had begun.
        """
        has_begun = False
        while True:
            if self._context.restarts != restarts:
                self._put(results.error("ContextRestarting", "Context was restarted"))
                return True
            message = await self._next_message(client, restarts)
            if message is None:
                if self._context.restarts == restarts and not await self._context.is_alive():
                    if has_begun:
                        text = "Context was restarted: its process has ended"
                        self._put(results.error("ContextRestarting", text))
                    return has_begun
                continue
            if message["parent_header"].get("msg_id") != request_id:
                continue
            has_begun = True
            if message["msg_type"] == "status":
                if message["content"]["execution_state"] == "idle":
                    return True
                continue
            line = results.line_of(message)
            if line is not None:
                self._put(line)

    async def _next_message(self, client: Any, restarts: int) -> Any:
        """Return the next message; None if there was none for a while, or the channels were closed by a restart."""
        try:
            return await client.get_iopub_msg(timeout=_POLL_S)
        except asyncio.CancelledError:
            # Channels that are closed cancel those who wait for them.
            if self._context.restarts == restarts:
                raise
            return None
        except Exception:  # noqa: BLE001 - channels in the course of being closed raise various ones
            return None

    async def _interrupt_when_abandoned(self) -> None:
        await self._abandoned.wait()
        for _ in range(_INTERRUPTS):
            await self._context.interrupt()
            await asyncio.sleep(_INTERRUPT_EVERY_S)
        await self._context.restart()


def _encoded(line: dict[str, Any]) -> bytes:
    return json.dumps(line, default=str).encode() + b"\n"
