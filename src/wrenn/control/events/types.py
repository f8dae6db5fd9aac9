"""Messages of the event stream."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, Field

from wrenn.base.errors import InvalidRequest

_KIND: Final = re.compile(r"[a-z_]{1,32}(\.[a-z_]{1,32}){0,3}")
_KINDS_LIMIT: Final = 20


class EventBody(BaseModel):
    """The data of one event. `ready` and `reset` have only a `type`."""

    type: str = Field(description="As in the field `event`")
    resource_id: str | None = Field(None, description="Id of the thing; of a template its name")
    at: datetime | None = Field(None, description="When its transaction began")
    data: dict[str, Any] | None = Field(None, description="docs/reference/events.md")


def kinds_of(text: str | None) -> list[str]:
    """The types that a request asks for.

    Raises:
        InvalidRequest: not the form of types.
    """
    kinds = [kind.strip() for kind in (text or "").split(",") if kind.strip()]
    if len(kinds) > _KINDS_LIMIT or not all(_KIND.fullmatch(kind) for kind in kinds):
        raise InvalidRequest(
            f"types: must be at most {_KINDS_LIMIT} types like sandbox or sandbox.paused, with commas between."
        )
    return kinds
