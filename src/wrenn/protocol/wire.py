"""Counts the fields of a protobuf message before it is decoded.

The decoder takes several microseconds and up to 200 bytes of memory for each field, and a field may be as
short as two bytes: four megabytes of such fields would take 15 seconds. Format:
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from protobuf import DescFieldValueList, DescFieldValueMap, DescFieldValueMessage, DescMessage, Message

_VARINT: Final = 0
_FIXED_64: Final = 1
_LENGTH_DELIMITED: Final = 2
_FIXED_32: Final = 5
_VARINT_LIMIT_B: Final = 10


class TooManyFields(Exception):
    """The message has too many fields or is not well-formed."""


def check_fields(kind: type[Message[Any]], body: bytes, most: int) -> None:
    """Check that `body` has at most `most` fields, including those of nested messages and elements of packed lists.

    It reads no more than `most` fields. Raises TooManyFields.
    """
    _Scan(body, most).message(_nested(kind.desc()), 0, len(body))


_Nested = Mapping[int, "DescMessage | _MapEntry | _Packed"]
"""The types of the length-delimited fields that are not plain values, by field number."""


@dataclass(frozen=True, slots=True)
class _MapEntry:
    nested: _Nested


class _Packed:
    """A list whose elements may be packed."""


@cache
def _nested(desc: DescMessage) -> _Nested:
    nested: dict[int, DescMessage | _MapEntry | _Packed] = {}
    for field in desc.fields:
        match field.value:
            case DescFieldValueMessage(message=message):
                nested[field.number] = message
            case DescFieldValueList(element=DescMessage() as message):
                nested[field.number] = message
            case DescFieldValueList(packed=True):
                nested[field.number] = _Packed()
            case DescFieldValueMap(value=value):
                nested[field.number] = _MapEntry({2: value} if isinstance(value, DescMessage) else {})
            case _:
                pass
    return nested


class _Scan:
    def __init__(self, body: bytes, most: int) -> None:
        self._body = body
        self._left = most

    def message(self, nested: _Nested, at: int, end: int) -> None:
        while at < end:
            self._count(1)
            tag, at = self._varint(at, end)
            kind = tag & 7
            if kind == _VARINT:
                _, at = self._varint(at, end)
            elif kind == _FIXED_64:
                at += 8
            elif kind == _FIXED_32:
                at += 4
            elif kind == _LENGTH_DELIMITED:
                length, begin = self._varint(at, end)
                at = begin + length
                if at > end:
                    raise TooManyFields
                match nested.get(tag >> 3):
                    case DescMessage() as desc:
                        self.message(_nested(desc), begin, at)
                    case _MapEntry(inner):
                        self.message(inner, begin, at)
                    case _Packed():
                        self._count(length)
                    case None:
                        pass
            else:
                # Groups are deprecated and not used by our messages.
                raise TooManyFields
        if at != end:
            raise TooManyFields

    def _count(self, fields: int) -> None:
        self._left -= fields
        if self._left < 0:
            raise TooManyFields

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        for position in range(at, min(end, at + _VARINT_LIMIT_B)):
            byte = self._body[position]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position + 1
            shift += 7
        raise TooManyFields
