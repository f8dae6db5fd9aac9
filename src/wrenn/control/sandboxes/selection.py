"""Filters and pages of a list of sandboxes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Self

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import SandboxId
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import ENDED, State

LISTED_STATES: Final = sorted(set(State) - ENDED)
_CURSOR_LIMIT: Final = 200


@dataclass(frozen=True, slots=True)
class SandboxFilter:
    """Conditions for listing sandboxes, which must all hold. The default selects every sandbox on one page.

    Attributes:
        name: the whole name; `*` in it stands for any text.
        labels: of the owner's metadata, these entries among others.
        states: one of these; empty: any.
        limit: most in one page; None: all.
        after: time and id of the last sandbox of the page before.
    """

    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    states: frozenset[State] = frozenset()
    limit: int | None = None
    after: tuple[datetime, SandboxId] | None = None

    @classmethod
    def parse(
        cls,
        *,
        name: str | None = None,
        metadata: Sequence[str] = (),
        state: Sequence[str] = (),
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Self:
        """Parse the query parameters of a list request.

        Raises:
            InvalidRequest: a parameter cannot be read; the message names it.
        """
        labels: dict[str, str] = {}
        for pair in metadata:
            key, equals, value = pair.partition("=")
            if not key or not equals:
                raise InvalidRequest("metadata: must be key=value; repeat it for several.")
            labels[key] = value
        if any("\0" in text for text in (name or "", *labels, *labels.values())):
            raise InvalidRequest("name, metadata: must not hold a NUL character.")
        words = [word.strip() for part in state for word in part.split(",")]
        if unknown := [word for word in words if word not in LISTED_STATES]:
            raise InvalidRequest(f"state: {unknown[0][:40]!r} is none of {', '.join(LISTED_STATES)}.")
        if cursor is not None and limit is None:
            raise InvalidRequest("cursor: goes with limit only.")
        return cls(
            name, labels, frozenset(map(State, words)), limit, None if cursor is None else _read(cursor)
        )

    @property
    def name_pattern(self) -> str:
        """The name as a pattern for SQL's LIKE, with a backslash as escape character."""
        text = self.name or ""
        for special in "\\%_":
            text = text.replace(special, f"\\{special}")
        return text.replace("*", "%")


def cursor_after(sandbox: Sandbox) -> str:
    """Return the cursor of the page that begins after this sandbox."""
    text = f"{sandbox.created_at.isoformat()}|{sandbox.sandbox_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read(cursor: str) -> tuple[datetime, SandboxId]:
    try:
        if len(cursor) > _CURSOR_LIMIT:
            raise ValueError
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        moment, _, sandbox_id = text.partition("|")
        created_at = datetime.fromisoformat(moment)
        if created_at.tzinfo is None:
            raise ValueError
        # Some moments near the ends of the calendar have none in UTC.
        return created_at.astimezone(UTC), SandboxId.parse(sandbox_id)
    except (ValueError, OverflowError, binascii.Error, InvalidRequest) as error:
        raise InvalidRequest("cursor: must be the X-Next-Cursor of the page before.") from error
