"""Lines of the code interpreter's answer, used by both clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from wrenn.sdk._parse import json_of
from wrenn.sdk.errors import UnexpectedAnswerError
from wrenn.sdk.types import CodeContext, CodeError, CodeExecution, CodeResult

PORT: Final = 49_999
_ANSWER_LIMIT_B: Final = 80 * 1024 * 1024
_LINES_LIMIT: Final = 200_000
"""A code interpreter sends 64 MiB at most; a program in the sandbox that takes its place may send anything."""


class Lines:
    """Splits a byte stream into objects, one JSON object a line."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._received_b = 0
        self._lines = 0

    def feed(self, piece: bytes) -> Iterator[dict[str, object]]:
        """Parse more bytes and yield the objects that are complete.

        Raises:
            UnexpectedAnswerError: this is not the answer of a code interpreter.
        """
        self._received_b += len(piece)
        if self._received_b > _ANSWER_LIMIT_B:
            raise UnexpectedAnswerError("The answer of the code interpreter is too long.")
        *ends, rest = piece.split(b"\n")
        for end in ends:
            line = b"".join((*self._line, end))
            self._line = []
            self._lines += 1
            if self._lines > _LINES_LIMIT:
                raise UnexpectedAnswerError("The answer of the code interpreter has too many lines.")
            if line.strip():
                yield _object(json_of(line))
        self._line.append(rest)


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UnexpectedAnswerError("The code interpreter answered with something else than JSON objects.")
    return cast(dict[str, object], value)


class Collected:
    """What a run of code has reported so far."""

    def __init__(self) -> None:
        self._results: list[CodeResult] = []
        self._stdout: list[str] = []
        self._stderr: list[str] = []
        self._error: CodeError | None = None
        self._count: int | None = None
        self.is_complete = False

    def add(self, line: dict[str, object]) -> tuple[str, str] | CodeResult | None:
        """Take a line; returns output as stream and text, a result, or None for anything else."""
        match line.get("type"):
            case "stdout":
                self._stdout.append(str(line.get("text", "")))
                return "stdout", self._stdout[-1]
            case "stderr":
                self._stderr.append(str(line.get("text", "")))
                return "stderr", self._stderr[-1]
            case "result":
                result = _result(line)
                self._results.append(result)
                return result
            case "error":
                self._error = CodeError(*(str(line.get(name, "")) for name in ("name", "value", "traceback")))
            case "number_of_executions":
                count = line.get("execution_count")
                self._count = count if isinstance(count, int) else None
            case "end_of_execution":
                self.is_complete = True
            case _:
                pass
        return None

    def execution(self) -> CodeExecution:
        """Return all of it."""
        return CodeExecution(
            tuple(self._results), "".join(self._stdout), "".join(self._stderr), self._error, self._count
        )


def _result(line: dict[str, object]) -> CodeResult:
    extra = line.get("extra")
    formats = {
        name: value
        for name, value in line.items()
        if name not in ("type", "is_main_result", "extra") and value is not None
    }
    return CodeResult(
        formats | (cast(dict[str, object], extra) if isinstance(extra, dict) else {}),
        is_main=line.get("is_main_result") is True,
    )


def context_of(value: object) -> CodeContext:
    """Parse a context. Raises UnexpectedAnswerError."""
    fields = _object(value)
    return CodeContext(*(str(fields.get(name, "")) for name in ("id", "language", "cwd")))


def contexts_of(body: bytes) -> list[CodeContext]:
    """Parse a list of contexts. Raises UnexpectedAnswerError."""
    found = json_of(body)
    if not isinstance(found, list):
        raise UnexpectedAnswerError("The code interpreter answered with something else than a list.")
    return [context_of(each) for each in cast(list[object], found)]
