"""What this host has, in the form of its heartbeats: a report, a digest of its sandboxes, snapshots and images, and their activity.

The control plane asks for the lists only when the digest has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from protobuf import message_to_json_value

from wrenn.agent.host_facts import HostFacts
from wrenn.agent.host_report import host_message
from wrenn.agent.images import Images
from wrenn.agent.sandboxes import Record, RunningSandbox, Sandboxes

_ACTIVE_LIMIT: Final = 500
"""Sandboxes whose activity one heartbeat reports: about 25 KiB. The others follow in the next ones."""
_DIGEST_B: Final = 16


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The content of one heartbeat.

    Attributes:
        host: the message `Host` of host.proto as ProtoJSON.
        inventory: digest of all that the control plane compares with its database.
        active: when sandboxes were used last (Unix time, seconds), for those that were used since the control plane was sent.
    """

    host: Mapping[str, Any]
    inventory: str
    active: Mapping[str, float]

    def body(self) -> dict[str, object]:
        """Return it as the body of the request."""
        return {"host": self.host, "inventory": self.inventory, "active": self.active}


class Inventory:
    """Describes what this host has. Call `delivered` with each heartbeat that was accepted."""

    def __init__(
        self, sandboxes: Sandboxes, images: Images, facts: HostFacts, *, activity_step_s: float
    ) -> None:
        """`activity_step_s`: a use is reported when it is so much later than the last one that was."""
        self._activity_step_s = activity_step_s
        self._sandboxes = sandboxes
        self._images = images
        self._facts = facts
        self._reported: dict[str, float] = {}

    def digest(self) -> str:
        """Compute the digest; about 10 µs for each sandbox, and one look each into the folders of snapshots and images."""
        lines = [_line(*entry) for entry in self._sandboxes.list()]
        lines += (f"{sandbox_id} unreadable" for sandbox_id in self._sandboxes.unreadable())
        lines += self._sandboxes.list_snapshot_ids()
        lines += self._images.ids()
        lines += (f"template {name} {content}" for name, content in self._facts.templates().items())
        return hashlib.blake2b("\n".join(sorted(lines)).encode(), digest_size=_DIGEST_B).hexdigest()

    def heartbeat(self) -> Heartbeat:
        """Describe the present state."""
        entries = self._sandboxes.list()
        used = {
            str(record.spec.sandbox_id): running.last_active_at
            for record, running in entries
            if running is not None
        }
        self._reported = {
            sandbox_id: sent for sandbox_id, sent in self._reported.items() if sandbox_id in used
        }
        news = [
            (sandbox_id, at)
            for sandbox_id, at in used.items()
            if at > self._reported.get(sandbox_id, 0.0) + self._activity_step_s
        ]
        # First those that were not reported for longest.
        news.sort(key=lambda item: self._reported.get(item[0], 0.0))
        host = message_to_json_value(host_message(self._facts, sandbox_count=len(entries)))
        assert isinstance(host, dict), "a message is an object"
        return Heartbeat(host, self.digest(), dict(news[:_ACTIVE_LIMIT]))

    def delivered(self, heartbeat: Heartbeat) -> None:
        """Take the activity in this heartbeat as reported."""
        self._reported.update(heartbeat.active)


def reason_of(record: Record, running: RunningSandbox | None) -> str:
    """Return why a sandbox is lost, was paused or cannot go on; empty: nothing is wrong."""
    return record.reason or (running.suspend_reason if running else "")


def _line(record: Record, running: RunningSandbox | None) -> str:
    """What the control plane compares of one sandbox."""
    spec = record.spec
    parts = (
        spec.sandbox_id,
        spec.generation,
        record.state,
        record.network.revision,
        reason_of(record, running),
    )
    return " ".join(map(str, parts))
