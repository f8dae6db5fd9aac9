"""Sealed passwords, and names of registries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrenn.base.errors import InvalidState
from wrenn.base.ids import TeamId
from wrenn.base.secrets import Secret
from wrenn.control.registries import Sealing
from wrenn.control.registries.names import checked_registry, registry_of

SEALING = Sealing(Secret("s" * 32))
TEAM = TeamId.new()
NO_SURROGATES = st.characters(exclude_categories=["Cs"])


@given(st.text(NO_SURROGATES, max_size=200))
def test_a_sealed_password_is_opened_and_does_not_show_it(password: str) -> None:
    sealed = SEALING.seal(Secret(password), TEAM, "example.com", "name")
    assert SEALING.open(sealed, TEAM, "example.com", "name").reveal() == password
    assert len(password) < 4 or password.encode() not in sealed
    assert sealed != SEALING.seal(Secret(password), TEAM, "example.com", "name"), (
        "each has a nonce of its own"
    )


def test_it_can_be_opened_only_with_its_secret_and_for_what_it_was_sealed() -> None:
    sealed = SEALING.seal(Secret("password"), TEAM, "example.com", "name")
    other = Sealing(Secret("t" * 32))
    for opening in (
        lambda: other.open(sealed, TEAM, "example.com", "name"),
        lambda: SEALING.open(sealed, TeamId.new(), "example.com", "name"),
        lambda: SEALING.open(sealed, TEAM, "example.org", "name"),
        lambda: SEALING.open(sealed, TEAM, "example.com", "other"),
        lambda: SEALING.open(sealed[:-1], TEAM, "example.com", "name"),
        lambda: SEALING.open(sealed[:5], TEAM, "example.com", "name"),
        lambda: SEALING.open(b"\x02" + sealed[1:], TEAM, "example.com", "name"),
        lambda: SEALING.open(b"", TEAM, "example.com", "name"),
    ):
        with pytest.raises(InvalidState, match="Set it again"):
            opening()


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("debian:12", "docker.io"),
        ("library/debian", "docker.io"),
        ("team/app@sha256:0", "docker.io"),
        ("docker.io/library/debian", "docker.io"),
        ("registry.example.com/app", "registry.example.com"),
        ("registry.example.com:5000/team/app:1", "registry.example.com:5000"),
        ("localhost/app", "localhost"),
        ("10.1.2.3:5000/app", "10.1.2.3:5000"),
    ],
)
def test_the_registry_of_a_reference(reference: str, registry: str) -> None:
    assert registry_of(reference) == registry
    assert checked_registry(registry) == registry


@pytest.mark.parametrize(
    "name", ["", "debian", "https://example.com", "example.com/team", "example.com:0", "example.com:70000",
             "example..com", "-example.com", "Example.com", "example.com:", "user@example.com", "a.b\n"],
)  # fmt: skip
def test_what_is_no_registry_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="HOST or HOST:PORT"):
        checked_registry(name)
