"""Filters, order and pages of a list of sandboxes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Self

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import SandboxId
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import ENDED, State

LISTED_STATES: Final = sorted(set(State) - ENDED)
_CURSOR_LIMIT: Final = 1500
"""A name of 128 characters of four bytes each, and an id."""


class SortKey(StrEnum):
    """What a list is ordered by."""

    CREATED_AT = "created_at"
    LAST_ACTIVE_AT = "last_active_at"
    NAME = "name"
    TEMPLATE = "template"
    STATUS = "status"
    MEMORY_MB = "memory_mb"


_TIMES: Final = frozenset({SortKey.CREATED_AT, SortKey.LAST_ACTIVE_AT})
SortValue = str | int | datetime


@dataclass(frozen=True, slots=True)
class Sort:
    """The order of a list; sandboxes with the same value are ordered by id."""

    key: SortKey = SortKey.CREATED_AT
    is_descending: bool = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `name`, or `-name` for the descending order.

        Raises:
            InvalidRequest: there is no such order.
        """
        try:
            return cls(SortKey(text.removeprefix("-")), text.startswith("-"))
        except ValueError:
            raise InvalidRequest(
                f"sort: {text[:40]!r} is none of {', '.join(SortKey)}, perhaps with - before it."
            ) from None

    def __str__(self) -> str:
        return f"{'-' if self.is_descending else ''}{self.key}"

    def value_of(self, sandbox: Sandbox) -> SortValue:
        """Return the value by which a sandbox is ordered."""
        match self.key:
            case SortKey.CREATED_AT:
                return sandbox.created_at
            case SortKey.LAST_ACTIVE_AT:
                return sandbox.last_active_at or sandbox.created_at
            case SortKey.NAME:
                return sandbox.name
            case SortKey.TEMPLATE:
                return sandbox.template
            case SortKey.STATUS:
                return sandbox.status.value
            case SortKey.MEMORY_MB:
                return sandbox.memory_mb


@dataclass(frozen=True, slots=True)
class SandboxFilter:
    """Conditions for listing sandboxes, which must all hold, and their order. The default selects every sandbox on one page.

    Attributes:
        text: in the name, the template, or a key or value of the owner's metadata; or the beginning of the id.
        name: the whole name; `*` in it stands for any text.
        template: the name of the template.
        created_by: id of the user or API key that created it.
        labels: of the owner's metadata, these entries among others.
        states: one of these; empty: any.
        started_after: started, or created if they were not started yet, at this time or later.
        limit: most in one page; None: all.
        after: value and id of the last sandbox of the page before.
    """

    text: str = ""
    name: str | None = None
    template: str | None = None
    created_by: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    states: frozenset[State] = frozenset()
    started_after: datetime | None = None
    sort: Sort = field(default_factory=Sort)
    limit: int | None = None
    after: tuple[SortValue, SandboxId] | None = None

    @classmethod
    def parse(
        cls,
        *,
        text: str = "",
        name: str | None = None,
        template: str | None = None,
        created_by: str | None = None,
        metadata: Sequence[str] | Mapping[str, str] = (),
        state: Sequence[str] = (),
        started_after: datetime | None = None,
        sort: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Self:
        """Parse the query parameters of a list request. `metadata`: pairs `key=value`, or the labels themselves.

        Raises:
            InvalidRequest: a parameter cannot be read; the message names it.
        """
        labels = dict(metadata) if isinstance(metadata, Mapping) else _pairs(metadata)
        texts = (text, name or "", template or "", created_by or "", *labels, *labels.values())
        if any("\0" in part for part in texts):
            raise InvalidRequest("q, name, template, created_by, metadata: must not hold a NUL character.")
        words = [word.strip() for part in state for word in part.split(",")]
        if unknown := [word for word in words if word not in LISTED_STATES]:
            raise InvalidRequest(f"state: {unknown[0][:40]!r} is none of {', '.join(LISTED_STATES)}.")
        if cursor is not None and limit is None:
            raise InvalidRequest("cursor: goes with limit only.")
        order = Sort() if sort is None else Sort.parse(sort)
        return cls(
            text=text.strip(),
            name=name,
            template=template,
            created_by=created_by,
            labels=labels,
            states=frozenset(map(State, words)),
            started_after=started_after,
            sort=order,
            limit=limit,
            after=None if cursor is None else _read(cursor, order),
        )

    @property
    def text_pattern(self) -> str:
        """The searched text as a pattern for SQL's LIKE, with a backslash as escape character."""
        return f"%{_escaped(self.text)}%"

    @property
    def name_pattern(self) -> str:
        """The name as a pattern for SQL's LIKE, with a backslash as escape character."""
        return _escaped(self.name or "").replace("*", "%")


def _pairs(metadata: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in metadata:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InvalidRequest("metadata: must be key=value; repeat it for several.")
        labels[key] = value
    return labels


def _escaped(text: str) -> str:
    for special in "\\%_":
        text = text.replace(special, f"\\{special}")
    return text


def cursor_after(sandbox: Sandbox, sort: Sort) -> str:
    """Return the cursor of the page that begins after this sandbox."""
    value = sort.value_of(sandbox)
    shown = value.isoformat() if isinstance(value, datetime) else str(value)
    # The usual order is not named, as in the release before: its replicas take cursors of this one, and the other way round.
    named = "" if sort == Sort() else f"{sort}="
    text = f"{named}{shown}|{sandbox.sandbox_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read(cursor: str, sort: Sort) -> tuple[SortValue, SandboxId]:
    try:
        if len(cursor) > _CURSOR_LIMIT:
            raise ValueError
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        shown, _, sandbox_id = text.rpartition("|")
        if sort != Sort():
            if not shown.startswith(f"{sort}="):
                raise ValueError
            shown = shown.removeprefix(f"{sort}=")
        return _sort_value(shown, sort), SandboxId.parse(sandbox_id)
    except (ValueError, OverflowError, binascii.Error, InvalidRequest) as error:
        raise InvalidRequest(
            "cursor: must be the X-Next-Cursor of the page before, in the same order."
        ) from error


def _sort_value(shown: str, sort: Sort) -> SortValue:
    if sort.key in _TIMES:
        moment = datetime.fromisoformat(shown)
        if moment.tzinfo is None:
            raise ValueError
        # Some moments near the ends of the calendar have none in UTC.
        return moment.astimezone(UTC)
    if sort.key is SortKey.MEMORY_MB:
        number = int(shown[:12])
        if not 0 <= number < 2**31:
            raise ValueError
        return number
    if "\0" in shown:
        raise ValueError
    return shown
