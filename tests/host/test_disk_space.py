"""Whether a file system has room for many more files: a mounted one with few."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from wrenn.linux.disk_space import has_free_inodes

pytestmark = [pytest.mark.root]


def test_the_last_inodes_of_a_file_system_stay_free(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "nr_inodes=64", "tmpfs", str(folder)], check=True, timeout=10
    )
    try:
        assert has_free_inodes(folder)
        made = 0
        while has_free_inodes(folder):
            (folder / str(made)).touch()
            made += 1
        assert 32 < made < 64
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=10)
