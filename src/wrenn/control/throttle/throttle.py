"""Slows down repeated attempts. They are counted in PostgreSQL, so that the limits hold over all replicas."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import RateLimited
from wrenn.control.db import Database, Transaction
from wrenn.control.throttle import attempt_store


@dataclass(frozen=True, slots=True)
class ThrottlePolicy:
    """How many attempts are free, and how long a client waits after each further one: twice as long as after the one before.

    Attributes:
        free: attempts without a wait.
        first_wait_s, longest_wait_s: the wait after the first attempt that is not free, and the limit of its doubling.
        forget_s: after so long without an attempt the count begins again.
    """

    free: int
    first_wait_s: float
    longest_wait_s: float
    forget_s: float


ACCOUNT: Final = ThrottlePolicy(free=10, first_wait_s=1, longest_wait_s=60, forget_s=900)
"""Attempts to guess the password of one account. The longest wait is a minute, so that a stranger cannot lock the owner out."""
ADDRESS: Final = ThrottlePolicy(free=50, first_wait_s=1, longest_wait_s=300, forget_s=900)
"""Logins and sign-ups from one client address, which an office may share."""
SEARCH: Final = ThrottlePolicy(free=30, first_wait_s=1, longest_wait_s=30, forget_s=60)
"""Searches for users."""

MAIL_REQUESTS: Final = ThrottlePolicy(free=5, first_wait_s=300, longest_wait_s=3600, forget_s=3600)
"""Mails to one address that are requested without a login: at most nine within an hour."""
MAIL_CLIENTS: Final = ThrottlePolicy(free=20, first_wait_s=30, longest_wait_s=600, forget_s=3600)
"""Mails that one client address requests without a login."""
INVITATION_MAILS: Final = ThrottlePolicy(free=5, first_wait_s=300, longest_wait_s=3600, forget_s=3600)
"""Invitation mails to one address, whoever invites."""
TEAM_MAILS: Final = ThrottlePolicy(free=50, first_wait_s=60, longest_wait_s=3600, forget_s=3600)
"""Invitation mails of one team."""
INVITATIONS: Final = ThrottlePolicy(free=50, first_wait_s=2, longest_wait_s=300, forget_s=3600)
"""Invitations by one user."""
ENROLMENT: Final = ThrottlePolicy(free=50, first_wait_s=1, longest_wait_s=60, forget_s=900)
"""Wrong registration and refresh tokens of hosts from one address, which a whole site may share."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What attempts are counted for."""

    name: str
    policy: ThrottlePolicy

    @classmethod
    def account(cls, email: str) -> Subject:
        """Attempts on the account with this e-mail address, whether or not it exists."""
        return cls(f"account:{_digest(email)}", ACCOUNT)

    @classmethod
    def address(cls, address: str) -> Subject:
        """Attempts from a client's address."""
        return cls(f"address:{address}", ADDRESS)

    @classmethod
    def enrolment(cls, address: str) -> Subject:
        """Registrations and refreshes of hosts from a client's address."""
        return cls(f"enrolment:{address}", ENROLMENT)

    @classmethod
    def search(cls, user_id: object) -> Subject:
        """Searches by a user."""
        return cls(f"search:{user_id}", SEARCH)

    @classmethod
    def mail_request(cls, email: str) -> Subject:
        """Mails requested for this address."""
        return cls(f"mail:{_digest(email)}", MAIL_REQUESTS)

    @classmethod
    def mail_client(cls, address: str) -> Subject:
        """Mails requested by a client's address."""
        return cls(f"mail-from:{address}", MAIL_CLIENTS)

    @classmethod
    def invitation_mail(cls, email: str) -> Subject:
        """Invitation mails to this address."""
        return cls(f"invite-mail:{_digest(email)}", INVITATION_MAILS)

    @classmethod
    def team_mails(cls, team_id: object) -> Subject:
        """Invitation mails of a team."""
        return cls(f"team-mail:{team_id}", TEAM_MAILS)

    @classmethod
    def invitations(cls, user_id: object) -> Subject:
        """Invitations by a user."""
        return cls(f"invite:{user_id}", INVITATIONS)


def _digest(email: str) -> str:
    return hashlib.sha256(email.encode()).hexdigest()[:32]


class Throttle:
    """Counts attempts in the database and refuses those that come too soon after too many."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count_attempt(self, *subjects: Subject) -> None:
        """Count a failed attempt for each subject before it is made, so that concurrent attempts cannot exceed the limit.

        After a success call `succeeded` or `uncount`.

        Raises:
            RateLimited: too many; nothing was counted.
        """

        async def count(tx: Transaction) -> None:
            for subject in subjects:
                wait_s = await attempt_store.count(tx, subject.name, subject.policy)
                if wait_s is not None:
                    pause_s = max(1, math.ceil(wait_s))
                    raise RateLimited(f"Too many attempts: try again in {pause_s} s.", retry_after_s=pause_s)

        await self._database.transaction(count)

    async def count_if_allowed(self, tx: Transaction, *subjects: Subject) -> bool:
        """Count one attempt for each subject in this transaction; False: one comes too soon, and it must not be made."""
        for subject in subjects:
            if await attempt_store.count(tx, subject.name, subject.policy) is not None:
                return False
        return True

    async def succeeded(self, tx: Transaction, account: Subject, *others: Subject) -> None:
        """Report a successful attempt: clear the account's count, and uncount it for the others."""
        await self.clear(tx, account)
        await self.uncount(tx, *others)

    @staticmethod
    async def clear(tx: Transaction, subject: Subject) -> None:
        """Delete the count of failed attempts of this subject."""
        await attempt_store.clear(tx, subject.name)

    async def uncount(self, tx: Transaction, *subjects: Subject) -> None:
        """Uncount a successful attempt."""
        for subject in subjects:
            await attempt_store.uncount(tx, subject.name, subject.policy)
