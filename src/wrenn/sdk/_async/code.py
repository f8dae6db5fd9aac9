"""Code in the kernels of a sandbox of the template `code-interpreter-v1`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from wrenn.sdk._aio import Callback, invoke
from wrenn.sdk._async.api import AsyncApi
from wrenn.sdk._code import PORT, Collected, Lines, context_of, contexts_of
from wrenn.sdk._parse import json_of
from wrenn.sdk.errors import ConnectionFailedError, DeadlineExceededError, InvalidRequestError
from wrenn.sdk.types import CodeContext, CodeExecution

_SILENCE_S: Final = 30.0
"""The code interpreter says something every 5 s."""


class AsyncCode:
    """`sandbox.code`: runs code in Jupyter kernels. The sandbox must be of a template with a code interpreter."""

    def __init__(self, api: AsyncApi, sandbox_id: str) -> None:
        self._api = api
        # Requests with these headers go to that port of the sandbox, on whatever host name.
        self._headers = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(PORT)}

    async def run(
        self,
        code: str,
        *,
        language: str | None = None,
        context: CodeContext | str | None = None,
        envs: Mapping[str, str] | None = None,
        timeout_s: float | None = 300,
        on_stdout: Callback | None = None,
        on_stderr: Callback | None = None,
    ) -> CodeExecution:
        """Run code in a context, and return what it shows. An error of the code is in the result, and not raised.

        Args:
            code: its names stay for later runs in the same context.
            language: `python` (the default), `javascript`, `bash`, or another that the template has.
            context: where to run it, instead of the default context of the language.
            envs: environment variables for this run only.
            timeout_s: after this time, and at most 5 s later if it is silent, the code is interrupted; None for no limit.
            on_stdout: called with each piece of output as it arrives.
            on_stderr: the same for the error output.

        Raises:
            DeadlineExceededError: the code was interrupted at its time limit.
            InvalidRequestError: the language is not supported, or both language and context are given.
            NotFoundError: there is no such context.
            UnexpectedAnswerError: the sandbox gave another answer than a code interpreter does.
        """
        if language is not None and context is not None:
            raise InvalidRequestError("Give a language or a context, not both: a context has its language.")
        body = {
            "code": code,
            "language": language,
            "context_id": context.id if isinstance(context, CodeContext) else context,
            "env_vars": dict(envs or {}),
        }
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        collected, lines = Collected(), Lines()
        stream = await self._api.open(
            "POST", "/execute", headers=self._headers, json=body, silence_s=_SILENCE_S
        )
        try:
            async for piece in stream.chunks():
                for line in lines.feed(piece):
                    reported = collected.add(line)
                    if isinstance(reported, tuple):
                        callback = on_stdout if reported[0] == "stdout" else on_stderr
                        if callback is not None:
                            await invoke(callback, reported[1])
                if ends_at is not None and time.monotonic() > ends_at and not collected.is_complete:
                    raise DeadlineExceededError(
                        f"The code did not end within {timeout_s} s and was interrupted."
                    )
        finally:
            # The code interpreter interrupts code that nobody waits for.
            await stream.close()
        if not collected.is_complete:
            raise ConnectionFailedError(
                "The answer of the code interpreter ended in the middle.", request_sent=True
            )
        return collected.execution()

    async def create_context(self, *, language: str = "python", cwd: str | None = None) -> CodeContext:
        """Start a context: a kernel with a state of its own."""
        body = {"language": language, "cwd": cwd}
        return context_of(json_of(await self._call("POST", "/contexts", body)))

    async def list_contexts(self) -> list[CodeContext]:
        """Return all contexts, oldest first."""
        return contexts_of(await self._call("GET", "/contexts"))

    async def restart_context(self, context: CodeContext | str) -> None:
        """Give a context a new kernel, with nothing of its state."""
        await self._call("POST", f"{_path(context)}/restart")

    async def remove_context(self, context: CodeContext | str) -> None:
        """End a context."""
        await self._call("DELETE", _path(context))

    async def _call(self, method: str, path: str, body: object = None) -> bytes:
        return await self._api.ask_port(method, path, headers=self._headers, json=body)


def _path(context: CodeContext | str) -> str:
    context_id = context.id if isinstance(context, CodeContext) else context
    if context_id.strip() in ("", ".", ".."):
        raise InvalidRequestError("The id of the context is empty or not valid.")
    return f"/contexts/{quote(context_id, safe='')}"
