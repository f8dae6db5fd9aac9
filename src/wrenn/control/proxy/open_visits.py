"""Limits how many visits of ports are open at once on this replica.

Each holds a connection to its host, and there one to the guest, for as long as its client likes. So the rate of visits limits
nothing in the long run. Strangers, who need no more than the address of a public port, get less than the sandbox, so that its
owner can still visit it. Each replica counts for itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass

from wrenn.base.errors import RateLimited, Unavailable
from wrenn.base.ids import SandboxId, TeamId


@dataclass(frozen=True, slots=True)
class VisitLimits:
    """Visits at once.

    Attributes:
        of_strangers: without a credential of the sandbox's team: of all addresses.
        of_address: of these, from one address.
        of_strangers_to_sandbox: of these, to one sandbox.
        of_sandbox: to one sandbox, whoever visits. Its host has as many connections to its ports.
        of_team: to the sandboxes of one team.
        of_replica: all. A visit takes some 100 KB.
    """

    of_strangers: int = 4096
    of_address: int = 1024
    of_strangers_to_sandbox: int = 512
    of_sandbox: int = 1024
    of_team: int = 2048
    of_replica: int = 8192


class OpenVisits:
    """Counts the visits that are open."""

    def __init__(self, limits: VisitLimits | None = None) -> None:
        self._limits = limits or VisitLimits()
        self._open: Counter[Hashable] = Counter()

    @contextmanager
    def counted(self, sandbox_id: SandboxId, team_id: TeamId, *, stranger_at: str | None) -> Generator[None]:
        """Count a visit; `stranger_at` is the visitor's address, if it has no credential of the team.

        Raises:
            RateLimited: one too many to the sandbox, of the team or from the address. Unavailable: one too many for this replica.
        """
        limits = self._limits
        shares: list[tuple[Hashable, int, str]] = [
            (("sandbox", sandbox_id), limits.of_sandbox, "to this sandbox"),
            (("team", team_id), limits.of_team, "to sandboxes of this team"),
        ]
        totals: list[tuple[Hashable, int]] = [("all", limits.of_replica)]
        if stranger_at is not None:
            to_sandbox = ("strangers to sandbox", sandbox_id)
            shares += [
                (to_sandbox, limits.of_strangers_to_sandbox, "without a key to this sandbox"),
                (("address", stranger_at), limits.of_address, "from this address"),
            ]
            totals += [("strangers", limits.of_strangers)]
        for key, limit, which in shares:
            if self._open[key] >= limit:
                raise RateLimited(f"More than {limit} visits {which} are open at once.")
        for key, limit in totals:
            if self._open[key] >= limit:
                raise Unavailable("The platform has too many visits of ports open now.")
        keys = [*(key for key, _, _ in shares), *(key for key, _ in totals)]
        self._open.update(keys)
        try:
            yield
        finally:
            for key in keys:
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]
