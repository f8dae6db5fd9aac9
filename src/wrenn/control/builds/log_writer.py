"""Writes the log of a build: output is bounded, decoded, and stored in pieces."""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections.abc import Mapping
from typing import Any, Final

from wrenn.base.errors import WrennError
from wrenn.base.ids import BuildId
from wrenn.base.units import KIB, MIB
from wrenn.control.builds import store
from wrenn.control.builds.records import LogKind
from wrenn.control.db import Database
from wrenn.control.hosts import Kind

_log = logging.getLogger(__name__)

_STEP_LIMIT_B: Final = 1 * MIB
_BUILD_LIMIT_B: Final = 16 * MIB
_ENTRY_B: Final = 200
"""What an entry counts beside its text."""
_PIECE_B: Final = 64 * KIB
_FLUSH_S: Final = 0.3


class LogWriter:
    """The log of one attempt. Output beyond 1 MiB of a step or 16 MiB of the build is left out, and the log says so."""

    def __init__(self, database: Database, build_id: BuildId, attempt: int) -> None:
        self._database = database
        self._build_id = build_id
        self._attempt = attempt
        self._waiting: list[tuple[int, LogKind, Mapping[str, Any]]] = []
        self._step = 0
        self._left_of_build_b = _BUILD_LIMIT_B
        self._left_of_step_b = 0
        self._decoders: dict[LogKind, codecs.IncrementalDecoder] = {}
        self._lock = asyncio.Lock()

    def begin(self, step: int, *, phase: str, command: str) -> None:
        """Begin a step."""
        self._step = step
        self._left_of_step_b = _STEP_LIMIT_B
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {LogKind.STDOUT: decoder("replace"), LogKind.STDERR: decoder("replace")}
        self._add(LogKind.STEP, {"phase": phase, "cmd": command})

    def output(self, kind: Kind, data: bytes) -> None:
        """Add output of the step's program."""
        stream = LogKind.STDERR if kind is Kind.STDERR else LogKind.STDOUT
        left_b = min(self._left_of_step_b, self._left_of_build_b)
        if left_b <= 0:
            return
        self._left_of_step_b -= len(data)
        self._left_of_build_b -= len(data)
        # PostgreSQL's JSON holds no NUL.
        text = self._decoders[stream].decode(data[:left_b]).replace("\0", "�")
        if text:
            self._append(stream, text)
        if min(self._left_of_step_b, self._left_of_build_b) <= 0:
            self.note("The step wrote more than is kept of it; the rest of its output is left out.")

    def _append(self, stream: LogKind, text: str) -> None:
        if self._waiting:
            step, kind, last = self._waiting[-1]
            if (step, kind) == (self._step, stream) and len(last["text"]) < _PIECE_B:
                self._waiting[-1] = (step, kind, {"text": last["text"] + text})
                return
        self._add(stream, {"text": text})

    def note(self, text: str) -> None:
        """Add a remark of the worker."""
        self._add(LogKind.NOTE, {"text": text})

    def end(self, *, ok: bool, exit_code: int | None, elapsed_ms: int, cached: bool = False) -> None:
        """End the step."""
        self._add(LogKind.END, {"ok": ok, "exit": exit_code, "elapsed_ms": elapsed_ms, "cached": cached})

    def _add(self, kind: LogKind, data: Mapping[str, Any]) -> None:
        # Each entry is a row, however short.
        self._left_of_step_b -= _ENTRY_B
        self._left_of_build_b -= _ENTRY_B
        self._waiting.append((self._step, kind, data))

    async def flush(self) -> None:
        """Store what was added. While the database does not answer it is kept, within the limits of the log."""
        async with self._lock:
            waiting, self._waiting = self._waiting, []
            try:
                await store.append_log(self._database, self._build_id, self._attempt, waiting)
            except WrennError as error:
                self._waiting = waiting + self._waiting
                _log.warning(
                    "log of a build not stored yet",
                    extra={"build_id": str(self._build_id), "cause": error.message},
                )

    async def run(self) -> None:
        """Store what is added, at an interval, until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            await self.flush()
