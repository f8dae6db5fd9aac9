"""Tokens that open one sandbox for clients of the e2b API."""

from __future__ import annotations

from wrenn.base.ids import SandboxId
from wrenn.base.secrets import Secret
from wrenn.control.proxy import AccessTokens, TrafficTokens

_SECRET = Secret("the replicas' shared secret")


def test_a_token_opens_its_sandbox_on_every_replica_and_no_other_sandbox() -> None:
    one, other = SandboxId.new(), SandboxId.new()
    token = AccessTokens(_SECRET).of(one).reveal().encode()
    assert AccessTokens(Secret(_SECRET.reveal())).matches(token, one)
    assert not AccessTokens(_SECRET).matches(token, other)
    assert not AccessTokens(Secret("another platform")).matches(token, one)


def test_the_traffic_token_and_the_guest_token_of_a_sandbox_do_not_replace_each_other() -> None:
    sandbox_id = SandboxId.new()
    guest, traffic = AccessTokens(_SECRET), TrafficTokens(_SECRET)
    assert not guest.matches(traffic.of(sandbox_id).reveal().encode(), sandbox_id)
    assert not traffic.matches(guest.of(sandbox_id).reveal().encode(), sandbox_id)
    assert traffic.matches(traffic.of(sandbox_id).reveal().encode(), sandbox_id)


def test_what_is_no_token_is_refused_without_an_error() -> None:
    sandbox_id = SandboxId.new()
    tokens = AccessTokens(_SECRET)
    token = tokens.of(sandbox_id).reveal()
    for wrong in (b"", b"\xff" * 64, token[:-1].encode(), (token + "0").encode(), token.upper().encode()):
        assert not tokens.matches(wrong, sandbox_id), wrong


def test_a_token_is_text_that_fits_into_a_header_and_is_not_shown() -> None:
    token = AccessTokens(_SECRET).of(SandboxId.new())
    assert len(token.reveal()) == 64
    assert set(token.reveal()) <= set("0123456789abcdef")
    assert token.reveal() not in repr(token)
