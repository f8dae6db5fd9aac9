"""Decides which entries of a team's log, and which events, a caller may see. No other place decides that."""

from __future__ import annotations

from wrenn.control.audit import Scope
from wrenn.control.auth.caller import Caller


def scopes_of(caller: Caller) -> frozenset[Scope]:
    """Return which audit log entries and events of the team the caller may see.

    A key speaks for the team, not for one of its people: it sees what every member sees. A user who is owner or admin of
    the team sees `Scope.ADMIN` too.
    """
    return frozenset(Scope) if caller.role.may_administer else frozenset({Scope.TEAM})
