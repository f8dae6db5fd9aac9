"""Messages of the event stream."""

from __future__ import annotations

import re
from typing import Final

from wrenn.base.errors import InvalidRequest

_KIND: Final = re.compile(r"[a-z_]{1,32}(\.[a-z_]{1,32}){0,3}")
_KINDS_LIMIT: Final = 20


def kinds_of(text: str | None) -> list[str]:
    """Parse the event types that a request asks for.

    Raises:
        InvalidRequest: not the form of types.
    """
    kinds = [kind.strip() for kind in (text or "").split(",") if kind.strip()]
    if len(kinds) > _KINDS_LIMIT or not all(_KIND.fullmatch(kind) for kind in kinds):
        raise InvalidRequest(
            f"types: must be at most {_KINDS_LIMIT} types like sandbox or sandbox.paused, with commas between."
        )
    return kinds
