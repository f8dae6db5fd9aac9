"""What apt complains about reaches the user."""

from __future__ import annotations

import pytest

from wrenn.linux.apt import reason_of
from wrenn.linux.command import CommandError


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (
            "W: Failed to fetch http://m/InRelease  Could not connect\nE: Some index files failed to download.\n",
            "Failed to fetch http://m/InRelease  Could not connect.",
        ),
        ("WARNING: no stable CLI\nE: Unable to locate package x\n", "Unable to locate package x."),
        (
            "I: progress\nE: first\nE: You don't have enough free space.\n",
            "You don't have enough free space.",
        ),
        ("something else", "something else."),
        ("", "The host command apt-get failed."),
    ],
)
def test_the_error_is_the_most_informative_line(stderr: str, reason: str) -> None:
    assert reason_of(CommandError("The host command apt-get failed.", context={"stderr": stderr})) == reason
