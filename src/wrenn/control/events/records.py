"""Events as values, and their format on the wire."""

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
    """The position of an event: its transaction, and its number in it. A transaction that commits later has a later position."""

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
    """Something that changed.

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
        """The event in the format of server-sent events; built once for all streams."""
        body = {
            "type": self.kind,
            "resource_id": self.resource_id,
            "at": self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "data": self.facts,
        }
        return frame(self.kind, self.position, body)


def frame(kind: str, position: Position, body: Mapping[str, object]) -> bytes:
    """Format one server-sent event. JSON has no line breaks, so no value can start another field."""
    text = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
    return f"id: {position}\nevent: {kind}\ndata: {text}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Audience:
    """Which events a subscriber may see and wants to see.

    Attributes:
        kinds: `sandbox.paused`, or `sandbox` for all of that; empty: everything.
    """

    team_id: TeamId
    scopes: frozenset[Scope]
    kinds: Collection[str] = ()

    def sees(self, event: Event) -> bool:
        """Whether the subscriber gets this event."""
        return event.team_id == self.team_id and event.scope in self.scopes and self.wants(event.kind)

    def wants(self, kind: str) -> bool:
        """Whether the subscriber asked for this kind of event."""
        return not self.kinds or any(kind == k or kind.startswith(f"{k}.") for k in self.kinds)
