"""Buffers for command output that nobody has read yet, with a memory limit at each level.

There is one `OutputBudget` for each process. A command, sandbox or team reaches its own limit long before the
limit of the process, and the first bytes of each command are never refused, so busy teams cannot keep others
from getting short output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self

from wrenn.base.errors import RateLimited, TooLarge
from wrenn.base.units import KIB, MIB

OutputName = Literal["stdout", "stderr"]

_RETRY_AFTER_S: Final = 5
_CHUNK_B: Final = 64 * KIB


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """Limits on the bytes buffered at once: for one stream of a command, one sandbox, one team, and the process.

    Attributes:
        free_b: bytes of each command that are not counted, about what its connections take anyway.
    """

    stream_b: int = 16 * MIB
    sandbox_b: int = 64 * MIB
    team_b: int = 128 * MIB
    process_b: int = 512 * MIB
    free_b: int = 64 * KIB


class OutputBudget:
    """Counts the bytes of all `OutputBuffer`s of this process."""

    def __init__(self, shares: OutputLimits) -> None:
        self.shares = shares
        self._held_b: Counter[tuple[str, str]] = Counter()

    @property
    def held_b(self) -> int:
        """Bytes that are buffered now."""
        return self._held_b["process", ""]

    def take(self, owners: tuple[tuple[str, str], ...], length_b: int) -> None:
        """Count `length_b` more bytes for each of `owners`, or for none of them.

        Raises:
            RateLimited: an owner would exceed its limit.
        """
        limits = {
            "sandbox": self.shares.sandbox_b,
            "team": self.shares.team_b,
            "process": self.shares.process_b,
        }
        for owner in owners:
            limit_b = limits[owner[0]]
            if self._held_b[owner] + length_b > limit_b:
                raise RateLimited(
                    f"{_WHOSE[owner[0]]} more than {limit_b // MIB} MiB of output at once, so this one was killed. "
                    "Run fewer at a time, or write the output to a file and read that.",
                    retry_after_s=_RETRY_AFTER_S,
                )
        for owner in owners:
            self._held_b[owner] += length_b

    def give_back(self, owners: tuple[tuple[str, str], ...], length_b: int) -> None:
        """Count `length_b` fewer bytes for each of `owners`."""
        for owner in owners:
            self._held_b[owner] -= length_b
            assert self._held_b[owner] >= 0, "given back more than was taken"
            if not self._held_b[owner]:
                del self._held_b[owner]


_WHOSE: Final = {
    "sandbox": "The commands of this sandbox hold",
    "team": "The commands of this team hold",
    "process": "All commands together hold",
}


@dataclass(slots=True)
class OutputBuffer:
    """The output of one command. As a context manager it frees its bytes and their share of the budget at exit."""

    _budget: OutputBudget
    _owners: tuple[tuple[str, str], ...]
    _chunks: dict[OutputName, list[bytearray]] = field(
        default_factory=lambda: {"stdout": list[bytearray](), "stderr": list[bytearray]()}
    )
    """Short writes share a chunk: an object for each would take many times the memory that is counted."""
    _lengths: Counter[OutputName] = field(default_factory=Counter["OutputName"])

    @classmethod
    def of(cls, budget: OutputBudget, *, sandbox: str, team: str = "") -> Self:
        """Create an empty buffer for a command of this sandbox, and of this team if it is known."""
        owners = (("sandbox", sandbox), *([("team", team)] if team else []), ("process", ""))
        return cls(budget, owners)

    def add(self, name: OutputName, data: bytes) -> None:
        """Append `data`.

        Raises:
            TooLarge: the stream exceeds the limit for one command.
            RateLimited: another limit is exhausted.
        """
        limit_b = self._budget.shares.stream_b
        if self._lengths[name] + len(data) > limit_b:
            raise TooLarge(
                f"The command wrote more than {limit_b // MIB} MiB to {name} and was killed. "
                "Redirect its output to a file and read that."
            )
        counted_b = self._counted_b
        self._lengths[name] += len(data)
        try:
            self._budget.take(self._owners, self._counted_b - counted_b)
        except RateLimited:
            self._lengths[name] -= len(data)
            raise
        chunks = self._chunks[name]
        if chunks and len(chunks[-1]) < _CHUNK_B:
            chunks[-1] += data
        else:
            chunks.append(bytearray(data))

    def chunks(self, name: OutputName) -> Iterator[bytearray]:
        """The chunks of a stream, in order."""
        return iter(self._chunks[name])

    @property
    def length_b(self) -> int:
        """Bytes in both streams."""
        return self._lengths.total()

    @property
    def _counted_b(self) -> int:
        return max(0, self.length_b - self._budget.shares.free_b)

    def joined(self, name: OutputName) -> bytes:
        """Return a stream as one bytes object: a copy that is not counted."""
        return b"".join(self._chunks[name])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.give_back(self._owners, self._counted_b)
        self._lengths.clear()
        for chunks in self._chunks.values():
            chunks.clear()
