"""`wrenn agent join`: what is checked before anything is done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wrenn.base.errors import Conflict, InvalidRequest
from wrenn.cli.join.join import Joining
from wrenn.cli.join.service import environment_file, unit_file
from wrenn.cli.up.daemons import record
from wrenn.cli.up.layout import Layout
from wrenn.cli.up.progress import Progress
from wrenn.cli.up.services import SUPERVISOR
from wrenn.linux.process import ProcessRef


def joining(folder: Path, url: str, *, address: str | None = "127.0.0.1:8010") -> Joining:
    return Joining(folder, url, address=address, listen=None, ca_file=None)


@pytest.mark.parametrize(
    "url",
    [
        "api.example.com",
        "ftp://api.example.com",
        "https://",
        "https://[",
        "https://x:99999",
        "https://user:secret@api.example.com",
        "https://api.example.com/?a=b",
    ],
)
def test_what_is_no_url_of_a_control_plane_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidRequest, match="URL must be like") as refused:
        joining(tmp_path, url)
    assert "secret" not in refused.value.message


def test_credentials_do_not_travel_without_tls(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="https"):
        joining(tmp_path, "http://api.example.com")
    for url in (
        "http://127.0.0.1:8000",
        "http://localhost:8000",
        "http://[::1]:8000",
        "https://api.example.com",
    ):
        joining(tmp_path, url)


@pytest.mark.parametrize(
    ("address", "listen"),
    [
        ("127.0.0.1:8010", "127.0.0.1:8010"),
        ("rack1.example.com:8010", "0.0.0.0:8010"),
        ("192.0.2.1:8020", "0.0.0.0:8020"),
    ],
)
def test_the_agent_listens_where_it_can(tmp_path: Path, address: str, listen: str) -> None:
    made = joining(tmp_path, "https://api.example.com", address=address)
    environment = made._service.environment  # pyright: ignore[reportPrivateUsage]
    assert environment["WRENN_AGENT_LISTEN"] == listen
    assert environment["WRENN_AGENT_ADDRESS"] == address


async def test_the_data_folder_of_a_platform_that_runs_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    layout.make()
    me = ProcessRef.of(os.getpid())
    assert me is not None
    record(layout.pid_file(SUPERVISOR), me)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Conflict, match="wrenn down"):
        await joining(tmp_path, "https://api.example.com").run("token", Progress())


def test_the_unit_neither_kills_machines_nor_restarts_a_host_that_was_deleted() -> None:
    unit = unit_file("/opt/wrenn/bin/python", Path("/etc/wrenn/agent.env"))
    assert "KillMode=process" in unit
    assert "Restart=on-failure" in unit
    assert f"RestartPreventExitStatus={os.EX_CONFIG}" in unit
    assert "token" not in unit
    assert environment_file({"A": "1", "B": "x y"}) == "A=1\nB=x y\n"
