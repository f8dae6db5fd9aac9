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
class Policy:
    """How many attempts are free, and how long the waits after them are: each is twice as long as the one before.

    Attributes:
        free: tries without a wait.
        first_wait_s, longest_wait_s: the wait after the first try that is not free, and the limit of its doubling.
        forget_s: after so long without a try all is forgotten.
    """

    free: int
    first_wait_s: float
    longest_wait_s: float
    forget_s: float


ACCOUNT: Final = Policy(free=10, first_wait_s=1, longest_wait_s=60, forget_s=900)
"""Of passwords for one account. A minute at the longest: a stranger must not be able to lock the owner out."""
ADDRESS: Final = Policy(free=50, first_wait_s=1, longest_wait_s=300, forget_s=900)
"""Of passwords and sign-ups from one address, which an office may share."""
SEARCH: Final = Policy(free=30, first_wait_s=1, longest_wait_s=30, forget_s=60)
"""Of searches for users."""

MAIL_REQUESTS: Final = Policy(free=5, first_wait_s=300, longest_wait_s=3600, forget_s=3600)
"""Of mails that are asked for without a login, to one address: at most nine within an hour."""
MAIL_CLIENTS: Final = Policy(free=20, first_wait_s=30, longest_wait_s=600, forget_s=3600)
"""Of the same from one client's address."""
INVITATION_MAILS: Final = Policy(free=5, first_wait_s=300, longest_wait_s=3600, forget_s=3600)
"""Of invitations by mail to one address, by whomever."""
TEAM_MAILS: Final = Policy(free=50, first_wait_s=60, longest_wait_s=3600, forget_s=3600)
"""Of invitations by mail of one team."""
INVITATIONS: Final = Policy(free=50, first_wait_s=2, longest_wait_s=300, forget_s=3600)
"""Of invitations by one user."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What attempts are counted for."""

    name: str
    policy: Policy

    @classmethod
    def account(cls, email: str) -> Subject:
        """Attempts on the account with this e-mail address, whether or not it exists."""
        return cls(f"account:{_digest(email)}", ACCOUNT)

    @classmethod
    def address(cls, address: str) -> Subject:
        """Attempts from a client's address."""
        return cls(f"address:{address}", ADDRESS)

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

    async def begin(self, *subjects: Subject) -> None:
        """Count an attempt for each subject before it is made, so that concurrent attempts cannot exceed the limit.

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

    async def allows(self, tx: Transaction, *subjects: Subject) -> bool:
        """Count one attempt for each subject in this transaction; False: one comes too soon, and it must not be made."""
        for subject in subjects:
            if await attempt_store.count(tx, subject.name, subject.policy) is not None:
                return False
        return True

    async def succeeded(self, tx: Transaction, account: Subject, *others: Subject) -> None:
        """Report a successful attempt: clear the account's count, and uncount it for the others."""
        await self.clear(tx, account)
        await self.take_back(tx, *others)

    @staticmethod
    async def clear(tx: Transaction, subject: Subject) -> None:
        """Forget the failed attempts that were counted for this subject."""
        await attempt_store.clear(tx, subject.name)

    async def take_back(self, tx: Transaction, *subjects: Subject) -> None:
        """Uncount a successful attempt."""
        for subject in subjects:
            await attempt_store.take_back(tx, subject.name, subject.policy)
