"""What a user may be in a team."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """The role of a user in a team."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"

    @property
    def may_administer(self) -> bool:
        """Whether this role may change the team, its members and their roles."""
        return self in (Role.OWNER, Role.ADMIN)
