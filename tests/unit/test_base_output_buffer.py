"""Output that is held is counted, bounded at each level, and let go."""

from __future__ import annotations

import base64
import json

import pytest

from wrenn.base.errors import RateLimited, TooLarge
from wrenn.base.output_buffer import OutputBudget, OutputBuffer, OutputLimits
from wrenn.base.signal_names import is_signal, signal_name
from wrenn.control.guests.exec_response import body_pieces, encoding_of

SHARES = OutputLimits(stream_b=100, sandbox_b=150, team_b=220, process_b=300, free_b=0)


def test_each_level_has_its_own_bound() -> None:
    budget = OutputBudget(SHARES)
    with (
        OutputBuffer.of(budget, sandbox="a", team="t") as first,
        OutputBuffer.of(budget, sandbox="a", team="t") as second,
        OutputBuffer.of(budget, sandbox="b", team="t") as third,
        OutputBuffer.of(budget, sandbox="c", team="u") as fourth,
    ):
        first.add("stdout", bytes(100))
        with pytest.raises(TooLarge, match="stdout"):
            first.add("stdout", b"x")
        with pytest.raises(RateLimited, match="sandbox"):
            second.add("stdout", bytes(51))
        second.add("stdout", bytes(50))
        with pytest.raises(RateLimited, match="team"):
            third.add("stderr", bytes(71))
        third.add("stderr", bytes(70))
        with pytest.raises(RateLimited, match="together"):
            fourth.add("stdout", bytes(81))
        assert budget.held_b == 220, "what is refused is not counted"
    assert budget.held_b == 0


def test_the_first_bytes_of_a_command_are_always_accepted() -> None:
    budget = OutputBudget(OutputLimits(stream_b=100, sandbox_b=150, team_b=150, process_b=150, free_b=20))
    with OutputBuffer.of(budget, sandbox="a") as one, OutputBuffer.of(budget, sandbox="b") as other:
        one.add("stdout", bytes(100))
        one.add("stderr", bytes(70))
        assert budget.held_b == 150
        other.add("stdout", bytes(15))
        other.add("stderr", bytes(5))
        with pytest.raises(RateLimited):
            other.add("stderr", b"x")
        assert (budget.held_b, other.length_b) == (150, 20)
    assert budget.held_b == 0


def test_a_failure_lets_go_of_all() -> None:
    budget = OutputBudget(SHARES)
    with OutputBuffer.of(budget, sandbox="a") as held:
        held.add("stdout", bytes(90))
        with pytest.raises(TooLarge):
            held.add("stdout", bytes(90))
    assert budget.held_b == 0


def test_single_bytes_share_an_object() -> None:
    held = OutputBuffer.of(OutputBudget(OutputLimits()), sandbox="a")
    for _ in range(200_000):
        held.add("stdout", b"x")
    assert len(list(held.chunks("stdout"))) <= 4
    assert held.joined("stdout") == b"x" * 200_000


def written(stdout: bytes, stderr: bytes = b"") -> OutputBuffer:
    held = OutputBuffer.of(OutputBudget(OutputLimits()), sandbox="a")
    held.add("stdout", stdout)
    held.add("stderr", stderr)
    return held


@pytest.mark.parametrize(
    ("stdout", "encoding"),
    [
        (b"plain", "utf-8"),
        (bytes(1000), "utf-8"),
        (bytes(1_000_000), "base64"),
        (b"\xff", "base64"),
        ("\u20ac".encode()[:2], "base64"),
        (b"line of text\n" * 100_000, "utf-8"),
        (b"\n" * 1_000_000, "base64"),
    ],
)
def test_text_that_would_grow_is_base64(stdout: bytes, encoding: str) -> None:
    assert encoding_of(written(stdout)) == encoding


@pytest.mark.parametrize("inside", [None, "error"])
@pytest.mark.parametrize("stdout", ['\u20ac"\\\n\0'.encode() * 50_000, bytes(range(256)) * 1000, b""])
def test_the_body_is_what_was_written(stdout: bytes, inside: str | None) -> None:
    held = written(stdout, b"err")
    body = json.loads(b"".join(body_pieces(held, {"exit_code": 0}, inside=inside)))
    answer = body[inside] if inside else body
    decode = base64.b64decode if answer["encoding"] == "base64" else str.encode
    assert (decode(answer["stdout"]), decode(answer["stderr"])) == (stdout, b"err")
    assert answer["exit_code"] == 0


def test_signals_have_names() -> None:
    assert [signal_name(n) for n in (1, 9, 15, 31, 34, 35, 64)] == [
        "SIGHUP", "SIGKILL", "SIGTERM", "SIGSYS", "SIGRTMIN", "SIGRTMIN+1", "SIGRTMIN+30"
    ]  # fmt: skip
    assert not is_signal(0)
    assert not is_signal(65)
