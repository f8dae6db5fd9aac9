"""Events as values, and how each is written on the wire."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Final, Self

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import TeamId
from wrenn.control.audit import Scope

_POSITION: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where an event stands: its transaction, and its place in it. What commits later stands behind, whatever its `number`."""

    txid: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the id of an event.

        Raises:
            InvalidRequest: it is none.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise InvalidRequest("Last-Event-ID: not the id of an event; leave it out to begin now.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.txid}-{self.number}"


@dataclass(frozen=True)
class Event:
    """Something changed.

    Attributes:
        kind: `sandbox.paused` and the like.
        resource_id: wire id of the thing, of a template its name.
    """

    position: Position
    team_id: TeamId
    scope: Scope
    kind: str
    resource_id: str
    facts: Mapping[str, object]
    at: datetime

    @cached_property
    def frame(self) -> bytes:
        """As it is sent; made once for all who get it."""
        body = {
            "type": self.kind,
            "resource_id": self.resource_id,
            "at": self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "data": self.facts,
        }
        return frame(self.kind, self.position, body)


def frame(kind: str, position: Position, body: Mapping[str, object]) -> bytes:
    """One event of a stream. JSON has no line breaks, so no value can begin another field."""
    text = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
    return f"id: {position}\nevent: {kind}\ndata: {text}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Audience:
    """What somebody may see, and wants to.

    Attributes:
        kinds: `sandbox.paused`, or `sandbox` for all of that; empty: everything.
    """

    team_id: TeamId
    scopes: frozenset[Scope]
    kinds: Collection[str] = ()

    def sees(self, event: Event) -> bool:
        """Whether the event is for them."""
        return event.team_id == self.team_id and event.scope in self.scopes and self.wants(event.kind)

    def wants(self, kind: str) -> bool:
        """Whether they asked for this kind."""
        return not self.kinds or any(kind == k or kind.startswith(f"{k}.") for k in self.kinds)
