"""The parts of `wrenn shell` and `wrenn run` that need no platform."""

from __future__ import annotations

import pytest

from wrenn.cli.escape import Escape
from wrenn.cli.run import command_of


def passed(*typed: bytes) -> tuple[bytes, bool]:
    escape = Escape()
    return b"".join(escape.filter(keys) for keys in typed), escape.left


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ((b"~.",), (b"", True)),
        ((b"ls\r", b"~", b"."), (b"ls\r", True)),
        ((b"ls ~.\r",), (b"ls ~.\r", False)),
        ((b"\r~~.",), (b"\r~.", False)),
        ((b"\r~x",), (b"\r~x", False)),
        ((b"\r~\r~.",), (b"\r~\r", True)),
        ((b"a~", b".", b"\n~", b"."), (b"a~.\n", True)),
        ((bytes(range(256)),), (bytes(range(256)), False)),
    ],
)
def test_only_the_sequence_at_the_begin_of_a_line_leaves(
    typed: tuple[bytes, ...], expected: tuple[bytes, bool]
) -> None:
    assert passed(*typed) == expected


@pytest.mark.parametrize(
    ("path", "has_shebang", "expected"),
    [
        ("/root/a.py", False, ["python3", "/root/a.py"]),
        ("/root/a.sh", False, ["/bin/sh", "/root/a.sh"]),
        ("/root/a.py", True, ["/root/a.py"]),
        ("/root/tool", False, ["/root/tool"]),
    ],
)
def test_a_file_is_run_by_what_its_name_or_its_first_line_says(
    path: str, has_shebang: bool, expected: list[str]
) -> None:
    assert command_of(path, has_shebang=has_shebang) == expected
