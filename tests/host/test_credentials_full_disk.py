"""A disk that is full when an agent stores new credentials. Needs root (a small file system); costs about 1 s."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from wrenn.agent.enrolment import CredentialsFile
from wrenn.base.errors import StorageFull
from wrenn.testing.enrolment import issue_credentials


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root: a file system of its own")
    folder = tmp_path / "data"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True, timeout=10)
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


def test_a_full_disk_costs_no_stored_credentials(folder: Path, tmp_path: Path) -> None:
    issue_credentials(folder, tmp_path / "pki", "127.0.0.1:1")
    file = CredentialsFile(folder)
    former = file.load()
    assert former is not None
    content = file.path.read_bytes()
    free = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))
    with pytest.raises(StorageFull):
        file.save(replace(former, token="another"))
    assert file.path.read_bytes() == content
    left = {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}
    assert left == {file.path.name, file.host_path.name, "filler"}
    (folder / "filler").unlink()
    file.save(replace(former, token="another"))
    assert file.load() == replace(former, token="another")
