"""Generated files are what their generators would write now."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.repo.source import ROOT, files

_GENERATORS = [
    path for path in files(".py") if path.parent == ROOT / "tools" and '"--check"' in path.read_text()
]


@pytest.mark.parametrize("generator", _GENERATORS, ids=lambda path: path.stem)
def test_generated_files_are_up_to_date(
    generator: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process, which other tests have made import the programs already.
    monkeypatch.setattr(sys, "argv", [str(generator), "--check"])
    monkeypatch.chdir(ROOT)
    ended: object = None
    try:
        runpy.run_path(str(generator), run_name="__main__")
    except SystemExit as end:
        ended = end.code
    assert not ended, f"{ended}\n{capsys.readouterr().out}"
