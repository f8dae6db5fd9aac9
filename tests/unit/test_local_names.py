"""Which names mean the machine itself."""

from __future__ import annotations

import pytest

from wrenn.control.http import is_local_name


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("a.localhost.", True),
        ("127.0.0.1", True),
        ("127.1.2.3:8000", True),
        ("::1", True),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_only_names_of_this_machine_are_local(host: str, *, is_local: bool) -> None:
    assert is_local_name(host) is is_local
