"""Tokens of users and hosts: JWT (platform reference §3.4), signed with one secret that all replicas share."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidRequest, Unauthorized, WrennError
from wrenn.base.ids import HostId, SessionId, TeamId, UserId, random_hex
from wrenn.base.secrets import Secret
from wrenn.control.auth.credential import UserToken
from wrenn.control.identity import Role

TOKEN_LIFE_S: Final = 15 * 60
VISIT_LIFE_S: Final = 12 * 3600
"""Of a visitor's token, at most: it ends with its session."""
HOST_LIFE_S: Final = 7 * 86_400
SECRET_MIN_CHARACTERS: Final = 32
_ALGORITHM: Final = "HS256"
_REFUSED: Final = "The token is not valid or has expired: refresh it, or log in."
_CLAIMS: Final = ("sub", "team_id", "sid")
_HOST_REFUSED: Final = "The host token is not valid or has expired: refresh it."
_HOST_CLAIMS: Final = ("sub", "rt")
_KNOWN_HOSTS: Final = 10_000
"""Tokens of hosts that are recognised without verifying them again: some 5 MB."""
_VISIT: Final = "visit"
_HOST: Final = "host"


@dataclass(frozen=True, slots=True)
class Claims:
    """The contents of a user's token. Only the ids are trusted; the rest is for display."""

    user_id: UserId
    team_id: TeamId
    session_id: SessionId
    role: Role
    email: str
    name: str
    is_admin: bool


@dataclass(frozen=True, slots=True)
class HostToken:
    """A host's token whose signature and expiry were checked.

    Attributes:
        refresh_id: of the refresh token that came with it.
    """

    host_id: HostId
    refresh_id: uuid.UUID


class Tokens:
    """Issues and verifies the tokens of users and hosts. A token of one kind is refused where another is read."""

    def __init__(self, secret: Secret, clock: Clock) -> None:
        self._key = OctKey.import_key(secret.reveal())
        self._clock = clock
        # By the SHA-256 of the token: what it says, and when it expires. The one that was verified first is the first.
        self._verified_hosts: dict[bytes, tuple[HostToken, int]] = {}

    def issue(self, claims: Claims) -> str:
        """Issue a token that is valid for `TOKEN_LIFE_S`."""
        shown: dict[str, object] = {"role": str(claims.role), "email": claims.email, "name": claims.name}
        if claims.is_admin:
            shown["is_admin"] = True
        return self._sign(claims, shown, TOKEN_LIFE_S)

    def issue_visit(self, claims: Claims) -> str:
        """Issue a token that opens ports of the team's sandboxes and nothing else, while the session lasts."""
        return self._sign(claims, {"typ": _VISIT}, VISIT_LIFE_S)

    def issue_host(self, host_id: HostId, refresh_id: uuid.UUID) -> str:
        """Issue a token for the agent of a host, together with this refresh token; valid for `HOST_LIFE_S`."""
        said = {"sub": str(host_id), "host_id": str(host_id), "typ": _HOST, "rt": str(refresh_id)}
        return self._encode(said, HOST_LIFE_S)

    def _sign(self, claims: Claims, more: Mapping[str, object], life_s: int) -> str:
        said = {
            "sub": str(claims.user_id),
            "team_id": str(claims.team_id),
            "sid": str(claims.session_id),
            **more,
        }
        return self._encode(said, life_s)

    def _encode(self, said: Mapping[str, object], life_s: int) -> str:
        now = int(self._clock.now().timestamp())
        claims = {**said, "iat": now, "exp": now + life_s}
        return jwt.encode({"alg": _ALGORITHM}, claims, self._key, algorithms=[_ALGORITHM])

    def read(self, text: str) -> UserToken:
        """Verify a token of `issue` and return its ids.

        Raises:
            Unauthorized: not signed by us with our algorithm, expired, or of another kind.
        """
        return self._read(text, None)

    def read_visit(self, text: str) -> UserToken:
        """Verify a token of `issue_visit` and return its ids. Raises as `read`."""
        return self._read(text, _VISIT)

    def read_host(self, text: str) -> HostToken:
        """Verify a token of `issue_host`. Raises as `read`.

        A token that was verified is recognised by its digest until it expires: each host sends its own twice a minute for a week.
        """
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
        known = self._verified_hosts.get(digest)
        if known is not None and known[1] > self._clock.now().timestamp():
            return known[0]
        said = self._verified(text, _HOST, _HOST_CLAIMS, _HOST_REFUSED)
        try:
            token = HostToken(HostId.parse(said["sub"]), uuid.UUID(said["rt"]))
        except (WrennError, ValueError) as error:
            raise Unauthorized(_HOST_REFUSED) from error
        self._verified_hosts.pop(digest, None)
        if len(self._verified_hosts) >= _KNOWN_HOSTS:
            del self._verified_hosts[next(iter(self._verified_hosts))]
        self._verified_hosts[digest] = token, int(said["exp"])
        return token

    def _read(self, text: str, kind: str | None) -> UserToken:
        said = self._verified(text, kind, _CLAIMS, _REFUSED)
        try:
            return UserToken(
                UserId.parse(said["sub"]), TeamId.parse(said["team_id"]), SessionId.parse(said["sid"])
            )
        except WrennError as error:
            raise Unauthorized(_REFUSED) from error

    def _verified(self, text: str, kind: str | None, names: Sequence[str], refused: str) -> Mapping[str, str]:
        try:
            # The library has several ways to fail on bytes that are no token at all.
            said: Any = jwt.decode(text, self._key, algorithms=[_ALGORITHM]).claims
        except (JoseError, ValueError, TypeError) as error:
            raise Unauthorized(refused) from error
        expires = said.get("exp")
        if not isinstance(expires, int) or expires <= self._clock.now().timestamp():
            raise Unauthorized(refused)
        # A user's token has no type; every other kind has.
        if said.get("typ") != kind or not all(isinstance(said.get(name), str) for name in names):
            raise Unauthorized(refused)
        return said


def ensure_secret(folder: Path) -> Secret:
    """Return the secret in `folder/jwt.secret`, creating the file with mode 600 if it is missing. Concurrent programs agree on one.

    Raises:
        InvalidRequest: the file does not hold a secret.
    """
    path = folder / "jwt.secret"
    if not path.exists():
        scratch = path.with_name(f".jwt.secret.{os.getpid()}")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(random_hex(32))
                file.flush()
                os.fsync(file.fileno())
            # Unlike a rename this leaves the file of a program that was quicker.
            with suppress(FileExistsError):
                path.hardlink_to(scratch)
        finally:
            scratch.unlink()
    text = path.read_text().strip()
    if len(text) < SECRET_MIN_CHARACTERS:
        raise InvalidRequest(f"{path} must hold at least {SECRET_MIN_CHARACTERS} characters.")
    return Secret(text)
