"""What commands print for people: sizes, times, the disk's users, the end of a sandbox."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta

import pytest

from wrenn.agent.storage_report import StorageReport, Usage
from wrenn.cli.exits import print_error
from wrenn.cli.output import print_json, print_table, printable, size, until
from wrenn.cli.storage import show
from wrenn.sdk.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KB"), (5_300_000, "5.1 MB"), (3 * 1024**3, "3.0 GB")],
)
def test_a_size_is_in_the_largest_unit_that_fits(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (timedelta(days=2, hours=1), "in 2 d"),
        (timedelta(hours=2, minutes=1), "in 2 h"),
        (timedelta(seconds=30), "in 29 s"),
        (timedelta(seconds=-5), "now"),
    ],
)
def test_a_time_to_come_is_in_the_largest_unit_that_fits(left: timedelta, text: str) -> None:
    assert until(datetime.now(UTC) + left) == text


def test_the_disk_is_shown_by_kind_and_what_frees_most_comes_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(
        StorageReport(
            [
                Usage("sandbox", "cl-small", "paused", own_b=1024, shared_b=2048),
                Usage("sandbox", "cl-large", "running", own_b=4096, shared_b=2048),
                Usage("base", "0123abcd", "", own_b=0, shared_b=2048),
            ],
            total_b=7168,
            templates=[Usage("template", "minimal", "", own_b=2048, shared_b=0)],
        )
    )
    assert capsys.readouterr().out.splitlines() == [
        "NAME     KIND      OWN     SHARED  DETAIL",
        "minimal  template  2.0 KB  0 B",
        "",
        "NAME      KIND     OWN     SHARED  DETAIL",
        "0123abcd  base     0 B     2.0 KB",
        "cl-large  sandbox  4.0 KB  2.0 KB  running",
        "cl-small  sandbox  1.0 KB  2.0 KB  paused",
        "",
        "7.0 KB in all.",
    ]


def test_an_empty_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(StorageReport([], total_b=0))
    assert capsys.readouterr().out == "0 B in all.\n"


def test_a_name_of_a_guest_does_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME"], [["a\x1b]52;c;aGk=\x07b\x9b2K\nforged"]])
    assert capsys.readouterr().out.splitlines() == ["NAME", "a\ufffd]52;c;aGk=\ufffdb\ufffd2K forged"]
    assert (printable("\udce9"), printable("\udce9", to_terminal=False)) == ("\ufffd", "\udce9")


HOSTILE = "x\x1b]52;c;ZXZpbA==\x07\x9b2J\x7f\u202e"


def test_an_error_controls_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(InvalidRequestError(f"{HOSTILE} cannot be written:\nsecond line"))
    said = capsys.readouterr().err
    assert said.startswith("wrenn: x")
    assert said.endswith("second line\n")
    assert all(c.isprintable() or c == "\n" for c in said)


@pytest.mark.parametrize("to_terminal", [True, False])
def test_json_controls_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, to_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: to_terminal)
    print_json({"name": f"{HOSTILE}ä"})
    said = capsys.readouterr().out
    assert json.loads(said) == {"name": f"{HOSTILE}ä"}
    assert ("ä" in said) is not to_terminal
    if to_terminal:
        assert all(c.isprintable() or c == "\n" for c in said)
