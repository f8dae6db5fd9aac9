"""Who may read which entries of a team's log, and which events: the one place that decides it."""

from __future__ import annotations

from wrenn.control.audit import Scope
from wrenn.control.auth import Caller


def scopes_of(caller: Caller) -> frozenset[Scope]:
    """What this caller may see of the caller's team.

    A key speaks for the team, not for one of its people: it sees what every member sees. A user who is owner or admin of
    the team sees `Scope.ADMIN` too.
    """
    return frozenset(Scope) if caller.role.may_administer else frozenset({Scope.TEAM})
