"""Writes the file of profiles: atomically, under a lock, and readable only by its owner."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from wrenn.cli.up.layout import write_private

if TYPE_CHECKING:
    from wrenn.base.secrets import Secret
    from wrenn.sdk.account import Account
    from wrenn.sdk.profiles import Profile


_TOKEN_USE_S: Final = 600.0
"""How long a token is used; it is valid for a quarter of an hour."""


@contextmanager
def locked() -> Generator[None]:
    """Lock the file. The kernel releases the lock of a process that dies."""
    from wrenn.sdk.settings import credentials_path

    folder = credentials_path().parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # The lock is held during one call to the platform, which has a deadline.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def save(name: str, profile: Profile | None) -> None:
    """Store or delete the profile with this name. Requires the lock."""
    from wrenn.sdk.profiles import read_profiles
    from wrenn.sdk.settings import credentials_path

    profiles = read_profiles(credentials_path())
    if profile is None:
        profiles.pop(name, None)
    else:
        profiles[name] = profile
    write_private(credentials_path(), "\n".join(_section(*item) for item in profiles.items()))


def _section(name: str, profile: Profile) -> str:
    fields = {
        "base_url": profile.base_url,
        "email": profile.email,
        "api_key": profile.api_key.reveal(),
        "key_id": profile.key_id,
        "refresh_token": profile.refresh_token.reveal(),
    }
    # A JSON string is also a TOML string.
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())


def _login_command(name: str) -> str:
    from wrenn.sdk.settings import DEFAULT_PROFILE

    return "wrenn login" if name == DEFAULT_PROFILE else f"wrenn login --profile {name}"


@contextmanager
def account() -> Generator[Account]:
    """Continue the session of the selected profile.

    Raises:
        AuthenticationError: nobody is logged in, or the session has ended.
    """
    from wrenn.sdk.account import Account
    from wrenn.sdk.errors import AuthenticationError
    from wrenn.sdk.settings import load_profile, profile_name

    name = profile_name()
    with locked():
        profile = load_profile(name)
        if profile is None:
            raise AuthenticationError(
                f"Nobody is logged in (profile {name}): run `{_login_command(name)}`.", status=401
            )
        try:
            resumed = Account.resume(profile.base_url, profile.refresh_token)
        except AuthenticationError as error:
            raise AuthenticationError(
                f"The session has ended: run `{_login_command(name)}`.",
                status=401,
                request_id=error.request_id,
            ) from error
        save(name, replace(profile, refresh_token=resumed.refresh_token))
    try:
        yield resumed
    finally:
        resumed.close()


class ProfileSession:
    """The session of the selected profile, for calls that may go on for hours. Implements `sdk.settings.Session`."""

    def __init__(self) -> None:
        """Continue the session. Raises AuthenticationError: nobody is logged in, or the session has ended."""
        self._token, self.base_url = _current()
        self._since = time.monotonic()

    def token(self) -> Secret:
        """Return a token that is valid for some minutes. Raises AuthenticationError: the session has ended."""
        if time.monotonic() - self._since > _TOKEN_USE_S:
            self._token, _ = _current()
            self._since = time.monotonic()
        return self._token


def _current() -> tuple[Secret, str]:
    with account() as resumed:
        return resumed.token, resumed.base_url
