"""The response to a command that was run to its end. Its output is written as JSON in pieces, without a copy of it."""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Literal

from wrenn.base.errors import DeadlineExceeded
from wrenn.base.output_buffer import OutputBuffer, OutputName
from wrenn.base.signal_names import signal_name
from wrenn.base.units import KIB
from wrenn.control.guests.commands import Outcome
from wrenn.control.http import Pieces, public_error

Encoding = Literal["utf-8", "base64"]

_PIECE_B: Final = 64 * KIB
_GROUP_B: Final = 3
"""Bytes in base64 come in groups."""
_GROWTH_B: Final = 64 * KIB
"""Text may grow by so much, or by half, when it is written as JSON; what would grow more is base64."""
_SIX_FOLD: Final = bytes(n for n in range(0x20) if n not in b"\b\t\n\f\r")
"""What JSON writes as six characters; a few others take two."""
_TWO_FOLD: Final = b'\b\t\n\f\r"\\'


@asynccontextmanager
async def exec_answer(running: AbstractAsyncContextManager[Outcome], cmd: str) -> AsyncGenerator[Pieces]:
    """Run a command and return the JSON of its result in pieces. The output is buffered until the context is left.

    Raises:
        WrennError: as `running`.
    """
    async with running as outcome:
        end = outcome.end
        facts: dict[str, object] = {
            "sandbox_id": str(outcome.sandbox_id),
            "cmd": cmd,
            "exit_code": end.exit_code,
            "signal": end.signal or None,
            "signal_name": signal_name(end.signal) if end.signal else None,
            "out_of_memory": end.out_of_memory,
            "duration_ms": outcome.duration_ms,
        }
        status, inside = 200, None
        if outcome.late:
            late = public_error(DeadlineExceeded(outcome.late))
            facts = {"code": late.code, "message": late.message, "timed_out": True, **facts}
            status, inside = late.http_status, "error"
        is_short = outcome.output.length_b <= _PIECE_B
        yield Pieces(status, body_pieces(outcome.output, facts, inside=inside), is_short)


def encoding_of(output: OutputBuffer) -> Encoding:
    """Choose the encoding of the output: `base64` if either stream is not UTF-8 or would grow too much as JSON, else `utf-8`."""
    return "utf-8" if all(_is_plain(output, name) for name in ("stdout", "stderr")) else "base64"


def _is_plain(output: OutputBuffer, name: OutputName) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    length, growth = 0, 0
    try:
        for chunk in output.chunks(name):
            decoder.decode(chunk)
            length += len(chunk)
            growth += 5 * (len(chunk) - len(chunk.translate(None, _SIX_FOLD)))
            growth += len(chunk) - len(chunk.translate(None, _TWO_FOLD))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return growth <= max(_GROWTH_B, length // 2)


def body_pieces(output: OutputBuffer, facts: dict[str, object], *, inside: str | None) -> Iterator[bytes]:
    """Write a JSON object of `facts`, `encoding`, `stdout` and `stderr` in pieces.

    With `inside`, the body is an object with this one key, and the object above is its value.
    """
    encoding = encoding_of(output)
    if inside is not None:
        yield b"{" + json.dumps(inside).encode() + b":"
    head = json.dumps({**facts, "encoding": encoding}, ensure_ascii=False, separators=(",", ":"))
    yield head[:-1].encode()
    for name in ("stdout", "stderr"):
        yield b',"%s":"' % name.encode()
        chunks = output.chunks(name)
        yield from (_base64_pieces(chunks) if encoding == "base64" else _text_pieces(chunks))
        yield b'"'
    yield b"}" if inside is None else b"}}"


def _text_pieces(chunks: Iterable[bytearray]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for chunk in chunks:
        for at in range(0, len(chunk), _PIECE_B):
            text = decoder.decode(chunk[at : at + _PIECE_B])
            yield json.dumps(text, ensure_ascii=False)[1:-1].encode()


def _base64_pieces(chunks: Iterable[bytearray]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        whole = len(data) - len(data) % _GROUP_B
        rest = data[whole:]
        yield base64.b64encode(data[:whole])
    yield base64.b64encode(rest)
