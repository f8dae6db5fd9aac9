"""Host tokens are verified once, and then recognised until they expire (`control/auth/tokens.py`)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from wrenn.base.errors import Unauthorized
from wrenn.base.ids import HostId
from wrenn.base.secrets import Secret
from wrenn.control.auth import Tokens
from wrenn.control.auth.tokens import HOST_LIFE_S


class SetClock:
    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


def test_a_token_that_was_verified_expires_like_any_other() -> None:
    clock = SetClock()
    tokens = Tokens(Secret("s" * 32), clock)
    host_id, refresh_id = HostId.new(), uuid.uuid4()
    text = tokens.issue_host(host_id, refresh_id)
    for _ in range(2):
        token = tokens.read_host(text)
        assert (token.host_id, token.refresh_id) == (host_id, refresh_id)
    for other in (text[:-4] + "AAAA", text + "A", "", "\ud800"):
        with pytest.raises(Unauthorized):
            tokens.read_host(other)
    clock.seconds += HOST_LIFE_S
    with pytest.raises(Unauthorized):
        tokens.read_host(text)


def test_tokens_of_users_are_not_taken_for_those_of_hosts() -> None:
    tokens = Tokens(Secret("s" * 32), SetClock())
    host = tokens.issue_host(HostId.new(), uuid.uuid4())
    tokens.read_host(host)
    with pytest.raises(Unauthorized):
        tokens.read(host)
