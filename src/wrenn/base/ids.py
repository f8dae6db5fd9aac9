"""Typed ids. Text form: prefix + 25 characters of base 36, the big-endian value of a UUID (platform reference §3.1).

The database stores the UUID; APIs, logs and command lines show the text form.
"""

from __future__ import annotations

import re
import secrets
import uuid
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from wrenn.base.errors import InvalidRequest

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH: Final = 25
_BODY: Final = re.compile(r"[0-9a-z]{25}")
_BODY_PART: Final = re.compile(r"[0-9a-z]{1,25}")
_LIMIT: Final = 1 << 128


@dataclass(frozen=True, slots=True, order=True)
class Id:
    """A UUID with the prefix of its kind. `str(id)` is the text form."""

    PREFIX: ClassVar[str] = ""
    KIND: ClassVar[str] = "id"
    NEEDS_PREFIX: ClassVar[bool] = True

    value: uuid.UUID

    @classmethod
    def new(cls) -> Self:
        """Generate a random id (UUIDv4)."""
        return cls(uuid.uuid4())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form.

        Raises:
            InvalidRequest: not this prefix, if the kind needs it, followed by 25 base-36 digits with a value below 2^128.
        """
        body = text.removeprefix(cls.PREFIX)
        has_prefix = text.startswith(cls.PREFIX) or not cls.NEEDS_PREFIX
        if not has_prefix or _BODY.fullmatch(body) is None or int(body, 36) >= _LIMIT:
            article = "an" if cls.KIND[0] in "AEIOaeio" else "a"
            raise InvalidRequest(
                f"Not {article} {cls.KIND} id: expected {cls.PREFIX}<25 characters of 0-9a-z>."
            )
        return cls(uuid.UUID(int=int(body, 36)))

    @classmethod
    def find(cls, text: str) -> Self | None:
        """Parse the text form, or return None if it is something else, such as a name."""
        try:
            return cls.parse(text)
        except InvalidRequest:
            return None

    @classmethod
    def with_prefix(cls, text: str) -> tuple[Self, Self] | None:
        """Return the lowest and the highest id whose text form, with or without its prefix, begins with this; None: none does."""
        body = text.lower().removeprefix(cls.PREFIX)
        if _BODY_PART.fullmatch(body) is None:
            return None
        lowest, highest = (int(body.ljust(_LENGTH, digit), 36) for digit in (_DIGITS[0], _DIGITS[-1]))
        if lowest >= _LIMIT:
            return None
        return cls(uuid.UUID(int=lowest)), cls(uuid.UUID(int=min(highest, _LIMIT - 1)))

    def __str__(self) -> str:
        number = self.value.int
        digits: list[str] = []
        while number:
            number, digit = divmod(number, 36)
            digits.append(_DIGITS[digit])
        return self.PREFIX + "".join(reversed(digits)).rjust(_LENGTH, "0")


class SandboxId(Id):
    """A sandbox (capsule). Its text form is also parsed without the prefix: clients of the e2b API know it by that."""

    PREFIX = "cl-"
    KIND = "sandbox"
    NEEDS_PREFIX = False

    @property
    def without_prefix(self) -> str:
        """The text form without the prefix: `sandboxID` of the e2b API."""
        return str(self).removeprefix(self.PREFIX)


class SnapshotId(Id):
    """A snapshot of a sandbox."""

    PREFIX = "snap-"
    KIND = "snapshot"


class ImageId(Id):
    """An image: the root file system of a template."""

    PREFIX = "img-"
    KIND = "image"


class BuildId(Id):
    """A build of a template."""

    PREFIX = "bld-"
    KIND = "build"


class UserId(Id):
    """A user account."""

    PREFIX = "usr-"
    KIND = "user"


class TeamId(Id):
    """A team, the owner of sandboxes and keys."""

    PREFIX = "team-"
    KIND = "team"


class KeyId(Id):
    """An API key."""

    PREFIX = "key-"
    KIND = "API key"


class SessionId(Id):
    """A session of a user in a browser or program."""

    PREFIX = "ses-"
    KIND = "session"


class InvitationId(Id):
    """An invitation to join a team."""

    PREFIX = "inv-"
    KIND = "invitation"


class HostId(Id):
    """A machine that runs sandboxes."""

    PREFIX = "host-"
    KIND = "host"


class AuditId(Id):
    """An entry of the audit log."""

    PREFIX = "log-"
    KIND = "audit entry"


def random_hex(byte_count: int) -> str:
    """Return `byte_count` random bytes from the system's secure source, as lower-case hex."""
    return secrets.token_hex(byte_count)
