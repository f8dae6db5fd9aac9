"""`--env-file` of the server programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer

from wrenn.cli.env_file import load_env_file


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WRENN_LISTEN", "WRENN_CA_KEY", "WRENN_DOMAIN"):
        monkeypatch.delenv(name, raising=False)


def loaded(tmp_path: Path, text: str) -> None:
    (tmp_path / "env").write_text(text)
    load_env_file(tmp_path / "env")


def test_settings_are_read_and_the_environment_takes_precedence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRENN_DOMAIN", "mine")
    try:
        loaded(
            tmp_path, '# comment\n\nWRENN_LISTEN=127.0.0.1:1\nWRENN_DOMAIN=other\nWRENN_CA_KEY="a\nb=c\n"\n'
        )
        assert os.environ["WRENN_LISTEN"] == "127.0.0.1:1"
        assert os.environ["WRENN_DOMAIN"] == "mine"
        assert os.environ["WRENN_CA_KEY"] == "a\nb=c\n"
    finally:
        for name in ("WRENN_LISTEN", "WRENN_CA_KEY"):
            os.environ.pop(name, None)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("SECRET VALUE", "line 1 is not NAME=VALUE"),
        ("\n1A=x", "line 2"),
        ("A='x\ny", "are not closed"),
        ('A="x" # note\nB="y"', "after its closing quote"),
    ],
)
def test_a_line_that_is_no_setting_is_named_without_its_text(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(typer.BadParameter, match=what) as refused:
        loaded(tmp_path, text)
    assert "SECRET" not in str(refused.value)


def test_a_file_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="cannot be read"):
        load_env_file(tmp_path / "none")
