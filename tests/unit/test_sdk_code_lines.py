"""The answer of a code interpreter, which a program in the sandbox may have taken the place of."""

from __future__ import annotations

import pytest

from wrenn.sdk import _code
from wrenn.sdk._code import Lines
from wrenn.sdk.errors import UnexpectedAnswerError


def test_lines_are_whole_however_they_are_cut():
    text = b'{"a": 1}\n\n{"b": "\xc3\xbc"}\n{"c": 3}\n'
    for length in range(1, len(text)):
        lines = Lines()
        found = [line for at in range(0, len(text), length) for line in lines.feed(text[at : at + length])]
        assert found == [{"a": 1}, {"b": "ü"}, {"c": 3}]


def test_an_answer_has_a_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_code, "_ANSWER_LIMIT_B", 100)
    lines = Lines()
    assert list(lines.feed(b"x" * 100)) == []
    with pytest.raises(UnexpectedAnswerError, match="too long"):
        list(lines.feed(b"x"))


def test_an_answer_has_a_limit_of_lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_code, "_LINES_LIMIT", 3)
    with pytest.raises(UnexpectedAnswerError, match="too many lines"):
        list(Lines().feed(b"{}\n" * 4))


@pytest.mark.parametrize("line", [b"[" * 100_000 + b"\n", b"[]\n", b"{\n", b"\xff\n"])
def test_what_is_no_answer_is_an_error_of_the_sdk(line: bytes):
    with pytest.raises(UnexpectedAnswerError):
        list(Lines().feed(line))
