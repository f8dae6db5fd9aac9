"""The command line without a platform: help, what it loads, exit codes, paths of `wrenn cp`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from wrenn import CapacityError, ConnectionFailedError, InvalidStateError, NotFoundError
from wrenn.base.errors import Forbidden, InternalError, StorageFull
from wrenn.cli.cp import RemotePath, parsed
from wrenn.cli.exits import Exit, exit_code
from wrenn.cli.sandboxes import variables

ROOT = Path(__file__).resolve().parent.parent.parent


def test_help_loads_neither_client_nor_server() -> None:
    code = (
        "import sys, wrenn.cli.main\n"
        "heavy = {'httpx2', 'rich', 'fastapi', 'sqlalchemy', 'asyncpg', 'aiohttp', 'pyroute2', 'cryptography'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_the_reference_is_what_the_commands_say() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tools/clidocs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("x"), Exit.NOT_FOUND),
        (InvalidStateError("x"), Exit.ERROR),
        (CapacityError("x"), Exit.UNAVAILABLE),
        (ConnectionFailedError("x", request_sent=False), Exit.UNAVAILABLE),
        (Forbidden("x"), Exit.NOT_ALLOWED),
        (StorageFull("x"), Exit.UNAVAILABLE),
        (InternalError("x"), Exit.ERROR),
    ],
)
def test_an_exit_code_follows_the_family_of_the_error(error: Exception, code: Exit) -> None:
    assert exit_code(error) is code


def test_only_an_id_with_a_colon_is_a_path_in_a_sandbox() -> None:
    assert parsed("cl-abc:/tmp/a:b") == RemotePath("cl-abc", "/tmp/a:b")
    assert parsed("./cl-abc:/tmp") == Path("cl-abc:/tmp")
    assert parsed("a:b") == Path("a:b")
    with pytest.raises(typer.BadParameter, match="absolute"):
        parsed("cl-abc:tmp")


def test_variables_keep_what_follows_the_first_equals_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    assert variables(["A=1=2", "B="]) == {"A": "1=2", "B": ""}
    assert variables(None) == {}
    monkeypatch.setenv("SECRET", "of this command")
    assert variables(["SECRET"]) == {"SECRET": "of this command"}
    monkeypatch.delenv("SECRET")
    for broken in ("SECRET", "=1", ""):
        with pytest.raises(typer.BadParameter, match="NAME=VALUE"):
            variables([broken])
