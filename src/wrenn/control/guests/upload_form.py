"""Parses a `multipart/form-data` upload as it arrives: the fields before the file, then the file in chunks.

Only one chunk of the file is held at a time. What stands before the file is bounded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from wrenn.base.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_FIELD_LIMIT_B: Final = 8 * 1024
_PARTS_LIMIT: Final = 16


@dataclass(frozen=True, slots=True)
class _Event:
    """What the parser found: the head of a part, a piece of its content, or its end."""

    kind: Literal["head", "data", "end"]
    name: str = ""
    data: bytes = b""


class UploadForm:
    """Reads one multipart upload. Call `fields()` first, then `file()`."""

    def __init__(
        self,
        content_type: str,
        body: AsyncIterator[bytes],
        *,
        file_part: str = "file",
        field_limit_b: int = _FIELD_LIMIT_B,
    ) -> None:
        self._file_part = file_part
        self._field_limit_b = field_limit_b
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequest(f"The body must be multipart/form-data with the part {file_part!r}.")
        self._body = body
        self._parts = _Parts()
        try:
            self._parser = MultipartParser(boundary, self._parts.callbacks(), max_size=float("inf"))
        except MultipartParseError as error:
            raise _broken(error) from error
        self._ended = False
        self._events: list[_Event] = []

    async def fields(self) -> dict[str, str]:
        """Return the text fields before the part with the file, which is then at its beginning.

        Raises:
            InvalidRequest: no form; no part with the file; a field that is not UTF-8. TooLarge: too much before the file.
        """
        fields: dict[str, bytearray] = {}
        current = ""
        while (event := await self._next()) is not None:
            if event.kind == "head":
                if event.name == self._file_part:
                    return {name: _utf8(name, value) for name, value in fields.items()}
                current = event.name
                fields[current] = bytearray()
                if len(fields) > _PARTS_LIMIT:
                    raise InvalidRequest("The form has too many parts.")
            elif event.kind == "data":
                fields[current] += event.data
                if len(fields[current]) > self._field_limit_b:
                    raise TooLarge(f"The part {current[:64]!r} has more than {self._field_limit_b} bytes.")
        raise InvalidRequest(f"The form has no part {self._file_part!r}.")

    async def file(self) -> AsyncIterator[bytes]:
        """Yield the content of the file. Later parts are not read.

        Raises:
            InvalidRequest: the form breaks off.
        """
        while (event := await self._next()) is not None:
            if event.kind == "end":
                return
            yield event.data
        raise InvalidRequest(f"The form breaks off within the part {self._file_part!r}.")

    async def _next(self) -> _Event | None:
        while not self._events:
            if self._ended:
                return None
            chunk = await anext(self._body, None)
            if chunk is None:
                self._ended = True
                continue
            try:
                self._parser.write(chunk)
            except MultipartParseError as error:
                raise _broken(error) from error
            self._events = self._parts.taken()[::-1]
        return self._events.pop()


class _Parts:
    """Collects the parser's callbacks as events."""

    def __init__(self) -> None:
        self._events: list[_Event] = []
        self._field = bytearray()
        self._value = bytearray()
        self._name = ""

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
        }

    def taken(self) -> list[_Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def _begin(self) -> None:
        self._name = ""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if bytes(self._field).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name", b"").decode("utf-8", errors="replace")
        self._field.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        self._events.append(_Event("head", name=self._name))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(_Event("data", data=data[start:end]))

    def _end(self) -> None:
        self._events.append(_Event("end"))


def _broken(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"The form is not valid: {error}")


def _utf8(name: str, value: bytearray) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name}: must be valid UTF-8.") from error
